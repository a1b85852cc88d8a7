"""The audit as records: every published metric of in-context learning against fine-tuning, and the same against every control.

One row a cell, control and metric, with the position and the layer where there is one. Similarities are means over queries, and over
layers where no layer is named; attention maps are averaged over heads, too. `control` names what stood in the place of fine-tuning or of
in-context learning; "fine_tuned" is the comparison itself.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from activation_descent.finetuning import STUDY, agreement, similarity
from activation_descent.finetuning.cells import Cells
from activation_descent.finetuning.evaluation import POSITIONS, States, accuracy, cross_entropy, label_logits, read_training
from activation_descent.finetuning.interventions import Effort, Intervention, interventions, other_networks
from activation_descent.finetuning.patching import margin
from activation_descent.finetuning.protocol import Protocol
from activation_descent.language.models import LanguageModel
from activation_descent.language.prompts import Speaker
from activation_descent.records import Row

EXPERIMENT = "audit"
BY_LAYER = ("normalised", "floor", "raw", "partial")
KENDALL_QUERIES = 8  # of a cell: each costs a rank correlation for every layer, position and kind of weight
KEPT = ("C7", "C11_unrelated", "C11_wrong", "wrong_labels_fine_tuned", "reordered_fine_tuned")

RECOVERY = {  # queries that the model alone gets wrong: right fine-tuned, right in context
    "recovered_both": (0, 0),
    "recovered_fine_tuned": (0, 1),
    "recovered_in_context": (1, 0),
    "recovered_neither": (1, 1),
}
IMPROVING = (
    "C2",
    "C3_query_output",
    "C3_mlp_in",
    "C3_mlp_out",
    "C3_biases_norms",
    "C3_prefix",
)  # to the same loss by other means

Similarities = dict[str, Float[Tensor, "cell position layer"]]


def protocol_records(protocol: Protocol, root: int, variant: str) -> Iterator[Row]:
    """The comparison itself, of one group of cells."""
    zero, shown, tuned = protocol.zero, protocol.in_context, protocol.fine_tuned
    rows = Rows(protocol.cells, EXPERIMENT, variant)
    for name, states in (("zero_shot", zero), ("in_context", shown), ("fine_tuned", tuned), ("C8", _calibrated(protocol))):
        yield from rows.of_cells(name, answers(states, protocol))
    yield from rows.of_cells("fine_tuned", {"rate": protocol.rates})
    yield from rows.of_layers("fine_tuned", similarities(shown, tuned, zero) | _projected(protocol))
    yield from rows.of_layers("fine_tuned", kendall(protocol, root) | random_baselines(protocol, root))
    yield from rows.of_cells("fine_tuned", _dominance(protocol))


def control_records(protocol: Protocol, speakers: Sequence[Speaker], effort: Effort, root: int, variant: str) -> Iterator[Row]:
    """Everything that it must be told from.

    Args:
        speakers: of all tasks of the study.
    """
    zero, tuned = protocol.zero, protocol.fine_tuned
    rows = Rows(protocol.cells, EXPERIMENT, variant)
    kept: dict[str, States] = {}
    for done in interventions(protocol, speakers, effort, root):
        yield from rows.of_cells(done.name, answers(done.states, protocol) | done.numbers)
        yield from rows.of_layers(done.name, _compared(done, protocol))
        if done.name in (*KEPT, *IMPROVING):
            kept[done.name] = done.states
    yield from rows.of_layers("ceiling_fine_tuned", similarities(tuned, kept["C7"], zero))
    yield from rows.of_layers("reordered_fine_tuned_ceiling", similarities(tuned, kept["reordered_fine_tuned"], zero))
    yield from rows.of_layers("unrelated_zero", _from_unrelated(protocol, kept["C11_unrelated"]))
    yield from _pairs(protocol, {name: kept[name] for name in IMPROVING}, rows)
    contrast, check = label_contrast(protocol, kept["C11_wrong"], kept["wrong_labels_fine_tuned"])
    yield from rows.of_layers("label_contrast", contrast)
    yield from rows.of_cells("label_contrast", check)
    for name, other in other_networks(protocol, root):
        yield from rows.of_layers(name, similarities(other.in_context, other.fine_tuned, other.zero))
        yield from rows.of_cells(name, answers(other.in_context, other))


@dataclass(frozen=True)
class Rows:
    """Numbers of cells as rows of records; what is not a number is left out."""

    cells: Cells
    experiment: str
    variant: str

    def of_cells(self, control: str, numbers: Mapping[str, Float[Tensor, " cell"]]) -> Iterator[Row]:
        """One row for each cell and metric."""
        for metric, values in numbers.items():
            for cell, value in enumerate(values.tolist()):
                if np.isfinite(value):
                    yield self._base(cell, control) | {"metric": metric, "value": value}

    def of_layers(self, control: str, numbers: Similarities) -> Iterator[Row]:
        """Means over layers, and every layer of `BY_LAYER`."""
        for metric, values in numbers.items():
            for cell, positions in enumerate(values):
                for position, layers in zip(POSITIONS, positions, strict=True):
                    row = self._base(cell, control) | {"position": position, "metric": metric}
                    mean = layers.nanmean().item()
                    if np.isfinite(mean):
                        yield row | {"value": mean}
                    if metric in BY_LAYER:
                        for layer, value in enumerate(layers.tolist()):
                            if np.isfinite(value):
                                yield row | {"layer": layer + 1, "value": value}

    def _base(self, cell: int, control: str) -> Row:
        base = {"study": STUDY, "experiment": self.experiment, "variant": self.variant, "control": control}
        return base | {"task": self.cells.tasks[cell], "seed": self.cells.draws[cell]}


# Answers


def answers(states: States, protocol: Protocol) -> dict[str, Float[Tensor, " cell"]]:
    """Accuracy and confidence, and agreement with in-context learning where the model alone is wrong (Rec2FTP and what it hides)."""
    truth = protocol.cells.truth
    right = {
        name: (logits.argmax(-1) == truth).numpy()
        for name, logits in (("zero", protocol.zero.logits), ("shown", protocol.in_context.logits), ("own", states.logits))
    }
    tables = [agreement.recovery_table(*cell) for cell in zip(right["zero"], right["own"], right["shown"], strict=True)]
    recovery = {
        "recovered": agreement.recovered,
        "recovered_by_chance": agreement.recovered_by_chance,
        "recovery_phi": agreement.phi,
        **{name: lambda table, place=place: float(table[place]) for name, place in RECOVERY.items()},
    }
    logits = [[*states.logits.double().numpy()] for states in (protocol.in_context, states, protocol.zero)]
    margins = torch.stack([margin(logits, own) for logits, own in zip(states.logits, truth, strict=True)])
    return {
        "accuracy": accuracy(states.logits, truth),
        "cross_entropy": cross_entropy(states.logits, truth),
        "margin": margins.mean(1),
        **{metric: torch.tensor([measure(table) for table in tables]) for metric, measure in recovery.items()},
        "error_consistency": torch.tensor(
            [agreement.error_consistency(*cell) for cell in zip(right["own"], right["shown"], strict=True)]
        ),
        "logit_agreement": torch.tensor([agreement.logit_agreement(*cell) for cell in zip(*logits, strict=True)]),
    }


def _calibrated(protocol: Protocol) -> States:
    """C8: the model's own logits, shifted so that it gives each label as often as in-context learning does, on the tuning queries."""
    cells = protocol.cells
    alone = label_logits(cells.model, cells.tuning.queries, cells.labels)
    behind = label_logits(cells.model, cells.tuning.queries, cells.labels, prompts=protocol.prompts)
    shifts = [
        agreement.calibration_shift(own.numpy(), logits.double().softmax(1).mean(0).numpy())
        for own, logits in zip(alone, behind, strict=True)
    ]
    return replace(protocol.zero, logits=protocol.zero.logits + torch.from_numpy(np.stack(shifts)).float()[:, None])


