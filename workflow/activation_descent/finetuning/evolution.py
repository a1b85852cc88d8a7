"""Improvement without backward pass: an evolution strategy in a random subspace of the key and value weights.

What it finds is a change of the same parameters that helps on the same demonstrations as much as fine-tuning does, and that owes nothing to
a gradient. Changes that merely help look like what it finds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from activation_descent.finetuning.copies import Deltas, Masks, Sequences, inner_product, norms, take
from activation_descent.finetuning.descent import TRAINED_AT_ONCE, mean_gradients
from activation_descent.finetuning.matching import Tuning, match_scale
from activation_descent.language.models import LanguageModel


@dataclass(frozen=True)
class Strategy:
    """An evolution strategy with antithetic pairs and standardised fitness (Salimans et al. 2017), in a random subspace.

    Attributes:
        directions: of the subspace; each is of rank 1 in every matrix, with a Frobenius norm of 1 over all of them.
        population: candidates of a generation, half of them mirrored.
        generations: at most.
        spread: length of a candidate's random part, expected, in lengths of the fine-tuning's delta.
        step: length of a generation's move, in the same unit. The direction is the strategy's, its length is not: the gradient of a
            random subspace is weak, so that a way of several such lengths is needed where fine-tuning goes one.
        most_aligned: with the negative gradient; a run that ends beyond starts again in a subspace half as large.
        attempts: at most.
    """

    directions: int = 200
    population: int = 32
    generations: int = 60
    spread: float = 0.3
    step: float = 2.0
    most_aligned: float = 0.05
    attempts: int = 3


DEFAULT = Strategy()


@dataclass(frozen=True)
class Evolved:
    """What came out for each run.

    Attributes:
        deltas: at the matched loss where it was reached, else after the last generation.
        loss: on the tuning queries.
        reached: whether the loss is the target, within 1 %.
        alignment: cosine of the delta and the negative gradient of the fitness at the start.
        directions, generations: of the attempt that is kept.
    """

    deltas: Deltas
    loss: Float[Tensor, " run"]
    reached: Bool[Tensor, " run"]
    alignment: Float[Tensor, " run"]
    directions: Int[Tensor, " run"]
    generations: Int[Tensor, " run"]


def evolve(
    model: LanguageModel,
    demonstrations: Sequences,
    masks: Masks,
    lengths: Float[Tensor, " run"],
    tuning: Tuning,
    target: Float[Tensor, " run"],
    rngs: Sequence[np.random.Generator],
    strategy: Strategy = DEFAULT,
) -> Evolved:
    """Evolve a delta for each run until its tuning loss is the target.

    Fitness is the label-restricted cross-entropy on the demonstrations, each read by itself as in fine-tuning, with the other sign. Only
    matrices change. Runs go one after the other, a generation of a run at once.

    Args:
        demonstrations: each ends with its label.
        masks: what may change, from `subset`.
        lengths: of the fine-tuning's deltas, which set the unit of spread and step.
        target: fine-tuning's tuning loss. Where the undisturbed network's is no worse there is nothing to evolve, and the delta is zero.
        rngs: one for each run.
    """
    fitness, start = as_queries(demonstrations, tuning.labels), tuning.loss(model)
    nothing = {name: torch.zeros(len(target), *mask.shape) for name, mask in masks.items()}
    gradient = mean_gradients(model, demonstrations, nothing, "restricted", tuning.labels)
    gradient = {name: mask * gradient[name] for name, mask in masks.items()}
    results = []
    for run, rng in enumerate(rngs):
        one = slice(run, run + 1)
        problem = (fitness.runs(one), masks, lengths[run].item(), tuning.runs(one), target[one], start[one])
        for attempt in range(strategy.attempts):
            own = replace(strategy, directions=strategy.directions >> attempt)
            result = _evolve_one(model, *problem, rng, own)
            result["alignment"] = alignment(result["deltas"], take(gradient, one))
            if result["alignment"].abs() < strategy.most_aligned:
                break
        results.append(result)
    deltas = {name: torch.cat([result["deltas"][name] for result in results]) for name in masks}
    rest = {key: torch.cat([result[key] for result in results]) for key in results[0] if key != "deltas"}
    return Evolved(deltas, **rest)


def alignment(deltas: Deltas, gradient: Deltas) -> Float[Tensor, " run"]:
    """Cosine of each run's delta and its negative gradient; 0 for a delta of zero."""
    return (-inner_product(deltas, gradient) / (norms(deltas) * norms(gradient))).nan_to_num()


