"""Reference learners and what theory says of them: models that a researcher would fit to the context.

A model is `w` in prediction = w . x_q, one for each task. Rates are *per example*: eta / N, the factor on the sum over the context,
which is what a layer's weights hold.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from activation_descent.regression.closed_forms import expected_loss as expected_loss
from activation_descent.regression.closed_forms import optimal_rate as optimal_rate
from activation_descent.regression.tasks import Tasks

Model = Float[Tensor, "input task"]


def gradient_descent_model(tasks: Tasks, rates_per_example: Sequence[float]) -> Model:
    """Gradient descent from w = 0 on `L(w) = 1/(2N) sum_i (w . x_i - y_i)^2`, one step for each rate."""
    return preconditioned_model(
        tasks, [rate * torch.eye(len(tasks.query), dtype=tasks.tokens.dtype) for rate in rates_per_example]
    )


def preconditioned_model(tasks: Tasks, preconditioners: Sequence[Float[Tensor, "input input"]]) -> Model:
    """Gradient descent whose steps are multiplied by a matrix, one step for each (Ahn et al. 2023, theorem 3)."""
    x, y = tasks.inputs, tasks.labels
    model = torch.zeros_like(x[:, 0])
    for preconditioner in preconditioners:
        residual = y - (x * model[:, None]).sum(0)  # context task
        model = model + preconditioner @ (x * residual).sum(1)
    return model


def gd_plus_plus_model(tasks: Tasks, rates_per_example: Sequence[float], gammas: Sequence[float]) -> Model:
    """GD++ (appendix A.10): each step takes a gradient step on the labels and contracts every input, x <- (I - gamma X X^T) x.

    With Q the product of the contractions so far, the query is Q x_q, and a step adds Q^T (rate X y) to the model of the original one.
    """
    x, y = tasks.inputs.permute(2, 0, 1), tasks.labels.T.unsqueeze(-1)  # task input context, task context 1
    contraction = torch.eye(x.shape[1], dtype=x.dtype).expand(len(x), -1, -1)  # Q: x_k = Q x for every token
    model = torch.zeros_like(x[:, :, :1])
    for rate, gamma in zip(rates_per_example, gammas, strict=True):
        gradient = rate * x @ y  # task input 1: what the step adds to the model of the contracted query
        model = model + contraction.mT @ gradient
        y = y - x.mT @ gradient
        shrink = torch.eye(x.shape[1], dtype=x.dtype) - gamma * x @ x.mT
        x, contraction = shrink @ x, shrink @ contraction
    return model.squeeze(-1).T


def newton_model(tasks: Tasks, alpha: float, steps: int) -> Model:
    """Iterative Newton for the inverse of S = sum_i x_i x_i^T: M_0 = alpha S, M_{k+1} = 2 M_k - M_k S M_k (Fu et al. 2023, section 3)."""
    x = tasks.inputs.permute(2, 0, 1)
    s = x @ x.mT
    m = alpha * s
    for _ in range(steps):
        m = 2 * m - m @ s @ m
    return (m @ x @ tasks.labels.T.unsqueeze(-1)).squeeze(-1).T


def ridge_model(tasks: Tasks, penalty: float) -> Model:
    """Ridge regression: `argmin_w sum_i (w . x_i - y_i)^2 + penalty |w|^2`.

    By elimination on all tasks at once, in an eighth of the time of the library's solver, which goes from task to task. Positive
    definite systems need no pivoting.
    """
    x, y = tasks.inputs, tasks.labels
    both = torch.cat([x, y[None]])
    system = torch.from_numpy(np.einsum("fnt,gnt->fgt", x.numpy(), both.numpy()))  # (X X^T | X y): input input+1 task
    system.diagonal().add_(penalty)
    for i in range(len(x)):
        row = system[i, i:] / system[i, i]
        system[:, i:] -= system[:, i, None] * row
        system[i, i:] = row
    return system[:, -1]


def least_squares_model(tasks: Tasks) -> Model:
    """The minimum-norm least-squares solution: exact on noiseless tasks with at least as many examples as inputs."""
    x = tasks.inputs.permute(2, 1, 0)  # task context input
    y = tasks.labels.T.unsqueeze(-1)  # task context 1
    # "gelsy" is faster, but the last bits of its answers differ from run to run
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
    unit = predict(gradient_descent_model(tasks, [1.0]), tasks)
    return ((tasks.target * unit).sum() / unit.square().sum()).item()
