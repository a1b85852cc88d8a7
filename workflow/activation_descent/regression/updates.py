"""Data update = weight update (von Oswald et al. 2022, section 2), and the models for which it ends.

The paper's identity. For a linear model W x and `L(W; y) = 1/(2N) sum_i |W x_i - y_i|^2`, a gradient step dW changes the loss as if
the weights had stayed and the targets had moved: `L(W_0 + dW; y) = L(W_0; y - dW x)`. A layer that cannot change weights changes
data, and a query whose target starts at -W_0 x_q ends at minus the prediction of the trained weights.

Two loops over the same problem, from the same W_0, with the same eta:

    weight update   W_{t+1} = W_t - eta grad_W L(W_t; y)                      predicts f(x_q; W_t)
    data update     dW_t = -eta grad_W L(W_0; y^t)                            predicts -y_q^t
                    y^{t+1} = y^t - (f(x; W_0 + dW_t) - f(x; W_0))            for every x_i and for x_q; y_q^0 = -f(x_q; W_0)

For f = W x the bracket is dW_t x, the paper's rule word for word. For any other f it keeps what the paper's rule does: all that is
learned is in the targets, every step is a gradient step of the one model f(.; W_0), and a target moves by what that step does to the
model's answer. What must come out:

- the two agree after the first step, whatever f: dW_0 is the weight update, and y_q^1 = -f(x_q; W_0 + dW_0);
- they agree after every step if f is linear in the weights *that are trained*, as in a network whose output layer alone trains;
- for small eta the bracket is J dW_t with the Jacobian J at W_0: the data update is gradient descent on the linearised network, and
  the gap that of a network and its linearisation. In the neural tangent parametrisation it is O(width^-1/2) (Lee et al. 2019,
  theorem 2.1). For one hidden layer counting says more. Every weight moves by O(width^-1/2); the second-order terms of the answer,
  each with the random sign of an output weight, add up to width^-1, and so do the third-order ones. Where ReLU has its kink,
  width^1/2 neurons change side, and their random signs add up to width^-3/4.

Arrays run over tasks along their *first* axis, for batched matrix products. All arithmetic is in float64.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from activation_descent.records import Row
from activation_descent.regression import STUDY
from activation_descent.regression.closed_forms import BOTH_LAYERS
from activation_descent.seeding import generator

EXPERIMENT = VARIANT = "updates"
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "readout": torch.tanh,
    "deep_linear": lambda z: z,
    "tanh": torch.tanh,
    "relu": torch.relu,
}

Weights = tuple[Tensor, ...]  # one model for each task
Points = Float[Tensor, "task point input"]
Answers = Float[Tensor, "task point output"]
Function = Callable[[Weights, Points], Answers]
Rate = Float[Tensor, "task 1 1"]


@dataclass(frozen=True)
class Updates:
    """On what the two updates are compared; values and sources in `config/config.yaml`.

    Attributes:
        tasks: problems of each model and seed, each with initial weights of its own.
        steps: of both loops.
        linear_sizes: (inputs, outputs, examples) of each kind of problem for the linear model.
        input_dim, context_length: of the networks' problems, which have one output.
        widths: of the hidden layer, rising.
        rate: eta in units of 1 / (largest eigenvalue of the tangent kernel / N at W_0). Descent on a linear model is stable below 2.
    """

    seeds: int
    tasks: int
    steps: int
    linear_sizes: tuple[tuple[int, int, int], ...]
    input_dim: int
    context_length: int
    widths: tuple[int, ...]
    rate: float

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> "Updates":
        """From `regression.updates` of the configuration, whose lists become tuples."""
        sizes = tuple(tuple(size) for size in settings["linear_sizes"])
        return cls(**{**settings, "linear_sizes": sizes, "widths": tuple(settings["widths"])})


@dataclass(frozen=True)
class Problems:
    """A batch of regression problems: the context's inputs and then the query's, and the context's labels."""

    points: Points
    labels: Float[Tensor, "task context output"]


def draw_problems(rng: np.random.Generator, number: int, input_dim: int, output_dim: int, context_length: int) -> Problems:
    """`x ~ N(0, I)` and `y = V x` with `V ~ N(0, 1/input_dim)`: labels of variance 1, the unit of all differences here."""
    points = torch.from_numpy(rng.standard_normal((number, context_length + 1, input_dim)))
    teacher = torch.from_numpy(rng.standard_normal((number, output_dim, input_dim))) / math.sqrt(input_dim)
    return Problems(points, points[:, :-1] @ teacher.mT)


