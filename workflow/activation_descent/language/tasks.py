"""Classification tasks: the corpus's own, and six real sets from a hub or a folder.

Each task has three pools of examples with no text in common: demonstrations are drawn from one, what must be tuned is tuned on another,
and accuracy is measured on the third.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from activation_descent.errors import DataError
from activation_descent.language import STUDY
from activation_descent.language import world as words
from activation_descent.language.corpus import Corpus
from activation_descent.language.world import World
from activation_descent.seeding import generator

POOLS = ("demonstrations", "tuning", "evaluation")
LETTERS = tuple("QXZJKVWY")  # label words that mean nothing (Pan et al. 2023); single tokens of the GPT-2 and OPT vocabularies


@dataclass(frozen=True)
class Example:
    """A text and the place of its class among the task's labels."""

    text: str
    label: int


@dataclass(frozen=True)
class Task:
    """A classification task as prompts show it.

    Attributes:
        group: `seen` or `held_out` for the corpus's tasks, by whether their canonical labels were; `real` for the real sets.
        template: one example with the slots `{text}` and `{label}`; what follows the label separates examples.
        labels: one word for each class.
        abstract: words without a meaning that can stand for the labels, at least as many.
    """

    name: str
    group: str
    template: str
    labels: tuple[str, ...]
    abstract: tuple[str, ...]
    demonstrations: tuple[Example, ...]
    tuning: tuple[Example, ...]
    evaluation: tuple[Example, ...]


