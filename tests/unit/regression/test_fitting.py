"""Fits against the population optima of the study's specification (Table 6, d = N = 10 and half range unless stated)."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from activation_descent import records
from activation_descent.regression import fitting, learners
from activation_descent.regression.recursion import newton_residuals, residuals, spectra, task_losses
from activation_descent.seeding import generator

FITTING = fitting.Fitting(
    seeds=2,
    input_dim=10,
    context_length=10,
    steps_of={
        "gradient_descent": [1, 2, 3, 5, 10],
        "gradient_descent_per_step": [2, 3, 5],
        "gd_plus_plus": [2, 3, 5, 10],
        "gd_plus_plus_per_layer": [2, 3, 5],
    },
    context_lengths=[10, 25],
    starts=3,
    steps=150,
    steps_elsewhere=200,
    batch_size=256,
    learning_rate=0.2,
    clip_norm=10.0,
    selection_tasks=5000,
    evaluation_tasks=20000,
)
SMALL = replace(
    FITTING,
    steps_of={learner: [2, 3] for learner in fitting.LADDER},
    steps=3,
    steps_elsewhere=3,
    batch_size=32,
    selection_tasks=100,
    evaluation_tasks=200,
)
SHARED = {
    1: (0.2063, 0.606),
    2: (0.1566, 0.598),
    3: (0.1326, 0.587),
    5: (0.1081, 0.562),
    10: (0.0826, 0.516),
}
PER_STEP = {2: 0.1410, 3: 0.1096, 5: 0.0789}
TIED = {2: (0.1105, 1.350, 0.176), 3: (0.0776, 2.011, 0.195), 5: (0.0521, 3.141, 0.206)}
# Two steps of GD++ at N: loss, rate, and the gamma of the paper's appendix A.10
BY_LENGTH = {25: (0.01842, 0.732, 0.099), 50: (0.00251, 0.397, 0.056), 100: (0.00040, 0.204, 0.029)}


def fit(settings, families, context_length=10, root=0, seed=0):
    judging = fitting.judging_contexts(settings, context_length, root)
    return fitting.fit(settings, families, context_length, root, seed, *judging)


@pytest.fixture(scope="module")
def fitted():
    return {(each.learner, len(each.rates)): each for each in fit(FITTING, FITTING.steps_of)}


@pytest.fixture(scope="module")
def table():
    return records.frame(fitting.learner_records(SMALL, 0))


@pytest.mark.parametrize(("steps", "expected"), SHARED.items())
def test_gradient_descent_with_one_rate(fitted, steps, expected):
    found, (loss, rate) = fitted["gradient_descent", steps], expected
    # With many steps the few contexts with large eigenvalues decide where the optimum lies, and a short fit meets few of them
    tolerance = 0.02 if steps < 5 else 0.06
    assert found.rates[0] == pytest.approx(rate, rel=tolerance)
    assert found.rates == (found.rates[0],) * steps
    assert set(found.gammas) == {0.0}
    assert found.loss == pytest.approx(loss, rel=tolerance / 2)


def test_one_step_is_the_closed_form(fitted):
    found = fitted["gradient_descent", 1]
    assert found.rates[0] == pytest.approx(learners.optimal_rate(10, 10, 0.5), rel=0.02)
    assert found.loss == pytest.approx(learners.expected_loss(found.rates[0], 10, 10, 0.5), rel=0.01)


@pytest.mark.parametrize(("steps", "loss"), PER_STEP.items())
def test_gradient_descent_with_a_rate_a_step(fitted, steps, loss):
    found = fitted["gradient_descent_per_step", steps]
    assert found.loss == pytest.approx(loss, rel=0.015)
    assert len(set(found.rates)) == steps
    if steps == 2:
        assert sorted(found.rates) == pytest.approx([0.400, 1.159], rel=0.03)


@pytest.mark.parametrize(("steps", "expected"), TIED.items())
def test_gd_plus_plus_with_one_pair(fitted, steps, expected):
    found, (loss, rate, gamma) = fitted["gd_plus_plus", steps], expected
    assert found.loss == pytest.approx(loss, rel=0.025)
    assert found.rates == pytest.approx([rate] * steps, rel=0.07)
    assert found.gammas == pytest.approx([gamma] * steps, rel=0.07)


def test_ten_steps_of_gd_plus_plus(fitted):
    assert 0.029 < fitted["gd_plus_plus", 10].loss < 0.033


def test_gd_plus_plus_with_a_pair_a_step_finds_the_better_optimum(fitted):
    two = fitted["gd_plus_plus_per_layer", 2]
    assert two.loss == pytest.approx(0.0925, rel=0.01)
    assert two.rates == pytest.approx((0.417, 3.695), rel=0.05)
    assert two.gammas == pytest.approx((0.404, 0.0), rel=0.05)
    # Quasi-Newton from random starts on the density of 10^7 eigenvalues ends at .0412 and .0060; the specification knew .0541 and .0188
    assert fitted["gd_plus_plus_per_layer", 3].loss == pytest.approx(0.0412, rel=0.06)
    five = fitted["gd_plus_plus_per_layer", 5]
    assert five.loss < 0.0188
    assert five.median_loss < 0.001


def test_one_start_may_end_in_a_local_optimum(monkeypatch):
    """From near the tied optimum, where the authors' procedure starts, a fit ends where theirs does: rates 2.1 and 1.1, loss .104."""
    start = torch.tensor([[1.8, 1.3, 0.17]], dtype=torch.float64).log()
    monkeypatch.setattr(fitting, "starting_points", lambda *_: start)
    (found,) = fit(FITTING, {"gd_plus_plus_per_layer": [2]})
    assert found.loss == pytest.approx(0.1040, rel=0.01)
    assert found.rates == pytest.approx((2.11, 1.09), rel=0.05)


