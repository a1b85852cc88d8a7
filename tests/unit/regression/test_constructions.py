"""Layers by hand against the learners that they stand for."""

import pytest
import torch

from activation_descent.regression import constructions, learners
from activation_descent.regression.tasks import linear_tasks
from activation_descent.regression.transformer import Architecture, predict, products
from activation_descent.seeding import generator

RATES, GAMMAS = [0.5, 1.3, 0.4, 0.9, 0.7], [0.2, 0.1, 0.15, 0.05, 0.3]


def draw(d, n):
    return linear_tasks(generator(0, "test", "constructions", f"{d}-{n}", "draw"), 8, d, n, 0.5, dtype=float)


def network_prediction(layers, tasks):
    architecture = Architecture(features=len(tasks.tokens), layers=len(layers), tied=False)
    return predict(torch.stack(layers).flatten(), tasks.tokens, architecture)


@pytest.mark.parametrize(("d", "n", "scale"), [(10, 10, 1.0), (12, 45, 0.4)])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_layers_are_steps_of_gd_plus_plus(d, n, scale, steps):
    tasks = draw(d, n)
    rates, gammas = [scale * rate for rate in RATES[:steps]], [scale * gamma for gamma in GAMMAS[:steps]]
    layers = [constructions.gd_plus_plus_layer(d, *pair) for pair in zip(rates, gammas, strict=True)]
    expected = learners.predict(learners.gd_plus_plus_model(tasks, rates, gammas), tasks)
    assert expected.abs().max() > 0.1
    assert torch.allclose(network_prediction(layers, tasks), expected, rtol=0, atol=1e-10)


def test_the_last_gamma_moves_no_prediction():
    tasks = draw(10, 10)
    first = constructions.gd_plus_plus_layer(10, 0.5, 0.2)
    answers = [network_prediction([first, constructions.gd_plus_plus_layer(10, 1.0, gamma)], tasks) for gamma in (0.0, 0.7)]
    assert torch.allclose(*answers, rtol=0, atol=1e-12)
    others = [network_prediction([constructions.gd_plus_plus_layer(10, 0.5, gamma), first], tasks) for gamma in (0.0, 0.7)]
    assert not torch.allclose(*others, atol=1e-2)


def test_matrices_of_gd_plus_plus():
    """W_Q W_K^T = diag(I, 0), W_V W_P = diag(-gamma I, -eta / N) (appendix A.10)."""
    layer = constructions.gd_plus_plus_layer(3, 0.5, 0.2, dtype=torch.float32)
    assert layer.dtype == torch.float32
    a, b = products(layer)
    assert torch.equal(a, torch.diag(torch.tensor([1.0, 1.0, 1.0, 0.0])))
    assert torch.equal(b, torch.diag(torch.tensor([-0.2, -0.2, -0.2, -0.5])))


def test_without_contraction_it_is_the_layer_of_a_gradient_step():
    tasks = draw(10, 10)
    plain, contracting = constructions.gradient_descent_layer(10, 0.5), constructions.gd_plus_plus_layer(10, 0.5, 0.0)
    assert torch.equal(network_prediction([plain] * 3, tasks), network_prediction([contracting] * 3, tasks))


def test_step_sizes_of_the_construction_survive_a_change_of_scale():
    layer = constructions.gd_plus_plus_layer(10, 0.5, 0.2)
    layer[0] *= 5  # A times 5, B by a fifth: the same layer
    layer[3] /= 5
    assert constructions.step_sizes(layer) == pytest.approx((0.5, 0.2))
    assert constructions.step_sizes(constructions.gradient_descent_layer(10, 0.3)) == pytest.approx((0.3, 0.0))
