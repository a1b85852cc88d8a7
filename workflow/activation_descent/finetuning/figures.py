"""Figures of the fine-tuning audit. Means over tasks of the means over their draws; intervals resample tasks and draws."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from activation_descent.finetuning.significance import CONTRASTS
from activation_descent.inference import bootstrap_means, mean_over_tasks
from activation_descent.plotting import SERIES, curve, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# What stands in the place of fine-tuning or of in-context learning, in the order of the figure
CONTROLS: Mapping[str, Mapping[str, str]] = {
    "the comparison": {
        "fine_tuned": "fine-tuned on the same demonstrations",
        "ceiling_in_context": "ceiling: in context, other demonstrations",
        "ceiling_fine_tuned": "ceiling: fine-tuned twice, on other demonstrations",
        "C7": "fine-tuned on other demonstrations (C7)",
    },
    "improves by other means": {
        "C2": "evolved without a gradient (C2)",
        "C3_query_output": "queries and outputs trained (C3)",
        "C3_mlp_in": "MLP, first layer trained (C3)",
        "C3_mlp_out": "MLP, second layer trained (C3)",
        "C3_biases_norms": "biases and norms trained (C3)",
        "C3_last_layer": "last layer trained (C3)",
        "C3_prefix": "soft prompt trained (C3)",
        "layer_causal": "layer-causal descent",
    },
    "learns something else": {
        "C4": "another task's texts (C4)",
        "C5_wrong": "wrong labels (C5)",
        "C5_random": "random labels (C5)",
        "C5_words": "other words as labels (C5)",
        "C6_input": "loss of the texts alone (C6)",
        "C6_label": "loss of the labels alone (C6)",
    },
    "learns nothing": {
        "C10_ascent": "gradient ascent (C10)",
        "C10_mirrored": "mirrored change (C10)",
        "C1": "Gaussian weights (C1)",
        "C1p": "permuted change (C1)",
        "C0": "Gaussian states (C0)",
        "C9_untrained": "untrained network (C9)",
        "C9_random_blocks": "random blocks (C9)",
        "C9_shuffled": "shuffled weights (C9)",
    },
    "in context instead": {
        "C11_unrelated": "unrelated text, vs fine-tuned (C11)",
        "C11_unlabelled": "no labels, vs fine-tuned (C11)",
        "C11_wrong": "wrong labels, vs fine-tuned (C11)",
        "C12": "mean in-context update (C12)",
    },
}
UPDATES = {
    ("normalised", "dai"): "SimAOU as published\n(after the first label word)",
    ("raw", "query"): "without normalisation\n(at the predicting token)",
    ("partial", "query"): "partial cosine\n(at the predicting token)",
}
FORMS = {
    "exact": "exact",
    "affine_map": "affine map of q",
    "linear_map": "linear map of q",
    "constant": "constant",
    "first_order": "softmax, first order",
    "linear_attention": "linear attention",
    "permuted_keys": "the same, keys permuted",
}
INSIDE: list[tuple[str, str, dict[tuple[str, str], str]]] = [
    (
        "Which part of the in-context change\nresembles fine-tuning",
        "cosine with fine-tuning's change",
        {
            ("direct", "part_similarity"): "demonstrations' values",
            ("direct", "part_null"): "the same, another query",
            ("dilution", "part_similarity"): "attention taken away",
            ("dilution", "part_null"): "the same, another query",
            ("inputs", "part_similarity"): "changed inputs",
            ("inputs", "part_null"): "the same, another query",
        },
    ),
    (
        "Are values error signals?\nTheir cosine above that of permuted tokens",
        "cosine above permuted",
        {
            ("all", "error_excess"): "loss of all tokens",
            ("label", "error_excess"): "loss of labels",
            ("all_contrast", "error_excess"): "what wrong labels change",
            ("label_contrast", "error_excess"): "the same, loss of labels",
        },
    ),
    (
        "Demonstrations shown 1, 2 and 4 times",
        "slope; share of variance",
        {
            ("dose", "dose_slope"): "growth of the heads' update\n(1: a sum, 0: a mean)",
            ("dose", "dose_kernel_slope"): "growth that softmax predicts",
            ("dose", "dose_mass_r_squared"): "R² of softmax's prediction",
            ("dose", "dose_additive_r_squared"): "R² of a sum",
            ("dose_of_one", "dose_slope"): "growth, one demonstration",
            ("dose", "dose_direction"): "cosine of update, 4 times and once",
        },
    ),
    (
        "Examples, orders and words:\nin context against fine-tuned",
        "correlation; share of ten words",
        {
            ("influence", "influence_correlation"): "influence of each demonstration",
            ("influence", "influence_reliability"): "in context, with another filler",
            ("orders", "order_correlation"): "margins over orders",
            ("fine_tuned", "token_overlap"): "ten likeliest words in common",
            ("reordered_in_context", "token_overlap"): "in context, with another order",
        },
    ),
    (
        "How much of the in-context change\na change of keys and values reaches",
        "share; cosine",
        {
            ("oracle", "oracle_share"): "best keys and values",
            ("demonstrations", "line_share"): "along the gradient",
            ("wrong_labels", "line_share"): "along that of wrong labels",
            ("another_task", "line_share"): "along that of another task",
            ("gaussian", "line_share"): "along a random direction",
            ("demonstrations", "oracle_alignment"): "cosine of gradient and best",
            ("ceiling", "oracle_alignment"): "cosine where the gradient was best",
        },
    ),
]
FOOTER = "Bars: mean over tasks of the mean over draws, with a 95 % interval that resamples tasks and draws; dots: tasks. {scope}"


def draw_controls(name: str, audit: pd.DataFrame) -> "Figure":
    """Similarity of updates between in-context learning and fine-tuning, beside every control."""
    order = [(group, control) for group, controls in CONTROLS.items() for control in controls]
    tasks, draws = audit["task"].nunique(), audit["seed"].nunique()
    figure, axes = panels(
        f"Is the change that demonstrations make in {name} the one that fine-tuning on them makes?",
        1,
        len(UPDATES),
        (4.2 * len(UPDATES) + 1.6, 0.24 * len(order) + 2.6),
        FOOTER.format(
            scope=f"{tasks} tasks, {draws} draws. Cosine of the attention outputs' changes, mean over layers and queries."
        ),
    )
    groups = {group: series for group, series in zip(CONTROLS, SERIES, strict=False)}
    for place, (panel, ((metric, position), title)) in enumerate(zip(axes[0], UPDATES.items(), strict=True)):
        rows = audit[(audit["metric"] == metric) & (audit["position"] == position) & audit["layer"].isna()]
        for row, (group, control) in enumerate(reversed(order)):
            _bar(panel, rows[rows["control"] == control], row, groups[group][0])
        shown = rows.loc[rows["control"] == "fine_tuned", "value"].mean()
        panel.axvline(shown, color="0.4", linewidth=0.8, linestyle=":")
        panel.axvline(0, color="black", linewidth=0.8)
        labels = [CONTROLS[group][control] for group, control in reversed(order)]
        panel.set_yticks(range(len(order)), labels if place == 0 else [])
        panel.set(title=title, xlabel="cosine", ylim=(-0.7, len(order) - 0.3))
        if metric == "normalised":
            floor = audit[
                (audit["metric"] == "floor")
                & (audit["position"] == position)
                & audit["layer"].isna()
                & (audit["control"] == "fine_tuned")
            ]["value"].mean()
            panel.axvline(floor, color="0.4", linewidth=1.2, linestyle="--")
            panel.text(floor, len(order) - 0.4, " floor", fontsize="x-small", va="top")
    return figure


def _bar(axes: "Axes", rows: pd.DataFrame, y: float, colour: str) -> None:
    """Mean and interval of one control, and each task's mean."""
    if not len(rows):
        return
    units = rows.rename(columns={"seed": "draw"})[["task", "draw", "value"]]
    mean = mean_over_tasks(units)
    low, high = np.quantile(bootstrap_means(units, np.random.default_rng(0), 1000), [0.025, 0.975])
    axes.plot([low, high], [y, y], color=colour, linewidth=2.5, alpha=0.5, solid_capstyle="butt")
    axes.plot([mean], [y], marker="|", color=colour, markersize=9, markeredgewidth=2)
    each = units.groupby("task")["value"].mean()
    axes.plot(each, np.full(len(each), y), linestyle="", marker=".", color=colour, markersize=3)


