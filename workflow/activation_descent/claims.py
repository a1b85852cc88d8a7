"""Claims: rules over records that were written down before the run.

A claim names one metric with one value for each unit of replication. This module takes the bootstrap interval of the mean, reads the
gates (controls that must behave) and compares; whatever needs more thought is a metric of its own.

    supported      the whole interval meets the criterion for it
    refuted        the whole interval meets the criterion for that
    inconclusive   neither, or a gate failed, or there are too few units, whatever the value
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from activation_descent.errors import SettingsError
from activation_descent.inference import cluster_interval, mean_over_tasks
from activation_descent.records import METRICS

COLUMNS = (
    "id",
    "study",
    "source",
    "statement",
    "statistic",
    "value",
    "ci_low",
    "ci_high",
    "n",
    "criterion",
    "gate",
    "verdict",
    "figure",
)

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_BOUND = re.compile(rf"(<=|>=|<|>)\s*({_NUMBER})")
_RANGE = re.compile(rf"(in|outside)\s*\[\s*({_NUMBER})\s*,\s*({_NUMBER})\s*\]")


@dataclass(frozen=True)
class Condition:
    """A set of numbers: "<= 1.004", "> 0", "in [0.9, 1.1]" or "outside [0.9, 1.1]"."""

    relation: str
    bounds: tuple[float, ...]

    @classmethod
    def parse(cls, text: str) -> "Condition":
        """Read a condition.

        Raises:
            ValueError: if the text is none of the four forms, or a range is empty.
        """
        if match := _BOUND.fullmatch(str(text).strip()):
            return cls(match[1], (float(match[2]),))
        if match := _RANGE.fullmatch(str(text).strip()):
            low, high = float(match[2]), float(match[3])
            if low <= high:
                return cls(match[1], (low, high))
        raise ValueError(f"{text!r} is not a condition; write '<= 1.2', '> 0', 'in [0.9, 1.1]' or 'outside [0.9, 1.1]'")

    def holds(self, low: float, high: float | None = None) -> bool:
        """Whether every number of the interval from `low` to `high` (default: the one number `low`) meets the condition."""
        high = low if high is None else high
        first, last = self.bounds[0], self.bounds[-1]
        match self.relation:
            case "<=":
                return high <= first
            case "<":
                return high < first
            case ">=":
                return low >= first
            case ">":
                return low > first
            case "in":
                return first <= low and high <= last
            case _:  # outside
                return high < first or low > last

    def meets(self, other: "Condition") -> bool:
        """Whether some number meets both conditions."""
        edges = sorted({0.0, *self.bounds, *other.bounds})
        between = [(a + b) / 2 for a, b in pairwise(edges)]
        return any(self.holds(x) and other.holds(x) for x in [edges[0] - 1, *edges, *between, edges[-1] + 1])

    def __str__(self) -> str:
        numbers = ", ".join(f"{bound:g}" for bound in self.bounds)
        return f"{self.relation} [{numbers}]" if len(self.bounds) == 2 else f"{self.relation} {numbers}"


def check(claims: Sequence[Mapping[str, Any]], variants: Mapping[str, Sequence[str]]) -> None:
    """Refuse claims that cannot be judged, before anything runs. Their form is the claims schema's business.

    Args:
        variants: the variants that have statistics, for each study.

    Raises:
        SettingsError: naming the claim and the key.
    """
    seen: set[str] = set()
    for claim in claims:
        name = claim["id"]
        if name in seen:
            raise SettingsError(f"two claims have the id {name}")
        seen.add(name)
        try:
            supported, refuted = Condition.parse(claim["supported"]), Condition.parse(claim["refuted"])
        except ValueError as error:
            raise SettingsError(f"claim {name}: {error}") from error
        if supported.meets(refuted):
            raise SettingsError(
                f"claim {name}: a value could be supported ({supported}) and refuted ({refuted}) at the same time"
            )
        for key, reference in [("statistic", claim["statistic"]), *(("gate", gate) for gate in claim["gate"])]:
            if reference["metric"] not in METRICS:
                raise SettingsError(f"claim {name}: {key} names the metric {reference['metric']}, which records does not declare")
            known = variants.get(claim["study"], ())
            if reference["variant"] not in known:
                raise SettingsError(
                    f"claim {name}: {key} names the variant {reference['variant']}; "
                    f"study {claim['study']} has statistics of {', '.join(known)}"
                )
            if key == "gate":
                try:
                    Condition.parse(reference["must_be"])
                except ValueError as error:
                    raise SettingsError(f"claim {name}: gate on {reference['metric']}: {error}") from error


def interval(units: pd.DataFrame, confidence: float, resamples: int, rng: np.random.Generator) -> tuple[float, float]:
    """Bias-corrected and accelerated bootstrap interval of the mean over tasks of the mean over draws (`inference.cluster_interval`); where
    units are seeds alone, of their mean.

    Returns smallest and largest value when one is infinite, and not a number for fewer than two.

    Args:
        units: columns task, draw and value.
    """
    values = units["value"].to_numpy()
    if len(values) < 2:
        return float("nan"), float("nan")
    if not np.isfinite(values).all():
        return float(values.min()), float(values.max())
    return cluster_interval(units, rng, confidence, resamples)


def judge(
    claim: Mapping[str, Any], records: pd.DataFrame, settings: Mapping[str, Any], rng: np.random.Generator
) -> dict[str, Any]:
    """Judge one claim.

    Args:
        claim: an entry of `config/claims.yaml`.
        records: the statistics of all studies; one row for each metric and unit.
        settings: `confidence`, `resamples`, `minimum_units`.

    Returns:
        One row of claims.csv.
    """

    def units(reference: Mapping[str, str]) -> pd.DataFrame:
        rows = records[
            (records["study"] == claim["study"])
            & (records["variant"] == reference["variant"])
            & (records["metric"] == reference["metric"])
        ]
        task = rows["task"].fillna("") if "task" in rows else ""
        return pd.DataFrame({"task": task, "draw": rows["seed"], "value": rows["value"].astype(float)})

    read = units(claim["statistic"])
    values = read["value"].to_numpy()
    supported, refuted = Condition.parse(claim["supported"]), Condition.parse(claim["refuted"])
    finite = len(values) and np.isfinite(values).all()
    estimate = mean_over_tasks(read) if finite else float(values.mean()) if len(values) else float("nan")
    low, high = interval(read, settings["confidence"], settings["resamples"], rng)
    gates, failures = [], []
    for gate in claim["gate"]:
        condition, controls = Condition.parse(gate["must_be"]), units(gate)["value"]
        passed = len(controls) > 0 and all(condition.holds(value) for value in controls.tolist())
        shown = f"{np.mean(controls):.4g}" if len(controls) else "absent"
        gates.append(f"{gate['metric']} {condition}: {shown} {'passed' if passed else 'FAILED'}")
        failures.append(not passed)
    if any(failures) or len(values) < settings["minimum_units"]:
        verdict = "inconclusive"
    elif supported.holds(low, high):
        verdict = "supported"
    else:
        verdict = "refuted" if refuted.holds(low, high) else "inconclusive"
    return {
        "id": claim["id"],
        "study": claim["study"],
        "source": claim["source"],
        "statement": claim["statement"],
        "statistic": f"{claim['statistic']['metric']} ({claim['statistic']['variant']})",
        "value": estimate,
        "ci_low": low,
        "ci_high": high,
        "n": len(values),
        "criterion": f"supported if {supported}; refuted if {refuted}",
        "gate": "; ".join(gates),
        "verdict": verdict,
        "figure": claim["figure"],
    }
