"""How close a trained network is to a learner (von Oswald et al. 2022, figures 2 and 3; definitions from the authors' `analyse`).

Both sides always see the same tasks: the loss of a task has a standard deviation of .33, so absolute losses on 10,000 tasks carry a
standard error of .0033, while the paired ratio is good to .0001. All arithmetic is in float64.

A learner is held against a network as a network: its layers by hand, through the same code. That these layers are the learner is a
control that every variant carries (`statistics.control_statistics`). A network's bound on the activations is not the learner's: GD++
with ten steps takes targets beyond 10 and back, and with the bound of the published networks it has a loss of 3 in place of .03.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from activation_descent.records import Row
from activation_descent.regression import STUDY
from activation_descent.regression.answers import predictions, written_model
from activation_descent.regression.closed_forms import PAIRS_UP_TO, optimal_rate
from activation_descent.regression.constructions import gd_plus_plus_layer, gradient_descent_layer, interpolate
from activation_descent.regression.fitting import Fitted, read_fitted
from activation_descent.regression.learners import Model, predict, squared_loss
from activation_descent.regression.tasks import Tasks
from activation_descent.regression.training import Trained, Training, draw_tasks, target_model
from activation_descent.regression.transformer import Architecture, Layer, Vector, unpack
from activation_descent.seeding import generator


@dataclass(frozen=True)
class Evaluation:
    """On what a variant is evaluated; values and sources in `config/config.yaml`."""

    tasks: int
    sweep_tasks: int
    probe_tasks: int
    tuning_tasks: int
    tail_share: float
    context_lengths: tuple[int, ...]
    input_scales: tuple[float, ...]
    weight_scales: tuple[float, ...]
    distribution_scales: tuple[float, ...]
    noisy_labels: tuple[int, ...]
    dampings: tuple[float, ...]
    judged_damping: float
    rollout_iterations: int
    rollout_tasks: int

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> "Evaluation":
        """From `regression.evaluation` of the configuration, whose lists become tuples."""
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()})


@dataclass(frozen=True)
class Answer:
    """What a learner says on a batch of tasks: its predictions, and their derivative by the query, its model."""

    prediction: Float[Tensor, " task"]
    model: Model


@dataclass(frozen=True)
class Alignment:
    """Mean over tasks of the three distances of two learners."""

    cosine: float
    model_difference: float
    prediction_difference: float


def align(answer: Answer, reference: Answer) -> Alignment:
    """Model cos, Model diff and Preds diff on the same tasks.

    cos = mean_t <s, r> / ((|s| + 1e-8)(|r| + 1e-8)); difference = mean_t |s - r|_2; predictions = mean_t |f - g|.
    """
    norms = (answer.model.norm(dim=0) + 1e-8) * (reference.model.norm(dim=0) + 1e-8)
    return Alignment(
        cosine=((answer.model * reference.model).sum(0) / norms).mean().item(),
        model_difference=(answer.model - reference.model).norm(dim=0).mean().item(),
        prediction_difference=(answer.prediction - reference.prediction).abs().mean().item(),
    )


def loss_of(answer: Answer, tasks: Tasks) -> float:
    """The loss of an answer on its tasks."""
    return squared_loss(answer.prediction, tasks.target)


def answer_of_model(model: Model, tasks: Tasks) -> Answer:
    """What a linear model predicts, and the model itself."""
    return Answer(predict(model, tasks), model)


def answer_of_network(vector: Vector, tasks: Tasks, architecture: Architecture) -> Answer:
    """What a network predicts, and the linear model that it has written for each task; in float64."""
    return Answer(*written_model(vector.double(), tasks.tokens, architecture))


def predictions_of(vector: Vector, architecture: Architecture, tasks: Tasks) -> Float[Tensor, " task"]:
    """What a network predicts, where nobody asks for its model."""
    return predictions(vector.double(), tasks.tokens, architecture)


def answer_of_layers(layers: Sequence[Layer], tasks: Tasks) -> Answer:
    """Linear one-head layers by hand, one after the other."""
    vector, architecture = as_network(layers)
    return answer_of_network(vector, tasks, architecture)


def as_network(layers: Sequence[Layer]) -> tuple[Vector, Architecture]:
    """Linear one-head layers by hand, one after the other, as a network."""
    architecture = Architecture(features=len(layers[0][0]), layers=len(layers), tied=False)
    return torch.stack([layer.double() for layer in layers]).flatten(), architecture


def evaluation_tasks(training: Training, root: int, variant: str, purpose: str, number: int, **changes: Any) -> Tasks:
    """Tasks of the variant's distribution from a stream that training never draws from: "evaluate" or "tune".

    Args:
        changes: what differs from training, see `draw_tasks`.
    """
    rng = generator(root, STUDY, training.experiment, variant, purpose, step=changes.get("context_length") or 0)
    return draw_tasks(training, root, variant, rng, number, dtype=np.float64, **changes)


def descent_steps(training: Training) -> int:
    """Steps of the learner that a network is held against: one a layer, but one in all where the first layer has to pair the tokens."""
    return training.layers if training.tokens == "constructed" else 1


def fitted_learner(training: Training, learner: str, learners: pd.DataFrame) -> Fitted:
    """The learner of a variant's depth and input range from the records of `train_regression_learners`."""
    return read_fitted(learners, learner, descent_steps(training), training.context_length, training.half_range)


