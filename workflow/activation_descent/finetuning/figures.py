"""Figures of the fine-tuning audit. Means over tasks of the means over their draws; intervals resample tasks and draws."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

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
            bar(panel, rows[rows["control"] == control], row, groups[group][0])
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


def bar(axes: "Axes", rows: pd.DataFrame, y: float, colour: str) -> None:
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
    odds = {
        "fine_tuned": "fine-tuned, keys and values",
        "ceiling_in_context": "in context, other demonstrations",
        "C4": "fine-tuned on another task (C4)",
        "C5_wrong": "fine-tuned on wrong labels (C5)",
        "C2": "evolved without a gradient (C2)",
        "C3_query_output": "queries and output (C3)",
        "C3_mlp_out": "MLP, second layer (C3)",
        "C3_biases_norms": "biases and norms (C3)",
    }
    figure, axes = panels(
        f"Predictions of {name}, in context and fine-tuned",
        1,
        3,
        (16.5, 3.8),
        FOOTER.format(
            scope="Middle: of the queries that the model alone gets wrong and fine-tuning right, how many are right in context.\n"
            "Right: correlation over queries with the label logits in context, those of the model alone out of both."
        ),
    )
    rows = audit[audit["position"].isna()]
    for row, (control, _) in enumerate(reversed(accuracies.items())):
        bar(axes[0][0], rows[(rows["control"] == control) & (rows["metric"] == "accuracy")], row, SERIES[1][0])
    axes[0][0].set_yticks(range(len(accuracies)), [*reversed(accuracies.values())])
    axes[0][0].set(title="Accuracy", xlabel="share of queries", xlim=(-0.02, 1.02))
    for row, ((control, metric), _) in enumerate(reversed(recovered.items())):
        bar(axes[0][1], rows[(rows["control"] == control) & (rows["metric"] == metric)], row, SERIES[2][0])
    axes[0][1].set_yticks(range(len(recovered)), [*reversed(recovered.values())])
    axes[0][1].set(title="Recall of corrections", xlabel="share", xlim=(-0.02, 1.02))
    for row, (control, _) in enumerate(reversed(odds.items())):
        bar(axes[0][2], rows[(rows["control"] == control) & (rows["metric"] == "logit_agreement")], row, SERIES[0][0])
    axes[0][2].axvline(0, color="black", linewidth=0.8)
    axes[0][2].set_yticks(range(len(odds)), [*reversed(odds.values())])
    axes[0][2].set(title="Label odds, beyond the model's own", xlabel="correlation")
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
        bar(panel, rows, place, SERIES[0][0])
        is_found = wide.loc[control, "p_holm"] < 0.05
        mean = mean_over_tasks(rows.rename(columns={"seed": "draw"})[["task", "draw", "value"]])
        panel.plot([mean], [place], "o", color=SERIES[0][0], markersize=6, markerfacecolor=SERIES[0][0] if is_found else "white")
    panel.axvline(0, color="black", linewidth=0.8)
    panel.set_yticks(range(len(shown)), [*reversed(shown.values())])
    panel.set(xlabel="difference", ylim=(-0.7, len(shown) - 0.3))
    return figure
