"""Sine waves: an MLP and a trained layer against an MLP and one gradient step (figure 4 of von Oswald et al. 2022).

Both networks embed the tokens with a perceptron of their own. One then has a trained layer of linear attention; the other has the
gradient step in that layer's place and trains its perceptron through it. Nothing makes their features the same, so that what is compared
is what they say, as a function of the query.
"""

from collections.abc import Iterator
from itertools import product

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from activation_descent.records import Row, tail
from activation_descent.regression import STUDY
from activation_descent.regression.alignment import Answer, align, answer_of_network, evaluation_tasks, loss_of
from activation_descent.regression.learners import gradient_descent_model
from activation_descent.regression.tasks import Tasks
from activation_descent.regression.training import Trained, Training
from activation_descent.regression.transformer import Vector, enter, states, unpack

EXAMPLES = 2  # tasks whose functions are written down
GRID = 101  # queries of each


def step_by_hand(vector: Vector, tasks: Tasks, training: Training) -> Float[Tensor, " task"]:
    """Prediction of the network with a frozen step, without attention: one gradient step on its features.

    The last entry of an embedded token is the label, the others are the input. The prediction starts at minus the query's label.
    """
    e = enter(unpack(vector, training.architecture), tasks.tokens, training.architecture)  # width position task
    features = Tasks(e, e[-1, -1])
    model = gradient_descent_model(features, [training.frozen_rate])
    return (model * features.query).sum(0) - e[-1, -1]


def slope_correlation(answer: Answer, reference: Answer) -> float:
    """`sum s r / (|s| |r|)` over tasks of the slopes d prediction / d x_q. The model cosine of one input is only their common sign."""
    return torch.nn.functional.cosine_similarity(answer.model.flatten(), reference.model.flatten(), dim=0).item()


def sine_records(
    training: tuple[Training, Training], trained: tuple[Trained, Trained], number: int, root: int, name: str
) -> Iterator[Row]:
    """Losses and alignment of pairs of networks, seed by seed, on `number` common tasks; and the functions of a few tasks.

    Args:
        training, trained: of the networks with a trained layer and of those with a gradient step.
        name: of the comparison.

    Alignment of two networks with gradient steps, of one seed and the next, is written beside that of a pair: as close as networks can
    come that do take the step.
    """
    tasks = evaluation_tasks(training[0], root, name, "evaluate", number)
    base = {"study": STUDY, "experiment": training[0].experiment, "variant": name}
    seeds = min(len(each.snapshots) for each in trained)
    kinds = ("transformer", "gradient_descent")
    for moment, step in enumerate(trained[0].steps):
        answers = {
            (kind, seed): answer_of_network(each.snapshots[seed, moment], tasks, settings.architecture)
            for (kind, settings, each), seed in product(zip(kinds, training, trained, strict=True), range(seeds))
        }
        for seed in range(seeds):
            row = base | {"seed": seed, "step": step}
            for kind in kinds:
                value = loss_of(answers[kind, seed], tasks)
                yield row | {"learner": kind, "reference": "none", "metric": "loss", "value": value}
            for kind, other in (("transformer", seed), ("gradient_descent", (seed + 1) % seeds)):
                answer, reference = answers[kind, seed], answers["gradient_descent", other]
                distance = align(answer, reference)
                pair = row | {"learner": kind, "reference": "gradient_descent"}
                yield pair | {"metric": "model_cosine", "value": distance.cosine}
                yield pair | {"metric": "model_difference", "value": distance.model_difference}
                yield pair | {"metric": "prediction_difference", "value": distance.prediction_difference}
                yield pair | {"metric": "slope_correlation", "value": slope_correlation(answer, reference)}
    yield from _functions(training, trained, tasks, base | {"seed": 0, "step": training[0].steps, "reference": "none"})


def _functions(training: tuple[Training, Training], trained: tuple[Trained, Trained], tasks: Tasks, base: Row) -> Iterator[Row]:
    """What the first seeds say of every query of an example task, before attention and after, beside the context."""
    half_range = training[0].half_range
    grid = torch.linspace(-half_range, half_range, GRID, dtype=torch.float64)
    for example in range(EXAMPLES):
        row = base | {"condition": f"example {example + 1}"}
        for x, y in tasks.tokens[:, :-1, example].T.tolist():
            yield row | {"learner": "label", "metric": "function_after", "level": x, "value": y}
        tokens = tasks.tokens[:, :, example, None].repeat(1, 1, GRID)
        tokens[0, -1] = grid
        for kind, settings, each in zip(("transformer", "gradient_descent"), training, trained, strict=True):
            architecture = settings.architecture
            passed = states(unpack(each.snapshots[0, -1].double(), architecture), tokens, architecture)
            for metric, (_, query) in zip(("function_before", "function_after"), passed, strict=True):
                for x, value in zip(grid.tolist(), (-query[-1, 0]).tolist(), strict=True):
                    yield row | {"learner": kind, "metric": metric, "level": x, "value": value}


def sine_statistics(
    records: pd.DataFrame,
    training: tuple[Training, Training],
    trained: tuple[Trained, Trained],
    number: int,
    root: int,
    name: str,
    share: float,
) -> dict[str, np.ndarray]:
    """One number for each pair of seeds from the records, means over the last `share` of training, with controls."""
    curves = records[records["level"].isna()]
    end = tail(curves, share).groupby(["metric", "learner", "seed"])["value"].mean()
    start = curves[curves["step"] == 0].groupby(["metric", "learner", "seed"])["value"].mean()
    tasks = evaluation_tasks(training[0], root, name, "evaluate", number)
    layer, descent = (
        [answer_of_network(vector, tasks, settings.architecture) for vector in each.snapshots[:, -1]]
        for settings, each in zip(training, trained, strict=True)
    )
    zero = loss_of(Answer(torch.zeros_like(tasks.target), layer[0].model), tasks)

    def gap(losses: pd.Series) -> np.ndarray:
        """What is left of the way from a prediction of zero to the gradient step's loss."""
        descent = end["loss", "gradient_descent"]
        return ((losses - descent) / (zero - descent)).to_numpy()

    by_hand = [step_by_hand(vector.double(), tasks, training[1]) for vector in trained[1].snapshots[:, -1]]
    return {
        "sine_loss_gap": gap(end["loss", "transformer"]),
        "sine_cosine_margin": (end["model_cosine", "transformer"] - end["model_cosine", "gradient_descent"]).to_numpy(),
        "untrained_sine_loss_gap": gap(start["loss", "transformer"]),
        "other_task_sine_cosine": np.array(
            [align(a, Answer(b.prediction, b.model.roll(1, dims=1))).cosine for a, b in zip(layer, descent, strict=True)]
        ),
        "sine_construction_difference": np.array(
            [(hand - said.prediction).abs().max().item() for hand, said in zip(by_hand, descent, strict=True)]
        ),
    }