def draw_layers(name: str, audit: pd.DataFrame) -> "Figure":
    """The same similarity layer by layer, for the comparison and for what it must be told from."""
    shown = {
        "fine_tuned": "the same demonstrations",
        "C7": "other demonstrations",
        "C5_wrong": "wrong labels",
        "C2": "evolved without a gradient",
        "C10_ascent": "gradient ascent",
        "C9_untrained": "untrained network",
    }
    figure, axes = panels(
        f"Layer by layer: changes in {name}, in context and fine-tuned",
        1,
        3,
        (12.5, 4.4),
        "Lines: mean over tasks and queries; bands: 95 % bootstrap interval over draws.\n"
        "Ceiling: in-context learning from other demonstrations.",
    )
    metrics = {"raw": "Without normalisation", "partial": "Partial cosine", "normalised": "SimAOU (normalised), same position"}
    rows = audit[(audit["position"] == "query") & audit["layer"].notna()]
    for panel, (metric, title) in zip(axes[0], metrics.items(), strict=True):
        names = shown | {"ceiling_in_context": "ceiling"}
        styles = [*SERIES, ("0.5", (1, 2))]
        for (control, label), (colour, dashes) in zip(names.items(), styles, strict=True):
            own = rows[(rows["metric"] == metric) & (rows["control"] == control)]
            if len(own):
                means = own.groupby(["seed", "layer"], as_index=False)["value"].mean()
                curve(panel, means, "layer", label, colour, dashes, "o", each_seed=False)
        panel.axhline(0, color="black", linewidth=0.8)
        panel.set(title=title, xlabel="layer", ylabel="cosine")
        panel.set_xticks(sorted(rows["layer"].unique()))
    axes[0][0].legend(title=None, fontsize="x-small")
    return figure


