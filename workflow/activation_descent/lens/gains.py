"""What a matrix of lenses and layers says: penalties, improvements and forward gain.

    T_ij = E KL(p_L || T_i(h_j)), in bits          translator of layer i, states of layer j
    penalty    Pen_ij = T_ij - T_jj                what the wrong translator costs; the paper has cross-entropy in the place of KL
    improvement        K_i - K_j = T_ii - T_jj     what later layers add

A small penalty alone says little: a stream that carries its content along unchanged has one too. What iterative refinement in one basis
predicts is that the old lens sees what is new, so that the penalty is smaller than the improvement:

    FG = sum_{1<=i<j} (T_ii - T_ij) / sum_{1<=i<j} (T_ii - T_jj) = 1 - sum Pen_ij / sum (K_i - K_j)

1: the old lens sees all that later layers add; 0: nothing, but the old content is kept; below: later writes are noise to it. Layer 0, which
knows one token, is left out, and so is a pair whose improvement is below `SATURATED`. The calibrated gain `FG_cal` lets each pair have
a scale and a shift of its own, T_i(s_ij h_j + b_ij), so that growing norms and drifting means do not count against it; directions
stay as they were.

A gain belongs to the length of the fit. What a lens does with directions that its own layer hardly uses is left from its start, the logit
lens, until they are fitted, so that lenses that are cut short transfer too well. Compare models at the same fit, beside their controls.
"""

import math
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Float64

SATURATED = 0.02  # bits; a smaller improvement cannot be shared out
KNOWING = 0.05  # bits that a model must know beyond mean frequencies, else every ratio is noise

Matrix = Float64[np.ndarray, "seed fitted applied row"]


def pairs(layers: int) -> list[tuple[int, int]]:
    """The cells that forward gain looks at: from an earlier layer to a later one, without layer 0."""
    return [(i, j) for i in range(1, layers) for j in range(i + 1, layers)]


def diagonal(matrix: Float[np.ndarray, "fitted applied ..."]) -> Float[np.ndarray, "layer ..."]:
    """T_ll, each translator at home."""
    places = np.arange(len(matrix))
    return matrix[places, places]


def penalty(matrix: Float[np.ndarray, "fitted applied"]) -> Float[np.ndarray, "fitted applied"]:
    """Pen_ij = T_ij - T_jj, zero on the diagonal."""
    return matrix - diagonal(matrix)[None]


def improvement(matrix: Float[np.ndarray, "fitted applied"]) -> Float[np.ndarray, "fitted applied"]:
    """K_i - K_j: what the layers between add, negative below the diagonal."""
    own = diagonal(matrix)
    return own[:, None] - own[None]


def unsaturated(matrix: Float[np.ndarray, "fitted applied"]) -> Bool[np.ndarray, "fitted applied"]:
    """The pairs that forward gain counts."""
    counted = np.zeros(matrix.shape, dtype=bool)
    for pair in pairs(len(matrix)):
        counted[pair] = improvement(matrix)[pair] >= SATURATED
    return counted


def forward_gain(matrix: Float[np.ndarray, "fitted applied"], moved: Float[np.ndarray, "fitted applied"] | None = None) -> float:
    """FG, or FG_cal with the calibrated cells `moved`; not a number where no pair is left."""
    counted = unsaturated(matrix)
    if not counted.any():
        return math.nan
    gained = diagonal(matrix)[:, None] - (matrix if moved is None else moved)
    return float(gained[counted].sum() / improvement(matrix)[counted].sum())


def forward_gain_interval(
    matrix: Float[np.ndarray, "fitted applied row"],
    moved: Float[np.ndarray, "fitted applied row"] | None,
    rng: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = 1000,
) -> tuple[float, float]:
    """Bootstrap interval of one model's forward gain over documents; the pairs that count are those of all documents.

    Not a number where no pair is left or there are fewer than two documents.
    """
    from scipy.stats import bootstrap

    counted = unsaturated(matrix.mean(-1))
    if not counted.any() or matrix.shape[-1] < 2:
        return math.nan, math.nan
    own = diagonal(matrix)
    gained = (own[:, None] - (matrix if moved is None else moved))[counted].sum(0)
    improved = (own[:, None] - own[None])[counted].sum(0)

    def ratio(gained: np.ndarray, improved: np.ndarray, axis: int) -> np.ndarray:
        return gained.sum(axis) / improved.sum(axis)

    found = bootstrap(
        (gained, improved),
        ratio,
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        confidence_level=confidence,
        method="percentile",
        rng=rng,
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def shared_information(prior: float, shared: Float[np.ndarray, " layer"], own: Float[np.ndarray, " layer"]) -> float:
    """S = sum_l (K0 - K_shared) / sum_l (K0 - K_tuned): how much of what lenses of their own read one lens for all reads.

    Descriptive: one map has room for several codes side by side, so that S is high with nothing in common, too.
    """
    return float((prior - shared).sum() / (prior - own).sum())


def cells(matrix: Float[np.ndarray, "fitted applied"]) -> Iterator[tuple[int, int, float]]:
    """Every cell of a matrix that has a number."""
    for (fitted, applied), value in np.ndenumerate(matrix):
        if math.isfinite(value):
            yield fitted, applied, float(value)
