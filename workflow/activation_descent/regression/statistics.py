"""One number for each seed: the metrics that claims and their gates read, from the records and the weights of a variant."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from activation_descent.records import tail
from activation_descent.regression.alignment import (
    STUDY,
    Answer,
    Row,
    align,
    answer_of_layers,
    answer_of_model,
    answer_of_network,
    descent_steps,
    evaluation_tasks,
    fitted_learner,
    learner_layers,
    loss_of,
    plus_plus_family,
)
from activation_descent.regression.closed_forms import expected_loss, optimal_rate
from activation_descent.regression.constructions import step_sizes
from activation_descent.regression.learners import (
    best_rate,
    gd_plus_plus_model,
    gradient_descent_model,
    least_squares_model,
)
from activation_descent.regression.tasks import Tasks
from activation_descent.regression.training import Trained, Training
from activation_descent.regression.transformer import MATRICES, products, unpack

UNDAMPED_HORIZON = 20  # iterations after which acceptance test T8 looks for divergence
REACHED = 1.02  # times the loss of a gradient step: what counts as having found it
ROUNDING = 1e-20  # of a loss
PREFIXES = {"gradient_descent": "", "gd_plus_plus": "plus_plus_", "target": "target_"}


def course_statistics(alignment: pd.DataFrame, share: float) -> dict[str, np.ndarray]:
    """Statistics of the last part of training, against each learner that the variant is held against."""
    end = tail(alignment, share).groupby(["metric", "learner", "reference", "seed"])["value"].mean()
    losses = end["loss"].droplevel("reference").unstack("learner")
    numbers = {"final_loss": losses["transformer"]}
    # A network may be trained to give a learner's own answers, whose loss is rounding
    losses = losses.where(losses > ROUNDING)
    for reference, prefix in PREFIXES.items():
        if reference in losses.dropna(axis=1):
            numbers[f"{prefix}loss_ratio"] = losses["transformer"] / losses[reference]
        if ("model_cosine", "transformer", reference) in end.index:
            for metric in ("model_cosine", "model_difference", "prediction_difference"):
                numbers[f"final_{prefix}{metric}"] = end[metric, "transformer", reference]
    if "gradient_descent" in losses.dropna(axis=1):
        numbers["descent_loss_excess"] = losses["gradient_descent"] / losses["transformer"] - 1
        numbers["steps_to_descent"] = _steps_to_descent(alignment)
    if ("own_token_sensitivity", "transformer", "none") in end.index:
        # On the plateau a token depends on its successor as on any other; what is more than that is copying
        numbers["copying"] = end["next_token_sensitivity"].droplevel([0, 1]) - end["other_token_sensitivity"].droplevel([0, 1])
    if "interpolated" in losses:
        numbers["interpolation_excess"] = losses["interpolated"] - losses["transformer"]
    return {name: values.sort_index().to_numpy() for name, values in numbers.items()}


def _steps_to_descent(alignment: pd.DataFrame) -> pd.Series:
    """First snapshot of each seed whose loss is within 2 % of gradient descent's; infinity if none is."""
    losses = alignment[alignment["metric"] == "loss"].pivot_table(index=["seed", "step"], columns="learner", values="value")
    reached = losses[losses["transformer"] <= REACHED * losses["gradient_descent"]].reset_index().groupby("seed")["step"].min()
    return reached.reindex(sorted(alignment["seed"].unique())).astype(float).fillna(np.inf)


def weight_statistics(training: Training, trained: Trained, share: float) -> dict[str, np.ndarray]:
    """What the weights themselves say, over the last part of training."""
    is_tail = np.array(trained.steps) > (1 - share) * training.steps
    attention = [
        [unpack(vector, training.architecture)["attention"] for vector in seed] for seed in trained.snapshots[:, is_tail].double()
    ]
    numbers = {}
    if training.architecture.is_linear_attention and training.heads == 1 and training.tied:
        sizes = np.array([[step_sizes(each[0, 0]) for each in seed] for seed in attention]).mean(axis=1)  # seed (rate, gamma)
        if training.layers == 1:
            rate = optimal_rate(training.input_dim, training.context_length, training.half_range)
            numbers["step_size_error"] = np.abs(sizes[:, 0] / rate - 1)
        else:
            numbers |= {"learned_rate": sizes[:, 0], "learned_gamma": sizes[:, 1]}
    if training.attention == "softmax" and training.heads > 1:
        numbers["off_diagonal_cancellation"] = np.array([np.mean([cancellation(each[0]) for each in seed]) for seed in attention])
    return numbers