# Updates and attention maps


def similarities(shown: States, tuned: States, zero: States) -> Similarities:
    """All comparisons of hidden states and of attention maps, and the null of the raw one, updates of other queries."""
    found = similarity.update_similarity(shown.outputs, tuned.outputs, zero.outputs)
    numbers = {name: values.nanmean(1) for name, values in found.items()}
    updates = [similarity.raw_update(states.outputs, zero.outputs).movedim(1, 3) for states in (shown, tuned)]
    numbers["shuffled"] = similarity.shuffled_cosine(*updates).nanmean(-1)  # cell position layer query
    valid = zero.own[:, :, :, None, None]
    maps = similarity.attention_similarity(shown.scores, tuned.scores, zero.scores, valid)
    return numbers | {f"attention_{name}": values.nanmean(-1).nanmean(1) for name, values in maps.items()}


def _compared(done: Intervention, protocol: Protocol) -> Similarities:
    if done.replaces == "in_context":
        # Of two prompts the other one is compared with in-context learning, of what is no demonstration with fine-tuning
        if done.name in ("ceiling_in_context", "reordered_in_context"):
            return similarities(protocol.in_context, done.states, protocol.zero)
        return similarities(done.states, protocol.fine_tuned, protocol.zero)
    return similarities(protocol.in_context, done.states, protocol.zero)


