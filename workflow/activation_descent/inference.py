"""Intervals and tests over units of replication: a unit is one draw of demonstrations for one task.

Examples and layers of a unit share prompt and weight update; they are averaged inside it and never counted as
replications. A table of units has the columns task, draw and value, each unit once. The estimate is the mean over tasks of the means
over draws, so that a task counts as much as any other, however often it was drawn.

A sign-flip test asks whether paired differences of these tasks are zero (draws are exchangeable in sign). The interval resamples tasks
as well and speaks of tasks like these. With few units a bootstrap is too narrow: normal draws of one task are covered 90 times in 100
by an interval of 95 % from ten draws, and six tasks that carry all of the variation 86 times. Report tasks one by one, too.

A value that is not a number or infinite is refused: it compares with nothing, and a test would call it significant.
"""

import math
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

UNIT = ["task", "draw"]
RESAMPLES = 10_000

Value = Float[np.ndarray, " unit"]
TaskNumber = Int[np.ndarray, " unit"]  # a number for each task, from zero, in rising order
Alternative = Literal["two-sided", "greater", "less"]


def mean_over_tasks(units: pd.DataFrame) -> float:
    """The estimate that intervals and tests are about."""
    value, task = _arrays(units)
    return float(_weights(task) @ value)


def _checked(units: pd.DataFrame) -> pd.DataFrame:
    """Units in the order of their names, whatever order they came in."""
    if units.duplicated(UNIT).any():
        raise ValueError("a unit (task, draw) occurs more than once: average its examples and layers first")
    return units.sort_values(UNIT)


def _arrays(units: pd.DataFrame) -> tuple[Value, TaskNumber]:
    units = _checked(units)
    value = units["value"].to_numpy(dtype=np.float64)
    if not np.isfinite(value).all():
        raise ValueError(f"units without a finite value: {units.loc[~np.isfinite(value), UNIT].to_numpy().tolist()[:5]}")
    return value, pd.factorize(units["task"])[0]


def _weights(task: TaskNumber) -> Float[np.ndarray, " unit"]:
    draws = np.bincount(task)
    return 1 / (draws[task] * len(draws))


# Tests


def sign_flip_p(
    units: pd.DataFrame, rng: np.random.Generator, alternative: Alternative = "two-sided", resamples: int = RESAMPLES
) -> float:
    """p of `mean_over_tasks` of paired differences under random signs of all units, tasks keeping their weights.

    Exact while there are no more sign patterns than `resamples` (13 units with 10,000), else `(1 + #) / (1 + resamples)`.
    """
    value, task = _arrays(units)
    weighted = _weights(task) * value
    size = np.abs if alternative == "two-sided" else np.positive
    side = "less" if alternative == "less" else "greater"
    return float(_flipped(lambda signs, axis: size(signs @ weighted), len(value), rng, resamples, side).pvalue)


def equivalence_p(units: pd.DataFrame, margin: float, rng: np.random.Generator, resamples: int = RESAMPLES) -> float:
    """Two one-sided sign-flip tests (TOST, Schuirmann 1987): a small p says that the mean lies within `-margin` to `margin`.

    Raises:
        ValueError: if the margin is not above zero.
    """
    if margin <= 0:
        raise ValueError(f"an equivalence margin must be above zero: {margin}")
    above = sign_flip_p(units.assign(value=units["value"] + margin), rng, "greater", resamples)
    below = sign_flip_p(units.assign(value=units["value"] - margin), rng, "less", resamples)
    return max(above, below)


def max_t(table: pd.DataFrame, member: str, rng: np.random.Generator, resamples: int = RESAMPLES) -> pd.Series:
    """p of each member of a family (layers, heads), two-sided, adjusted for all of them (Westfall and Young 1993).

    Signs are flipped for whole units, so that the family keeps its correlations. Each mean is divided by its standard deviation
    under the flips, `sqrt(sum (w_i d_i)^2)`, which no flip changes; a member that is zero throughout has p = 1.

    Args:
        table: units with one row for each member.
        member: the column that names it.

    Returns:
        Adjusted p, indexed by member.

    Raises:
        ValueError: if a unit lacks a member, has it twice or has no finite value for it.
    """
    wide = table.pivot(index=UNIT, columns=member, values="value").sort_index()
    if not np.isfinite(wide).all(axis=None):
        raise ValueError(f"not every unit has a finite value for each {member}")
    task, _ = pd.factorize(wide.index.get_level_values("task"))
    weighted = _weights(task)[:, None] * wide.to_numpy(dtype=np.float64)
    spread = np.sqrt(np.square(weighted).sum(0))
    scaled = weighted / np.where(spread > 0, spread, 1)
    null = _flipped(lambda signs, axis: np.abs(signs @ scaled).max(-1), len(wide), rng, resamples, "greater").null_distribution
    observed = np.abs(scaled.sum(0)) * (1 - 1e-12)  # equal but for the order of summation
    sampled = 2 ** len(wide) > resamples
    reached = (null[:, None] >= observed).sum(0)
    return pd.Series((reached + sampled) / (len(null) + sampled), index=wide.columns, name="p")


