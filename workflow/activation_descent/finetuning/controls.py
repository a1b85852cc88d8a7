"""Controls: interventions that resemble fine-tuning or in-context learning and lack one thing that these are said to owe their effect to.

Some change the parameters (deltas), some the demonstrations, the prompt or the network, some only what was recorded.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from copy import deepcopy

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from activation_descent.finetuning.copies import Deltas, Masks, Sequences
from activation_descent.finetuning.evaluation import TOKENS_AT_ONCE
from activation_descent.language.models import LanguageModel
from activation_descent.language.prompts import Speaker
from activation_descent.language.tasks import Example

CONTROLS = {  # and what each removes
    "C0": "everything but the size: isotropic Gaussian changes of the recorded states, as long as fine-tuning's",
    "C1": "everything but the size of the change of each tensor: Gaussian changes of keys and values",
    "C1p": "everything but size and spectrum: fine-tuning's change with rows and columns permuted",
    "C2": "the gradient: keys and values evolved to the same loss in a random subspace",
    "C3": "keys and values: the same descent on other parameters",
    "C4": "the texts: demonstrations of another task with this task's label words",
    "C5": "the labels: the same texts with (i) wrong labels, (ii) labels drawn at random, (iii) other words as labels",
    "C6": "the task or the language: a loss of the texts alone, a loss of the labels alone",
    "C7": "the very demonstrations: others of the same task",
    "C8": "the network's insides: a shift of the label words' logits, calibrated",
    "C9": "what was learned: random networks, random blocks, weights shuffled within each tensor",
    "C10": "the sign: fine-tuning's change mirrored, and ascent at the same rate",
    "C11": "what prompts say: an unrelated text as long, demonstrations without labels, wrong labels",
    "C12": "the single query: the mean change of the other queries' states behind the prompt",
}


# Changes of parameters


def gaussian_deltas(rngs: Sequence[np.random.Generator], deltas: Deltas, masks: Masks) -> Deltas:
    """C1: a Gaussian change of every tensor, in each run as long as the tensor's own.

    Args:
        rngs: one for each run.
    """

    def drawn(rng: np.random.Generator, delta: Tensor, mask: Tensor) -> Tensor:
        noise = torch.from_numpy(rng.standard_normal(delta.shape, dtype=np.float32)) * mask
        return noise * (delta.norm() / noise.norm())

    return _for_each(rngs, deltas, masks, drawn)


def permuted_deltas(rngs: Sequence[np.random.Generator], deltas: Deltas, masks: Masks) -> Deltas:
    """C1p: the same deltas with the rows and the columns of each tensor in another order, so that singular values stay.

    Args:
        rngs: one for each run.
    """

    def drawn(rng: np.random.Generator, delta: Tensor, mask: Tensor) -> Tensor:
        for axis in range(delta.ndim):
            # Trained rows or columns of a fused module change places among themselves
            trained = np.flatnonzero(mask.movedim(axis, 0).flatten(1).amax(1) if mask.ndim > 1 else mask)
            order = np.arange(delta.shape[axis])
            order[trained] = trained[rng.permutation(len(trained))]
            delta = delta.index_select(axis, torch.from_numpy(order))
        return delta

    return _for_each(rngs, deltas, masks, drawn)


def _for_each(
    rngs: Sequence[np.random.Generator],
    deltas: Deltas,
    masks: Masks,
    drawn: Callable[[np.random.Generator, Tensor, Tensor], Tensor],
) -> Deltas:
    runs = [{name: drawn(rng, delta[run], masks[name]) for name, delta in deltas.items()} for run, rng in enumerate(rngs)]
    return {name: torch.stack([run[name] for run in runs]) for name in deltas}


def mirrored(deltas: Deltas) -> Deltas:
    """C10: theta_0 - delta. The other ascent, away from the demonstrations step by step, is `descend` at a negative rate."""
    return {name: -delta for name, delta in deltas.items()}


# Demonstrations


def demonstration_rows(speaker: Speaker, examples: Sequence[Example], label_tokens: Sequence[int]) -> list[list[int]]:
    """What fine-tuning reads: each text in the task's template up to its label, without what separates examples in a prompt."""
    return [[*speaker.query(example.text), label] for example, label in zip(examples, label_tokens, strict=True)]


def wrong_labels(rng: np.random.Generator, labels: Int[np.ndarray, " example"], classes: int) -> Int[np.ndarray, " example"]:
    """C5 (i), C11: for each example one of the other classes; with two classes the other one."""
    return (labels + rng.integers(1, classes, size=len(labels))) % classes


def random_labels(rng: np.random.Generator, labels: Int[np.ndarray, " example"], classes: int) -> Int[np.ndarray, " example"]:
    """C5 (ii): any class, whatever the example's own."""
    return rng.integers(classes, size=len(labels))


def other_words(rng: np.random.Generator, speaker: Speaker) -> list[int]:
    """C5 (iii): tokens of words without a meaning that stand for the classes, one for each."""
    return rng.choice(np.array(speaker.abstract), len(speaker.labels), replace=False).tolist()