def plus_plus_family(training: Training) -> str:
    """GD++ with the freedoms of a network's layers. Beyond five layers a pair of numbers for each is no longer fitted."""
    return "gd_plus_plus" if training.tied or training.layers > PAIRS_UP_TO else "gd_plus_plus_per_layer"


def learner_layers(training: Training, learners: pd.DataFrame) -> dict[str, list[Layer]]:
    """The learners that a variant is held against, as layers by hand.

    Gradient descent with one rate for all steps, in closed form for one step; from two layers on GD++ with one rate and one gamma
    for a recurrent network, or with a pair a layer for one whose layers differ.
    """
    steps, d = descent_steps(training), training.input_dim
    if steps == 1:
        rate = optimal_rate(d, training.context_length, training.half_range)
        return {"gradient_descent": [gradient_descent_layer(d, rate)]}
    descent = fitted_learner(training, "gradient_descent", learners)
    plus_plus = fitted_learner(training, plus_plus_family(training), learners)
    return {
        "gradient_descent": [gradient_descent_layer(d, rate) for rate in descent.rates],
        "gd_plus_plus": [gd_plus_plus_layer(d, *pair) for pair in zip(plus_plus.rates, plus_plus.gammas, strict=True)],
    }


def references(training: Training, learners: pd.DataFrame, root: int, variant: str, tasks: Tasks) -> dict[str, Answer]:
    """What the learners that a variant is held against say on the tasks."""
    named = {name: answer_of_layers(layers, tasks) for name, layers in learner_layers(training, learners).items()}
    model = target_model(training, root, variant, tasks)
    return named if model is None else named | {"target": answer_of_model(model, tasks)}


def can_interpolate(training: Training) -> bool:
    """Whether weights halfway between training and construction are defined (A.3): one linear head, one layer's weights."""
    return training.architecture.is_linear_attention and training.heads == 1 and training.architecture.blocks == 1


def interpolated(training: Training, vector: Vector, constructed: Layer) -> Vector:
    """The network halfway between training and construction."""
    return interpolate(unpack(vector.double(), training.architecture)["attention"][0, 0], constructed).flatten()


def alignment_records(
    training: Training, number: int, root: int, variant: str, trained: Trained, learners: pd.DataFrame
) -> Iterator[Row]:
    """Loss and alignment of every snapshot of every seed on `number` evaluation tasks."""
    tasks = evaluation_tasks(training, root, variant, "evaluate", number)
    named = references(training, learners, root, variant, tasks)
    of_learners = {name: loss_of(reference, tasks) for name, reference in named.items() if name != "target"}
    construction = list(learner_layers(training, learners).values())[-1][0] if can_interpolate(training) else None
    base = {"study": STUDY, "experiment": training.experiment, "variant": variant, "reference": "none"}
    for seed, snapshots in enumerate(trained.snapshots):
        for step, vector, loss in zip(trained.steps, snapshots, trained.losses[seed].tolist(), strict=True):
            row = base | {"seed": seed, "step": step}
            answer = answer_of_network(vector, tasks, training.architecture)
            losses = {"transformer": loss_of(answer, tasks), **of_learners}
            if construction is not None:
                between = interpolated(training, vector, construction)
                losses["interpolated"] = squared_loss(predictions_of(between, training.architecture, tasks), tasks.target)
            if step > 0:
                yield row | {"learner": "transformer", "metric": "training_loss", "value": loss}
            for learner, value in losses.items():
                yield row | {"learner": learner, "metric": "loss", "value": value}
            for name, reference in named.items():
                distance = align(answer, reference)
                row |= {"learner": "transformer", "reference": name}
                yield row | {"metric": "model_cosine", "value": distance.cosine}
                yield row | {"metric": "model_difference", "value": distance.model_difference}
                yield row | {"metric": "prediction_difference", "value": distance.prediction_difference}