def _flipped(statistic, units: int, rng: np.random.Generator, resamples: int, alternative: str):
    """SciPy's permutation test of a statistic of the units' signs, all + when observed."""
    from scipy.stats import permutation_test

    return permutation_test(
        (np.ones(units),),
        statistic,
        permutation_type="samples",
        alternative=alternative,
        n_resamples=resamples,
        vectorized=True,
        rng=rng,
    )


def holm(p: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """Adjusted p-values that control the family-wise error (Holm 1979): the k-th smallest of n times n - k + 1, made monotone."""
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(steps, 1)
    return adjusted


# Intervals


def bootstrap_means(units: pd.DataFrame, rng: np.random.Generator, resamples: int = RESAMPLES) -> Float[np.ndarray, " resample"]:
    """`mean_over_tasks` of resampled units: tasks with replacement, and for each of them its draws with replacement.

    Resampling both levels (Davison and Hinkley 1997, section 3.8) counts the variation of draws twice, about: it shows already in the
    task means. The interval is wide rather than narrow where tasks agree. One task alone is an ordinary bootstrap of its draws.
    """
    return _resampled(*_arrays(units), rng, resamples)


def _resampled(value: Value, task: TaskNumber, rng: np.random.Generator, resamples: int) -> Float[np.ndarray, " resample"]:
    sizes = np.bincount(task)
    first = np.cumsum(sizes) - sizes  # of each task's units
    chosen = rng.integers(len(sizes), size=(resamples, len(sizes)))[..., None]
    size = sizes[chosen]
    # As many draws as the task has; the others count nothing
    draw = (rng.random((resamples, len(sizes), sizes.max())) * size).astype(np.int64)
    taken = np.where(np.arange(sizes.max()) < size, value[first[chosen] + draw], 0)
    return (taken.sum(-1) / size[..., 0]).mean(-1)


def cluster_interval(
    units: pd.DataFrame, rng: np.random.Generator, confidence: float = 0.95, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Bias-corrected and accelerated interval (Efron 1987) of `mean_over_tasks` from `bootstrap_means`.

    The acceleration is the jackknife's over units. Returns the value itself twice when all values are equal, and not a number for
    fewer than two units.
    """
    from scipy.special import ndtr, ndtri

    value, task = _arrays(units)
    if len(value) < 2:
        return math.nan, math.nan
    estimate = float(_weights(task) @ value)
    rounding = 1e-12 * np.abs(value).max()
    if np.ptp(value) <= rounding:
        return estimate, estimate
    means = _resampled(value, task, rng, resamples)
    apart = means - estimate
    below = (1 - np.sign(np.where(np.abs(apart) > rounding, apart, 0)).mean()) / 2  # ties count half
    bias = ndtri(np.clip(below, 1 / resamples, 1 - 1 / resamples))
    left = _leave_one_out(value, task)
    pulls = left.mean() - left
    strength = np.sum(pulls**2)
    # Without variation inside tasks no unit pulls, and rounding has no skew
    acceleration = np.sum(pulls**3) / (6 * strength**1.5) if strength > rounding**2 else 0.0
    ends = bias + ndtri([(1 - confidence) / 2, (1 + confidence) / 2])
    low, high = np.quantile(means, ndtr(bias + ends / (1 - acceleration * ends)))
    return float(low), float(high)


def _leave_one_out(value: Value, task: TaskNumber) -> Float[np.ndarray, " unit"]:
    """`mean_over_tasks` without each unit; the only unit of a task takes its task along."""
    sizes = np.bincount(task)
    sums = np.bincount(task, value)
    means, tasks = sums / sizes, len(sizes)
    rest = means.sum() - means[task]
    without = (sums[task] - value) / np.maximum(sizes[task] - 1, 1)
    return np.where(sizes[task] > 1, (rest + without) / tasks, rest / max(tasks - 1, 1))


# Design


def minimal_detectable_effect(standard_deviation: float, units: int, level: float = 0.05, power: float = 0.8) -> float:
    """The smallest mean paired difference that a two-sided t-test over the units finds with the given power.

    Args:
        standard_deviation: of the paired differences; sqrt(2) times that of one arm if the arms do not go together.

    Raises:
        ValueError: for fewer than two units.
    """
    from scipy.optimize import brentq
    from scipy.stats import ncf, t

    if units < 2:
        raise ValueError("power needs at least two units")
    critical = t.isf(level / 2, units - 1)

    def surplus(shift: float) -> float:
        return ncf.sf(critical**2, 1, units - 1, shift**2) - power

    # Not from zero, where SciPy's non-central F is wrong
    return standard_deviation / math.sqrt(units) * brentq(surplus, 1e-3, 3 * critical + 10)
