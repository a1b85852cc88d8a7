"""Each statement against loops and closed forms that share no code with it; each counterexample against a case in which it vanishes."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from activation_descent.attention import softmax_gradients as sg
from activation_descent.attention.softmax_gradients import Identities, Memory

SETTINGS = Identities(seeds=2, problems=4, keys=9, width=5, values=3)
TOLERANCE = 1e-10


def memory(seed=0, settings=SETTINGS):
    return sg.draw(np.random.default_rng(seed), settings)


def random(seed=0):
    return torch.Generator().manual_seed(seed)


def in_loops(keys, values, query):
    masses = [math.exp(sum(k * q for k, q in zip(key, query, strict=True)) / math.sqrt(len(query))) for key in keys.tolist()]
    total = sum(masses)
    return [sum(m * v for m, v in zip(masses, column, strict=True)) / total for column in values.T.tolist()]


def test_attention_in_loops():
    m = memory()
    assert sg.attend(m.keys, m.values, m.query).tolist() == pytest.approx(in_loops(m.keys, m.values, m.query.tolist()), abs=1e-12)


@pytest.mark.parametrize("name", sg.STATEMENTS)
@pytest.mark.parametrize("seed", range(5))
def test_every_identity_holds_and_every_counterexample_does_not(name, seed):
    identity, counterexample = sg.STATEMENTS[name](memory(seed), random(seed))
    assert identity < TOLERANCE
    assert counterexample > 0.05


def test_identities_can_fail_by_the_step(monkeypatch):
    """Gradients that are 1 % too long."""
    monkeypatch.setattr(sg, "grad", lambda f: lambda *given: 1.01 * torch.func.grad(f)(*given))
    for name in ("linear_objective", "first_order", "hopfield", "augmented_state", "token_flow"):
        assert sg.STATEMENTS[name](memory(), random())[0] > 1e-3, name
    # A Newton step is divided by the curvature, from as far away as it starts
    assert sg.STATEMENTS["local_least_squares"](memory(), random())[0] > 1e-3


def test_identities_can_fail_by_the_attention(monkeypatch):
    """Queries that are 1 % too long."""
    plain = sg.attend
    monkeypatch.setattr(sg, "attend", lambda k, v, q: plain(k, v, 1.01 * q))
    for name in ("first_order", "local_least_squares", "hopfield", "augmented_state"):
        assert sg.STATEMENTS[name](memory(), random())[0] > 1e-4, name


def test_the_rank_one_identity_can_fail(monkeypatch):
    plain = sg.rank_one_update
    monkeypatch.setattr(sg, "rank_one_update", lambda *given: 1.01 * plain(*given))
    assert sg.implicit_update(memory(), random())[0] > 1e-4


def test_derivative_at_zero_is_the_covariance():
    """Cov with 1/n, by numpy."""
    m = memory()
    covariance = np.cov(m.values.T.numpy(), m.keys.T.numpy(), bias=True)[:3, 3:]
    small = 1e-7 * m.query
    moved = (sg.attend(m.keys, m.values, small) - m.values.mean(0)) / 1e-7
    assert moved.numpy() == pytest.approx(covariance @ m.query.numpy() / math.sqrt(5), abs=1e-5)


def test_dais_matrix_is_the_linearisation_of_centred_keys_or_values_only():
    m = memory()
    assert sg.uncentred_gap(m) > 0.05
    assert sg.uncentred_gap(Memory(m.keys - m.keys.mean(0), m.values, m.query)) < 1e-12
    assert sg.uncentred_gap(Memory(m.keys, m.values - m.values.mean(0), m.query)) < 1e-12


def test_the_remainder_is_quadratic():
    assert sg.remainder_order(memory()) == pytest.approx(2, abs=0.02)


def test_three_losses_share_the_first_step_and_a_fourth_does_not(monkeypatch):
    m = memory()
    assert sg.losses_with_this_gradient(m) < TOLERANCE
    monkeypatch.setattr(sg.F, "softplus", lambda z: z.exp())  # slope 1 at zero in place of 1/2
    assert sg.losses_with_this_gradient(m) > 0.5


def test_the_rate_belongs_to_the_query():
    m = memory()
    assert sg.shared_rate_gap(m, random()) > 0.05
    same = Memory(torch.zeros_like(m.keys), m.values, m.query)  # keys that do not tell queries apart
    assert sg.shared_rate_gap(same, random()) < 1e-12


def test_energy_by_finite_differences():
    m = memory()
    step = 1e-6
    for i, unit in enumerate(torch.eye(5, dtype=torch.float64)):
        up, down = (sg.hopfield_energy(m.query + sign * step * unit, m.keys, 0.7).item() for sign in (1, -1))
        weights = (0.7 * m.keys @ m.query).softmax(0)
        expected = m.query[i] - (weights @ m.keys)[i]
        assert (up - down) / (2 * step) == pytest.approx(expected.item(), abs=1e-7)


def test_asymmetry_of_fields_that_are_and_are_not_gradients():
    m = memory()
    tied = sg.jacobian_asymmetry(lambda q: sg.attend(m.keys, 2 * m.keys, q), m.query)
    untied = sg.jacobian_asymmetry(lambda q: sg.attend(m.keys, m.keys.flip(0), q), m.query)
    assert tied < 1e-12
    assert untied > 0.05
    rotation = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    assert sg.jacobian_asymmetry(lambda x: rotation @ x + x, torch.ones(2)) == pytest.approx(1)


def test_the_rank_one_update_by_hand():
    """W = (2, 0; 0, 1), A(C, x) = (3, 1), A(x) = (1, 1): Delta W = W (2, 0)^T (1, 1) / 2 = (2, 2; 0, 0)."""
    w = torch.diag(torch.tensor([2.0, 1.0]))
    update = sg.rank_one_update(w, torch.tensor([3.0, 1.0]), torch.tensor([1.0, 1.0]))
    assert update.tolist() == [[2.0, 2.0], [0.0, 0.0]]


def test_records():
    table = pd.DataFrame(sg.identity_records(SETTINGS, 0))
    assert not table.duplicated(["variant", "seed", "metric"]).any()
    assert set(table["variant"]) == set(sg.STATEMENTS)
    assert (table[table["metric"].isin(["identity_gap", "shared_gradient_gap"])]["value"] < TOLERANCE).all()
    assert (table[table["metric"].isin(["counterexample_gap", "uncentred_gap", "shared_rate_gap"])]["value"] > 0.05).all()
    assert table.equals(pd.DataFrame(sg.identity_records(SETTINGS, 0)))
    assert not table["value"].equals(pd.DataFrame(sg.identity_records(SETTINGS, 1))["value"])
