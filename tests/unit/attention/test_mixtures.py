"""Sequences against what they are said to be."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from activation_descent.attention import OTHERS, mixtures
from activation_descent.attention.mixtures import Mixture

MIXTURE = Mixture(width=4, pairs=9, half_range=0.5, noise=0.1, symbols=3, concentration=0.3, period=3)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_regression_is_the_regression_studys():
    sequences, tasks = mixtures.regression(rng(), MIXTURE, 5)
    assert sequences.tokens.shape == (5, 10, 8)
    assert torch.equal(sequences.tokens[..., :4].permute(2, 1, 0), tasks.tokens[:-1])
    assert torch.equal(sequences.tokens[..., 4].T, tasks.tokens[-1])
    assert (sequences.tokens[..., 5:] == 0).all()
    assert (sequences.target[:, 0] == tasks.target).all()
    assert (sequences.target[:, 1:] == 0).all()
    assert sequences.visible.all()


@pytest.mark.parametrize("kind", OTHERS)
def test_pairs_are_a_sequence_that_ends_in_the_query(kind):
    batch = mixtures.autoregressive(kind, rng(), MIXTURE, 200)
    seen = batch.visible.sum(1)
    assert set(seen.tolist()) == set(range(1, 10))
    for tokens, number, target in zip(batch.tokens, seen.tolist(), batch.target, strict=True):
        a, b = tokens[:-1, :4], tokens[:-1, 4:]
        assert torch.equal(b[: number - 1], a[1:number])
        assert torch.equal(tokens[-1, :4], b[number - 1])
        assert (tokens[-1, 4:] == 0).all()
        if number + 1 < 9:
            assert torch.equal(target, b[number])
    assert (mixtures.autoregressive(kind, rng(), MIXTURE, 3, seen=4).visible.sum(1) == 4).all()


@pytest.mark.parametrize("kind", OTHERS)
def test_inputs_have_the_second_moment_of_regressions(kind):
    vectors = mixtures.sequence(kind, rng(), replace(MIXTURE, noise=0.0), 4000, 3)
    assert vectors.square().mean().item() == pytest.approx(0.25 / 3, rel=0.03)


def test_dynamics_are_orthogonal():
    batch = mixtures.autoregressive("dynamics", rng(), replace(MIXTURE, noise=0.0), 5, seen=9, dtype=np.float64)
    for tokens, target in zip(batch.tokens, batch.target, strict=True):
        w = torch.linalg.lstsq(tokens[:-1, :4], tokens[:-1, 4:]).solution.T
        assert torch.allclose(w @ w.T, torch.eye(4, dtype=w.dtype), atol=1e-8)
        assert torch.allclose(w @ tokens[-1, :4], target, atol=1e-8)


def test_noise_of_the_dynamics():
    still = mixtures.sequence("dynamics", rng(), replace(MIXTURE, noise=0.0), 2000, 2)
    noisy = mixtures.sequence("dynamics", rng(), MIXTURE, 2000, 2)
    assert (noisy - still)[:, 0].abs().max() == 0
    assert (noisy - still)[:, 1].std().item() == pytest.approx(0.1 * MIXTURE.spread, rel=0.05)


def test_orthogonal_matrices_are_uniform():
    """Entries of a uniform orthogonal matrix: mean 0; LAPACK's own QR has a diagonal of one sign."""
    vectors = mixtures.sequence("dynamics", rng(), replace(MIXTURE, noise=0.0), 3000, 2)
    projection = (vectors[:, 0] * vectors[:, 1]).sum(1) / vectors[:, 0].square().sum(1)
    assert abs(projection.mean().item()) < 4 * 0.5 / np.sqrt(3000)


def test_chains():
    few = replace(MIXTURE, concentration=1e-6)  # one successor for each state
    vectors = mixtures.sequence("markov", rng(), few, 50, 30)
    length = np.sqrt(4) * MIXTURE.spread
    assert torch.allclose(vectors.sum(-1), torch.full((50, 30), length, dtype=torch.float64))
    states = vectors.argmax(-1)
    used = set()
    for chain in states.tolist():
        assert len(set(chain)) <= 3
        used |= set(chain)
        successors = dict(pairwise(chain))
        assert sum(successors[a] != b for a, b in pairwise(chain)) <= 1
    assert used == {0, 1, 2, 3}
    many = mixtures.sequence("markov", rng(), replace(MIXTURE, concentration=1e4), 4000, 2).argmax(-1)
    assert (many[:, 0] == many[:, 1]).double().mean().item() == pytest.approx(1 / 3, abs=0.03)  # every successor alike


def test_copies():
    batch = mixtures.autoregressive("copying", rng(), MIXTURE, 5, seen=7)
    for tokens, target in zip(batch.tokens, batch.target, strict=True):
        (earlier,) = [i for i in range(3) if torch.equal(tokens[i, :4], tokens[-1, :4])]
        assert torch.equal(tokens[earlier, 4:], target)


def test_an_unknown_kind():
    with pytest.raises(ValueError, match="no sequences of kind 'songs'; one of dynamics, markov, copying"):
        mixtures.sequence("songs", rng(), MIXTURE, 1, 3)
