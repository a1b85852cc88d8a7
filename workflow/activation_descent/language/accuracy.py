"""Accuracy against the number of demonstrations, under four ways of labelling them.

    gold       the demonstrations carry their own labels
    random     each carries a label drawn at random (Min et al. 2022)
    abstract   words without a meaning stand for the classes, the same in all demonstrations (Pan et al. 2023)
    flipped    each class carries the label of the next one

Gold and random ask for the task's own labels, abstract for the words that stand for them. With flipped labels a prediction counts as right
when it is the query's own label: what was known before speaks for it and the prompt against it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from activation_descent.language import STUDY
from activation_descent.language.prompts import Speaker, next_logits
from activation_descent.records import Row
from activation_descent.seeding import generator

LABELLINGS = ("gold", "random", "abstract", "flipped")
EXPERIMENT = "accuracy"


@dataclass(frozen=True)
class AccuracySettings:
    """What is measured.

    Attributes:
        demonstrations: numbers of demonstrations, 0 among them.
        draws: how often demonstrations, their order and queries are drawn.
        queries: queries of a draw.
    """

    demonstrations: Sequence[int]
    draws: int
    queries: int


def calibration(logits: Float[Tensor, "query label"]) -> Float[Tensor, " label"]:
    """The shift of the logits that makes every label equally probable on average: what a model prefers whatever the text.

    Needs no labels, only texts. Solves `mean_i softmax(logits_i + b) = 1 / C` by fixed-point iteration.
    """
    shift = torch.zeros(logits.shape[1], dtype=torch.float64)
    for _ in range(1000):
        mean = (logits.double() + shift).softmax(dim=1).mean(dim=0)
        step = -(mean * logits.shape[1]).log()
        shift += step
        if step.abs().max() < 1e-9:
            break
    return (shift - shift.mean()).to(logits.dtype)


def labelled(
    labelling: str, speaker: Speaker, label: Int[np.ndarray, " demonstration"], rng: np.random.Generator
) -> tuple[list[int], list[int]]:
    """How the demonstrations are labelled, and which token stands for each class when the answer is scored.

    Returns:
        A token for each demonstration, and one for each class.
    """
    own, classes = np.array(speaker.labels), len(speaker.labels)
    match labelling:
        case "gold":
            return own[label].tolist(), own.tolist()
        case "random":
            return own[rng.integers(classes, size=len(label))].tolist(), own.tolist()
        case "abstract":
            meant = rng.choice(np.array(speaker.abstract), classes, replace=False)
            return meant[label].tolist(), meant.tolist()
        case _:  # flipped
            return own[(label + 1) % classes].tolist(), own.tolist()


def accuracy_records(speaker: Speaker, settings: AccuracySettings, root: int, variant: str) -> Iterator[Row]:
    """Accuracy of one model on one task for each draw, labelling and number of demonstrations.

    A draw's curves share queries and the order of demonstrations, so that they can be compared point by point. Draws do not depend on
    the model, so that models can be compared, too.
    """
    model, task = speaker.model, speaker.task
    most = max(settings.demonstrations)
    tuning, _ = speaker.queries(task.tuning)
    own = torch.tensor(speaker.labels)
    shift = calibration(next_logits(model, model.encode_prefix(model.begin), tuning)[:, own])
    for draw in range(settings.draws):
        rng = generator(root, STUDY, EXPERIMENT, task.name, "evaluate", draw)
        asked = [task.evaluation[i] for i in rng.permutation(len(task.evaluation))[: settings.queries]]
        shown = [task.demonstrations[i] for i in rng.permutation(len(task.demonstrations))[:most]]
        truth = torch.tensor([example.label for example in asked])
        queries, shortened = speaker.queries(asked)
        longest = max(map(len, queries))
        base = {
            "study": STUDY,
            "experiment": EXPERIMENT,
            "variant": variant,
            "seed": draw,
            "task": task.name,
            "group": task.group,
            "classes": len(task.labels),
        }

        def row(labelling: str, number: int, metric: str, value: float, base: Row = base) -> Row:
            return base | {"labelling": labelling, "demonstrations": number, "metric": metric, "value": value}

        for labelling in LABELLINGS:
            rng = generator(root, STUDY, EXPERIMENT, task.name, labelling, draw)
            label = np.array([example.label for example in shown])
            label_tokens, classes = labelled(labelling, speaker, label, rng)
            prompt = speaker.prompt(shown, label_tokens, longest)
            read = model.encode_prefix(prompt.tokens)
            for number in settings.demonstrations:
                if number == 0 and labelling not in ("gold", "abstract"):
                    continue  # without demonstrations there is nothing to label
                used = min(number, prompt.used)
                logits = next_logits(model, read.first(prompt.ends[used]), queries)[:, torch.tensor(classes)]
                yield row(labelling, number, "accuracy", _accuracy(logits, truth))
                if labelling == "gold":
                    yield row(labelling, number, "demonstrations_left_out", float(number - used))
                    yield row(labelling, number, "queries_shortened", float(shortened))
                if labelling == "gold" and number == 0:
                    yield row(labelling, number, "calibrated_accuracy", _accuracy(logits + shift, truth))


def _accuracy(logits: Float[Tensor, "query label"], truth: Int[Tensor, " query"]) -> float:
    return (logits.argmax(dim=1) == truth).double().mean().item()
