import math

import pytest
import torch

from activation_descent.regression import constructions, learners, transformer
from activation_descent.regression.tasks import Tasks, linear_tasks
from activation_descent.seeding import generator


def draw(number=6, d=10, n=10, dtype=float):
    return linear_tasks(generator(0, "test", "transformer", f"{d}-{n}", "draw"), number, d, n, 0.5, dtype=dtype)


def random_weights(d=10, seed=0):
    return torch.randn(4, d + 1, d + 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def attention_by_loops(weights, tokens, damping=1.0):
    """The layer as the paper writes it, one pair of tokens at a time: (feature, token) of one task."""
    query, key, value, projection = weights
    updated = tokens.clone()
    for j in range(tokens.shape[1]):
        update = torch.zeros(tokens.shape[0], dtype=tokens.dtype)
        for i in range(tokens.shape[1] - 1):
            score = (tokens[:, j] @ query) @ (tokens[:, i] @ key)
            update += score * (tokens[:, i] @ value)
        updated[:, j] = tokens[:, j] + damping * update @ projection
    return updated


@pytest.mark.parametrize("damping", [1.0, 0.75])
def test_layer_equals_the_double_loop(damping):
    tasks, weights = draw(d=3, n=4), random_weights(3)
    updated = transformer.linear_self_attention(weights, tasks.tokens, damping)
    for task in range(6):
        assert torch.allclose(updated[..., task], attention_by_loops(weights, tasks.tokens[..., task], damping))


def test_labels_only_changes_the_labels_only_and_as_the_whole_layer_does():
    tasks, weights = draw(), random_weights()
    whole = transformer.linear_self_attention(weights, tasks.tokens)
    labels = transformer.linear_self_attention(weights, tasks.tokens, labels_only=True)
    assert torch.allclose(labels[-1], whole[-1])
    assert torch.equal(labels[:-1], tasks.tokens[:-1])


def test_effective_model_is_the_derivative_of_the_prediction():
    tasks, weights = draw(), random_weights()
    tokens = tasks.tokens.clone().requires_grad_()
    transformer.read_out(transformer.linear_self_attention(weights, tokens)).sum().backward()
    # The query enters no key and no value, so the derivative by its token is the model; its own label is dropped
    assert torch.allclose(tokens.grad[:-1, -1], transformer.effective_model(weights, tasks.tokens))


@pytest.mark.parametrize(("d", "n"), [(10, 10), (4, 7)])
def test_hand_written_gradient_equals_automatic_differentiation(d, n):
    tasks, weights = draw(number=9, d=d, n=n), random_weights(d).requires_grad_()
    prediction = transformer.read_out(transformer.linear_self_attention(weights, tasks.tokens))
    expected = 0.5 * (prediction - tasks.target).square().mean()
    expected.backward()
    before = tasks.tokens.clone()
    loss, gradient = transformer.one_layer_gradient(weights.detach(), tasks)
    assert torch.allclose(loss, expected.detach(), rtol=1e-12)
    assert torch.allclose(gradient, weights.grad, rtol=1e-10, atol=1e-12 * weights.grad.abs().max().item())
    assert torch.equal(tasks.tokens, before)


def test_initialisation_has_the_published_width():
    weights = torch.stack(
        [transformer.initialise(generator(0, "test", "init", "v", "initialise", seed), 10, 0.002) for seed in range(50)]
    )
    std = math.sqrt(0.002 / 11)  # 0.0135
    assert weights.std().item() == pytest.approx(std, rel=0.03)  # 24,200 draws
    assert weights.abs().max() <= 2 * std / 0.8796
    assert not torch.equal(weights[0], weights[1])


@pytest.mark.parametrize(("d", "n"), [(10, 10), (12, 45)])
def test_constructed_layer_is_a_gradient_step(d, n):
    tasks = draw(d=d, n=n)
    layer = constructions.gradient_descent_layer(d, 0.3)
    step = learners.gradient_descent_model(tasks, 0.3)
    prediction = transformer.read_out(transformer.linear_self_attention(layer, tasks.tokens))
    assert torch.allclose(transformer.effective_model(layer, tasks.tokens), step, atol=1e-12)
    assert torch.allclose(prediction, learners.predict(step, tasks), atol=1e-12)


def test_constructed_layer_repeated_is_gradient_descent_repeated():
    tasks = draw(d=10, n=10)
    rate = learners.optimal_rate(10, 10, 0.5) * 0.5  # below the stability limit
    layer, tokens = constructions.gradient_descent_layer(10, rate), tasks.tokens
    for _ in range(100):
        tokens = transformer.linear_self_attention(layer, tokens)
    expected = learners.predict(learners.gradient_descent_model(tasks, rate, steps=100), tasks)
    assert torch.allclose(transformer.read_out(tokens), expected, atol=1e-5)


def test_construction_from_another_initial_model():
    """W_0 != 0: labels become residuals, and the query carries -W_0 x_q."""
    tasks, start = draw(d=5, n=8), torch.linspace(-1, 1, 5, dtype=torch.float64)
    layer = constructions.gradient_descent_layer(5, 0.3, start)
    tokens = tasks.tokens.clone()
    tokens[-1, -1] = -(start[:, None] * tasks.query).sum(0)
    prediction = transformer.read_out(transformer.linear_self_attention(layer, tokens))
    residual = tasks.labels - (start[:, None, None] * tasks.inputs).sum(0)
    model = start[:, None] + 0.3 * (tasks.inputs * residual).sum(1)
    assert torch.allclose(prediction, learners.predict(model, tasks), atol=1e-12)


def test_step_size_of_the_construction_survives_a_change_of_scale():
    layer = constructions.gradient_descent_layer(10, 0.3)
    layer[0] *= 5  # A times 5, B by a fifth: the same layer
    layer[3] /= 5
    assert constructions.step_size(layer) == pytest.approx((5.0, 0.3))


def test_interpolation_keeps_the_construction_and_ends_at_both_sides():
    tasks, trained = draw(), random_weights()
    layer = constructions.gradient_descent_layer(10, 0.3)
    scaled = layer.clone()
    scaled[0] *= 5
    scaled[3] /= 5

    def model(weights):
        return transformer.effective_model(weights, tasks.tokens)

    assert torch.allclose(model(constructions.interpolate(scaled, layer)), model(layer), atol=1e-12)
    assert torch.allclose(model(constructions.interpolate(trained, layer, 0.0)), model(trained), rtol=1e-9)
    assert torch.allclose(model(constructions.interpolate(trained, layer, 1.0)), model(layer), atol=1e-12)


def test_one_task_by_hand():
    # d = 1, N = 2: e_1 = (1, 2), e_2 = (3, 1), query (2, 0); A = [[1, 0], [0, 0]], B = [[0, 0], [0, -.1]]
    tokens = torch.tensor([[1.0, 3.0, 2.0], [2.0, 1.0, 0.0]], dtype=torch.float64).unsqueeze(-1)
    layer = constructions.gradient_descent_layer(1, 0.1)
    tasks = Tasks(tokens, torch.tensor([1.5], dtype=torch.float64))
    prediction = transformer.read_out(transformer.linear_self_attention(layer, tokens))
    assert prediction.item() == pytest.approx(0.1 * (2 * 1 * 2 + 2 * 3 * 1))
    loss, _ = transformer.one_layer_gradient(layer, tasks)
    assert loss.item() == pytest.approx(0.5 * (1.0 - 1.5) ** 2)
