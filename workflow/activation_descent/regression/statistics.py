"""One number for each seed: the metrics that claims and their gates read, from the records and the weights of a variant."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch

from activation_descent.regression.alignment import (
    STUDY,
    Alignment,
    Evaluation,
    Row,
    align,
    closed_form_rate,
    evaluation_tasks,
    loss_of,
)
from activation_descent.regression.constructions import gradient_descent_layer, step_size
from activation_descent.regression.learners import (
    best_rate,
    expected_loss,
    gradient_descent_model,
    least_squares_model,
)
from activation_descent.regression.training import Trained, Training
from activation_descent.regression.transformer import MATRICES, effective_model

UNDAMPED_HORIZON = 20  # iterations after which acceptance test T8 looks for divergence


def tail(table: pd.DataFrame, share: float) -> pd.DataFrame:
    """The rows of the last `share` of training: the learning rate never decays, so single snapshots hover around their mean."""
    return table[table["step"] > (1 - share) * table["step"].max()]


def loss_ratios(alignment: pd.DataFrame, share: float) -> pd.Series:
    """Loss of the layer / loss of the gradient step for each seed, over the tail of training."""
    losses = tail(alignment, share).query("metric == 'loss'")
    means = losses.groupby(["learner", "seed"])["value"].mean()
    return means["transformer"] / means["gradient_descent"]


def largest_gap(losses: pd.DataFrame, learner: str) -> np.ndarray:
    """Largest |loss / loss of gradient descent - 1| for each seed over the conditions in a table of losses."""
    condition = [column for column in ("input_dim", "context_length", "input_scale") if column in losses]
    wide = losses.pivot_table(index=["seed", *condition], columns="learner", values="value")
    return (wide[learner] / wide["gradient_descent"] - 1).abs().groupby("seed").max().to_numpy()


def course_statistics(
    alignment: pd.DataFrame, training: Training, evaluation: Evaluation, trained: Trained
) -> dict[str, np.ndarray]:
    """Statistics of the last part of training."""
    share = evaluation.tail_share
    end = tail(alignment, share).groupby(["metric", "learner", "seed"])["value"].mean()
    rate = closed_form_rate(training)
    is_tail = np.array(trained.steps) > (1 - share) * training.steps
    etas = [[step_size(weights)[1] for weights in seed] for seed in trained.snapshots[:, is_tail].double()]
    return {
        "loss_ratio": loss_ratios(alignment, share).to_numpy(),
        "final_model_cosine": end["model_cosine", "transformer"].to_numpy(),
        "final_model_difference": end["model_difference", "transformer"].to_numpy(),
        "final_prediction_difference": end["prediction_difference", "transformer"].to_numpy(),
        "interpolation_excess": (end["loss", "interpolated"] - end["loss", "transformer"]).to_numpy(),
        "step_size_error": np.abs(np.mean(etas, axis=1) / rate - 1),
    }


def generalisation_statistics(generalisation: pd.DataFrame, training: Training) -> dict[str, np.ndarray]:
    """Statistics over context lengths and input scales."""
    lengths = generalisation.query("input_scale == 1")
    scales = generalisation[generalisation["context_length"] == training.context_length]
    return {
        "context_length_gap": largest_gap(lengths, "transformer"),
        "untrained_context_length_gap": largest_gap(lengths, "untrained"),
        "input_scale_gap": largest_gap(scales, "transformer"),
        "untrained_input_scale_gap": largest_gap(scales, "untrained"),
    }


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


def control_statistics(
    training: Training, evaluation: Evaluation, root: int, variant: str, trained: Trained
) -> dict[str, np.ndarray]:
    """What the metrics say of learners whose answer is known, and of the trained layer against the wrong reference."""
    tasks = evaluation_tasks(training, root, variant, "evaluate", evaluation.tasks)
    tuning = evaluation_tasks(training, root, variant, "tune", evaluation.tuning_tasks)
    rate = closed_form_rate(training)
    descent = gradient_descent_model(tasks, rate)
    descent_loss = loss_of(descent, tasks)
    expected = expected_loss(rate, training.input_dim, training.context_length, training.half_range, training.weight_scale)
    squares = least_squares_model(tasks)
    construction = effective_model(gradient_descent_layer(training.input_dim, rate), tasks.tokens)
    constructed = align(construction, descent, tasks)

    def each_seed(weights: torch.Tensor) -> dict[str, float]:
        start, end = weights[0], weights[-1]
        untrained = effective_model(start, tasks.tokens)
        model = effective_model(end, tasks.tokens)
        halved = end.clone()
        halved[MATRICES.index("projection")] /= 2
        half = effective_model(halved, tasks.tokens)
        before: Alignment = align(untrained, descent, tasks)
        return {
            "untrained_loss_ratio": loss_of(untrained, tasks) / descent_loss,
            "untrained_cosine": before.cosine,
            "untrained_difference": before.model_difference,
            "untrained_prediction_difference": before.prediction_difference,
            "other_task_cosine": align(model, descent.roll(1, dims=1), tasks).cosine,
            "least_squares_cosine": align(model, squares, tasks).cosine,
            "rescaled_loss_excess": loss_of(half, tasks) / loss_of(model, tasks) - 1,
            "rescaled_cosine_change": abs(align(half, descent, tasks).cosine - align(model, descent, tasks).cosine),
        }

    seeds = [each_seed(weights) for weights in trained.snapshots.double()]
    same_for_all = {
        "construction_loss_ratio": loss_of(construction, tasks) / descent_loss,
        "construction_cosine": constructed.cosine,
        "construction_difference": constructed.model_difference,
        "tuned_rate_ratio": best_rate(tuning) / rate,
        "gradient_descent_loss_ratio": descent_loss / expected,
    }
    return {metric: np.array([seed[metric] for seed in seeds]) for metric in seeds[0]} | {
        metric: np.full(len(seeds), value) for metric, value in same_for_all.items()
    }


def rows(statistics: dict[str, np.ndarray], experiment: str, variant: str, step: int) -> Iterator[Row]:
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


def size_statistics(alignments: pd.DataFrame, sizes: dict[str, int], share: float) -> dict[str, np.ndarray]:
    """Statistics over layers that were trained at N = d of several sizes.

    Args:
        alignments: alignment records of all these variants.
        sizes: d for each variant.

    Only seeds that every size has enter.
    """
    losses = alignments.query("metric == 'loss'").assign(input_dim=alignments["variant"].map(sizes))
    common = losses.groupby("variant")["seed"].max().min()
    losses = losses[losses["seed"] <= common]
    ends = pd.concat([tail(table, share) for _, table in losses.groupby("variant")])
    ends = ends.groupby(["seed", "input_dim", "learner"], as_index=False)["value"].mean()
    starts = losses[losses["step"] == 0].replace({"learner": {"transformer": "untrained"}})
    return {
        "problem_size_gap": largest_gap(ends, "transformer"),
        "untrained_problem_size_gap": largest_gap(starts, "untrained"),
    }