def as_queries(demonstrations: Sequences, labels: Int[Tensor, "run label"]) -> Tuning:
    """Demonstrations as queries for their own labels.

    Args:
        labels: label words of each run, the demonstrations' labels among them.
    """
    lengths = demonstrations.lengths - 1
    answers = demonstrations.tokens.gather(2, lengths[..., None])  # run demonstration 1
    truth = (answers == labels[:, None]).int().argmax(dim=2)
    # Where a label is left behind a shorter query's end, nothing looks at it
    return Tuning(Sequences(demonstrations.tokens[..., : int(lengths.max())], lengths, demonstrations.context), labels, truth)


def _evolve_one(
    model: LanguageModel,
    fitness: Tuning,
    masks: Masks,
    unit: float,
    tuning: Tuning,
    target: Float[Tensor, "1"],
    start: Float[Tensor, "1"],
    rng: np.random.Generator,
    strategy: Strategy,
) -> dict[str, Any]:
    """One run in one subspace."""
    factors = _draw_subspace(rng, masks, strategy.directions)
    together = max(1, TRAINED_AT_ONCE // sum(mask.numel() for mask in masks.values()))

    def tuning_loss(point: Tensor) -> Tensor:
        return tuning.loss(model, _combine(masks, factors, point[None]))

    def fitness_of(points: Tensor) -> Tensor:
        parts = points.split(together)
        return -torch.cat([fitness.runs([0] * len(part)).loss(model, _combine(masks, factors, part)) for part in parts])

    point, loss, generation = torch.zeros(strategy.directions), start, 0
    reached = torch.zeros(1, dtype=torch.bool)
    spread = strategy.spread * unit / strategy.directions**0.5
    while loss > target and not reached and generation < strategy.generations:
        generation += 1
        half = torch.from_numpy(rng.standard_normal((strategy.population // 2, strategy.directions), dtype=np.float32))
        noise = torch.cat([half, -half])
        values = fitness_of(point + spread * noise)
        move = ((values - values.mean()) / values.std()) @ noise
        move *= strategy.step * unit / move.norm()
        arrived = tuning_loss(point + move)
        if arrived <= target:  # somewhere on this move
            matched = match_scale(lambda scale, _, at=point, by=move: tuning_loss(at + scale * by), loss, target)
            move, arrived, reached = matched.scale * move, matched.loss, matched.reached
        point, loss = point + move, arrived
    return {
        "deltas": _combine(masks, factors, point[None]),
        "loss": loss,
        "reached": reached,
        "directions": torch.tensor([strategy.directions]),
        "generations": torch.tensor([generation]),
    }


def _draw_subspace(rng: np.random.Generator, masks: Masks, directions: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Gaussian columns and rows of rank-1 directions for every matrix, zero where nothing is trained. Together they have norm 1."""

    def gaussian(kept: Tensor) -> Tensor:
        return torch.from_numpy(rng.standard_normal((directions, len(kept)), dtype=np.float32)) * kept

    factors = {name: (gaussian(mask.amax(1)), gaussian(mask.amax(0))) for name, mask in masks.items() if mask.ndim == 2}
    squares = [left.square().sum(1) * right.square().sum(1) for left, right in factors.values()]
    length = torch.stack(squares).sum(0).sqrt()[:, None]
    return {name: (left / length, right) for name, (left, right) in factors.items()}


def _combine(masks: Masks, factors: dict[str, tuple[Tensor, Tensor]], points: Float[Tensor, "candidate direction"]) -> Deltas:
    """The deltas of points in a subspace: sums of its directions."""
    deltas = {name: (points[..., None] * left).mT @ right for name, (left, right) in factors.items()}
    return {name: deltas.get(name, torch.zeros(len(points), *mask.shape)) for name, mask in masks.items()}