@pytest.mark.parametrize(("n", "expected"), BY_LENGTH.items())
def test_gammas_of_longer_contexts_are_the_published_ones(n, expected):
    (found,) = fit(replace(FITTING, batch_size=128, selection_tasks=1000, evaluation_tasks=5000), {"gd_plus_plus": [2]}, n)
    loss, rate, gamma = expected
    assert found.gammas[0] == pytest.approx(gamma, rel=0.05)
    assert found.rates[0] == pytest.approx(rate, rel=0.02)
    assert found.loss == pytest.approx(loss, rel=0.03)


def test_every_family_for_every_depth():
    found = fit(replace(SMALL, starts=3, learning_rate=0.01), {learner: range(1, 13) for learner in fitting.LADDER})
    assert [(each.learner, len(each.rates), len(each.gammas)) for each in found] == [
        (learner, steps, steps) for learner in fitting.LADDER for steps in range(1, 13)
    ]
    zero = 10 / 12 / 2
    for each in found:
        assert min(each.rates) > 0
        assert 0 < each.loss < zero


@pytest.mark.parametrize("learner", fitting.LADDER)
@pytest.mark.parametrize("steps", [2, 5, 12])
def test_numbers_that_are_fitted(learner, steps):
    rng = generator(0, "test", "fitting", learner, "start")
    points = fitting.starting_points(learner, steps, 6, 10, 10, rng)
    assert points.shape == (1 if learner == "gradient_descent" else 6, fitting.free_numbers(learner, steps))
    rates, gammas = fitting.rates_and_gammas(learner, steps, points.exp())
    # Each number is in the learner: a change moves a rate or a gamma
    for number in range(points.shape[1]):
        moved = points.exp()
        moved[:, number] *= 2
        others = fitting.rates_and_gammas(learner, steps, moved)
        assert not (torch.equal(others[0], rates) and torch.equal(others[1], gammas))
    if learner == "gd_plus_plus_per_layer":
        assert (gammas[:, -1] == 0).all()


def test_unknown_learner():
    with pytest.raises(ValueError, match="least_squares"):
        fitting.starting_points("least_squares", 2, 3, 10, 10, generator(0, "test", "fitting", "unknown", "start"))


