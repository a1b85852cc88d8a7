"""What the claims read of the toy problems, and how far each mechanism is from softmax attention."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from activation_descent.attention import STUDY
from activation_descent.attention.toy_problems import EXPERIMENT
from activation_descent.records import Row

SYMBOLIC = ("recall", "induction", "copying")  # problems with an accuracy; that of regression is a share of variance
LAST = 0.25  # share of a sequence, at its end, whose mean is a problem's score: there is most to remember


@dataclass(frozen=True)
class Approximation:
    """Random inputs on which mechanisms are held against softmax attention.

    Attributes:
        length, features: of normal queries, keys and values.
        deviation: of queries and keys; the performer's variance grows as the exponential of its square.
        random_features: of the performer.
    """

    length: int
    features: int
    deviation: float
    random_features: Sequence[int]
    seeds: int


def score_rows(problem: str, names: Sequence[str], seeds: int, scores: np.ndarray) -> list[Row]:
    """Records of scores by place, tokens counted from 1.

    Args:
        scores: `network token`, the seeds of each name together; not a number where nothing is asked.
    """
    base = {"study": STUDY, "experiment": EXPERIMENT, "task": problem, "metric": "toy_score"}
    return [
        base | {"variant": name, "seed": seed, "length": token + 1, "value": float(scores[place * seeds + seed, token])}
        for place, name in enumerate(names)
        for seed in range(seeds)
        for token in np.flatnonzero(np.isfinite(scores[place * seeds + seed]))
    ]


def problem_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean over the last part of a sequence: rows variant and seed, columns problems."""
    asked = scores["length"] - scores.groupby("task")["length"].transform("min")
    span = asked.groupby(scores["task"]).transform("max")
    last = scores[asked >= (1 - LAST) * (span + 1)]
    return last.pivot_table(index=["variant", "seed"], columns="task", values="value", aggfunc="mean")


def toy_statistics(scores: pd.DataFrame) -> list[Row]:
    """One number a seed: each mechanism's worst score on symbols, what it loses on softmax attention, and the best of the linear ones."""
    table = problem_scores(scores)
    rows: list[Row] = []

    def add(variant: str, metric: str, values: Mapping[int, float]) -> None:
        base = {"study": STUDY, "experiment": EXPERIMENT, "variant": variant, "metric": metric}
        rows.extend(base | {"seed": int(seed), "value": float(value)} for seed, value in values.items())

    worst = table[[*SYMBOLIC]].min(axis=1)
    mean = table[[*SYMBOLIC]].mean(axis=1)
    for variant in table.index.unique("variant"):
        add(variant, "worst_toy_accuracy", worst[variant].to_dict())
        add(variant, "best_toy_accuracy", table[[*SYMBOLIC]].max(axis=1)[variant].to_dict())
        add(variant, "recall_accuracy", table.loc[variant, "recall"].to_dict())
        if variant not in ("softmax", "untrained"):
            add(variant, "toy_accuracy_lost", (mean["softmax"] - mean[variant]).to_dict())
            add(variant, "toy_regression_gain", (table.loc[variant, "regression"] - table.loc["softmax", "regression"]).to_dict())
    linear = worst.drop(index=["softmax", "untrained"], level="variant", errors="ignore")
    add("linearised", "worst_toy_accuracy", linear.groupby("seed").max().to_dict())
    return rows


def approximation_records(settings: Approximation, root: int) -> list[Row]:
    """Distance of every mechanism from softmax attention, the performer's by its number of random features."""
    import torch

    from activation_descent.attention.efficient import FIXED, latent, performer, random_directions, softmax_error
    from activation_descent.seeding import generator

    rows: list[Row] = []
    for seed in range(settings.seeds):
        rng = generator(root, STUDY, "approximation", "inputs", "evaluate", seed)
        q, k, v = torch.from_numpy(rng.standard_normal((3, settings.length, settings.features)))
        q, k = settings.deviation * q, settings.deviation * k
        attentions = [(name, 0, attention) for name, attention in FIXED.items()]
        latents = torch.from_numpy(rng.standard_normal((settings.features, settings.features)))
        attentions.append(("latent", 0, latent(latents)))
        for number in settings.random_features:
            attentions.append(("performer", number, performer(random_directions(rng, settings.features, number))))
        base = {"study": STUDY, "experiment": "approximation", "seed": seed, "metric": "softmax_error"}
        rows += [
            base | {"variant": name, "level": number, "value": softmax_error(attention, q, k, v, False)}
            for name, number, attention in attentions
        ]
    return rows


def approximation_statistics(records: pd.DataFrame) -> list[Row]:
    """The exponent with which the performer's error falls with its random features: -1/2 for a mean of independent features."""
    base = {"study": STUDY, "experiment": "approximation", "variant": "performer", "metric": "performer_exponent"}
    own = records[records["variant"] == "performer"]
    return [
        base | {"seed": int(seed), "value": float(np.polyfit(np.log(rows["level"]), np.log(rows["value"]), 1)[0])}
        for seed, rows in own.groupby("seed")
    ]
