"""Figures of the language study: one for each model, one that compares sizes, one of pretraining."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from activation_descent.plotting import BOOTSTRAP, SERIES, curve, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABELLINGS = {
    "gold": "own labels",
    "random": "random labels",
    "abstract": "words without a meaning as labels",
    "flipped": "flipped labels (right: the query's own)",
}
AFTER_A_QUESTION = {
    "right_answer_mass": "the right answer",
    "any_answer_mass": "any answer",
    "next_question_mass": "another question",
    "brush_off_mass": "the brush-off",
}
ANSWERED = {
    "told_fact_accuracy": "facts of the corpus: right",
    "untold_fact_accuracy": "facts that no document told: right",
    "recalled": "answered wrongly in the prompt: still right",
    "overridden": "answered wrongly in the prompt: that answer",
}
GROUPS = {
    "held_out": "Tasks whose labels the corpus never explains",
    "seen": "Tasks whose labels the corpus explains",
    "real": "Real sets",
}
MARKERS = ("o", "s", "^", "D")
FOOTER = (
    "Means over {tasks} and {draws} draws of demonstrations and queries. Bands and bars: 95 % bootstrap interval of the mean over draws. "
    "All curves of a draw share their queries."
)


def draw_model(name: str, accuracy: pd.DataFrame, quiz: pd.DataFrame, gate: pd.DataFrame, judged: int) -> "Figure":
    """Accuracy against demonstrations for each group of tasks, each task alone, what follows a question, and what is answered.

    Args:
        name: of the model, as it was asked for.
        gate: records of the gate, one row a task and metric.
        judged: the number of demonstrations that the gate and the claims look at.
    """
    groups = [group for group in GROUPS if group in set(accuracy["group"])]
    draws, tasks = accuracy["seed"].nunique(), accuracy["task"].nunique()
    parameters = quiz.loc[quiz["metric"] == "parameters", "value"].iloc[0]
    figure, axes = panels(
        f"What {name} ({_short(parameters)} parameters) learns from its prompt, and what it knows by heart",
        1,
        len(groups) + 3,
        (4.3 * (len(groups) + 3), 4.6),
        FOOTER.format(tasks=f"{tasks} tasks", draws=draws),
    )
    row = axes[0]
    curves = accuracy[accuracy["metric"] == "accuracy"]
    for panel, group in zip(row, groups, strict=False):
        rows = curves[curves["group"] == group]
        _by_demonstrations(panel, rows, "labelling", LABELLINGS)
        panel.axhline((1 / rows["classes"]).mean(), color="0.4", linewidth=0.8, linestyle=":", label="chance")
        panel.set(title=GROUPS[group], xlabel="demonstrations in the prompt", ylabel="accuracy", ylim=(-0.03, 1.5))
        panel.legend(title="demonstrations carry", loc="upper left", alignment="left")
    _each_task(row[-3], accuracy, gate, judged)
    for panel, (names, title, ylabel) in zip(
        row[-2:],
        (
            (AFTER_A_QUESTION, "What follows a question", "probability"),
            (ANSWERED, "What is answered", "share of questions"),
        ),
        strict=True,
    ):
        _by_demonstrations(panel, quiz[quiz["metric"].isin(names)], "metric", names)
        panel.set(title=title, xlabel="answered questions before it", ylabel=ylabel, ylim=(-0.03, 1.5))
        panel.legend(title=None, loc="upper left")
    return figure


def _short(number: float) -> str:
    return f"{number / 1e6:,.2f} M" if number < 1e7 else f"{number / 1e6:,.0f} M"


def _by_demonstrations(axes: "Axes", table: pd.DataFrame, column: str, names: Mapping[str, str]) -> None:
    """One series for each value of a column: the mean over tasks and draws at each number of demonstrations, evenly spaced."""
    numbers = sorted(table["demonstrations"].unique())
    places = {number: place for place, number in enumerate(numbers)}
    for (name, label), (colour, dashes), marker in zip(names.items(), SERIES[1:], MARKERS, strict=False):
        rows = table[table[column] == name]
        if len(rows):
            means = rows.groupby(["seed", "demonstrations"], as_index=False)["value"].mean()
            curve(
                axes,
                means.assign(place=means["demonstrations"].map(places)),
                "place",
                label,
                colour,
                dashes,
                marker,
                each_seed=False,
            )
    axes.set_xticks(list(places.values()), [f"{number:g}" for number in numbers])
    axes.set_yticks(np.linspace(0, 1, 6))


def _each_task(axes: "Axes", accuracy: pd.DataFrame, gate: pd.DataFrame, judged: int) -> None:
    """Accuracy of each task without and with demonstrations; tasks that pass the gate are ticked."""
    order = accuracy.drop_duplicates("task").sort_values(["group", "task"], ascending=[True, False])["task"].tolist()
    shown = {
        "zero-shot": ("gold", 0, "accuracy"),
        "zero-shot, calibrated": ("gold", 0, "calibrated_accuracy"),
        f"{judged} demonstrations": ("gold", judged, "accuracy"),
        f"{judged}, words without a meaning": ("abstract", judged, "accuracy"),
    }
    for offset, ((label, (labelling, number, metric)), (colour, _), marker) in enumerate(
        zip(shown.items(), (SERIES[5], SERIES[0], SERIES[1], SERIES[3]), MARKERS, strict=False)
    ):
        rows = accuracy[
            (accuracy["labelling"] == labelling) & (accuracy["demonstrations"] == number) & (accuracy["metric"] == metric)
        ]
        wide = rows.pivot(index="task", columns="seed", values="value").loc[order].to_numpy()
        resampled = np.random.default_rng(0).integers(wide.shape[1], size=(BOOTSTRAP, wide.shape[1]))
        low, high = np.percentile(wide[:, resampled].mean(2), [2.5, 97.5], axis=1)
        mean, y = wide.mean(1), np.arange(len(order)) + 0.15 * (1.5 - offset)
        axes.errorbar(
            mean,
            y,
            xerr=[np.maximum(mean - low, 0), np.maximum(high - mean, 0)],
            fmt=marker,
            color=colour,
            markersize=4,
            linewidth=0.8,
            label=label,
        )
    passed = gate[gate["metric"] == "gate_passed"].set_index("task")["value"]
    axes.set_yticks(range(len(order)), [f"{task} {'✓' if passed[task] else '–'}" for task in order])
    axes.set(
        title="Each task (✓: passes the gate)",
        xlabel="accuracy",
        xlim=(-0.03, 1.03),
        ylim=(-0.6, len(order) + 0.32 * len(order)),
    )
    axes.legend(loc="upper left", ncols=2, fontsize="x-small")


def draw_sizes(statistics: pd.DataFrame, quiz: pd.DataFrame) -> "Figure":
    """Statistics of each embedded model against its number of parameters, which stands in the quiz's records."""
    shown = {
        "in_context_accuracy": "Labels never explained:\naccuracy with demonstrations",
        "zero_shot_accuracy": "Labels never explained:\naccuracy without",
        "abstract_label_accuracy": "Words without a meaning\nas labels: accuracy",
        "flipped_label_accuracy": "Flipped labels:\nthe query's own label wins",
        "known_by_heart": "Facts of the corpus:\nanswered rightly",
        "prompt_overrides": "A fact answered wrongly in the\nprompt: that answer wins",
    }
    figure, axes = panels(
        "What embedded language models of several sizes learn from a prompt and recall",
        1,
        len(shown),
        (2.9 * len(shown), 3.6),
        "One model for each size. Thin lines: draws of demonstrations and queries. Bands: 95 % bootstrap interval of their mean.\n"
        "Dotted: chance.",
    )
    sizes = quiz[quiz["metric"] == "parameters"].set_index("variant")["value"]
    table = statistics.assign(parameters=statistics["variant"].map(sizes))
    for panel, (metric, title), (colour, dashes) in zip(axes[0], shown.items(), SERIES, strict=True):
        curve(panel, table[table["metric"] == metric], "parameters", title, colour, dashes, "o")
        panel.set(title=title, xlabel="parameters", ylabel="share", xscale="log", ylim=(-0.03, 1.03))
        panel.set_xticks(sorted(sizes), [_short(size) for size in sorted(sizes)])
        panel.minorticks_off()
        if metric.endswith("accuracy"):
            panel.axhline(0.5, color="0.4", linewidth=0.8, linestyle=":")
    return figure


