"""Transformer encoders, side by side: what knapsack and logic are trained on, and what the logic construction is written in.

A block of L is

    x <- x + concat_h(softmax(q k^T / sqrt(d_h)) v) W_O,   q, k, v from the normalised x
    x <- x + relu(x W_1 + b_1) W_2

with one normalisation, before attention, so that the perceptron sees the sums that a construction leaves it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from jaxtyping import Float
from torch import Tensor

from activation_descent.side_by_side import Shape, Weights, dense, normalise

BLOCK = ("query", "query_bias", "key_value", "key_value_bias", "output", "up", "up_bias", "down")

EVERY_TOKEN = slice(None)

States = Float[Tensor, "network batch token feature"]
Reaching = Float[Tensor, "_ batch _ feature"]  # states of the networks that reach a layer, of the tokens that are wanted


@dataclass(frozen=True)
class Encoder:
    """Architecture of networks side by side.

    Attributes:
        layers: of each network, the deepest first.
        inputs: entries of a token's raw features.
        outputs: entries that are read from a token.
        width, heads, mlp_width: of a block.
        tied: one block's weights for all layers.
    """

    layers: tuple[int, ...]
    inputs: int
    outputs: int
    width: int
    heads: int
    mlp_width: int
    tied: bool = False

    def __post_init__(self):
        if list(self.layers) != sorted(self.layers, reverse=True):
            raise ValueError(f"networks stand in the order of their depth, the deepest first: {self.layers}")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} does not divide into {self.heads} heads")

    def reaching(self, layer: int) -> int:
        """Networks that have a layer, from 0."""
        return sum(depth > layer for depth in self.layers)

    def shapes(self) -> dict[str, Shape]:
        """Weights by name. Branches of the residual stream start shorter the more of them there are."""
        d, m, deepest = self.width, self.mlp_width, self.layers[0]
        found = {"embedding": Shape((self.inputs, d), 1.0)}
        for layer in range(1 if self.tied else deepest):
            n = self.reaching(layer)
            branch = 1 / math.sqrt(2 * deepest)
            found |= {
                f"{layer}.query": Shape((d, d), 1 / math.sqrt(d), n),
                f"{layer}.query_bias": Shape((1, d), 0.0, n),
                f"{layer}.key_value": Shape((d, 2 * d), 1 / math.sqrt(d), n),
                f"{layer}.key_value_bias": Shape((1, 2 * d), 0.0, n),
                f"{layer}.output": Shape((d, d), branch / math.sqrt(d), n),
                f"{layer}.up": Shape((d, m), 1 / math.sqrt(d), n),
                f"{layer}.up_bias": Shape((1, m), 0.0, n),
                f"{layer}.down": Shape((m, d), branch / math.sqrt(m), n),
            }
        return found | {"readout": Shape((d, self.outputs), 1 / math.sqrt(d)), "readout_bias": Shape((1, self.outputs))}


def embed(weights: Weights, encoder: Encoder, raw: Float[Tensor, "network batch token input"]) -> States:
    """Tokens of each network."""
    n, b, t, _ = raw.shape
    return dense(raw.reshape(n, b * t, -1), weights["embedding"]).view(n, b, t, encoder.width)


def run(weights: Weights, encoder: Encoder, x: States, keys: int, together: int = 1, read: slice = EVERY_TOKEN) -> list[Reaching]:
    """The states after each layer, of the networks that reach it; the tokens themselves first.

    Args:
        keys: how many tokens, the first ones, are attended to.
        together: examples that are put into one product behind a mask; a divisor of the batch. It changes the time and not the result.
        read: tokens that are wanted of the deepest layer, all that it computes; with `together` all of them.
    """
    states = [x]
    mask = None
    if together > 1:
        own = torch.block_diag(*[torch.ones(x.shape[2], keys)] * together)
        mask = torch.where(own > 0, 0.0, -math.inf)
    for layer in range(encoder.layers[0]):
        x = x[: encoder.reaching(layer)]
        block = {name: weights[f"{0 if encoder.tied else layer}.{name}"][: len(x)] for name in BLOCK}
        wanted = read if layer == encoder.layers[0] - 1 else EVERY_TOKEN
        x = x[:, :, wanted] + attend(block, encoder, x, keys, together, mask, wanted)
        n, b, t, d = x.shape
        hidden = dense(x.view(n, b * t, d), block["up"], block["up_bias"]).relu()
        x = x + dense(hidden, block["down"]).view(n, b, t, d)
        states.append(x)
    return states


def attend(
    block: Mapping[str, Tensor], encoder: Encoder, x: States, keys: int, together: int, mask: Tensor | None, wanted: slice
) -> Float[Tensor, "network batch wanted feature"]:
    """What attention adds to the tokens that are wanted."""
    normal = normalise(x)
    asking = normal[:, :, wanted]
    (n, b, t, d), heads = asking.shape, encoder.heads
    query = dense(asking.reshape(n, b * t, d), block["query"], block["query_bias"])
    source = normal[:, :, :keys].reshape(n, b * keys, d)
    key, value = dense(source, block["key_value"], block["key_value_bias"]).chunk(2, -1)

    def split(y: Tensor, tokens: int) -> Tensor:
        return y.reshape(n * b // together, together * tokens, heads, d // heads).transpose(1, 2)

    mixed = F.scaled_dot_product_attention(split(query, t), split(key, keys), split(value, keys), attn_mask=mask)
    return dense(mixed.transpose(1, 2).reshape(n, b * t, d), block["output"]).view(n, b, t, d)


def final(encoder: Encoder, states: Sequence[Reaching]) -> Reaching:
    """The state of each network after its last layer."""
    pieces = [states[depth][encoder.reaching(depth) : encoder.reaching(depth - 1)] for depth in sorted(set(encoder.layers))]
    return torch.cat(pieces[::-1])


def read(weights: Weights, encoder: Encoder, x: States) -> Float[Tensor, "network batch token output"]:
    """Outputs of tokens."""
    n, b, t, d = x.shape
    said = dense(normalise(x).reshape(n, b * t, d), weights["readout"], weights["readout_bias"])
    return said.view(n, b, t, encoder.outputs)
