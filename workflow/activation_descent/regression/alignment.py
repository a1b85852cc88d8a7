"""How close a trained layer is to a gradient step (von Oswald et al. 2022, figures 1 and 2; definitions from `analyse`).

Both sides always see the same tasks: the loss of a task has a standard deviation of .33, so absolute losses on 10,000 tasks carry a
standard error of .0033, while the paired ratio is good to .0001. All arithmetic is in float64.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from activation_descent.regression.constructions import gradient_descent_layer, interpolate
from activation_descent.regression.learners import (
    Model,
    expected_loss,
    gradient_descent_model,
    optimal_rate,
    predict,
    squared_loss,
)
from activation_descent.regression.tasks import Tasks, linear_tasks
from activation_descent.regression.training import STUDY, Trained, Training
from activation_descent.regression.transformer import Weights, effective_model, linear_self_attention, read_out
from activation_descent.seeding import generator

Row = dict[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """On what a variant is evaluated; values and sources in `config/config.yaml`."""

    tasks: int
    sweep_tasks: int
    tuning_tasks: int
    tail_share: float
    context_lengths: tuple[int, ...]
    input_scales: tuple[float, ...]
    dampings: tuple[float, ...]
    judged_damping: float
    rollout_iterations: int
    rollout_tasks: int

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> "Evaluation":
        """From `regression.evaluation` of the configuration, whose lists become tuples."""
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()})


@dataclass(frozen=True)
class Alignment:
    """Mean over tasks of the three distances of two models."""

    cosine: float
    model_difference: float
    prediction_difference: float


def align(model: Model, reference: Model, tasks: Tasks) -> Alignment:
    """Model cos, Model diff and Preds diff of two models on the same tasks.

    cos = mean_t <s, r> / ((|s| + 1e-8)(|r| + 1e-8)); difference = mean_t |s - r|_2; predictions = mean_t |s . x_q - r . x_q|.
    """
    norms = (model.norm(dim=0) + 1e-8) * (reference.norm(dim=0) + 1e-8)
    return Alignment(
        cosine=((model * reference).sum(0) / norms).mean().item(),
        model_difference=(model - reference).norm(dim=0).mean().item(),
        prediction_difference=(predict(model, tasks) - predict(reference, tasks)).abs().mean().item(),
    )


def loss_of(model: Model, tasks: Tasks) -> float:
    return squared_loss(predict(model, tasks), tasks.target)


def evaluation_tasks(
    training: Training,
    root: int,
    variant: str,
    purpose: str,
    number: int,
    context_length: int | None = None,
    input_scale: float = 1.0,
) -> Tasks:
    """Tasks of the variant's distribution from a stream that training never draws from: "evaluate" or "tune".

    Args:
        context_length: N if it differs from training.
        input_scale: alpha, the factor on the training range of the inputs.
    """
    rng = generator(root, STUDY, training.experiment, variant, purpose, step=context_length or 0)
    return linear_tasks(
        rng,
        number,
        training.input_dim,
        context_length or training.context_length,
        training.half_range * input_scale,
        training.weight_scale,
        dtype=float,
    )


def roll_out(weights: Weights, tasks: Tasks, damping: float, iterations: int) -> list[float]:
    """Losses before and after each of `iterations` applications of one layer, its update of the labels scaled by `damping`.

    Infinite from the iteration on at which the labels overflow.
    """
    tokens = tasks.tokens
    losses = [squared_loss(read_out(tokens), tasks.target)]
    for _ in range(iterations):
        tokens = linear_self_attention(weights, tokens, damping, labels_only=True)
        loss = squared_loss(read_out(tokens), tasks.target)
        losses.append(loss if math.isfinite(loss) else math.inf)
    return losses


def stable_tasks(tasks: Tasks, rate_per_example: float) -> Bool[Tensor, " task"]:
    """Whether repeated gradient steps converge on a task: its largest eigenvalue of sum_i x_i x_i^T is below 2 / rate.

    About one task in 20,000 is not stable even at damping .75, and after 50 iterations that one task outweighs all others in a mean.
    """
    x = tasks.inputs.permute(2, 0, 1)  # task input context
    return torch.linalg.matrix_norm(x, ord=2).square() * rate_per_example < 2


def closed_form_rate(training: Training) -> float:
    """The rate per example of gradient descent in every comparison with this variant."""
    return optimal_rate(training.input_dim, training.context_length, training.half_range)


def alignment_records(training: Training, number: int, root: int, variant: str, trained: Trained) -> Iterator[Row]:
    """Loss and alignment of every snapshot of every seed on `number` evaluation tasks (figure 2, left half)."""
    tasks = evaluation_tasks(training, root, variant, "evaluate", number)
    descent = gradient_descent_model(tasks, closed_form_rate(training))
    construction = gradient_descent_layer(training.input_dim, closed_form_rate(training))
    base = {"study": STUDY, "experiment": training.experiment, "variant": variant}
    for seed, snapshots in enumerate(trained.snapshots.double()):
        losses = trained.losses[seed].tolist()
        for step, weights, loss in zip(trained.steps, snapshots, losses, strict=True):
            row = base | {"seed": seed, "step": step}
            if step > 0:
                yield row | {"learner": "transformer", "metric": "training_loss", "value": loss}
            model = effective_model(weights, tasks.tokens)
            distance = align(model, descent, tasks)
            interpolated = effective_model(interpolate(weights, construction), tasks.tokens)
            yield row | {"learner": "transformer", "metric": "loss", "value": loss_of(model, tasks)}
            yield row | {"learner": "gradient_descent", "metric": "loss", "value": loss_of(descent, tasks)}
            yield row | {"learner": "interpolated", "metric": "loss", "value": loss_of(interpolated, tasks)}
            yield row | {"learner": "transformer", "metric": "model_cosine", "value": distance.cosine}
            yield row | {"learner": "transformer", "metric": "model_difference", "value": distance.model_difference}
            yield row | {"learner": "transformer", "metric": "prediction_difference", "value": distance.prediction_difference}


def generalisation_records(
    training: Training, evaluation: Evaluation, root: int, variant: str, trained: Trained
) -> Iterator[Row]:
    """The trained and the untrained layer away from their training distribution, beside gradient descent with the same fixed rate.

    A layer's step size is a weight, so gradient descent keeps the rate that is optimal for the *training* distribution.
    """
    rate = closed_form_rate(training)
    construction = gradient_descent_layer(training.input_dim, rate)
    base = {"study": STUDY, "experiment": training.experiment, "variant": variant, "metric": "loss"}
    settings = [(n, 1.0) for n in evaluation.context_lengths]
    settings += [(training.context_length, a) for a in evaluation.input_scales if a != 1.0]
    if (training.context_length, 1.0) not in settings:
        settings.insert(0, (training.context_length, 1.0))
    for context_length, input_scale in settings:
        tasks = evaluation_tasks(training, root, variant, "evaluate", evaluation.tasks, context_length, input_scale)
        condition = base | {"context_length": context_length, "input_scale": input_scale}
        descent = loss_of(gradient_descent_model(tasks, rate), tasks)
        optimum = expected_loss(
            rate, training.input_dim, context_length, training.half_range * input_scale, training.weight_scale
        )
        for seed, snapshots in enumerate(trained.snapshots.double()):
            final = snapshots[-1]
            losses = {
                "transformer": loss_of(effective_model(final, tasks.tokens), tasks),
                "untrained": loss_of(effective_model(snapshots[0], tasks.tokens), tasks),
                "interpolated": loss_of(effective_model(interpolate(final, construction), tasks.tokens), tasks),
                "gradient_descent": descent,
                "optimum": optimum,
            }
            for learner, value in losses.items():
                yield condition | {"seed": seed, "step": training.steps, "learner": learner, "value": value}


def rollout_records(training: Training, evaluation: Evaluation, root: int, variant: str, trained: Trained) -> Iterator[Row]:
    """The trained layer and the gradient step, each applied again and again (figures 1 and 10).

    On the tasks on which gradient descent with the judged damping is stable; who is stable is a property of the task alone.
    """
    tasks = evaluation_tasks(training, root, variant, "evaluate", evaluation.rollout_tasks)
    stable = stable_tasks(tasks, evaluation.judged_damping * closed_form_rate(training))
    tasks = Tasks(tasks.tokens[..., stable], tasks.target[stable])
    construction = gradient_descent_layer(training.input_dim, closed_form_rate(training))
    base = {"study": STUDY, "experiment": training.experiment, "variant": variant, "step": training.steps, "metric": "loss"}
    for damping in evaluation.dampings:
        descent = roll_out(construction, tasks, damping, evaluation.rollout_iterations)
        for seed, weights in enumerate(trained.snapshots[:, -1].double()):
            layer = roll_out(weights, tasks, damping, evaluation.rollout_iterations)
            for iteration, values in enumerate(zip(layer, descent, strict=True)):
                for learner, value in zip(("transformer", "gradient_descent"), values, strict=True):
                    position = {"seed": seed, "damping": damping, "iteration": iteration}
                    yield base | position | {"learner": learner, "value": value}