def _projected(protocol: Protocol) -> Similarities:
    """Raw similarity without what moves along the label words' unembeddings or along the mean updates."""
    cells = protocol.cells
    heads = cells.model.network.get_output_embeddings().weight.detach()[cells.labels] * _final_gain(cells.model)
    updates = [
        similarity.raw_update(states.outputs, protocol.zero.outputs).movedim(1, 3)  # cell position layer query feature
        for states in (protocol.in_context, protocol.fine_tuned)
    ]
    means = torch.stack([update.mean(3) for update in updates], dim=3)
    words = heads.double()[:, None, None].expand(*means.shape[:3], -1, -1)
    span = torch.cat([words, means], dim=3)[:, :, :, None]
    left = [similarity.project_off(update, span) for update in updates]
    return {"projected": similarity.cosine(*left).nanmean(-1)}


def _final_gain(model: LanguageModel) -> Float[Tensor, " feature"]:
    """Gain of the normalisation before the unembedding: the last one outside the blocks."""
    inside = {id(module) for block in model.blocks for module in block.modules()}
    gains = [
        module.weight
        for module in model.network.modules()
        if id(module) not in inside and isinstance(getattr(module, "weight", None), Tensor) and module.weight.ndim == 1
    ]
    return gains[-1].detach()


def _from_unrelated(protocol: Protocol, unrelated: States) -> Similarities:
    """In-context learning as seen from behind an unrelated text as long: positions, sinks and dilution cancel."""
    shown = protocol.in_context.outputs - unrelated.outputs
    tuned = protocol.fine_tuned.outputs - protocol.zero.outputs
    return {"raw": similarity.cosine(shown, tuned).nanmean(1)}


def random_baselines(protocol: Protocol, root: int) -> Similarities:
    """SimAOU with a random update in the place of fine-tuning's: Dai et al.'s U[0, 1)^d, and an isotropic one."""
    update = similarity.normalised_update(protocol.in_context.outputs, protocol.zero.outputs)
    rngs = protocol.cells.rngs(root, "baseline")
    draws = {"random_uniform": similarity.uniform_update, "random_gaussian": similarity.gaussian_update}
    return {
        name: torch.stack([similarity.cosine(own, draw(own, rng)).nanmean(0) for own, rng in zip(update, rngs, strict=True)])
        for name, draw in draws.items()
    }


def _pairs(protocol: Protocol, others: Mapping[str, States], rows: "Rows") -> Iterator[Row]:
    """How alike any two of the changes are that improve as much: in context, fine-tuned, and by every other means."""
    every = {"in_context": protocol.in_context, "fine_tuned": protocol.fine_tuned, **others}
    updates = {name: (states.outputs - protocol.zero.outputs)[:, :, 0] for name, states in every.items()}
    for first, second in itertools.combinations(updates, 2):
        alike = similarity.cosine(updates[first], updates[second]).nanmean((1, 2))
        for row in rows.of_cells(first, {"pair_similarity": alike}):
            yield row | {"reference": second}


def _dominance(protocol: Protocol) -> dict[str, Float[Tensor, " cell"]]:
    if protocol.cells.model.layers < 2:
        return {}
    updates = [
        similarity.raw_update(states.outputs, protocol.zero.outputs)[:, :, 0].transpose(1, 2)  # cell layer query feature
        for states in (protocol.in_context, protocol.fine_tuned)
    ]
    matrices = [similarity.cross_layer_matrix(*cell) for cell in zip(*updates, strict=True)]
    return {"diagonal_dominance": torch.tensor([similarity.diagonal_dominance(matrix) for matrix in matrices])}


