"""How alike in-context learning (ICL) and fine-tuning (FT) answer: predictions, label logits, distributions, orders, influences.

Arrays are numpy's, logits and probabilities as the model gave them. A ratio whose denominator is zero is not a number (or infinite),
never a guess; whoever averages decides what to do with it.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

Right = Bool[np.ndarray, " query"]  # whether each query is answered rightly

# Predictions


def recovery_table(zsl: Right, ft: Right, icl: Right) -> Int[np.ndarray, "2 2"]:
    """Among queries that the model without demonstrations (ZSL) gets wrong: rows FT right, FT wrong; columns ICL right, ICL wrong."""
    return np.array([[np.sum(~zsl & a & b) for b in (icl, ~icl)] for a in (ft, ~ft)])


def recovered(table: Int[np.ndarray, "2 2"]) -> float:
    """Rec2FTP, 0 to 1: the share of FT's corrections that ICL makes, too (Dai et al. 2022, who print it in per cent)."""
    return _ratio(table[0, 0], table[0].sum())


def recovered_by_chance(table: Int[np.ndarray, "2 2"]) -> float:
    """What Rec2FTP is if ICL's corrections have nothing to do with FT's: P(ICL right | ZSL wrong)."""
    return _ratio(table[:, 0].sum(), table.sum())


def phi(table: Int[np.ndarray, "2 2"]) -> float:
    """Correlation of the two corrections, -1 to 1."""
    (a, b), (c, d) = table.tolist()
    return _ratio(a * d - b * c, ((a + b) * (c + d) * (a + c) * (b + d)) ** 0.5)


def odds_ratio(table: Int[np.ndarray, "2 2"]) -> tuple[float, float]:
    """Sample odds ratio and the two-sided p of Fisher's exact test."""
    from scipy.stats import fisher_exact

    result = fisher_exact(table)
    return float(result.statistic), float(result.pvalue)


