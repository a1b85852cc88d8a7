"""Figures of the study."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from activation_descent.plotting import SERIES, curve, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SOLVERS = {"encoder": "trained encoder", "perceptron": "trained perceptron, as deep"}
STATES = {
    "trained": "trained encoder",
    "untrained": "the same, untrained",
    "inputs": "raw inputs",
    "shuffled": "trained, other problems' tables",
}
TRAINED_ON = {
    "construction": "Weights by hand",
    "rule_priority": "Trained on rule priority",
    "label_priority": "Trained on label priority",
}
TESTED_ON = {"rule_priority": "tested on rule priority", "label_priority": "tested on label priority"}
BANDS = "Thin lines: {seeds} seeds; bands: 95 % bootstrap interval of their mean."


def draw_knapsack(records: pd.DataFrame, largest_weight: int) -> "Figure":
    """Accuracy over layers and capacities with the line L = C, and its course for each capacity."""
    capacities, seeds = sorted(records["capacity"].unique()), records["seed"].nunique()
    figure, axes = panels(
        "Knapsack: is the optimal value found once there are more layers L than the capacity C?",
        1,
        1 + len(capacities),
        (4.0 + 3.3 * len(capacities), 3.9),
        f"{BANDS.format(seeds=seeds)} Dash-dotted: L = C where it is in range; dotted: L = {largest_weight}, the largest weight. "
        "Grey: densest items first.",
    )
    encoders = records[(records["variant"] == "encoder") & (records["metric"] == "accuracy_of_optimum")]
    _map(axes[0][0], encoders.pivot_table(index="capacity", columns="layers", values="value"), largest_weight)
    for panel, capacity in zip(axes[0][1:], capacities, strict=True):
        own = records[records["capacity"] == capacity]
        places = 0
        for variant, label in SOLVERS.items():
            for metric, suffix in (("accuracy_of_optimum", ""), ("hard_accuracy_of_optimum", ", where greedy is wrong")):
                rows = own[(own["variant"] == variant) & (own["metric"] == metric)]
                colour, dashes = SERIES[places]
                curve(panel, rows, "layers", label + suffix, colour, dashes, "o")
                places += 1
        greedy = own[(own["variant"] == "greedy") & (own["metric"] == "accuracy_of_optimum")]["value"].mean()
        panel.axhline(greedy, color="0.5", linewidth=1.2)
        layers = sorted(encoders["layers"].unique())
        panel.axvline(largest_weight, color="0.3", linewidth=1.0, linestyle=":")
        if capacity <= max(layers):
            panel.axvline(capacity, color="0.3", linewidth=1.0, linestyle="-.")
        panel.set(title=f"C = {capacity:g}", xlabel="layers L", ylabel="share of optimal values", ylim=(0, 1.03))
        panel.set_xticks(layers)
    axes[0][1].legend(fontsize="x-small", loc="lower right")
    return figure


def _map(axes: "Axes", table: pd.DataFrame, largest_weight: int) -> None:
    """Mean accuracy of encoders, one field for each L and C; the staircase L = C has L > C to its right."""
    axes.imshow(table.to_numpy(), cmap="Greys", vmin=0, vmax=1.6, aspect="auto", origin="lower")
    for row, values in enumerate(table.to_numpy()):
        for column, value in enumerate(values):
            axes.text(column, row, f"{value:.2f}", ha="center", va="center")
    layers, capacities = [float(x) for x in table.columns], [float(x) for x in table.index]
    edge = [sum(depth <= capacity for depth in layers) - 0.5 for capacity in capacities]
    line = [(x, y) for row, x in enumerate(edge) for y in (row - 0.5, row + 0.5)]
    axes.plot(*zip(*line, strict=True), color=SERIES[2][0], linewidth=2.5, label="L = C: more layers to its right", clip_on=False)
    axes.axvline(
        sum(d <= largest_weight for d in layers) - 0.5, color="0.3", linewidth=1.0, linestyle=":", label="largest weight"
    )
    axes.set_xticks(range(len(layers)), [f"{x:g}" for x in layers])
    axes.set_yticks(range(len(capacities)), [f"{x:g}" for x in capacities])
    axes.grid(False)
    axes.set(title="Encoders: share of optimal values", xlabel="layers L", ylabel="capacity C")
    axes.legend(loc="upper left", fontsize="x-small", bbox_to_anchor=(0, -0.2), ncols=2)


def draw_table(records: pd.DataFrame) -> "Figure":
    """Readouts of the table of the dynamic programme by layer, and what training adds to each entry."""
    seeds = records["seed"].nunique()
    figure, axes = panels(
        "Knapsack: do the deepest encoders hold the table f(i, c) of the dynamic programme?",
        1,
        3,
        (13.5, 3.9),
        f"{BANDS.format(seeds=seeds)} Ridge regression from all states of a layer (0: the tokens), scored on other problems.",
    )
    names = {"table_r_squared": "Table of the first half of the items", "answer_r_squared": "Answers f(n, C)"}
    for panel, (metric, title) in zip(axes[0], names.items(), strict=False):
        for (condition, label), (colour, dashes) in zip(STATES.items(), SERIES, strict=False):
            rows = records[(records["condition"] == condition) & (records["metric"] == metric)]
            if condition == "inputs":
                panel.axhline(rows["value"].mean(), color=colour, linestyle=(0, dashes), label=label)
            else:
                curve(panel, rows, "layer", label, colour, dashes, "o")
        panel.set(title=title, xlabel="layer", ylabel="R² on other problems", ylim=(-0.1, 1.03))
    axes[0][0].legend(fontsize="x-small")
    entries = records[records["metric"] == "entry_r_squared"].pivot_table(
        index=["layer", "row", "capacity"], columns="condition", values="value"
    )
    gain = (entries["trained"] - entries["untrained"]).groupby(["row", "capacity"]).max().unstack("capacity")
    image = axes[0][2].imshow(gain, cmap="viridis", vmin=0, origin="lower", aspect="auto", extent=_extent(gain))
    axes[0][2].grid(False)
    axes[0][2].set(title="What training adds to the entry f(i, c), best layer", xlabel="capacity c", ylabel="items i")
    figure.colorbar(image, ax=axes[0][2], label="R² trained - R² untrained")
    return figure


def _extent(table: pd.DataFrame) -> Sequence[float]:
    return [table.columns.min() - 0.5, table.columns.max() + 0.5, table.index.min() - 0.5, table.index.max() + 0.5]


def draw_logic(records: pd.DataFrame) -> "Figure":
    """Accuracy by depth of proof, for each sampler that networks were trained on and each that they are tested on."""
    seeds = records["seed"].nunique()
    figure, axes = panels(
        "SimpleLogic: one architecture, weights by hand and weights that were trained on one sampler",
        1,
        len(TRAINED_ON),
        (3.9 * len(TRAINED_ON), 3.8),
        f"{BANDS.format(seeds=seeds)} Squares: what cannot be proved, by seed; diamonds: half of that and half of the mean over depths.",
    )
    rows = records[records["metric"] == "depth_accuracy"]
    depths = sorted(rows["depth"].unique())
    for panel, (variant, title) in zip(axes[0], TRAINED_ON.items(), strict=True):
        for (sampler, label), (colour, dashes) in zip(TESTED_ON.items(), SERIES[1:], strict=False):
            own = rows[(rows["variant"] == variant) & (rows["sampler"] == sampler)]
            curve(panel, own[own["depth"] >= 0], "depth", label, colour, dashes, "o")
            unproved = own[own["depth"] < 0]["value"]
            panel.plot(np.full(len(unproved), -1), unproved, color=colour, linestyle="", marker="s", markersize=4)
            total = records[
                (records["variant"] == variant) & (records["sampler"] == sampler) & (records["metric"] == "balanced_accuracy")
            ]["value"]
            panel.plot(np.full(len(total), depths[-1] + 1), total, color=colour, linestyle="", marker="D", markersize=4)
        panel.axhline(0.5, color="0.5", linewidth=0.8)
        panel.set(title=title, xlabel="depth of proof", ylabel="accuracy", ylim=(-0.03, 1.03))
        panel.set_xticks([*depths, depths[-1] + 1], ["no proof", *(f"{d:g}" for d in depths[1:]), "all"])
    axes[0][0].legend(fontsize="x-small", loc="lower left")
    return figure
