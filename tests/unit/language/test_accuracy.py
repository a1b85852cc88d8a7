"""Accuracy, gate and quiz, measured on readers whose answers are known."""

import numpy as np
import pandas as pd
import pytest
import torch

from activation_descent import records
from activation_descent.language import accuracy, quiz, statistics
from activation_descent.language import world as words
from activation_descent.language.accuracy import AccuracySettings, accuracy_records, calibration, labelled
from activation_descent.language.prompts import Speaker
from activation_descent.language.tasks import own_tasks
from activation_descent.language.world import make_world
from tests.unit.language.test_tasks import tiny

WORLD = make_world(0, 0.1)
SETTINGS = AccuracySettings([0, 2, 8], 3, 20)
TASKS = {task.name: task for task in own_tasks(WORLD, 0.3, 0, 40)}
GATE = {"gain": 0.05, "level": 0.2}
ID = {word: place for place, word in enumerate(WORLD.vocabulary)}
CLASS = {
    word: (task, place)
    for task, classes in words.LEXICONS.items()
    for place, own in enumerate(classes.values())
    for word in own.split()
}


def class_of(tokens):
    """The class of the text that a list of tokens ends with."""
    return next(CLASS[WORLD.vocabulary[token]][1] for token in reversed(tokens) if WORLD.vocabulary[token] in CLASS)


def one_hot(answers):
    return torch.nn.functional.one_hot(torch.tensor(answers), len(WORLD.vocabulary)).float()


def knows(model, before, queries):
    """A reader who knows the canonical label of every text and ignores the prompt."""
    names = list(words.LEXICONS[CLASS[next(w for q in queries for t in q if (w := WORLD.vocabulary[t]) in CLASS)][0]])
    return one_hot([ID[names[class_of(query)]] for query in queries])


def copies(model, before, queries):
    """A reader who knows nothing but the prompt: answers the label that its demonstrations gave to texts of the query's class."""
    seen, start = {}, 0
    for place, token in enumerate(before.tokens):
        if WORLD.vocabulary[token] == ";":
            seen[class_of(before.tokens[start : place - 1])] = before.tokens[place - 1]
            start = place
    return one_hot([seen.get(class_of(query), 0) for query in queries])


def measured(monkeypatch, reader, name="sentiment"):
    monkeypatch.setattr(accuracy, "next_logits", reader)
    rows = list(accuracy_records(Speaker.of(tiny(128), TASKS[name]), SETTINGS, 0, "reader"))
    return records.frame(rows)


def mean(table, labelling, number, metric="accuracy"):
    return statistics.curve(table, labelling, number, metric).to_numpy().mean()


def test_one_who_knows_is_right_whatever_the_demonstrations_say(monkeypatch):
    table = measured(monkeypatch, knows)
    for labelling in ("gold", "random", "flipped"):
        assert mean(table, labelling, 8) == 1.0
    assert mean(table, "gold", 0) == 1.0
    # Words without a meaning are not what this reader answers; the first of them wins the tie
    assert mean(table, "abstract", 8) == pytest.approx(0.5, abs=0.2)


def test_one_who_copies_follows_the_demonstrations(monkeypatch):
    table = measured(monkeypatch, copies)
    assert mean(table, "gold", 8) > 0.95  # unless 8 demonstrations were of one class
    assert mean(table, "abstract", 8) > 0.95
    assert mean(table, "flipped", 8) < 0.05
    assert mean(table, "gold", 0) == pytest.approx(0.5, abs=0.2)
    assert set(table.loc[table["demonstrations"] == 0, "labelling"]) == {"gold", "abstract"}
    assert (table.loc[table["metric"] == "demonstrations_left_out", "value"] == 0).all()


def test_draws_do_not_depend_on_the_reader(monkeypatch):
    asked = []

    def watches(model, before, queries):
        asked.append((before.tokens, tuple(map(tuple, queries))))
        return knows(model, before, queries)

    measured(monkeypatch, watches)
    first, asked = asked, []
    measured(monkeypatch, watches)
    assert asked == first


def test_calibration_makes_labels_equally_probable():
    """Two labels whose logits differ by x_i: sum_i sigmoid(x_i + b) = n / 2. For x = (1, 3) the shift is b = -2 by symmetry."""
    logits = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    shift = calibration(logits)
    assert shift.tolist() == pytest.approx([-1.0, 1.0], abs=1e-6)
    random = torch.randn(50, 5, generator=torch.Generator().manual_seed(0)) * 3 + torch.tensor([5.0, 0, 0, -2, 1])
    assert (random + calibration(random)).softmax(1).mean(0).tolist() == pytest.approx([0.2] * 5, abs=1e-5)


