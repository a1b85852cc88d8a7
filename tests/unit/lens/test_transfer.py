"""Transfer matrices and forward gain against plain loops and hand calculations."""

import math

import numpy as np
import pytest
import torch

from activation_descent.lens import gains, transfer
from activation_descent.lens.readout import Batch, Unembedding
from activation_descent.lens.transfer import Calibration
from activation_descent.lens.translators import Fit, Reader, Translators

SEEDS, LAYERS, ROWS, TOKENS, WIDTH, WORDS = 2, 4, 3, 5, 6, 11


@pytest.fixture
def scene():
    """Random translators, states and an unembedding."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    tuned = Translators(
        "tuned", {"weight": 0.3 * draw(SEEDS, LAYERS, WIDTH, WIDTH), "bias": draw(SEEDS, LAYERS, 1, WIDTH)}, LAYERS
    )
    unembedding = Unembedding(draw(SEEDS, WORDS, WIDTH), draw(SEEDS, WORDS), "layer")
    tokens = ROWS * TOKENS
    following = torch.randint(WORDS, (SEEDS, tokens), generator=generator)
    batch = Batch(draw(SEEDS, LAYERS, tokens, WIDTH), draw(SEEDS, tokens, WORDS).softmax(-1), following)
    return Reader(tuned), unembedding, batch


def prediction(scene, seed, fitted, applied, token, scale=1.0, shift=0.0):
    reader, unembedding, batch = scene
    parameters = reader.translators.parameters
    h = scale * batch.states[seed, applied, token] + shift
    h = h + parameters["weight"][seed, fitted] @ h + parameters["bias"][seed, fitted, 0]
    return (unembedding.weight[seed] @ torch.nn.functional.layer_norm(h, (WIDTH,)) + unembedding.bias[seed]).softmax(0)


def kl(p, q):
    return float((p * (p / q).log2()).sum())


def test_matrices(scene):
    batch, found = scene[2], transfer.matrices(*scene, ROWS)
    for seed, fitted, applied, row in np.ndindex(SEEDS, LAYERS, LAYERS, ROWS):
        sums = np.zeros(3)
        for token in range(row * TOKENS, (row + 1) * TOKENS):
            q, own = prediction(scene, seed, fitted, applied, token), prediction(scene, seed, applied, applied, token)
            sums += kl(batch.final[seed, token], q), -math.log2(q[batch.following[seed, token]]), kl(own, q)
        values = [found[name][seed, fitted, applied, row] for name in ("divergence", "cross_entropy", "native")]
        assert values == pytest.approx(sums / TOKENS, abs=1e-4)


def test_calibrated_cells(scene):
    generator = torch.Generator().manual_seed(1)
    calibration = Calibration(
        1 + torch.rand(SEEDS, 3, 1, 1, generator=generator), torch.randn(SEEDS, 3, 1, WIDTH, generator=generator)
    )
    assert gains.pairs(LAYERS) == [(1, 2), (1, 3), (2, 3)]
    found = transfer.calibrated(scene[0], calibration, *scene[1:], ROWS)["divergence"]
    for seed, (place, (i, j)) in ((seed, pair) for seed in range(SEEDS) for pair in enumerate(gains.pairs(LAYERS))):
        scale, shift = calibration.scale[seed, place, 0, 0], calibration.shift[seed, place, 0]
        wanted = [kl(scene[2].final[seed, t], prediction(scene, seed, i, j, t, scale, shift)) for t in range(ROWS * TOKENS)]
        assert found[seed, i, j].mean() == pytest.approx(np.mean(wanted), abs=1e-4)
    assert np.isnan(found[:, 0]).all()
    assert np.isnan(found[:, 2, 1]).all()


def test_without_calibration_cells_are_those_of_the_matrix(scene):
    initial = Calibration.initial(SEEDS, LAYERS, WIDTH)
    moved, plain = transfer.calibrated(scene[0], initial, *scene[1:], ROWS), transfer.matrices(*scene, ROWS)
    for i, j in gains.pairs(LAYERS):
        np.testing.assert_allclose(moved["divergence"][:, i, j], plain["divergence"][:, i, j], atol=1e-5)


def test_calibration_finds_a_scale_and_a_shift():
    """States of later layers are 3 h + c: scale 1/3 and shift -c/3 bring them back, and the old lens reads them as its own."""
    generator = torch.Generator().manual_seed(2)
    tokens, shift = 400, torch.randn(WIDTH, generator=generator)
    h = torch.randn(1, 1, tokens, WIDTH, generator=generator)
    unembedding = Unembedding(torch.randn(1, WORDS, WIDTH, generator=generator), torch.zeros(1, WORDS), "none")
    final = unembedding.logits(h)[:, 0].softmax(-1)
    batch = Batch(torch.cat([h, h, 3 * h + shift], 1), final, torch.zeros(1, tokens, dtype=torch.long))
    reader = Reader(Translators("tuned", {"weight": torch.zeros(1, 3, WIDTH, WIDTH), "bias": torch.zeros(1, 3, 1, WIDTH)}, 3))
    found = transfer.calibrate({"tuned": reader}, unembedding, lambda step: [batch], Fit("adam", 0.05, 300))["tuned"]
    assert float(found.scale) == pytest.approx(1 / 3, abs=0.01)
    torch.testing.assert_close(found.shift[0, 0, 0], -shift / 3, atol=0.02, rtol=0)
    assert transfer.matrices(reader, unembedding, batch, 1)["divergence"][0, 1, 2, 0] > 0.5
    assert transfer.calibrated(reader, found, unembedding, batch, 1)["divergence"][0, 1, 2, 0] < 0.005


# What matrices say

MATRIX = np.array(
    [
        [2.00, 1.50, 1.40, 1.30],
        [2.50, 1.00, 0.80, 0.90],
        [2.70, 1.20, 0.50, 0.40],
        [2.90, 1.30, 0.60, 0.49],
    ]
)


def test_penalty_and_improvement():
    assert (np.diag(gains.penalty(MATRIX)) == 0).all()
    assert gains.penalty(MATRIX)[1, 3] == pytest.approx(0.90 - 0.49)
    assert gains.penalty(MATRIX)[3, 0] == pytest.approx(0.9)
    assert gains.improvement(MATRIX)[1, 3] == pytest.approx(0.51)
    np.testing.assert_allclose(gains.improvement(MATRIX), -gains.improvement(MATRIX).T)


def test_forward_gain_by_hand():
    """Pairs (1, 2): .20 of .50; (1, 3): .10 of .51; (2, 3) improves by .01 only and is left out."""
    assert gains.forward_gain(MATRIX) == pytest.approx(0.30 / 1.01)
    assert gains.unsaturated(MATRIX).sum() == 2
    moved = np.full((4, 4), np.nan)
    moved[1, 2:] = 0.6, 0.5
    assert gains.forward_gain(MATRIX, moved) == pytest.approx((0.4 + 0.5) / 1.01)


def test_forward_gain_is_one_minus_penalties_over_improvements():
    rng = np.random.default_rng(0)
    matrix = rng.random((6, 6)) + np.linspace(5, 1, 6)
    np.fill_diagonal(matrix, np.linspace(4, 0.5, 6))
    penalties = improvements = 0.0
    for i in range(1, 6):
        for j in range(i + 1, 6):
            penalties += matrix[i, j] - matrix[j, j]
            improvements += matrix[i, i] - matrix[j, j]
    assert gains.forward_gain(matrix) == pytest.approx(1 - penalties / improvements, abs=1e-12)


@pytest.mark.parametrize(("old", "gain"), [("sees all", 1.0), ("keeps its content", 0.0), ("is disturbed", -0.5)])
def test_what_forward_gain_means(old, gain):
    own = np.array([3.0, 2.0, 1.2, 0.7])
    matrix = np.tile(own, (4, 1))  # the old lens reads what the new one reads
    if old != "sees all":
        matrix[1:] = own[1:, None]  # ... what it read at home
    if old == "is disturbed":
        matrix[1:] += 0.5 * (own[1:, None] - own[None]).clip(min=0)
    matrix[np.arange(4), np.arange(4)] = own
    assert gains.forward_gain(matrix) == pytest.approx(gain)


def test_no_pair_no_number():
    assert math.isnan(gains.forward_gain(np.full((4, 4), 0.3)))
    assert math.isnan(gains.forward_gain(MATRIX[:2, :2]))
    low, high = gains.forward_gain_interval(np.full((4, 4, 5), 0.3), None, np.random.default_rng(0))
    assert math.isnan(low) and math.isnan(high)  # noqa: PT018


def test_the_interval_covers_as_often_as_it_says():
    """Documents are normal around a forward gain of .5; about 95 of 100 intervals hold it, and they shrink with the root of documents."""
    rng = np.random.default_rng(1)
    widths, hits = {}, 0
    for number in (40, 640):
        for trial in range(100 if number == 40 else 1):
            home, there = 1 + 0.3 * rng.standard_normal(number), 0.5 + 0.3 * rng.standard_normal(number)
            matrix = np.zeros((3, 3, number))
            matrix[1, 1], matrix[2, 2], matrix[1, 2] = home, 0.0, there
            low, high = gains.forward_gain_interval(matrix, None, np.random.default_rng(trial), resamples=400)
            hits += number == 40 and low <= 0.5 <= high
            widths[number] = high - low
    assert 86 <= hits <= 100
    assert widths[640] == pytest.approx(widths[40] / 4, rel=0.4)


def test_prior_is_the_information_about_the_prediction():
    """Half of the tokens are certain of one word, half of another: 1 bit. All alike: none."""
    final = torch.zeros(2, 4, 3)
    final[0, :2, 0] = final[0, 2:, 1] = 1
    final[1] = torch.tensor([0.2, 0.3, 0.5])
    batch = Batch(torch.zeros(2, 1, 4, 5), final, torch.zeros(2, 4, dtype=torch.long))
    assert transfer.prior(batch) == pytest.approx([1.0, 0.0], abs=1e-6)


def test_shared_information():
    assert gains.shared_information(2.0, np.array([1.0, 0.5]), np.array([0.8, 0.2])) == pytest.approx((1.0 + 1.5) / (1.2 + 1.8))


def test_cells_leave_out_what_is_no_number():
    matrix = np.array([[1.0, np.nan], [2.0, 3.0]])
    assert list(gains.cells(matrix)) == [(0, 0, 1.0), (1, 0, 2.0), (1, 1, 3.0)]
