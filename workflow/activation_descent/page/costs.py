"""What a run cost, from Snakemake's benchmark files: by job, by rule and by study, and what to cut first."""

import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

JUDGING = "judging"  # what belongs to no study

# The settings that make a rule cheaper, the first ones with the least harm
KNOBS = {
    "train_language_model": ("language.models", "language.training.steps"),
    "train_regression": ("regression.figures", "regression.published.seeds", "regression.published.steps"),
    "train_regression_learners": ("regression.learners.seeds", "regression.learners.steps"),
    "compare_regression": ("regression.probed", "regression.evaluation.probe_tasks", "regression.evaluation.sweep_tasks"),
    "plot_regression": ("regression.figures",),
    "probe_language": ("language.evaluation.queries", "language.evaluation.draws"),
    "probe_finetuning": ("finetuning.models", "finetuning.sampling.draws"),
    "probe_finetuning_inside": ("finetuning.inside.draws", "finetuning.inside.orders"),
    "train_finetuning_momentum": ("finetuning.momentum.seeds", "finetuning.momentum.training"),
    "train_attention_layers": ("attention.layers.steps", "attention.layers.shares"),
    "train_attention_toy_problems": ("attention.toy_problems.rates", "attention.toy_problems.steps"),
    "probe_attention_heads": ("attention.models", "attention.scan.bases"),
    "train_reasoning_knapsack": ("reasoning.knapsack.training.layers", "reasoning.knapsack.training.seeds"),
    "train_reasoning_logic": ("reasoning.logic.steps", "reasoning.logic.seeds"),
    "train_lens_body": ("lens.bodies.steps", "lens.bodies.seeds"),
    "probe_lens": ("lens.models", "lens.measurement.steps"),
    "train_lens_vision": ("lens.vision.lens_steps", "lens.vision.seeds"),
}
MOST = 0.5  # of the CPU time is what "first" means


def read_costs(paths: Sequence[str], studies: Sequence[str]) -> pd.DataFrame:
    """One row a job, dearest first: study, rule, variant, seconds, cpu (s), memory (MB, the largest resident set).

    Jobs that end before Snakemake has looked at them have no cpu and no memory, and count as none.

    Args:
        paths: Snakemake's benchmark files, `<rule>/<variant>.tsv` or `<rule>.tsv` in one folder.
        studies: their names, one of which is part of a rule's name; a rule with none judges.
    """
    folder, rows = os.path.commonpath(paths), []
    for path in map(Path, paths):
        first = pd.read_csv(path, sep="\t").apply(pd.to_numeric, errors="coerce").fillna(0.0).iloc[0]
        rule, *variant = path.relative_to(folder).with_suffix("").parts
        rows.append(
            {
                "study": next((study for study in studies if study in rule), JUDGING),
                "rule": rule,
                "variant": " · ".join(variant),
                "seconds": float(first["s"]),
                "cpu": float(first.get("cpu_time", 0.0)),
                "memory": float(first["max_rss"]),
            }
        )
    return pd.DataFrame(rows).sort_values(["cpu", "rule", "variant"], ascending=[False, True, True], ignore_index=True)


def summarise(costs: pd.DataFrame, by: str) -> pd.DataFrame:
    """One row a group, dearest first: jobs; sum and maximum of seconds, cpu and memory; share of all CPU time.

    A sum of memory is what all jobs would take at once.

    Args:
        by: "rule" or "study".
    """
    groups = costs.groupby(by, sort=False)
    table = groups[["seconds", "cpu", "memory"]].agg(["sum", "max"])
    table.columns = ["_".join(column) for column in table.columns]
    table = table.assign(
        jobs=groups.size(), study=groups["study"].first(), share=table["cpu_sum"] / max(costs["cpu"].sum(), 1e-9)
    )
    return table.sort_values("cpu_sum", ascending=False, kind="stable").rename_axis("name").reset_index()


def cut_first(rules: pd.DataFrame) -> list[str]:
    """The dearest rules that together take `MOST` of the CPU time.

    Args:
        rules: from `summarise`, by rule.
    """
    before = rules["share"].cumsum() - rules["share"]
    return rules.loc[before < MOST, "name"].tolist()
