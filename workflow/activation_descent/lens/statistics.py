"""What the claims read of one subject: one number for each seed."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from activation_descent.lens import CARRIED, MODEL, ROTATED, STUDY, gains

EXPERIMENT = "statistics"
GAINS = ("forward_gain", "calibrated_gain", "forward_gain_cross_entropy", "calibrated_gain_cross_entropy")


def lens_statistics(table: pd.DataFrame, variant: str) -> Iterator[dict[str, Any]]:
    """Statistics of each seed, see `records.lens`. Ratios are left out for a seed whose model knows no more than mean frequencies.

    Args:
        table: records of `measure.lens_records` and `measure.path_records`.
    """
    for seed, own in table.groupby("seed"):
        base = {"study": STUDY, "experiment": EXPERIMENT, "variant": variant, "seed": seed}
        for metric, value in seed_statistics(own).items():
            if np.isfinite(value):
                yield base | {"metric": metric, "value": value}


def seed_statistics(own: pd.DataFrame) -> dict[str, float]:
    """Statistics of one seed."""
    prior = _one(own, "prior_kl")
    found = {"prior_kl": prior}
    kl = {name: _by_layer(own, *name) for name in own[own["metric"] == "lens_kl"].groupby(["lens", "states"]).groups}
    tuned, shared = kl["tuned", MODEL], kl["shared", MODEL]
    found["divergence_fall"] = (tuned[0] - tuned[-1]) / prior if prior >= gains.KNOWING else np.nan
    if prior >= gains.KNOWING:
        found |= _information(prior, kl) | _penalties(own, prior)
        for states, prefix in ((MODEL, ""), (CARRIED, "carried_")):
            rows = own[(own["states"] == states) & own["metric"].isin(GAINS)].set_index("metric")["value"]
            found |= {f"{prefix}{metric}": value for metric, value in rows.items()}
    found["shared_cost"] = float((shared - tuned).mean())
    found |= _paths(own)
    return found


def _information(prior: float, kl: dict[tuple[str, str], np.ndarray]) -> dict[str, float]:
    """Shares of what lenses of each layer's own read, read by others; of carried-along states, of what their own lenses read.

    A share of lenses that were not fitted is not there.
    """
    own, every, later = ("tuned", MODEL), slice(None), slice((len(kl["tuned", MODEL]) + 1) // 2, None)
    shares = {
        "shared": (("shared", MODEL), own, every),
        "rotated": (("shared", ROTATED), own, every),
        "carried": (("shared", CARRIED), ("tuned", CARRIED), every),
        "odd": (("shared_even", MODEL), own, slice(1, None, 2)),
        "later": (("prefix", MODEL), own, later),
        **{kind: ((kind, MODEL), own, every) for kind in ("logit", "bias", "shared_bias", "low_rank")},
    }
    found = {
        f"{name}_information": gains.shared_information(prior, kl[read][layers], kl[against][layers])
        for name, (read, against, layers) in shares.items()
        if read in kl and against in kl
    }
    found["common_information"] = found["shared_information"] - found["rotated_information"]
    return found


def _penalties(own: pd.DataFrame, prior: float) -> dict[str, float]:
    """What is said of the heatmap: how large penalties are, and whether they grow with distance."""
    from scipy.stats import spearmanr

    matrix = transfer_matrix(own, "transfer_cross_entropy")
    divergence = transfer_matrix(own, "transfer_divergence")
    layers = len(matrix)
    elsewhere = ~np.eye(layers, dtype=bool)
    distance = np.abs(np.subtract.outer(np.arange(layers), np.arange(layers)))
    penalty = gains.penalty(matrix)
    known = np.broadcast_to(prior - gains.diagonal(divergence)[None], matrix.shape)
    forward = np.triu(elsewhere)
    forward[0] = False
    gained = gains.improvement(divergence) - gains.penalty(divergence)
    found = {
        "mean_penalty": float(penalty[elsewhere].mean()),
        "penalty_share": float(gains.penalty(divergence)[elsewhere].sum() / known[elsewhere].sum()),
        "forward_penalty_share": float(gains.penalty(divergence)[forward].sum() / known[forward].sum()) if layers > 2 else np.nan,
        "gaining_cells": float((gained[forward] > 0).mean()) if layers > 2 else np.nan,
    }
    if layers > 2:  # with two layers there is one distance
        found["penalty_distance"] = float(spearmanr(distance[elsewhere], penalty[elsewhere]).statistic)
    return found


def _paths(own: pd.DataFrame) -> dict[str, float]:
    """Means over layers."""
    paths = own[own["experiment"] == "paths"]
    found = {
        metric: float(paths.loc[paths["metric"] == metric, "value"].mean())
        for metric in ("progress", "progress_null", "step_improved", "causal_fidelity")
    }
    response = paths[paths["metric"] == "stimulus_response"].groupby("lens")["value"].mean()
    return found | {f"stimulus_response_{kind}": float(value) for kind, value in response.items()}


def transfer_matrix(own: pd.DataFrame, metric: str, states: str = MODEL) -> np.ndarray:
    """Rows: the layer whose translator it is; columns: the layer that it reads."""
    rows = own[(own["metric"] == metric) & (own["states"] == states)]
    return rows.pivot_table(index="fitted", columns="layer", values="value").to_numpy()


def _by_layer(own: pd.DataFrame, lens: str, states: str, metric: str = "lens_kl") -> np.ndarray:
    rows = own[(own["metric"] == metric) & (own["lens"] == lens) & (own["states"] == states)]
    return rows.sort_values("layer")["value"].to_numpy()


def _one(own: pd.DataFrame, metric: str) -> float:
    return float(own.loc[own["metric"] == metric, "value"].iloc[0])
