import itertools
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from activation_descent import records
from activation_descent.regression import alignment, learners, probes, statistics, training, transformer
from activation_descent.regression.constructions import gd_plus_plus_layer, gradient_descent_layer, step_sizes
from activation_descent.regression.tasks import Tasks

from .test_training import SETTINGS

TEN = replace(SETTINGS, input_dim=10, context_length=10, seeds=3, snapshot_every=10)
EVALUATION = alignment.Evaluation(
    tasks=2000,
    sweep_tasks=200,
    probe_tasks=2000,
    tuning_tasks=10000,
    tail_share=0.5,
    context_lengths=(5, 10, 20),
    input_scales=(0.5, 1.0, 2.0),
    weight_scales=(1.0, 3.0),
    distribution_scales=(1.0, 2.0),
    noisy_labels=(0, 4),
    dampings=(1.0, 0.75),
    judged_damping=0.75,
    rollout_iterations=50,
    rollout_tasks=2000,
)
RATES, GAMMAS = (1.35, 1.35), (0.176, 0.176)  # GD++ with two steps, as published to three digits


def learners_table():
    """Records of two fitted learners, written by hand."""
    rows = []
    for learner, rates, gammas, loss in (
        ("gradient_descent", (0.598, 0.598), (0.0, 0.0), 0.1566),
        ("gd_plus_plus", RATES, GAMMAS, 0.1105),
    ):
        row = {"seed": 0, "learner": learner, "layers": 2, "layer": 0, "context_length": 10}
        rows += [
            row | {"metric": metric, "value": loss} for metric in ("learner_loss", "learner_mean_loss", "learner_median_loss")
        ]
        for layer, pair in enumerate(zip(rates, gammas, strict=True), start=1):
            rows += [
                row | {"layer": layer, "metric": f"learner_{name}", "value": value}
                for name, value in zip(("rate", "gamma"), pair, strict=True)
            ]
    return pd.DataFrame(rows)


def constructed(scale=1.0, layers=1):
    """A "trained" job whose every snapshot is the construction, its step scaled."""
    rate = learners.optimal_rate(10, 10, 0.5)
    layer = gradient_descent_layer(10, scale * rate) if layers == 1 else gd_plus_plus_layer(10, scale * RATES[0], GAMMAS[0])
    steps = [0, 10, 20, 30]
    losses = torch.full((3, 4), 0.2, dtype=torch.float64)
    return training.Trained(steps, layer.float().flatten().expand(3, 4, -1).clone(), losses, losses[:, -1])


def test_distances_by_hand():
    # Two tasks, d = 2: models (3, 4) and (0, 1) against (4, 3) and (0, -1); predictions 3 and 2 against 4 and -2
    answer = alignment.Answer(torch.tensor([3.0, 2.0]), torch.tensor([[3.0, 0.0], [4.0, 1.0]]))
    reference = alignment.Answer(torch.tensor([4.0, -2.0]), torch.tensor([[4.0, 0.0], [3.0, -1.0]]))
    distance = alignment.align(answer, reference)
    assert distance.cosine == pytest.approx((24 / 25 - 1) / 2)
    assert distance.model_difference == pytest.approx((math.sqrt(2) + 2) / 2)
    assert distance.prediction_difference == pytest.approx((1 + 4) / 2)


def test_median_loss_by_hand():
    # Errors 1, 2 and 1000: losses .5, 2 and 500,000, of which the last would be all of a mean
    tasks = Tasks(torch.zeros(3, 3, 3), torch.tensor([0.0, 1.0, 0.0]))
    answer = alignment.Answer(torch.tensor([1.0, 3.0, -1000.0]), torch.zeros(2, 3))
    assert statistics.median_loss(answer, tasks) == 2.0


def test_cosine_ignores_the_step_and_differences_do_not():
    tasks = alignment.evaluation_tasks(TEN, 0, "v", "evaluate", 500)
    model = learners.gradient_descent_model(tasks, [0.3])
    whole, tenth = alignment.answer_of_model(model, tasks), alignment.answer_of_model(0.1 * model, tasks)
    assert alignment.align(tenth, whole).cosine == pytest.approx(1.0)
    assert alignment.align(tenth, whole).model_difference == pytest.approx(0.9 * model.norm(dim=0).mean().item())


