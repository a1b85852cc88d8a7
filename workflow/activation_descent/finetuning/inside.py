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
from activation_descent.finetuning.cells import Cells
from activation_descent.finetuning.controls import demonstration_rows, wrong_labels
from activation_descent.finetuning.copies import Deltas, Sequences, scaled, take
from activation_descent.finetuning.descent import descend
from activation_descent.finetuning.evaluation import label_logits
from activation_descent.finetuning.interventions import relabelled_tokens
from activation_descent.finetuning.protocol import Protocol
from activation_descent.records import Row

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
        found |= _influences(one, depth, rng) | _orders(one, depth, rng) | _words(one, rng)
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
    """Values against error signals, and what wrong labels change in both; tokens permuted among those with the same place in an example."""
    cells = one.protocol.cells
    tokens = torch.tensor(one.prompt)
    labels = np.array([example.label for example in cells.shown[one.cell]])
    names = [one.labels[label] for label in wrong_labels(rng, labels, len(one.labels))]
    (flipped,) = cells.runs(one.cell).prompts_of([cells.shown[one.cell]], [names])
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
        contrast = mechanisms.signal_contrast(one.model, tokens, torch.tensor(flipped), asked)
        for name, found in ((loss, signals), (f"{loss}_contrast", contrast)):
            test = mechanisms.permutation_test(found, torch.tensor(places), rng)
            numbers[name, "error_alignment"] = found.alignment.nanmean().item()
            numbers[name, "error_excess"] = test.excess.nanmean().item()
            numbers[name, "error_p"] = test.p_total
    return numbers


def _doses(one: _Cell) -> Numbers:
    """As many demonstrations as can be repeated as often as is asked, and the first of them alone."""
    room = one.model.context_length - len(one.model.begin) - max(map(len, one.queries)) - 1
    blocks = [[*row, *one.ending] for row in one.demonstrations]
    fit = [number for number in range(1, len(blocks) + 1) if max(REPEATS) * sum(map(len, blocks[:number])) <= room]
    numbers: Numbers = {}
    for name, number in (("dose", max(fit, default=0)), ("dose_of_one", min(fit, default=0))):
        if number:
            found = mechanisms.dose_response(
                one.model, [token for block in blocks[:number] for token in block], one.queries, REPEATS
            )
            # Heads count by how much they look at the demonstrations
            weights = found.mass[0] / found.mass[0].sum()
            numbers |= {
                (name, "dose_slope"): (weights * found.slope).sum().item(),
                (name, "dose_kernel_slope"): (weights * found.kernel_slope).sum().item(),
                (name, "dose_direction"): (weights * found.direction[-1]).sum().item(),
                (name, "dose_mass_r_squared"): found.mass_r_squared,
                (name, "dose_kernel_r_squared"): found.kernel_r_squared,
                (name, "dose_additive_r_squared"): found.additive_r_squared,
            }
    return numbers


def _influences(one: _Cell, depth: Depth, rng: np.random.Generator) -> Numbers:
    """Of the first demonstrations on the first queries, against the noise of the measurement: what another filler in their place gives."""
    number, cells = min(depth.influence_demonstrations, len(one.demonstrations) - 2), one.protocol.cells
    shown, fillers = one.demonstrations[:number], one.demonstrations[number : number + 2]
    queries, truth = one.queries[: depth.influence_queries], one.truth[: depth.influence_queries]
    asked = (queries, one.labels, truth)
    context, again = (influence.context_influence(one.model, shown, each, one.ending, *asked) for each in fillers)
    descent = influence.descent_influence(one.model, shown, *asked, one.protocol.rates[one.cell].item())
    slot = np.arange(number)
    label = np.array([example.label for example in cells.shown[one.cell][:number]])

    def correlation(first: Tensor, second: Tensor) -> float:
        found = agreement.influence_correlation(first.numpy(), second.numpy(), slot, label)
        return float(pd.Series(found).mean())  # not a number where no influence varies

    return {
        ("influence", "influence_correlation"): correlation(context, descent),
        ("influence", "influence_reliability"): correlation(context, again),
        ("influence", "influence_split_half"): influence.split_half_reliability(context, truth, slot, label, rng),
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


def _words(one: _Cell, rng: np.random.Generator) -> Numbers:
    """The most probable of all words, not of the labels alone (Shen et al. 2024): in context against fine-tuned, and in another order."""
    protocol, cells = one.protocol, one.protocol.cells.runs(one.cell)
    every = torch.arange(one.model.network.get_input_embeddings().num_embeddings)[None]
    order = rng.permutation(len(one.demonstrations))
    reordered = influence.prompt_of(one.model, [one.demonstrations[i] for i in order], one.ending)
    own = take(protocol.deltas, slice(one.cell, one.cell + 1))
    shown, again, tuned = (
        label_logits(one.model, cells.queries, every, deltas, prompts)[0].double().softmax(1).numpy()
        for deltas, prompts in ((None, [one.prompt]), (None, [reordered]), (own, None))
    )
    return {
        (name, metric): float(values.mean())
        for name, found in (("reordered_in_context", again), ("fine_tuned", tuned))
        for metric, values in (
            ("token_overlap", agreement.token_overlap(shown, found)),
            ("overlap_cosine", agreement.overlap_cosine(shown, found)["additive"]),
        )
    }


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
        best = scaled(direction, distillation.line_search(model, taught, direction))
        found[name] = {
            "oracle_alignment": distillation.direction_cosine(learned.deltas, direction),
            "line_share": distillation.reached(model, held_out, best).share,
        }
        if name == "demonstrations":
            found["ceiling"] = {"oracle_alignment": _ceiling(cells, best, direction, depth)}
    return found


def _ceiling(cells: Cells, step: Deltas, direction: Deltas, depth: Depth) -> Tensor:
    """Of the first draws of each task: what is found along a direction where a step along it has been distilled, which is the most that
    can be asked for."""
    first = torch.tensor([place for place, draw in enumerate(cells.draws) if draw < cells.rate_draws])
    taught = distillation.lesson_of_change(cells.model, cells.tuning.queries.runs(first), take(step, first))
    known = distillation.distil(cells.model, taught, depth.oracle_steps)
    alignment = torch.full((len(cells),), torch.nan)
    alignment[first] = distillation.direction_cosine(known.deltas, take(direction, first)).float()
    return alignment


def _read_elsewhere(cells: Cells, order: list[int]) -> Sequences:
    """The demonstrations of other cells, as fine-tuning reads them."""
    tokens = cells.own_labels(cells.shown)
    rows = [demonstration_rows(cells.speakers[i], cells.shown[i], tokens[i]) for i in order]
    return Sequences.of(rows, cells.model.begin)
