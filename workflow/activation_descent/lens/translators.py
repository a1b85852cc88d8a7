"""Translators: affine maps that carry a layer's states to where the model's own unembedding can read them.

    TunedLens_l(h) = softmax U(h + W_l h + b_l),   loss = sum_l E KL(p_L || TunedLens_l(h_l))          (Belrose et al. 2023)

p_L is what the model predicts in the end, U its last normalisation and unembedding, frozen. In the residual form (`h +`, as in the
authors' code) a translator starts as the logit lens, and weight decay pulls it there. Kinds differ in what layers share:

    logit        h                      nothing to fit
    bias         h + b_l
    tuned        h + W_l h + b_l
    shared       h + W h + b            one map for all layers
    shared_bias  h + W h + b_l
    low_rank     h + U_l V_l h + b_l    as many parameters as shared_bias, near enough: rank d / 2L
    shared_even  as shared, fitted to every second layer only
    prefix       as shared, fitted to the first half of the layers only

States of several models of one shape stand side by side (`seed`), and all layers of a kind go through one batched product.
"""

import math
import os
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from activation_descent.adam import Adam
from activation_descent.errors import CheckpointError
from activation_descent.lens.readout import Batch, States, Unembedding, divergence


@dataclass(frozen=True)
class Kind:
    """What a kind of translator consists of: `weight` and `bias` are of each `layer`, `shared`, or absent; a weight may be `low_rank`."""

    weight: str | None
    bias: str | None
    fitted_to: str = "all"


KINDS = {
    "logit": Kind(None, None),
    "bias": Kind(None, "layer"),
    "tuned": Kind("layer", "layer"),
    "shared": Kind("shared", "shared"),
    "shared_bias": Kind("shared", "layer"),
    "low_rank": Kind("low_rank", "layer"),
    "shared_even": Kind("shared", "shared", "even"),
    "prefix": Kind("shared", "shared", "prefix"),
}


