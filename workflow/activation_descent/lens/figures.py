"""Figures of the lens study. Means over seeds; of a named model a seed is a draw of tokens, of the study's own models a model."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from activation_descent.lens import MODEL, gains
from activation_descent.lens.statistics import transfer_matrix
from activation_descent.plotting import SERIES, curve, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS = {
    "tuned": "a lens for each layer (tuned)",
    "shared": "one lens for all layers",
    "shared_bias": "one map, biases by layer",
    "low_rank": "low rank by layer, as large as one lens",
    "bias": "biases by layer",
    "logit": "no lens (logit lens)",
}
OPAQUE = {"frameon": True, "framealpha": 0.85, "edgecolor": "none"}  # a legend that lies over lines
# In the order of the controls' figure: what each is, and how it must come out (the gate) or what it shows
CONTROLS: Mapping[str, Mapping[str, str]] = {
    "models": {},
    "synthetic: truth known": {
        "iterative": "one estimate, getting better",
        "additive": "features added in one basis",
        "carried": "features carried along, a basis each",
        "drifting": "iterative, in a drifting basis",
    },
    "trained": {
        "tied_loops": "tied layers, a loss at every loop (must be ≥ .5)",
        "tied": "tied layers, a loss at the end (diagnostic)",
        "random_body": "frozen random layers (must be ≤ .1)",
    },
    "images": {
        "inception": "image classifier, no skips (must be ≤ .1)",
        "inception_residual": "image classifier, residual",
        "tied_residual": "image classifier, tied residual",
    },
}


def draw_transfer(name: str, table: pd.DataFrame, statistics: pd.DataFrame) -> "Figure":
    """The penalty as published, by the two forms of KL, and the sign map of improvement minus penalty."""
    seeds = [seed for _, seed in table.groupby("seed")]
    mean = lambda metric: np.mean([transfer_matrix(seed, metric) for seed in seeds], axis=0)
    divergence, cross_entropy, native = (mean(f"transfer_{form}") for form in ("divergence", "cross_entropy", "native"))
    layers = len(divergence)
    measured = {
        label: statistics.loc[statistics["metric"] == metric, "value"]
        for metric, label in (("forward_gain", "FG"), ("calibrated_gain", "FG calibrated"))
    }
    told = (
        ", ".join(f"{label} {_range(values)}" for label, values in measured.items() if len(values))
        or "no pair of layers improves"
    )
    figure, axes = panels(
        f"What a lens of {name} that was fitted at one layer reads at another",
        1,
        4,
        (17.0, 1.6 + 0.38 * layers + 1.6),
        "Bits a token, means over seeds. A small penalty is evidence for refinement in one basis only where the improvement is larger: "
        f"cells above zero on the right.\nForward gain: {told} (mean and range over seeds; 1: an old lens sees all that later layers "
        "add, 0: nothing, below: later writes disturb it).",
    )
    forms = (
        ("Penalty, cross-entropy (the paper's)", gains.penalty(cross_entropy), False),
        ("Penalty, KL from the final prediction", gains.penalty(divergence), False),
        ("KL between the two lenses (the code's)", native, False),
        ("Improvement minus penalty", gains.improvement(divergence) - gains.penalty(divergence), True),
    )
    for panel, (title, values, signed) in zip(axes[0], forms, strict=True):
        _heatmap(panel, values, signed)
        panel.set(title=title, xlabel="layer that is read", ylabel="layer that the lens was fitted at")
    return figure


def _range(values: pd.Series) -> str:
    return f"{values.mean():.2f} [{values.min():.2f}, {values.max():.2f}]"


def _heatmap(panel: "Axes", values: np.ndarray, signed: bool) -> None:
    """A square of numbers; signed ones are dark where they are above zero and hatched where they are below."""
    layers = len(values)
    panel.grid(False)
    if signed:
        shown = np.where(np.triu(np.ones_like(values), 1) > 0, values, np.nan)
        panel.imshow(np.where(shown > 0, 0.55, 0.1), cmap="Greys", vmin=0, vmax=1)
        for (row, column), value in np.ndenumerate(shown):
            if np.isnan(value):
                panel.add_patch(_square(column, row, facecolor="white", edgecolor="none"))
            elif value <= 0:
                panel.add_patch(_square(column, row, fill=False, hatch="///", edgecolor="0.6", linewidth=0))
    else:
        panel.imshow(values, cmap="Blues", vmin=0, vmax=max(float(values.max()), 1e-9))
        shown = values
    dark = 0.6 * np.nanmax(np.abs(values)) if not signed else np.inf
    size = "x-small" if layers <= 8 else 4
    if layers <= 16:
        for (row, column), value in np.ndenumerate(shown):
            if not np.isnan(value):
                panel.text(
                    column,
                    row,
                    f"{value if abs(value) >= 0.005 else 0:.2f}",
                    ha="center",
                    va="center",
                    fontsize=size,
                    color="white" if value > dark else "black",
                )
    ticks = range(0, layers, 1 if layers <= 16 else 4)
    panel.set_xticks(ticks)
    panel.set_yticks(ticks)


def _square(x: float, y: float, **style: Any):
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.5, y - 0.5), 1, 1, **style)


def draw_lenses(name: str, table: pd.DataFrame) -> "Figure":
    """What each kind of lens that was fitted reads at every layer, and how predictions move from layer to layer."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = panels(
        f"Predictions of {name}, layer by layer",
        2,
        3,
        (15.5, 8.0),
        "Lines: mean over seeds; thin lines: seeds; bands: 95 % bootstrap interval over seeds. KL falls with depth in frozen random "
        "layers, too, because its target is the network's own output.\nProgress: cosine of a step with the way that is left, through "
        "one lens for all layers. Response: cosine of a lens's change with the model's, when one token's update is replaced.",
    )
    own = table[table["states"] == MODEL]
    styles = [*SERIES]
    for metric, panel, title in (
        ("lens_kl", axes[0][0], "KL from the model's final prediction"),
        ("lens_cross_entropy", axes[0][1], "Cross-entropy of the token that follows"),
    ):
        for (kind, label), (colour, dashes) in zip(KINDS.items(), styles, strict=True):
            rows = own[(own["metric"] == metric) & (own["lens"] == kind)]
            if len(rows):  # controls have fewer kinds
                curve(panel, rows, "layer", label, colour, dashes, "o")
        known = table.loc[table["metric"] == ("prior_kl" if metric == "lens_kl" else "model_cross_entropy"), "value"].mean()
        panel.axhline(known, color="0.4", linewidth=1, linestyle=":")
        last, line = own["layer"].max(), "constant prediction" if metric == "lens_kl" else "the model itself"
        panel.text(last, known, line, fontsize="x-small", va="bottom", ha="right")
        panel.set(title=title, xlabel="layer (0: embeddings)", ylabel="bits a token")
    # The logit lens of early layers is far off the scale of what is to be compared
    tuned = own[(own["metric"] == "lens_kl") & (own["lens"] == "tuned")]["value"]
    prior = float(table.loc[table["metric"] == "prior_kl", "value"].mean())
    axes[0][0].set_ylim(0, 1.15 * max(prior, float(tuned.max())))
    entropies = own[(own["metric"] == "lens_cross_entropy") & (own["lens"] == "tuned")]["value"]
    floor = float(table.loc[table["metric"] == "model_cross_entropy", "value"].mean())
    axes[0][1].set_ylim(0.95 * floor, floor + 1.15 * max(prior, float(entropies.max()) - floor))
    axes[0][0].legend(fontsize="x-small", **OPAQUE)
    paths = table[table["experiment"] == "paths"]
    _paths(axes[0][2], paths, {"progress": "progress", "progress_null": "the same with another token's step"}, "shared")
    axes[0][2].set(title="Progress towards the final prediction", xlabel="step from layer", ylabel="cosine")
    _paths(axes[1][0], paths, {"step_kl": "KL of the next layer's prediction from this one's"}, "tuned")
    axes[1][0].set(title="Difference from layer to layer", xlabel="step from layer", ylabel="bits a token")
    share = axes[1][0].twinx()
    share.grid(False)
    _paths(share, paths, {"step_improved": "share of tokens that come nearer"}, "tuned", 2)
    share.set(ylabel="share of tokens", ylim=(0, 1))
    lines = [line for panel in (axes[1][0], share) for line in panel.get_legend_handles_labels()[0]]
    axes[1][0].get_legend().remove()
    share.legend(lines, [line.get_label() for line in lines], fontsize="x-small", loc="center right", **OPAQUE)
    for (kind, label), (colour, dashes) in zip({"tuned": "tuned lens", "logit": "logit lens"}.items(), styles, strict=False):
        rows = paths[(paths["metric"] == "stimulus_response") & (paths["lens"] == kind)]
        curve(axes[1][1], rows, "layer", label, colour, dashes, "o")
    axes[1][1].set(title="Does the lens see what the model sees?", xlabel="block whose update is replaced", ylabel="cosine")
    axes[1][1].legend(fontsize="x-small")
    for panel in (axes[0][2], axes[1][0], axes[1][1]):
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    _basis(axes[1][2], paths)
    return figure


