"""Every control of `controls.CONTROLS`, and every other way to fine-tune, run on the cells of a protocol.

What changes parameters is as strong as fine-tuning (`protocol.as_strong`) unless it says otherwise. A control stands in the place of
fine-tuning or of in-context learning; the other side of the comparison stays as it is.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from activation_descent.finetuning import controls
from activation_descent.finetuning.cells import Cells
from activation_descent.finetuning.copies import Deltas, Sequences, norms, rounded_to_half, subset
from activation_descent.finetuning.descent import PUBLISHED, Recipe, descend
from activation_descent.finetuning.evaluation import States, read_states
from activation_descent.finetuning.evolution import Strategy, evolve
from activation_descent.finetuning.matching import match_norm
from activation_descent.finetuning.protocol import Protocol, as_strong, chosen_rates, run_protocol
from activation_descent.language.models import LanguageModel
from activation_descent.language.prompts import Speaker

SUBSETS = ("query_output", "mlp_in", "mlp_out", "biases_norms", "last_layer", "head")  # C3, besides the soft prompt
LOSSES = ("input", "label", "restricted", "squared", "linear")  # the first two are C6
STEPS = {  # other ways to take steps
    "full_batch": Recipe(sequential=False),
    "passes_4": Recipe(passes=4),
    "passes_8": Recipe(passes=8),
    "adam": Recipe(optimiser="adam"),
    "sign": Recipe(optimiser="sign"),
}


@dataclass(frozen=True)
class Intervention:
    """
    Attributes:
        name: an id of `controls.CONTROLS`, with a suffix where it has several forms, or what was done otherwise.
        replaces: "fine_tuned" or "in_context".
        states: on the evaluation queries.
        numbers: further numbers of each cell, by metric.
    """

    name: str
    replaces: str
    states: States
    numbers: dict[str, Float[Tensor, " cell"]]


@dataclass(frozen=True)
class Effort:
    """How much is spent.

    Attributes:
        rates: to choose from, for gradient descent.
        relative_rates: to choose from, for optimisers whose steps do not depend on the gradient's length.
        prompt_tokens: of the soft prompt.
        evolution: of C2.
    """

    rates: Sequence[float]
    relative_rates: Sequence[float]
    prompt_tokens: int
    evolution: Strategy

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> "Effort":
        """From `finetuning.effort` of the configuration."""
        return cls(**{**settings, "evolution": Strategy(**settings["evolution"])})


def interventions(protocol: Protocol, speakers: Sequence[Speaker], effort: Effort, root: int) -> Iterator[Intervention]:
    """All of them, one after the other, so that no more than one's states are held.

    Args:
        speakers: of all tasks of the study, from which other tasks are taken.
    """
    yield from _changed_weights(protocol, root)
    yield _evolved(protocol, effort.evolution, root)
    yield from _other_parameters(protocol, effort)
    yield from _other_demonstrations(protocol, speakers, root)
    yield from _other_losses(protocol, effort)
    yield from _other_steps(protocol, effort)
    yield from _other_prompts(protocol, speakers, root)
    yield from _changed_states(protocol, root)


def _tuned(name: str, protocol: Protocol, deltas: Deltas, **numbers: Tensor) -> Intervention:
    cells = protocol.cells
    states = read_states(cells.model, cells.queries, cells.labels, deltas)
    return Intervention(name, "fine_tuned", states, {"delta_norm": norms(deltas)} | numbers)


def _equal(name: str, protocol: Protocol, deltas: Deltas) -> Intervention:
    equal = as_strong(protocol, deltas)
    return _tuned(name, protocol, equal.deltas, target_reached=equal.reached)


# Fine-tuning's weights, changed


def _changed_weights(protocol: Protocol, root: int) -> Iterator[Intervention]:
    cells, deltas, masks = protocol.cells, protocol.deltas, protocol.masks
    yield _tuned("C1", protocol, controls.gaussian_deltas(cells.rngs(root, "C1"), deltas, masks))
    yield _tuned("C1p", protocol, controls.permuted_deltas(cells.rngs(root, "C1p"), deltas, masks))
    yield _tuned("C10_mirrored", protocol, controls.mirrored(deltas))
    yield _tuned("C10_ascent", protocol, descend(cells.model, protocol.demonstrations, masks, -protocol.rates))
    half, moved = rounded_to_half(cells.model, deltas)
    yield _tuned("float16", protocol, half, changed_in_float16=moved)


def _evolved(protocol: Protocol, strategy: Strategy, root: int) -> Intervention:
    cells = protocol.cells
    lengths, rngs = norms(protocol.deltas), cells.rngs(root, "C2")
    found = evolve(cells.model, protocol.demonstrations, protocol.masks, lengths, cells.tuning, protocol.target, rngs, strategy)
    numbers = {"target_reached": found.reached.float(), "gradient_alignment": found.alignment}
    return _tuned("C2", protocol, found.deltas, **numbers)


# Fine-tuning of something else, or otherwise


def _other_parameters(protocol: Protocol, effort: Effort) -> Iterator[Intervention]:
    cells = protocol.cells
    for name in SUBSETS:
        masks = subset(cells.model, name)
        rates = chosen_rates(cells, protocol.demonstrations, masks, effort.rates)
        yield _equal(f"C3_{name}", protocol, descend(cells.model, protocol.demonstrations, masks, rates))
    yield _soft_prompt(protocol, effort)
    recipe = Recipe(layer_causal=True)
    yield _equal("layer_causal", protocol, descend(cells.model, protocol.demonstrations, protocol.masks, protocol.rates, recipe))


def _soft_prompt(protocol: Protocol, effort: Effort) -> Intervention:
    """C3: vectors in front of every text, which begin as the embeddings of a word that separates examples."""
    cells = protocol.cells
    placeholders = [cells.speakers[0].ending[-1]] * effort.prompt_tokens
    demonstrations, queries = (rows.with_placeholders(placeholders) for rows in (protocol.demonstrations, cells.queries))
    tuning = replace(cells.tuning, queries=cells.tuning.queries.with_placeholders(placeholders))
    masks = subset(cells.model, "prefix", effort.prompt_tokens)
    rates = chosen_rates(cells, demonstrations, masks, effort.rates, tuning=tuning)
    equal = as_strong(protocol, descend(cells.model, demonstrations, masks, rates), tuning)
    states = read_states(cells.model, queries, cells.labels, equal.deltas)
    numbers = {"delta_norm": norms(equal.deltas), "target_reached": equal.reached}
    return Intervention("C3_prefix", "fine_tuned", states, numbers)


def _other_demonstrations(protocol: Protocol, speakers: Sequence[Speaker], root: int) -> Iterator[Intervention]:
    cells, number = protocol.cells, len(protocol.cells.labels[0])

    def tune(demonstrations: Sequences) -> Deltas:
        return descend(cells.model, demonstrations, protocol.masks, protocol.rates)

    lengths = norms(protocol.deltas)
    foreign = []
    for speaker, shown, rng in zip(cells.speakers, cells.shown, cells.rngs(root, "C4"), strict=True):
        rest = [each for each in speakers if each.task.name != speaker.task.name]
        other = rest[rng.integers(len(rest))]
        foreign.append((other, *controls.another_task(rng, speaker, shown, other)))
    rows = [controls.demonstration_rows(other, examples, tokens) for other, examples, tokens in foreign]
    yield _equal("C4", protocol, tune(Sequences.of(rows, cells.model.begin)))
    for name, relabel in (("C5_wrong", controls.wrong_labels), ("C5_random", controls.random_labels)):
        deltas = tune(cells.read(cells.shown, relabelled_tokens(cells, relabel, root, name, number)))
        yield _tuned(name, protocol, match_norm(deltas, lengths))
        if name == "C5_wrong":
            yield _tuned("wrong_labels_fine_tuned", protocol, deltas)
    tokens = []
    for speaker, shown, rng in zip(cells.speakers, cells.shown, cells.rngs(root, "C5_words"), strict=True):
        words = controls.other_words(rng, speaker)
        tokens.append([words[example.label] for example in shown])
    yield _tuned("C5_words", protocol, match_norm(tune(cells.read(cells.shown, tokens)), lengths))
    yield _equal("C7", protocol, tune(cells.read(cells.others, cells.own_labels(cells.others))))
    orders = [rng.permutation(len(shown)) for rng, shown in zip(cells.rngs(root, "order"), cells.shown, strict=True)]
    shown = [[cell[i] for i in order] for cell, order in zip(cells.shown, orders, strict=True)]
    yield _tuned("reordered_fine_tuned", protocol, tune(cells.read(shown, cells.own_labels(shown))))
    prompts = cells.prompts_of(shown, cells.own_labels(shown))
    yield _behind("reordered_in_context", protocol, prompts)


def relabelled_tokens(cells: Cells, relabel: Callable[..., np.ndarray], root: int, purpose: str, classes: int) -> list[list[int]]:
    """Label tokens of each cell's demonstrations after `controls.wrong_labels` or `controls.random_labels`."""
    tokens = []
    for speaker, shown, rng in zip(cells.speakers, cells.shown, cells.rngs(root, purpose), strict=True):
        changed = relabel(rng, np.array([example.label for example in shown]), classes)
        tokens.append([speaker.labels[label] for label in changed])
    return tokens