def test_losses_are_those_of_the_held_out_contexts():
    settings = replace(SMALL, starts=2)
    selection, held_out = fitting.judging_contexts(settings, 10, 0)
    assert selection.shape == (10, 100)
    assert held_out.shape == (10, 200)
    assert not np.isin(selection.numpy(), held_out.numpy()).any()
    (found,) = fitting.fit(settings, {"gd_plus_plus": [2]}, 10, 0, 0, selection, held_out)
    z, rate, gamma = held_out.numpy(), found.rates[0], found.gammas[0]
    left = (1 - rate * z) * (1 - rate * z * (1 - gamma * z) ** 2)  # two steps written out
    losses = (left**2).sum(0) / 24
    assert found.loss == pytest.approx(losses.mean())
    assert found.mean_loss == pytest.approx(losses.mean())
    assert found.median_loss == pytest.approx(np.sort(losses)[99])  # torch's median: the lower of the two in the middle


def test_bounded_loss_of_a_divergence():
    contexts = torch.full((2, 4), 0.1, dtype=torch.float64)
    contexts[1, 0] = 1e3
    bounded, mean, median = fitting.held_out_losses([1.0], [0.0], contexts)
    rest = 0.9**2 / 12  # 0.5 Var(x) sum_j p_j^2, two eigenvalues
    assert median == pytest.approx(rest)
    assert mean == pytest.approx((3 * rest + (0.9**2 + 999.0**2) / 24) / 4)
    assert bounded == pytest.approx((3 * rest + 100 * 2 / 24) / 4)
    assert fitting.held_out_losses([1e200] * 3, [1e200] * 3, contexts)[1] == math.inf


def test_records_keep_the_contract_and_are_reproducible(table):
    records.check(table, "learners")
    assert table.equals(records.frame(fitting.learner_records(SMALL, 0)))
    other = records.frame(fitting.learner_records(SMALL, 1))
    rates = [each[each["metric"] == "learner_rate"] for each in (table, other)]
    assert len(rates[0]) == 2 * (4 * (2 + 3) + 2)  # seeds x (families x steps, and two steps at N = 25)
    assert not np.isin(rates[0]["value"], rates[1]["value"]).any()
    by_seed = rates[0].pivot_table(index=["learner", "layers", "layer", "context_length"], columns="seed", values="value")
    moved = by_seed[0] != by_seed[1]
    assert moved.all()


def test_report_is_called_after_each_seed():
    calls = []
    list(fitting.learner_records(SMALL, 0, lambda seed, losses: calls.append((seed, losses))))
    assert [seed for seed, _ in calls] == [1, 2]
    assert set(calls[0][1]) == {f"loss/{each}-{k}-N10" for each in fitting.LADDER for k in (2, 3)} | {"loss/gd_plus_plus-2-N25"}


def test_read_fitted_takes_the_best_seed_and_rescales(table):
    rows = table[(table["learner"] == "gd_plus_plus") & (table["layers"] == 3) & (table["context_length"] == 10)]
    losses = rows[rows["metric"] == "learner_loss"].set_index("seed")["value"]
    best = rows[rows["seed"] == losses.idxmin()].set_index(["metric", "layer"])["value"]
    same, wide = (fitting.read_fitted(table, "gd_plus_plus", 3, 10, half_range) for half_range in (0.5, 1.0))
    assert same.loss == losses.min()
    assert same.rates == tuple(best["learner_rate", layer] for layer in (1, 2, 3))
    assert same.median_loss == best["learner_median_loss", 0]
    # Eigenvalues are four times as large, so the same residuals need a quarter of the numbers; the loss has Var(x)
    assert wide.rates == pytest.approx([rate / 4 for rate in same.rates])
    assert wide.gammas == pytest.approx([gamma / 4 for gamma in same.gammas])
    contexts = {h: spectra(generator(0, "test", "fitting", "scale", "draw"), 50, 10, 10, h) for h in (0.5, 1.0)}
    narrow_loss, wide_loss = (
        task_losses(residuals(contexts[h], each.rates, each.gammas), h).mean().item() for h, each in ((0.5, same), (1.0, wide))
    )
    assert wide_loss == pytest.approx(4 * narrow_loss)
    assert wide.loss == pytest.approx(4 * same.loss)
    with pytest.raises(ValueError, match="gd_plus_plus with 7 steps at N = 10"):
        fitting.read_fitted(table, "gd_plus_plus", 7, 10, 0.5)


