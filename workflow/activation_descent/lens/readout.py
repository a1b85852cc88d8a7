"""Reading states as predictions: a model's own unembedding, and how far what it says is from the model's final prediction.

States of several models of one shape stand side by side (`seed`); all layers go through one product. Logits are never kept: values and
gradients are computed part by part, so that memory does not grow with layers times vocabulary.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from jaxtyping import Float, Int
from torch import Tensor

States = Float[Tensor, "seed layer token feature"]
Probabilities = Float[Tensor, "seed token word"]
ByToken = Float[Tensor, "seed layer token"]

CHUNK = 1 << 18  # logits computed at once: what fits the caches, and a bound on memory where the vocabulary is large
FEWEST = 64  # rows that are worth a product


@dataclass(frozen=True)
class Unembedding:
    """The last normalisation and the unembedding of models of one shape: `logits = normalise(h) weight^T + bias`.

    Scale and shift of the normalisation are folded into weight and bias, which is exact.

    Attributes:
        norm: "layer" (LayerNorm), "rms" (root mean square) or "none".
        epsilon: of the normalisation.
    """

    weight: Float[Tensor, "seed word feature"]
    bias: Float[Tensor, "seed word"]
    norm: str
    epsilon: float = 1e-5

    def normalise(self, states: Float[Tensor, "... feature"]) -> Float[Tensor, "... feature"]:
        """x of `logits = x weight^T + bias`: scale and shift are in weight and bias."""
        width = states.shape[-1:]
        match self.norm:
            case "layer":
                return F.layer_norm(states, width, eps=self.epsilon)
            case "rms":
                return F.rms_norm(states, width, eps=self.epsilon)
        return states

    def of(self, seed: int) -> "Unembedding":
        """That of one model."""
        alone = slice(seed, seed + 1)
        return Unembedding(self.weight[alone], self.bias[alone], self.norm, self.epsilon)

    def logits(self, states: States) -> Float[Tensor, "seed layer token word"]:
        """Logits of every layer's states; all at once, so for few tokens."""
        return self.normalise(states) @ self.weight[:, None].mT + self.bias[:, None, None]


@dataclass(frozen=True)
class Batch:
    """States of some tokens, recorded once and read by every kind of translator.

    Attributes:
        states: h_0 to h_{L-1}, what enters each block.
        final: p_L, the model's own prediction.
        following: the token that came next.
    """

    states: States
    final: Probabilities
    following: Int[Tensor, "seed token"]

    @cached_property
    def negative_entropy(self) -> Float[Tensor, "seed token"]:
        """E log p_L of each token, in nats."""
        return torch.special.xlogy(self.final, self.final).sum(-1)

    def parts(self, number: int) -> Iterator["Batch"]:
        """The tokens in parts of one size, one after the other."""
        size = self.final.shape[1] // number
        for first in range(0, number * size, size):
            part = slice(first, first + size)
            yield Batch(self.states[:, :, part].contiguous(), self.final[:, part].contiguous(), self.following[:, part])


# Distances between predictions


class _Divergence(torch.autograd.Function):
    """KL(target || softmax(normalise(h) weight^T + bias)) of each token, with its gradient by h from the same pass.

    With x = normalise(h): d KL / d x = (softmax - target) weight, and the cross term is x . (target weight), so that only logits and
    their exponentials are as wide as the vocabulary.
    """

    @staticmethod
    def forward(context, states, unembedding, target, negative_entropy):
        x, factor = _normalise(states, unembedding)
        weight, bias = unembedding.weight, unembedding.bias
        towards = torch.bmm(target, weight)  # seed token feature
        constant = negative_entropy - torch.einsum("stw,sw->st", target, bias)
        cross = torch.linalg.vecdot(x, towards[:, None])
        normaliser = x.new_empty(x.shape[:-1])  # in one piece, whatever the layout of the states
        gradient = x.new_empty(x.shape) if context.needs_input_grad[0] else None
        for seed, layers in _slices(x, weight.shape[1]):
            for rows, logs, slope in _rows(x, normaliser, gradient, seed, layers, weight.shape[1]):
                masses = torch.addmm(bias[seed], rows, weight[seed].T)
                largest = masses.amax(1, keepdim=True)
                total = masses.sub_(largest).exp_().sum(1, keepdim=True)
                logs.copy_((total.log() + largest)[:, 0])
                if slope is not None:
                    torch.mm(masses, weight[seed], out=slope).div_(total)
        if gradient is not None:
            gradient -= towards[:, None]
            gradient = _through_norm(gradient, x, factor, unembedding)
        context.save_for_backward(gradient)
        return normaliser - cross + constant[:, None]

    @staticmethod
    def backward(context, outer):
        (gradient,) = context.saved_tensors
        return outer[..., None] * gradient, None, None, None