def label_contrast(
    protocol: Protocol, wrong_shown: States, wrong_tuned: States
) -> tuple[Similarities, dict[str, Float[Tensor, " cell"]]]:
    """What labels alone change: demonstrations with their own labels against the same texts with wrong ones, on both sides.

    Format, domain, positions and what is common to both label words cancel. The null takes fine-tuning's contrast from another draw of
    the task. The check is how much of its margin in-context learning owes to the labels.
    """
    shown = protocol.in_context.outputs - wrong_shown.outputs
    tuned = protocol.fine_tuned.outputs - wrong_tuned.outputs
    cells, other = protocol.cells, []
    for cell, task in enumerate(cells.tasks):
        draws = [place for place, name in enumerate(cells.tasks) if name == task]
        other.append(draws[(draws.index(cell) + 1) % len(draws)])
    found = {
        "raw": similarity.cosine(shown, tuned),
        "label_null": similarity.cosine(shown, tuned[other]),
    }
    moved = [
        torch.stack([margin(logits, own) for logits, own in zip(states.logits, cells.truth, strict=True)]).mean(1)
        for states in (protocol.in_context, wrong_shown)
    ]
    return {name: values.nanmean(1) for name, values in found.items()}, {"label_margin": moved[0] - moved[1]}


# Attention to the demonstrations


def kendall(protocol: Protocol, root: int) -> Similarities:
    """Rank correlation of attention to the demonstrations' tokens with the weights of fine-tuning's dual form.

    kendall             Dai et al.'s: attention logits summed over heads against products of scaled queries
    kendall_random      theirs against U[0, 1)
    kendall_inputs      against products of the inputs of the updated layers, which are what the dual form has
    kendall_errors      the same, each times its error signal of the values: what a token moves
    kendall_mismatched  as kendall_inputs, with another query's weights
    """
    cells, demonstrations = protocol.cells, protocol.demonstrations
    training = read_training(cells.model, demonstrations, protocol.masks, protocol.rates)
    taken, places, valid = _shown_tokens(protocol)
    seen = slice(KENDALL_QUERIES)
    names = ("kendall", "kendall_random", "kendall_inputs", "kendall_errors", "kendall_mismatched")
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    for cell, rng in enumerate(cells.rngs(root, "kendall")):
        place, kept = places[cell], valid[cell]
        attention = protocol.in_context.prompt_scores[cell, seen][..., place]  # query position layer token
        # token layer feature -> layer token feature
        memories = [part[cell].flatten(0, 1)[taken[cell]].transpose(0, 1) for part in (training.queries, training.inputs)]
        errors = training.errors[cell].flatten(0, 1)[taken[cell]].T  # layer token
        asked = [part[cell, seen] for part in (protocol.fine_tuned.queries, protocol.fine_tuned.inputs)]
        published, dual = (similarity.dual_weights(memory, query) for memory, query in zip(memories, asked, strict=True))
        weights = {
            "kendall": published,
            "kendall_random": torch.from_numpy(rng.random(published.shape)),
            "kendall_inputs": dual,
            "kendall_errors": similarity.error_weighted(memories[1], asked[1], errors),
            "kendall_mismatched": dual.roll(1, dims=0),
        }
        for name, weight in weights.items():
            found[name].append(similarity.kendall_tau(attention, weight, kept).nanmean(0))
    return {name: torch.stack(cell) for name, cell in found.items()}


def _shown_tokens(protocol: Protocol) -> tuple[Tensor, Tensor, Bool[Tensor, "cell token"]]:
    """Where each token of the demonstrations stands in fine-tuning's rows, laid end to end, and in the prompt; without what separates
    demonstrations, which fine-tuning does not read. Padded to the same number in all cells; which are tokens."""
    rows, cells = protocol.demonstrations, protocol.cells
    longest, context = rows.tokens.shape[2], rows.context
    taken, places = [], []
    for speaker, lengths in zip(cells.speakers, rows.lengths.tolist(), strict=True):
        start, own, shown = context, [], []
        for row, length in enumerate(lengths):
            own += range(row * longest + context, row * longest + length)
            shown += range(start, start + length - context)
            start += length - context + len(speaker.ending)
        taken.append(own)
        places.append(shown)
    most = max(map(len, taken))
    valid = torch.tensor([[True] * len(own) + [False] * (most - len(own)) for own in taken])
    padded = [torch.tensor([own + [0] * (most - len(own)) for own in part]) for part in (taken, places)]
    return *padded, valid
