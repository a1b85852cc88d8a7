"""What the study's figures share: courses of training, learners and conditions."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from activation_descent.plotting import COLOURS, DASHES, LABELS, SERIES, curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOSS = "loss (0.5 × squared error)"
HIGHEST_LOSS = 1e6  # on an axis: GD++ that leaves its range reaches 10^200
FOOTER = (
    "Thin lines: {seeds} seeds. Bands: 95 % bootstrap interval of their mean (narrower than the line where not seen). "
    "All sides see the same tasks."
)


def learner_curves(
    axes: "Axes", table: pd.DataFrame, x: str, learners: Sequence[str], marker: str | None = None, **labels: str
) -> None:
    """One series a learner, in the learner's colour; those that the table lacks are left out."""
    for learner in learners:
        rows = table[table["learner"] == learner]
        if len(rows):
            label = labels.get(learner, LABELS[learner])
            curve(axes, rows, x, label, COLOURS[learner], DASHES[learner], marker, each_seed=learner == "transformer")


def variant_curves(axes: "Axes", tables: Mapping[str, pd.DataFrame], x: str) -> None:
    """One series a variant, told apart by colour and dash; the mapping's keys are the labels."""
    for (label, rows), (colour, dashes) in zip(tables.items(), SERIES, strict=False):
        curve(axes, rows, x, label, colour, dashes)


def alignment_curves(axes: "Axes", alignment: pd.DataFrame, reference: str, title: str) -> None:
    """Model cos, Model diff and Preds diff of a network and one learner over training."""
    names = {
        "model_cosine": ("Model cos (1 = same direction)", "#000000", ()),
        "model_difference": ("Model diff (L2 distance)", "#0072B2", (4, 1.5)),
        "prediction_difference": ("Preds diff (|Δ label|)", "#D55E00", (1, 1)),
    }
    against = alignment[alignment["reference"] == reference]
    for metric, (label, colour, dashes) in names.items():
        curve(axes, against[against["metric"] == metric], "step", label, colour, dashes)
    axes.axhline(1.0, color="0.4", linewidth=0.6, linestyle=":")
    axes.set(title=title, xlabel="training step", ylabel="cosine (1), or distance")
    axes.legend(title=None)


def loss_curves(axes: "Axes", alignment: pd.DataFrame, title: str) -> None:
    """Loss over training, of the network and of the learners that it is held against."""
    losses = alignment[alignment["metric"] == "loss"]
    learner_curves(axes, losses[losses["learner"] != "interpolated"], "step", ["transformer", "gradient_descent", "gd_plus_plus"])
    # Near initialisation the interpolation divides by almost nothing
    late = losses[(losses["learner"] == "interpolated") & (losses["step"] >= losses["step"].max() * 0.1)]
    before = losses.loc[losses["step"] == 0].query("learner == 'transformer'")["value"].mean()
    learner_curves(axes, late[late["value"] < 2 * before], "step", ["interpolated"])
    lowest = losses.loc[losses["learner"] != "interpolated", "value"].min()
    axes.set(title=title, xlabel="training step", ylabel=LOSS, ylim=(0.9 * lowest, 1.1 * before))
    axes.legend(title=None)


def level_curves(
    axes: "Axes", generalisation: pd.DataFrame, condition: str, title: str, xlabel: str, metric: str = "loss"
) -> None:
    """Loss against the level of one condition."""
    table = generalisation[(generalisation["condition"] == condition) & (generalisation["metric"] == metric)].sort_values("level")
    learner_curves(axes, table, "level", ["optimum", "transformer", "gradient_descent", "gd_plus_plus", "interpolated"])
    axes.set(title=title, xlabel=xlabel, ylabel=LOSS, yscale="log")
    shown = table.loc[table["learner"] != "untrained", "value"]
    axes.set_ylim(shown.min() / 1.5, min(1.5 * shown.max(), HIGHEST_LOSS))
    axes.legend(title=None)


def settings_line(training: Mapping[str, Any]) -> str:
    """On what a variant was trained, for titles."""
    return f"x ~ U(−{training['half_range']:g}, {training['half_range']:g}), N = {training['context_length']}, d = {training['input_dim']}"


def length_line(training: Mapping[str, Any]) -> str:
    """How long a variant was trained, for figures whose lengths are shorter than the published ones."""
    return f"{training['steps']:,} steps of {training['batch_size']:,} tasks"


def kept_line(training: Mapping[str, Any]) -> str:
    """Which starts a figure shows, where not all."""
    number = training["best_of"]
    return f" Shown are the {training['seeds']} of {number} random starts with the lowest training loss." if number else ""
