"""Which algorithm is it? Networks and candidate learners of the same depth on the same tasks, ordered by their free numbers."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

from activation_descent.regression import STUDY
from activation_descent.regression.alignment import (
    Answer,
    Row,
    align,
    answer_of_layers,
    answer_of_model,
    answer_of_network,
    loss_of,
)
from activation_descent.regression.constructions import gd_plus_plus_layer
from activation_descent.regression.fitting import LADDER, best_newton_alpha, best_ridge_penalty, free_numbers, read_fitted
from activation_descent.regression.learners import least_squares_model, newton_model, preconditioned_model, ridge_model
from activation_descent.regression.tasks import Tasks, linear_tasks
from activation_descent.regression.training import Trained, Training
from activation_descent.seeding import generator

PENALTIES = tuple(10.0**power for power in range(-6, 1))


def candidates(training: Training, learners: pd.DataFrame, tuning: Tasks, tasks: Tasks) -> dict[str, tuple[int, Answer]]:
    """Free numbers and answers of every learner with as many steps as the network has layers.

    What the fits of `train_regression_learners` do not hold is tuned on `tuning`: Newton's alpha, the ridge penalty, and a full matrix
    for each step of gradient descent.
    """
    steps, d = training.layers, training.input_dim
    said = {}
    for name in LADDER:
        fitted = read_fitted(learners, name, steps, training.context_length, training.half_range)
        layers = [gd_plus_plus_layer(d, *pair) for pair in zip(fitted.rates, fitted.gammas, strict=True)]
        said[name] = (free_numbers(name, steps), answer_of_layers(layers, tasks))
    x = tuning.inputs.permute(2, 0, 1)
    eigenvalues = torch.linalg.eigvalsh(x @ x.mT).T
    matrices = fitted_preconditioners(
        tuning, read_fitted(learners, LADDER[1], steps, training.context_length, training.half_range).rates
    )
    said["preconditioned"] = (steps * d**2, answer_of_model(preconditioned_model(tasks, matrices), tasks))
    alpha = best_newton_alpha(eigenvalues, steps)
    said["newton"] = (free_numbers("newton", steps), answer_of_model(newton_model(tasks, alpha, steps), tasks))
    penalty = best_ridge_penalty(eigenvalues, PENALTIES)
    said["ridge"] = (free_numbers("ridge", steps), answer_of_model(ridge_model(tasks, penalty), tasks))
    said["least_squares"] = (0, answer_of_model(least_squares_model(tasks), tasks))
    return said


def fitted_preconditioners(tuning: Tasks, rates: tuple[float, ...], iterations: int = 30) -> list[torch.Tensor]:
    """A full matrix for each step of gradient descent, by quasi-Newton from the best scalar rates on the tuning tasks.

    Inputs are isotropic, so that the population optimum is a multiple of the identity: d^2 numbers a step that cannot help.
    """
    d = len(tuning.query)
    matrices = torch.stack([rate * torch.eye(d, dtype=torch.float64) for rate in rates]).requires_grad_()
    optimiser = torch.optim.LBFGS([matrices], max_iter=iterations, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        model = preconditioned_model(tuning, list(matrices))
        loss = 0.5 * ((model * tuning.query).sum(0) - tuning.target).square().mean()
        loss.backward()
        return loss

    optimiser.step(closure)
    return list(matrices.detach())


def ladder_records(
    settings: Mapping[str, Training],
    trained: Mapping[str, Trained],
    learners: pd.DataFrame,
    tuning: int,
    number: int,
    root: int,
    name: str,
) -> Iterator[Row]:
    """Free numbers and loss of every learner and network, and the alignment of each network with each learner.

    Args:
        settings, trained: the networks by variant; all of one depth.
        tuning, number: tasks for tuning and for evaluation.
        name: of the comparison.

    Raises:
        ValueError: if the networks differ in depth or tasks.
    """
    first = next(iter(settings.values()))
    if len({(each.layers, each.input_dim, each.context_length, each.half_range) for each in settings.values()}) > 1:
        raise ValueError(f"the networks of {name} differ in depth or tasks: {', '.join(settings)}")

    def draw(purpose: str, count: int) -> Tasks:
        rng = generator(root, STUDY, "ladder", name, purpose)
        return linear_tasks(rng, count, first.input_dim, first.context_length, first.half_range, first.weight_scale, np.float64)

    tasks = draw("evaluate", number)
    said = candidates(first, learners, draw("tune", tuning), tasks)
    base: dict[str, Any] = {"study": STUDY, "experiment": "ladder", "variant": name, "layers": first.layers, "reference": "none"}
    for learner, (numbers, answer) in said.items():
        row = base | {"learner": learner}
        yield row | {"metric": "learner_free_numbers", "value": numbers}
        yield row | {"metric": "loss", "value": loss_of(answer, tasks)}
    for variant, training in settings.items():
        for seed, vector in enumerate(trained[variant].snapshots[:, -1]):
            network = answer_of_network(vector, tasks, training.architecture)
            row = base | {"seed": seed, "learner": variant}
            yield row | {"metric": "loss", "value": loss_of(network, tasks)}
            for learner, (_, answer) in said.items():
                distance = align(network, answer)
                yield row | {"reference": learner, "metric": "model_cosine", "value": distance.cosine}
                yield row | {"reference": learner, "metric": "model_difference", "value": distance.model_difference}


def ladder_statistics(ladder: pd.DataFrame, settings: Mapping[str, Training]) -> dict[str, np.ndarray]:
    """How much closer each kind of network is to the learner with its own freedoms than to any other on the ladder.

    `recurrent_margin`, `untied_margin`: cosine with the own learner minus the largest cosine with another; `freedom_gain`: cosine of the
    recurrent network with GD++ minus that with gradient descent, what one more free number bought.
    """
    cosines = ladder[ladder["metric"] == "model_cosine"].pivot_table(
        index=["learner", "seed"], columns="reference", values="value"
    )
    numbers = {}
    for variant, training in settings.items():
        own = "gd_plus_plus" if training.tied else "gd_plus_plus_per_layer"
        table = cosines.loc[variant]
        name = "recurrent" if training.tied else "untied"
        numbers[f"{name}_margin"] = (table[own] - table.drop(columns=own).max(axis=1)).to_numpy()
        numbers[f"{name}_freedom_gain"] = (table[own] - table["gradient_descent"]).to_numpy()
    return numbers