def _paths(panel: "Axes", paths: pd.DataFrame, shown: Mapping[str, str], lens: str, first: int = 0) -> None:
    for (metric, label), (colour, dashes) in zip(shown.items(), SERIES[first:], strict=False):
        curve(panel, paths[(paths["metric"] == metric) & (paths["lens"] == lens)], "layer", label, colour, dashes, "o")
    panel.legend(fontsize="x-small")


def _basis(panel: "Axes", paths: pd.DataFrame) -> None:
    """Influences of each direction on lens and model."""
    from matplotlib.ticker import LogLocator, NullFormatter

    wide = paths[paths["metric"].isin(("lens_influence", "model_influence"))].pivot_table("value", ["seed", "layer"], "metric")
    for (_, rows), (colour, _), marker in zip(wide.groupby("seed"), SERIES, "osD^vP", strict=False):
        panel.plot(rows["lens_influence"], rows["model_influence"], linestyle="", marker=marker, color=colour, markersize=4)
    fidelity = paths.loc[paths["metric"] == "causal_fidelity", "value"]
    panel.set(
        title=f"Causal basis of the middle layer (rank correlation {_range(fidelity)})",
        xlabel="influence on the lens, bits",
        ylabel="influence on the model, bits",
        xscale="log",
        yscale="log",
    )
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 3)))
        axis.set_minor_formatter(NullFormatter())


