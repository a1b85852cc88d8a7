"""Small networks trained side by side: every weight has a first axis for the network, and one product serves them all.

A network of a few thousand weights is over before the interpreter has called the next product; twenty of them in one call cost little
more than one. Networks may differ in depth: they stand in the order of their depth, the deepest first, and a layer has weights for
those that reach it.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from activation_descent import checkpointing
from activation_descent.errors import CheckpointError, DivergedError
from activation_descent.files import whole

BETAS = (0.9, 0.98)
EPSILON = 1e-8

Rows = Float[Tensor, "network row feature"]
Report = Callable[[int, Mapping[str, float]], None]


@dataclass(frozen=True)
class Shape:
    """One weight.

    Attributes:
        size: of one network's, without the axis of networks.
        spread: standard deviation at the start; 0 for a bias.
        networks: how many networks have it, the first ones; None for all.
    """

    size: tuple[int, ...]
    spread: float = 0.0
    networks: int | None = None


class Weights:
    """The weights of several networks by name, in one piece of memory with their gradients and Adam's moments.

    Args:
        shapes: by name.
        generators: one for each network, so that a network starts the same whichever stand beside it.
    """

    def __init__(self, shapes: Mapping[str, Shape], generators: Sequence[np.random.Generator]):
        counts = {name: len(generators) if shape.networks is None else shape.networks for name, shape in shapes.items()}
        drawn: dict[str, list[np.ndarray]] = {name: [] for name in shapes}
        for network, rng in enumerate(generators):
            for name, shape in shapes.items():
                if network < counts[name]:
                    drawn[name].append(shape.spread * rng.standard_normal(shape.size, np.float32))
        stacked = {name: torch.from_numpy(np.stack(values)) for name, values in drawn.items()}
        self.flat = torch.cat([tensor.flatten() for tensor in stacked.values()])
        self.gradient, self.mean, self.square = (torch.zeros_like(self.flat) for _ in range(3))
        self.owner = torch.cat(
            [torch.arange(len(t)).repeat_interleave(t[0].numel()) for t in stacked.values()]  # which network an entry belongs to
        )
        self.named: dict[str, Tensor] = {}
        start = 0
        for name, tensor in stacked.items():
            piece = slice(start, start + tensor.numel())
            leaf = self.flat[piece].view(tensor.shape).requires_grad_()
            leaf.grad = self.gradient[piece].view(tensor.shape)
            self.named[name] = leaf
            start = piece.stop

    def __getitem__(self, name: str) -> Tensor:
        return self.named[name]

    def save(self, path: Path) -> None:
        """Write all weights by name as safetensors, whole or not at all."""
        with whole(path) as partial:
            save_file({name: tensor.detach().clone() for name, tensor in self.named.items()}, partial)

    def load(self, path: Path) -> None:
        """Read what `save` wrote.

        Raises:
            CheckpointError: if the file is damaged or holds other networks.
        """
        try:
            stored = load_file(path)
            with torch.no_grad():
                for name, tensor in self.named.items():
                    if stored[name].shape != tensor.shape:
                        raise ValueError(f"{name} has the shape {tuple(stored[name].shape)}, not {tuple(tensor.shape)}")
                    tensor.copy_(stored[name])
        except Exception as error:  # safetensors raises its own type, and others on a file cut short
            raise CheckpointError(f"{path} cannot be read ({error}); delete it to train again") from error

    def adam(self, rate: Float[Tensor, " entry"] | float, step: int) -> None:
        """One step of Adam (Kingma and Ba 2015) with the gradients that have gathered, which are then zero.

        Args:
            rate: one for all entries, or one for each.
            step: from 0.
        """
        with torch.no_grad():
            self.mean.lerp_(self.gradient, 1 - BETAS[0])
            self.square.mul_(BETAS[1]).addcmul_(self.gradient, self.gradient, value=1 - BETAS[1])
            bias = [1 - beta ** (step + 1) for beta in BETAS]
            update = (self.mean / bias[0]).div_((self.square / bias[1]).sqrt_().add_(EPSILON))
            self.flat.sub_(update.mul_(rate))
            self.gradient.zero_()


@dataclass(frozen=True)
class Schedule:
    """Steps, and how the learning rate rises in a line at first and falls in one to zero at the end."""

    steps: int
    warmup_steps: int
    decay_share: float

    def factor(self, step: int) -> float:
        """What the rate is multiplied by at a step."""
        rising = (step + 1) / self.warmup_steps if self.warmup_steps else 1.0
        falling = (self.steps - step) / (self.decay_share * self.steps) if self.decay_share else 1.0
        return min(1.0, rising, falling)


def train(
    weights: Weights,
    losses: Callable[[int], Float[Tensor, " network"]],
    rates: Mapping[str, float],
    schedule: Schedule,
    checkpoint: Path | None = None,
    identity: Mapping[str, object] | None = None,
    report: Report = lambda step, values: None,
    block: int = 50,
) -> None:
    """Train all networks, each on its own loss.

    Args:
        losses: the loss of each network at a step.
        rates: the learning rate of each network, by a name of its own.
        checkpoint: where the state is kept after each block; the same identity resumes from it.
        identity: what the training depends on.
        report: gets the mean loss of each network over a block of steps, as `training_loss/<name>`.

    Raises:
        DivergedError: if a loss is no longer finite.
        CheckpointError: if the checkpoint is damaged.
    """
    rate = torch.tensor(list(rates.values()), dtype=torch.float32)[weights.owner]
    history = torch.full((-(-schedule.steps // block), len(rates)), torch.nan)
    state = {"weights": weights.flat, "mean": weights.mean, "square": weights.square, "history": history}
    described = json.dumps(dict(identity or {}), sort_keys=True)
    with checkpointing.alone(checkpoint):
        done = checkpointing.restore(checkpoint, described, state)
        for number in range(len(history)):
            steps = range(number * block, min((number + 1) * block, schedule.steps))
            if number >= done:
                total = torch.zeros(len(rates))
                for step in steps:
                    values = losses(step)
                    values.sum().backward()
                    weights.adam(rate * schedule.factor(step), step)
                    total += values.detach()
                history[number] = total / len(steps)
                if lost := [name for name, loss in zip(rates, total, strict=True) if not loss.isfinite()]:
                    raise DivergedError(
                        f"the loss of {lost[0]} is no longer finite at step {steps.stop}: lower the learning rate"
                    )
                checkpointing.save(checkpoint, described, state, number + 1)
            report(
                steps.stop, {f"training_loss/{name}": float(value) for name, value in zip(rates, history[number], strict=True)}
            )
        if checkpoint is not None:
            checkpoint.unlink(missing_ok=True)


def dense(
    x: Rows, weight: Float[Tensor, "network feature out"], bias: Float[Tensor, "network 1 out"] | None = None
) -> Float[Tensor, "network row out"]:
    """`x W + b` of each network."""
    return torch.bmm(x, weight) if bias is None else torch.baddbmm(bias, x, weight)


def normalise(x: Float[Tensor, "*row feature"]) -> Float[Tensor, "*row feature"]:
    """Layer normalisation without weights of its own."""
    return torch.nn.functional.layer_norm(x, x.shape[-1:])
