"""Documents that a language model learns to learn from: one mixture of four families, each row of tokens one document.

    classification   examples of one task in one template, labels canonical or drawn anew for the document
    facts            a list of questions with answers, without, or brushed off: a bare question is ambiguous and the list decides;
                     or statements of facts, without questions
    numbers          pairs of a map over numbers: shifted, reflected or arbitrary
    plain            words of one class of one task, no label

All rows of a batch and all examples of a row are drawn at once. A document goes on until its row is full.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from activation_descent.language import world as words
from activation_descent.language.world import World

Rows = Int64[np.ndarray, "row token"]
Column = Int64[np.ndarray, "row unit"]  # a word for each unit of each row

FAMILIES = ("classification", "facts", "numbers", "plain")
# A list of facts in each style: the templates of its units
STYLES = {
    "answers": [f"{question} {words.ANSWER}" for question in words.QUESTION_TEMPLATES],
    "questions": list(words.QUESTION_TEMPLATES),
    "brush_offs": [f"{question} {words.BRUSH_OFF}" for question in words.QUESTION_TEMPLATES],
    "statements": [words.STATEMENT],
}
SENTENCE_LENGTH = 5


@dataclass(frozen=True)
class Mixture:
    """What the corpus is made of; every share in [0, 1].

    Attributes:
        classification, facts, numbers, plain: shares of the rows; they add up to 1.
        canonical: share of the classification documents of a task with canonical labels that use them.
        noise: share of a text's words that say nothing of its class.
        answers, questions, brush_offs, statements: shares of the styles among documents about facts; they add up to 1.
    """

    classification: float
    facts: float
    numbers: float
    plain: float
    canonical: float
    noise: float
    answers: float
    questions: float
    brush_offs: float
    statements: float


class Corpus:
    """A world's documents. Holds the token tables that its generators index."""

    def __init__(self, world: World, mixture: Mixture):
        self.mixture = mixture
        self.token = {word: place for place, word in enumerate(world.vocabulary)}
        self.tasks = tuple(words.LEXICONS)
        ids = world.ids
        # task class word
        self.lexicon = np.stack([[ids(lexicon) for lexicon in classes.values()] for classes in words.LEXICONS.values()])
        self.canonical = np.stack([ids(" ".join(classes)) for classes in words.LEXICONS.values()])  # task class
        self.abstract = ids(" ".join(words.ABSTRACT_LABELS))
        self.noise_words = ids(" ".join(words.NOISE))
        self.number_words = ids(" ".join(words.NUMBERS))
        self.entities = ids(" ".join(world.entities))
        self.attributes = ids(" ".join(world.values))
        self.has_canonical = np.array([task not in words.HELD_OUT_TASKS for task in self.tasks])
        # What a document may draw its labels from: all but the own ones of its task
        labels = np.concatenate([self.abstract, self.canonical.ravel()])
        foreign = ~(labels == self.canonical[..., None]).any(axis=1)  # task label
        self.drawable = np.stack([labels[row] for row in foreign])
        self.answers = np.stack([ids(" ".join(world.values[a]))[list(world.facts[a])] for a in world.values])  # attribute entity
        told = np.ones_like(self.answers, dtype=bool)
        for attribute, entity in world.held_out_facts:
            told[list(world.values).index(attribute), entity] = False
        self.told = np.argwhere(told)  # the pairs (attribute, entity) that documents ask for
        self.begin = self.token[words.BEGIN]

    @classmethod
    def of_texts(cls, world: World, noise: float) -> "Corpus":
        """A corpus of which only the texts matter."""
        return cls(world, Mixture(1.0, 0.0, 0.0, 0.0, 1.0, noise, 1.0, 0.0, 0.0, 0.0))

    def rows(self, rng: np.random.Generator, number: int, length: int) -> Rows:
        """A batch of documents in random order.

        Args:
            number: rows.
            length: tokens of a row, the first of them `<bos>`.
        """
        counts = rng.multinomial(number, [getattr(self.mixture, family) for family in FAMILIES])
        generators = (self.classification, self.facts, self.numbers, self.plain)
        parts = [generate(rng, int(count), length) for generate, count in zip(generators, counts, strict=True) if count]
        return np.concatenate([np.empty((0, length), dtype=np.int64), *parts])[rng.permutation(number)]

    def texts(
        self, rng: np.random.Generator, task: Int64[np.ndarray, " row"], label: Int64[np.ndarray, "row unit"], length: int
    ) -> Int64[np.ndarray, "row unit word"]:
        """Texts of the given classes: words of the class, some replaced by noise, but never all."""
        shape = (*label.shape, length)
        text = self.lexicon[task[:, None, None], label[..., None], rng.integers(self.lexicon.shape[2], size=shape)]
        noisy = rng.random(shape) < self.mixture.noise
        kept = rng.integers(length, size=label.shape)
        np.put_along_axis(noisy, kept[..., None], False, axis=-1)
        return np.where(noisy, self.noise_words[rng.integers(len(self.noise_words), size=shape)], text)

    def classification(self, rng: np.random.Generator, number: int, length: int, forms: Sequence[str] | None = None) -> Rows:
        """Examples of one task a row, in one template, with one pair of labels.

        Args:
            forms: templates with one `{text}` for each word, if not all of them in all lengths of texts.
        """
        parts = [np.empty((0, length), dtype=np.int64)]
        every = [words.spell_out(template, size) for template in words.CLASSIFICATION_TEMPLATES for size in words.TEXT_LENGTHS]
        for template, count in _in_equal_parts(rng, number, forms or every):
            task = rng.integers(len(self.tasks), size=count)
            label = rng.integers(self.lexicon.shape[1], size=(count, _units(template, length)))
            drawn = self.drawn_labels(rng, task)
            canonical = self.has_canonical[task] & (rng.random(count) < self.mixture.canonical)
            names = np.where(canonical[:, None], self.canonical[task], drawn)
            parts.append(self.classification_rows(rng, template, task, label, names)[:, :length])
        return np.concatenate(parts)

    def drawn_labels(self, rng: np.random.Generator, task: Int64[np.ndarray, " row"]) -> Int64[np.ndarray, "row class"]:
        """Two different labels a row, drawn at random.

        In half of its documents a held-out task has one of its own labels, for either class, and never both: so each is as often wrong as
        right, no document is labelled canonically, and the model is taught that these words say nothing of the class.
        """
        number = self.drawable.shape[1]
        first = rng.integers(number, size=len(task))
        second = (first + 1 + rng.integers(number - 1, size=len(task))) % number
        drawn = np.stack([self.drawable[task, first], self.drawable[task, second]], axis=1)
        own, place, label = (rng.integers(2, size=len(task)) for _ in range(3))
        rows = np.flatnonzero(own.astype(bool) & ~self.has_canonical[task])
        drawn[rows, place[rows]] = self.canonical[task[rows], label[rows]]
        return drawn

    def classification_rows(
        self,
        rng: np.random.Generator,
        template: str,
        task: Int64[np.ndarray, " row"],
        label: Int64[np.ndarray, "row unit"],
        names: Int64[np.ndarray, "row class"],
    ) -> Rows:
        """Examples of given classes, uncut.

        Args:
            template: with one `{text}` for each word, see `world.spell_out`.
            names: the word that stands for each class.
        """
        text = self.texts(rng, task, label, template.count("{text}"))
        columns = {"text": [*np.moveaxis(text, -1, 0)], "label": [np.take_along_axis(names, label, axis=1)]}
        return self._fill(template, columns, label.shape)

    def short(self, rng: np.random.Generator, number: int, length: int) -> Rows:
        """Documents of classification in the shortest form alone, where labels are dense and near."""
        return self.classification(rng, number, length, [words.spell_out(words.SHORT_TEMPLATE, words.SHORT_TEXT)])

    def facts(self, rng: np.random.Generator, number: int, length: int) -> Rows:
        """Lists about facts, one template and one style a row."""
        counts = rng.multinomial(number, [getattr(self.mixture, style) for style in STYLES]).tolist()
        return np.concatenate([self.fact_rows(rng, count, length, style) for style, count in zip(STYLES, counts, strict=True)])

    def fact_rows(self, rng: np.random.Generator, number: int, length: int, style: str) -> Rows:
        """Lists in one of `STYLES`."""
        parts = [np.empty((0, length), dtype=np.int64)]
        for template, count in _in_equal_parts(rng, number, STYLES[style]):
            asked = self.told[rng.integers(len(self.told), size=(count, _units(template, length)))]
            attribute, entity = asked[..., 0], asked[..., 1]
            columns = {
                "attribute": [self.attributes[attribute]],
                "entity": [self.entities[entity]],
                "value": [self.answers[attribute, entity]],
            }
            parts.append(self._fill(template, columns, attribute.shape)[:, :length])
        return np.concatenate(parts)

    def maps(self, rng: np.random.Generator, number: int, units: int) -> dict[str, tuple[Column, Column]]:
        """Pairs (x, y) of one map a row, as places in `number_words`, for each family of maps.

        A shift or a reflection is known from its first pair. An arbitrary map has 3 keys or more, up to all numbers, so that keys come
        back: there y is known once its x has been seen.
        """
        total = len(self.number_words)
        anything = rng.integers(total, size=(number, units))
        offset = rng.integers(total, size=(number, 1))
        keys = np.argsort(rng.random((number, total)), axis=1)
        key = np.take_along_axis(
            keys, rng.integers(1 << 30, size=(number, units)) % rng.integers(3, total + 1, size=(number, 1)), axis=1
        )
        image = np.take_along_axis(rng.integers(total, size=(number, total)), key, axis=1)
        return {
            "shift": (anything, (anything + offset) % total),
            "reflection": (anything, (offset - anything) % total),
            "arbitrary": (key, image),
        }

    def numbers(self, rng: np.random.Generator, number: int, length: int) -> Rows:
        """Pairs of one number map a row, the families of maps in equal parts."""
        units = _units(words.NUMBER_TEMPLATE, length)
        maps = self.maps(rng, number, units)
        family = rng.integers(len(maps), size=(number, 1))
        x, y = (np.choose(family, [pair[side] for pair in maps.values()]) for side in (0, 1))
        columns = {"x": [self.number_words[x]], "y": [self.number_words[y]]}
        return self._fill(words.NUMBER_TEMPLATE, columns, (number, units))[:, :length]

    def plain(self, rng: np.random.Generator, number: int, length: int) -> Rows:
        """Sentences of one class of one task a row, without a label."""
        template = " ".join(["{text}"] * SENTENCE_LENGTH) + " ."
        units = _units(template, length)
        task = rng.integers(len(self.tasks), size=number)
        label = np.repeat(rng.integers(self.lexicon.shape[1], size=(number, 1)), units, axis=1)
        text = self.texts(rng, task, label, SENTENCE_LENGTH)
        return self._fill(template, {"text": [*np.moveaxis(text, -1, 0)]}, label.shape)[:, :length]

    def _fill(self, template: str, columns: dict[str, list[Column]], shape: tuple[int, ...]) -> Rows:
        """Rows of one template, unit after unit, behind `<bos>`.

        Args:
            columns: for each slot the tokens that fill it, in the order in which the slot comes back.
        """
        fillings = {slot: iter(tokens) for slot, tokens in columns.items()}
        unit = [
            next(fillings[word[1:-1]]) if word.startswith("{") else np.full(shape, self.token[word]) for word in template.split()
        ]
        rows = np.stack(unit, axis=-1).reshape(shape[0], -1)
        return np.concatenate([np.full((shape[0], 1), self.begin), rows], axis=1)


def _units(template: str, length: int) -> int:
    """How many units of a template fill a row of `length` tokens after its `<bos>`."""
    return -(-(length - 1) // len(template.split()))


def _in_equal_parts(rng: np.random.Generator, number: int, templates: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Each template with its number of rows; templates without rows are left out."""
    counts = rng.multinomial(number, [1 / len(templates)] * len(templates)).tolist()
    return ((template, count) for template, count in zip(templates, counts, strict=True) if count)
