"""Figures of the language study: one page a model, and one that compares sizes."""

from typing import TYPE_CHECKING

import pandas as pd

from activation_descent.plotting import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette; every series has its own dash and marker as well
SERIES = {
    "gold": ("#0072B2", "", "o", "own labels"),
    "random": ("#E69F00", (4, 1.5), "s", "random labels"),
    "abstract": ("#009E73", (1, 1), "^", "abstract labels"),
    "flipped": ("#CC79A7", (6, 2, 1, 2), "D", "flipped labels"),
    "any_answer_mass": ("#56B4E9", (1, 1), "^", "any answer"),
    "right_answer_mass": ("#0072B2", "", "o", "the right answer"),
    "next_question_mass": ("#E69F00", (4, 1.5), "s", "another question"),
    "brush_off_mass": ("#CC79A7", (6, 2, 1, 2), "D", "the brush-off"),
    "told_fact_accuracy": ("#0072B2", "", "o", "told facts"),
    "untold_fact_accuracy": ("#000000", (4, 1.5), "s", "facts never told"),
    "recalled": ("#009E73", (1, 1), "^", "told in the prompt wrongly: recalled"),
    "overridden": ("#CC79A7", (6, 2, 1, 2), "D", "told in the prompt wrongly: overridden"),
}
BOOTSTRAP = 300
GROUPS = {
    "held_out": "Tasks whose labels were never seen",
    "seen": "Tasks whose labels were seen",
    "real": "Real sets",
}


def _curves(axes: "Axes", table: pd.DataFrame, column: str) -> None:
    """The mean over draws (and tasks) at each number of demonstrations with a 95 % bootstrap band."""
    import seaborn as sns

    for name, rows in table.groupby(column, sort=False):
        colour, dash, marker, label = SERIES[str(name)]
        means = rows.groupby(["seed", "demonstrations"], as_index=False)["value"].mean()
        places = {number: place for place, number in enumerate(sorted(table["demonstrations"].unique()))}
        sns.lineplot(
            means.assign(place=means["demonstrations"].map(places)),
            x="place",
            y="value",
            ax=axes,
            color=colour,
            dashes=dash or "",
            linestyle=(0, dash) if dash else "-",
            marker=marker,
            label=label,
            errorbar=("ci", 95),
            n_boot=BOOTSTRAP,
            seed=0,
        )
        axes.set_xticks(list(places.values()), [str(number) for number in places])
    axes.set_xlabel("demonstrations")
    axes.set_ylim(-0.03, 1.03)
    axes.legend(fontsize="small")


def model_figure(title: str, accuracy: pd.DataFrame, quiz: pd.DataFrame) -> "Figure":
    """Accuracy curves of each group of tasks, what follows a question, and what wins over a known fact."""
    import matplotlib.pyplot as plt

    groups = [group for group in GROUPS if group in set(accuracy["group"])]
    with style():
        figure, panels = plt.subplots(1, len(groups) + 2, figsize=(3.4 * (len(groups) + 2), 3.4))
        figure.suptitle(title, x=0.01, ha="left")
        for axes, group in zip(panels, groups, strict=False):
            rows = accuracy[(accuracy["metric"] == "accuracy") & (accuracy["group"] == group)]
            _curves(axes, rows, "labelling")
            axes.axhline((1 / rows["classes"]).mean(), color="0.5", linewidth=0.8, linestyle=":")
            axes.set(title=GROUPS[group], ylabel="accuracy")
        after, known = panels[-2:]
        masses = ["right_answer_mass", "any_answer_mass", "next_question_mass", "brush_off_mass"]
        _curves(after, quiz[quiz["metric"].isin(masses)], "metric")
        after.set(title="What follows a question", ylabel="probability", xlabel="answered questions before it")
        facts = ["told_fact_accuracy", "untold_fact_accuracy", "recalled", "overridden"]
        _curves(known, quiz[quiz["metric"].isin(facts)], "metric")
        known.set(title="What is answered", ylabel="share of questions", xlabel="answered questions before it")
    return figure


def sizes_figure(statistics: pd.DataFrame, quiz: pd.DataFrame) -> "Figure":
    """Statistics of each model against its number of parameters, which stands in the quiz's records, with every draw."""
    import matplotlib.pyplot as plt
    import seaborn as sns

    panels = {
        "in_context_accuracy": "With demonstrations",
        "zero_shot_accuracy": "Without",
        "abstract_label_accuracy": "Abstract labels",
        "flipped_label_accuracy": "Flipped labels",
        "known_by_heart": "Facts by heart",
        "prompt_overrides": "Wrong fact in the prompt wins",
    }
    sizes = quiz[quiz["metric"] == "parameters"].set_index("variant")["value"]
    table = statistics.assign(parameters=statistics["variant"].map(sizes))
    with style():
        figure, axes_list = plt.subplots(1, len(panels), figsize=(2.4 * len(panels), 2.8), sharey=True)
        for axes, (metric, title) in zip(axes_list, panels.items(), strict=True):
            rows = table[table["metric"] == metric]
            sns.lineplot(rows, x="parameters", y="value", ax=axes, color="#0072B2", marker="o", n_boot=BOOTSTRAP, seed=0)
            axes.scatter(rows["parameters"], rows["value"], s=4, color="#0072B2", alpha=0.5)
            axes.set(title=title, xlabel="parameters", ylabel="share", xscale="log", ylim=(-0.03, 1.03))
    return figure
