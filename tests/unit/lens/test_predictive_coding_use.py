"""D4: models whose answer to a move is a closed form."""

import pytest
import torch

from activation_descent.lens.causal_use import CONDITIONS, identity_directions, joined, respond
from activation_descent.lens.update_regression import kernels
from activation_descent.seeding import generator

ROWS, LENGTH, WORDS = 40, 30, 6


def stream(purpose):
    return generator(0, "test", "causal_use", "v", purpose)


def drawn():
    rng = stream("drawn")
    tokens = torch.from_numpy(rng.integers(WORDS, size=(ROWS, LENGTH)))
    return tokens, torch.from_numpy(rng.standard_normal((ROWS, LENGTH, WORDS)))


def lens(h):
    return h.log_softmax(-1)


def reading(tokens, rates, path):
    """Final logits `sum_k rate_k sum_s alpha^k_ts p_s`; p_s is read at s ("direct") or s + 1 ("error"), through edges that may be cut."""
    alpha = sum(rate * kernel.double() for rate, kernel in zip(rates, kernels(tokens).values(), strict=True))

    def resume(states, cut):
        open_edges = torch.ones_like(alpha) if cut is None else (~cut).double()
        if path == "direct":
            weights = alpha * open_edges
        else:
            one_back = torch.nn.functional.pad(open_edges.diagonal(-1, 1, 2), (0, 1))
            weights = alpha * one_back[:, None]
        return (weights @ states.softmax(-1)).log_softmax(-1)

    return resume


def responses(rates, path):
    tokens, states = drawn()
    none = torch.zeros(0, WORDS, dtype=torch.float64)
    return respond(tokens, states, lens, reading(tokens, rates, path), none, stream("moves"))


def test_a_push_by_errors_has_the_slope_of_its_kernel():
    """d = -g alpha_ts dp exactly: probabilities add up to 1, so that the mean logit stays."""
    found = responses((-0.7, 0.0), "error")
    for name in ("error", "off_identity", "random_word", "cut_direct"):
        one = found[name]
        chosen = one.later & one.same
        square = one.change[:, None].square() * chosen
        expected = -0.7 * (one.weight[..., 0] * square).sum() / square.sum()
        assert one.slope("same").item() == pytest.approx(expected.item(), rel=1e-4)
        assert one.slope("other").item() == pytest.approx(0, abs=1e-6)
        assert one.agreement(torch.tensor([-0.7, 0.0])) == pytest.approx(1, rel=1e-4)
        assert one.agreement(torch.tensor([-0.35, 0.0])) == pytest.approx(2, rel=1e-4)
    assert found["cut_error"].slope("same").item() == pytest.approx(0, abs=1e-6)


def test_a_copy_of_predictions_has_a_positive_slope_that_a_direct_cut_takes_away():
    found = responses((0.0, 2.0), "direct")
    for context in ("same", "other"):
        assert found["error"].slope(context) > 0.05
        assert found["cut_direct"].slope(context).item() == pytest.approx(0, abs=1e-6)
        assert found["cut_error"].slope(context).item() == pytest.approx(found["error"].slope(context).item())
    assert found["error"].agreement(torch.tensor([0.0, -2.0])) == pytest.approx(-1, rel=1e-4)


def test_moves_are_of_one_length_and_the_orthogonal_one_leaves_the_probability():
    tokens, states = drawn()
    seen = []

    def resume(moved, cut):
        seen.append((moved, cut))
        return moved.log_softmax(-1)

    found = respond(tokens, states, lens, resume, torch.eye(WORDS, dtype=torch.float64)[:2], stream("moves"))
    assert [*found] == [*CONDITIONS]
    assert len(seen) == 2 * len(CONDITIONS)
    place = (seen[0][0] != states).any(-1)
    assert (place.sum(1) == 1).all()
    s = place.long().argmax(1)
    every = torch.arange(ROWS)
    assert s.min() >= 8
    assert s.max() < LENGTH - 8
    h = states[every, s]
    following = tokens[every, s + 1]
    for number, name in enumerate(CONDITIONS):
        (up, cut), (down, _) = seen[2 * number : 2 * number + 2]
        move = up[every, s] - h
        assert torch.allclose(move.norm(dim=-1), 0.25 * h.norm(dim=-1))
        assert torch.allclose(down[every, s], h - move)
        if name == "error":
            # grad log softmax(h)_v = e(v) - p
            gradient = torch.eye(WORDS, dtype=torch.float64)[following] - h.softmax(-1)
            assert torch.allclose(move / move.norm(dim=-1, keepdim=True), gradient / gradient.norm(dim=-1, keepdim=True))
            toward = move
        if name == "off_identity":
            assert torch.allclose(move[:, :2], torch.zeros(()).double())
        if name == "orthogonal":
            assert torch.allclose((move * toward).sum(-1), torch.zeros(()).double(), atol=1e-12)
        edges = {
            "cut_error": [(s[row].item() + 1, s[row].item()) for row in range(ROWS)],
            "cut_direct": None,
        }.get(name)
        if edges:
            assert [tuple(edge) for edge in cut.nonzero()[:, 1:].tolist()] == edges
        if name == "cut_direct":
            for row in range(ROWS):
                assert cut[row].nonzero().tolist() == [[t, s[row].item()] for t in range(s[row].item() + 2, LENGTH)]
    assert torch.equal(found["orthogonal"].change, found["error"].change)
    assert torch.equal(found["error"].same, tokens == tokens[every, s][:, None])


def test_identity_directions_span_the_means_of_tokens():
    rng = stream("identity")
    tokens = torch.from_numpy(rng.integers(5, size=(50, 20)))
    means = torch.from_numpy(rng.standard_normal((5, 12)))
    found = identity_directions(means[tokens] + 3.0, tokens)
    assert found.shape == (4, 12)  # five means have four differences
    assert torch.allclose(found @ found.T, torch.eye(4).double(), atol=1e-10)
    apart = means - means.mean(0)
    assert torch.allclose(apart @ found.T @ found, apart, atol=1e-10)
    rare = torch.where(torch.arange(1000).view(50, 20) < 3, 4, tokens.clamp(max=3))  # three states are too few
    without = identity_directions(means[rare], rare)
    assert without.shape == (3, 12)
    many = torch.from_numpy(rng.integers(40, size=(50, 20)))
    assert identity_directions(torch.from_numpy(rng.standard_normal((40, 36)))[many], many).shape == (24, 36)


def test_slopes_of_resamples_and_of_joined_documents():
    found = responses((-0.7, 0.3), "error")["error"]
    assert found.slope("same", torch.ones(1, ROWS).double()).item() == pytest.approx(found.slope("same").item())
    alone = torch.zeros(ROWS).double()
    alone[3] = 1.0
    chosen = found.later[3] & found.same[3]
    assert found.slope("same", alone).item() == pytest.approx((found.response[3][chosen].mean() / found.change[3]).item())
    both = joined([found, found])
    assert len(both.change) == 2 * ROWS
    assert both.slope("other").item() == pytest.approx(found.slope("other").item())
