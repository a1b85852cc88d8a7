"""Readings against loops over tokens, closed forms, and heads that take the step by construction."""

import math

import numpy as np
import pytest
import torch

from activation_descent.attention import CONTROLS, READINGS, readings, softmax_layers
from activation_descent.attention.readings import Head, Moments
from activation_descent.regression.constructions import gradient_descent_layer
from activation_descent.regression.tasks import linear_tasks


def head(seed=0, scale=1.0, prompts=2, tokens=6, width=3, features=4):
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return torch.from_numpy(rng.standard_normal(shape))

    queries, keys = scale * normal(prompts, tokens, width), normal(prompts, tokens, width)
    root = math.sqrt(width)
    shape = (prompts, tokens, features)
    return (
        Head(
            queries @ keys.mT / root,
            torch.ones(tokens, tokens, dtype=torch.bool).tril()[None],
            keys.square().sum(-1) / (2 * root),
            normal(*shape),
            normal(*shape),
            normal(*shape),
            normal(*shape),
        ),
        queries,
        keys,
    )


def test_steps_in_loops():
    did, queries, keys = head()
    found = readings.steps(did, torch.zeros_like(did.state))
    for prompt in range(2):
        for token in range(6):
            c = did.contents[prompt, : token + 1]
            s = torch.stack([queries[prompt, token] @ key / math.sqrt(3) for key in keys[prompt, : token + 1]])
            distances = torch.stack([(queries[prompt, token] - key).square().sum() for key in keys[prompt, : token + 1]])
            a, g = s.exp() / s.exp().sum(), (-distances / (2 * math.sqrt(3))).exp()
            covariance = sum((x - s.mean()) * (y - c.mean(0)) for x, y in zip(s, c, strict=True)) / len(s)
            update = sum(x * y for x, y in zip(a, c, strict=True))
            expected = {
                "linear": sum(x * y for x, y in zip(s, c, strict=True)),
                "first_order": c.mean(0) + covariance,
                "gaussian": sum(x * y for x, y in zip(g / g.sum(), c, strict=True)),
                "from_state": update - did.state[prompt, token],
                "exact": update,
            }
            for name, value in expected.items():
                assert torch.allclose(found[name][prompt, token], value, atol=1e-12), name
    assert torch.equal(found["hopfield"], did.energy)
    assert torch.equal(found["error"], did.error)
    assert set(found) == {*READINGS, *CONTROLS}


def score(did, reading, seed=1):
    every = torch.ones(did.state.shape[:2], dtype=torch.bool)
    predicted = readings.steps(did, did.update.roll(3, dims=1))
    moments = Moments.of(did.update, predicted, every)
    return readings.scores_of(moments, moments)[reading]


def test_small_logits_are_first_order_and_large_ones_are_not():
    assert score(head(scale=0.05)[0], "first_order") > 0.999
    assert score(head(scale=20.0)[0], "first_order") < 0.9


def test_keys_of_one_length_make_the_kernel_gaussian():
    did, _, _ = head()
    even = Head(did.scores, did.visible, torch.full_like(did.halves, 2.0), did.contents, did.state, did.energy, did.error)
    assert score(even, "gaussian") == pytest.approx(1, abs=1e-12)
    assert score(did, "gaussian") < 0.99


def test_the_head_itself_and_elsewhere():
    did = head(tokens=40)[0]
    assert score(did, "exact") == pytest.approx(1, abs=1e-12)
    assert score(did, "elsewhere") < 0.3


def test_rate_and_r_squared_by_numpy():
    rng = np.random.default_rng(0)
    u, p = rng.standard_normal((3, 5, 2)) + 1, rng.standard_normal((3, 5, 2))
    kept = torch.ones(3, 5, dtype=torch.bool)
    kept[0, :2] = False
    moments = Moments.of(torch.from_numpy(u), {"p": torch.from_numpy(p), "none": torch.zeros(3, 5, 2)}, kept)
    u, p = u[kept.numpy()], p[kept.numpy()]
    rate = np.linalg.lstsq(p.reshape(-1, 1), u.ravel(), rcond=None)[0][0]
    assert moments.rate("p") == pytest.approx(rate)
    assert moments.r_squared("p", 0.3) == pytest.approx(1 - np.square(u - 0.3 * p).sum() / np.square(u - u.mean(0)).sum())
    assert moments.cosine("p") == pytest.approx((u * p).sum() / np.linalg.norm(u) / np.linalg.norm(p))
    assert moments.rate("none") == moments.cosine("none") == 0


def test_moments_add_up():
    rng = np.random.default_rng(0)
    u, p = (torch.from_numpy(rng.standard_normal((4, 5, 2))) for _ in range(2))
    kept = torch.ones(4, 5, dtype=torch.bool)
    whole = Moments.of(u, {"p": p}, kept)
    parts = readings.add(*(Moments.of(u[half], {"p": p[half]}, kept[half]) for half in (slice(2), slice(2, 4))))
    assert parts.rate("p") == pytest.approx(whole.rate("p"))
    assert parts.r_squared("p", 0.2) == pytest.approx(whole.r_squared("p", 0.2))


# Layers of the regression study


def tasks(number=400, seed=0):
    return linear_tasks(np.random.default_rng(seed), number, 4, 6, 0.5, dtype=np.float64)


def test_softmax_layers_say_what_the_regression_study_says_they_say():
    from activation_descent.regression.transformer import Architecture, predict

    rng = np.random.default_rng(3)
    weights = torch.from_numpy(rng.standard_normal((2, 4, 5, 5)))  # head matrix feature feature
    architecture = Architecture(features=5, heads=2, attention="softmax")
    drawn = tasks()
    said = sum(head.update for head in softmax_layers.heads_of(weights, drawn))[:, 0, 0]
    assert torch.allclose(said, predict(weights.flatten(), drawn.tokens, architecture), atol=1e-12)


def test_energy_of_a_softmax_layer_by_automatic_differentiation():
    rng = np.random.default_rng(3)
    weights = torch.from_numpy(rng.standard_normal((1, 4, 5, 5)))
    drawn = tasks(5)
    a = weights[0, 0] @ weights[0, 1].mT
    for task, energy in enumerate(softmax_layers.heads_of(weights, drawn)[0].energy[:, 0, 0]):
        e = drawn.tokens[:, :, task].T
        query = e[-1].clone().requires_grad_()
        (slope,) = torch.autograd.grad((e[:-1] @ (query @ a) / math.sqrt(5)).logsumexp(0), query)
        assert -energy.item() == pytest.approx(slope[-1].item(), abs=1e-12)


def test_the_construction_takes_the_gradient_step():
    """With small keys and queries a softmax layer is first order, and its deviation from the mean label is the centred step."""
    layer = gradient_descent_layer(4, 0.3)
    layer[:2] *= 1e-3
    (did,) = softmax_layers.heads_of(layer[None], tasks())
    assert score(did, "first_order") > 0.999
    expected = [
        sum(y * (x @ q) for x, y in zip(xs.T, ys, strict=True))
        for xs, ys, q in zip(tasks().inputs.movedim(-1, 0), tasks().labels.T, tasks().query.T, strict=True)
    ]
    assert torch.allclose(did.error[:, 0, 0], torch.stack(expected), atol=1e-12)
