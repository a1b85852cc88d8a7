"""Updating the data instead of the weights (von Oswald et al. 2022, section 2: "gradient descent as a transformation of data").

For a linear model and squared loss a gradient step W <- W + dW changes the loss exactly as y_i <- y_i - dW x_i does, so that
in-context learning may leave the weights alone and move targets: after t steps a query whose target started at -W_0 x_q stands at
-W_t x_q. For any model f with weights theta the same loop reads

    dtheta_t = -eta grad L(theta_0; X, y^t),    y <- y - (f(x; theta_0 + dtheta_t) - f(x; theta_0)) for every x, the query's too:

one layer can only ever hold theta_0. It equals training exactly when f is linear in theta; with a hidden layer it differs by how far
the tangent kernel moves, which shrinks as 1 / sqrt(width) (Jacot et al. 2018; Lee et al. 2019).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad, jacrev, vmap

from activation_descent.regression.tasks import Tasks, linear_tasks
from activation_descent.seeding import generator

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "relu": torch.relu}
Parameters = dict[str, Tensor]
Network = Callable[[Parameters, Tensor], Tensor]  # parameters and inputs `[example input]` to outputs `[example]`


@dataclass(frozen=True)
class Updates:
    """What is compared; values in `config/config.yaml`.

    Attributes:
        linear_sizes: triples of inputs, outputs and examples for the linear model.
        input_dim, context_length, widths: of the tasks and hidden layers of the networks.
        rate: eta as a share of 1 / (largest eigenvalue of the tangent kernel / N at the start), the fastest stable descent being 2.
    """

    seeds: int
    tasks: int
    steps: int
    linear_sizes: Sequence[Sequence[int]]
    input_dim: int
    context_length: int
    widths: Sequence[int]
    rate: float


def linear_gap(
    x: Float[Tensor, "task example input"],
    y: Float[Tensor, "task example output"],
    query: Float[Tensor, "task input"],
    start: Float[Tensor, "output input"],
    rate: float,
    steps: int,
) -> list[float]:
    """Largest |prediction of the trained weights + target of the query| over tasks and outputs, after 0, 1, .. steps."""
    n = x.shape[1]
    weights = start.expand(len(x), -1, -1)
    targets, query_target = y, -(query @ start.T)
    gaps = []
    for step in range(steps + 1):
        gaps.append((torch.einsum("toi,ti->to", weights, query) + query_target).abs().max().item())
        if step == steps:
            return gaps
        # L(W) = 1/(2N) sum |W x_i - y_i|^2
        weights = weights - rate / n * torch.einsum("tno,tni->toi", x @ weights.mT - y, x)
        change = -rate / n * torch.einsum("tno,tni->toi", x @ start.T - targets, x)
        targets = targets - x @ change.mT
        query_target = query_target - torch.einsum("toi,ti->to", change, query)
    return gaps


def hidden_layer(activation: Callable[[Tensor], Tensor]) -> Network:
    """`f(x) = v . activation(U x / sqrt(d)) / sqrt(width)` with `U, v ~ N(0, 1)` at the start: the tangent-kernel parametrisation."""

    def network(parameters: Parameters, x: Float[Tensor, "example input"]) -> Float[Tensor, " example"]:
        hidden = activation(x @ parameters["in"].T / math.sqrt(x.shape[-1]))
        return hidden @ parameters["out"] / math.sqrt(hidden.shape[-1])

    return network


def network_gap(network: Network, start: Parameters, tasks: Tasks, share: float, steps: int) -> list[float]:
    """Mean |difference of the two predictions| / mean |change of the trained prediction|, after 1, 2, .. steps.

    Args:
        start: theta_0, the same for every task.
        share: eta in units of 1 / (largest eigenvalue of the tangent kernel / N), each task its own.
    """
    x, y, query = tasks.inputs.permute(2, 1, 0), tasks.labels.T, tasks.query.T[:, None]  # task example input
    number, n = y.shape

    def loss(parameters: Parameters, x: Tensor, y: Tensor) -> Tensor:
        return 0.5 * (network(parameters, x) - y).square().mean()

    def kernel_top(x: Tensor) -> Tensor:
        jacobian = torch.cat([part.flatten(1) for part in jacrev(network)(start, x).values()], dim=1)  # example parameter
        return torch.linalg.matrix_norm(jacobian, ord=2).square() / n

    rate = share / vmap(kernel_top)(x)  # task

    def moved(parameters: Parameters, gradient: Parameters) -> Parameters:
        return {
            name: value - rate.view(-1, *[1] * (gradient[name].ndim - 1)) * gradient[name] for name, value in parameters.items()
        }

    from_start = vmap(grad(loss), in_dims=(None, 0, 0))
    from_own = vmap(grad(loss))
    answer, answer_at_start = vmap(network), vmap(network, in_dims=(None, 0))
    weights = {name: value.expand(number, *value.shape) for name, value in start.items()}
    fixed, fixed_query = answer_at_start(start, x), answer_at_start(start, query)
    targets, query_target = y, -fixed_query
    gaps = []
    for _ in range(steps):
        weights = moved(weights, from_own(weights, x, y))
        shifted = moved(start, from_start(start, x, targets))
        targets = targets - (answer(shifted, x) - fixed)
        query_target = query_target - (answer(shifted, query) - fixed_query)
        trained = answer(weights, query)
        gaps.append(((trained + query_target).abs().mean() / (trained - fixed_query).abs().mean()).item())
    return gaps


def update_records(updates: Updates, root: int) -> Iterator[dict[str, Any]]:
    """Gaps of the linear model at each size and of the networks at each width, by step and seed."""
    base = {"study": "regression", "experiment": "updates", "variant": "updates"}
    for seed in range(updates.seeds):
        for d, outputs, n in updates.linear_sizes:
            rng = generator(root, "regression", "updates", f"linear-{d}-{outputs}-{n}", "evaluate", seed)
            x, query = (
                torch.from_numpy(rng.standard_normal((updates.tasks, n, d))),
                torch.from_numpy(rng.standard_normal((updates.tasks, d))),
            )
            y = torch.from_numpy(rng.standard_normal((updates.tasks, n, outputs)))
            start = torch.from_numpy(rng.standard_normal((outputs, d)))
            rate = updates.rate / (torch.linalg.matrix_norm(x, ord=2).square().max().item() / n)
            row = base | {"seed": seed, "learner": "linear", "input_dim": d, "context_length": n, "width": outputs}
            for step, gap in enumerate(linear_gap(x, y, query, start, rate, updates.steps)):
                yield row | {"step": step, "metric": "linear_update_difference", "value": gap}
        rng = generator(root, "regression", "updates", "networks", "evaluate", seed)
        unit_variance = math.sqrt(3)  # of U(-h, h)
        tasks = linear_tasks(rng, updates.tasks, updates.input_dim, updates.context_length, unit_variance, dtype=np.float64)
        for name, activation in ACTIVATIONS.items():
            for width in updates.widths:
                rng = generator(root, "regression", "updates", f"{name}-{width}", "initialise", seed)
                start = {
                    "in": torch.from_numpy(rng.standard_normal((width, updates.input_dim))),
                    "out": torch.from_numpy(rng.standard_normal(width)),
                }
                row = base | {"seed": seed, "learner": name, "input_dim": updates.input_dim}
                row |= {"context_length": updates.context_length, "width": width}
                gaps = network_gap(hidden_layer(activation), start, tasks, updates.rate, updates.steps)
                for step, gap in enumerate(gaps, start=1):
                    yield row | {"step": step, "metric": "update_gap", "value": gap}


def update_statistics(records: pd.DataFrame) -> dict[str, np.ndarray]:
    """One value for each seed: the linear model's largest difference, and of each network the gap after the last step at the smallest
    and the largest width, and the slope of its logarithm against that of the width."""
    linear = records[records["metric"] == "linear_update_difference"]
    numbers = {"linear_update_gap": linear.groupby("seed")["value"].max().to_numpy()}
    gaps = records[(records["metric"] == "update_gap") & (records["step"] == records["step"].max())]
    for name in ACTIVATIONS:
        wide = gaps[gaps["learner"] == name].pivot_table(index="seed", columns="width", values="value")
        slopes = np.polyfit(np.log(wide.columns.to_numpy(dtype=float)), np.log(wide.to_numpy().T), 1)[0]
        numbers |= {
            f"{name}_update_gap": wide.iloc[:, 0].to_numpy(),
            f"{name}_wide_update_gap": wide.iloc[:, -1].to_numpy(),
            f"{name}_update_gap_slope": slopes,
        }
    return numbers
