"""What single demonstrations, and their order, do to a model's answers: read in context, and learned by gradient descent.

The influence of a demonstration on a query is the margin (log odds of the right label among the label words) with it minus that without
it. If in-context learning is gradient descent on the demonstrations, the same examples teach in both. `agreement` compares.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from activation_descent.finetuning.agreement import influence_correlation
from activation_descent.finetuning.attention import attention_calls
from activation_descent.finetuning.copies import Deltas, Sequences, scaled, subset
from activation_descent.finetuning.descent import TRAINED_AT_ONCE, Recipe, descend
from activation_descent.finetuning.evaluation import label_logits
from activation_descent.finetuning.patching import margin
from activation_descent.language.models import LanguageModel

Tokens = Sequence[int]

# Leaving one out


def context_influence(
    model: LanguageModel,
    demonstrations: Sequence[Tokens],
    neutral: Tokens,
    ending: Tokens,
    queries: Sequence[Tokens],
    labels: Sequence[int],
    truth: Int[Tensor, " query"],
) -> Float[Tensor, "demonstration query"]:
    """Margin behind all demonstrations minus that with one of them replaced by the neutral one in its place.

    Args:
        demonstrations: each ends with its label.
        neutral: takes the place of the one left out, so that the others stay where they are; best of their length.
        ending: what separates demonstrations in a prompt.
        labels: the token of each class.
    """
    number = len(demonstrations)
    shown = [list(demonstrations), *([*demonstrations[:i], neutral, *demonstrations[i + 1 :]] for i in range(number))]
    margins = _margins(model, queries, labels, truth, number + 1, prompts=[prompt_of(model, each, ending) for each in shown])
    return margins[0] - margins[1:]


def descent_influence(
    model: LanguageModel,
    demonstrations: Sequence[Tokens],
    queries: Sequence[Tokens],
    labels: Sequence[int],
    truth: Int[Tensor, " query"],
    rate: float = 1.0,
    loss: str = "all",
) -> Float[Tensor, "demonstration query"]:
    """The same under fine-tuning of keys and values, to first order in the rate (neural tangent kernel, Jacot et al. 2018):

        -rate <grad margin(x), grad L_i>

    where the queries are read without demonstrations. All queries' products with one demonstration's gradient are one derivative in its
    direction, in forward mode; no gradient of a query is ever kept.

    Args:
        loss: see `descent.row_losses`.
    """
    masks = subset(model, "key_value")
    together = max(1, TRAINED_AT_ONCE // sum(mask.numel() for mask in masks.values()))
    results = []
    for start in range(0, len(demonstrations), together):
        runs = Sequences.of([[each] for each in demonstrations[start : start + together]], model.begin)
        number = len(runs.tokens)
        words = torch.tensor(labels).expand(number, -1)
        steps = descend(model, runs, masks, torch.full((number,), rate), Recipe(loss=loss), words)  # -rate grad L_i
        nothing = scaled(steps, 0.0)

        def margins(deltas: Deltas, number: int = number) -> Tensor:
            # The fused kernel of attention has no forward mode, plain products have
            with attention_calls(model):
                return _margins(model, queries, labels, truth, number, deltas)

        results.append(torch.func.jvp(margins, (nothing,), (steps,))[1].detach())
    return torch.cat(results)


def _margins(
    model: LanguageModel,
    queries: Sequence[Tokens],
    labels: Sequence[int],
    truth: Int[Tensor, " query"],
    runs: int,
    deltas: Deltas | None = None,
    prompts: Sequence[Tokens] | None = None,
) -> Float[Tensor, "run query"]:
    return margin(_logits(model, queries, labels, runs, deltas, prompts), truth)


def _logits(
    model: LanguageModel,
    queries: Sequence[Tokens],
    labels: Sequence[int],
    runs: int,
    deltas: Deltas | None = None,
    prompts: Sequence[Tokens] | None = None,
) -> Float[Tensor, "run query label"]:
    asked = Sequences.of([queries], model.begin)
    repeated = Sequences(asked.tokens.expand(runs, -1, -1), asked.lengths.expand(runs, -1), asked.context)
    return label_logits(model, repeated, torch.tensor(labels).expand(runs, -1), deltas, prompts)


def prompt_of(model: LanguageModel, demonstrations: Sequence[Tokens], ending: Tokens) -> list[int]:
    """Begin token and demonstrations as a prompt shows them."""
    return [*model.begin, *(token for each in demonstrations for token in (*each, *ending))]


def split_half_reliability(
    influence: Float[Tensor, "demonstration query"],
    truth: Int[Tensor, " query"],
    slot: Int[np.ndarray, " demonstration"],
    label: Int[np.ndarray, " demonstration"],
    rng: np.random.Generator,
    splits: int = 20,
) -> float:
    """How well the influence on one half of the queries tells that on the other: the ceiling for any comparison of influences.

    The queries of each class are halved at random, each half's mean influence is one profile over the demonstrations, and two profiles
    are compared as two mechanisms are (`agreement.influence_correlation`). Mean over classes and splits. For single queries the influences
    measured with two neutral demonstrations are compared in the same way.
    """
    found = [
        influence_correlation(*(influence[:, half].mean(1, keepdim=True).numpy() for half in halves), slot, label).item()
        for _ in range(splits)
        for halves in _halves(truth, rng)
    ]
    return float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")


def _halves(truth: Int[Tensor, " query"], rng: np.random.Generator) -> Iterator[tuple[Int[np.ndarray, " half"], ...]]:
    for each in truth.unique():
        members = rng.permutation(torch.nonzero(truth == each).flatten().numpy())
        half = len(members) // 2
        yield members[:half], members[half : 2 * half]


# Orders


def context_orders(
    model: LanguageModel,
    demonstrations: Sequence[Tokens],
    ending: Tokens,
    queries: Sequence[Tokens],
    labels: Sequence[int],
    orders: Int[Tensor, "order demonstration"],
) -> Float[Tensor, "order query label"]:
    """Logits of the label words behind the demonstrations in each order; arguments as of `context_influence`."""
    prompts = [prompt_of(model, [demonstrations[i] for i in order], ending) for order in orders.tolist()]
    return _logits(model, queries, labels, len(orders), prompts=prompts)


def descent_orders(
    model: LanguageModel,
    demonstrations: Sequence[Tokens],
    queries: Sequence[Tokens],
    labels: Sequence[int],
    orders: Int[Tensor, "order demonstration"],
    fine_tune: Callable[[Sequences], Deltas],
) -> Float[Tensor, "order query label"]:
    """Logits of the label words without demonstrations, after fine-tuning on them in each order.

    Args:
        fine_tune: makes the deltas of one run for each order, as `descent.descend` does.
    """
    runs = Sequences.of([[demonstrations[i] for i in order] for order in orders.tolist()], model.begin)
    return _logits(model, queries, labels, len(orders), fine_tune(runs))