def _other_losses(protocol: Protocol, effort: Effort) -> Iterator[Intervention]:
    cells = protocol.cells
    for loss in LOSSES:
        recipe = Recipe(loss=loss)
        rates = chosen_rates(cells, protocol.demonstrations, protocol.masks, effort.rates, recipe)
        deltas = descend(cells.model, protocol.demonstrations, protocol.masks, rates, recipe, cells.labels)
        yield _equal(f"C6_{loss}" if loss in ("input", "label") else f"loss_{loss}", protocol, deltas)


def _other_steps(protocol: Protocol, effort: Effort) -> Iterator[Intervention]:
    cells = protocol.cells
    for name, recipe in STEPS.items():
        grid = effort.rates if recipe.optimiser == PUBLISHED.optimiser else effort.relative_rates
        rates = chosen_rates(cells, protocol.demonstrations, protocol.masks, grid, recipe)
        yield _equal(f"step_{name}", protocol, descend(cells.model, protocol.demonstrations, protocol.masks, rates, recipe))


# In-context learning of something else


def _behind(name: str, protocol: Protocol, prompts: list[list[int]]) -> Intervention:
    cells = protocol.cells
    return Intervention(name, "in_context", read_states(cells.model, cells.queries, cells.labels, prompts=prompts), {})


