"""Figures of predictive coding: every probe of every model beside the control that corrects errors."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from activation_descent.lens.criteria import AGREEMENT, ALL, ERROR_RATIO, GAIN, SPECIFIC
from activation_descent.plotting import SERIES, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOVES = {
    "error": "the word that follows",
    "off_identity": "without token identity",
    "random_word": "a random word",
    "orthogonal": "another direction",
    "cut_error": "s + 1 cannot see s",
    "cut_direct": "t cannot see s",
}
FOOTER = (
    "Dots: one draw of documents or one seed; bars: their mean. Dashed lines and shaded ranges: the rule, which each number must meet.\n"
    "Last two panels: means over layers and draws or seeds; positions s, where the stream was moved, and t > s + 1, where words answer."
)


def draw_predictive_coding(records: pd.DataFrame, labels: Mapping[str, str]) -> "Figure":
    """D2, D3 and D4 of each model, with the thresholds of the rule.

    Args:
        records: of all models.
        labels: what to call each variant, in the order of the figure.
    """
    figure, axes = panels(
        "Is the forward pass predictive coding? Three probes of language models and of a control that corrects errors",
        2,
        3,
        (11.5, 1.6 + 0.62 * len(labels) + 2.6),
        FOOTER,
    )
    whole = records[(records["layer"] == ALL) & (records["control"] == "none")]
    top = (
        ("error_specificity_inner", "D2: is the error decodable?", "R² for the error minus R² for another word", SPECIFIC, None),
        ("update_gain", "D3: do drives explain updates?", "share of the updates' variance", GAIN, None),
        ("error_ratio", "D3: errors (1) or copies (0)?", "λ, weight of predicted / of followed words", *ERROR_RATIO),
    )
    for panel, (metric, title, name, low, high) in zip(axes[0], top, strict=True):
        _dots(panel, whole[whole["metric"] == metric], labels)
        _threshold(panel, low, high)
        panel.set(title=title, xlabel=name)
    # From far below the threshold to most of the variance
    axes[0][1].set_xscale("symlog", linthresh=0.001)
    ticks = {0: "0", 0.001: ".001", 0.01: ".01", 0.1: ".1", 1: "1"}
    axes[0][1].set(xlim=(-0.0005, 1.2), xticks=list(ticks), xticklabels=list(ticks.values()))
    for panel in axes[0][1:]:
        panel.set_yticklabels([])
    _shown_where_explained(axes[0][2], whole, labels)
    panel = axes[1][0]
    _dots(panel, whole[whole["metric"] == "causal_agreement"], labels)
    _threshold(panel, *AGREEMENT)
    panel.set(title="D4: is the response what D3 predicts?", xlabel="slope of measured by predicted responses")
    _slopes(axes[1][1], records, labels, "slope_same", "D4: response where the word is the same")
    _slopes(axes[1][2], records, labels, "slope_other", "D4: response at other words")
    axes[1][2].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def draw_readability(records: pd.DataFrame, labels: Mapping[str, str]) -> "Figure":
    """D1 and D2 by layer: what the lens reads, and how much of the error the state tells."""
    figure, axes = panels(
        "What states tell of the prediction and of its error, by depth",
        1,
        3,
        (11.5, 3.6),
        "Depth 0: before the first block; 1: after the last. Lines: means over draws of documents or seeds. Dotted: the rule.",
    )
    plain = records[(records["layer"] != ALL) & (records["control"] == "none")]
    shown = (
        ("read_divergence", "D1: distance to the final prediction", "KL, bits"),
        ("read_accuracy", "D1: next token right", "share of positions"),
        ("error_specificity", "D2: specific to the error", "difference of R²"),
    )
    for panel, (metric, title, name) in zip(axes[0], shown, strict=True):
        for (variant, label), (colour, dashes) in zip(labels.items(), _series(len(labels)), strict=True):
            rows = plain[(plain["metric"] == metric) & (plain["variant"] == variant)]
            means = rows.groupby("layer")["value"].mean()
            (line,) = panel.plot(means.index / means.index.max(), means, color=colour, marker="o", markersize=3, label=label)
            if dashes:
                line.set_dashes(dashes)
        panel.set(title=title, xlabel="depth", ylabel=name)
    axes[0][2].axhline(SPECIFIC, color="black", linestyle=":", linewidth=1)
    axes[0][2].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _series(number: int) -> list[tuple]:
    return [SERIES[place % len(SERIES)] for place in range(number)]


def _dots(panel: "Axes", rows: pd.DataFrame, labels: Mapping[str, str]) -> None:
    """A line of dots for each variant, with their mean as a bar."""
    for place, variant in enumerate(labels):
        values = rows[rows["variant"] == variant]["value"].to_numpy()
        panel.plot(values, np.full(len(values), place), "o", color="#0072B2", markersize=4, alpha=0.7)
        if len(values):
            panel.plot([values.mean()] * 2, [place - 0.3, place + 0.3], color="black", linewidth=2)
    panel.set_yticks(range(len(labels)), list(labels.values()))
    panel.set_ylim(len(labels) - 0.5, -0.5)
    panel.axvline(0, color="grey", linewidth=0.8)


def _threshold(panel: "Axes", low: float, high: float | None) -> None:
    panel.axvline(low, color="black", linestyle="--", linewidth=1)
    if high is not None:
        panel.axvline(high, color="black", linestyle="--", linewidth=1)
        panel.axvspan(low, high, color="grey", alpha=0.15)


def _shown_where_explained(panel: "Axes", whole: pd.DataFrame, labels: Mapping[str, str]) -> None:
    """Says beside a ratio that its drives explain next to nothing."""
    gains = whole[whole["metric"] == "update_gain"].groupby("variant")["value"].mean()
    for place, variant in enumerate(labels):
        if gains.get(variant, np.inf) < GAIN:
            panel.annotate("explains < 1 %", (1.02, place), xycoords=("axes fraction", "data"), fontsize="x-small", va="center")


def _slopes(panel: "Axes", records: pd.DataFrame, labels: Mapping[str, str], metric: str, title: str) -> None:
    """The response to each move, means over layers and seeds."""
    rows = records[records["metric"] == metric]
    moves = [move for move in MOVES if move in set(rows["control"])]
    for place, (variant, (colour, _)) in enumerate(zip(labels, _series(len(labels)), strict=True)):
        means = rows[rows["variant"] == variant].groupby("control")["value"].mean()
        shift = (place - (len(labels) - 1) / 2) * 0.8 / len(labels)
        where = [number + shift for number, move in enumerate(moves) if move in means]
        values = [means[move] for move in moves if move in means]
        panel.plot(values, where, "osD^vP"[place % 6], color=colour, markersize=4, label=labels[variant])
    panel.set_yticks(range(len(moves)), [MOVES[move] for move in moves])
    panel.set_ylim(len(moves) - 0.5, -0.5)
    panel.axvline(0, color="grey", linewidth=0.8)
    panel.set(title=title, xlabel="logits per unit of probability")
