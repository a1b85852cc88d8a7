"""Draws of demonstrations and queries."""

import pytest
import torch

from activation_descent.errors import ModelError
from activation_descent.finetuning.cells import Sampling, draw_cells
from activation_descent.language.prompts import Speaker
from activation_descent.language.tasks import own_tasks
from activation_descent.language.world import make_world
from tests.unit.language.test_tasks import tiny

WORLD = make_world(0, 0.1)
TASKS = {task.name: task for task in own_tasks(WORLD, 0.3, 0, 40)}
SAMPLING = Sampling(demonstrations=6, draws=3, queries=5, tuning_queries=4, rate_draws=2)


def cells(length=128, names=("work", "travel"), sampling=SAMPLING):
    model = tiny(length)
    groups = [*draw_cells([Speaker.of(model, TASKS[name]) for name in names], sampling, 0)]
    assert len(groups) == 1  # all tasks of the corpus have two classes
    return groups[0]


def test_a_cell_is_a_task_and_a_draw():
    drawn = cells()
    assert drawn.tasks == ["work"] * 3 + ["travel"] * 3
    assert drawn.draws == [0, 1, 2] * 2
    assert drawn.queries.tokens.shape[:2] == (6, 5)
    assert drawn.tuning.queries.tokens.shape[:2] == (6, 4)
    assert drawn.labels.shape == (6, 2)
    assert [len(shown) for shown in drawn.shown] == [6] * 6


def test_pools_and_sets_of_demonstrations_share_nothing():
    drawn = cells()
    for shown, others in zip(drawn.shown, drawn.others, strict=True):
        assert not {example.text for example in shown} & {example.text for example in others}
    for cell in range(6):
        task = drawn.speakers[cell].task
        asked = {tuple(row) for row in drawn.queries.tokens[cell].tolist()}
        tuned = {tuple(row) for row in drawn.tuning.queries.tokens[cell].tolist()}
        assert not asked & tuned
        assert {example.text for example in drawn.shown[cell]} <= {example.text for example in task.demonstrations}


def test_truth_is_the_place_of_the_label_of_each_query():
    drawn, task = cells(), TASKS["travel"]
    known = {example.text: example.label for example in task.evaluation}
    speaker = drawn.speakers[3]
    for row, length, truth in zip(drawn.queries.tokens[3], drawn.queries.lengths[3], drawn.truth[3], strict=True):
        text = speaker.model.tokenizer.decode(row[:length])
        label = next(label for example, label in known.items() if example in text)
        assert label == truth


def test_all_cells_show_what_fits_in_the_fullest_window():
    # <bos> and 7 tokens an example; a query of 5 and its label: 1 + 7 n + 6 < 40 for n up to 4
    drawn = cells(40)
    assert [len(shown) for shown in drawn.shown] == [4] * 6
    assert [len(others) for others in drawn.others] == [4] * 6


def test_a_window_that_holds_too_few_is_refused():
    with pytest.raises(ModelError, match=r"2 demonstrations of the task (work|travel) fit in the 26 tokens"):
        cells(26)


def test_what_is_drawn_does_not_depend_on_the_model_or_on_other_tasks():
    alone, together = cells(names=("travel",)), cells()
    assert alone.shown == together.shown[3:]
    assert torch.equal(alone.queries.tokens, together.queries.tokens[3:])
    assert alone.shown[0] != alone.shown[1]


def test_as_many_queries_as_the_smallest_pool_has():
    drawn = cells(sampling=Sampling(6, 2, 1000, 4, 1))
    assert drawn.queries.tokens.shape[1] == 40


@pytest.mark.parametrize("cell", [0, 4])
def test_rows_and_prompts_hold_the_same_demonstrations(cell):
    drawn = cells()
    tokens = drawn.own_labels(drawn.shown)
    rows, prompt = drawn.read(drawn.shown, tokens), drawn.prompts_of(drawn.shown, tokens)[cell]
    speaker, laid = drawn.speakers[cell], list(drawn.model.begin)
    for row, length in zip(rows.tokens[cell].tolist(), rows.lengths[cell].tolist(), strict=True):
        laid += [*row[rows.context : length], *speaker.ending]
    assert laid == prompt
