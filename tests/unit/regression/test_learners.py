"""Reference learners against closed forms that were derived by hand for the uniform distribution (loss* = d s2 (1 - s2^2 / c) / 2),
and against explicit computations, one task at a time."""

import numpy as np
import pytest
import torch

from activation_descent.regression import learners
from activation_descent.regression.tasks import Tasks, linear_tasks
from activation_descent.seeding import generator

# N = d: optimal rate per example and its loss, half range (four to five digits of a hand derivation)
CLOSED_FORM = {
    5: (1.2245, 0.10204),
    10: (0.60606, 0.20623),
    15: (0.40268, 0.31040),
    20: (0.30151, 0.41457),
    25: (0.24096, 0.51874),
    30: (0.20067, 0.62291),
    40: (0.15038, 0.83124),
    50: (0.12024, 1.03958),
}
# d = N = 10, half range, rate fixed at the optimum: input scale and loss
SCALES = {0.5: 0.0812, 0.75: 0.1387, 1.0: 0.2062, 1.25: 0.4263, 1.5: 1.204, 1.75: 3.373, 2.0: 8.401}


def draw(number=20000, d=10, n=10, half_range=0.5, purpose="evaluate", **more):
    return linear_tasks(generator(0, "test", "learners", f"{d}-{n}", purpose), number, d, n, half_range, dtype=float, **more)


@pytest.mark.parametrize(("size", "rate", "loss"), [(n, *values) for n, values in CLOSED_FORM.items()])
def test_optimal_rate_and_loss(size, rate, loss):
    found = learners.optimal_rate(size, size, 0.5)
    assert found == pytest.approx(rate, rel=1e-4)
    assert learners.expected_loss(found, size, size, 0.5) == pytest.approx(loss, rel=1e-4)


def test_full_range_is_the_half_range_rescaled():
    # x -> 2x: variance times 4, so the rate is a quarter and the loss fourfold
    rate = learners.optimal_rate(10, 10, 1.0)
    assert rate == pytest.approx(0.15152, rel=1e-4)
    assert learners.expected_loss(rate, 10, 10, 1.0) == pytest.approx(0.82492, rel=1e-4)


@pytest.mark.parametrize(("scale", "loss"), SCALES.items())
def test_loss_away_from_the_training_scale(scale, loss):
    rate = learners.optimal_rate(10, 10, 0.5)
    assert learners.expected_loss(rate, 10, 10, 0.5 * scale) == pytest.approx(loss, rel=1e-3)


def test_zero_rate_is_the_zero_predictor():
    assert learners.expected_loss(0.0, 10, 10, 0.5) == pytest.approx(10 / 12 / 2)


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_the_optimal_rate_is_a_minimum(factor):
    rate = learners.optimal_rate(10, 10, 0.5)
    assert learners.expected_loss(rate, 10, 10, 0.5) < learners.expected_loss(factor * rate, 10, 10, 0.5)


@pytest.mark.parametrize(("d", "n"), [(10, 10), (5, 20)])
def test_closed_form_agrees_with_simulation(d, n):
    tasks, tuning = draw(d=d, n=n), draw(d=d, n=n, purpose="tune")
    rate = learners.optimal_rate(d, n, 0.5)
    loss = learners.squared_loss(learners.predict(learners.gradient_descent_model(tasks, [rate]), tasks), tasks.target)
    # Five standard errors; a task's loss has about 1.6 times its mean as standard deviation
    assert loss == pytest.approx(learners.expected_loss(rate, d, n, 0.5), rel=5 * 1.6 / 20000**0.5)
    assert learners.best_rate(tuning) == pytest.approx(rate, rel=0.033)


def test_one_step_by_hand():
    # d = 2, N = 2: x_1 = (1, 0), y_1 = 2; x_2 = (1, 1), y_2 = 3; x_q = (2, 1)
    tokens = torch.tensor([[1.0, 1.0, 2.0], [0.0, 1.0, 1.0], [2.0, 3.0, 0.0]], dtype=torch.float64).unsqueeze(-1)
    tasks = Tasks(tokens, torch.tensor([5.0], dtype=torch.float64))
    model = learners.gradient_descent_model(tasks, [0.1])
    assert torch.allclose(model[:, 0], torch.tensor([0.5, 0.3], dtype=torch.float64))  # 0.1 * (2 * x_1 + 3 * x_2)
    assert learners.predict(model, tasks).item() == pytest.approx(1.3)
    assert learners.squared_loss(learners.predict(model, tasks), tasks.target) == pytest.approx(0.5 * 3.7**2)
    # The second step: residuals 2 - .5 = 1.5 and 3 - .8 = 2.2
    second = learners.gradient_descent_model(tasks, [0.1, 0.1])
    assert torch.allclose(second[:, 0], torch.tensor([0.5 + 0.15 + 0.22, 0.3 + 0.22], dtype=torch.float64))
    # With a rate of its own: .2 * (1.5 x_1 + 2.2 x_2)
    other = learners.gradient_descent_model(tasks, [0.1, 0.2])
    assert torch.allclose(other[:, 0], torch.tensor([0.5 + 0.3 + 0.44, 0.3 + 0.44], dtype=torch.float64))


