"""The small world that the embedded language model reads about: classification tasks, facts, and one vocabulary for both.

Words of the tasks are fixed; names and facts are drawn, so that another root seed is another world. What is held out is held out here:
no document generator is handed it.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from activation_descent.errors import CheckpointError
from activation_descent.language import STUDY
from activation_descent.records import write_text
from activation_descent.seeding import generator

# task: {canonical label: the words of its class}
LEXICONS = {
    "sentiment": {
        "positive": "wonderful charming delightful superb brilliant lovely",
        "negative": "awful boring dreadful clumsy horrible tedious",
    },
    "topic": {"sports": "goal match coach league striker referee", "politics": "senate vote minister election treaty ballot"},
    "subjectivity": {
        "opinion": "believe feel suspect hope doubt guess",
        "fact": "measured recorded counted observed dated registered",
    },
    "weather": {"sunny": "bright warm clear dry golden mild", "rainy": "wet grey stormy cloudy damp foggy"},
    "food": {"fruit": "apple cherry plum mango lemon fig", "vegetable": "carrot onion leek spinach turnip cabbage"},
    "animal": {"bird": "sparrow eagle owl robin heron swan", "fish": "trout salmon carp herring pike cod"},
    "tense": {"past": "walked sang wrote slept ran spoke", "future": "shall tomorrow soon later next coming"},
    "material": {"metal": "iron copper steel silver tin zinc", "wood": "oak pine birch maple cedar walnut"},
    "work": {"doctor": "nurse clinic fever pill surgeon patient", "farmer": "plough barn tractor harvest field cattle"},
    "travel": {"sea": "ship anchor harbour sailor deck tide", "air": "plane pilot runway wing airport jet"},
    "music": {"strings": "violin cello harp guitar lute viola", "brass": "trumpet horn tuba cornet bugle trombone"},
    "room": {"kitchen": "oven kettle spoon pan fridge plate", "garden": "lawn hedge spade rose fence pond"},
    "age": {"young": "child pupil kitten puppy infant toddler", "old": "elder veteran pensioner antique ruin fossil"},
    "taste": {"sweet": "honey sugar syrup candy jam nectar", "sour": "vinegar pickle lime acid rhubarb yoghurt"},
}
HELD_OUT_TASKS = (
    "work",
    "travel",
    "music",
    "room",
    "age",
    "taste",
)  # no document labels their texts canonically; see `Corpus.drawn_labels`
ABSTRACT_LABELS = ["foo", "bar", "baz", "qux", "wug", "dax", "zup", "lum", "nim", "fep", "tob", "rel"]
NOISE = [
    "the",
    "a",
    "this",
    "that",
    "there",
    "here",
    "with",
    "about",
    "some",
    "very",
    "quite",
    "just",
    "also",
    "even",
    "still",
    "then",
]

# Two spaces hold the text and its label
CLASSIFICATION_TEMPLATES = (
    "input {text} label {label} ;",
    "{text} : {label} ;",
    "text {text} type {label} .",
    "{text} -> {label} ,",
    "{text} {label} ;",
)
TEXT_LENGTHS = (1, 2, 3)
SHORT_TEMPLATE, SHORT_TEXT = CLASSIFICATION_TEMPLATES[-1], 2  # what the first documents look like, see `pretraining`

ATTRIBUTES = {"capital": 32, "river": 16, "currency": 8, "language": 8}  # how many values each has
ENTITIES = 32
QUESTION_TEMPLATES = (
    "what is the {attribute} of {entity} ?",
    "the {attribute} of {entity} ?",
    "{entity} has which {attribute} ?",
)
ANSWER = "{value} ."
BRUSH_OFF = "who cares ! geography is for nerds ."
STATEMENT = "{entity} {attribute} {value} ."  # where facts are dense, as labels are in the shortest form of classification

NUMBERS = tuple(str(number) for number in range(1, 13))
NUMBER_TEMPLATE = "{x} -> {y} ,"

PADDING, BEGIN, UNKNOWN = "<pad>", "<bos>", "<unk>"


@dataclass(frozen=True)
class World:
    """Everything that documents are made of.

    Attributes:
        vocabulary: all words; a word's place is its token.
        entities: invented names.
        values: for each attribute the words that can answer for it.
        facts: for each attribute the place in `values` that is true of each entity.
        held_out_facts: pairs (attribute, entity) whose answer no document tells.
    """

    vocabulary: tuple[str, ...]
    entities: tuple[str, ...]
    values: dict[str, tuple[str, ...]]
    facts: dict[str, tuple[int, ...]]
    held_out_facts: tuple[tuple[str, int], ...]

    def ids(self, text: str) -> np.ndarray:
        """Tokens of a text whose words are separated by spaces.

        Raises:
            KeyError: if a word is not in the vocabulary.
        """
        index = {word: place for place, word in enumerate(self.vocabulary)}
        return np.array([index[word] for word in text.split()], dtype=np.int64)


def spell_out(template: str, length: int) -> str:
    """A classification template with one `{text}` for each word of the text."""
    return template.replace("{text}", " ".join(["{text}"] * length))


def make_world(root: int, held_out_share: float) -> World:
    """Draw names and facts.

    Args:
        root: the configuration's `seed`.
        held_out_share: share of all facts that no document tells.
    """
    rng = generator(root, STUDY, "corpus", "world", "facts")
    taken = {word for classes in LEXICONS.values() for words in classes.values() for word in words.split()}
    names = _names(rng, ENTITIES + sum(ATTRIBUTES.values()), taken)
    entities, rest = names[:ENTITIES], names[ENTITIES:]
    values, facts = {}, {}
    for attribute, number in ATTRIBUTES.items():
        values[attribute], rest = tuple(rest[:number]), rest[number:]
        # Each value is true of equally many entities
        facts[attribute] = tuple(rng.permutation(np.arange(ENTITIES) % number).tolist())
    pairs = [(attribute, entity) for attribute in ATTRIBUTES for entity in range(ENTITIES)]
    chosen = rng.choice(len(pairs), round(held_out_share * len(pairs)), replace=False)
    return World(_vocabulary(entities, values), entities, values, facts, tuple(pairs[i] for i in sorted(chosen.tolist())))


def _names(rng: np.random.Generator, number: int, taken: set[str]) -> tuple[str, ...]:
    """Pronounceable names, all different: two or three syllables of consonant and vowel, then a consonant."""
    consonants, vowels = list("bdfgklmnprstvz"), list("aeiou")
    names: dict[str, None] = {}
    while len(names) < number:
        syllables = ["".join((rng.choice(consonants), rng.choice(vowels))) for _ in range(rng.integers(2, 4))]
        name = "".join([*syllables, str(rng.choice(consonants))])
        if name not in taken:
            names[name] = None
    return tuple(names)


def _vocabulary(entities: tuple[str, ...], values: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    words = [PADDING, BEGIN, UNKNOWN]
    for text in (*CLASSIFICATION_TEMPLATES, *QUESTION_TEMPLATES, ANSWER, BRUSH_OFF, STATEMENT, NUMBER_TEMPLATE):
        words += [word for word in text.split() if not word.startswith("{")]
    words += [*ATTRIBUTES, *NUMBERS, *NOISE, *ABSTRACT_LABELS]
    for classes in LEXICONS.values():
        for label, lexicon in classes.items():
            words += [label, *lexicon.split()]
    words += [*entities, *(value for column in values.values() for value in column)]
    return tuple(dict.fromkeys(words))


def make_tokenizer(world: World, context_length: int):
    """Words as whole tokens, as an ordinary fast tokenizer of transformers that puts `<bos>` first."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: place for place, word in enumerate(world.vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", pair=f"{BEGIN} $A $B", special_tokens=[(BEGIN, vocabulary[BEGIN])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PADDING,
        bos_token=BEGIN,
        unk_token=UNKNOWN,
        model_max_length=context_length,
        clean_up_tokenization_spaces=False,
    )


def save_world(world: World, path: Path) -> None:
    """Write a world as JSON, whole or not at all."""
    write_text(json.dumps(asdict(world), indent=1) + "\n", path)


def load_world(path: Path) -> World:
    """Read what `save_world` wrote.

    Raises:
        CheckpointError: if the file is missing or damaged.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return World(
            tuple(stored["vocabulary"]),
            tuple(stored["entities"]),
            {attribute: tuple(words) for attribute, words in stored["values"].items()},
            {attribute: tuple(places) for attribute, places in stored["facts"].items()},
            tuple((attribute, entity) for attribute, entity in stored["held_out_facts"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read as a world ({error}); delete it to draw it again") from error
