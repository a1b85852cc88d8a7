"""The units of the audit: draws of demonstrations and queries for each task, tasks with equally many classes side by side.

A cell is a task and a draw. Demonstrations, tuning queries and evaluation queries come from pools with no text in common; the
demonstrations of a cell and its *others*, on which its noise ceilings rest, are disjoint.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from activation_descent.errors import ModelError
from activation_descent.finetuning import STUDY
from activation_descent.finetuning.controls import demonstration_rows
from activation_descent.finetuning.copies import Sequences
from activation_descent.finetuning.matching import Tuning
from activation_descent.language.models import LanguageModel
from activation_descent.language.prompts import Speaker
from activation_descent.language.tasks import Example
from activation_descent.records import Row
from activation_descent.seeding import generator

FEWEST = 3  # demonstrations of a cell: one whose influence is measured, and two fillers


@dataclass(frozen=True)
class Sampling:
    """How many of everything a cell has.

    Attributes:
        demonstrations: at most; fewer where the context window holds fewer, and then as many in all cells of a group.
        draws: of each task.
        queries, tuning_queries: of each cell, to evaluate and to tune on.
        rate_draws: of each task, on whose tuning queries its rates are chosen.
    """

    demonstrations: int
    draws: int
    queries: int
    tuning_queries: int
    rate_draws: int


@dataclass(frozen=True)
class Cells:
    """Cells of tasks with equally many classes; runs of `Sequences` and first axes of tensors count them.

    Attributes:
        speakers, draws: of each cell.
        shown, others: its demonstrations, and as many others of the task.
        queries, truth: evaluation queries, each behind the begin token, and the place of their label among `labels`.
        labels: tokens of the label words.
        tuning: queries to tune on.
        rate_draws: draws of each task that have a say in its rates.
    """

    model: LanguageModel
    speakers: list[Speaker]
    draws: list[int]
    shown: list[list[Example]]
    others: list[list[Example]]
    queries: Sequences
    truth: Int[Tensor, "cell query"]
    labels: Int[Tensor, "cell label"]
    tuning: Tuning
    rate_draws: int

    def __len__(self) -> int:
        return len(self.draws)

    @property
    def tasks(self) -> list[str]:
        """The task of each cell, by name."""
        return [speaker.task.name for speaker in self.speakers]

    @property
    def task_numbers(self) -> Int[Tensor, " cell"]:
        """The place of each cell's task among the names in their order."""
        names = sorted(set(self.tasks))
        return torch.tensor([names.index(name) for name in self.tasks])

    def runs(self, cell: int) -> "Cells":
        """One cell alone."""
        one = slice(cell, cell + 1)
        lists = (part[one] for part in (self.speakers, self.draws, self.shown, self.others))
        return Cells(
            self.model, *lists, self.queries.runs(one), self.truth[one], self.labels[one], self.tuning.runs(one), self.rate_draws
        )

    def rngs(self, root: int, purpose: str) -> list[np.random.Generator]:
        """A stream of each cell."""
        return [generator(root, STUDY, "cells", task, purpose, draw) for task, draw in zip(self.tasks, self.draws, strict=True)]

    def own_labels(self, examples: Sequence[Sequence[Example]]) -> list[list[int]]:
        """The label token of each cell's examples."""
        return own_labels(self.speakers, examples)

    def read(self, examples: Sequence[Sequence[Example]], label_tokens: Sequence[Sequence[int]]) -> Sequences:
        """Demonstrations of each cell as fine-tuning reads them."""
        rows = [demonstration_rows(*cell) for cell in zip(self.speakers, examples, label_tokens, strict=True)]
        return Sequences.of(rows, self.model.begin)

    def prompts_of(self, examples: Sequence[Sequence[Example]], label_tokens: Sequence[Sequence[int]]) -> list[list[int]]:
        """The same as in-context learning reads them."""
        return [speaker.prompt(*cell, 0).tokens for speaker, *cell in zip(self.speakers, examples, label_tokens, strict=True)]

    def base(self, cell: int) -> Row:
        """What identifies a cell in records."""
        return {"study": STUDY, "task": self.tasks[cell], "seed": self.draws[cell]}


def draw_cells(speakers: Sequence[Speaker], sampling: Sampling, root: int) -> Iterator[Cells]:
    """Cells in groups of equally many classes. What is drawn does not depend on the model, but for what its window holds.

    Raises:
        ModelError: if the window holds fewer than `FEWEST` demonstrations of a task.
    """
    for classes in sorted({len(speaker.labels) for speaker in speakers}):
        group = [speaker for speaker in speakers if len(speaker.labels) == classes]
        yield _group([(speaker, draw) for speaker in group for draw in range(sampling.draws)], sampling, root)


def own_labels(speakers: Sequence[Speaker], examples: Sequence[Sequence[Example]]) -> list[list[int]]:
    """The label token of each cell's examples."""
    return [[speaker.labels[each.label] for each in own] for speaker, own in zip(speakers, examples, strict=True)]


def _group(pairs: Sequence[tuple[Speaker, int]], sampling: Sampling, root: int) -> Cells:
    speakers, model = [speaker for speaker, _ in pairs], pairs[0][0].model
    pools = [(speaker.task.evaluation, speaker.task.tuning, speaker.task.demonstrations) for speaker in speakers]
    wanted = (sampling.queries, sampling.tuning_queries, 2 * sampling.demonstrations)
    numbers = [min(number, *map(len, own)) for number, own in zip(wanted, zip(*pools, strict=True), strict=True)]
    drawn = []
    for (speaker, draw), own in zip(pairs, pools, strict=True):
        rng = generator(root, STUDY, "cells", speaker.task.name, "draw", draw)
        parts = [[pool[i] for i in rng.permutation(len(pool))[:number]] for pool, number in zip(own, numbers, strict=True)]
        half = len(parts[2]) // 2
        drawn.append((parts[0], parts[1], parts[2][:half], parts[2][half : 2 * half]))
    asked, tuned, shown, others = (list(part) for part in zip(*drawn, strict=True))
    # Every cell shows as many demonstrations as fit in the fullest window, before its longest query and a label
    fits = []
    for examples in (shown, others):
        for speaker, cell, tokens, queries in zip(speakers, examples, own_labels(speakers, examples), asked, strict=True):
            used = speaker.prompt(cell, tokens, max(map(len, speaker.queries(queries)[0])) + 1).used
            if used < FEWEST:
                raise ModelError(
                    f"finetuning: {used} demonstrations of the task {speaker.task.name} fit in the {model.context_length} tokens that "
                    f"{model.name} reads, and {FEWEST} are needed; leave the task out of finetuning.models"
                )
            fits.append(used)
    shown, others = ([cell[: min(fits)] for cell in part] for part in (shown, others))
    labels = torch.tensor([speaker.labels for speaker in speakers])
    rows = [
        Sequences.of([speaker.queries(cell)[0] for speaker, cell in zip(speakers, part, strict=True)], model.begin)
        for part in (asked, tuned)
    ]
    truth, tuned_truth = (torch.tensor([[each.label for each in cell] for cell in part]) for part in (asked, tuned))
    tuning = Tuning(rows[1], labels, tuned_truth)
    draws = [draw for _, draw in pairs]
    return Cells(model, speakers, draws, shown, others, rows[0], truth, labels, tuning, sampling.rate_draws)