def test_streams_are_independent():
    """Training, tuning and evaluation inputs of one variant are uncorrelated (7,040 pairs: five standard errors are .06)."""
    streams = [training.training_tasks(TEN, 0, "v", 0, 0).tokens]
    streams += [alignment.evaluation_tasks(TEN, 0, "v", purpose, 64).tokens for purpose in ("evaluate", "tune")]
    correlations = np.corrcoef([tokens[:-1].double().flatten().numpy() for tokens in streams])
    assert np.abs(correlations - np.eye(3)).max() < 0.06


def test_layers_by_hand_are_their_learners():
    tasks = alignment.evaluation_tasks(TEN, 0, "v", "evaluate", 200)
    layers = [gd_plus_plus_layer(10, *pair) for pair in zip(RATES, GAMMAS, strict=True)]
    answer = alignment.answer_of_layers(layers, tasks)
    expected = alignment.answer_of_model(learners.gd_plus_plus_model(tasks, RATES, GAMMAS), tasks)
    assert torch.allclose(answer.model, expected.model, atol=1e-10)
    assert torch.allclose(answer.prediction, expected.prediction, atol=1e-10)


def test_learners_of_each_kind_of_network():
    table = learners_table()
    one = alignment.learner_layers(TEN, table)
    assert list(one) == ["gradient_descent"]
    assert step_sizes(one["gradient_descent"][0]) == pytest.approx((0.60606, 0.0), rel=1e-4)
    two = alignment.learner_layers(replace(TEN, layers=2), table)
    assert [step_sizes(layer) for layer in two["gd_plus_plus"]] == [pytest.approx((1.35, 0.176))] * 2
    # Inputs twice as large: rates and gammas a quarter
    wide = alignment.learner_layers(replace(TEN, layers=2, half_range=1.0), table)
    assert [step_sizes(layer) for layer in wide["gd_plus_plus"]] == [pytest.approx((1.35 / 4, 0.044))] * 2
    classic = replace(TEN, layers=2, tied=False, tokens="classic", position_size=4)
    assert list(alignment.learner_layers(classic, table)) == ["gradient_descent"]


def test_roll_out_of_the_construction_is_damped_gradient_descent():
    tasks = alignment.evaluation_tasks(TEN, 0, "v", "evaluate", 200)
    layer = gradient_descent_layer(10, 0.6)
    losses = probes.roll_out(layer, tasks, 0.75, 12)
    for step in (0, 1, 12):
        model = learners.gradient_descent_model(tasks, [0.75 * 0.6] * step)
        assert losses[step] == pytest.approx(alignment.loss_of(alignment.answer_of_model(model, tasks), tasks), rel=1e-10)


def test_roll_out_of_the_construction_meets_the_population_values():
    """Population values of damped gradient descent from the eigenvalue recursion (half range, d = N = 10)."""
    tasks = alignment.evaluation_tasks(TEN, 0, "v", "evaluate", 20000)
    layer = gradient_descent_layer(10, learners.optimal_rate(10, 10, 0.5))
    stable = probes.stable_tasks(tasks, 0.75 * learners.optimal_rate(10, 10, 0.5))
    assert 0 < (~stable).sum() < 10  # the largest of 10,000 eigenvalues is 4.3 to 4.6; the limit is 4.4
    tasks = Tasks(tasks.tokens[..., stable], tasks.target[stable])
    losses = probes.roll_out(layer, tasks, 0.75, 50)
    for step, value in {1: 0.2194, 2: 0.1696, 3: 0.1441, 5: 0.1164, 10: 0.0864, 20: 0.0641, 50: 0.0435}.items():
        assert losses[step] == pytest.approx(value, rel=0.07)
    assert all(b < a for a, b in itertools.pairwise(losses))
    assert probes.roll_out(layer, tasks, 1.0, 20)[20] > 100


def test_stability_by_hand():
    # One input of length 2 in d = 2, N = 1: eigenvalue 4, stable below a rate of 1/2
    tasks = Tasks(torch.tensor([[[2.0], [0.0]], [[0.0], [0.0]], [[1.0], [0.0]]]), torch.zeros(1))
    assert probes.stable_tasks(tasks, 0.49).all()
    assert not probes.stable_tasks(tasks, 0.51).any()