def draw_answers(name: str, audit: pd.DataFrame) -> "Figure":
    """Accuracies, and how many of fine-tuning's corrections in-context learning makes, against chance."""
    accuracies = {
        "zero_shot": "without demonstrations",
        "C8": "the same, calibrated (C8)",
        "fine_tuned": "fine-tuned",
        "in_context": "in context",
        "C4": "fine-tuned on another task (C4)",
        "C5_wrong": "fine-tuned on wrong labels (C5)",
        "C2": "evolved without a gradient (C2)",
    }
    recovered = {
        ("fine_tuned", "recovered"): "Rec2FTP of fine-tuning",
        ("fine_tuned", "recovered_by_chance"): "its chance level",
        ("C4", "recovered"): "Rec2FTP of another task",
        ("C8", "recovered"): "Rec2FTP of calibration alone",
        ("C2", "recovered"): "Rec2FTP of evolution",
    }
    figure, axes = panels(
        f"Predictions of {name}, in context and fine-tuned",
        1,
        2,
        (11.5, 3.8),
        FOOTER.format(
            scope="Right: of the queries that the model alone gets wrong and fine-tuning right, how many are right in context."
        ),
    )
    rows = audit[audit["position"].isna()]
    for row, (control, _) in enumerate(reversed(accuracies.items())):
        _bar(axes[0][0], rows[(rows["control"] == control) & (rows["metric"] == "accuracy")], row, SERIES[1][0])
    axes[0][0].set_yticks(range(len(accuracies)), [*reversed(accuracies.values())])
    axes[0][0].set(title="Accuracy", xlabel="share of queries", xlim=(-0.02, 1.02))
    for row, ((control, metric), _) in enumerate(reversed(recovered.items())):
        _bar(axes[0][1], rows[(rows["control"] == control) & (rows["metric"] == metric)], row, SERIES[2][0])
    axes[0][1].set_yticks(range(len(recovered)), [*reversed(recovered.values())])
    axes[0][1].set(title="Recall of corrections", xlabel="share", xlim=(-0.02, 1.02))
    return figure


def draw_inside(name: str, inside: pd.DataFrame) -> "Figure":
    """The patching ladder, what carries the similarity, error signals, doses, orders and influences, and the oracle."""
    figure, axes = panels(
        f"Inside the in-context learning of {name}: what is left when it is replaced, and what it resembles",
        2,
        3,
        (15.5, 8.0),
        FOOTER.format(scope="At the predicting token. Heads count by how much they look at the demonstrations."),
    )
    ladder = axes[0][0]
    for row, form in enumerate(reversed(FORMS)):
        for offset, metric, (colour, _) in ((0.15, "patched_gain", SERIES[1]), (-0.15, "patched_r_squared", SERIES[2])):
            _bar(ladder, inside[(inside["control"] == form) & (inside["metric"] == metric)], row + offset, colour)
    ladder.set_yticks(range(len(FORMS)), [*reversed(FORMS.values())])
    ladder.set(title="Attention to the demonstrations replaced by", xlabel="share kept", xlim=(-0.6, 1.25))
    ladder.axvline(0, color="black", linewidth=0.8)
    ladder.plot([], [], color=SERIES[1][0], label="gain in margin")
    ladder.plot([], [], color=SERIES[2][0], label="R² of the heads' updates")
    ladder.legend(loc="lower left", fontsize="x-small")
    for panel, (title, xlabel, rows) in zip(axes.flat[1:], INSIDE, strict=True):
        for place, (control, metric) in enumerate(reversed(rows)):
            _bar(panel, inside[(inside["control"] == control) & (inside["metric"] == metric)], place, SERIES[0][0])
        panel.axvline(0, color="black", linewidth=0.8)
        panel.set_yticks(range(len(rows)), [*reversed(rows.values())])
        panel.set(title=title, xlabel=xlabel)
    return figure


