"""Figures of the toy problems, of the mechanisms' distance from softmax attention, and of their costs."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from activation_descent.attention import MECHANISMS
from activation_descent.plotting import SERIES, curve, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PROBLEMS = {
    "recall": ("Associative recall", "pairs to remember", "accuracy"),
    "induction": ("Induction", "tokens so far", "accuracy"),
    "copying": ("Copying", "token that is repeated", "accuracy"),
    "regression": ("Linear regression", "examples so far", "share of variance explained"),
}
SMOOTH = 5  # places that a point of a curve is the mean of


def draw_toy_problems(scores: pd.DataFrame, approximations: pd.DataFrame) -> "Figure":
    """Score by place for each problem, and the performer's error against its random features."""
    seeds = scores["seed"].nunique()
    figure, axes = panels(
        "Linear-time attention in place of softmax, on toy problems with one layer of each",
        1,
        len(PROBLEMS) + 1,
        (3.6 * (len(PROBLEMS) + 1), 3.9),
        f"Same data, width and steps, each network at its best learning rate. Lines: mean of {seeds} seeds over {SMOOTH} places; "
        "bands: 95 % bootstrap interval over seeds. Right: random queries, keys and values.",
    )
    for panel, (problem, (title, place, score)) in zip(axes[0], PROBLEMS.items(), strict=False):
        own = scores[scores["task"] == problem]
        first = own["length"].min()
        binned = own.assign(place=(own["length"] - first) // SMOOTH * SMOOTH + first + (SMOOTH - 1) / 2)
        means = binned.groupby(["variant", "seed", "place"], as_index=False)["value"].mean()
        for (name, label), (colour, dashes) in zip(MECHANISMS.items(), SERIES, strict=True):
            curve(panel, means[means["variant"] == name], "place", label, colour, dashes, each_seed=False)
        panel.set(title=title, xlabel=place, ylabel=score, ylim=(min(-0.03, max(-0.5, means["value"].min())), 1.03))
    axes[0][0].legend(fontsize="x-small", loc="lower left")
    _approximations(axes[0][-1], approximations)
    return figure


def _approximations(axes: "Axes", records: pd.DataFrame) -> None:
    for (name, label), (colour, dashes) in list(zip(MECHANISMS.items(), SERIES, strict=True))[1:]:
        rows = records[records["variant"] == name]
        if name == "performer":
            curve(axes, rows, "level", label, colour, dashes, "o", each_seed=False)
            sizes = np.array(sorted(rows["level"].unique()))
            start = rows[rows["level"] == sizes[0]]["value"].mean()
            axes.plot(sizes, start * np.sqrt(sizes[0] / sizes), color="0.5", linewidth=0.8, label="1 / √features")
        else:
            axes.axhline(rows["value"].mean(), color=colour, linestyle=(0, dashes) if dashes else "-", label=label)
    axes.set(xscale="log", yscale="log", title="Distance from softmax attention", xlabel="random features")
    axes.set_ylabel("|difference| / |softmax attention|")
    axes.legend(fontsize="x-small")


def draw_costs(records: pd.DataFrame) -> "Figure":
    """Time and memory against length, with the fitted exponents."""
    figure, axes = panels(
        "Time and memory of attention against the length of the sequence",
        1,
        4,
        (15.5, 4.0),
        "One head on one sequence, one thread, fastest repeat. In brackets the exponent over the longer half of the lengths; "
        "cross: from where on a mechanism takes less time than softmax attention.",
    )
    metrics = {"attention_time": "milliseconds", "attention_memory": "megabytes"}
    places = [(condition, metric) for metric in metrics for condition in ("bidirectional", "causal")]
    for panel, (condition, metric) in zip(axes[0], places, strict=True):
        own = records[records["condition"] == condition].set_index(["metric", "variant"]).sort_index()
        for (name, label), (colour, dashes) in zip(MECHANISMS.items(), SERIES, strict=True):
            rows = own.loc[(metric, name)].sort_values("length")
            grows = own.loc[(f"{metric}_exponent", name), "value"].item()
            (line,) = panel.plot(rows["length"], rows["value"], color=colour, label=f"{label} ({grows:.2f})", marker=".")
            if dashes:
                line.set_dashes(dashes)
            where = own.loc[("crossover_length", name), "value"].item()
            if metric == "attention_time" and name != "softmax" and np.isfinite(where):
                height = np.exp(np.interp(np.log(where), np.log(rows["length"]), np.log(rows["value"])))
                panel.plot([where], [height], marker="x", color=colour, markersize=8, markeredgewidth=2)
        panel.set(xscale="log", yscale="log", title=condition.capitalize(), xlabel="tokens", ylabel=metrics[metric])
        panel.legend(fontsize="x-small")
    return figure
