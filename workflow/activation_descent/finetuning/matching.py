"""Interventions of equal strength: the same loss on tuning queries, or the same length. Nothing here sees an evaluation query."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from activation_descent.finetuning.copies import Deltas, Masks, Sequences, norms, scaled, take
from activation_descent.finetuning.descent import PUBLISHED, Recipe, descend
from activation_descent.finetuning.evaluation import accuracy, cross_entropy, label_logits
from activation_descent.language.models import LanguageModel

FIRST, GROWTH, LARGEST = 0.5, 2.0, 8.0  # scales that are tried until the target is passed
SMALLEST = FIRST / 32  # scale at which a search is given up
TURNED, PASSED = 0.1, 1e-6  # widths at which it is, as shares of the upper end: where the loss turns back, and around the target


@dataclass(frozen=True)
class Tuning:
    """What interventions are tuned on: queries of each run, its label words and the place of each query's own label among them."""

    queries: Sequences
    labels: Int[Tensor, "run label"]
    truth: Int[Tensor, "run query"]

    def runs(self, index: Int[Tensor, " chosen"] | Sequence[int] | slice) -> "Tuning":
        """That of some runs."""
        return Tuning(self.queries.runs(index), self.labels[index], self.truth[index])

    def logits(self, model: LanguageModel, deltas: Mapping[str, Tensor] | None = None) -> Float[Tensor, "run query label"]:
        """Logits of the label words at the end of each query; `deltas` as of `evaluation.label_logits`."""
        return label_logits(model, self.queries, self.labels, deltas)

    def loss(self, model: LanguageModel, deltas: Mapping[str, Tensor] | None = None) -> Float[Tensor, " run"]:
        """Label-restricted cross-entropy of each run, in nats."""
        return cross_entropy(self.logits(model, deltas), self.truth)


@dataclass(frozen=True)
class Matched:
    """How far each run went towards its target.

    Attributes:
        scale: of its delta; where the target is out of reach, the one that came nearest in the monotone region.
        loss: there.
        reached: whether it is the target's, within the tolerance.
    """

    scale: Float[Tensor, " run"]
    loss: Float[Tensor, " run"]
    reached: Bool[Tensor, " run"]


def match_scale(
    loss: Callable[[Float[Tensor, " active"], Int[Tensor, " active"]], Float[Tensor, " active"]],
    start: Float[Tensor, " run"],
    target: Float[Tensor, " run"],
    tolerance: float = 0.01,
) -> Matched:
    """The smallest scales at which a loss is its target, all runs at once.

    The scale doubles from `FIRST` while the loss moves towards the target. Once it is passed, the interval shrinks by false position on
    the logarithm of the loss, which is nearly straight where a cross-entropy runs out. Where the loss turns back before, the interval in
    which it turns is halved: the target is found if it lies in the monotone region from 0 on, and is out of reach otherwise.

    Args:
        loss: of the named runs at a scale for each; positive.
        start: at scale 0.
        tolerance: as a share of the target.
    """
    runs = len(target)
    low, low_loss = torch.zeros(runs), start.clone()
    high, high_loss = torch.full((runs,), torch.inf), torch.full((runs,), torch.nan)  # not a number: not passed, but turned
    towards = (target - start).sign()
    trial, reached = torch.full((runs,), FIRST), torch.zeros(runs, dtype=torch.bool)
    active = torch.arange(runs)
    while len(active):
        tried = trial[active]
        found = loss(tried, active)
        left = towards[active] * (target[active] - found)
        reached[active] = (found - target[active]).abs() <= tolerance * target[active]
        nearer = reached[active] | ((left > 0) & (towards[active] * (found - low_loss[active]) > 0))
        low[active] = torch.where(nearer, tried, low[active])
        low_loss[active] = torch.where(nearer, found, low_loss[active])
        high[active] = torch.where(nearer, high[active], tried)
        high_loss[active] = torch.where(nearer, high_loss[active], torch.where(left <= 0, found, torch.nan))
        share = ((target / low_loss).log() / (high_loss / low_loss).log()).clamp(0.05, 0.95).nan_to_num(nan=0.5)
        trial = torch.where(high.isinf(), GROWTH * low, low + share * (high - low))
        narrowest = torch.where(high_loss.isnan(), TURNED, PASSED) * high
        exhausted = torch.where(high.isinf(), trial > LARGEST, (high - low < narrowest) | (high < SMALLEST))
        active = active[~(reached | exhausted)[active]]
    return Matched(low, low_loss, reached)


def match_loss(
    model: LanguageModel,
    deltas: Deltas,
    tuning: Tuning,
    target: Float[Tensor, " run"],
    start: Float[Tensor, " run"],
    tolerance: float = 0.01,
) -> tuple[Deltas, Matched]:
    """Scale each run's delta so that its tuning loss is the target.

    Args:
        target: a tuning loss of each run: fine-tuning's.
        start: the undisturbed network's.
    """

    def loss(scale: Tensor, active: Tensor) -> Tensor:
        return tuning.runs(active).loss(model, scaled(take(deltas, active), scale))

    matched = match_scale(loss, start, target, tolerance)
    return scaled(deltas, matched.scale), matched


def match_norm(deltas: Deltas, length: Float[Tensor, " run"]) -> Deltas:
    """Scale each run's delta to a Euclidean length over all tensors."""
    return scaled(deltas, length / norms(deltas))


def try_rates(
    model: LanguageModel,
    demonstrations: Sequences,
    masks: Masks,
    grid: Sequence[float],
    tuning: Tuning,
    recipe: Recipe = PUBLISHED,
) -> tuple[Float[Tensor, "rate run"], Float[Tensor, "rate run"]]:
    """Tuning loss and tuning accuracy of every run at every rate. Other arguments as of `descend`."""
    # All rates side by side: small networks pay for the number of steps, not for their size
    runs = torch.arange(len(tuning.truth)).repeat(len(grid))
    rates = torch.tensor(grid).repeat_interleave(len(tuning.truth))
    every = tuning.runs(runs)
    logits = every.logits(model, descend(model, demonstrations.runs(runs), masks, rates, recipe, every.labels))
    found = (measure(logits, every.truth).unflatten(0, (len(grid), -1)) for measure in (cross_entropy, accuracy))
    return tuple(found)


def best_rates(score: Float[Tensor, "rate run"], grid: Sequence[float], group: Int[Tensor, " run"]) -> Float[Tensor, " run"]:
    """The rate of the largest mean score over the runs of a group; the smaller of two as good ones.

    Args:
        score: larger is better; not a number where a run diverged.
        group: runs that share a rate: those of a task, or all.
    """
    order = torch.tensor(grid).argsort()
    score, rates = score.nan_to_num(nan=-torch.inf)[order], torch.tensor(grid)[order]
    chosen = torch.empty(len(group))
    for member in group.unique():
        chosen[group == member] = rates[score[:, group == member].mean(1).argmax()]
    return chosen