def test_a_roll_out_that_overflows_is_infinite():
    tasks = alignment.evaluation_tasks(TEN, 0, "v", "evaluate", 10)
    losses = probes.roll_out(gradient_descent_layer(10, 1e6), tasks, 1.0, 200)
    assert losses[-1] == math.inf


def all_statistics(trained, settings=TEN):
    run = (settings, EVALUATION, 0, "v", trained)
    course = records.frame(alignment.alignment_records(settings, EVALUATION.tasks, 0, "v", trained, learners_table()))
    generalisation = records.frame(probes.generalisation_records(*run, learners_table()))
    for table in (course, generalisation):
        records.check(table, "table")
    found = {
        **statistics.course_statistics(course, 0.5),
        **statistics.weight_statistics(settings, trained, 0.5),
        **statistics.generalisation_statistics(generalisation),
        **statistics.control_statistics(settings, EVALUATION.tasks, EVALUATION.tuning_tasks, 0, "v", trained, learners_table()),
    }
    if settings.layers == 1:
        rollout = records.frame(probes.rollout_records(*run))
        records.check(rollout, "table")
        found |= statistics.rollout_statistics(rollout, 0.75)
    assert set(found) <= set(records.METRICS)
    return found


def test_statistics_of_the_construction_are_those_of_gradient_descent():
    found = all_statistics(constructed())
    assert all(len(values) == 3 for values in found.values())
    for metric in (
        "loss_ratio",
        "median_loss_ratio",
        "construction_loss_ratio",
        "final_model_cosine",
        "construction_cosine",
        "largest_input_loss_ratio",
    ):
        assert found[metric] == pytest.approx(np.ones(3), abs=1e-6)
    for metric in ("final_model_difference", "final_prediction_difference", "step_size_error", "interpolation_excess"):
        assert found[metric] == pytest.approx(np.zeros(3), abs=1e-6)
    for condition in ("context_length", "input_scale", "weight_scale", "distribution_scale", "noisy_labels"):
        assert found[f"{condition}_gap"] == pytest.approx(np.zeros(3), abs=1e-5)
    assert found["rescaled_cosine_change"] == pytest.approx(np.zeros(3), abs=1e-6)
    assert (found["steps_to_descent"] == 0).all()
    assert (found["rollout_rises"] == 0).all()
    assert found["rollout_final_loss"] == pytest.approx(found["gradient_descent_rollout_loss"], rel=1e-4)
    # Closed form: halving the optimal step multiplies the loss by 1.2551
    assert found["rescaled_loss_excess"] == pytest.approx(np.full(3, 0.2551), abs=0.04)
    assert found["tuned_rate_ratio"] == pytest.approx(np.ones(3), abs=0.033)
    assert np.abs(found["other_task_cosine"]).max() < 5 / math.sqrt(10 * 2000)


def test_statistics_of_gd_plus_plus_as_a_network():
    found = all_statistics(constructed(layers=2), replace(TEN, layers=2))
    for metric in (
        "plus_plus_loss_ratio",
        "final_plus_plus_model_cosine",
        "plus_plus_construction_cosine",
        "construction_cosine",
    ):
        assert found[metric] == pytest.approx(np.ones(3), abs=1e-6)
    assert found["plus_plus_input_scale_gap"] == pytest.approx(np.zeros(3), abs=1e-4)
    assert found["learned_gamma"] == pytest.approx(np.full(3, 0.176), rel=1e-5)
    assert found["learned_rate"] == pytest.approx(np.full(3, 1.35), rel=1e-5)
    assert found["interpolation_excess"] == pytest.approx(np.zeros(3), abs=1e-6)
    # Population values: gradient descent .1566, GD++ .1105
    assert found["descent_loss_excess"] == pytest.approx(np.full(3, 0.1566 / 0.1105 - 1), abs=0.1)
    assert found["final_model_cosine"].max() < 0.97


def test_statistics_see_a_wrong_step():
    found = all_statistics(constructed(0.5))
    assert found["final_model_cosine"] == pytest.approx(np.ones(3), abs=1e-6)
    assert found["step_size_error"] == pytest.approx(np.full(3, 0.5), abs=1e-6)
    assert found["loss_ratio"] == pytest.approx(np.full(3, 1.2551), abs=0.04)
    assert found["final_model_difference"].min() > 0.9  # half of 2.08
    assert np.isinf(found["steps_to_descent"]).all()


