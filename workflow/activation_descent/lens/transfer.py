"""What a lens that was fitted at one layer reads at another.

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

The authors' code has another penalty by KL, between the two lenses: KL(T_j(h_j) || T_i(h_j)). It is kept apart (`native`).
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from activation_descent.lens.readout import Batch, States, Unembedding, divergence, log_probabilities, readings
from activation_descent.lens.translators import Fit, Name, Reader, Stream, Translators

SATURATED = 0.02  # bits; a smaller improvement cannot be shared out
KNOWING = 0.05  # bits that a model must know beyond mean frequencies, else every ratio is noise

Matrix = Float64[np.ndarray, "seed fitted applied row"]


def pairs(layers: int) -> list[tuple[int, int]]:
    """The cells that forward gain looks at: from an earlier layer to a later one, without layer 0."""
    return [(i, j) for i in range(1, layers) for j in range(i + 1, layers)]


@dataclass
class Calibration:
    """The scale s and shift b of each pair, before the translator of its first layer.

    Attributes:
        scale: (seed, pair, 1, 1).
        shift: (seed, pair, 1, feature).
    """

    scale: Tensor
    shift: Tensor

    @classmethod
    def initial(cls, seeds: int, layers: int, width: int) -> "Calibration":
        number = len(pairs(layers))
        return cls(torch.ones(seeds, number, 1, 1), torch.zeros(seeds, number, 1, width))

    def translate(self, translators: Translators, states: States, fitted: int) -> Float[Tensor, "seed later token feature"]:
        """T_i(s_ij h_j + b_ij) for all j > i."""
        places = [place for place, (i, _) in enumerate(pairs(translators.layers)) if i == fitted]
        moved = self.scale[:, places] * states[:, fitted + 1 :] + self.shift[:, places]
        return translators.one(fitted)(moved)


def calibrate(readers: Mapping[Name, Reader], unembedding: Unembedding, stream: Stream, settings: Fit) -> dict[Name, Calibration]:
    """Fit scale and shift of every pair for readers with translators of each layer's own, by Adam on the same objective."""
    found = {}
    for name, reader in readers.items():
        weight = next(iter(reader.translators.parameters.values()))
        found[name] = Calibration.initial(weight.shape[0], reader.translators.layers, weight.shape[-1])
    parameters = [tensor.requires_grad_(True) for own in found.values() for tensor in (own.scale, own.shift) if tensor.numel()]
    if not parameters:
        return found
    optimiser = torch.optim.Adam(parameters, lr=settings.learning_rate, fused=True)
    for step in range(settings.steps):
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * (1 - step / settings.steps)
        for batch in stream(step):
            for name, reader in readers.items():
                states = reader.transform(batch.states)
                for fitted in range(1, reader.translators.layers - 1):
                    moved = found[name].translate(reader.translators, states, fitted)
                    divergence(moved, unembedding, batch).mean(-1).sum().backward()
        optimiser.step()
        optimiser.zero_grad()
    for tensor in parameters:
        tensor.requires_grad_(False)
    return found


# Matrices, in bits, with one number for each row (document) of the evaluation tokens


def by_row(values: Float[Tensor, "seed layer token"], rows: int) -> Float64[np.ndarray, "seed layer row"]:
    """Means over the tokens of each document."""
    return values.double().unflatten(2, (rows, -1)).mean(-1).numpy()


@torch.no_grad()
def matrices(reader: Reader, unembedding: Unembedding, batch: Batch, rows: int) -> dict[str, Matrix]:
    """Every translator on every layer's states: `divergence` (T_ij), `cross_entropy`, and `native`, KL(T_j(h_j) || T_i(h_j)).

    Args:
        rows: documents in the batch, all of one length.
    """
    states, layers = reader.transform(batch.states), reader.translators.layers
    names = ("divergence", "cross_entropy", "native")
    found = {name: np.empty((states.shape[0], layers, layers, rows)) for name in names}
    for applied in range(layers):
        everywhere = states[:, applied : applied + 1].expand(-1, layers, -1, -1)
        translated = reader.translators(everywhere)
        for name, values in readings(translated, unembedding, batch).items():
            found[name][:, :, applied] = by_row(values, rows)
        native = torch.empty_like(batch.final)
        for seed, _, log_q in log_probabilities(translated[:, applied : applied + 1], unembedding):
            native[seed] = log_q[0].exp()
        against = divergence(translated, unembedding, Batch(translated, native, batch.following)) / math.log(2)
        found["native"][:, :, applied] = by_row(against, rows)
    return found


@torch.no_grad()
def calibrated(reader: Reader, calibration: Calibration, unembedding: Unembedding, batch: Batch, rows: int) -> dict[str, Matrix]:
    """The same with each pair's scale and shift: `divergence` and `cross_entropy`. Cells that are no pair are not a number."""
    states, layers = reader.transform(batch.states), reader.translators.layers
    found = {name: np.full((states.shape[0], layers, layers, rows), np.nan) for name in ("divergence", "cross_entropy")}
    for fitted in range(1, layers - 1):
        moved = calibration.translate(reader.translators, states, fitted)
        for name, values in readings(moved, unembedding, batch).items():
            found[name][:, fitted, fitted + 1 :] = by_row(values, rows)
    return found


def prior(batch: Batch) -> Float64[np.ndarray, " seed"]:
    """K0 = E KL(p_L || E p_L) in bits: what a model knows beyond the mean of its predictions, which needs no input."""
    mean = batch.final.double().mean(1, keepdim=True)
    cross = -torch.special.xlogy(batch.final.double(), mean).sum(-1)
    return ((cross.mean(1) + batch.negative_entropy.double().mean(1)) / math.log(2)).numpy()


# What matrices say


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