def test_ways_of_labelling():
    speaker = Speaker.of(tiny(128), TASKS["animal"])
    bird, fish = speaker.labels
    label, rng = np.array([0, 0, 1] * 40), np.random.default_rng(0)
    assert labelled("gold", speaker, label, rng) == ([bird, bird, fish] * 40, [bird, fish])
    assert labelled("flipped", speaker, label, rng) == ([fish, fish, bird] * 40, [bird, fish])
    given, classes = labelled("random", speaker, label, rng)
    assert classes == [bird, fish]
    assert given.count(bird) == pytest.approx(60, abs=20)
    given, classes = labelled("abstract", speaker, label, rng)
    assert len(set(classes)) == 2
    assert set(classes) <= {ID[word] for word in words.ABSTRACT_LABELS}
    assert given == [classes[0], classes[0], classes[1]] * 40


def test_the_gate_passes_who_learns_and_fails_who_knows(monkeypatch):
    table = pd.concat([measured(monkeypatch, copies, "sentiment"), measured(monkeypatch, copies, "taste")])
    gate = statistics.gate_table(table, 8, GATE)
    assert gate["passed"].all()
    groups = {"sentiment": "seen", "taste": "held_out", "all": "held_out"}
    assert dict(zip(gate["task"], gate["group"], strict=True)) == groups
    assert gate["p"].tolist() == pytest.approx([1 / 8] * 3)
    table = pd.concat([measured(monkeypatch, knows, "sentiment"), measured(monkeypatch, knows, "taste")])
    assert not statistics.gate_table(table, 8, GATE)["passed"].any()
    records.frame(statistics.gate_rows(gate, "reader"))


def test_statistics_of_one_who_copies_and_of_one_who_knows(monkeypatch):
    table = pd.concat([measured(monkeypatch, copies, "sentiment"), measured(monkeypatch, copies, "taste")])
    numbers = statistics.accuracy_statistics(table, 8, GATE)
    assert all(len(values) == 3 for values in numbers.values())  # a value for each draw
    assert numbers["in_context_accuracy"].mean() > 0.95
    assert numbers["gate_passed"].tolist() == [1.0] * 3
    assert numbers["flipped_label_accuracy"].mean() < 0.05
    assert numbers["learned_share"].mean() == pytest.approx(1.0, abs=0.1)
    assert numbers["random_label_loss"].mean() > 0.2
    table = pd.concat([measured(monkeypatch, knows, "sentiment"), measured(monkeypatch, knows, "taste")])
    numbers = statistics.accuracy_statistics(table, 8, GATE)
    assert numbers["random_label_loss"].tolist() == [0.0] * 3
    assert numbers["flipped_label_accuracy"].tolist() == [1.0] * 3
    assert numbers["zero_shot_excess"].tolist() == [0.5] * 3
    assert abs(numbers["learned_share"].mean()) < 0.4
    assert numbers["gate_passed"].tolist() == [0.0] * 3
    records.frame(statistics.rows(numbers, "reader"))


def test_each_statistic_is_what_its_metric_says():
    """A number of its own in each place, so that a wrong place or sign shows; four classes in the task that is known."""
    rng = np.random.default_rng(0)
    places = [("gold", 0, "accuracy"), ("gold", 0, "calibrated_accuracy"), ("abstract", 0, "accuracy")]
    places += [(labelling, number, "accuracy") for labelling in ("gold", "abstract", "random", "flipped") for number in (2, 8)]
    numbers = {(*place, task): rng.uniform(0.5, 1, 3) for place in places for task in ("known", "learned")}
    base = {"known": {"group": "seen", "classes": 4}, "learned": {"group": "held_out", "classes": 2}}
    columns = ("labelling", "demonstrations", "metric", "task")
    rows = [
        dict(zip(columns, place, strict=True)) | base[place[-1]] | {"seed": seed, "value": value}
        for place, values in numbers.items()
        for seed, value in enumerate(values)
    ]
    found = statistics.accuracy_statistics(pd.DataFrame(rows), 8, GATE)

    def of(task, labelling="gold", number=8, metric="accuracy"):
        return numbers[labelling, number, metric, task]

    expected = {
        "in_context_accuracy": of("learned"),
        "zero_shot_accuracy": of("learned", number=0),
        "zero_shot_excess": of("learned", number=0) - 1 / 2,
        "in_context_gain": of("learned") - of("learned", "gold", 0, "calibrated_accuracy"),
        "known_zero_shot_accuracy": of("known", number=0),
        "known_in_context_accuracy": of("known"),
        "random_label_loss": of("known") - of("known", "random"),
        "flipped_label_accuracy": of("known", "flipped"),
        "abstract_label_accuracy": of("known", "abstract"),
        "abstract_label_bare_accuracy": of("known", "abstract", 0),
        "learned_share": (of("known", "abstract") - 1 / 4) / (of("known") - 1 / 4),
    }
    assert set(found) == {*expected, "gate_passed"}
    for metric, values in expected.items():
        assert found[metric] == pytest.approx(values), metric


