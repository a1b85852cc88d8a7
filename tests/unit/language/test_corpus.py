from dataclasses import replace

import numpy as np
import pytest

from activation_descent.errors import CheckpointError
from activation_descent.language import world as words
from activation_descent.language.corpus import STYLES, Corpus, Mixture
from activation_descent.language.world import load_world, make_tokenizer, make_world, save_world

EVEN = Mixture(0.25, 0.25, 0.25, 0.25, 0.5, 0.3, 0.3, 0.3, 0.2, 0.2)
WORLD = make_world(0, 0.1)
CORPUS = Corpus(WORLD, EVEN)


def rng(seed=0):
    return np.random.default_rng(seed)


def text(row):
    return " ".join(WORLD.vocabulary[token] for token in row)


def test_a_world_is_the_same_each_time_and_another_for_another_seed():
    assert make_world(0, 0.1) == WORLD
    assert make_world(1, 0.1).facts != WORLD.facts
    assert len(set(WORLD.vocabulary)) == len(WORLD.vocabulary)


def test_each_value_is_true_of_equally_many_entities():
    for attribute, number in words.ATTRIBUTES.items():
        assert set(np.bincount(WORLD.facts[attribute], minlength=number)) == {words.ENTITIES // number}


def test_a_world_is_saved_and_loaded(tmp_path):
    save_world(WORLD, tmp_path / "world.json")
    assert load_world(tmp_path / "world.json") == WORLD
    (tmp_path / "world.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"world\.json cannot be read"):
        load_world(tmp_path / "world.json")


def test_the_tokenizer_reads_words_as_the_corpus_writes_them(tmp_path):
    from transformers import AutoTokenizer

    make_tokenizer(WORLD, 128).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    for row in CORPUS.rows(rng(), 8, 50):
        assert tokenizer(text(row[1:]))["input_ids"] == row.tolist()  # <bos> comes by itself


def test_no_rows_are_a_batch_too():
    assert CORPUS.rows(rng(), 0, 16).shape == CORPUS.short(rng(), 0, 16).shape == (0, 16)


def test_rows_are_deterministic_and_full():
    rows = CORPUS.rows(rng(), 40, 64)
    assert rows.shape == (40, 64)
    assert (rows[:, 0] == CORPUS.begin).all()
    assert (rows[:, 1:] > CORPUS.token[words.UNKNOWN]).all()
    assert np.array_equal(rows, CORPUS.rows(rng(), 40, 64))
    assert not np.array_equal(rows, CORPUS.rows(rng(1), 40, 64))


@pytest.mark.parametrize("family", ["classification", "facts", "numbers", "plain"])
def test_a_share_of_one_gives_one_family(family):
    none = dict.fromkeys(("classification", "facts", "numbers", "plain"), 0.0)
    rows = Corpus(WORLD, replace(EVEN, **none | {family: 1.0})).rows(rng(), 30, 64)
    entities, numbers = set(WORLD.entities), set(words.NUMBERS)
    for row in rows:
        seen = set(text(row).split())
        assert bool(seen & entities) == (family == "facts")
        assert bool(seen & numbers) == (family == "numbers")


def test_no_document_labels_a_held_out_task_canonically():
    """Over many rows of classification: a task's own labels never stand together in its documents unless its labels are canonical."""
    task = np.repeat(np.arange(len(CORPUS.tasks)), 4000)
    drawn = CORPUS.drawn_labels(rng(), task)
    own = drawn[:, :, None] == CORPUS.canonical[task][:, None, :]  # row, class of the drawn label, class of the own label
    assert (drawn[:, 0] != drawn[:, 1]).all()
    assert not own[CORPUS.has_canonical[task]].any()
    assert not own.any(axis=2).all(axis=1).any()
    # In half of a held-out task's documents: each of its two labels for each of its two classes equally often
    held = own[~CORPUS.has_canonical[task]]
    assert held.mean(axis=0) == pytest.approx(np.full((2, 2), 1 / 8), abs=0.01)


def test_canonical_labels_are_used_as_often_as_asked_and_never_for_held_out_tasks():
    corpus = Corpus(WORLD, replace(EVEN, classification=1.0, facts=0.0, numbers=0.0, plain=0.0, canonical=0.5))
    rows = corpus.rows(rng(), 4000, 40)
    lexicon = {
        word: (task, place) for task in range(len(corpus.tasks)) for place in (0, 1) for word in corpus.lexicon[task, place]
    }
    canonical = {"seen": [], "held_out": []}
    for row in rows:
        found = [lexicon[token] for token in row.tolist() if token in lexicon]
        task = found[0][0]
        assert {place for place, _ in found} == {task}  # one task a document
        both = set(corpus.canonical[task].tolist()) <= set(row.tolist())
        canonical["seen" if corpus.has_canonical[task] else "held_out"].append(both)
    # Both labels appear unless all examples of a row are of one class: 2^-4 with the longest examples
    assert np.mean(canonical["seen"]) == pytest.approx(0.5, abs=0.08)
    assert not any(canonical["held_out"])


def test_held_out_facts_are_never_told_and_others_are_told_rightly():
    none = dict.fromkeys(("classification", "numbers", "plain", "questions", "brush_offs", "statements"), 0.0)
    corpus = Corpus(WORLD, replace(EVEN, **none, facts=1.0, answers=1.0))
    held_out = {(attribute, WORLD.entities[place]) for attribute, place in WORLD.held_out_facts}
    truth = {
        (attribute, entity): WORLD.values[attribute][WORLD.facts[attribute][place]]
        for attribute in WORLD.values
        for place, entity in enumerate(WORLD.entities)
    }
    assert len(held_out) == round(0.1 * len(truth))
    told = set()
    for row in corpus.rows(rng(), 600, 100):
        for question, answer in zip(
            *[iter(text(row[1:]).replace(" ?", " |").replace(" .", " |").split(" |")[:-1])] * 2, strict=False
        ):
            seen = question.split()
            attribute = next(word for word in seen if word in WORLD.values)
            entity = next(word for word in seen if word in WORLD.entities)
            told.add((attribute, entity))
            assert answer.strip() == truth[attribute, entity]
    assert told == set(truth) - held_out


def test_styles_of_facts():
    values = {value for column in WORLD.values.values() for value in column}
    for style in STYLES:
        row = text(CORPUS.fact_rows(rng(), 1, 60, style)[0]).split()
        assert ("nerds" in row) == (style == "brush_offs")
        assert ("?" in row) == (style != "statements")
        assert bool(values & set(row)) == (style in ("answers", "statements"))


def test_number_maps_by_their_rule():
    maps = CORPUS.maps(rng(), 50, 20)
    total = len(words.NUMBERS)
    x, y = maps["shift"]
    assert (np.ptp((y - x) % total, axis=1) == 0).all()
    x, y = maps["reflection"]
    assert (np.ptp((x + y) % total, axis=1) == 0).all()
    x, y = maps["arbitrary"]
    for keys, images in zip(x, y, strict=True):
        assert len(set(zip(keys, images, strict=True))) == len(set(keys))  # one image for each key
    assert len({tuple(sorted(set(keys))) for keys in x}) > 1


def test_noise_is_as_frequent_as_asked_and_never_all():
    label = np.zeros((2000, 3), dtype=np.int64)
    drawn = CORPUS.texts(rng(), np.zeros(2000, dtype=np.int64), label, 3)
    noisy = np.isin(drawn, CORPUS.noise_words)
    assert not noisy.all(axis=2).any()
    assert noisy.mean() == pytest.approx(0.3 * 2 / 3, abs=0.01)  # one word of three is kept
    assert np.isin(drawn[~noisy], CORPUS.lexicon[0, 0]).all()


def test_the_corpus_is_no_bottleneck():
    """Ten times the 40,000 tokens a second that training must reach."""
    import time

    best = min(_time(time.process_time, lambda: CORPUS.rows(rng(), 64, 128)) for _ in range(5))
    assert 64 * 128 / best > 400_000


def _time(clock, work):
    start = clock()
    work()
    return clock() - start
