"""Nulls by hand, and the metric on streams whose truth is known."""

import math

import numpy as np
import pytest
import torch

from activation_descent.lens import nulls, transfer
from activation_descent.lens.readout import Batch, Unembedding
from activation_descent.lens.synthetic import Trial, stream_rows
from activation_descent.lens.translators import Reader, Translators

SEEDS, LAYERS, TOKENS, WIDTH = 2, 4, 7, 5


def states():
    return torch.randn(SEEDS, LAYERS, TOKENS, WIDTH, generator=torch.Generator().manual_seed(0))


def test_rotations_are_orthogonal_and_uniform():
    found = nulls.rotations(np.random.default_rng(0), 40, 50, 3)
    torch.testing.assert_close(found @ found.mT, torch.eye(3).expand_as(found), atol=1e-5, rtol=0)
    # Of a uniform orthogonal matrix every entry has mean 0 and variance 1/d; without the signs the diagonal would not
    assert abs(float(found.diagonal(dim1=-2, dim2=-1).mean())) < 5 / math.sqrt(3 * 6000)
    assert float(found.square().mean((0, 1)).sub(1 / 3).abs().max()) < 0.03


def test_rotated_states_keep_their_lengths():
    by = nulls.rotations(np.random.default_rng(1), SEEDS, LAYERS, WIDTH)
    found = nulls.rotated(by)(states())
    for seed, layer in np.ndindex(SEEDS, LAYERS):
        wanted = torch.stack([by[seed, layer] @ h for h in states()[seed, layer]])
        torch.testing.assert_close(found[seed, layer], wanted)
    torch.testing.assert_close(found.norm(dim=-1), states().norm(dim=-1))


def test_carried_along_by_hand():
    by, h = nulls.rotations(np.random.default_rng(2), SEEDS, LAYERS, WIDTH), states()
    found = nulls.carried_along(by)(h)
    for seed, token in np.ndindex(SEEDS, TOKENS):
        stream = h[seed, 0, token]
        torch.testing.assert_close(found[seed, 0, token], stream)
        for layer in range(LAYERS - 1):
            stream = stream + by[seed, layer] @ (h[seed, layer + 1, token] - h[seed, layer, token])
            torch.testing.assert_close(found[seed, layer + 1, token], stream, atol=1e-5, rtol=1e-5)
    identity = torch.eye(WIDTH).expand(SEEDS, LAYERS, -1, -1)
    torch.testing.assert_close(nulls.carried_along(identity)(h), h, atol=1e-5, rtol=1e-5)


def test_rotation_leaves_what_lenses_of_their_own_read():
    """A_l Q_l^T reads the rotated states as A_l reads the plain ones."""
    rng = torch.Generator().manual_seed(3)
    by = nulls.rotations(np.random.default_rng(3), SEEDS, LAYERS, WIDTH)
    weight, bias = (
        0.3 * torch.randn(SEEDS, LAYERS, WIDTH, WIDTH, generator=rng),
        torch.randn(SEEDS, LAYERS, 1, WIDTH, generator=rng),
    )
    back = (torch.eye(WIDTH) + weight) @ by.mT - torch.eye(WIDTH)
    unembedding = Unembedding(torch.randn(SEEDS, 9, WIDTH, generator=rng), torch.zeros(SEEDS, 9), "layer")
    batch = Batch(
        states(), torch.randn(SEEDS, TOKENS, 9, generator=rng).softmax(-1), torch.zeros(SEEDS, TOKENS, dtype=torch.long)
    )
    plain = Reader(Translators("tuned", {"weight": weight, "bias": bias}, LAYERS))
    rotated = Reader(Translators("tuned", {"weight": back, "bias": bias}, LAYERS), nulls.rotated(by))
    at_home = [
        transfer.matrices(reader, unembedding, batch, 1)["divergence"][:, np.arange(LAYERS), np.arange(LAYERS)]
        for reader in (plain, rotated)
    ]
    np.testing.assert_allclose(*at_home, atol=1e-5)


# Streams whose truth is known


def test_what_synthetic_streams_hold():
    shape = nulls.Synthetic(width=12, words=9, layers=3)
    for kind in nulls.SYNTHETIC:
        world = nulls.World.draw(kind, shape, np.random.default_rng(0), 2)
        batch = world.batch(np.random.default_rng(1), 4000)
        assert batch.states.shape == (2, 3, 4000, 12)
        # Tokens are drawn from the final prediction
        frequency = torch.zeros(2, 9).scatter_add_(1, batch.following, torch.ones(2, 4000)) / 4000
        assert float((frequency - batch.final.mean(1)).abs().max()) < 0.03
        norms = batch.states.square().mean((2, 3)).sqrt()
        if kind in ("additive", "carried"):  # a third of the features after each layer
            np.testing.assert_allclose(norms, np.tile(np.sqrt([1 / 3, 2 / 3, 1]), (2, 1)), atol=0.12)
        else:  # sigma = 2, 1.2, .72
            np.testing.assert_allclose(norms, np.tile(np.sqrt([5, 2.44, 1.5184]), (2, 1)), atol=0.05)
    additive = nulls.World.draw("additive", shape, np.random.default_rng(0), 2)
    batch = additive.batch(np.random.default_rng(1), 50)
    # Once written, features stay; after the last layer all are there and the head reads them
    assert torch.equal(batch.states[:, 1, :, 0::3], batch.states[:, 0, :, 0::3])
    assert (batch.states[:, 0, :, 1::3] == 0).all()
    torch.testing.assert_close(additive.unembedding.logits(batch.states[:, -1:])[:, 0].softmax(-1), batch.final)


@pytest.mark.parametrize(
    ("kind", "least", "most"),
    [("iterative", 0.5, 1.0), ("additive", 0.6, 1.0), ("carried", -math.inf, -0.3), ("drifting", -math.inf, -0.3)],
)
def test_forward_gain_tells_the_truth(kind, least, most):
    """Bounds of the specification, section 3.3."""
    rows = list(
        stream_rows(kind, nulls.Synthetic(), Trial(seeds=2, steps=150, calibration_steps=80, samples=128, evaluation=1000), 0)
    )
    values = {(row["metric"], row["seed"]): row["value"] for row in rows}
    for seed in range(2):
        assert least <= values["calibrated_gain", seed] <= most
        assert (values["forward_gain", seed] > 0) == (least > 0)


def test_a_shared_lens_ranks_the_streams_the_wrong_way_round():
    """It reads most of the carried stream, in which nothing is shared, and less than nothing of a drifting basis."""
    trial = Trial(seeds=1, steps=150, calibration_steps=5, samples=128, evaluation=1000)
    shared = {}
    for kind in ("carried", "drifting"):
        rows = stream_rows(kind, nulls.Synthetic(), trial, 0)
        shared[kind] = next(row["value"] for row in rows if row["metric"] == "shared_information")
    assert shared["carried"] > 0.5
    assert shared["drifting"] < 0.2