def _normalise(states: States, unembedding: Unembedding) -> tuple[States, Tensor | None]:
    """x, and the factor that made it from the (centred) states."""
    if unembedding.norm == "none":
        return states, None
    if unembedding.norm == "layer":
        states = states - states.mean(-1, keepdim=True)
    factor = (torch.linalg.vecdot(states, states) / states.shape[-1] + unembedding.epsilon).rsqrt()[..., None]
    return states * factor, factor


def _through_norm(gradient: States, x: States, factor: Tensor | None, unembedding: Unembedding) -> States:
    """The gradient by the states from that by x: what points along x is taken off, of LayerNorm the mean, too."""
    if factor is None:
        return gradient
    along = torch.linalg.vecdot(gradient, x)[..., None] / x.shape[-1]
    if unembedding.norm == "layer":
        gradient = gradient - gradient.mean(-1, keepdim=True)
    return torch.addcmul(gradient, x, along, value=-1).mul_(factor)


def _slices(x: States, words: int) -> Iterator[tuple[int, slice]]:
    """Model by model, as many layers at once as `CHUNK` allows."""
    seeds, layers, tokens, _ = x.shape
    step = max(1, CHUNK // (tokens * words))
    for seed in range(seeds):
        for first in range(0, layers, step):
            yield seed, slice(first, min(first + step, layers))


def _rows(x: States, normaliser: Tensor, gradient: Tensor | None, seed: int, layers: slice, words: int) -> Iterator[tuple]:
    """A slice, row by row, as many at once as `CHUNK` allows; what is written to are views."""
    rows = x[seed, layers].flatten(0, 1)
    written = [None if one is None else one[seed, layers].view(len(rows), *one.shape[3:]) for one in (normaliser, gradient)]
    size = max(FEWEST, CHUNK // words)
    for first in range(0, len(rows), size):
        yield rows[first : first + size], *(None if one is None else one[first : first + size] for one in written)


def divergence(states: States, unembedding: Unembedding, batch: Batch) -> ByToken:
    """KL(p_L || softmax U(h)) of each token, in nats."""
    return _Divergence.apply(states, unembedding, batch.final, batch.negative_entropy)


def log_probabilities(states: States, unembedding: Unembedding) -> Iterator[tuple[int, slice, Float[Tensor, "layer token word"]]]:
    """log softmax U(h), part by part: model, layers, values."""
    x = unembedding.normalise(states)
    for seed, layers in _slices(x, unembedding.weight.shape[1]):
        logits = torch.addmm(unembedding.bias[seed], x[seed, layers].flatten(0, 1), unembedding.weight[seed].T)
        yield seed, layers, logits.view(-1, x.shape[2], logits.shape[1]).log_softmax(-1)


@torch.no_grad()
def readings(states: States, unembedding: Unembedding, batch: Batch) -> dict[str, ByToken]:
    """Of each token in bits: `divergence` KL(p_L || softmax U(h)), and `cross_entropy` with the token that came next."""
    found = {name: states.new_empty(states.shape[:3]) for name in ("divergence", "cross_entropy")}
    negative_entropy = batch.negative_entropy
    for seed, layers, log_q in log_probabilities(states, unembedding):
        cross = -torch.einsum("ltw,tw->lt", log_q, batch.final[seed])
        found["divergence"][seed, layers] = cross + negative_entropy[seed]
        next_token = batch.following[seed].expand(len(log_q), -1)[..., None]
        found["cross_entropy"][seed, layers] = -log_q.gather(-1, next_token)[..., 0]
    return {name: values / math.log(2) for name, values in found.items()}
