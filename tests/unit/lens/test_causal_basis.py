"""Causal bases: erasure and influence by hand, an orthonormal basis in order, and the directions of a lens that reads only two."""

import numpy as np
import pytest
import torch

from activation_descent.lens import causal_basis
from activation_descent.lens.readout import Unembedding
from activation_descent.lens.translators import Translators

TOKENS, WIDTH, WORDS = 60, 6, 8


def draw(*shape, number=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(number))


def scene(weight=None):
    """States with means off zero, one translator, an unembedding."""
    states = draw(TOKENS, WIDTH) + draw(WIDTH, number=1)
    weight = 0.3 * draw(1, 1, WIDTH, WIDTH, number=2) if weight is None else weight
    translators = Translators("tuned", {"weight": weight, "bias": draw(1, 1, 1, WIDTH, number=3)}, 1)
    return states, translators, Unembedding(draw(1, WORDS, WIDTH, number=4), torch.zeros(1, WORDS), "none")


def test_erasure_and_influence_by_hand():
    states, translators, unembedding = scene()
    direction = torch.nn.functional.normalize(draw(WIDTH, number=5), dim=0)
    erased = causal_basis.erase(states, direction, states.mean(0))
    mean = sum(float(h @ direction) for h in states) / TOKENS
    predict = lambda h: (unembedding.weight[0] @ translators(h[None, None, None])[0, 0, 0]).softmax(0)
    read, total = causal_basis.undisturbed(states, translators, unembedding), 0.0
    for h, other in zip(states, erased, strict=True):
        wanted = h + (mean - float(h @ direction)) * direction
        torch.testing.assert_close(other, wanted, atol=1e-5, rtol=1e-5)
        p, q = predict(h), predict(wanted)
        total += float((p * (p / q).log()).sum())
    assert float(causal_basis.influence(read, direction, translators, unembedding)) == pytest.approx(total / TOKENS, rel=1e-3)


def test_a_basis_is_orthonormal_in_order_and_hard_to_beat():
    states, translators, unembedding = scene()
    directions, energies = causal_basis.extract(states, translators, unembedding, 4)
    read = causal_basis.undisturbed(states, translators, unembedding)
    torch.testing.assert_close(directions @ directions.T, torch.eye(4), atol=1e-5, rtol=0)
    assert (np.diff(energies) <= 0).all()
    for direction, energy in zip(directions, energies, strict=True):
        assert float(causal_basis.influence(read, direction, translators, unembedding)) == pytest.approx(energy, rel=1e-3)
    others = torch.nn.functional.normalize(draw(300, WIDTH, number=6), dim=1)
    best = max(float(causal_basis.influence(read, other, translators, unembedding)) for other in others)
    assert energies[0] >= best * 0.999


def test_a_lens_that_reads_two_features_has_two_directions():
    """With states of equal spread along all directions, close to their mean, influence is quadratic, and unread directions have none.

    Elsewhere a direction a little aside may have more: it takes more of the states' spread with it.
    """
    weight = -torch.diag(torch.tensor([0.0, 1, 1, 0, 1, 1]))[None, None]  # I + W reads the features 0 and 3
    states, translators, unembedding = scene(weight)
    states = 0.1 * TOKENS**0.5 * torch.linalg.qr(states - states.mean(0)).Q
    directions, energies = causal_basis.extract(states, translators, unembedding, 4)
    assert energies[2] < 0.01 * energies[1]
    assert (directions[:2, [0, 3]].square().sum(1) > 0.99).all()


class Passing:
    """A model whose later blocks do nothing, so that its influences are those of the logit lens."""

    layers = 3

    def __init__(self, unembedding):
        self.unembedding = unembedding

    def record(self, tokens):
        raise AssertionError("influence starts from states that were recorded before")

    def resume(self, tokens, layer, states):
        return states


def test_influence_on_a_model():
    _, translators, unembedding = scene(torch.zeros(1, 1, WIDTH, WIDTH))
    translators.parameters["bias"].zero_()
    rows = draw(1, 4, 10, WIDTH, number=7)
    final = unembedding.logits(rows[:, :, :-1].flatten(1, 2)[:, None])[:, 0].softmax(-1)
    directions = torch.linalg.qr(draw(1, WIDTH, 3, number=8)).Q.mT
    tokens = torch.zeros(1, 4, 10, dtype=torch.long)
    found = causal_basis.model_influence(Passing(unembedding), tokens, 1, rows, final, directions)
    for place, direction in enumerate(directions[0]):
        # The mean over all positions is put in; predictions count where a next token exists
        erased = causal_basis.erase(rows[0], direction, rows[0].flatten(0, 1).mean(0))[:, :-1].flatten(0, 1)
        log_q = unembedding.logits(erased[None, None])[0, 0].log_softmax(-1)
        wanted = (final[0] * (final[0].log() - log_q)).sum(-1).mean()
        assert float(found[0, place]) == pytest.approx(float(wanted), rel=1e-3)
