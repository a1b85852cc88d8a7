"""The protocol of Dai et al. (2022): the same queries without demonstrations, behind them, and after fine-tuning on them.

Two things differ from the paper. The learning rate is chosen on tuning queries, one for each task, and no draw is chosen at all; and
what is compared is recorded at two positions, see `evaluation`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from activation_descent.finetuning.cells import Cells
from activation_descent.finetuning.copies import Deltas, Masks, Sequences, norms, scaled, subset
from activation_descent.finetuning.descent import PUBLISHED, Recipe, descend
from activation_descent.finetuning.evaluation import States, read_states
from activation_descent.finetuning.matching import Tuning, best_rates, match_loss, match_norm, try_rates


@dataclass(frozen=True)
class Protocol:
    """What was done to a group of cells.

    Attributes:
        demonstrations, prompts: what fine-tuning and in-context learning read.
        masks: of what is fine-tuned, keys and values of all layers.
        rates: of each cell.
        deltas: fine-tuning's.
        start, target: tuning loss of the model as it is, and fine-tuned.
        zero, in_context, fine_tuned: recorded on the evaluation queries.
    """

    cells: Cells
    demonstrations: Sequences
    prompts: list[list[int]]
    masks: Masks
    rates: Float[Tensor, " cell"]
    deltas: Deltas
    start: Float[Tensor, " cell"]
    target: Float[Tensor, " cell"]
    zero: States
    in_context: States
    fine_tuned: States


def run_protocol(cells: Cells, grid: Sequence[float] = (), rates: Float[Tensor, " cell"] | None = None) -> Protocol:
    """
    Args:
        grid: learning rates to choose from on the tuning queries, one for each task.
        rates: of each cell, in place of a choice.
    """
    model, masks = cells.model, subset(cells.model, "key_value")
    tokens = cells.own_labels(cells.shown)
    demonstrations, prompts = cells.read(cells.shown, tokens), cells.prompts_of(cells.shown, tokens)
    if rates is None:
        rates = chosen_rates(cells, demonstrations, masks, grid)
    deltas = descend(model, demonstrations, masks, rates)
    return Protocol(
        cells,
        demonstrations,
        prompts,
        masks,
        rates,
        deltas,
        cells.tuning.loss(model),
        cells.tuning.loss(model, deltas),
        read_states(model, cells.queries, cells.labels),
        read_states(model, cells.queries, cells.labels, prompts=prompts),
        read_states(model, cells.queries, cells.labels, deltas),
    )


def chosen_rates(
    cells: Cells,
    demonstrations: Sequences,
    masks: Masks,
    grid: Sequence[float],
    recipe: Recipe = PUBLISHED,
    tuning: Tuning | None = None,
) -> Float[Tensor, " cell"]:
    """For each task the rate with the lowest tuning loss, on average over its first `rate_draws` draws."""
    first = torch.tensor([place for place, draw in enumerate(cells.draws) if draw < cells.rate_draws])
    losses, _ = try_rates(cells.model, demonstrations.runs(first), masks, grid, (tuning or cells.tuning).runs(first), recipe)
    numbers = cells.task_numbers
    rates = torch.empty(len(cells.speakers))
    for number, rate in zip(numbers[first], best_rates(-losses, grid, numbers[first]), strict=True):
        rates[numbers == number] = rate
    return rates


@dataclass(frozen=True)
class Equal:
    """A change of parameters that is as strong as fine-tuning's.

    Attributes:
        deltas: scaled to the target loss where that is in reach, else to the length of fine-tuning's.
        reached: where it was.
    """

    deltas: Deltas
    reached: Float[Tensor, " cell"]


def as_strong(protocol: Protocol, deltas: Deltas, tuning: Tuning | None = None) -> Equal:
    """Scale each run's delta until its tuning loss is that of fine-tuning, or its length is, where the loss cannot be met."""
    matched, found = match_loss(protocol.cells.model, deltas, tuning or protocol.cells.tuning, protocol.target, protocol.start)
    lengths = match_norm(deltas, norms(protocol.deltas))
    scale = found.reached.float()
    both = scaled(matched, scale), scaled(lengths, 1 - scale)
    return Equal({name: delta + both[1][name].nan_to_num() for name, delta in both[0].items()}, scale)