def test_condition_numbers_of_the_contexts():
    rows = pd.DataFrame(fitting.condition_records(SMALL, 0))
    rng = generator(0, "regression", "learners", "N25", "learners-conditions")
    eigenvalues = spectra(rng, 100, 10, 25, 0.5).numpy()
    at_n = rows[rows["context_length"] == 25]
    assert at_n[at_n["metric"] == "smallest_eigenvalue"]["value"].item() == eigenvalues.min()
    conditions = at_n[at_n["metric"] == "condition_number"]
    assert len(conditions) == 41
    row = conditions.iloc[20]
    assert row["level"] == pytest.approx(0.099)
    contracted = eigenvalues * (1 - 0.099 * eigenvalues) ** 2
    ratios = np.sort(contracted.max(0) / contracted.min(0))
    assert row["value"] == pytest.approx(ratios[49])


def test_best_newton_alpha_in_closed_form():
    # One eigenvalue l: alpha = 1 / l^2 leaves nothing, whatever the number of steps
    for steps in (1, 3, 6):
        contexts = torch.full((1, 4), 3.0, dtype=torch.float64)
        assert newton_residuals(contexts, fitting.best_newton_alpha(contexts, steps), steps).max() < 1e-4
    # l = 1 and 2, one step: (1 - alpha)^4 + (1 - 4 alpha)^4 is least where (1 - alpha)^3 = -4 (1 - 4 alpha)^3
    both = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    assert fitting.best_newton_alpha(both, 1) == pytest.approx((1 + 4 ** (1 / 3)) / (1 + 4 ** (4 / 3)), rel=1e-3)


def test_best_newton_alpha_lies_above_the_range_of_convergence():
    eigenvalues = spectra(generator(0, "test", "fitting", "newton", "draw"), 1000, 10, 10, 0.5)
    alpha = fitting.best_newton_alpha(eigenvalues, 1)
    assert alpha > 2 / eigenvalues.max().item() ** 2
    losses = [((1 - each * eigenvalues**2) ** 4).mean().item() for each in np.linspace(0.5, 1.5, 101) * alpha]
    assert np.argmin(losses) in (49, 50, 51)


def test_best_ridge_penalty_without_noise_is_the_smallest():
    eigenvalues = spectra(generator(0, "test", "fitting", "ridge", "draw"), 50, 10, 10, 0.5)
    assert fitting.best_ridge_penalty(eigenvalues, (1.0, 1e-3, 0.1)) == 1e-3


def test_statistics_by_hand():
    def rows(seed, gamma, losses):
        base = {"seed": seed, "layers": 2, "context_length": 10}
        yield base | {"learner": "gd_plus_plus", "layer": 1, "metric": "learner_gamma", "value": gamma}
        yield base | {"learner": "gd_plus_plus", "layer": 2, "metric": "learner_gamma", "value": 9.0}
        long = {"learner": "gd_plus_plus", "layer": 1, "metric": "learner_gamma", "value": 0.029 * 1.02}
        yield base | long | {"context_length": 100}
        for learner, loss in zip(fitting.LADDER, losses, strict=True):
            yield base | {"learner": learner, "layer": 0, "metric": "learner_loss", "value": loss}

    made = [*rows(0, 0.179 * 1.01, (4, 3, 2, 1)), *rows(1, 0.179 * 0.9, (4, 3, 3, 3.5))]
    found = fitting.learner_statistics(pd.DataFrame(made))
    assert found["gamma_error"] == pytest.approx([0.02, 0.1])
    assert found["ladder_violations"].tolist() == [0.0, 2.0]
