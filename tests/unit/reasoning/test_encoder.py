"""Encoders against one network, one example and one head at a time."""

import math

import numpy as np
import pytest
import torch

from activation_descent.reasoning import encoder as encoders
from activation_descent.reasoning.encoder import Encoder
from activation_descent.side_by_side import Weights

BATCH, TOKENS, KEYS = 4, 5, 3


def make(layers=(3, 3, 1), tied=False):
    encoder = Encoder(layers, inputs=6, outputs=2, width=8, heads=2, mlp_width=10, tied=tied)
    weights = Weights(encoder.shapes(), [np.random.default_rng(seed) for seed in range(len(layers))])
    with torch.no_grad():
        weights.flat.add_(torch.randn(weights.flat.shape, generator=torch.Generator().manual_seed(0)) / 5)  # biases, too
    return encoder, weights


def tokens(networks):
    return torch.randn(networks, BATCH, TOKENS, 6, generator=torch.Generator().manual_seed(1))


def plain(encoder, weights, raw, network):
    """What one network says of one example after another."""

    def normal(x):
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()

    said = []
    for example in raw:
        x = example @ weights["embedding"][network]
        for layer in range(encoder.layers[network]):
            w = {name: weights[f"{0 if encoder.tied else layer}.{name}"][network] for name in encoders.BLOCK}
            h, size = normal(x), encoder.width // encoder.heads
            q, kv = h @ w["query"] + w["query_bias"], h[:KEYS] @ w["key_value"] + w["key_value_bias"]
            k, v = kv[:, : encoder.width], kv[:, encoder.width :]
            heads = []
            for head in range(encoder.heads):
                own = slice(head * size, (head + 1) * size)
                mass = (q[:, own] @ k[:, own].T / math.sqrt(size)).exp()
                heads.append(mass / mass.sum(1, keepdim=True) @ v[:, own])
            x = x + torch.cat(heads, 1) @ w["output"]
            x = x + (x @ w["up"] + w["up_bias"]).clamp(min=0) @ w["down"]
        said.append(normal(x) @ weights["readout"][network] + weights["readout_bias"][network])
    return torch.stack(said)


@pytest.mark.parametrize("together", [1, 2, 4])
@pytest.mark.parametrize("tied", [False, True])
def test_networks_side_by_side_are_networks_alone(together, tied):
    encoder, weights = make(tied=tied)
    raw = tokens(3)
    states = encoders.run(weights, encoder, encoders.embed(weights, encoder, raw), KEYS, together)
    assert [len(state) for state in states] == [3, 3, 2, 2]
    said = encoders.read(weights, encoder, encoders.final(encoder, states))
    for network in range(3):
        assert torch.allclose(said[network], plain(encoder, weights, raw[network], network), atol=1e-4)


def test_tied_layers_have_one_set_of_weights():
    _, weights = make(tied=True)
    assert {name for name in weights.named if "." in name} == {f"0.{name}" for name in encoders.BLOCK}


def test_shallow_networks_come_after_deep_ones():
    with pytest.raises(ValueError, match="deepest first"):
        Encoder((1, 2), 6, 2, 8, 2, 10)
    with pytest.raises(ValueError, match="3 heads"):
        Encoder((2, 1), 6, 2, 8, 3, 10)
