"""The inside of in-context learning as records: patching, parts of updates, error signals, doses, influences, orders, the oracle.

One row a cell and metric; `control` names the form, the part, the loss or the direction that a number belongs to. All at the predicting
token of the evaluation queries; what is fitted or learned sees the tuning queries only.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from activation_descent.finetuning import agreement, distillation, influence, mechanisms, patching, similarity
from activation_descent.finetuning.audit import Rows
from activation_descent.finetuning.cells import Cells, Row
from activation_descent.finetuning.controls import demonstration_rows, wrong_labels
from activation_descent.finetuning.copies import Sequences
from activation_descent.finetuning.descent import descend
from activation_descent.finetuning.interventions import relabelled_tokens
from activation_descent.finetuning.protocol import Protocol

EXPERIMENT = "inside"
REPEATS = (1, 2, 4)


@dataclass(frozen=True)
class Depth:
    """How much is looked at.

    Attributes:
        orders: of the demonstrations.
        influence_demonstrations, influence_queries: of a cell.
        oracle_steps: of the distillation, at most.
    """

    orders: int
    influence_demonstrations: int
    influence_queries: int
    oracle_steps: int


def inside_records(protocol: Protocol, depth: Depth, root: int, variant: str) -> Iterator[Row]:
    """Everything about one group of cells."""
    cells, rows = protocol.cells, Rows(protocol.cells, EXPERIMENT, variant)
    numbers: dict[tuple[str, str], list[float]] = {}
    for cell, rng in enumerate(cells.rngs(root, "inside")):
        one = _Cell.of(protocol, cell)
        found = _ladder(one, rng) | _parts(one) | _errors(one, rng) | _doses(one)
        found |= _influences(one, depth, rng) | _orders(one, depth, rng)
        for key, value in found.items():
            numbers.setdefault(key, []).append(value)
    for (control, metric), values in numbers.items():
        yield from rows.of_cells(control, {metric: torch.tensor(values)})
    for control, metrics in _oracle(protocol, depth, root).items():
        yield from rows.of_cells(control, metrics)


Numbers = dict[tuple[str, str], float]


@dataclass(frozen=True)
class _Cell:
    """One cell of a protocol as lists of tokens."""

    protocol: Protocol
    cell: int
    prompt: list[int]
    demonstrations: list[list[int]]
    ending: list[int]
    tuning: list[list[int]]
    queries: list[list[int]]
    labels: list[int]
    truth: Tensor

    @classmethod
    def of(cls, protocol: Protocol, cell: int) -> "_Cell":
        cells = protocol.cells
        speaker, shown = cells.speakers[cell], cells.shown[cell]
        return cls(
            protocol,
            cell,
            protocol.prompts[cell],
            demonstration_rows(speaker, shown, [speaker.labels[example.label] for example in shown]),
            speaker.ending,
            _rows(cells.tuning.queries, cell),
            _rows(cells.queries, cell),
            cells.labels[cell].tolist(),
            cells.truth[cell],
        )

    @property
    def model(self):
        return self.protocol.cells.model


def _rows(sequences: Sequences, run: int) -> list[list[int]]:
    """Tokens of each row without its context and padding."""
    pairs = zip(sequences.tokens[run].tolist(), sequences.lengths[run].tolist(), strict=True)
    return [row[sequences.context : length] for row, length in pairs]


def _ladder(one: _Cell, rng: np.random.Generator) -> Numbers:
    order = torch.from_numpy(rng.permutation(len(one.prompt) - len(one.model.begin)))
    ladder = patching.patching_ladder(one.model, one.prompt, one.tuning, one.queries, one.labels, one.truth, order)
    weights = ladder.mass / ladder.mass.sum()
    numbers: Numbers = {}
    for form in patching.FORMS:
        numbers[form, "patched_gain"] = ladder.gain(form)
        # Heads count by how much they look at the demonstrations
        numbers[form, "patched_r_squared"] = (weights * ladder.r_squared[form].nan_to_num()).sum().item()
    return numbers


def _parts(one: _Cell) -> Numbers:
    protocol, cell = one.protocol, one.cell
    parts = mechanisms.update_parts(one.model, one.prompt, one.queries)
    update = similarity.raw_update(protocol.fine_tuned.outputs[cell, :, 0], protocol.zero.outputs[cell, :, 0]).transpose(0, 1)
    whole = sum(parts.values()).norm(dim=-1)
    numbers: Numbers = {}
    for name, found in mechanisms.part_similarity(parts, update).items():
        numbers[name, "part_similarity"] = found["paired"].nanmean().item()
        numbers[name, "part_null"] = found["shuffled"].nanmean().item()
        numbers[name, "part_length"] = (parts[name].norm(dim=-1) / whole).nanmean().item()
    return numbers


def _errors(one: _Cell, rng: np.random.Generator) -> Numbers:
    """Values against error signals, tokens permuted among those with the same place in an example."""
    tokens = torch.tensor(one.prompt)
    places = [0] * len(one.model.begin)
    targets = [False] * len(one.model.begin)
    for row in one.demonstrations:
        size = len(row) + len(one.ending)
        # The words of a text are one class, whatever their number; what surrounds them stands at fixed places
        places += [min(place, 1) if place < len(row) - 2 else 2 + place - (len(row) - 2) for place in range(size)]
        targets += [place == len(row) - 1 for place in range(size)]
    numbers: Numbers = {}
    for loss, asked in (("all", None), ("label", torch.tensor(targets))):
        signals = mechanisms.error_signals(one.model, tokens, asked)
        test = mechanisms.permutation_test(signals, torch.tensor(places), rng)
        numbers[loss, "error_alignment"] = signals.alignment.nanmean().item()
        numbers[loss, "error_excess"] = test.excess.nanmean().item()
        numbers[loss, "error_p"] = test.p_total
    return numbers


def _doses(one: _Cell) -> Numbers:
    """As many demonstrations as can be repeated as often as is asked."""
    room = one.model.context_length - len(one.model.begin) - max(map(len, one.queries)) - 1
    block: list[int] = []
    for row in one.demonstrations:
        longer = [*block, *row, *one.ending]
        if max(REPEATS) * len(longer) > room:
            break
        block = longer
    if not block:
        return {}
    found = mechanisms.dose_response(one.model, block, one.queries, REPEATS)
    return {
        ("dose", "dose_slope"): found.slope.nanmean().item(),
        ("dose", "dose_kernel_slope"): found.kernel_slope.nanmean().item(),
        ("dose", "dose_direction"): found.direction[-1].nanmean().item(),
        ("dose", "dose_kernel_r_squared"): found.kernel_r_squared,
        ("dose", "dose_additive_r_squared"): found.additive_r_squared,
    }


def _influences(one: _Cell, depth: Depth, rng: np.random.Generator) -> Numbers:
    """Of the first demonstrations on the first queries, against the noise of the measurement."""
    number, cells = min(depth.influence_demonstrations, len(one.demonstrations) - 1), one.protocol.cells
    shown, neutral = one.demonstrations[:number], one.demonstrations[number]
    queries, truth = one.queries[: depth.influence_queries], one.truth[: depth.influence_queries]
    asked = (queries, one.labels, truth)
    context = influence.context_influence(one.model, shown, neutral, one.ending, *asked)
    descent = influence.descent_influence(one.model, shown, *asked, one.protocol.rates[one.cell].item())
    slot = np.arange(number)
    label = np.array([example.label for example in cells.shown[one.cell][:number]])
    found = agreement.influence_correlation(context.numpy(), descent.numpy(), slot, label)
    return {
        ("influence", "influence_correlation"): float(pd.Series(found).mean()),  # not a number where no influence varies
        ("influence", "influence_reliability"): influence.split_half_reliability(context, truth, slot, label, rng),
    }


def _orders(one: _Cell, depth: Depth, rng: np.random.Generator) -> Numbers:
    """Sensitivity to the order of the demonstrations, and whether the same orders are good for both."""
    protocol = one.protocol
    orders = torch.from_numpy(np.stack([rng.permutation(len(one.demonstrations)) for _ in range(depth.orders)]))
    queries, truth = one.queries[: depth.influence_queries], one.truth[: depth.influence_queries]
    zero = protocol.zero.logits[one.cell, : len(queries)].double().softmax(-1).numpy()

    def fine_tune(demonstrations: Sequences):
        rates = protocol.rates[one.cell].expand(depth.orders)
        return descend(one.model, demonstrations, protocol.masks, rates)

    logits = {
        "in_context": influence.context_orders(one.model, one.demonstrations, one.ending, queries, one.labels, orders),
        "fine_tuned": influence.descent_orders(one.model, one.demonstrations, queries, one.labels, orders, fine_tune),
    }
    numbers: Numbers = {}
    for name, found in logits.items():
        probability = found.double().softmax(-1).numpy()
        numbers[name, "order_sensitivity"] = float(agreement.order_sensitivity(probability).mean())
        numbers[name, "order_sensitivity_normalised"] = agreement.normalised_order_sensitivity(probability, zero)
    margins = [patching.margin(found, truth).numpy() for found in logits.values()]
    numbers["orders", "order_correlation"] = float(pd.Series(agreement.order_correlation(*margins)).mean())
    return numbers


def _oracle(protocol: Protocol, depth: Depth, root: int) -> dict[str, dict[str, Tensor]]:
    """Keys and values that learn to do what the demonstrations do, and how far the gradient's direction comes."""
    cells, model = protocol.cells, protocol.cells.model
    taught = distillation.lesson(model, cells.tuning.queries, protocol.prompts)
    held_out = distillation.lesson(model, cells.queries, protocol.prompts)
    learned = distillation.distil(model, taught, depth.oracle_steps)
    directions = {"demonstrations": protocol.demonstrations}
    others = [cell for cell in range(len(cells))]
    shift = len(cells) // max(1, len(set(cells.tasks)))  # the same draw of the next task
    order = others[shift:] + others[:shift]
    wrong = relabelled_tokens(cells, wrong_labels, root, "C5_wrong", cells.labels.shape[1])
    directions |= {
        "wrong_labels": cells.read(cells.shown, wrong),
        "another_task": _read_elsewhere(cells, order),
    }
    deltas = {name: distillation.descent_direction(model, rows) for name, rows in directions.items()}
    deltas["gaussian"] = distillation.gaussian_direction(model, len(cells), cells.rngs(root, "oracle")[0])
    reached = distillation.reached(model, held_out, learned.deltas)
    found = {"oracle": {"oracle_share": reached.share, "oracle_similarity": reached.similarity.nanmean(1)}}
    for name, direction in deltas.items():
        best = distillation.line_search(model, taught, direction)
        share = distillation.reached(model, held_out, distillation.scaled(direction, best)).share
        found[name] = {"oracle_alignment": distillation.direction_cosine(learned.deltas, direction), "line_share": share}
    return found


def _read_elsewhere(cells: Cells, order: list[int]) -> Sequences:
    """The demonstrations of other cells, as fine-tuning reads them."""
    tokens = cells.own_labels(cells.shown)
    rows = [demonstration_rows(cells.speakers[i], cells.shown[i], tokens[i]) for i in order]
    return Sequences.of(rows, cells.model.begin)
