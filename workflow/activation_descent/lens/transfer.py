"""What a lens that was fitted at one layer reads at another: the matrices that `lens.gains` speaks of.

    T_ij = E KL(p_L || T_i(h_j)), in bits                   translator of layer i, states of layer j
    T_ij = E KL(p_L || T_i(s_ij h_j + b_ij)), calibrated    a scale and a shift for each pair

The authors' code has another penalty by KL, between the two lenses: KL(T_j(h_j) || T_i(h_j)). It is kept apart (`native`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from activation_descent.adam import Adam
from activation_descent.lens.gains import Matrix, pairs
from activation_descent.lens.readout import Batch, States, Unembedding, divergence, log_probabilities, readings
from activation_descent.lens.translators import Fit, Name, Reader, Stream, Translators


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
        """Scales of one and shifts of zero, which change nothing."""
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
    adam = Adam(parameters)
    for step in range(settings.steps):
        for batch in stream(step):
            for name, reader in readers.items():
                states = reader.transform(batch.states)
                for fitted in range(1, reader.translators.layers - 1):
                    moved = found[name].translate(reader.translators, states, fitted)
                    divergence(moved, unembedding, batch).mean(-1).sum().backward()
        adam.step(settings.learning_rate * (1 - step / settings.steps))
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
