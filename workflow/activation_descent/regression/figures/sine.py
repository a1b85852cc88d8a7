"""Sine waves: figure 4 of von Oswald et al. (2022)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from activation_descent.plotting import COLOURS, DASHES, SERIES, curve, panels
from activation_descent.regression.figures.curves import FOOTER, LOSS, kept_line, length_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = {"transformer": "MLP, trained layer", "gradient_descent": "MLP, gradient step"}
MEASURES = {
    "model_cosine": "slopes of the same sign (Partial cos)",
    "slope_correlation": "cosine of the slopes over tasks",
}


def draw(tables: Mapping[str, pd.DataFrame], training: Mapping[str, Any], evaluation: Mapping[str, Any], _: Any) -> "Figure":
    """Functions of two tasks before and after the layer, losses, alignment, and distances."""
    table = tables["sine"]
    first = next(iter(training.values()))
    low, high = first["amplitude"]
    phase = "ρ = π u from the same u as a" if first["shared_draw"] else "ρ ~ U(0, π)"
    figure, axes = panels(
        "An MLP and one trained layer of linear attention against an MLP and one gradient step\n"
        f"(y = a sin(x + ρ), a ~ U({low:g}, {high:g}), {phase}, N = {first['context_length']}; {length_line(first)})",
        1,
        5,
        (18.0, 4.2),
        FOOTER.format(seeds=first["seeds"]) + kept_line(first),
    )
    row = axes[0]
    functions = table[table["level"].notna()]
    for panel, letter, (example, rows) in zip(row, "ab", functions.groupby("condition"), strict=False):
        _functions(panel, rows)
        panel.set(title=f"({letter}) {str(example).capitalize()}: predictions", xlabel="query x", ylabel="label y")
    curves = table[table["level"].isna()]
    for learner, label in NAMES.items():
        rows = curves[(curves["metric"] == "loss") & (curves["learner"] == learner)]
        curve(row[2], rows, "step", label, COLOURS[learner], DASHES[learner])
    row[2].set(title="(c) Loss on held-out tasks", xlabel="training step", ylabel=LOSS, yscale="log")
    series = iter(SERIES)
    for metric, label in MEASURES.items():
        for learner, whom in (("transformer", "layer, step"), ("gradient_descent", "two steps")):
            colour, dashes = next(series)
            rows = curves[(curves["metric"] == metric) & (curves["learner"] == learner)]
            curve(row[3], rows, "step", f"{whom}: {label}", colour, dashes)
    row[3].set(title="(d) Alignment by d prediction / d x", xlabel="training step", ylabel="cosine (1)", ylim=(-0.1, 1.02))
    for (metric, label), (colour, dashes) in zip(
        {"model_difference": "|Δ slope|", "prediction_difference": "|Δ label|"}.items(), SERIES, strict=False
    ):
        rows = curves[(curves["metric"] == metric) & (curves["learner"] == "transformer")]
        curve(row[4], rows, "step", label, colour, dashes)
    row[4].set(title="(e) Distance of layer and gradient step", xlabel="training step", ylabel="mean over tasks")
    for panel in (row[0], *row[2:]):  # the second example has the first one's lines
        panel.legend(title=None)
    return figure


def _functions(axes: "Axes", rows: pd.DataFrame) -> None:
    """Context as points, both networks' functions before attention as thin lines and after it as thick ones."""
    points = rows[rows["learner"] == "label"]
    axes.plot(points["level"], points["value"], "o", color="black", markersize=4, label="context")
    for learner, label in NAMES.items():
        for metric, width in (("function_before", 0.7), ("function_after", 1.8)):
            line = rows[(rows["learner"] == learner) & (rows["metric"] == metric)]
            name = f"{label}, {'before' if metric == 'function_before' else 'after'}"
            (drawn,) = axes.plot(line["level"], line["value"], color=COLOURS[learner], linewidth=width, label=name)
            if DASHES[learner]:
                drawn.set_dashes(DASHES[learner])
