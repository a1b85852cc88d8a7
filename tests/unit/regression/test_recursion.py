"""The eigenvalue recursion against the learners on whole contexts, and against closed forms."""

import math

import numpy as np
import pytest
import torch

from activation_descent.regression import learners, recursion
from activation_descent.regression.recursion_kernel import bounded_loss
from activation_descent.regression.tasks import Tasks
from activation_descent.seeding import generator

RATES, GAMMAS = [0.5, 1.3, 0.4], [0.2, 0.1, 0.3]
# Extreme eigenvalues of S over 10,000 contexts, d = 10, half range (spec of the study; the paper's appendix A.10 prints .097, .666,
# 2.870 and 7.712, 10.845, 17.196 for draws of its own)
EXTREMES = {25: (0.089, 7.04), 50: (0.700, 10.32), 100: (2.84, 17.54)}
LEARNERS = {
    "gradient descent": (
        lambda tasks: learners.gradient_descent_model(tasks, RATES),
        lambda eigenvalues: recursion.residuals(eigenvalues, RATES, [0.0] * 3),
    ),
    "GD++": (
        lambda tasks: learners.gd_plus_plus_model(tasks, RATES, GAMMAS),
        lambda eigenvalues: recursion.residuals(eigenvalues, RATES, GAMMAS),
    ),
    "Newton": (
        lambda tasks: learners.newton_model(tasks, 0.05, 3),
        lambda eigenvalues: recursion.newton_residuals(eigenvalues, 0.05, 3),
    ),
    "ridge": (
        lambda tasks: learners.ridge_model(tasks, 0.3),
        lambda eigenvalues: recursion.ridge_residuals(eigenvalues, 0.3),
    ),
    "least squares": (
        learners.least_squares_model,
        lambda eigenvalues: recursion.ridge_residuals(eigenvalues, 0.0),
    ),
}


def stream(purpose):
    return generator(0, "test", "recursion", "v", purpose)


def tasks_for(x, weights):
    """One context, x of shape (input, context), with the labels of several weights (the columns)."""
    d, n = x.shape
    tokens = np.zeros((d + 1, n + 1, weights.shape[1]))
    tokens[:-1, :-1] = x[..., None]
    tokens[-1, :-1] = x.T @ weights
    return Tasks(torch.from_numpy(tokens), torch.zeros(weights.shape[1], dtype=torch.float64))


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize(("d", "n"), [(10, 10), (4, 9)])
def test_a_learner_shrinks_the_error_along_each_eigenvector_by_its_residual(name, d, n):
    model, residual = LEARNERS[name]
    x = stream(f"{d}").uniform(-0.5, 0.5, (d, n))
    eigenvalues, vectors = np.linalg.eigh(x @ x.T)
    found = model(tasks_for(x, vectors)).numpy()  # one task for each eigenvector as the true weight
    left = residual(torch.from_numpy(eigenvalues)).numpy()
    assert np.allclose(found, vectors * (1 - left), atol=1e-9)


@pytest.mark.parametrize("name", LEARNERS)
def test_expected_loss_of_a_context(name):
    """E over w ~ N(0, I) and the query of 0.5 ((w - M w) . x_q)^2 is 0.5 Var(x) |I - M|_F^2, M the learner's map from w to its model."""
    model, residual = LEARNERS[name]
    x = stream("loss").uniform(-0.5, 0.5, (10, 10))
    learned = model(tasks_for(x, np.eye(10))).numpy()
    expected = 0.5 / 12 * np.sum((np.eye(10) - learned) ** 2)
    eigenvalues = torch.from_numpy(np.linalg.eigvalsh(x @ x.T))[:, None]
    assert recursion.task_losses(residual(eigenvalues), 0.5).item() == pytest.approx(expected, abs=1e-10)


def test_two_steps_by_hand():
    # l = 2, r = (.1, .3), gamma_0 = .2: p_1 = 1 - .2, a_1 = 1 - .4, p_2 = .8 (1 - .3 * 2 * .36)
    found = recursion.residuals(torch.tensor([2.0]), [0.1, 0.3], [0.2, 7.0])
    assert found.item() == pytest.approx(0.8 * (1 - 0.216))


def test_population_loss_of_one_step_is_the_closed_form():
    eigenvalues = recursion.spectra(stream("one step"), 20000, 10, 10, 0.5)
    for rate in (0.3, 0.60606, 0.8):
        losses = recursion.task_losses(recursion.residuals(eigenvalues, [rate], [0.0]), 0.5)
        standard_error = losses.std().item() / math.sqrt(len(losses))
        assert losses.mean().item() == pytest.approx(learners.expected_loss(rate, 10, 10, 0.5), abs=5 * standard_error)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_ninefold_gammas_follow_the_triple_angle(steps):
    """sin 3t = 3 sin t (1 - 4/3 sin^2 t): with l = L sin^2 t and gammas 4 / (3 L) 9^k the residual is sin(3^K t) / (3^K sin t)."""
    t = torch.linspace(0.01, math.pi / 2, 200, dtype=torch.float64)
    numbers = [4 / (3 * 4.5) * 9**k for k in range(steps)]
    found = recursion.residuals(4.5 * t.sin() ** 2, numbers, numbers)
    assert torch.allclose(found, (3**steps * t).sin() / (3**steps * t.sin()), atol=1e-10)


