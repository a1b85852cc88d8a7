"""D2: states of which it is known what they hold."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)

from activation_descent.lens import error_decoding
from activation_descent.lens.error_decoding import TARGETS, examples, explain, positions, specificity, state_examples
from activation_descent.seeding import generator

WORDS, LENGTH, ROWS = 6, 24, 160


def stream(purpose):
    return generator(0, "test", "error_decoding", "v", purpose)


def drawn(purpose, rows=ROWS):
    """Documents of unrelated words, and predictions that differ from position to position."""
    rng = stream(purpose)
    tokens = torch.from_numpy(rng.integers(WORDS, size=(rows, LENGTH)))
    log_p = torch.from_numpy(rng.standard_normal((rows, LENGTH, WORDS))).log_softmax(-1)
    return tokens, log_p


EMBEDDING = torch.from_numpy(stream("embedding").standard_normal((WORDS, 4)))


def behind(x):
    """What stood at s, at s + 1."""
    return F.pad(x[:, :-1], (0, 0, 1, 0))


def held(kind, tokens, log_p, rng):
    """States of one kind at each position s + 1."""
    p, token = behind(log_p.exp()), F.one_hot(tokens, WORDS).double()
    if kind == "rectified":  # error units as in the control
        return torch.cat([(token - p).clamp(min=0), (p - token).clamp(min=0)], -1)
    if kind == "signed":
        return token - p
    if kind == "prediction":
        return behind(log_p)
    if kind == "surprise":
        return -(behind(log_p) * token).sum(-1, keepdim=True)
    if kind == "entropy":
        return -(p * behind(log_p)).sum(-1, keepdim=True)
    return torch.from_numpy(rng.standard_normal((*tokens.shape, 5)))


def decoded(kind):
    known, asked = drawn("train"), drawn("test")
    parts = [examples(log_p, tokens, EMBEDDING) for tokens, log_p in (known, asked)]
    states = [state_examples(held(kind, *one, stream("noise")))[None] for one in (known, asked)]
    return {target: explain(target, parts[0], states[0], parts[1], states[1]) for target in TARGETS}


def gains(kind):
    found = decoded(kind)
    return {target: one.gains()[0].item() for target, one in found.items()}, specificity(
        found["error"], found["counterfactual"]
    ).item()


def test_the_number_itself_is_decoded_and_is_no_other_words():
    gain, specific = gains("surprise")
    assert gain["error"] > 0.9
    assert gain["counterfactual"] < 0.15
    assert specific > 0.8
    assert abs(gain["wrong_lag"]) < 0.02


def test_rectified_errors_are_specific_and_signed_ones_are_not():
    """A linear function of e(x) - p is one of x and one of p, and p knows other words' numbers as well."""
    assert gains("rectified")[1] > 0.3
    assert abs(gains("signed")[1]) < 0.03
    # Of the vector it tells all that the token does not
    vector = decoded("signed")["vector"]
    assert vector.gains().item() == pytest.approx(1 - vector.base_share, rel=0.03)


def test_predictions_and_confidence_are_no_errors():
    assert abs(gains("prediction")[1]) < 0.03
    gain, specific = gains("entropy")
    assert gain["entropy"] > 0.9
    assert abs(specific) < 0.05


def test_noise_tells_nothing():
    gain, specific = gains("noise")
    assert max(abs(value) for value in gain.values()) < 0.02
    assert abs(specific) < 0.02


