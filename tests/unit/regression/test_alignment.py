import itertools
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from activation_descent import records
from activation_descent.regression import alignment, learners, statistics, training
from activation_descent.regression.constructions import gradient_descent_layer
from activation_descent.regression.tasks import Tasks

from .test_training import SETTINGS

TEN = replace(SETTINGS, input_dim=10, context_length=10, seeds=3, snapshot_every=10)
EVALUATION = alignment.Evaluation(
    tasks=2000,
    sweep_tasks=200,
    tuning_tasks=10000,
    tail_share=0.5,
    context_lengths=(5, 10, 20),
    input_scales=(0.5, 1.0, 2.0),
    dampings=(1.0, 0.75),
    judged_damping=0.75,
    rollout_iterations=50,
    rollout_tasks=2000,
)


def constructed(scale=1.0):
    """A "trained" job whose every snapshot is the construction, its step scaled."""
    rate = learners.optimal_rate(10, 10, 0.5)
    layer = gradient_descent_layer(10, scale * rate, dtype=torch.float32)
    steps = [0, 10, 20, 30]
    losses = torch.full((3, 4), 0.2, dtype=torch.float64)
    return training.Trained(steps, layer.expand(3, 4, 4, 11, 11).clone(), losses)


def test_distances_by_hand():
    # Two tasks, d = 2: models (3, 4) and (0, 1) against (4, 3) and (0, -1); queries (1, 0) and (0, 2)
    tokens = torch.zeros(3, 2, 2, dtype=torch.float64)
    tokens[:2, 1, 0] = torch.tensor([1.0, 0.0])
    tokens[:2, 1, 1] = torch.tensor([0.0, 2.0])
    tasks = Tasks(tokens, torch.zeros(2, dtype=torch.float64))
    model = torch.tensor([[3.0, 0.0], [4.0, 1.0]], dtype=torch.float64)
    reference = torch.tensor([[4.0, 0.0], [3.0, -1.0]], dtype=torch.float64)
    distance = alignment.align(model, reference, tasks)
    assert distance.cosine == pytest.approx((24 / 25 - 1) / 2)
    assert distance.model_difference == pytest.approx((math.sqrt(2) + 2) / 2)
    assert distance.prediction_difference == pytest.approx((1 + 4) / 2)


def test_cosine_ignores_the_step_and_differences_do_not():
    tasks = alignment.evaluation_tasks(TEN, 0, "v", "evaluate", 500)
    model = learners.gradient_descent_model(tasks, 0.3)
    assert alignment.align(0.1 * model, model, tasks).cosine == pytest.approx(1.0)
    assert alignment.align(0.1 * model, model, tasks).model_difference == pytest.approx(0.9 * model.norm(dim=0).mean().item())


def test_streams_are_independent():
    """Training, tuning and evaluation inputs of one variant are uncorrelated (7,040 pairs: five standard errors are .06)."""
    streams = [training.training_tasks(TEN, 0, "v", 0, 0).tokens]
    streams += [alignment.evaluation_tasks(TEN, 0, "v", purpose, 64).tokens for purpose in ("evaluate", "tune")]
    correlations = np.corrcoef([tokens[:-1].double().flatten().numpy() for tokens in streams])
    assert np.abs(correlations - np.eye(3)).max() < 0.06


def test_roll_out_of_the_construction_is_damped_gradient_descent():
    tasks = alignment.evaluation_tasks(TEN, 0, "v", "evaluate", 200)
    layer = gradient_descent_layer(10, 0.6)
    losses = alignment.roll_out(layer, tasks, 0.75, 12)
    for step in (0, 1, 12):
        model = learners.gradient_descent_model(tasks, 0.75 * 0.6, steps=step)
        assert losses[step] == pytest.approx(alignment.loss_of(model, tasks), rel=1e-10)


def test_roll_out_of_the_construction_meets_the_population_values():
    """Population values of damped gradient descent from the eigenvalue recursion (half range, d = N = 10)."""
    tasks = alignment.evaluation_tasks(TEN, 0, "v", "evaluate", 20000)
    layer = gradient_descent_layer(10, learners.optimal_rate(10, 10, 0.5))
    stable = alignment.stable_tasks(tasks, 0.75 * learners.optimal_rate(10, 10, 0.5))
    assert 0 < (~stable).sum() < 10  # the largest of 10,000 eigenvalues is 4.3 to 4.6; the limit is 4.4
    tasks = Tasks(tasks.tokens[..., stable], tasks.target[stable])
    losses = alignment.roll_out(layer, tasks, 0.75, 50)
    for step, value in {1: 0.2194, 2: 0.1696, 3: 0.1441, 5: 0.1164, 10: 0.0864, 20: 0.0641, 50: 0.0435}.items():
        assert losses[step] == pytest.approx(value, rel=0.07)
    assert all(b < a for a, b in itertools.pairwise(losses))
    assert alignment.roll_out(layer, tasks, 1.0, 20)[20] > 100