def draw_trajectory(name: str, trajectory: Mapping[str, Any]) -> "Figure":
    """Most probable words at each layer for a piece of one document; the darker, the farther from the final prediction."""
    divergence, top = np.array(trajectory["divergence"]), trajectory["top"]
    layers, length = divergence.shape
    figure, axes = panels(
        f"How {name} comes to its predictions (tuned lens)",
        1,
        1,
        (1.8 + 0.52 * length, 1.8 + 0.3 * layers),
        "Words: the most probable next token at each layer. Shade: KL from the model's final prediction, in bits; top row: the model.",
    )
    panel = axes[0][0]
    panel.grid(False)
    image = panel.imshow(divergence, cmap="Greys", vmin=0, vmax=max(float(divergence.max()), 1e-9), origin="lower", aspect="auto")
    dark = 0.55 * divergence.max()
    for (row, column), value in np.ndenumerate(divergence):
        colour = "white" if value > dark else "black"
        panel.text(column, row, _plain(top[row][column])[:9], ha="center", va="center", fontsize=5.5, color=colour)
    panel.set_xticks(range(length), [_plain(word)[:9] for word in trajectory["read"]], fontsize=6, rotation=60, ha="right")
    panel.set_yticks(range(layers), [*map(str, range(layers - 1)), "model"])
    panel.set(xlabel="token that was read last", ylabel="layer")
    above = panel.secondary_xaxis("top")
    above.set_xticks(range(length), [_plain(word)[:9] for word in trajectory["following"]], fontsize=6, rotation=60, ha="left")
    above.set_xlabel("token that follows")
    figure.colorbar(image, ax=panel, label="bits", pad=0.01)
    return figure


def _plain(word: str) -> str:
    """A token as a figure can show it."""
    return word.strip().replace("$", "\\$") or "·"