def cancellation(heads: torch.Tensor) -> float:
    """How much smaller the off-diagonal of sum_h eta_h W_KQ^h is than that of its terms (figure 11), x-block, root mean square."""
    a, b = products(heads)
    terms = b[:, -1, -1, None, None] * a[:, :-1, :-1]  # eta_h = (W_V W_P)_yy of the head
    off = ~torch.eye(terms.shape[-1], dtype=torch.bool)
    each = terms[:, off].square().mean(1).sqrt().mean()
    return (each / terms.sum(0)[off].square().mean().sqrt()).item()


def largest_gap(losses: pd.DataFrame, learner: str, reference: str = "gradient_descent") -> np.ndarray:
    """Largest |loss / loss of the reference - 1| for each seed over the levels in a table of losses."""
    wide = losses.pivot_table(index=["seed", "level"], columns="learner", values="value")
    return (wide[learner] / wide[reference] - 1).abs().groupby("seed").max().to_numpy()


def generalisation_statistics(generalisation: pd.DataFrame) -> dict[str, np.ndarray]:
    """Statistics over the levels of each condition."""
    losses = generalisation[generalisation["metric"] == "loss"]
    best = "gd_plus_plus" if "gd_plus_plus" in set(losses["learner"]) else "gradient_descent"
    numbers = {}
    for condition, table in losses.groupby("condition"):
        numbers[f"{condition}_gap"] = largest_gap(table, "transformer")
        numbers[f"untrained_{condition}_gap"] = largest_gap(table, "untrained")
        if best != "gradient_descent":
            numbers[f"{PREFIXES[best]}{condition}_gap"] = largest_gap(table, "transformer", best)
    scales = losses[losses["condition"] == "input_scale"]
    largest = scales[scales["level"] == scales["level"].max()].pivot_table(index="seed", columns="learner", values="value")
    numbers["largest_input_loss_ratio"] = (largest["transformer"] / largest["gradient_descent"]).to_numpy()
    return numbers


def rollout_statistics(rollout: pd.DataFrame, damping: float) -> dict[str, np.ndarray]:
    """Statistics of the roll-outs with the given damping and with none (damping 1).

    Raises:
        KeyError: if the table lacks either damping.
    """
    wide = rollout.pivot_table(index=["damping", "learner", "seed"], columns="iteration", values="value")
    damped = wide.loc[damping, "transformer"]
    undamped = wide.loc[1.0, "gradient_descent"]
    return {
        "rollout_final_loss": damped.iloc[:, -1].to_numpy(),
        "rollout_rises": (damped.diff(axis=1) > 0).sum(axis=1).to_numpy(),
        "gradient_descent_rollout_loss": wide.loc[damping, "gradient_descent"].iloc[:, -1].to_numpy(),
        "gradient_descent_undamped_growth": (undamped[UNDAMPED_HORIZON] / undamped[0]).to_numpy(),
    }


def median_loss(answer: Answer, tasks: Tasks) -> float:
    """The median over tasks: losses of deep networks have a heavy tail, where a mean depends on which tasks are drawn."""
    return 0.5 * (answer.prediction - tasks.target).square().median().item()