def test_newton_squares_its_residual_at_each_step():
    eigenvalues = torch.linspace(0.1, 4, 20, dtype=torch.float64)
    first = recursion.newton_residuals(eigenvalues, 0.1, 0)
    assert torch.allclose(first, 1 - 0.1 * eigenvalues**2)
    for steps in range(4):
        now, then = (recursion.newton_residuals(eigenvalues, 0.1, steps + more) for more in (0, 1))
        assert torch.allclose(then, now**2)


def test_ridge_becomes_least_squares():
    eigenvalues = torch.tensor([0.5, 2.0], dtype=torch.float64)
    assert torch.equal(recursion.ridge_residuals(eigenvalues, 0.0), torch.zeros(2, dtype=torch.float64))
    assert torch.allclose(recursion.ridge_residuals(eigenvalues, 1e-9), 1e-9 / eigenvalues, rtol=1e-8)
    assert torch.allclose(recursion.ridge_residuals(eigenvalues, 0.5), torch.tensor([0.5, 0.2], dtype=torch.float64))


def test_spectra_are_the_squared_singular_values_and_scale_with_the_range():
    found = recursion.spectra(stream("svd"), 5, 3, 7, 0.5)
    x = np.empty((5, 3, 7))
    recursion.fill_uniform(stream("svd"), x, 0.5)
    expected = np.sort(np.linalg.svd(x, compute_uv=False) ** 2, axis=1)
    assert np.allclose(found.numpy(), expected.T)
    assert torch.allclose(recursion.spectra(stream("svd"), 5, 3, 7, 1.0), 4 * found)


@pytest.mark.parametrize(("n", "extremes"), EXTREMES.items())
def test_spectra_have_the_published_extremes(n, extremes):
    eigenvalues = recursion.spectra(stream(f"extremes {n}"), 10000, 10, n, 0.5)
    assert eigenvalues.mean().item() == pytest.approx(n / 12, rel=0.01)  # E S = N Var(x) I
    assert eigenvalues.min().item() == pytest.approx(extremes[0], rel=0.25)
    assert eigenvalues.max().item() == pytest.approx(extremes[1], rel=0.08)


@pytest.mark.parametrize("contexts", [5, 64, 130])
@pytest.mark.parametrize("bound", [0.05, 100.0])
def test_compiled_loss_equals_automatic_differentiation(contexts, bound):
    eigenvalues = recursion.spectra(stream("kernel"), contexts, 6, 8, 0.5)
    rates = torch.tensor([RATES, [1.0, 0.3, 0.8], [2.0, 3.0, 20.0]], dtype=torch.float64).requires_grad_()
    gammas = torch.tensor([GAMMAS, [0.0, 0.0, 0.0], [0.4, 2.0, 1.0]], dtype=torch.float64).requires_grad_()
    left = torch.stack([recursion.residuals(eigenvalues, *pair) for pair in zip(rates, gammas, strict=True)])
    relative = left.square().mean(1)
    bounded = torch.where(relative > bound, bound * (1 + (relative / bound).log()), relative)
    assert (relative > bound).any() == (bound == 0.05)
    expected = bounded.mean(1)
    by_rates, by_gammas = torch.autograd.grad(expected.sum(), (rates, gammas))
    loss, *gradients = np.empty(3), np.empty((3, 3)), np.empty((3, 3))
    bounded_loss(eigenvalues.numpy(), rates.detach().numpy(), gammas.detach().numpy(), bound, loss, *gradients)
    assert np.allclose(loss, expected.detach().numpy(), rtol=1e-12)
    assert np.allclose(gradients[0], by_rates.numpy(), rtol=1e-9, atol=1e-14)
    assert np.allclose(gradients[1], by_gammas.numpy(), rtol=1e-9, atol=1e-14)


def test_compiled_loss_of_a_divergence_is_finite():
    eigenvalues = recursion.spectra(stream("divergence"), 10, 6, 8, 0.5).numpy()
    numbers = np.full((1, 12), 50.0)
    loss, *gradients = np.empty(1), np.empty((1, 12)), np.empty((1, 12))
    bounded_loss(eigenvalues, numbers, numbers, 100.0, loss, *gradients)
    # |p| is cut at 1e8: 100 (1 + log(1e16 / 100)) at most
    assert 100 < loss[0] <= 100 * (1 + math.log(1e14)) * (1 + 1e-9)
    assert np.isfinite(gradients).all()
