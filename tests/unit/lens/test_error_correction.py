"""The error-correcting control against its equation in plain loops, and the documents that it reads."""

import math

import numpy as np
import pytest
import torch

from activation_descent.errors import DivergedError
from activation_descent.lens.error_correction import (
    ErrorCorrection,
    ErrorCorrectionSettings,
    bigram_documents,
    shared_table,
    train,
)
from activation_descent.seeding import generator

SETTINGS = ErrorCorrectionSettings(words=5, length=10, loops=3, concentration=2.0, key_size=4, steps=2, rows=4, learning_rate=0.1)


def stream(purpose):
    return generator(0, "test", "error_correction", "v", purpose)


def drawn_model(populations=2, settings=SETTINGS):
    """With weights that do not stand where they start, so that every term counts."""
    model = ErrorCorrection(settings, stream("model"), populations)
    with torch.no_grad():
        model.prior.copy_(torch.from_numpy(stream("prior").standard_normal(model.prior.shape)))
        model.rate.fill_(0.7)
    return model


def documents(number=6, settings=SETTINGS):
    rng = stream("documents")
    table = shared_table(rng, settings.words)
    return torch.from_numpy(bigram_documents(rng, table, number, settings.length, settings.concentration))


def softmax(x):
    weights = [math.exp(value) for value in x]
    return [weight / sum(weights) for weight in weights]


def by_hand(model, row):
    """c after each loop, position by position: c_t += eta sum_{s<t} alpha_ts (e(x_{s+1}) - p_s)."""
    words, x = model.settings.words, row.tolist()
    query, key, prior = (tensor.detach().tolist() for tensor in (model.query, model.key, model.prior))
    c = [list(prior[token]) for token in x]
    found = [c]
    for _ in range(model.settings.loops):
        p, new = [softmax(values) for values in c], []
        for t, values in enumerate(c):
            scores = [sum(a * b for a, b in zip(query[x[t]], key[x[s]], strict=True)) for s in range(t)]
            alpha = softmax(scores) if t else []
            moved = list(values)
            for s, weight in enumerate(alpha):
                for v in range(words):
                    moved[v] += 0.7 * weight * ((x[s + 1] == v) - p[s][v])
            new.append(moved)
        c = new
        found.append(c)
    return found


@pytest.mark.parametrize("populations", [1, 2])
def test_every_loop_is_the_equation(populations):
    model, tokens = drawn_model(populations), documents()
    with torch.no_grad():
        read = model.read(model.states(tokens))
    for row, tokens_of_row in enumerate(tokens):
        for state, c in enumerate(by_hand(model, tokens_of_row)):
            for t, values in enumerate(c):
                expected = np.log(softmax(values))
                assert read[state, row, t].numpy() == pytest.approx(expected, abs=2e-5)


def test_positions_hold_the_rectified_error_of_the_position_before():
    model, tokens = drawn_model(), documents()
    with torch.no_grad():
        parts = (model.states(tokens) @ model.basis.T).unflatten(-1, (5, 5))
    for t in range(1, SETTINGS.length):
        before = parts[1, :, t - 1, 0].softmax(-1)
        error = torch.eye(5)[tokens[:, t]] - before
        assert torch.allclose(parts[2, :, t, 3], error.clamp(min=0), atol=1e-5)
        assert torch.allclose(parts[2, :, t, 4], (-error).clamp(min=0), atol=1e-5)
    assert torch.allclose(parts[1:, :, 0, 3:], torch.zeros(()), atol=1e-5)
    assert torch.allclose(parts[0, :, :, 3:], torch.zeros(()), atol=1e-5)