def test_context_length_gap_at_a_known_step_error():
    """By the closed form a step 10 % too long changes the loss by the ratio of two expected losses at each N."""
    found = all_statistics(constructed(1.1))
    rate = learners.optimal_rate(10, 10, 0.5)
    changes = [learners.expected_loss(1.1 * rate, 10, n, 0.5) / learners.expected_loss(rate, 10, n, 0.5) - 1 for n in (5, 10, 20)]
    assert found["context_length_gap"] == pytest.approx(np.full(3, max(map(abs, changes))), rel=0.1)


def test_cancellation_by_hand():
    """Heads whose terms are +M and -M + D with a diagonal D: the off-diagonal of the sum is nothing; halve one and half is left."""
    torch.manual_seed(0)
    matrix, unit = torch.randn(4, 4, dtype=torch.float64), torch.eye(4, dtype=torch.float64)

    def head(a, sign):
        return torch.stack([a, unit, sign * unit, unit])  # A = a, B = sign I

    assert statistics.cancellation(torch.stack([head(matrix, 1.0), head(matrix + 3 * unit, -1.0)])) > 1e6
    half = statistics.cancellation(torch.stack([head(matrix, 1.0), head(0.5 * matrix, -1.0)]))
    assert half == pytest.approx(0.75 / 0.5)  # mean of 1 and .5, over .5


def test_sensitivities_by_the_whole_jacobian():
    """The derivative of every token's output by every token, averaged over tasks, then norms: one layer in loops."""
    settings = replace(
        SETTINGS, seeds=1, input_dim=2, context_length=3, layers=2, tied=False, tokens="classic_slot", position_size=4
    )
    architecture = settings.architecture
    generator = torch.Generator().manual_seed(0)
    length = sum(math.prod(shape) for shape in transformer.shapes(architecture).values())
    vector = 0.3 * torch.randn(length, dtype=torch.float64, generator=generator)
    query, key, value, projection = transformer.unpack(vector, architecture)["attention"][0, 0]
    tasks = alignment.evaluation_tasks(settings, 0, "v", "evaluate", 5)
    entered = transformer.enter({}, tasks.tokens, architecture)  # width position task

    def output(e):  # position width
        rows = []
        for j in range(len(e)):
            scores = [(e[j] @ query) @ (e[i] @ key) for i in range(len(e) - 1)]
            rows.append(e[j] + sum(score * (e[i] @ value) for i, score in enumerate(scores)) @ projection)
        return torch.stack(rows).sum(1)

    jacobians = [torch.autograd.functional.jacobian(output, entered[..., task].T) for task in range(5)]
    norms = torch.stack(jacobians).mean(0).norm(dim=2).numpy()  # of token, by token
    positions = range(len(norms) - 2)
    losses = torch.full((1, 1), 0.2, dtype=torch.float64)
    trained = training.Trained([0], vector[None, None], losses, losses[:, -1])
    found = {row["metric"]: row["value"] for row in probes.copying_records(settings, 5 * probes.COPYING_SHARE, 0, "v", trained)}
    assert found["own_token_sensitivity"] == pytest.approx(np.mean([norms[k, k] for k in positions]))
    assert found["next_token_sensitivity"] == pytest.approx(np.mean([norms[k, k + 1] for k in positions]))
    others = [np.delete(norms[k], [k, k + 1]).mean() for k in positions]
    assert found["other_token_sensitivity"] == pytest.approx(np.mean(others))


def test_a_network_that_is_asked_for_the_gradient_step_has_controls_on_true_labels():
    """Its reference has no loss on its own answers, so that no ratio to it may be formed there."""
    settings = replace(TEN, target="descent")
    run = (500, 1000, 0, "v", constructed(0.9), learners_table())
    plain, numbers = statistics.control_statistics(TEN, *run), statistics.control_statistics(settings, *run)
    assert {name: values.tolist() for name, values in numbers.items()} == {
        name: values.tolist() for name, values in plain.items()
    }
    table = records.frame(alignment.alignment_records(settings, 200, 0, "v", constructed(0.9), learners_table()))
    course = statistics.course_statistics(table, 0.5)
    assert "loss_ratio" not in course
    assert "descent_loss_excess" not in course
    assert course["final_target_model_cosine"] == pytest.approx(1)


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
