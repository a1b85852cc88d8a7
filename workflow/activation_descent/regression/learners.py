"""Reference learners and what theory says of them: models that a researcher would fit to the context.

A model is `w` in prediction = w . x_q, one for each task. Rates are *per example*: eta / N, the factor on the sum over the context,
which is what a layer's weights hold.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from activation_descent.regression.tasks import Tasks, uniform_moments

Model = Float[Tensor, "input task"]


def gradient_descent_model(tasks: Tasks, rate_per_example: float, steps: int = 1) -> Model:
    """`steps` steps of gradient descent from w = 0 on `L(w) = 1/(2N) sum_i (w . x_i - y_i)^2`."""
    x, y = tasks.inputs, tasks.labels
    model = torch.zeros_like(x[:, 0])
    for _ in range(steps):
        residual = y - (x * model[:, None]).sum(0)  # context task
        model = model + rate_per_example * (x * residual).sum(1)
    return model


def least_squares_model(tasks: Tasks) -> Model:
    """The minimum-norm least-squares solution: exact on noiseless tasks with at least as many examples as inputs."""
    x = tasks.inputs.permute(2, 1, 0)  # task context input
    y = tasks.labels.T.unsqueeze(-1)  # task context 1
    return torch.linalg.lstsq(x, y, driver="gelsd").solution.squeeze(-1).T


def predict(model: Model, tasks: Tasks) -> Float[Tensor, " task"]:
    """The model's answer to each task's query."""
    return (model * tasks.query).sum(0)


def squared_loss(prediction: Float[Tensor, " task"], target: Float[Tensor, " task"]) -> float:
    """`0.5 * mean (prediction - target)^2`, the loss of the paper's figures (its equations leave the 1/2 out)."""
    return 0.5 * (prediction - target).square().mean().item()


def best_rate(tasks: Tasks) -> float:
    """The rate per example that is best *on these tasks*: `sum y_q s / sum s^2` with `s = sum_i y_i x_i . x_q`.

    The empirical check of `optimal_rate`; the authors search a grid of 250 rates, on the tasks that they evaluate on.
    """
    unit = predict(gradient_descent_model(tasks, 1.0), tasks)
    return ((tasks.target * unit).sum() / unit.square().sum()).item()


def _second_moment(input_dim: int, context_length: int, half_range: float) -> float:
    """`c` with E[(sum_i x_i x_i^T / N)^2] = c I for coordinates that are independent, symmetric and identically distributed."""
    variance, fourth = uniform_moments(half_range)
    return (fourth + (input_dim - 1) * variance**2) / context_length + (1 - 1 / context_length) * variance**2


def expected_loss(
    rate_per_example: float, input_dim: int, context_length: int, half_range: float, weight_scale: float = 1.0
) -> float:
    """Population loss of one gradient step: `0.5 d s2 (1 - 2 eta s2 + eta^2 c)`, eta = N * rate_per_example."""
    variance, _ = uniform_moments(half_range)
    eta = rate_per_example * context_length
    c = _second_moment(input_dim, context_length, half_range)
    return 0.5 * input_dim * variance * weight_scale**2 * (1 - 2 * eta * variance + eta**2 * c)


def optimal_rate(input_dim: int, context_length: int, half_range: float) -> float:
    """The rate per example that minimises `expected_loss`: `eta* = s2 / c`.

    It is also the global optimum of one linear self-attention layer (Mahankali et al. 2023; Ahn et al. 2023).
    """
    variance, _ = uniform_moments(half_range)
    return variance / _second_moment(input_dim, context_length, half_range) / context_length