def draw_controls(statistics: pd.DataFrame, targets: Mapping[str, str]) -> "Figure":
    """Forward gain of every subject beside what one lens reads: the two rank synthetic streams in opposite ways.

    Args:
        statistics: of all subjects.
        targets: the models that the study asks about, and what to call them.
    """
    groups = {**CONTROLS, "models": dict(targets)}
    there = set(statistics["variant"])
    order = [(group, variant) for group, members in groups.items() for variant in members if variant in there]
    shown = {
        "calibrated_gain": "Forward gain, calibrated",
        "shared_information": "What one lens reads of what lenses\nof each layer's own read",
        "rotated_information": "The same after every layer was rotated\n(room for several codes)",
    }
    figure, axes = panels(
        "Does an old lens see what later layers add? Models beside streams and networks whose answer is known",
        1,
        3,
        (14.5, 1.8 + 0.3 * len(order)),
        "Dots: seeds; bars: their mean. Left: carried-along nulls of the models as crosses. Dashed: bounds of the validity gate, at most "
        ".1 for what cannot refine and at least .5 for what must.\nWhat lies beyond an axis is drawn at its end.",
    )
    colours = {group: series[0] for group, series in zip(groups, SERIES, strict=False)}
    for place, (panel, (metric, title)) in enumerate(zip(axes[0], shown.items(), strict=True)):
        panel.set_xlim(-3 if place == 0 else -1, 1.1)
        for row, (group, variant) in enumerate(reversed(order)):
            own = statistics[statistics["variant"] == variant]
            _seeds(panel, own.loc[own["metric"] == metric, "value"], row, colours[group], ".")
            if metric == "calibrated_gain":
                _seeds(panel, own.loc[own["metric"] == "carried_calibrated_gain", "value"], row, colours[group], "x")
        panel.axvline(0, color="black", linewidth=0.8)
        for bound in (0.1, 0.5) if metric == "calibrated_gain" else ():
            panel.axvline(bound, color="0.4", linewidth=0.8, linestyle="--")
        panel.set_yticks(range(len(order)), [groups[group][variant] for group, variant in reversed(order)] if place == 0 else [])
        panel.set(title=title, xlabel="share of the improvement" if place == 0 else "share", ylim=(-0.7, len(order) - 0.3))
    return figure


def _seeds(panel: "Axes", values: pd.Series, row: int, colour: str, marker: str) -> None:
    if not len(values):
        return
    low = panel.get_xlim()[0]
    clipped = values.clip(lower=low)
    panel.plot(clipped, np.full(len(clipped), row), linestyle="", marker=marker, color=colour, markersize=5, alpha=0.7)
    panel.plot([max(values.mean(), low)], [row], marker="|", color=colour, markersize=10, markeredgewidth=1.8)


def draw_vision(table: pd.DataFrame) -> "Figure":
    """Probe accuracy of each stage of image classifiers beside their forward gain."""
    figure, axes = panels(
        "Image classifiers: accuracy rises with depth where no prediction is handed on",
        1,
        2,
        (11.5, 4.2),
        "Left: logistic regression on the features of each stage, images it was not fitted on; mean over seeds, seeds as thin lines, 95 % "
        "bootstrap band.\nRight: dots are seeds, bars their mean; the scale is logarithmic below -1.",
    )
    networks = CONTROLS["images"]
    for (variant, label), (colour, dashes) in zip(networks.items(), SERIES, strict=False):
        rows = table[(table["variant"] == variant) & (table["metric"] == "probe_accuracy")]
        curve(axes[0][0], rows, "layer", label.split(" (")[0], colour, dashes, "o")
    axes[0][0].set(title="Can the class be read?", xlabel="stage (0: stem)", ylabel="accuracy")
    axes[0][0].legend(fontsize="x-small")
    panel = axes[0][1]
    # From -30 without skips to above zero
    panel.set_xscale("symlog", linthresh=1)
    panel.set(xlim=(-50, 1.5), xticks=[-30, -10, -3, -1, 0, 1], xticklabels=["-30", "-10", "-3", "-1", "0", "1"])
    for row, (variant, (colour, _)) in enumerate(zip(networks, SERIES, strict=False)):
        own = table[(table["variant"] == variant) & (table["metric"] == "calibrated_gain")]
        _seeds(panel, own["value"], row, colour, ".")
    panel.set_yticks(range(len(networks)), [label.split(" (")[0] for label in networks.values()])
    panel.axvline(0, color="black", linewidth=0.8)
    panel.set(
        title="Does an old lens see what later stages add?", xlabel="forward gain, calibrated", ylim=(-0.6, len(networks) - 0.4)
    )
    return figure