def _other_prompts(protocol: Protocol, speakers: Sequence[Speaker], root: int) -> Iterator[Intervention]:
    cells, number = protocol.cells, len(protocol.cells.labels[0])
    prompts = []
    for speaker, prompt, rng in zip(cells.speakers, protocol.prompts, cells.rngs(root, "C11_unrelated"), strict=True):
        rest = [each for each in speakers if each.task.name != speaker.task.name]
        prompts.append(controls.unrelated_prompt(rng, rest, cells.model.begin, len(prompt)))
    yield _behind("C11_unrelated", protocol, prompts)
    bare = [controls.unlabelled_prompt(*cell) for cell in zip(cells.speakers, cells.shown, strict=True)]
    yield _behind("C11_unlabelled", protocol, bare)
    # The same wrong labels as fine-tuning's, so that the two can be contrasted
    wrong = relabelled_tokens(cells, controls.wrong_labels, root, "C5_wrong", number)
    yield _behind("C11_wrong", protocol, cells.prompts_of(cells.shown, wrong))
    yield _behind("ceiling_in_context", protocol, cells.prompts_of(cells.others, cells.own_labels(cells.others)))


# Recorded states, changed


def _changed_states(protocol: Protocol, root: int) -> Iterator[Intervention]:
    cells, zero, tuned, shown = protocol.cells, protocol.zero, protocol.fine_tuned, protocol.in_context
    updates = [
        controls.gaussian_updates(rng, update)
        for rng, update in zip(cells.rngs(root, "C0"), tuned.outputs - zero.outputs, strict=True)
    ]
    # Of these states only the attentions' outputs are anything but fine-tuning's own
    yield Intervention("C0", "fine_tuned", replace(tuned, outputs=zero.outputs + torch.stack(updates)), {})
    steered = controls.steered_outputs(zero.outputs, shown.outputs)
    logits = controls.steered_logits(cells.model, cells.queries, cells.labels, steered[:, :, 0])
    yield Intervention("C12", "fine_tuned", replace(zero, outputs=steered, logits=logits), {})


# Other networks (C9)


def other_networks(protocol: Protocol, root: int) -> Iterator[tuple[str, Protocol]]:
    """The whole protocol, at the same rates, on networks that have learned nothing."""
    cells = protocol.cells
    for name, make in (
        ("untrained", controls.untrained),
        ("random_blocks", controls.random_blocks),
        ("shuffled", controls.shuffled),
    ):
        rng = cells.rngs(root, f"C9_{name}")[0]
        yield f"C9_{name}", run_protocol(on_another_model(cells, make(cells.model, rng)), rates=protocol.rates)


def on_another_model(cells: Cells, model: LanguageModel) -> Cells:
    """The same cells, asked of a model with the same vocabulary."""
    return replace(cells, model=model, speakers=[replace(speaker, model=model) for speaker in cells.speakers])