def control_statistics(
    training: Training, number: int, tuning: int, root: int, variant: str, trained: Trained, learners: pd.DataFrame
) -> dict[str, np.ndarray]:
    """What the metrics say of learners whose answer is known, of the trained network against the wrong reference, and in the median.

    On `number` evaluation tasks, and `tuning` others on which the best rate is sought. On true labels whatever the variant was trained
    to answer: a learner that is the target itself has no loss to compare with.
    """
    training = replace(training, target="label")
    tasks = evaluation_tasks(training, root, variant, "evaluate", number)
    layers = learner_layers(training, learners)
    descent = answer_of_layers(layers["gradient_descent"], tasks)
    squares = answer_of_model(least_squares_model(tasks), tasks)
    rate = optimal_rate(training.input_dim, training.context_length, training.half_range)
    one_step = answer_of_model(gradient_descent_model(tasks, [rate]), tasks)

    def each_seed(vectors: torch.Tensor) -> dict[str, float]:
        untrained, network = (answer_of_network(vector, tasks, training.architecture) for vector in (vectors[0], vectors[-1]))
        before = align(untrained, descent)
        other = Answer(network.prediction, descent.model.roll(1, dims=1))
        numbers = {
            "untrained_loss_ratio": loss_of(untrained, tasks) / loss_of(descent, tasks),
            "untrained_cosine": before.cosine,
            "untrained_difference": before.model_difference,
            "untrained_prediction_difference": before.prediction_difference,
            "other_task_cosine": align(network, other).cosine,
            "least_squares_cosine": align(network, squares).cosine,
            "median_loss_ratio": median_loss(network, tasks) / median_loss(one_step, tasks),
        }
        if training.layers == 1 and training.architecture.is_linear_attention:
            halved = vectors[-1].clone()
            unpack(halved, training.architecture)["attention"][:, :, MATRICES.index("projection")] /= 2
            half = answer_of_network(halved, tasks, training.architecture)
            numbers |= {
                "rescaled_loss_excess": loss_of(half, tasks) / loss_of(network, tasks) - 1,
                "rescaled_cosine_change": abs(align(half, descent).cosine - align(network, descent).cosine),
            }
        return numbers

    seeds = [each_seed(vectors) for vectors in trained.snapshots]
    same_for_all = _construction_statistics(training, tasks, tuning, root, variant, learners, descent)
    return {metric: np.array([seed[metric] for seed in seeds]) for metric in seeds[0]} | {
        metric: np.full(len(seeds), value) for metric, value in same_for_all.items()
    }


def _construction_statistics(
    training: Training, tasks: Tasks, tuning: int, root: int, variant: str, learners: pd.DataFrame, descent: Answer
) -> dict[str, float]:
    """Layers by hand against the learners that they stand for, computed without any layer."""
    if descent_steps(training) == 1:
        tuned = evaluation_tasks(training, root, variant, "tune", tuning)
        rate = optimal_rate(training.input_dim, training.context_length, training.half_range)
        explicit = answer_of_model(gradient_descent_model(tasks, [rate]), tasks)
        expected = expected_loss(rate, training.input_dim, training.context_length, training.half_range, training.weight_scale)
        numbers = {"tuned_rate_ratio": best_rate(tuned) / rate}
    else:
        fitted = fitted_learner(training, "gradient_descent", learners)
        explicit = answer_of_model(gradient_descent_model(tasks, fitted.rates), tasks)
        expected = fitted.loss
        plus_plus = fitted_learner(training, plus_plus_family(training), learners)
        exact = answer_of_model(gd_plus_plus_model(tasks, plus_plus.rates, plus_plus.gammas), tasks)
        constructed = answer_of_layers(learner_layers(training, learners)["gd_plus_plus"], tasks)
        numbers = {"plus_plus_construction_cosine": align(constructed, exact).cosine}
    aligned = align(descent, explicit)
    return numbers | {
        "construction_loss_ratio": loss_of(descent, tasks) / loss_of(explicit, tasks),
        "construction_cosine": aligned.cosine,
        "construction_difference": aligned.model_difference,
        "gradient_descent_loss_ratio": loss_of(explicit, tasks) / expected,
    }


def size_statistics(alignments: pd.DataFrame, sizes: Mapping[str, int], share: float) -> dict[str, np.ndarray]:
    """Statistics over layers that were trained at N = d of several sizes.

    Args:
        alignments: alignment records of all these variants.
        sizes: d for each variant.

    Only seeds that every size has enter.
    """
    losses = alignments.query("metric == 'loss'").assign(level=alignments["variant"].map(sizes))
    common = losses.groupby("variant")["seed"].max().min()
    losses = losses[losses["seed"] <= common]
    ends = pd.concat([tail(table, share) for _, table in losses.groupby("variant")])
    ends = ends.groupby(["seed", "level", "learner"], as_index=False)["value"].mean()
    starts = losses[losses["step"] == 0].replace({"learner": {"transformer": "untrained"}})
    return {
        "problem_size_gap": largest_gap(ends, "transformer"),
        "untrained_problem_size_gap": largest_gap(starts, "untrained"),
    }


def rows(statistics: Mapping[str, np.ndarray], experiment: str, variant: str, step: int) -> Iterator[Row]:
    """Statistics as rows of records, one for each metric and seed."""
    for metric, values in statistics.items():
        for seed, value in enumerate(values):
            yield {
                "study": STUDY,
                "experiment": experiment,
                "variant": variant,
                "seed": seed,
                "step": step,
                "metric": metric,
                "value": float(value),
            }
