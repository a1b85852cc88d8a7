"""The trained networks away from their training, and inside: other inputs, weights and labels, roll-outs, who copies from whom."""

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor

from activation_descent.regression import STUDY
from activation_descent.regression.alignment import (
    Evaluation,
    Row,
    as_network,
    can_interpolate,
    evaluation_tasks,
    interpolated,
    learner_layers,
    predictions_of,
)
from activation_descent.regression.answers import apply_repeatedly
from activation_descent.regression.closed_forms import PAIRS_UP_TO, expected_loss, optimal_rate
from activation_descent.regression.constructions import gradient_descent_layer
from activation_descent.regression.tasks import Tasks, other_distribution_tasks, with_noisy_labels
from activation_descent.regression.training import Trained, Training
from activation_descent.regression.transformer import Layer, attend, enter, products, unpack
from activation_descent.seeding import generator

COPYING_SHARE = 20  # one in so many evaluation tasks: a derivative by every token costs as much more


def conditions(training: Training, evaluation: Evaluation, root: int, variant: str) -> Iterator[tuple[str, float, Tasks]]:
    """Tasks that differ from training in one thing each: the thing's name, its level, the tasks."""
    share = training.layers * (1 if training.layers <= PAIRS_UP_TO else 2)  # no claim reads probes of deeper networks
    number = -(-evaluation.probe_tasks // share)
    for level in evaluation.context_lengths:
        yield "context_length", level, evaluation_tasks(training, root, variant, "evaluate", number, context_length=level)
    for level in evaluation.input_scales:
        yield "input_scale", level, evaluation_tasks(training, root, variant, "evaluate", number, input_scale=level)
    for level in evaluation.weight_scales:
        yield "weight_scale", level, evaluation_tasks(training, root, variant, "evaluate", number, weight_scale=level)
    for step, level in enumerate(evaluation.distribution_scales):
        rng = generator(root, STUDY, training.experiment, variant, "evaluate-distributions", step=step)
        yield (
            "distribution_scale",
            level,
            other_distribution_tasks(rng, number, training.input_dim, training.context_length, level),
        )
    tasks = evaluation_tasks(training, root, variant, "evaluate", number)
    for step, level in enumerate(evaluation.noisy_labels):
        rng = generator(root, STUDY, training.experiment, variant, "evaluate-noise", step=step)
        yield "noisy_labels", level, with_noisy_labels(rng, tasks, level)


def generalisation_records(
    training: Training, evaluation: Evaluation, root: int, variant: str, trained: Trained, learners: pd.DataFrame
) -> Iterator[Row]:
    """The trained and the untrained network beside the learners, whose step sizes stay those of the training distribution.

    A network's step size is a weight, so that a learner that may choose its step anew would be another learner. Losses of deep
    networks are heavy-tailed; the median is written beside the mean.
    """
    layers = learner_layers(training, learners)
    closed_form = len(layers["gradient_descent"]) == 1
    rate = optimal_rate(training.input_dim, training.context_length, training.half_range)
    base = {"study": STUDY, "experiment": training.experiment, "variant": variant, "step": training.steps}
    for condition, level, tasks in conditions(training, evaluation, root, variant):
        row = base | {"condition": condition, "level": level}
        named = {name: predictions_of(*as_network(each), tasks) for name, each in layers.items()}
        for seed, snapshots in enumerate(trained.snapshots):
            said = {
                "transformer": predictions_of(snapshots[-1], training.architecture, tasks),
                "untrained": predictions_of(snapshots[0], training.architecture, tasks),
                **named,
            }
            if can_interpolate(training):
                between = interpolated(training, snapshots[-1], list(layers.values())[-1][0])
                said["interpolated"] = predictions_of(between, training.architecture, tasks)
            for learner, predicted in said.items():
                squares = 0.5 * (predicted - tasks.target).square().nan_to_num(nan=math.inf)
                yield row | {"seed": seed, "learner": learner, "metric": "loss", "value": squares.mean().item()}
                yield row | {"seed": seed, "learner": learner, "metric": "median_loss", "value": squares.median().item()}
            if closed_form and condition in ("context_length", "input_scale", "weight_scale"):
                changed = {"context_length": training.context_length, "input_scale": 1.0, "weight_scale": 1.0} | {
                    condition: level
                }
                value = expected_loss(
                    rate,
                    training.input_dim,
                    int(changed["context_length"]),
                    training.half_range * changed["input_scale"],
                    training.weight_scale * changed["weight_scale"],
                )
                yield row | {"seed": seed, "learner": "optimum", "metric": "loss", "value": value}


def stable_tasks(tasks: Tasks, rate_per_example: float) -> Bool[Tensor, " task"]:
    """Whether repeated gradient steps converge on a task: its largest eigenvalue of sum_i x_i x_i^T is below 2 / rate.

    About one task in 20,000 is not stable even at damping .75, and after 50 iterations that one task outweighs all others in a mean.
    """
    x = tasks.inputs.permute(2, 0, 1)  # task input context
    return torch.linalg.matrix_norm(x, ord=2).square() * rate_per_example < 2


def roll_out(layer: Layer, tasks: Tasks, damping: float, iterations: int) -> list[float]:
    """Loss after 0, 1, .., `iterations` applications of one layer, its update of the labels scaled by `damping`.

    Infinite from the iteration on at which the labels overflow.
    """
    predictions = apply_repeatedly(layer, tasks.tokens, damping, iterations)
    losses = 0.5 * (predictions - tasks.target).square().mean(1)
    return losses.nan_to_num(nan=math.inf, posinf=math.inf).tolist()


def rollout_records(training: Training, evaluation: Evaluation, root: int, variant: str, trained: Trained) -> Iterator[Row]:
    """The one trained layer and the gradient step, each applied again and again (figures 1 and 10).

    On the tasks on which gradient descent with the judged damping is stable; who is stable is a property of the task alone.
    """
    tasks = evaluation_tasks(training, root, variant, "evaluate", evaluation.rollout_tasks)
    rate = optimal_rate(training.input_dim, training.context_length, training.half_range)
    stable = stable_tasks(tasks, evaluation.judged_damping * rate)
    tasks = Tasks(tasks.tokens[..., stable], tasks.target[stable])
    construction = gradient_descent_layer(training.input_dim, rate)
    base = {"study": STUDY, "experiment": training.experiment, "variant": variant, "step": training.steps, "metric": "loss"}
    for damping in evaluation.dampings:
        descent = roll_out(construction, tasks, damping, evaluation.rollout_iterations)
        for seed, vector in enumerate(trained.snapshots[:, -1].double()):
            layer = roll_out(
                unpack(vector, training.architecture)["attention"][0, 0], tasks, damping, evaluation.rollout_iterations
            )
            for iteration, values in enumerate(zip(layer, descent, strict=True)):
                for learner, value in zip(("transformer", "gradient_descent"), values, strict=True):
                    position = {"seed": seed, "damping": damping, "iteration": iteration}
                    yield base | position | {"learner": learner, "value": value}


def copying_records(training: Training, number: int, root: int, variant: str, trained: Trained) -> Iterator[Row]:
    """Whether the first layer pairs classic tokens: how strongly its output at a token depends on that token and on the next.

    For each token k the derivative of the sum of the first layer's output at k by every token of the input, averaged over tasks
    *before* the norm is taken (`analyse_copy`): own |.|_k, next |.|_{k+1}, and the mean norm over the others. The authors count the
    next token among the others; here it is not.
    """
    tasks = evaluation_tasks(training, root, variant, "evaluate", -(-number // COPYING_SHARE))
    base = {"study": STUDY, "experiment": training.experiment, "variant": variant, "learner": "transformer", "reference": "none"}
    for seed, snapshots in enumerate(trained.snapshots.double()):
        for step, vector in zip(trained.steps, snapshots, strict=True):
            own, following, others = _sensitivities(training, vector, tasks)
            values = {"own_token_sensitivity": own, "next_token_sensitivity": following, "other_token_sensitivity": others}
            for metric, value in values.items():
                yield base | {"seed": seed, "step": step, "metric": metric, "value": value}


def _sensitivities(training: Training, vector: Tensor, tasks: Tasks) -> tuple[float, float, float]:
    architecture = training.architecture
    parameters = unpack(vector, architecture)
    e = enter(parameters, tasks.tokens, architecture).detach().requires_grad_()  # width position task
    a, b = products(parameters["attention"][0])
    number = e.shape[1]
    own, following, others = [], [], []
    for k in range(number - 2):  # the query is nobody's neighbour: it has no label
        asked = e[:, k : k + 1]
        output = asked + attend(a, b, architecture.attention != "linear", asked, e[:, :-1])
        (gradient,) = torch.autograd.grad(output.sum(), e)
        norms = gradient.mean(2).norm(dim=0).numpy()  # token
        own.append(norms[k])
        following.append(norms[k + 1])
        others.append(np.delete(norms, [k, k + 1]).mean())
    return float(np.mean(own)), float(np.mean(following)), float(np.mean(others))