def test_stability_by_hand():
    # One input of length 2 in d = 2, N = 1: eigenvalue 4, stable below a rate of 1/2
    tasks = Tasks(torch.tensor([[[2.0], [0.0]], [[0.0], [0.0]], [[1.0], [0.0]]]), torch.zeros(1))
    assert alignment.stable_tasks(tasks, 0.49).all()
    assert not alignment.stable_tasks(tasks, 0.51).any()


def test_a_roll_out_that_overflows_is_infinite():
    tasks = alignment.evaluation_tasks(TEN, 0, "v", "evaluate", 10)
    losses = alignment.roll_out(gradient_descent_layer(10, 1e6), tasks, 1.0, 200)
    assert losses[-1] == math.inf


def all_statistics(trained):
    run = (TEN, EVALUATION, 0, "v", trained)
    course = records.frame(alignment.alignment_records(TEN, EVALUATION.tasks, 0, "v", trained))
    generalisation = records.frame(alignment.generalisation_records(*run))
    rollout = records.frame(alignment.rollout_records(*run))
    for table in (course, generalisation, rollout):
        records.check(table, "table")
    return {
        **statistics.course_statistics(course, TEN, EVALUATION, trained),
        **statistics.generalisation_statistics(generalisation, TEN),
        **statistics.rollout_statistics(rollout, 0.75),
        **statistics.control_statistics(*run),
    }


def test_statistics_of_the_construction_are_those_of_gradient_descent():
    found = all_statistics(constructed())
    assert all(len(values) == 3 for values in found.values())
    for metric in ("loss_ratio", "construction_loss_ratio", "final_model_cosine", "construction_cosine"):
        assert found[metric] == pytest.approx(np.ones(3), abs=1e-6)
    for metric in ("final_model_difference", "final_prediction_difference", "step_size_error", "interpolation_excess"):
        assert found[metric] == pytest.approx(np.zeros(3), abs=1e-6)
    for metric in ("context_length_gap", "input_scale_gap", "rescaled_cosine_change"):
        assert found[metric] == pytest.approx(np.zeros(3), abs=1e-5)
    assert (found["rollout_rises"] == 0).all()
    assert found["rollout_final_loss"] == pytest.approx(found["gradient_descent_rollout_loss"], rel=1e-4)
    # Closed form: halving the optimal step multiplies the loss by 1.2551
    assert found["rescaled_loss_excess"] == pytest.approx(np.full(3, 0.2551), abs=0.04)
    assert found["tuned_rate_ratio"] == pytest.approx(np.ones(3), abs=0.033)
    assert np.abs(found["other_task_cosine"]).max() < 5 / math.sqrt(10 * 2000)


def test_statistics_see_a_wrong_step():
    found = all_statistics(constructed(0.5))
    assert found["final_model_cosine"] == pytest.approx(np.ones(3), abs=1e-6)
    assert found["step_size_error"] == pytest.approx(np.full(3, 0.5), abs=1e-6)
    assert found["loss_ratio"] == pytest.approx(np.full(3, 1.2551), abs=0.04)
    assert found["final_model_difference"].min() > 0.9  # half of 2.08


def test_context_length_gap_at_a_known_step_error():
    """By the closed form a step 10 % too long changes the loss by the ratio of two expected losses at each N."""
    found = all_statistics(constructed(1.1))
    rate = learners.optimal_rate(10, 10, 0.5)
    changes = [learners.expected_loss(1.1 * rate, 10, n, 0.5) / learners.expected_loss(rate, 10, n, 0.5) - 1 for n in (5, 10, 20)]
    assert found["context_length_gap"] == pytest.approx(np.full(3, max(map(abs, changes))), rel=0.1)


def test_size_statistics_by_hand():
    rows = [
        {"variant": variant, "seed": seed, "step": step, "learner": learner, "metric": "loss", "value": value}
        for variant, seed, step, learner, value in [
            *((v, s, 0, "transformer", 2.0) for v in "ab" for s in (0, 1)),
            *((v, s, t, "gradient_descent", 1.0) for v in "ab" for s in (0, 1) for t in (0, 50, 100)),
            ("a", 0, 50, "transformer", 9.0),
            ("a", 0, 100, "transformer", 1.01),
            ("a", 1, 50, "transformer", 9.0),
            ("a", 1, 100, "transformer", 0.97),
            ("b", 0, 50, "transformer", 9.0),
            ("b", 0, 100, "transformer", 0.98),
            ("b", 1, 50, "transformer", 9.0),
            ("b", 1, 100, "transformer", 1.02),
            ("b", 2, 100, "transformer", 5.0),  # a seed that the other size lacks
            ("b", 2, 100, "gradient_descent", 1.0),
        ]
    ]
    found = statistics.size_statistics(pd.DataFrame(rows), {"a": 5, "b": 20}, 0.5)
    assert found["problem_size_gap"] == pytest.approx([0.02, 0.03])
    assert found["untrained_problem_size_gap"] == pytest.approx([1.0, 1.0])
