"""Streams whose truth is known, and nulls made from a model's own states.

Nulls, each with its own orthogonal matrices, drawn uniformly (Haar):

    rotation       h_l -> Q_l h_l: what a layer knows and how long its states are stay, the common basis goes. A shared lens that still
                   reads them shows how many codes one map has room for.
    carry-along    h_0 + sum_{k<l} Q_k F_k: each update is written once, in a basis of its own, and carried along by the residual
                   connections. Lenses go on working, although no layer refines what another wrote.

Synthetic streams over features z ~ N(0, I) with p = softmax(A z), one row for each sample, no normalisation:

    iterative   h_l = (z + sigma_l xi_l), sigma falling                   one estimate that gets better, in one basis
    additive    h_l = sum_{k<=l} P_k z, P_k the features of layer k       each layer adds its features where the head reads them
    carried     h_l = sum_{k<=l} Q_k P_k z                                 each layer adds its features in a basis of its own
    drifting    h_l = Q_l (z + sigma_l xi_l)                               iterative, in a basis that changes
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from activation_descent.lens.readout import Batch, States, Unembedding
from activation_descent.lens.translators import Transform

SYNTHETIC = ("iterative", "additive", "carried", "drifting")
Rotations = Float[Tensor, "seed layer feature feature"]


def rotations(rng: np.random.Generator, seeds: int, layers: int, width: int) -> Rotations:
    """Orthogonal matrices, drawn uniformly: Q of a Gaussian matrix, with the signs of R's diagonal (Mezzadri 2007)."""
    q, r = np.linalg.qr(rng.standard_normal((seeds, layers, width, width)))
    q = q * np.sign(np.diagonal(r, axis1=-2, axis2=-1))[..., None, :]
    return torch.from_numpy(q.astype(np.float32))


def rotated(by: Rotations) -> Transform:
    """h_l -> Q_l h_l."""
    return lambda states: states @ by.mT


def carried_along(by: Rotations) -> Transform:
    """h_0 + sum_{k<l} Q_k (h_{k+1} - h_k), with `by` for the updates of all layers but the last."""

    def transform(states: States) -> States:
        updates = states.diff(dim=1) @ by[:, : states.shape[1] - 1].mT
        return torch.cat([states[:, :1], states[:, :1] + updates.cumsum(1)], 1)

    return transform


@dataclass(frozen=True)
class Synthetic:
    """The size of a synthetic stream.

    Attributes:
        spread: standard deviation of the logits A z.
        noise: sigma_0, of the first layer; it falls by `falling` from layer to layer.
    """

    width: int = 36
    words: int = 50
    layers: int = 6
    spread: float = 3.0
    noise: float = 2.0
    falling: float = 0.6


@dataclass(frozen=True)
class World:
    """One synthetic stream for several seeds: the head A and the bases."""

    kind: str
    shape: Synthetic
    head: Float[Tensor, "seed word feature"]
    bases: Rotations

    @classmethod
    def draw(cls, kind: str, shape: Synthetic, rng: np.random.Generator, seeds: int) -> "World":
        """Random head and bases for each seed."""
        head = rng.standard_normal((seeds, shape.words, shape.width)) * shape.spread / math.sqrt(shape.width)
        bases = rotations(rng, seeds, shape.layers, shape.width)
        return cls(kind, shape, torch.from_numpy(head.astype(np.float32)), bases)

    @property
    def unembedding(self) -> Unembedding:
        """The head behind a LayerNorm."""
        return Unembedding(self.head, torch.zeros(self.head.shape[:2]), "layer")

    def batch(self, rng: np.random.Generator, samples: int) -> Batch:
        """Fresh samples."""
        shape, seeds = self.shape, len(self.head)
        draw = partial(rng.standard_normal, dtype=np.float32)
        z = torch.from_numpy(draw((seeds, 1, samples, shape.width)))
        if self.kind in ("iterative", "drifting"):
            sigma = shape.noise * shape.falling ** torch.arange(shape.layers).float()
            noise = torch.from_numpy(draw((seeds, shape.layers, samples, shape.width)))
            states = z + sigma[:, None, None] * noise
            if self.kind == "drifting":
                states = states @ self.bases.mT
        else:
            own = torch.arange(shape.width) % shape.layers == torch.arange(shape.layers)[:, None]
            parts = z * own[:, None].float()
            states = (parts if self.kind == "additive" else parts @ self.bases.mT).cumsum(1)
        final = self.unembedding.logits(z)[:, 0].softmax(-1)
        choice = torch.from_numpy(rng.random((seeds, samples, 1), dtype=np.float32))
        following = (final.cumsum(-1) < choice).sum(-1).clamp(max=shape.words - 1)
        return Batch(states, final, following)

    def stream(self, make: "partial[np.random.Generator]", samples: int):
        """Batches of a stream, one for each step."""

        def batches(step: int) -> Iterator[Batch]:
            yield self.batch(make(step=step), samples)

        return batches