def linear_model(rng: np.random.Generator, number: int, input_dim: int, output_dim: int) -> tuple[Function, Weights]:
    """`f(x; W) = W x` and `W_0 ~ N(0, 1/input_dim)`."""
    start = torch.from_numpy(rng.standard_normal((number, output_dim, input_dim))) / math.sqrt(input_dim)
    return lambda weights, x: x @ weights[0].mT, (start,)


def network(learner: str, rng: np.random.Generator, number: int, input_dim: int, width: int) -> tuple[Function, Weights]:
    """`f(x; A, b) = b . phi(A x / sqrt(input_dim)) / sqrt(width)`, `A, b ~ N(0, 1)`: the neural tangent parametrisation.

    Args:
        learner: one of `ACTIVATIONS`. Both layers train, except for "readout", which trains b alone.
    """
    phi = ACTIVATIONS[learner]
    first = torch.from_numpy(rng.standard_normal((number, width, input_dim)))
    second = torch.from_numpy(rng.standard_normal((number, 1, width)))

    def answer(a: Tensor, b: Tensor, x: Points) -> Answers:
        return phi(x @ a.mT / math.sqrt(input_dim)) @ b.mT / math.sqrt(width)

    if learner == "readout":
        return lambda weights, x: answer(first, weights[0], x), (second,)
    return lambda weights, x: answer(*weights, x), (first, second)


def stable_rate(f: Function, start: Weights, problems: Problems, relative: float) -> Rate:
    """eta of each task: `relative` / largest eigenvalue of `J J^T / N`, J = d answers to the context / d weights at W_0."""
    weights = tuple(w.detach().requires_grad_() for w in start)
    answers = f(weights, problems.points[:, :-1])
    tasks, context_length, outputs = answers.shape
    rows = context_length * outputs
    each = torch.eye(rows, dtype=answers.dtype).view(rows, 1, context_length, outputs).expand(-1, tasks, -1, -1)
    jacobian = torch.autograd.grad(answers, weights, each, is_grads_batched=True)
    kernel = torch.zeros(tasks, rows, rows, dtype=answers.dtype)
    for part in jacobian:
        by_task = part.flatten(2).transpose(0, 1)  # task row weight
        kernel += by_task @ by_task.mT
    largest = torch.linalg.eigvalsh(kernel / context_length)[:, -1]
    return (relative / largest).view(-1, 1, 1)


def weight_update(
    f: Function, start: Weights, problems: Problems, rate: Rate, steps: int
) -> tuple[Float[Tensor, "step task output"], Float[Tensor, " step"]]:
    """Gradient descent on the weights: `f(x_q; W_t)` and the mean of L over tasks, both for t = 0, 1, .. `steps`."""
    weights, context_length = start, problems.labels.shape[1]
    predictions, losses = [], []
    for _ in range(steps + 1):
        weights = tuple(w.detach().requires_grad_() for w in weights)
        answers = f(weights, problems.points)
        context, residual = answers[:, :-1], answers.detach()[:, :-1] - problems.labels
        predictions.append(answers.detach()[:, -1])
        losses.append(0.5 * residual.square().sum(2).mean())
        gradients = torch.autograd.grad(context, weights, residual / context_length)
        weights = tuple(w - rate * g for w, g in zip(weights, gradients, strict=True))
    return torch.stack(predictions), torch.stack(losses)


def data_update(
    f: Function,
    start: Weights,
    problems: Problems,
    rate: Rate,
    steps: int,
    query_start: Float[Tensor, "task output"] | None = None,
) -> Float[Tensor, "step task output"]:
    """The same steps on the targets, with the weights left alone: y_q^t for t = 0, 1, .. `steps`.

    Args:
        query_start: y_q^0 if not -f(x_q; W_0).
    """
    weights, context_length = tuple(w.detach().requires_grad_() for w in start), problems.labels.shape[1]
    answers = f(weights, problems.points)
    context, before = answers[:, :-1], answers.detach()
    targets = torch.cat([problems.labels, (-before[:, -1] if query_start is None else query_start)[:, None]], dim=1)
    history = [targets[:, -1]]
    for _ in range(steps):
        residual = (before - targets)[:, :-1]
        gradients = torch.autograd.grad(context, weights, residual / context_length, retain_graph=True)
        with torch.no_grad():
            after = f(tuple(w - rate * g for w, g in zip(weights, gradients, strict=True)), problems.points)
        targets = targets - (after - before)
        history.append(targets[:, -1])
    return torch.stack(history)


