"""What the audit can and cannot tell: tests of every contrast, corrected for their number, and the smallest effects that it would find.

Units are tasks and draws. A contrast is a statistic whose null is zero. Beside a null result stands what would not have been missed.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from activation_descent.finetuning import STUDY, agreement
from activation_descent.finetuning.statistics import Units
from activation_descent.inference import equivalence_p, holm, max_t, minimal_detectable_effect, sign_flip_p

EXPERIMENT = "significance"
MARGIN, MAP_MARGIN = 0.02, 0.04  # within which a similarity, and one of attention maps, counts as equal to zero
CONTRASTS = {  # and how each is called in figures
    "partial_similarity": "partial cosine (primary)",
    "odd_similarity": "turns with the step's sign (primary)",
    "raw_similarity": "without normalisation",
    "published_over_floor": "SimAOU above its floor",
    "published_over_ascent": "SimAOU above gradient ascent",
    "published_over_untrained": "SimAOU above an untrained network",
    "over_evolution": "above evolution without a gradient",
    "over_parameters": "above other parameters",
    "over_other_tasks": "above another task",
    "over_wrong_labels": "above wrong labels",
    "over_other_demonstrations": "above other demonstrations",
    "over_other_pairs": "above other improving pairs",
    "similarity_over_shuffled": "above other queries' changes",
    "label_contrast_over_null": "what labels change, above chance",
    "diagonal_dominance": "own layer above other layers",
    "attention_gain": "attention maps, after - before",
    "attention_centred_gain": "the same, centred",
    "kendall_over_random": "Kendall's tau above random",
    "kendall_over_mismatched": "dual form above another query's",
    "recovered_over_chance": "Rec2FTP above chance",
    "direct_over_dilution": "demonstrations' values above dilution",
    "error_signal_excess": "values as error signals",
    "contrast_error_signal_excess": "the same, label contrast",
    "order_correlation": "orders, in context and fine-tuned",
    "gradient_alignment_over_wrong_labels": "oracle along the gradient",
}


def significance_records(
    statistics: Mapping[str, Units], audit: pd.DataFrame, variant: str, rng: np.random.Generator
) -> Iterator[dict[str, Any]]:
    """For each contrast of `CONTRASTS` that there is, for each layer's raw similarity, and for all corrections together:

    p_value             sign-flip test of all units, tasks with equal weights
    p_holm              corrected for all contrasts (Holm 1979)
    p_equivalence       two one-sided tests: is it within the margin of zero?
    detectable_effect   smallest mean that the paired t-test finds with a power of .8
    p_max_t             of a layer's raw similarity of fine-tuning, corrected for all layers (Westfall and Young 1993)
    recovery_odds_ratio, p_recovery, recovered_low, recovered_high
                        of the pooled corrections: Fisher's exact test, and Wilson's interval of Rec2FTP; pooled queries of one cell
                        are no replications, so both look surer than they are
    """
    row = {"study": STUDY, "experiment": EXPERIMENT, "variant": variant}
    found: dict[str, dict[str, float]] = {}
    for name in CONTRASTS:
        known = statistics.get(name, pd.Series(dtype=float)).replace([np.inf, -np.inf], np.nan).dropna()
        if len(known) > 1:
            units = known.rename("value").reset_index().rename(columns={"seed": "draw"})
            margin = MAP_MARGIN if name.startswith("attention") else MARGIN
            found[name] = {
                "p_value": sign_flip_p(units, rng),
                "p_equivalence": equivalence_p(units, margin, rng),
                "detectable_effect": minimal_detectable_effect(float(units["value"].std()), len(units)),
            }
    corrected = holm(np.array([numbers["p_value"] for numbers in found.values()]))
    for (name, numbers), p in zip(found.items(), corrected, strict=True):
        for metric, value in {**numbers, "p_holm": float(p)}.items():
            yield row | {"control": name, "metric": metric, "value": value}
    for layer, p in _layers(audit, rng).items():
        yield row | {"control": "fine_tuned", "layer": layer, "metric": "p_max_t", "value": p}
    for metric, value in _recovery(audit).items():
        if np.isfinite(value):
            yield row | {"control": "fine_tuned", "metric": metric, "value": value}


def _layers(audit: pd.DataFrame, rng: np.random.Generator) -> "pd.Series[float]":
    own = (
        (audit["control"] == "fine_tuned") & (audit["metric"] == "raw") & (audit["position"] == "query") & audit["layer"].notna()
    )
    units = audit[own].rename(columns={"seed": "draw"})[["task", "draw", "layer", "value"]]
    counts = units.groupby("layer")["value"].count()
    complete = counts.index[counts == counts.max()]  # a layer that does not move has no direction
    return max_t(units[units["layer"].isin(complete)], "layer", rng)


def _recovery(audit: pd.DataFrame) -> dict[str, float]:
    own = audit[audit["control"] == "fine_tuned"].groupby("metric")["value"].sum()
    both, tuned, shown, neither = (int(own[f"recovered_{name}"]) for name in ("both", "fine_tuned", "in_context", "neither"))
    ratio, p = agreement.odds_ratio(np.array([[both, tuned], [shown, neither]]))
    low, high = agreement.wilson_interval(both, both + tuned)
    return {"recovery_odds_ratio": ratio, "p_recovery": p, "recovered_low": low, "recovered_high": high}
