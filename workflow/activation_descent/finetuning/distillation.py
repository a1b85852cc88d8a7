"""Could any change of keys and values do what demonstrations do, and if so, is it the one that gradient descent makes?

Context distillation (Snell et al. 2022) of hidden states: starting from the model itself, the key and value projections learn to give
without demonstrations what the attentions add to the stream behind them,

    theta* = argmin sum_{x, l} |h_theta(x, l) - h_ICL(x, l)|^2 / |h_ICL(x, l)|^2,

h at the last token of a query. How far theta* comes on other queries says whether fine-tuning of keys and values, as Dai et al. (2022)
set it up, can express in-context learning at all; whether theta* - theta_0 points along the negative gradient of a loss on the
demonstrations, and how far a walk along that gradient comes, says whether descent on that loss finds it. A run is a draw of demonstrations
for a task; all runs are distilled together.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from activation_descent.adam import Adam
from activation_descent.finetuning.copies import Deltas, Masks, Sequences, norms, scaled, shifted, subset, take
from activation_descent.finetuning.descent import TRAINED_AT_ONCE, Recipe, descend
from activation_descent.finetuning.similarity import cosine
from activation_descent.language.models import LanguageModel, Prefix

Outputs = Float[Tensor, "run query layer feature"]
BLOCK = 20  # steps between two looks at whether the loss has settled
TOKENS_AT_ONCE = 2048  # of one forward pass without gradients: larger ones leave the processor's caches
LENGTHS = tuple(2.0**power for power in range(-10, 2))  # of steps, relative to the parameters', that a line search begins with
BETWEEN = tuple(2.0 ** (power / 3) for power in (-2, -1, 1, 2))  # lengths around the best of them


@dataclass(frozen=True)
class Lesson:
    """What is to be learned.

    Attributes:
        queries: of each run, behind the begin token, up to where the label stands.
        start, target: what each attention adds to the stream at a query's last token, without and behind the run's demonstrations.
    """

    queries: Sequences
    start: Outputs
    target: Outputs

    def runs(self, index: Int[Tensor, " chosen"] | slice) -> "Lesson":
        """That of some runs."""
        return Lesson(self.queries.runs(index), self.start[index], self.target[index])


@torch.no_grad()
def lesson(model: LanguageModel, queries: Sequences, prompts: Sequence[Sequence[int]]) -> Lesson:
    """
    Args:
        prompts: begin token and demonstrations of each run.
    """
    start = attention_outputs(model, queries)
    targets = []
    for run, prompt in enumerate(prompts):
        own = queries.runs(slice(run, run + 1))
        behind = Sequences(own.tokens[..., own.context :], own.lengths - own.context, 0)
        targets.append(attention_outputs(model, behind, model.encode_prefix(prompt)))
    return Lesson(queries, start, torch.cat(targets))


@torch.no_grad()
def lesson_of_change(model: LanguageModel, queries: Sequences, deltas: Deltas) -> Lesson:
    """What a known change of parameters does, in the place of what demonstrations do: the positive control.

    Adam finds one of many changes that act alike on the queries, so that even the one behind the outputs is met at a cosine well below 1.
    The cosine of theta* - theta_0 with a gradient has to be held against that of a lesson that a step along this gradient has taught.
    """
    start = attention_outputs(model, queries)
    with shifted(model, deltas):
        return Lesson(queries, start, attention_outputs(model, queries))


def attention_outputs(model: LanguageModel, queries: Sequences, prefix: Prefix | None = None) -> Outputs:
    """What each attention adds to the stream at each query's last token. Gradients flow."""
    runs, number, longest = queries.tokens.shape
    at = queries.lengths.flatten() - 1
    seen: list[Tensor] = []

    def keep(module: nn.Module, arguments: tuple, output: Tensor) -> None:
        seen.append(output.reshape(runs * number, longest, -1)[torch.arange(len(at)), at])

    with ExitStack() as hooks:
        for block in model.blocks:
            module = block.get_submodule(f"{model.layout.attention}.{model.layout.output}")
            hooks.callback(module.register_forward_hook(keep).remove)
        model.logits(queries.tokens.flatten(0, 1), prefix, at)
    return torch.stack(seen, dim=1).unflatten(0, (runs, number))


def distance(outputs: Outputs, taught: Lesson) -> Float[Tensor, " run"]:
    """Mean over queries and layers of `|h - h_ICL|^2 / |h_ICL|^2`."""
    return ((outputs - taught.target).square().sum(-1) / taught.target.square().sum(-1)).mean((1, 2))


# The oracle


@dataclass(frozen=True)
class Distilled:
    """
    Attributes:
        deltas: theta* - theta_0.
        steps: that were taken, the same for all runs of one batch; the most of all batches.
        losses: `distance` before each step, of the training queries; not a number after a batch has settled.
    """

    deltas: Deltas
    steps: int
    losses: Float[Tensor, "run step"]