def wilson_interval(count: int | np.integer, total: int | np.integer, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion; 0 to 1 where nothing was counted."""
    from scipy.stats import binomtest

    if total == 0:
        return 0.0, 1.0
    interval = binomtest(int(count), int(total)).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def error_consistency(first: Right, second: Right) -> float:
    """Cohen's kappa of being right: agreement beyond what two independent systems of these accuracies share (Geirhos et al. 2020)."""
    a, b = first.mean(), second.mean()
    chance = a * b + (1 - a) * (1 - b)
    return _ratio(np.mean(first == second) - chance, 1 - chance)


# Label logits


def logit_agreement(
    icl: Float[np.ndarray, "query label"], ft: Float[np.ndarray, "query label"], zsl: Float[np.ndarray, "query label"]
) -> float:
    """Correlation over queries of differences of label logits, with ZSL's taken out of both.

    With two labels the partial correlation of `z_1 - z_0`. With more all differences count alike: each query's mean is taken off, then
    each label's, and one slope on ZSL is shared. A shift of all queries' logits by the same amounts changes nothing, so that a
    preference for a label is no agreement.
    """
    a, b, control = (_differences(logits).ravel() for logits in (icl, ft, zsl))
    return partial_correlation(a, b, control[:, None])


def _differences(logits: Float[np.ndarray, "query label"]) -> Float[np.ndarray, "query label"]:
    rows = logits.astype(np.float64)
    rows = rows - rows.mean(1, keepdims=True)
    return rows - rows.mean(0)


def calibration_shift(zsl: Float[np.ndarray, "query label"], target: Float[np.ndarray, " label"]) -> Float[np.ndarray, " label"]:
    """The shift b of ZSL's logits for which the mean over queries of `softmax(z + b)` is a given marginal; sum b = 0.

    Predictions `argmax(z + b)` know how often ICL gives each answer and nothing else of the demonstrations: the null for agreement of
    predictions. b minimises the convex `mean_x logsumexp(z_x + b) - target^T b`.

    Raises:
        ValueError: if the target is no distribution with every label in it, or no shift reaches it (infinite logits).
    """
    from scipy.optimize import minimize
    from scipy.special import logsumexp, softmax

    if target.min() <= 0 or abs(target.sum() - 1) > 1e-5:
        raise ValueError(f"a marginal must be positive and sum to 1: {target.tolist()}")
    logits, target = zsl.astype(np.float64), target.astype(np.float64) / target.sum(dtype=np.float64)

    # The last label's shift stays at zero: a constant for all labels changes nothing
    def shifted(free: np.ndarray) -> np.ndarray:
        return logits + np.append(free, 0)

    def loss(free: np.ndarray) -> float:
        return logsumexp(shifted(free), axis=1).mean() - target[:-1] @ free

    def gradient(free: np.ndarray) -> np.ndarray:
        return (softmax(shifted(free), axis=1).mean(0) - target)[:-1]

    def curvature(free: np.ndarray) -> np.ndarray:
        p = softmax(shifted(free), axis=1)[:, :-1]
        return np.diag(p.mean(0)) - p.T @ p / len(p)

    start = (np.log(target) - np.log(np.maximum(softmax(logits, axis=1).mean(0), 1e-300)))[:-1]
    found = minimize(loss, start, jac=gradient, hess=curvature, method="trust-exact", options={"gtol": 1e-9, "maxiter": 500})
    if not np.abs(gradient(found.x)).max() < 1e-6:
        raise ValueError(f"no shift of the logits gives the marginal {target.tolist()}")
    shift = np.append(found.x, 0)
    return shift - shift.mean()


def partial_correlation(
    first: Float[np.ndarray, " n"], second: Float[np.ndarray, " n"], controls: Float[np.ndarray, "n control"]
) -> float:
    """Pearson correlation of what is left of both after least squares on the controls and a constant.

    Not a number if the controls explain one of them to rounding.
    """
    design = np.column_stack([np.ones(len(first)), controls])
    scale = np.linalg.norm(design, axis=0)
    design = design / np.where(scale > 0, scale, 1)
    left = []
    for values in (first.astype(np.float64), second.astype(np.float64)):
        rest = values - design @ np.linalg.lstsq(design, values)[0]
        if np.linalg.norm(rest) <= 1e-10 * np.linalg.norm(values):
            return float("nan")
        left.append(rest / np.linalg.norm(rest))
    return float(left[0] @ left[1])


# Orders of the demonstrations


def order_sensitivity(probability: Float[np.ndarray, "permutation query token"]) -> Float[np.ndarray, " query"]:
    """Sen of each query: the standard deviation over permutations, summed over the tokens (Shen et al. 2023).

    The standard deviation is that of the permutations at hand (divided by their number).
    """
    return probability.std(axis=0).sum(axis=-1)


def normalised_order_sensitivity(
    probability: Float[np.ndarray, "permutation query token"], zsl: Float[np.ndarray, "query token"]
) -> float:
    """nSen: how far orders lie apart in units of how far the demonstrations move the answer, `E |p_o - p| / |p - p_ZSL|`.

    p is the mean over orders o; Euclidean lengths, each averaged over queries before the division. A method that hardly moves is not
    insensitive to order for it.
    """
    mean = probability.mean(axis=0)
    apart = np.linalg.norm(probability - mean, axis=-1).mean()
    return _ratio(apart, np.linalg.norm(mean - zsl, axis=-1).mean())


def order_correlation(
    icl: Float[np.ndarray, "permutation query"], ft: Float[np.ndarray, "permutation query"]
) -> Float[np.ndarray, " query"]:
    """rho_order: for each query the Pearson correlation over orders of its margin under ICL and under FT on the same orders.

    Sequential gradient descent predicts more than zero, a bias for positions of the prompt zero.
    """
    constant = np.zeros((len(icl), 0))
    return np.array([partial_correlation(a, b, constant) for a, b in zip(icl.T, ft.T, strict=True)])


# Distributions over the vocabulary (Shen et al. 2023)


def token_overlap(
    first: Float[np.ndarray, "query token"], second: Float[np.ndarray, "query token"], top: int = 10
) -> Float[np.ndarray, " query"]:
    """Share of the `top` most probable tokens of each that both have in common, 0 to 1."""
    return _in_both(first, second, top).sum(1) / top


def overlap_cosine(
    first: Float[np.ndarray, "query token"], second: Float[np.ndarray, "query token"], top: int = 10
) -> dict[str, Float[np.ndarray, " query"]]:
    """Overlap cosine similarity (OCS) of the probabilities of the common top tokens O, with a penalty for those that differ.

    `sum_O p q` is divided by the root of `sum_O p^2 sum_O q^2 (top - |O|)` (product), which is how the paper was handed down and is
    infinite where all top tokens are common, or by the root of `sum_O p^2 sum_O q^2 + (top - |O|)` (additive), 0 to 1.
    Both are zero where none is common.
    """
    common = _in_both(first, second, top)
    p, q = (np.where(common, probability, 0).astype(np.float64) for probability in (first, second))
    together, lengths, missing = (p * q).sum(1), (p * p).sum(1) * (q * q).sum(1), top - common.sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        forms = {"product": together / np.sqrt(lengths * missing), "additive": together / np.sqrt(lengths + missing)}
    return {form: np.where(missing < top, values, 0.0) for form, values in forms.items()}


def _in_both(
    first: Float[np.ndarray, "query token"], second: Float[np.ndarray, "query token"], top: int
) -> Bool[np.ndarray, "query token"]:
    marks = [np.zeros(first.shape, dtype=bool) for _ in range(2)]
    for mark, probability in zip(marks, (first, second), strict=True):
        np.put_along_axis(mark, np.argpartition(probability, -top, axis=1)[:, -top:], True, axis=1)
    return marks[0] & marks[1]


# Influence of single demonstrations


def influence_correlation(
    icl: Float[np.ndarray, "demonstration query"],
    ft: Float[np.ndarray, "demonstration query"],
    slot: Int[np.ndarray, " demonstration"],
    label: Shaped[np.ndarray, " demonstration"],
) -> Float[np.ndarray, " query"]:
    """For each query the Spearman correlation over demonstrations of their influence on ICL's and on FT's margin.

    The demonstrations' place in the prompt and their label are taken out of the ranks: recency or a preference for a label is no
    agreement on which example teaches.
    """
    from scipy.stats import rankdata

    indicators = [label == value for value in np.unique(label)[1:]]
    controls = np.column_stack([rankdata(slot), *indicators]).astype(np.float64)
    ranks = [rankdata(influence, axis=0) for influence in (icl, ft)]
    return np.array([partial_correlation(a, b, controls) for a, b in zip(ranks[0].T, ranks[1].T, strict=True)])


# Noise


def disattenuated(cross: Any, icl_reliability: Any, ft_reliability: Any) -> Any:
    """Similarity in units of the noise ceiling: `S(ICL_D, FT_D') / sqrt(R_II R_FF)` (Spearman 1904); numbers or arrays.

    Args:
        cross: between disjoint draws D and D', so that it shares no more noise than the reliabilities do.
        icl_reliability, ft_reliability: S(ICL_D, ICL_D') and S(FT_D, FT_D'). One that is not above zero leaves nothing to correct
            for: not a number.
    """
    icl, ft = np.asarray(icl_reliability, dtype=np.float64), np.asarray(ft_reliability, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((icl > 0) & (ft > 0), cross / np.sqrt(icl * ft), np.nan)[()]


def _ratio(numerator: Any, denominator: Any) -> float:
    return float(numerator / denominator) if denominator else float("nan")