@dataclass
class Translators:
    """Translators of one kind, for all layers of all models.

    Attributes:
        parameters: weight (seed, layer or 1, feature, feature), or left and right of it where it is low rank; bias (seed, layer or 1, 1,
            feature).
    """

    kind: str
    parameters: dict[str, Tensor]
    layers: int

    @classmethod
    def initial(cls, kind: str, seeds: int, layers: int, width: int, rng: np.random.Generator) -> "Translators":
        """The logit lens in the form of a kind.

        Args:
            rng: for the left factors of low-rank maps, whose right factors are zero.
        """
        shape, parameters = KINDS[kind], {}
        if shape.weight == "low_rank":
            rank = max(1, round(width / (2 * layers)))
            right = rng.standard_normal((seeds, layers, rank, width), dtype=np.float32) / math.sqrt(width)
            parameters = {"left": torch.zeros(seeds, layers, width, rank), "right": torch.from_numpy(right)}
        elif shape.weight:
            parameters["weight"] = torch.zeros(seeds, layers if shape.weight == "layer" else 1, width, width)
        if shape.bias:
            parameters["bias"] = torch.zeros(seeds, layers if shape.bias == "layer" else 1, 1, width)
        return cls(kind, parameters, layers)

    @property
    def size(self) -> int:
        """Parameters of one model's translators."""
        return sum(parameter[0].numel() for parameter in self.parameters.values())

    @property
    def fitted_layers(self) -> slice:
        """The layers that a fit looks at."""
        return {"all": slice(None), "even": slice(0, None, 2), "prefix": slice((self.layers + 1) // 2)}[
            KINDS[self.kind].fitted_to
        ]

    def __call__(self, states: States, layers: slice = slice(None)) -> States:
        """Translate states that stand in the order of `layers`, default all."""

        def of(name: str) -> Tensor:
            parameter = self.parameters[name]
            return parameter if parameter.shape[1] == 1 else parameter[:, layers]

        translated = states
        if "weight" in self.parameters:
            translated = translated + states @ of("weight").mT
        if "left" in self.parameters:
            translated = translated + states @ of("right").mT @ of("left").mT
        if "bias" in self.parameters:
            translated = translated + of("bias")
        return translated

    def of(self, seed: int) -> "Translators":
        """Those of one model."""
        return Translators(self.kind, {name: value[seed : seed + 1] for name, value in self.parameters.items()}, self.layers)

    def one(self, layer: int) -> "Translators":
        """The translator of one layer, for states of any layers."""
        parameters = {
            name: parameter if parameter.shape[1] == 1 else parameter[:, layer : layer + 1]
            for name, parameter in self.parameters.items()
        }
        return Translators(self.kind, parameters, 1)


# Fitting


@dataclass(frozen=True)
class Fit:
    """How translators are fitted.

    Attributes:
        optimiser: "adam", or "sgd": Nesterov's momentum of .9, with the gradient of all layers together cut to `clip_norm` (the authors').
        learning_rate: falls to zero in a line. Of SGD as in the paper, 1.0, which is 0.1 to torch: the authors multiply by 1 - momentum.
        steps: of the optimiser.
        batches: that a step reads, one after the other, so that their states need not be in memory together.
        weight_decay: of SGD.
        clip_norm: of SGD.
    """

    optimiser: str
    learning_rate: float
    steps: int
    batches: int = 1
    weight_decay: float = 1e-3
    clip_norm: float = 1.0


MOMENTUM = 0.9
Stream = Callable[[int], Iterator[Batch]]  # the batches of a step
Transform = Callable[[States], States]
Name = Hashable  # of a reader


@dataclass(frozen=True)
class Reader:
    """Translators of one kind, and which states they read: those of the model, or of a null made from them.

    Attributes:
        transform: from the model's states to those that are read.
    """

    translators: Translators
    transform: Transform = lambda states: states


def fit(
    readers: Mapping[Name, Reader],
    unembedding: Unembedding,
    stream: Stream,
    settings: Fit,
    report: Callable[[int, Mapping[Name, float]], None] = lambda step, losses: None,
) -> list[dict[Name, float]]:
    """Fit all kinds on the same batches, in place. Losses are sums over layers, so that layers, models and kinds do not meet.

    Args:
        report: called after each step with the losses.

    Returns:
        For each step the loss of each reader: mean KL over tokens, layers and models, in nats.
    """
    parameters = {name: list(reader.translators.parameters.values()) for name, reader in readers.items()}
    fitted = {name: own for name, own in parameters.items() if own}
    for own in fitted.values():
        for parameter in own:
            parameter.requires_grad_(True)
    advance = _optimiser([parameter for own in fitted.values() for parameter in own], settings)
    course = []
    for step in range(settings.steps):
        losses = dict.fromkeys(fitted, 0.0)
        for batch in stream(step):
            transformed: dict[int, States] = {}
            for name in fitted:
                reader = readers[name]
                key = id(reader.transform)
                if key not in transformed:
                    transformed[key] = reader.transform(batch.states)
                chosen = reader.translators.fitted_layers
                states = transformed[key][:, chosen]
                loss = divergence(reader.translators(states, chosen), unembedding, batch).mean(-1) / settings.batches
                loss.sum().backward()
                losses[name] += float(loss.detach().mean())
        if settings.optimiser == "sgd":
            for own in fitted.values():
                _clip(own, settings.clip_norm)
        advance(settings.learning_rate * (1 - step / settings.steps))
        course.append(losses)
        report(step + 1, losses)
    for own in fitted.values():
        for parameter in own:
            parameter.requires_grad_(False)
    return course


def _optimiser(parameters: list[Tensor], settings: Fit) -> Callable[[float], None]:
    """What takes a step at a rate, and clears the gradients."""
    if settings.optimiser == "adam":
        return Adam(parameters).step
    sgd = torch.optim.SGD(parameters, momentum=MOMENTUM, nesterov=True, weight_decay=settings.weight_decay)

    def step(rate: float) -> None:
        sgd.param_groups[0]["lr"] = rate * (1 - MOMENTUM)
        sgd.step()
        sgd.zero_grad()

    return step


def _clip(parameters: list[Tensor], longest: float) -> None:
    """Cut each model's gradient, of all layers together, to a length."""
    square = sum(parameter.grad.square().flatten(1).sum(1) for parameter in parameters)
    factor = (longest / (square.sqrt() + 1e-6)).clamp(max=1)
    for parameter in parameters:
        parameter.grad *= factor.view(-1, *[1] * (parameter.dim() - 1))


# Files


def save(translators: Mapping[str, Translators], path: Path) -> None:
    """Write translators as safetensors, named `<name>.<parameter>`, whole or not at all."""
    from safetensors.torch import save_file

    partial = path.with_name(path.name + ".partial")
    tensors = {
        f"{name}.{part}": value.contiguous() for name, own in translators.items() for part, value in own.parameters.items()
    }
    save_file(tensors, partial)
    os.replace(partial, path)


def load(kind: str, path: Path) -> Translators:
    """Read the translators of one kind from what `save` wrote.

    Raises:
        CheckpointError: if the file is missing, damaged, or without that kind.
    """
    from safetensors.torch import load_file

    try:
        stored = load_file(path)
        parameters = {name.split(".")[1]: value for name, value in stored.items() if name.split(".")[0] == kind}
        return Translators(kind, parameters, parameters["bias"].shape[1])
    except Exception as error:  # safetensors raises its own type, and others on a file cut short
        raise CheckpointError(f"{path} cannot be read ({error}); delete it to fit lenses again") from error
