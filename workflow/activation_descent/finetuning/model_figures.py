"""Figures that compare models: by size, and by kind of attention."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from activation_descent.plotting import SERIES, curve, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_sizes(statistics: pd.DataFrame, parameters: Mapping[str, float]) -> "Figure":
    """Similarity against size, for the models of the study.

    Args:
        parameters: of each variant.
    """
    shown = {
        "raw_similarity": "Without normalisation",
        "partial_similarity": "Partial cosine",
        "published_similarity": "SimAOU as published",
        "published_over_floor": "SimAOU above its floor",
    }
    figure, axes = panels(
        "In-context learning against fine-tuning, by size of the model",
        1,
        len(shown),
        (3.4 * len(shown), 3.8),
        "Thin lines: draws, mean over tasks; bands: 95 % bootstrap interval over draws.",
    )
    table = statistics.assign(parameters=statistics["variant"].map(parameters))
    for panel, (metric, title), (colour, dashes) in zip(axes[0], shown.items(), SERIES, strict=False):
        means = table[table["metric"] == metric].groupby(["seed", "parameters"], as_index=False)["value"].mean()
        curve(panel, means, "parameters", title, colour, dashes, "o")
        panel.set(title=title, xlabel="parameters", ylabel="cosine", xscale="log")
        sizes = sorted(set(parameters.values()))
        panel.set_xticks(sizes, [f"{size / 1e6:.2f} M" for size in sizes])
        panel.minorticks_off()
        panel.axhline(0, color="black", linewidth=0.8)
    return figure


def draw_momentum(records: pd.DataFrame, explicit: pd.DataFrame) -> "Figure":
    """Kinds of attention against plain softmax attention, and the positive control of the comparison.

    Args:
        records: gains of each kind and seed.
        explicit: similarities of layers by hand.
    """
    names = {
        "moving_average": "moving average of values (MoAttn)",
        "momentum": "momentum on v kᵀ",
        "convolution": "convolution of values",
        "recency_bias": "recency bias (ALiBi)",
    }
    names = {variant: name for variant, name in names.items() if variant in set(records["variant"])}
    layers: dict[str, Any] = {
        "linear": "linear attention",
        "softmax_0.3_centred": "softmax, β = 0.3",
        "softmax_1_centred": "softmax, β = 1",
        "softmax_3_centred": "softmax, β = 3",
        "softmax_10_centred": "softmax, β = 10",
        "random_weights": "random weights",
    }
    seeds = records["seed"].nunique()
    figure, axes = panels(
        "Momentum attention against other memories of values, and the comparison's positive control",
        1,
        3,
        (14.5, 3.6),
        f"Left and middle: dots are {seeds} seeds, each against softmax attention from the same weights on the same documents; "
        "bars their mean. Right: dots are tasks.",
    )
    for panel, metric, title in (
        (axes[0][0], "perplexity_gain", "Perplexity: log of softmax attention's\nminus log of this one's"),
        (axes[0][1], "accuracy_gain", "In-context accuracy: this one's\nminus softmax attention's"),
    ):
        for row, variant in enumerate(reversed(names)):
            own = records[(records["variant"] == variant) & (records["metric"] == metric)].groupby("seed")["value"].mean()
            panel.plot(own, np.full(len(own), row), linestyle="", marker="o", color=SERIES[1][0], markersize=4)
            panel.plot([own.mean()], [row], marker="|", color="black", markersize=12, markeredgewidth=2)
        panel.axvline(0, color="black", linewidth=0.8)
        panel.set_yticks(range(len(names)), [*reversed(names.values())] if metric == "perplexity_gain" else [])
        panel.set(title=title, xlabel="difference", ylim=(-0.6, len(names) - 0.4))
    last = axes[0][2]
    for row, variant in enumerate(reversed(layers)):
        for metric, colour, marker in (
            ("explicit_similarity", SERIES[2][0], "o"),
            ("explicit_shuffled_similarity", SERIES[3][0], "x"),
        ):
            own = explicit[(explicit["variant"] == variant) & (explicit["metric"] == metric)]["value"]
            last.plot(own, np.full(len(own), row), linestyle="", marker=marker, color=colour, markersize=3)
    last.plot([], [], linestyle="", marker="o", color=SERIES[2][0], label="own labels")
    last.plot([], [], linestyle="", marker="x", color=SERIES[3][0], label="labels shuffled")
    last.legend(loc="lower right", fontsize="x-small")
    last.axvline(0, color="black", linewidth=0.8)
    last.set_yticks(range(len(layers)), [*reversed(layers.values())])
    last.set(title="A layer that is gradient descent:\nsimilarity to its fine-tuning", xlabel="cosine", xlim=(-0.5, 1.05))
    return figure