def update_records(updates: Updates, root: int) -> Iterator[Row]:
    """Differences of the two updates by model, size, step and seed.

    With the differences over tasks and outputs at step t = 1, 2, ..: update_gap = mean |-y_q^t - f(x_q; W_t)| / mean
    |f(x_q; W_t) - f(x_q; W_0)|; update_difference = max |-y_q^t - f(x_q; W_t)|, in standard deviations of a label. A network's gap
    depends on how large labels are: fitting larger ones moves its weights further. Here they are about as large as its answers at W_0.
    update_loss_ratio = L(W_t) / L(W_0). "unshifted" is a negative control: the linear model with a query whose target starts at 0 and
    not at -W_0 x_q.
    """
    for seed in range(updates.seeds):
        base = {"study": STUDY, "experiment": EXPERIMENT, "variant": VARIANT, "seed": seed}

        def stream(purpose: str, step: int = 0, seed: int = seed) -> np.random.Generator:
            return generator(root, STUDY, EXPERIMENT, VARIANT, purpose, seed, step)

        for d, outputs, n in updates.linear_sizes:
            size = f"{d} {outputs} {n}"
            problems = draw_problems(stream(f"evaluate {size}"), updates.tasks, d, outputs, n)
            f, start = linear_model(stream(f"initialise {size}"), updates.tasks, d, outputs)
            row = base | {"input_dim": d, "output_dim": outputs, "context_length": n, "width": 0}
            rate = stable_rate(f, start, problems, updates.rate)
            trained, losses = weight_update(f, start, problems, rate, updates.steps)
            yield from _rows(row | {"learner": "linear"}, trained, losses, data_update(f, start, problems, rate, updates.steps))
            unshifted = data_update(f, start, problems, rate, updates.steps, query_start=torch.zeros_like(trained[0]))
            yield from _rows(row | {"learner": "unshifted"}, trained, losses, unshifted)

        d, n = updates.input_dim, updates.context_length
        problems = draw_problems(stream(f"evaluate {d} 1 {n}"), updates.tasks, d, 1, n)
        for learner in ACTIVATIONS:
            for width in updates.widths:
                f, start = network(learner, stream("initialise", width), updates.tasks, d, width)
                row = base | {"input_dim": d, "output_dim": 1, "context_length": n, "width": width, "learner": learner}
                rate = stable_rate(f, start, problems, updates.rate)
                trained, losses = weight_update(f, start, problems, rate, updates.steps)
                yield from _rows(row, trained, losses, data_update(f, start, problems, rate, updates.steps))


def _rows(
    row: Row,
    trained: Float[Tensor, "step task output"],
    losses: Float[Tensor, " step"],
    targets: Float[Tensor, "step task output"],
) -> Iterator[Row]:
    for step in range(1, len(trained)):
        difference, change = (targets[step] + trained[step]).abs(), (trained[step] - trained[0]).abs()
        here = row | {"step": step}
        yield here | {"metric": "update_gap", "value": (difference.mean() / change.mean()).item()}
        yield here | {"metric": "update_difference", "value": difference.max().item()}
        yield here | {"metric": "update_loss_ratio", "value": (losses[step] / losses[0]).item()}


def update_statistics(records: pd.DataFrame) -> dict[str, np.ndarray]:
    """One number for each seed, from the table of `update_records`.

    Gaps of networks are those after the last step; the slope is that of a least-squares line through log gap against log width.

    Raises:
        ValueError: if the table has fewer than two widths, through which no line goes.
    """
    end = records[records["step"] == records["step"].max()]
    differences, ratios = records[records["metric"] == "update_difference"], end[end["metric"] == "update_loss_ratio"]

    def largest(rows: pd.DataFrame) -> np.ndarray:
        return rows.groupby("seed")["value"].max().to_numpy()

    statistics = {
        "linear_update_gap": largest(differences[differences["learner"] == "linear"]),
        "readout_update_gap": largest(differences[differences["learner"] == "readout"]),
        "unshifted_update_gap": largest(differences[differences["learner"] == "unshifted"]),
        "first_step_update_gap": largest(differences[(differences["step"] == 1) & (differences["learner"] != "unshifted")]),
        "largest_update_loss_ratio": largest(ratios),
    }
    slopes, wide = [], []
    for learner in BOTH_LAYERS:
        gaps = end[(end["metric"] == "update_gap") & (end["learner"] == learner)].pivot(
            index="seed", columns="width", values="value"
        )
        if gaps.shape[1] < 2:
            raise ValueError("the slope against the width needs networks of two widths or more")
        statistics[f"{learner}_update_gap"] = gaps.iloc[:, 0].to_numpy()
        wide.append(gaps.iloc[:, -1].to_numpy())
        slopes.append(np.polyfit(np.log(gaps.columns.to_numpy(float)), np.log(gaps.to_numpy().T), 1)[0])
    return statistics | {"wide_update_gap": np.max(wide, axis=0), "update_gap_slope": np.max(slopes, axis=0)}