def test_gradient_descent_is_the_gradient_of_its_loss():
    tasks = draw(number=3)
    model = torch.zeros(10, 3, dtype=torch.float64, requires_grad=True)
    residual = (tasks.inputs * model[:, None]).sum(0) - tasks.labels
    (0.5 * residual.square().sum()).backward()
    assert torch.allclose(learners.gradient_descent_model(tasks, [0.3]), -0.3 * model.grad)


def test_least_squares_solves_noiseless_tasks_and_many_steps_reach_it():
    tasks = draw(number=20, d=3, n=12)
    exact = learners.least_squares_model(tasks)
    assert torch.allclose(learners.predict(exact, tasks), tasks.target, atol=1e-10)
    assert torch.allclose(learners.gradient_descent_model(tasks, [0.4] * 3000), exact, atol=1e-6)


def transformed_data_prediction(x, y, query, rates, gammas):
    """GD++ as a network does it to one task: labels become residuals, every input contracts, and the query's label is the answer."""
    x, y, query, answer = x.copy(), y.copy(), query.copy(), 0.0
    for rate, gamma in zip(rates, gammas, strict=True):
        sums = x @ y
        answer, y = answer + rate * query @ sums, y - rate * x.T @ sums
        x, query = x - gamma * x @ (x.T @ x), query - gamma * x @ (x.T @ query)
    return answer


@pytest.mark.parametrize(("d", "n"), [(10, 10), (3, 8)])
def test_gd_plus_plus_is_the_transformation_of_the_data(d, n):
    tasks, rates, gammas = draw(number=5, d=d, n=n), [0.5, 1.3, 0.4], [0.2, 0.1, 0.3]
    predicted = learners.predict(learners.gd_plus_plus_model(tasks, rates, gammas), tasks)
    for task in range(5):
        x, y, query = (each[..., task].numpy() for each in (tasks.inputs, tasks.labels, tasks.query))
        assert predicted[task].item() == pytest.approx(transformed_data_prediction(x, y, query, rates, gammas), abs=1e-12)


def test_gd_plus_plus_without_contraction_is_gradient_descent():
    tasks = draw(number=5)
    plain = learners.gradient_descent_model(tasks, [0.5, 1.3, 0.4])
    assert torch.allclose(learners.gd_plus_plus_model(tasks, [0.5, 1.3, 0.4], [0.0] * 3), plain)


def test_preconditioned_steps_one_task_at_a_time():
    tasks, rng = draw(number=4, d=3, n=6), generator(0, "test", "learners", "preconditioned", "draw")
    matrices = 0.3 * rng.standard_normal((2, 3, 3))
    found = learners.preconditioned_model(tasks, list(torch.from_numpy(matrices)))
    for task in range(4):
        x, y, model = tasks.inputs[..., task].numpy(), tasks.labels[..., task].numpy(), np.zeros(3)
        for matrix in matrices:
            model = model - matrix @ (x @ (x.T @ model - y))
        assert np.allclose(found[:, task].numpy(), model)


def test_one_newton_step_and_its_limit():
    tasks = draw(number=6, d=3, n=12)
    x, y = tasks.inputs.numpy(), tasks.labels.numpy()
    one = learners.newton_model(tasks, 0.05, 1)
    for task in range(6):
        s = x[..., task] @ x[..., task].T
        assert np.allclose(one[:, task].numpy(), (0.1 * s - 0.0025 * s @ s @ s) @ x[..., task] @ y[:, task])
    assert torch.allclose(learners.newton_model(tasks, 0.05, 30), learners.least_squares_model(tasks), atol=1e-8)


@pytest.mark.parametrize("penalty", [0.1, 3.0])
def test_ridge_is_least_squares_on_extended_data(penalty):
    """`|y - X^T w|^2 + penalty |w|^2` is the squared error with sqrt(penalty) I as d more examples, labels 0."""
    tasks = draw(number=4, d=3, n=6)
    found = learners.ridge_model(tasks, penalty)
    for task in range(4):
        inputs = np.concatenate([tasks.inputs[..., task].numpy(), np.sqrt(penalty) * np.eye(3)], axis=1)
        labels = np.concatenate([tasks.labels[:, task].numpy(), np.zeros(3)])
        assert np.allclose(found[:, task].numpy(), np.linalg.lstsq(inputs.T, labels, rcond=None)[0])


def test_ridge_becomes_least_squares_as_the_penalty_falls():
    tasks = draw(number=20, d=3, n=12)
    exact = learners.least_squares_model(tasks)
    distances = [(learners.ridge_model(tasks, penalty) - exact).norm().item() for penalty in (1e-2, 1e-4, 1e-6)]
    assert distances[0] > 50 * distances[1] > 2500 * distances[2]