def own_tasks(world: World, noise: float, root: int, pool_size: int) -> list[Task]:
    """The tasks of the corpus, with texts of its longest form that no two pools share.

    Args:
        noise: share of a text's words that say nothing of its class.
        pool_size: examples in each pool, equally many of each class.
    """
    length = max(words.TEXT_LENGTHS)
    corpus = Corpus.of_texts(world, noise)
    tasks = []
    for place, (name, classes) in enumerate(words.LEXICONS.items()):
        rng = generator(root, STUDY, "tasks", name, "pools")
        each = -(-pool_size // len(classes))
        pools: dict[str, list[Example]] = {pool: [] for pool in POOLS}
        used: set[str] = set()
        for label in range(len(classes)):
            fresh: list[str] = []
            while len(fresh) < each * len(POOLS):
                drawn = corpus.texts(rng, np.array([place]), np.array([[label] * each]), length)[0]
                for text in (" ".join(world.vocabulary[word] for word in row) for row in drawn):
                    if text not in used:
                        used.add(text)
                        fresh.append(text)
            for start, pool in enumerate(pools.values()):
                pool += [Example(text, label) for text in fresh[start * each : (start + 1) * each]]
        group = "held_out" if name in words.HELD_OUT_TASKS else "seen"
        tasks.append(
            Task(
                name,
                group,
                words.CLASSIFICATION_TEMPLATES[0],
                tuple(classes),
                tuple(words.ABSTRACT_LABELS),
                **{pool: tuple(examples[i] for i in rng.permutation(len(examples))) for pool, examples in pools.items()},
            )
        )
    return tasks


@dataclass(frozen=True)
class RealSet:
    """One of the six sets of Dai et al. (2022, table 8; templates from their code).

    Attributes:
        source: where a hub keeps it: name, configuration or nothing, split to train on, split to evaluate on.
        columns: the hub's columns that hold the text.
        template: as in `Task`; two texts are joined as `{first} Question: {second}.`
        labels: what the set calls a class, in the hub's order, and the word that stands for it in a prompt.
    """

    source: tuple[str, str | None, str, str]
    columns: tuple[str, ...]
    template: str
    labels: Mapping[str, str]


REAL_SETS = {
    "sst2": RealSet(
        ("nyu-mll/glue", "sst2", "train", "validation"),
        ("sentence",),
        "Sentence: {text} Label: {label}",
        {"negative": "Negative", "positive": "Positive"},
    ),
    "sst5": RealSet(
        ("SetFit/sst5", None, "train", "validation"),
        ("text",),
        "Sentence: {text} Label: {label}",
        {"very negative": "terrible", "negative": "bad", "neutral": "neutral", "positive": "good", "very positive": "great"},
    ),
    "mr": RealSet(
        ("cornell-movie-review-data/rotten_tomatoes", None, "train", "validation"),
        ("text",),
        "Review: {text} Sentiment: {label}",
        {"negative": "Negative", "positive": "Positive"},
    ),
    "subj": RealSet(
        ("SetFit/subj", None, "train", "test"),
        ("text",),
        "Input: {text} Type: {label}",
        {"objective": "objective", "subjective": "subjective"},
    ),
    "agnews": RealSet(
        ("fancyzhx/ag_news", None, "train", "test"),
        ("text",),
        "Classify the news articles into the categories of World, Sports, Business, and Technology. Article: {text} Answer: {label}",
        {"World": "World", "Sports": "Sports", "Business": "Business", "Sci/Tech": "Technology"},
    ),
    "cb": RealSet(
        ("aps/super_glue", "cb", "train", "validation"),
        ("premise", "hypothesis"),
        "{text} True, False, or Neither? Answer: {label}",
        {"entailment": "True", "contradiction": "False", "neutral": "Neither"},
    ),
}


def real_task(name: str, folder: Path | None, root: int, pool_size: int, labels: Sequence[str] | None = None) -> Task:
    """One of the real sets with pools of at most `pool_size` examples.

    Demonstrations and tuning texts come from the set's training part, in an order drawn from the seed; texts that its evaluation part
    also holds are left out (SST-5 has one).

    Args:
        folder: holds `<name>/{train,validation}.jsonl`; from the hub if it is not given.
        labels: a word for each class, in the order of `RealSet.labels`, instead of the authors'; for vocabularies that split those.

    Raises:
        DataError: if the set is not to be had, lacks a column or a class, or has another number of classes than label words.
    """
    real = REAL_SETS[name]
    labels = tuple(labels or real.labels.values())
    if len(labels) != len(real.labels):
        raise DataError(
            f"data set {name}: {len(labels)} label words ({', '.join(labels)}) for {len(real.labels)} classes "
            f"({', '.join(real.labels)})"
        )
    if folder is None:
        train, validation = (_from_hub(name, split) for split in real.source[2:])
    else:
        train, validation = (_from_folder(name, folder / name / f"{part}.jsonl") for part in ("train", "validation"))
    rng = generator(root, STUDY, "tasks", name, "pools")
    held = {example.text for example in validation}
    fresh = list(dict.fromkeys(example for example in train if example.text not in held))
    order = rng.permutation(len(fresh))
    half = min(pool_size, len(fresh) // 2)
    return Task(
        name,
        "real",
        real.template,
        labels,
        LETTERS,
        tuple(fresh[i] for i in order[:half]),
        tuple(fresh[i] for i in order[half : 2 * half]),
        tuple(validation[i] for i in rng.permutation(len(validation))[:pool_size]),
    )


def _from_folder(name: str, path: Path) -> list[Example]:
    """Examples of a file with one JSON object a line: `text[, text_b], label_name`.

    Classes are told by their name, because releases number them differently (Subj has been published both ways round).
    """
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except FileNotFoundError as error:
        raise DataError(f"data set {name}: there is no file {path}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"data set {name}: {path} cannot be read as one JSON object a line: {error}") from error
    columns = ("text", "text_b")[: len(REAL_SETS[name].columns)]
    return _examples(name, str(path), rows, columns, "label_name")


def _from_hub(name: str, split: str) -> list[Example]:
    dataset, configuration, *_ = REAL_SETS[name].source
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise DataError(f"data set {name}: a hub needs pip install -e '.[hub]'; or name a folder") from error
    try:
        table = load_dataset(dataset, configuration, split=split)
    except Exception as error:  # the hub and its network libraries raise a dozen types
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"data set {name}: {dataset} could not be fetched from the hub; name a folder instead ({reason})"
        ) from error
    names = list(REAL_SETS[name].labels)
    rows = [
        row | {"label_name": names[row["label"]] if row.get("label") in range(len(names)) else row.get("label")} for row in table
    ]
    return _examples(name, f"{dataset} ({split})", rows, REAL_SETS[name].columns, "label_name")


def _examples(name: str, source: str, rows: Iterable[Mapping[str, Any]], columns: Sequence[str], label: str) -> list[Example]:
    places = {label_name.lower(): place for place, label_name in enumerate(REAL_SETS[name].labels)}
    examples = []
    for number, row in enumerate(rows, start=1):
        missing = [column for column in (*columns, label) if column not in row]
        if missing:
            raise DataError(f"data set {name}: {source} lacks the column '{missing[0]}' in row {number}")
        if str(row[label]).lower() not in places:
            raise DataError(
                f"data set {name}: {source} has the class {row[label]!r} in row {number}, not one of {', '.join(places)}"
            )
        first, *second = (str(row[column]).strip() for column in columns)
        text = f"{first} Question: {second[0]}." if second else first
        examples.append(Example(text, places[str(row[label]).lower()]))
    if not examples:
        raise DataError(f"data set {name}: {source} has no rows")
    return examples
