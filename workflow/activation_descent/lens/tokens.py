"""Where the lens study's tokens come from: one stream for each purpose and seed, the same for every kind of model.

An embedded model reads documents of its corpus, the study's own models its letters, and any other model the texts of its data sets, joined
by the end token and cut to rows (Belrose et al. 2023 took the Pile so). Texts to evaluate on are those of the sets' evaluation part.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from activation_descent.language.corpus import Corpus, Mixture
from activation_descent.language.models import LanguageModel, load
from activation_descent.language.tasks import real_task
from activation_descent.language.world import load_world
from activation_descent.lens import STUDY
from activation_descent.lens.bodies import Body, Letters
from activation_descent.lens.states import Network, Subject, Tokens, text_rows
from activation_descent.seeding import generator

EVERYTHING = 1 << 30  # texts of a pool
HELD_OUT = ("evaluate", "intervene")  # purposes that read the evaluation part of data sets

Rows = Callable[[np.random.Generator, str, int], np.ndarray]  # purpose, number -> row token


@dataclass(frozen=True)
class Source:
    """A subject and the tokens that it reads.

    Attributes:
        rows: draws rows of tokens for a purpose.
        length: tokens of a row.
        words: what each token is called.
        model: the language model, if the subject is not one of the study's own.
    """

    subject: Subject
    rows: Rows
    length: int
    words: Sequence[str]
    root: int
    seeds: int
    model: LanguageModel | None = None

    def draw(self, purpose: str, step: int, number: int) -> Tokens:
        """Rows for each seed."""
        streams = [generator(self.root, STUDY, "tokens", "all", purpose, seed, step) for seed in range(self.seeds)]
        return torch.from_numpy(np.stack([self.rows(stream, purpose, number) for stream in streams]))


def of_body(body: Body, letters: Letters, root: int) -> Source:
    """The study's own models."""
    length = body.shape.length
    names = [letter.replace("\n", "^").replace(" ", "_") for letter in letters.alphabet]
    return Source(body, lambda rng, purpose, number: letters.rows(rng, number, length), length, names, root, body.seeds)


def of_model(settings: Mapping[str, Any], folder: Path | None, mixture: Mixture, root: int, seeds: int, length: int) -> Source:
    """A model of `language.models`, read on as many streams of tokens as there are seeds.

    Args:
        settings: its entry in the configuration.
        folder: of an embedded model.
        length: of a row, at most; the context window may be shorter.

    Raises:
        ModelError, DataError: if the model or its texts cannot be had, or lenses cannot serve it.
    """
    model = load(os.path.expandvars(settings["name"]), folder)
    length = min(length, model.context_length)
    if settings["tasks"] == "own":
        corpus = Corpus(load_world(folder / "world.json"), mixture)
        rows: Rows = lambda rng, purpose, number: corpus.rows(rng, number, length)
    else:
        data = settings.get("data", "hub")
        source = None if data == "hub" else Path(os.path.expandvars(data))
        labels = settings.get("labels", {})
        tasks = [real_task(name, source, root, EVERYTHING, labels.get(name)) for name in settings["tasks"]]
        pools = {
            held_out: text_rows(model.encode, model.tokenizer.eos_token_id, tasks, parts, length)
            for held_out, parts in ((False, ("demonstrations", "tuning")), (True, ("evaluation",)))
        }
        rows = lambda rng, purpose, number: (pool := pools[purpose in HELD_OUT])[rng.integers(len(pool), size=number)]
    subject = Network(model.network, model.name, seeds)
    words = [model.tokenizer.decode([token]) for token in range(subject.unembedding.weight.shape[1])]
    return Source(subject, rows, length, words, root, seeds, model)