def test_resuming_ends_where_the_model_does_and_a_cut_edge_carries_nothing():
    model, tokens = drawn_model(), documents()
    with torch.no_grad():
        states = model.states(tokens)
        for layer in range(SETTINGS.loops + 1):
            assert torch.allclose(model.resume(layer, states[layer]), model.read(states[-1]), atol=1e-5)
        moved = states[1].clone()
        # Along c, whose directions are the first rows of the basis
        moved[:, 4] += torch.from_numpy(stream("move").standard_normal((len(tokens), 5))).float() @ model.basis[:5]
        cut = torch.zeros(len(tokens), SETTINGS.length, SETTINGS.length, dtype=torch.bool)
        cut[:, 5, 4] = True
        plain, other = (model.resume(1, one) for one in (states[1], moved))
        assert (plain - other)[:, 5:].abs().max() > 1e-3
        plain, other = (model.resume(1, one, cut) for one in (states[1], moved))
        # The prediction at 4 can be reached by its error alone, which stands at 5
        assert torch.allclose(plain[:, 5:], other[:, 5:], atol=1e-5)
        assert (plain - other)[:, 4].abs().max() > 1e-3
        # Nor is it of use if nobody attends to where it stands
        cut = torch.zeros_like(cut)
        cut[:, 5:, 5] = True
        plain, other = (model.resume(1, one, cut) for one in (states[1], moved))
        assert torch.allclose(plain[:, 5:], other[:, 5:], atol=1e-5)


def test_later_tokens_change_nothing_before_them():
    model, tokens = drawn_model(), documents()
    changed = tokens.clone()
    changed[:, 6:] = (changed[:, 6:] + 1) % 5
    with torch.no_grad():
        assert torch.equal(model.states(tokens)[:, :, :6], model.states(changed)[:, :, :6])


def test_training_finds_matching_contexts_and_learns_from_them():
    settings = ErrorCorrectionSettings(8, 32, 3, 2.0, 8, 80, 16, 0.1)
    table = shared_table(stream("table"), 8)
    rows = bigram_documents(stream("train"), table, settings.steps * settings.rows, 32, settings.concentration)
    model = ErrorCorrection(settings, stream("model"))
    losses = []
    last = train(model, rows, lambda step, loss: losses.append(loss))
    assert len(losses) == 80
    assert last == losses[-1]
    tokens = torch.from_numpy(bigram_documents(stream("evaluate"), table, 200, 32, settings.concentration))
    with torch.no_grad():
        read = model.read(model.states(tokens))[:, :, 16:-1]
    surprise = -read.gather(-1, tokens[None, :, 17:, None].expand(4, -1, -1, -1)).mean((1, 2, 3))
    scores = model.query @ model.key.T
    assert model.rate > 0
    assert scores.diagonal().mean() > (scores - scores.diagonal().diag()).sum() / 56 + 1
    # The shared table is what can be known of x_{t+1} without the context
    known = -torch.from_numpy(np.log(table))[tokens[:, 16:-1], tokens[:, 17:]].mean()
    assert surprise[0] < known + 0.05
    assert surprise[-1] < surprise[0] - 0.1


def test_a_document_for_each_row_of_each_step():
    with pytest.raises(ValueError, match="2 steps of 4 documents, but 6 documents"):
        train(drawn_model(), documents(6).numpy())


def test_divergence_is_reported():
    model = drawn_model()
    with torch.no_grad():
        model.rate.fill_(math.nan)
    with pytest.raises(DivergedError):
        train(model, documents(8).numpy())


def test_populations_are_one_or_two():
    with pytest.raises(ValueError, match="not in 3"):
        ErrorCorrection(SETTINGS, stream("model"), 3)


def test_documents_follow_their_own_tables_around_the_shared_one():
    """Row frequencies over documents have the shared row as mean and, at concentration k, Var(p) = m (1 - m) / (k + 1)."""
    table, rng = np.array([[0.2, 0.8], [0.5, 0.5]]), stream("bigrams")
    rows = bigram_documents(rng, table, 4000, 400, 3.0)
    from_first = rows[:, :-1] == 0
    number = from_first.sum(1)
    share = (from_first & (rows[:, 1:] == 0)).sum(1)[number > 50] / number[number > 50]
    # A document that stays at 0 visits it more often, so that only first visits have the shared table's mean
    first = from_first.argmax(1)
    visited = from_first.any(1)
    stays = rows[np.flatnonzero(visited), first[visited] + 1] == 0
    assert stays.mean() == pytest.approx(0.2, abs=4 * math.sqrt(0.16 / visited.sum()))
    assert share.std() > 0.15  # sqrt(.16 / 4) = .2 without selection
    sharp = bigram_documents(rng, table, 400, 400, 3e4)
    visits = sharp[:, :-1] == 0
    assert (visits & (sharp[:, 1:] == 0)).sum() / visits.sum() == pytest.approx(0.2, abs=0.01)
