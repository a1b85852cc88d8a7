import pytest
import torch

from activation_descent.regression import answers, constructions, learners, transformer
from activation_descent.regression.transformer import Architecture
from tests.unit.regression.test_transformer import ARCHITECTURES, LINEAR, draw, random_vector


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_written_model_is_the_derivative_of_the_prediction(name):
    """By automatic differentiation through every token: the query has no part in the context."""
    architecture = ARCHITECTURES[name]
    tasks, vector = draw(d=3, n=4), random_vector(architecture)
    prediction, model = answers.written_model(vector, tasks.tokens, architecture)
    tokens = tasks.tokens.clone().requires_grad_()
    whole = transformer.predict(vector, tokens, architecture)
    whole.sum().backward()
    assert torch.allclose(prediction, whole.detach())
    assert torch.allclose(model, tokens.grad[:-1, -1])


@pytest.mark.parametrize("name", [name for name in LINEAR if "clipped" not in name])
def test_written_model_of_a_linear_network_answers_every_query(name):
    """Linear attention is linear in the query: its derivative at one query predicts for any other."""
    architecture = ARCHITECTURES[name]
    tasks, vector = draw(d=3, n=4), random_vector(architecture)
    prediction, model = answers.written_model(vector, tasks.tokens, architecture)
    assert torch.allclose(prediction, learners.predict(model, tasks))
    moved = tasks.tokens.clone()
    moved[:-1, -1] = torch.randn(3, 6, dtype=torch.float64)
    assert torch.allclose(transformer.predict(vector, moved, architecture), (model * moved[:-1, -1]).sum(0))


@pytest.mark.parametrize(("d", "n"), [(10, 10), (12, 45)])
def test_constructed_layer_is_a_gradient_step(d, n):
    tasks = draw(d=d, n=n)
    layer = constructions.gradient_descent_layer(d, 0.3)
    prediction, model = answers.written_model(layer.flatten(), tasks.tokens, Architecture(d + 1))
    step = learners.gradient_descent_model(tasks, [0.3])
    assert torch.allclose(model, step, atol=1e-12)
    assert torch.allclose(prediction, learners.predict(step, tasks), atol=1e-12)


def test_repeated_application_updates_the_labels_as_the_whole_layer_does():
    tasks, architecture = draw(d=3, n=4), Architecture(4)
    layer = transformer.unpack(random_vector(architecture), architecture)["attention"][0, 0]
    predictions = answers.apply_repeatedly(layer, tasks.tokens, 0.75, 2)
    a, b = transformer.products(layer[None])
    tokens = tasks.tokens.clone()
    for iteration in range(3):
        assert torch.allclose(predictions[iteration], -tokens[-1, -1])
        tokens[-1] += 0.75 * transformer.attend(a, b, False, tokens, tokens[:, :-1])[-1]