def test_targets_stand_where_they_should():
    """Position by position."""
    tokens, log_p = drawn("targets", 3)
    found = examples(log_p, tokens, EMBEDDING)
    places = range(8, LENGTH - 1)
    assert positions(LENGTH).tolist() == list(places)
    for row in range(3):
        for number, s in enumerate(places):
            at, x, y = row * len(places) + number, tokens[row].tolist(), log_p[row]
            other = int(tokens[row - 1, s + 1])
            assert found.target["error"][at].item() == pytest.approx(-y[s, x[s + 1]].item())
            assert found.target["counterfactual"][at].item() == pytest.approx(-y[s, other].item())
            assert found.target["entropy"][at].item() == pytest.approx(-(y[s].exp() * y[s]).sum().item())
            assert found.target["wrong_lag"][at].item() == pytest.approx(-y[s - 5, x[s - 4]].item())
            error = (np.eye(WORDS)[x[s + 1]] - y[s].exp().numpy()) @ EMBEDDING.numpy()
            assert found.target["vector"][at].numpy() == pytest.approx(error)
            assert [int(mark[at]) for mark in found.marks["counterfactual"]] == [x[s], x[s + 1], other]
            assert [int(mark[at]) for mark in found.marks["wrong_lag"]] == [x[s - 5], x[s - 4]]
    states = torch.arange(3 * LENGTH).double().view(3, LENGTH, 1)
    assert state_examples(states)[:, 0].tolist() == [row * LENGTH + s + 1 for row in range(3) for s in places]


def test_explained_variance_is_that_of_one_ridge_regression():
    """Base and states in one design matrix, fitted by scikit-learn with columns scaled for their penalties."""
    from sklearn.linear_model import Ridge

    known, asked = drawn("train", 20), drawn("test", 12)
    train, test = (examples(log_p, tokens, EMBEDDING) for tokens, log_p in (known, asked))
    h, h_test = (state_examples(held("prediction", *one, None)) for one in (known, asked))
    found = explain("error", train, h[None], test, h_test[None])
    y, y_test = train.target["error"][:, 0].numpy(), test.target["error"][:, 0].numpy()

    def cell_means(part, own):
        """Mean of y over other documents' examples of the pair, with the weight of 8 examples of the mean."""
        per, values = len(y) // 20, []
        for at in range(len(part.target["error"])):
            pair = [int(mark[at]) for mark in part.pair["error"]]
            chosen = [
                y[one]
                for one in range(len(y))
                if [int(mark[one]) for mark in train.pair["error"]] == pair and not (own and one // per == at // per)
            ]
            values.append((sum(chosen) + 8 * y.mean()) / (len(chosen) + 8))
        return np.array(values)

    def design(part, states, own):
        base = [np.eye(WORDS)[mark.numpy()] for mark in part.marks["error"]]
        dense = [np.ones((len(states), 1)), cell_means(part, own)[:, None] - y.mean()]
        scaled = (states.numpy() - h.mean(0).numpy()) / h.std(0).numpy() / np.sqrt(0.01 * len(y))
        return np.concatenate([*base, *dense], 1), scaled

    (base, scaled), (base_test, scaled_test) = design(train, h, True), design(test, h_test, False)
    for columns, columns_test, left in (
        (base, base_test, found.base),
        (np.hstack([base, scaled]), np.hstack([base_test, scaled_test]), found.full[0]),
    ):
        model = Ridge(alpha=1.0, fit_intercept=False, solver="cholesky").fit(columns, y - y.mean())
        rest = (y_test - y.mean() - model.predict(columns_test)) ** 2
        assert left.numpy() == pytest.approx(rest.reshape(12, -1).sum(1), rel=1e-6)
    assert found.total.sum().item() == pytest.approx(np.square(y_test - y.mean()).sum())
    assert found.base_share == pytest.approx(1 - found.base.sum().item() / found.total.sum().item())


def test_gains_of_resamples_count_documents():
    explained = error_decoding.Explained(torch.tensor([4.0, 2.0]), torch.tensor([3.0, 2.0]), torch.tensor([[1.0, 2.0]]))
    assert explained.gains().item() == pytest.approx(2 / 6)
    assert explained.gains(torch.tensor([[2.0, 0.0], [0.0, 2.0]])).flatten().tolist() == pytest.approx([0.5, 0])


def test_a_decoder_that_does_not_carry_over_speaks_for_no_error():
    ones = torch.ones(1)
    true = error_decoding.Explained(ones, ones, 0.9 * ones[None])
    worse = error_decoding.Explained(ones, ones, 1.5 * ones[None])
    assert specificity(true, worse).item() == pytest.approx(0.1)
    assert specificity(true, true).item() == pytest.approx(0)
