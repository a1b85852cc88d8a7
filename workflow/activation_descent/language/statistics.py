"""What the claims read: one number for each draw of demonstrations and queries, the mean over a group of tasks.

Tasks are fixed and draws are random, so an interval over draws says how sure a number is for these tasks and this model, and nothing
about other tasks.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from activation_descent.inference import sign_flip_p
from activation_descent.language import STUDY
from activation_descent.records import Row

ALL = "all"  # in a gate table: the mean over the tasks that could be learned from a prompt


def curve(accuracy: pd.DataFrame, labelling: str, number: int, metric: str = "accuracy") -> pd.DataFrame:
    """One point of the accuracy curves as a table draw x task."""
    rows = accuracy[
        (accuracy["labelling"] == labelling) & (accuracy["demonstrations"] == number) & (accuracy["metric"] == metric)
    ]
    return rows.pivot(index="seed", columns="task", values="value")


def gate_table(accuracy: pd.DataFrame, number: int, gate: Mapping[str, float]) -> pd.DataFrame:
    """Whether a model has in-context learning: on each task, and as such, by the mean over the tasks that it could learn from a prompt.

    One task alone can mislead: with labels that say nothing to the model a calibrated guess has the classes right or reversed by luck.

    Args:
        gate: accuracy with `number` demonstrations must exceed the calibrated accuracy without by `gain`, with a one-sided p over draws
            below `level`.

    Returns:
        Columns task (the last row: `ALL`), group, gain, p, passed.
    """
    groups = accuracy.drop_duplicates("task").set_index("task")["group"]
    differences = curve(accuracy, "gold", number) - curve(accuracy, "gold", 0, "calibrated_accuracy")
    learned = learned_tasks(groups)
    differences[ALL] = differences[learned].mean(axis=1)
    rows = []
    for task in differences:
        values = differences[task].to_numpy()
        draws = pd.DataFrame({"task": task, "draw": differences.index, "value": values})
        p = sign_flip_p(draws, np.random.default_rng(0), "greater")  # a test's own noise; the data's draws come from `seeding`
        rows.append(
            {
                "task": task,
                "group": groups[learned[0] if task == ALL else task],
                "gain": values.mean(),
                "p": p,
                "passed": bool(values.mean() >= gate["gain"] and p < gate["level"]),
            }
        )
    return pd.DataFrame(rows)


def learned_tasks(groups: pd.Series) -> pd.Index:
    """The tasks whose demonstrations could teach something that the model never saw: held-out ones, or real sets."""
    return groups.index[groups == ("held_out" if (groups == "held_out").any() else "real")]


def gate_rows(table: pd.DataFrame, variant: str) -> Iterator[Row]:
    """A gate table as rows of records."""
    for row in table.itertuples():
        base = {"study": STUDY, "experiment": "gate", "variant": variant, "task": row.task, "group": row.group}
        for metric, value in (("gate_gain", row.gain), ("gate_p", row.p), ("gate_passed", row.passed)):
            yield base | {"metric": metric, "value": float(value)}


def accuracy_statistics(accuracy: pd.DataFrame, number: int, gate: Mapping[str, float]) -> dict[str, np.ndarray]:
    """Statistics of the accuracy curves, one value a draw.

    Args:
        number: demonstrations at which claims are judged.
        gate: see `gate_table`.
    """
    tasks = accuracy.drop_duplicates("task").set_index("task")
    groups, chance = tasks["group"], 1 / tasks["classes"]
    passed = gate_table(accuracy, number, gate).set_index("task").loc[ALL, "passed"]
    gold, abstract = (curve(accuracy, labelling, number) for labelling in ("gold", "abstract"))
    random, flipped = (curve(accuracy, labelling, number) for labelling in ("random", "flipped"))
    bare = curve(accuracy, "gold", 0)
    calibrated = curve(accuracy, "gold", 0, "calibrated_accuracy")
    nonsense = curve(accuracy, "abstract", 0)

    def mean(table: pd.DataFrame, tasks: pd.Index) -> np.ndarray:
        return table[tasks].mean(axis=1).to_numpy()

    learned = learned_tasks(groups)
    # Where something could be recalled
    known = groups.index[groups == ("seen" if (groups == "seen").any() else "real")]
    above = lambda table, tasks: mean(table, tasks) - chance[tasks].mean()
    return {
        "in_context_accuracy": mean(gold, learned),
        "zero_shot_accuracy": mean(bare, learned),
        "zero_shot_excess": mean(bare, learned) - chance[learned].mean(),
        "in_context_gain": mean(gold - calibrated, learned),
        "gate_passed": np.full(len(gold), float(passed)),
        "known_zero_shot_accuracy": mean(bare, known),
        "known_in_context_accuracy": mean(gold, known),
        "random_label_loss": mean(gold - random, known),
        "flipped_label_accuracy": mean(flipped, known),
        "abstract_label_accuracy": mean(abstract, known),
        "abstract_label_bare_accuracy": mean(nonsense, known),
        "learned_share": above(abstract, known) / np.maximum(above(gold, known), 1e-9),
    }


def quiz_statistics(quiz: pd.DataFrame, number: int) -> dict[str, np.ndarray]:
    """Statistics of the questions, one value a draw; `number` as above."""

    def at(count: int, metric: str) -> np.ndarray:
        rows = quiz[(quiz["demonstrations"] == count) & (quiz["metric"] == metric)]
        return rows.sort_values("seed")["value"].to_numpy()

    statistics = {
        "bare_answer_mass": at(0, "any_answer_mass"),
        "ambiguity_resolved": at(number, "any_answer_mass") - at(0, "any_answer_mass"),
        "known_by_heart": at(number, "told_fact_accuracy"),
        "prompt_overrides": at(0, "overridden"),
    }
    untold = at(number, "untold_fact_accuracy")
    return statistics | ({"untold_by_heart": untold} if len(untold) else {})


def rows(statistics: Mapping[str, np.ndarray], variant: str) -> Iterator[Row]:
    """Statistics as rows of records, one for each metric and draw."""
    for metric, values in statistics.items():
        for draw, value in enumerate(values):
            yield {
                "study": STUDY,
                "experiment": "statistics",
                "variant": variant,
                "seed": draw,
                "metric": metric,
                "value": float(value),
            }