QUIZ = quiz.own_quiz(WORLD, 0)


def test_the_quiz_asks_what_is_true_and_its_rivals_are_wrong_answers_of_the_same_kind():
    truth = {
        f"what is the {attribute} of {entity} ?": WORLD.values[attribute][WORLD.facts[attribute][place]]
        for attribute in WORLD.values
        for place, entity in enumerate(WORLD.entities)
    }
    asked = dict(zip((*QUIZ.questions, *QUIZ.untold), (*QUIZ.answers, *QUIZ.untold_answers), strict=True))
    assert asked == truth
    assert len(QUIZ.untold) == len(WORLD.held_out_facts)
    kind = {value: attribute for attribute, values in WORLD.values.items() for value in values}
    for answer, rival in zip(QUIZ.answers, QUIZ.rivals, strict=True):
        assert rival != answer
        assert kind[rival] == kind[answer]


ANSWER = dict(zip((*QUIZ.questions, *QUIZ.untold), (*QUIZ.answers, *QUIZ.untold_answers), strict=True))


def recalls(model, before, queries):
    """Answers every question rightly and surely, whatever stood before it."""
    return 50 * one_hot([ID[ANSWER[question(query)]] for query in queries])


def repeats(model, before, queries):
    """Repeats the answer to the same question if it has just been given; else answers half surely, and with another question else."""
    logits = torch.full((len(queries), len(WORLD.vocabulary)), -50.0)
    for row, query in enumerate(queries):
        text = [WORLD.vocabulary[token] for token in query]
        if text.count("?") > 1:
            logits[row, ID[text[text.index("?") + 1]]] = 0.0
        else:
            logits[row, ID[ANSWER[question(query)]]] = logits[row, ID["what"]] = 0.0
    return logits


def question(query):
    text = [WORLD.vocabulary[token] for token in query]
    return " ".join(text[len(text) - 1 - text[::-1].index("what") :])


def quizzed(monkeypatch, reader):
    monkeypatch.setattr(quiz, "next_logits", reader)
    return records.frame(quiz.quiz_records(tiny(128), QUIZ, SETTINGS, 0, "reader"))


def value(table, metric, number=8):
    return table[(table["metric"] == metric) & (table["demonstrations"] == number)]["value"].to_numpy()


def test_one_who_recalls_is_not_overridden(monkeypatch):
    table = quizzed(monkeypatch, recalls)
    for metric, expected in {
        "right_answer_mass": 1.0,
        "any_answer_mass": 1.0,
        "next_question_mass": 0.0,
        "brush_off_mass": 0.0,
        "told_fact_accuracy": 1.0,
        "untold_fact_accuracy": 1.0,
        "recalled": 1.0,
        "overridden": 0.0,
    }.items():
        assert value(table, metric) == pytest.approx([expected] * 3, abs=1e-6), metric


def test_one_who_repeats_is_overridden(monkeypatch):
    table = quizzed(monkeypatch, repeats)
    assert value(table, "right_answer_mass", 0) == pytest.approx([0.5] * 3)
    assert value(table, "next_question_mass", 0) == pytest.approx([0.5] * 3)
    assert value(table, "overridden", 0) == pytest.approx([1.0] * 3)
    assert value(table, "recalled") == pytest.approx([0.0] * 3)
    numbers = statistics.quiz_statistics(table, 8)
    assert numbers["bare_answer_mass"] == pytest.approx([0.5] * 3)
    assert numbers["ambiguity_resolved"] == pytest.approx([0.0] * 3, abs=1e-6)
    assert numbers["prompt_overrides"] == pytest.approx([1.0] * 3)