def draw_pairs(name: str, audit: pd.DataFrame) -> "Figure":
    """How alike any two changes are that improve as much, whatever made them."""
    labels = {
        "in_context": "in context",
        "fine_tuned": "keys and values",
        "C3_query_output": "queries, output",
        "C3_mlp_in": "MLP, first layer",
        "C3_mlp_out": "MLP, second layer",
        "C3_biases_norms": "biases, norms",
        "C3_prefix": "soft prompt",
        "C2": "evolved",
    }
    rows = audit[audit["metric"] == "pair_similarity"]
    means = rows.groupby(["task", "control", "reference"])["value"].mean().groupby(["control", "reference"]).mean()
    matrix = np.full((len(labels), len(labels)), np.nan)
    for (first, second), value in means.items():
        places = sorted((list(labels).index(first), list(labels).index(second)))
        matrix[places[1], places[0]] = value
    figure, axes = panels(
        f"Changes in {name} that improve as much, by any means: how alike are they?",
        1,
        1,
        (7.6, 6.2),
        "Cosine of the attention outputs' changes at the predicting token, mean over layers, queries, draws and tasks.\n"
        "All but the first were trained to the loss of fine-tuning keys and values.",
    )
    image = axes[0][0].imshow(matrix[1:, :-1], cmap="cividis", vmin=0, vmax=1)
    for row, column in np.argwhere(np.isfinite(matrix)):
        value = matrix[row, column]
        axes[0][0].text(column, row - 1, f"{value:.2f}", ha="center", va="center", color="white" if value < 0.5 else "black")
    axes[0][0].set_xticks(range(len(labels) - 1), [*labels.values()][:-1], rotation=40, ha="right")
    axes[0][0].set_yticks(range(len(labels) - 1), [*labels.values()][1:])
    axes[0][0].grid(visible=False)
    figure.colorbar(image, ax=axes[0][0], label="cosine", shrink=0.8)
    return figure


def draw_contrasts(name: str, statistics: pd.DataFrame, significance: pd.DataFrame) -> "Figure":
    """Each contrast with its interval, and what would not have been missed."""
    shown = {control: label for control, label in CONTRASTS.items() if control in set(significance["control"])}
    figure, axes = panels(
        f"Contrasts of the audit of {name}, and the effects that it would have found",
        1,
        1,
        (9.5, 0.3 * len(shown) + 2.0),
        "Bars: mean over tasks and draws with a 95 % interval that resamples both; dots: tasks. Grey: means that a paired t-test misses\n"
        "in one of five runs or more. Filled: different from zero, sign-flip test, corrected for all contrasts (Holm, .05).",
    )
    panel = axes[0][0]
    wide = significance[significance["layer"].isna()].pivot_table("value", "control", "metric")
    for place, control in enumerate(reversed(shown)):
        missed = wide.loc[control, "detectable_effect"]
        panel.barh(place, 2 * missed, left=-missed, height=0.8, color="0.88", zorder=0)
        rows = statistics[statistics["metric"] == control]
        _bar(panel, rows, place, SERIES[0][0])
        is_found = wide.loc[control, "p_holm"] < 0.05
        mean = mean_over_tasks(rows.rename(columns={"seed": "draw"})[["task", "draw", "value"]])
        panel.plot([mean], [place], "o", color=SERIES[0][0], markersize=6, markerfacecolor=SERIES[0][0] if is_found else "white")
    panel.axvline(0, color="black", linewidth=0.8)
    panel.set_yticks(range(len(shown)), [*reversed(shown.values())])
    panel.set(xlabel="difference", ylim=(-0.7, len(shown) - 0.3))
    return figure


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
    last.legend(loc="lower left", fontsize="x-small")
    last.axvline(0, color="black", linewidth=0.8)
    last.set_yticks(range(len(layers)), [*reversed(layers.values())])
    last.set(title="A layer that is gradient descent:\nsimilarity to its fine-tuning", xlabel="cosine", xlim=(-0.5, 1.05))
    return figure
