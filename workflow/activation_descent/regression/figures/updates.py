"""Where updating the data stops being updating the weights."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from activation_descent.plotting import SERIES
from activation_descent.regression.figures.curves import FOOTER, curve, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(tables: Mapping[str, pd.DataFrame], training: Mapping[str, Any], evaluation: Mapping[str, Any], _: Any) -> "Figure":
    """The linear model's difference, the networks' gap by step, and by width after the last step."""
    records = tables["updates"]
    seeds = records["seed"].nunique()
    figure, axes = panels(
        "Gradient steps on the targets of fixed weights against gradient steps on the weights: prediction for the query",
        1,
        3,
        (12.8, 4),
        FOOTER.format(seeds=seeds),
    )
    linear = records[records["metric"] == "linear_update_difference"]
    sizes = linear.groupby(["input_dim", "width", "context_length"])
    for ((d, outputs, n), rows), (colour, dashes) in zip(sizes, SERIES, strict=False):
        shown = rows.assign(value=rows["value"].clip(lower=1e-17))
        curve(axes[0, 0], shown, "step", f"d = {d}, {outputs} outputs, N = {n}", colour, dashes)
    axes[0, 0].axhline(1e-6, color="0.4", linewidth=0.8, linestyle=":", label="limit of the claim")
    axes[0, 0].set(
        title="(a) Linear model",
        xlabel="step",
        ylabel="largest |difference|, labels have variance 1",
        yscale="log",
        ylim=(1e-17, 1e-4),
    )
    gaps = records[records["metric"] == "update_gap"]
    widths = sorted(gaps["width"].unique())
    series = iter(SERIES)
    for name, table in gaps.groupby("learner"):
        for width in (widths[0], widths[-1]):
            colour, dashes = next(series)
            curve(axes[0, 1], table[table["width"] == width], "step", f"{name}, width {width}", colour, dashes)
    label = "mean |difference| / mean |change by training|"
    axes[0, 1].set(title="(b) One hidden layer, by step", xlabel="step", ylabel=label, yscale="log")
    last = gaps[gaps["step"] == gaps["step"].max()]
    for (name, table), (colour, dashes) in zip(last.groupby("learner"), SERIES, strict=False):
        curve(axes[0, 2], table, "width", name, colour, dashes, marker="o")
    axes[0, 2].set(
        title=f"(c) One hidden layer, after {gaps['step'].max()} steps",
        xlabel="hidden units",
        ylabel=label,
        xscale="log",
        yscale="log",
    )
    for panel in axes[0]:
        panel.legend(title=None)
    return figure
