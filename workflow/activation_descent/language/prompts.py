"""Prompts of demonstrations and a query, and how a model scores the label words that could follow.

Every query of a prompt shares its demonstrations: they are read once, and their keys and values serve all queries.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from activation_descent.errors import ModelError
from activation_descent.language.models import LanguageModel, Prefix, load
from activation_descent.language.tasks import Example, Task, own_tasks, real_task
from activation_descent.language.world import load_world

BATCH_TOKENS = 512  # read at once: what attention makes of more no longer fits the caches


@dataclass(frozen=True)
class Prompt:
    """Demonstrations that stand before queries.

    Attributes:
        tokens: begin token and demonstrations.
        ends: how many tokens stand up to the end of the begin token and of each demonstration.
    """

    tokens: list[int]
    ends: list[int]

    @property
    def used(self) -> int:
        """Demonstrations that fit in the context window."""
        return len(self.ends) - 1


@dataclass(frozen=True)
class Speaker:
    """How one task is spoken to one model: tokens of its pieces.

    Attributes:
        labels, abstract: one token for each word.
        ending: what separates examples; the tokenizer's end token where the template has none (Dai et al. 2022).
    """

    model: LanguageModel
    task: Task
    labels: list[int]
    abstract: list[int]
    ending: list[int]

    @classmethod
    def of(cls, model: LanguageModel, task: Task) -> "Speaker":
        """
        Raises:
            ModelError: if a label word is not one token of the model.
        """
        end = task.template.partition("{label}")[2].strip()
        ending = model.encode(f" {end}") if end else [model.tokenizer.eos_token_id]
        if ending == [None]:
            raise ModelError(f"model {model.name}: its tokenizer has no end token to separate the examples of task {task.name}")
        labels = [model.label_token(word) for word in task.labels]
        return cls(model, task, labels, [model.label_token(word) for word in task.abstract], ending)

    def query(self, text: str) -> list[int]:
        """Tokens of a text up to where its label stands."""
        return self.model.encode(self.task.template.partition("{label}")[0].replace("{text}", text).strip())

    def queries(self, examples: Sequence[Example]) -> tuple[list[list[int]], int]:
        """Tokens of each example without its label, and how many had to lose their beginning to fit in the window alone."""
        room = self.model.context_length - len(self.model.begin) - 1
        tokens = [self.query(example.text) for example in examples]
        return [query[-room:] for query in tokens], sum(len(query) > room for query in tokens)

    def prompt(self, examples: Sequence[Example], label_tokens: Sequence[int], longest_query: int) -> Prompt:
        """As many of the demonstrations, in their order, as leave room for the longest query (Dai et al. 2022).

        Args:
            label_tokens: the label of each demonstration.
        """
        tokens = list(self.model.begin)
        ends = [len(tokens)]
        for example, label in zip(examples, label_tokens, strict=True):
            demonstration = [*self.query(example.text), label, *self.ending]
            if len(tokens) + len(demonstration) + longest_query >= self.model.context_length:
                break
            tokens += demonstration
            ends.append(len(tokens))
        return Prompt(tokens, ends)


def speakers_of(
    settings: Mapping[str, Any],
    folder: Path | None,
    noise: float,
    root: int,
    pool_size: int,
    chosen: Sequence[str] | None = None,
) -> list[Speaker]:
    """A language model and its tasks, ready to be asked.

    Args:
        settings: an entry of `language.models` of the configuration.
        folder: of an embedded model.
        noise: of the corpus.
        pool_size: texts of each pool of a task.
        chosen: names of the tasks to take, default all.

    Raises:
        ModelError, DataError: if the model, its data or a label word cannot be had.
    """
    model = load(os.path.expandvars(settings["name"]), folder, settings.get("allow_pickle", False))
    if settings["tasks"] == "own":
        tasks = own_tasks(load_world(folder / "world.json"), noise, root, pool_size)
    else:
        data = settings.get("data", "hub")
        source = None if data == "hub" else Path(os.path.expandvars(data))
        words = settings.get("labels", {})
        tasks = [real_task(name, source, root, pool_size, words.get(name)) for name in settings["tasks"]]
    return [Speaker.of(model, task) for task in tasks if chosen is None or task.name in chosen]


@torch.no_grad()
def next_logits(
    model: LanguageModel, before: Prefix | Sequence[int], queries: Sequence[Sequence[int]]
) -> Float[Tensor, "query word"]:
    """Logits of the word after each query.

    Args:
        before: what stands before every query: a prefix that was read once, or tokens, which are read again for each query.
    """
    prefix, repeated = (before, []) if isinstance(before, Prefix) else (None, list(before))
    batch = max(1, BATCH_TOKENS // (len(repeated) + max(map(len, queries))))
    results = []
    for start in range(0, len(queries), batch):
        inputs = [[*repeated, *query] for query in queries[start : start + batch]]
        ends = torch.tensor([len(tokens) - 1 for tokens in inputs])
        padded = torch.tensor([tokens + [0] * (int(ends.max()) + 1 - len(tokens)) for tokens in inputs])
        results.append(model.logits(padded, prefix, ends))
    return torch.cat(results)