def another_task(
    rng: np.random.Generator, speaker: Speaker, shown: Sequence[Example], other: Speaker
) -> tuple[list[Example], list[int]]:
    """C4: for each demonstration one of another task, of nearly its length, and the word of this task that labels it.

    Returns:
        Examples of the other task, and label tokens of this one: the class of the same place, counted round where there are fewer.
    """
    pool = [other.task.demonstrations[i] for i in rng.permutation(len(other.task.demonstrations))]
    length = {example: len(other.query(example.text)) for example in pool}
    chosen: list[Example] = []
    for example in shown:
        wanted = len(speaker.query(example.text))
        chosen.append(min(pool, key=lambda candidate: abs(length[candidate] - wanted)))
        pool.remove(chosen[-1])
    return chosen, [speaker.labels[example.label % len(speaker.labels)] for example in chosen]


# Prompts


def unrelated_prompt(rng: np.random.Generator, speakers: Sequence[Speaker], begin: Sequence[int], length: int) -> list[int]:
    """C11: texts of other tasks without templates and labels, one after the other, cut at a prompt's length.

    Args:
        speakers: of the other tasks, to the same model.
        begin: the begin token, which counts.
    """
    tokens = list(begin)
    while len(tokens) < length:
        speaker = speakers[rng.integers(len(speakers))]
        pool = speaker.task.demonstrations
        tokens += speaker.model.encode(" " + pool[rng.integers(len(pool))].text)
    return tokens[:length]


def unlabelled_prompt(speaker: Speaker, shown: Sequence[Example]) -> list[int]:
    """C11: demonstrations whose labels are left out."""
    pieces = [[*speaker.query(example.text), *speaker.ending] for example in shown]
    return [*speaker.model.begin, *(token for piece in pieces for token in piece)]


# Networks


def untrained(model: LanguageModel, rng: np.random.Generator) -> LanguageModel:
    """C9: the same architecture as transformers initialises it."""
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**63)))
        network = AutoModelForCausalLM.from_config(deepcopy(model.network.config))
    return LanguageModel(f"{model.name} untrained", network, model.tokenizer)


@torch.no_grad()
def random_blocks(model: LanguageModel, rng: np.random.Generator) -> LanguageModel:
    """C9: random blocks between the trained embeddings, normalisations and unembedding (TE of Deutch et al. 2024, table 1)."""
    fresh = untrained(model, rng)
    blocks = {id(parameter) for block in fresh.blocks for parameter in block.parameters() if parameter.requires_grad}
    norms = {id(p) for module in fresh.network.modules() if _is_norm(module) for p in module.parameters(recurse=False)}
    trained = dict(model.network.named_parameters())
    for name, parameter in fresh.network.named_parameters():
        if id(parameter) not in blocks or id(parameter) in norms:
            parameter.copy_(trained[name])
    return LanguageModel(f"{model.name} random blocks", fresh.network, model.tokenizer)


def _is_norm(module: nn.Module) -> bool:
    return isinstance(getattr(module, "weight", None), nn.Parameter) and module.weight.ndim == 1


@torch.no_grad()
def shuffled(model: LanguageModel, rng: np.random.Generator) -> LanguageModel:
    """C9: every tensor keeps its entries and loses their order."""
    network = deepcopy(model.network)
    for parameter in network.parameters():
        order = torch.from_numpy(rng.permutation(parameter.numel()))
        parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return LanguageModel(f"{model.name} shuffled", network, model.tokenizer)


# Recorded states


def gaussian_updates(rng: np.random.Generator, update: Float[Tensor, "*state feature"]) -> Float[Tensor, "*state feature"]:
    """C0: isotropic Gaussian updates, each as long as the given one."""
    noise = torch.from_numpy(rng.standard_normal(update.shape, dtype=np.float32))
    return noise * (update.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True))


def steered_outputs(
    zero: Float[Tensor, "run query *place feature"], in_context: Float[Tensor, "run query *place feature"]
) -> Float[Tensor, "run query *place feature"]:
    """C12: the states without demonstrations plus the mean update that demonstrations make of a run's other queries (a task vector).

    The query's own update is left out, or it would be a part of the mean.
    """
    update = in_context - zero
    return zero + (update.sum(1, keepdim=True) - update) / (update.shape[1] - 1)


@torch.no_grad()
def steered_logits(
    model: LanguageModel,
    queries: Sequences,
    labels: Int[Tensor, "run label"],
    outputs: Float[Tensor, "run query layer feature"],
) -> Float[Tensor, "run query label"]:
    """Logits of the label words where every attention gives these outputs at the predicting token, without demonstrations."""
    runs, number, longest = queries.tokens.shape
    words = labels.repeat_interleave(number, dim=0)
    rows = (queries.tokens.flatten(0, 1), queries.lengths.flatten() - 1, outputs.flatten(0, 1), words)
    results = []
    for tokens, ends, given, own in zip(*(part.split(max(1, TOKENS_AT_ONCE // longest)) for part in rows), strict=True):
        with ExitStack() as hooks:
            for layer, block in enumerate(model.blocks):
                module = block.get_submodule(f"{model.layout.attention}.{model.layout.output}")
                hooks.callback(module.register_forward_hook(_put(given[:, layer], ends, tokens.shape)).remove)
            results.append(model.logits(tokens, at=ends).gather(1, own))
    return torch.cat(results).unflatten(0, (runs, number))


def _put(given: Float[Tensor, "row feature"], ends: Int[Tensor, " row"], shape: tuple[int, ...]) -> Callable:
    def hook(module: nn.Module, arguments: tuple, output: Tensor) -> Tensor:
        changed = output.reshape(*shape, -1).clone()
        changed[torch.arange(len(ends)), ends] = given
        return changed.view_as(output)

    return hook
