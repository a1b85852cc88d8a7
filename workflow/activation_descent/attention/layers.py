"""Single layers of attention, trained on mixtures of regression and other sequences, all shares and seeds side by side.

A layer has the regression study's four matrices (`regression.transformer`), tokens (a, b) of `mixtures`, and answers what it adds to the
empty second half of the query. One optimiser moves all networks; each sees its own share of regression, from streams that networks of
the same seed have in common.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from activation_descent import checkpointing
from activation_descent.attention import STUDY
from activation_descent.attention.mixtures import Mixture, Sequences, autoregressive, regression
from activation_descent.errors import DivergedError
from activation_descent.regression.training import clip_by_global_norm
from activation_descent.regression.transformer import MATRICES
from activation_descent.seeding import generator

EXPERIMENT = "untrained_for_regression"

Weights = Float[Tensor, "network matrix feature feature"]


@dataclass(frozen=True)
class Layers:
    """What is trained, and how.

    Attributes:
        seeds: that are kept of each network, those with the lowest training loss of `best_of`.
        shares: p, of regression in training, falling from 1 to 0.
        others: what the rest of the sequences is: one network for each share below 1 and kind.
        block: steps between two reports.
        tasks: regression prompts and, of every context length, sequences to evaluate on; as many to fit readouts and rates on.
    """

    seeds: int
    best_of: int
    shares: tuple[float, ...]
    others: tuple[str, ...]
    steps: int
    batch_size: int
    learning_rate: float
    decay_share: float
    clip_norm: float
    init_scale: float
    block: int
    tasks: int

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> "Layers":
        """From `attention.layers` of the configuration, whose lists become tuples."""
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()})


@dataclass(frozen=True)
class Network:
    """One of the networks that are trained side by side; `others` is empty for regression alone."""

    share: float
    others: str
    start: int


@dataclass(frozen=True)
class Trained:
    """The networks that are kept.

    Attributes:
        networks: with the number of the seed in the place of the start's.
        weights, initial: of each, at the end and at the start.
    """

    networks: list[Network]
    weights: Weights
    initial: Weights


def networks_of(settings: Layers) -> list[Network]:
    """Every share with every kind of other sequences; regression alone has none."""
    pairs = [(share, kind) for share in settings.shares for kind in (settings.others if share < 1 else ("",))]
    return [Network(share, kind, start) for share, kind in pairs for start in range(settings.best_of)]


def initial_weights(settings: Layers, mixture: Mixture, attention: str, networks: list[Network], root: int) -> Weights:
    """N(0, init_scale / width); networks of the same seed start from the same weights."""
    width = 2 * mixture.width
    drawn = {}
    for start in {network.start for network in networks}:
        rng = generator(root, STUDY, EXPERIMENT, attention, "initialise", start)
        normal = rng.standard_normal((len(MATRICES), width, width)) * math.sqrt(settings.init_scale / width)
        drawn[start] = torch.from_numpy(normal.astype(np.float32))
    return torch.stack([drawn[network.start] for network in networks])


def update(weights: Weights, attention: str, batch: Sequences) -> Float[Tensor, "network task feature"]:
    """What each network adds to the query of each of its sequences.

    Args:
        batch: with a leading axis of networks, or without one if all see the same.
    """
    query_weight, key, value, projection = weights.unbind(1)
    a, b = query_weight @ key.mT, value @ projection
    context, query = batch.tokens[..., :-1, :], batch.tokens[..., -1, :]
    asked = query @ a  # network task feature
    scores = (context @ asked[..., None])[..., 0]  # network task context
    if attention == "softmax":
        scores = scores / math.sqrt(weights.shape[-1])
        scores = scores.masked_fill(~batch.visible, -torch.inf).softmax(-1)
    else:
        scores = scores * batch.visible
    return (scores[..., None, :] @ context)[..., 0, :] @ b


def draw_batch(settings: Layers, mixture: Mixture, attention: str, networks: list[Network], root: int, step: int) -> Sequences:
    """The sequences of one training step for each network: regression first, as many as its share says, then the others."""
    size, kinds = settings.batch_size, ("", *settings.others)
    drawn: list[Sequences] = []  # of the first start: regression, then the other kinds; of the second start likewise
    counts: dict[tuple[float, int], int] = {}
    for start in range(settings.best_of):
        rng = generator(root, STUDY, EXPERIMENT, attention, "train", start, step)
        drawn.append(regression(rng, mixture, size)[0])
        drawn += [autoregressive(kind, rng, mixture, size) for kind in settings.others]
        for share in settings.shares:
            counts[share, start] = int(rng.binomial(size, share))

    row = np.arange(size)
    place = [
        size * (len(kinds) * network.start + np.where(row < counts[network.share, network.start], 0, kinds.index(network.others)))
        + row
        for network in networks
    ]
    chosen = torch.from_numpy(np.stack(place))
    return Sequences(*(torch.cat([getattr(one, name) for one in drawn])[chosen] for name in ("tokens", "visible", "target")))


class Job:
    """All networks of one kind of attention, and one optimiser for them."""

    def __init__(self, settings: Layers, mixture: Mixture, attention: str, root: int):
        self.settings, self.mixture, self.attention, self.root = settings, mixture, attention, root
        self.networks = networks_of(settings)
        self.initial = initial_weights(settings, mixture, attention, self.networks, root)
        self.weights = self.initial.clone()
        self.moments = {
            "first": torch.zeros_like(self.weights),
            "second": torch.zeros_like(self.weights),
            "count": torch.zeros(()),
        }

    def advance(self, steps: range) -> Float[Tensor, " network"]:
        """Train through `steps`; returns each network's mean loss.

        Raises:
            DivergedError: if a mean is not finite.
        """
        total = torch.zeros(len(self.networks), dtype=torch.float64)
        for step in steps:
            batch = draw_batch(self.settings, self.mixture, self.attention, self.networks, self.root, step)
            weights = self.weights.detach().requires_grad_()
            answers = update(weights, self.attention, batch)[..., self.mixture.width :]
            losses = 0.5 * (answers - batch.target).square().sum(-1).mean(-1)
            (gradient,) = torch.autograd.grad(losses.sum(), weights)
            self._adam(clip_by_global_norm(gradient.flatten(1), self.settings.clip_norm).view_as(gradient), step)
            total += losses.detach()
        means = total / len(steps)
        if not torch.isfinite(means).all():
            raise DivergedError(
                f"training of {self.attention} layers diverged before step {steps.stop}; lower attention.layers.learning_rate or "
                "clip_norm"
            )
        return means

    def _adam(self, gradient: Weights, step: int) -> None:
        """By the library's function, which works on each number alone: one call for all networks."""
        from torch.optim.adam import adam

        settings = self.settings
        decaying = settings.decay_share * settings.steps
        rate = settings.learning_rate * min(1.0, (settings.steps - step) / decaying if decaying else 1.0)
        adam(
            [self.weights],
            [gradient],
            [self.moments["first"]],
            [self.moments["second"]],
            [],
            [self.moments["count"]],
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.98,
            lr=rate,
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )


def train(
    settings: Layers,
    mixture: Mixture,
    attention: str,
    root: int,
    checkpoint: Path | None = None,
    code: str = "",
    report: Callable[[int, dict[str, float]], None] = lambda step, losses: None,
) -> Trained:
    """Train all networks of one kind of attention on 1/2 |answer - target|^2, and keep the best starts of each.

    Args:
        checkpoint, code: as in `regression.training.train`.
        report: called after each block with the step and the mean loss since the last block, for each share and kind.

    Raises:
        DivergedError: if a loss is no longer finite.
        CheckpointError: if the checkpoint is damaged.
    """
    with checkpointing.alone(checkpoint):
        job = Job(settings, mixture, attention, root)
        ends = [*range(0, settings.steps, settings.block), settings.steps]
        described = {"root": root, "attention": attention, "code": code, **asdict(settings), **asdict(mixture)}
        identity = json.dumps(described, sort_keys=True)
        losses = torch.full((len(ends) - 1, len(job.networks)), torch.nan, dtype=torch.float64)
        state = {"weights": job.weights, "losses": losses, **job.moments}
        done = checkpointing.restore(checkpoint, identity, state)
        for block, (start, end) in enumerate(pairwise(ends)):
            if block >= done:
                losses[block] = job.advance(range(start, end))
                checkpointing.save(checkpoint, identity, state, block + 1)
            report(end, _named(job.networks, losses[block]))
        if checkpoint is not None:
            checkpoint.unlink(missing_ok=True)
    return _best(settings, job, losses[-1])


def _named(networks: list[Network], means: Float[Tensor, " network"]) -> dict[str, float]:
    named: dict[str, list[float]] = {}
    for network, mean in zip(networks, means.tolist(), strict=True):
        named.setdefault(f"training_loss/{network.others or 'regression'}_{network.share:g}", []).append(mean)
    return {name: float(np.mean(values)) for name, values in named.items()}


def _best(settings: Layers, job: Job, losses: Float[Tensor, " network"]) -> Trained:
    """The starts with the lowest training loss of each network, numbered as seeds."""
    kept = [*_kept(settings, job.networks, losses.tolist())]
    networks = [replace(job.networks[place], start=seed) for place, seed in kept]
    places = [place for place, _ in kept]
    return Trained(networks, job.weights[places].double(), job.initial[places].double())


def _kept(settings: Layers, networks: list[Network], losses: list[float]) -> Iterator[tuple[int, int]]:
    """Place and seed of each network that is kept."""
    for share, kind in dict.fromkeys((network.share, network.others) for network in networks):
        own = [place for place, network in enumerate(networks) if (network.share, network.others) == (share, kind)]
        best = sorted(sorted(own, key=lambda place: losses[place])[: settings.seeds])
        yield from ((place, seed) for seed, place in enumerate(best))
