"""Are updates of predictions driven by errors? (predictive coding, D1 and D3)

At position t and layer l a lens predicts p_t^l for x_{t+1}; c_t^l is the centred log p_t^l. Predictive coding says that a layer compares
earlier predictions with the tokens that followed and passes the errors e(x_{s+1}) - p_s^l on. So one regression, pooled over positions and
words v, tells it from copying, which passes on what followed and nothing of what was predicted:

    c_t^{l+1} - c_t^l = sum_k [ b_k^+ sum_{s<t} alpha^k_ts e(x_{s+1}) + b_k^- sum_{s<t} alpha^k_ts p_s^l ] + controls + noise
    lambda_k = -b_k^- / b_k^+          1: errors, 0: copying

    kernels    same      alpha^k_ts = 1[x_s = x_t], rows sum to 1 or are empty
               uniform   alpha^k_ts = 1 / t
    controls   c_t^l, p_t^l, e(x_t), log unigram

c_t^0 as a further control (`WITH_FIRST`) is reported and not judged by, because it hides what is looked for. In a model that does
correct errors layer by layer, c_t^l - c_t^0 is the sum of the corrections so far and so nearly the next one. It takes four fifths of the
drives' gain from the positive control (.67 to .14). The first layer is left out: p_s^0 is a function of x_s. Sums of products are kept for
each document, so that documents can be resampled and layers pooled without another look at the data.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from jaxtyping import Float, Int
from torch import Tensor

KERNELS = ("same", "uniform")
DRIVES = tuple(f"{kernel}_{part}" for kernel, part in product(KERNELS, ("followed", "predicted")))  # b^+ and b^- of each kernel
CONTROLS = ("own", "own_probability", "token", "unigram")
WITH_FIRST = (*CONTROLS, "first")
COLUMNS = (*DRIVES, *WITH_FIRST, "update")
FIRST_POSITION = 8  # before it there is too little to compare
RIDGE = 1e-4  # on columns of unit length
CHUNK = 8  # documents at once

Predictions = Float[Tensor, "state row token word"]  # log-probabilities at the L + 1 states of the stream
Products = Float[Tensor, "row half column column"]


def readability(log_p: Predictions, tokens: Int[Tensor, "row token"]) -> dict[str, Float[Tensor, " state"]]:
    """What the lens reads at each state, means over positions that have a successor.

    Returns:
        divergence      KL(p^L || p^l) in bits
        cross_entropy   of the next token in bits
        accuracy        how often the next token is the most probable one
    """
    last, following = log_p[-1, :, :-1], tokens[:, 1:]
    found = {"divergence": [], "cross_entropy": [], "accuracy": []}
    for state in log_p[:, :, :-1]:
        found["divergence"].append((last.exp() * (last - state)).sum(-1).mean() / np.log(2))
        found["cross_entropy"].append(-state.gather(-1, following[..., None]).mean() / np.log(2))
        found["accuracy"].append((state.argmax(-1) == following).float().mean())
    return {name: torch.stack(values) for name, values in found.items()}


# The regression


def kernels(
    tokens: Int[Tensor, "row token"], read: Int[Tensor, "row token"] | None = None
) -> dict[str, Float[Tensor, "row token token"]]:
    """alpha of each kernel: rows are positions t, columns positions s < t.

    Args:
        read: the documents of positions s, if they are others than those of t.
    """
    read = tokens if read is None else read
    earlier = torch.ones(tokens.shape[1], tokens.shape[1]).tril(-1)
    same = (tokens[:, :, None] == read[:, None, :]) * earlier
    every = {"same": same, "uniform": earlier.expand_as(same)}
    return {name: every[name] / every[name].sum(-1, keepdim=True).clamp(min=1) for name in KERNELS}


def products(
    log_p: Predictions, tokens: Int[Tensor, "row token"], layer: int, unigram: Float[Tensor, " word"], other_context: bool = False
) -> Products:
    """Sums of products of all columns over positions and words, for each document and each half of its positions.

    Args:
        layer: l, whose block leads from state l to l + 1.
        unigram: log frequencies of the words.
        other_context: read tokens and predictions of another document in place of the earlier positions; a null.
    """
    found = []
    for rows in torch.arange(len(tokens)).split(CHUNK):
        read = (rows + 1) % len(tokens) if other_context else rows
        columns = _columns(log_p[:, rows], tokens[rows], log_p[layer, read], tokens[read], layer, unigram)
        halves = columns[:, :, FIRST_POSITION:].tensor_split(2, dim=2)
        flat = [half.flatten(2).double() for half in halves]
        found.append(torch.stack([half @ half.mT for half in flat], 1))
    return torch.cat(found)


def _columns(
    log_p: Predictions,
    tokens: Int[Tensor, "row token"],
    read_log_p: Float[Tensor, "row token word"],
    read: Int[Tensor, "row token"],
    layer: int,
    unigram: Float[Tensor, " word"],
) -> Float[Tensor, "row column token word"]:
    words = log_p.shape[-1]
    # What followed s; the last position has no successor, and no kernel reads it
    followed = F.pad(F.one_hot(read[:, 1:], words).to(log_p.dtype), (0, 0, 0, 1))
    predicted = read_log_p.exp()
    drives = [kernel.to(log_p.dtype) @ part for kernel in kernels(tokens, read).values() for part in (followed, predicted)]
    controls = [
        log_p[layer],
        log_p[layer].exp(),
        F.one_hot(tokens, words).to(log_p.dtype),
        unigram.expand_as(log_p[layer]),
        log_p[0],
    ]
    columns = torch.stack([*drives, *controls, log_p[layer + 1] - log_p[layer]], 1)
    return columns - columns.mean(-1, keepdim=True)


@dataclass(frozen=True)
class Regression:
    """Coefficients and shares of explained variance; leading axes are resamples or none.

    Attributes:
        weights: of `DRIVES`.
        gain: R^2 with all drives minus R^2 of the controls alone.
        kernel_gain: the same with one kernel's drives, in the order of `KERNELS`.
    """

    weights: Float[Tensor, "*batch drive"]
    gain: Float[Tensor, "*batch"]
    kernel_gain: Float[Tensor, "*batch kernel"]

    @property
    def error_ratio(self) -> Float[Tensor, "*batch kernel"]:
        """lambda of each kernel."""
        return -self.weights[..., 1::2] / self.weights[..., 0::2]


def regress(total: Float[Tensor, "*batch column column"], controls: Sequence[str] = CONTROLS) -> Regression:
    """Ridge regression on columns scaled to unit length, from summed products."""
    weights, full = _ridge(total, (*DRIVES, *controls))
    _, alone = _ridge(total, controls)
    each = [_ridge(total, (*DRIVES[2 * place : 2 * place + 2], *controls))[1] - alone for place in range(len(KERNELS))]
    return Regression(weights[..., : len(DRIVES)], full - alone, torch.stack(each, -1))


def _ridge(
    total: Float[Tensor, "*batch column column"], names: Sequence[str]
) -> tuple[Float[Tensor, "*batch name"], Float[Tensor, "*batch"]]:
    chosen = [COLUMNS.index(name) for name in names]
    length = total.diagonal(dim1=-2, dim2=-1)[..., chosen].sqrt().clamp(min=1e-12)
    gram = total[..., chosen, :][..., chosen] / (length[..., :, None] * length[..., None, :])
    cross, square = total[..., chosen, -1] / length, total[..., -1, -1]
    weights = torch.linalg.solve(gram + RIDGE * torch.eye(len(chosen), dtype=gram.dtype), cross)
    rest = square - 2 * (weights * cross).sum(-1) + (weights * (gram @ weights[..., None])[..., 0]).sum(-1)
    return weights / length, 1 - rest / square
