"""Where updating the data stops being updating the weights."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from activation_descent.plotting import SERIES, curve, panels
from activation_descent.regression.closed_forms import BOTH_LAYERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colour, dash, marker, name
MODELS = {
    "relu": ("#D55E00", (1, 1), "s", "ReLU network"),
    "tanh": ("#0072B2", (4, 1.5), "^", "tanh network"),
    "deep_linear": ("#009E73", (6, 2, 1, 2), "D", "two linear layers"),
    "linear": ("#000000", (), "o", "linear model"),
    "readout": ("#CC79A7", (2, 2), "o", "tanh network, only output layer trained"),
}
GAP = "gap = mean |difference| / mean |learned change|"
FLOOR = 1e-17  # where an exact zero is drawn


def draw(tables: Mapping[str, pd.DataFrame], training: Mapping[str, Any], evaluation: Mapping[str, Any], _: Any) -> "Figure":
    """Gap of the two updates by model, step and width, from the table of `updates.update_records`."""
    records = tables["updates"]
    gaps = records[records["metric"] == "update_gap"]
    steps, widths = int(gaps["step"].max()), sorted(set(gaps["width"]) - {0})
    figure, axes = panels(
        "Gradient steps on the targets of fixed weights, or on the weights: do both predict the same for the query?",
        1,
        3,
        (13.5, 4.4),
        f"Thin lines: {gaps['seed'].nunique()} seeds. Bands: 95 % bootstrap interval of their mean (narrower than the line where "
        "not seen).\nBoth updates see the same tasks, initial weights and rate; their first step is the same for every model. "
        "Grey lines in (c) show slopes; their height means nothing.",
    )
    _model_panel(axes[0, 0], gaps, widths[0])
    _step_panel(axes[0, 1], gaps[gaps["learner"] == "tanh"], widths)
    _width_panel(axes[0, 2], gaps[gaps["step"] == steps], widths, steps)
    return figure


def _model_panel(axes: "Axes", gaps: pd.DataFrame, width: int) -> None:
    for learner, (colour, dashes, _, label) in MODELS.items():
        rows = gaps[(gaps["learner"] == learner) & gaps["width"].isin([0, width])]
        mean = rows.groupby(["seed", "step"], as_index=False)["value"].mean()  # over the linear model's sizes
        curve(axes, mean.assign(value=mean["value"].clip(lower=FLOOR)), "step", label, colour, dashes)
    axes.set(
        title=f"(a) Every model, {width} hidden units where it has them",
        xlabel="gradient steps",
        ylabel=GAP,
        yscale="log",
        ylim=(FLOOR, 3),
    )
    axes.text(gaps["step"].max(), 3e-14, "rounding of float64", ha="right", va="bottom", fontsize="small", color="0.3")
    axes.legend(title=None, loc="center right")


def _step_panel(axes: "Axes", gaps: pd.DataFrame, widths: list[int]) -> None:
    for width, (colour, dashes) in zip(widths, SERIES, strict=False):
        curve(axes, gaps[gaps["width"] == width], "step", f"{width:,} hidden units", colour, dashes)
    axes.set(title="(b) tanh network, both layers trained", xlabel="gradient steps", ylabel=GAP)
    axes.set_ylim(bottom=0)
    axes.legend(title=None)


def _width_panel(axes: "Axes", gaps: pd.DataFrame, widths: list[int], steps: int) -> None:
    for learner in BOTH_LAYERS[::-1]:
        colour, dashes, marker, label = MODELS[learner]
        rows = gaps[gaps["learner"] == learner]
        wide = rows.pivot(index="width", columns="seed", values="value")
        slopes = np.polyfit(np.log(wide.index.to_numpy(float)), np.log(wide.to_numpy()), 1)[0]
        curve(axes, rows, "width", f"{label}, slope {slopes.mean():.2f}".replace("-", "−"), colour, dashes, marker)
    ends = np.array([widths[0], widths[-1]])
    shown = gaps[gaps["learner"].isin(BOTH_LAYERS)]["value"]
    bound = 2 * shown.max() * (ends / ends[0]) ** -0.5
    counted = 0.5 * shown.min() * (ends / ends[1]) ** -1.0
    axes.plot(ends, bound, color="0.5", linewidth=0.8)
    axes.plot(ends, counted, color="0.5", linewidth=0.8)
    axes.text(1.3 * ends[0], bound[0], "falls as width$^{-1/2}$ (the bound)", va="bottom", fontsize="small", color="0.3")
    axes.text(ends[1] / 1.5, counted[1], "falls as width$^{-1}$", ha="right", va="bottom", fontsize="small", color="0.3")
    axes.set(title=f"(c) After {steps} steps, both layers trained", xlabel="hidden units", ylabel=GAP, xscale="log", yscale="log")
    axes.set_xticks(widths, [f"{width:,}" for width in widths])
    axes.minorticks_off()
    axes.legend(title=None, loc="lower left", bbox_to_anchor=(0.0, 0.03))