def distil(model: LanguageModel, taught: Lesson, steps: int = 200, rate: float = 0.003, settled: float = 0.005) -> Distilled:
    """Adam on keys and values, weights and biases of all layers.

    Args:
        steps: at most.
        settled: all runs stop when the last 20 steps have brought them nearer by less than this share of the distance at the start,
            on average.
    """
    masks = subset(model, "key_value")
    together = max(1, TRAINED_AT_ONCE // sum(mask.numel() for mask in masks.values()))
    parts = [
        _distil(model, taught.runs(slice(start, start + together)), masks, steps, rate, settled)
        for start in range(0, len(taught.start), together)
    ]
    deltas = {name: torch.cat([part.deltas[name] for part in parts]) for name in masks}
    return Distilled(deltas, max(part.steps for part in parts), torch.cat([part.losses for part in parts]))


def _distil(model: LanguageModel, taught: Lesson, masks: Masks, steps: int, rate: float, settled: float) -> Distilled:
    runs = len(taught.start)
    deltas = {name: torch.zeros(runs, *mask.shape, requires_grad=True) for name, mask in masks.items()}
    adam = Adam(deltas.values())
    losses = torch.full((runs, steps), torch.nan)
    taken = 0
    while taken < steps and not _has_settled(losses[:, :taken], settled):
        with shifted(model, {name: mask * deltas[name] for name, mask in masks.items()}):
            loss = distance(attention_outputs(model, taught.queries), taught)
        gradients = torch.autograd.grad(loss.sum(), list(deltas.values()))  # runs share no delta
        for delta, gradient in zip(deltas.values(), gradients, strict=True):
            delta.grad = gradient
        adam.step(rate)
        losses[:, taken] = loss.detach()
        taken += 1
    return Distilled({name: mask * deltas[name].detach() for name, mask in masks.items()}, taken, losses)


def _has_settled(losses: Float[Tensor, "run step"], settled: float) -> bool:
    done = losses.shape[1]
    if done % BLOCK or not done:
        return False
    before = losses[:, max(0, done - 1 - BLOCK)]
    gained = ((before - losses[:, -1]) / losses[:, 0]).nanmean()  # not a number where there was nothing to learn
    return not gained >= settled


# What a change of parameters reaches


@dataclass(frozen=True)
class Reached:
    """
    Attributes:
        share: of the in-context update, `1 - distance / distance at the start`; 1 is all of it, 0 none, and not a number where there is no
            update.
        similarity: mean cosine of the change of outputs with the in-context one; not a number where a layer does not change.
    """

    share: Float[Tensor, " run"]
    similarity: Float[Tensor, "run layer"]


@torch.no_grad()
def reached(model: LanguageModel, taught: Lesson, deltas: Deltas) -> Reached:
    """How far a change of parameters comes on the queries of a lesson: held-out ones, if the lesson is not the one that was learned."""
    outputs = _outputs(model, taught, deltas)
    share = 1 - distance(outputs, taught) / distance(taught.start, taught)
    return Reached(share, cosine(outputs - taught.start, taught.target - taught.start).mean(1))


@torch.no_grad()
def line_search(model: LanguageModel, taught: Lesson, direction: Deltas) -> Float[Tensor, " run"]:
    """The scale of each run's direction that comes nearest to the in-context outputs; zero where no step helps."""
    masks = subset(model, "key_value")
    size = sum((mask * model.network.get_parameter(name)).square().sum() for name, mask in masks.items()).sqrt()
    best, nearest = torch.zeros(len(taught.start)), distance(taught.start, taught)
    for scales in ([length * size / norms(direction) for length in LENGTHS], BETWEEN):
        first = best
        for scale in scales:
            tried = scale if isinstance(scale, Tensor) else scale * first
            found = distance(_outputs(model, taught, scaled(direction, tried)), taught)
            is_nearer = found < nearest  # a step that diverges is not a number, and not nearer
            best, nearest = torch.where(is_nearer, tried, best), torch.where(is_nearer, found, nearest)
    return best


def _outputs(model: LanguageModel, taught: Lesson, deltas: Deltas) -> Outputs:
    runs, number, longest = taught.queries.tokens.shape
    together = max(1, TOKENS_AT_ONCE // (number * longest))
    results = []
    for start in range(0, runs, together):
        some = slice(start, start + together)
        with shifted(model, take(deltas, some)):
            results.append(attention_outputs(model, taught.queries.runs(some)))
    return torch.cat(results)


# Directions


def descent_direction(
    model: LanguageModel, demonstrations: Sequences, loss: str = "all", labels: Int[Tensor, "run label"] | None = None
) -> Deltas:
    """The negative gradient by keys and values of the mean loss of each run's demonstrations; arguments as of `descent.descend`."""
    rates = torch.ones(len(demonstrations.tokens))
    return descend(model, demonstrations, subset(model, "key_value"), rates, Recipe(loss=loss, sequential=False), labels)


def gaussian_direction(model: LanguageModel, runs: int, rng: np.random.Generator) -> Deltas:
    """A direction in keys and values that means nothing."""
    masks = subset(model, "key_value")
    return {name: mask * torch.from_numpy(rng.standard_normal((runs, *mask.shape))).float() for name, mask in masks.items()}


def direction_cosine(first: Deltas, second: Deltas) -> Float[Tensor, " run"]:
    """Cosine of two changes of parameters over all tensors of a run."""
    product = sum((first[name].double() * second[name].double()).flatten(1).sum(1) for name in first)
    return product / norms(first).double() / norms(second).double()
