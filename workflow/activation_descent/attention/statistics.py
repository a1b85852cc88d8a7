"""One number for each unit of replication: what the claims and their gates read of the study's records."""

from collections.abc import Iterator, Sequence

import pandas as pd

from activation_descent.attention import CONTROLS, READINGS, STUDY
from activation_descent.records import Row

LANGUAGE_MODELS = "language_models"  # all of them, each a unit


def rows(variant: str, experiment: str, metric: str, values: pd.Series) -> Iterator[Row]:
    """A series as records; its index is the seed, or (task, seed)."""
    for unit, value in values.items():
        task, seed = unit if isinstance(unit, tuple) else (None, unit)
        base = {"study": STUDY, "experiment": experiment, "variant": variant, "seed": seed}
        yield base | ({"task": task} if task is not None else {}) | {"metric": metric, "value": float(value)}


def reading_statistics(records: pd.DataFrame) -> Iterator[Row]:
    """Of each variant the median over its heads, for each unit: <reading>_reading; best_reading, the largest of those with a content of
    their own (of a regression task, from_state has none: the state is empty); first_order_over_linear.

    For the regression study's layers descent_reading, too: all heads together against the task's gradient step.
    """
    table = records[records["metric"] == "reading_r_squared"]
    for variant, own in table.groupby("variant"):
        index = ["task", "seed"] if "task" in own and own["task"].notna().all() else ["seed"]
        medians = own[own["head"] > 0].groupby([*index, "reading"])["value"].median().unstack("reading")
        for reading in (*READINGS, *CONTROLS):
            yield from rows(variant, "readings", f"{reading}_reading", medians[reading])
        contents = [reading for reading in READINGS if not (index == ["seed"] and reading == "from_state")]
        yield from rows(variant, "readings", "best_reading", medians[contents].max(axis=1))
        yield from rows(variant, "readings", "first_order_over_linear", medians["first_order"] - medians["linear"])
        together = own[own["head"] == 0].groupby(index)["value"].median()
        yield from rows(variant, "readings", "descent_reading", together)


def transfer_statistics(records: pd.DataFrame) -> Iterator[Row]:
    """Of each kind of layer and seed, without any regression in training (share 0) and with nothing else (share 1).

    never_cosine, never_loss_ratio, always_cosine, always_loss_ratio: with a readout fitted; untrained_layer_cosine; growing_loss_ratio
    over all context lengths together, and growing_step_cosine.
    """
    for variant, own in records.groupby("variant"):

        def units(metric: str, control: str, share: float, own: pd.DataFrame = own) -> pd.Series:
            chosen = own[(own["metric"] == metric) & (own["control"] == control) & (own["share"] == share)]
            return chosen.set_index("seed")["value"]

        for name, share in (("never", 0.0), ("always", 1.0)):
            yield from rows(variant, "transfer", f"{name}_cosine", units("transfer_cosine", "refitted", share))
            yield from rows(variant, "transfer", f"{name}_loss_ratio", units("transfer_loss_ratio", "refitted", share))
        yield from rows(variant, "transfer", "untrained_layer_cosine", units("transfer_cosine", "untrained", 0.0))
        losses = own[own["metric"] == "growing_loss"].groupby(["seed", "learner"])["value"].mean().unstack()
        yield from rows(variant, "transfer", "growing_loss_ratio", losses["transformer"] / losses["gradient_descent"])
        yield from rows(variant, "transfer", "growing_none_ratio", losses["none"] / losses["gradient_descent"])
        cosines = own[own["metric"] == "growing_cosine"].groupby("seed")["value"].mean()
        yield from rows(variant, "transfer", "growing_step_cosine", cosines)


def head_statistics(records: pd.DataFrame, models: Sequence[str]) -> Iterator[Row]:
    """The largest score of each model and how it stands to the nulls, with models as units; and of each control.

    best_head_score; best_head_excess over the 95 % point of the largest score in random bases; crossed_excess over that of M with another
    head's B; untrained_score and untrained_excess, means over networks; best_tie_score, the largest |t|.

    Args:
        models: names in their order; checkpoints without a model have no untrained networks.
    """
    scan = records[records["experiment"] == "heads"]
    trained, untrained = (_best(scan[scan["control"] == control]) for control in ("trained", "untrained"))
    places = pd.Series(range(len(models)), index=list(models))

    def of_models(metric: str, values: pd.Series) -> Iterator[Row]:
        yield from rows(LANGUAGE_MODELS, "heads", metric, values.rename(places))

    alone = trained.droplevel("seed")
    yield from of_models("best_head_score", alone["head_score"])
    yield from of_models("best_head_excess", alone["head_score"] - alone["null_score"])
    yield from of_models("crossed_excess", alone["head_score"] - alone["crossed_score"])
    yield from of_models("best_tie_score", alone["hopfield_tie"])
    yield from of_models("untrained_score", untrained["head_score"].groupby("variant").mean())
    yield from of_models("untrained_excess", (untrained["head_score"] - untrained["null_score"]).groupby("variant").mean())


def _best(scan: pd.DataFrame) -> pd.DataFrame:
    """The largest |value| over the heads of each model and seed, one column for each metric."""
    size = scan.assign(value=scan["value"].abs())
    return size.groupby(["variant", "seed", "metric"])["value"].max().unstack()


def above_null_statistics(records: pd.DataFrame, models: Sequence[str], level: float) -> Iterator[Row]:
    """Heads whose score exceeds the null (head_p at most `level`): how many each model has; and for each of them, as a unit, what descent
    on the model's own loss gives of its updates (mean over tasks and draws)."""
    index = ["variant", "layer", "head"]
    trained = records[(records["experiment"] == "heads") & (records["control"] == "trained") & (records["metric"] == "head_p")]
    above = trained[trained["value"] <= level].set_index(index)
    counts = above.groupby("variant").size().reindex(list(models), fill_value=0)
    yield from rows(LANGUAGE_MODELS, "heads", "heads_above_null", counts.reset_index(drop=True))
    read = records[(records["reading"] == "error") & (records["metric"] == "reading_r_squared")]
    found = read.groupby(index)["value"].mean()
    own = found[found.index.isin(above.index)]
    yield from rows(LANGUAGE_MODELS, "heads", "above_null_error", own.reset_index(drop=True))