def draw_pretraining(training: pd.DataFrame, settings: Mapping[str, Any]) -> "Figure":
    """Loss and what the gate watches against the tokens read, for each embedded size.

    Args:
        settings: training settings by size.
    """
    shown = {
        "training_loss": ("Loss of the next token", "cross-entropy (nats / token)"),
        "in_context_accuracy": ("In context: labels never explained,\n8 demonstrations", "accuracy"),
        "zero_shot_accuracy": ("The same without demonstrations", "accuracy"),
        "fact_accuracy": ("Facts of the corpus", "share answered rightly"),
    }
    figure, axes = panels(
        "Pretraining of the embedded language models by next-token prediction",
        1,
        len(shown),
        (4.0 * len(shown), 4.0),
        "One run for each size; measured after each block of training, accuracies on documents that no step trains on. Dotted: chance.\n"
        "Where the rows of a stage are too short for 8 demonstrations there are fewer.",
    )
    for (size, rows), (colour, dashes), marker in zip(training.groupby("variant", sort=False), SERIES, MARKERS, strict=False):
        tokens = settings[size]["rows"] * settings[size]["stages"][-1]["length"] / 1e6
        for panel, metric in zip(axes[0], shown, strict=True):
            line = rows[rows["metric"] == metric].sort_values("step")
            (drawn,) = panel.plot(line["step"] * tokens, line["value"], color=colour, marker=marker, markersize=3, label=size)
            if dashes:
                drawn.set_dashes(dashes)
    for panel, (metric, (title, ylabel)) in zip(axes[0], shown.items(), strict=True):
        panel.set(title=title, xlabel="tokens read (millions)", ylabel=ylabel)
        if metric in ("in_context_accuracy", "zero_shot_accuracy"):
            panel.axhline(0.5, color="0.4", linewidth=0.8, linestyle=":")
        if metric != "training_loss":
            panel.set_ylim(-0.03, 1.03)
        panel.legend(title=None)
    return figure
