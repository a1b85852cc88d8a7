import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from activation_descent.regression import constructions, learners, transformer
from activation_descent.regression.gradients import losses_and_gradients
from activation_descent.regression.tasks import linear_tasks, sine_tasks
from activation_descent.regression.transformer import Architecture
from activation_descent.seeding import generator

ARCHITECTURES = {
    "one layer": Architecture(4),
    "one layer, heads": Architecture(4, heads=3),
    "two layers": Architecture(4, layers=2),
    "two layers, untied": Architecture(4, layers=2, tied=False),
    "recurrent": Architecture(4, layers=3),
    "untied": Architecture(4, layers=3, tied=False),
    "heads": Architecture(4, layers=2, heads=3, tied=False),
    "clipped": Architecture(4, layers=3, heads=2, tied=False, activation_clip=0.7),
    "clipped at once": Architecture(4, activation_clip=0.05),
    "softmax": Architecture(4, heads=2, attention="softmax"),
    "deep softmax": Architecture(4, layers=2, heads=2, attention="softmax"),
    "softmax first": Architecture(4, layers=2, tied=False, attention="softmax_first"),
    "layer norm": Architecture(4, layers=2, layer_norm=True),
    "untied layer norm": Architecture(4, layers=2, tied=False, layer_norm=True, mlp=True),
    "perceptron": Architecture(4, layers=2, heads=2, tied=False, mlp=True, activation_clip=0.9),
    "classic": Architecture(4, layers=2, tied=False, attention="softmax_first", tokens="classic", position_size=6),
    "classic with a slot": Architecture(4, layers=2, tied=False, tokens="classic_slot", position_size=6),
}
COMPILED = [name for name, each in ARCHITECTURES.items() if each.is_linear_attention or name == "softmax"]
LINEAR = [name for name, architecture in ARCHITECTURES.items() if architecture.is_linear_attention]


def draw(number=6, d=10, n=10, dtype=float, seed=0):
    return linear_tasks(generator(0, "test", "transformer", f"{d}-{n}", "draw", seed), number, d, n, 0.5, dtype=dtype)


def loss_and_gradient(vector, architecture, tasks):
    """Of one network."""
    losses, gradients = losses_and_gradients(vector[None], architecture, [tasks])
    return losses.item(), gradients[0]


def random_vector(architecture, scale=0.5, seed=0):
    length = sum(math.prod(shape) for shape in transformer.shapes(architecture).values())
    return scale * torch.randn(length, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def classic_by_hand(tokens, architecture):
    """Classic tokens of one task, built one at a time."""
    d, p = len(tokens) - 1, architecture.position_size
    rows = []
    for i in range(tokens.shape[1]):
        rows.append(torch.cat([tokens[:-1, i], torch.zeros(1)]))
        rows.append(torch.cat([torch.zeros(d), tokens[-1:, i]]))
    sequence = []
    for position, row in enumerate(rows[:-1]):
        angles = [position / 10000 ** ((k - k % 2) / p) for k in range(p)]
        code = torch.tensor([(math.cos if k % 2 else math.sin)(angle) for k, angle in enumerate(angles)], dtype=torch.float64)
        if architecture.tokens == "classic_slot":
            sequence.append(torch.cat([code, row]))
        else:
            if position % 2:
                row[d - 1] = row[d]  # the label stands in the last of the d entries
            sequence.append(torch.cat([row[:d], code]))
    return torch.stack(sequence).double()


def network_by_loops(vector, tokens, architecture):
    """The prediction for one task as the paper and the authors' code write it, one pair of tokens and one head at a time."""
    parameters = transformer.unpack(vector, architecture)
    e = tokens.T.clone() if architecture.tokens == "constructed" else classic_by_hand(tokens, architecture)
    for layer in range(architecture.layers):
        block = 0 if architecture.tied else layer
        softmax = architecture.attention == "softmax" or (architecture.attention == "softmax_first" and layer == 0)
        n = e
        if architecture.layer_norm and (architecture.tied or layer > 0):
            n = functional.layer_norm(e, e.shape[-1:], parameters["norm_scale"][block], parameters["norm_offset"][block])
        update = torch.zeros_like(e)
        for query, key, value, projection in parameters["attention"][block]:
            for j in range(len(e)):
                scores = torch.stack([(n[j] @ query) @ (n[i] @ key) for i in range(len(e) - 1)])
                if softmax:
                    scores = torch.softmax(scores / math.sqrt(len(n[j])), 0)
                update[j] += sum(scores[i] * (n[i] @ value) for i in range(len(e) - 1)) @ projection
        e = e + update
        clip = architecture.activation_clip or math.inf
        e = e.clamp(-clip, clip)
        if architecture.mlp:
            n = e
            if architecture.layer_norm:
                n = functional.layer_norm(
                    e, e.shape[-1:], parameters["mlp_norm_scale"][block], parameters["mlp_norm_offset"][block]
                )
            hidden = functional.gelu(n @ parameters["mlp_in"][block], approximate="tanh")
            e = (e + hidden @ parameters["mlp_out"][block]).clamp(-clip, clip)
    return -e[-1, -1]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_network_equals_the_loops(name):
    architecture = ARCHITECTURES[name]
    tasks, vector = draw(d=3, n=4), random_vector(architecture)
    prediction = transformer.predict(vector, tasks.tokens, architecture)
    expected = [network_by_loops(vector, tasks.tokens[..., task], architecture) for task in range(6)]
    assert torch.allclose(prediction, torch.stack(expected), rtol=1e-9)
    if architecture.activation_clip == 0.05:
        assert (prediction.abs() == 0.05).any()  # or the bound was not tried


@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.parametrize("number", [5, 128, 300])
def test_compiled_kernel_equals_automatic_differentiation(name, number):
    architecture = ARCHITECTURES[name]
    tasks, vector = draw(number=number, d=3, n=4, dtype=np.float32), random_vector(architecture).float()
    loss, gradient = loss_and_gradient(vector, architecture, tasks)
    exact = vector.double().requires_grad_()
    prediction = transformer.predict(exact, tasks.tokens.double(), architecture)
    expected = 0.5 * (prediction - tasks.target.double()).square().mean()
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert torch.allclose(gradient.double(), exact.grad, rtol=1e-4, atol=1e-5 * exact.grad.abs().max().item())


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in COMPILED])
def test_gradient_of_every_other_network(name):
    architecture = ARCHITECTURES[name]
    tasks, vector = draw(d=3, n=4), random_vector(architecture)
    _, gradient = loss_and_gradient(vector, architecture, tasks)
    direction = random_vector(architecture, seed=1)

    def loss(step):
        return 0.5 * (transformer.predict(vector + step * direction, tasks.tokens, architecture) - tasks.target).square().mean()

    numerical = (loss(1e-6) - loss(-1e-6)) / 2e-6
    assert (gradient @ direction).item() == pytest.approx(numerical.item(), rel=1e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_starts_side_by_side_are_those_one_by_one(name):
    """Each network with its own weights on its own tasks."""
    architecture = ARCHITECTURES[name]
    tasks = [draw(number=6, d=3, n=4, dtype=np.float32, seed=seed) for seed in range(3)]
    vectors = torch.stack([random_vector(architecture, seed=seed) for seed in range(3)]).float()
    losses, gradients = losses_and_gradients(vectors, architecture, tasks)
    for vector, each, loss, gradient in zip(vectors, tasks, losses, gradients, strict=True):
        alone, gradient_alone = loss_and_gradient(vector, architecture, each)
        assert loss.item() == pytest.approx(alone, rel=1e-6)
        assert torch.allclose(gradient, gradient_alone, rtol=1e-4, atol=1e-6 * gradient.abs().max().item())


def test_the_last_row_of_the_query_matrix_learns_nothing_in_one_layer():
    """The query's own label is zero."""
    architecture = Architecture(11)
    vector = random_vector(architecture).float()
    _, gradient = loss_and_gradient(vector, architecture, draw(64, dtype=np.float32))
    assert (transformer.unpack(gradient, architecture)["attention"][0, 0, 0, -1] == 0).all()


def test_embedding_by_hand():
    """One token through a linear map and a residual perceptron, then a layer without weights."""
    architecture = Architecture(2, embedding_size=5)
    tasks = sine_tasks(generator(0, "test", "transformer", "sine", "draw"), 3, 4, 5.0, (0.1, 5.0), False, float)
    vector = random_vector(architecture)
    parameters = transformer.unpack(vector, architecture)
    parameters["attention"].zero_()
    query = tasks.tokens[:, -1, 0] @ parameters["embedding"]
    hidden = functional.gelu(query @ parameters["embedding_in"] + parameters["embedding_in_bias"], approximate="tanh")
    expected = query + hidden @ parameters["embedding_out"] + parameters["embedding_out_bias"]
    assert transformer.predict(vector, tasks.tokens, architecture)[0].item() == pytest.approx(-expected[-1].item())


def test_initialisation_has_the_published_width():
    architecture = Architecture(11)
    weights = torch.stack(
        [transformer.initialise(generator(0, "test", "init", "v", "initialise", seed), architecture, 0.002) for seed in range(50)]
    )
    std = math.sqrt(0.002 / 11)  # 0.0135
    assert weights.std().item() == pytest.approx(std, rel=0.03)  # 24,200 draws
    assert weights.abs().max() <= 2 * std / 0.8796
    assert not torch.equal(weights[0], weights[1])


def test_fan_in_of_each_matrix():
    architecture = Architecture(11, layers=3, heads=4, tied=False, layer_norm=True, mlp=True)
    vector = transformer.initialise(generator(0, "test", "init", "v", "initialise"), architecture, 0.01)
    parameters = transformer.unpack(vector, architecture)
    for matrix, fan_in in enumerate((11, 11, 11, 44)):
        assert parameters["attention"][:, :, matrix].std().item() == pytest.approx(math.sqrt(0.01 / fan_in), rel=0.08)
    assert parameters["mlp_in"].std().item() == pytest.approx(math.sqrt(0.01 / 11), rel=0.08)
    assert parameters["mlp_out"].std().item() == pytest.approx(math.sqrt(0.01 / 44), rel=0.08)
    assert (parameters["norm_scale"] == 1).all()
    assert (parameters["mlp_norm_offset"] == 0).all()


@pytest.mark.parametrize("length", [483, 485])
def test_a_vector_of_another_network_is_refused(length):
    with pytest.raises(ValueError, match=f"{length} parameters do not fit"):
        transformer.unpack(torch.zeros(length), Architecture(11))


def test_published_numbers_of_parameters():
    counts = [
        sum(math.prod(shape) for shape in transformer.shapes(architecture).values())
        for architecture in (
            Architecture(11),
            Architecture(11, layers=2),
            Architecture(11, layers=2, tied=False),
            Architecture(11, heads=2),
        )
    ]
    assert counts == [484, 484, 968, 968]


def test_constructed_layer_repeated_is_gradient_descent_repeated():
    tasks = draw(d=10, n=10)
    rate = learners.optimal_rate(10, 10, 0.5) * 0.5  # below the stability limit
    layer = constructions.gradient_descent_layer(10, rate)
    prediction = transformer.predict(layer.flatten(), tasks.tokens, Architecture(11, layers=100))
    expected = learners.predict(learners.gradient_descent_model(tasks, [rate] * 100), tasks)
    assert torch.allclose(prediction, expected, atol=1e-5)


def test_construction_from_another_initial_model():
    """W_0 != 0: labels become residuals, and the query carries -W_0 x_q."""
    tasks, start = draw(d=5, n=8), torch.linspace(-1, 1, 5, dtype=torch.float64)
    layer = constructions.gradient_descent_layer(5, 0.3, start)
    tokens = tasks.tokens.clone()
    tokens[-1, -1] = -(start[:, None] * tasks.query).sum(0)
    prediction = transformer.predict(layer.flatten(), tokens, Architecture(6))
    residual = tasks.labels - (start[:, None, None] * tasks.inputs).sum(0)
    model = start[:, None] + 0.3 * (tasks.inputs * residual).sum(1)
    assert torch.allclose(prediction, learners.predict(model, tasks), atol=1e-12)


def test_one_task_by_hand():
    # d = 1, N = 2: e_1 = (1, 2), e_2 = (3, 1), query (2, 0); A = [[1, 0], [0, 0]], B = [[0, 0], [0, -.1]]
    tokens = torch.tensor([[1.0, 3.0, 2.0], [2.0, 1.0, 0.0]], dtype=torch.float64).unsqueeze(-1)
    layer = constructions.gradient_descent_layer(1, 0.1)
    prediction = transformer.predict(layer.flatten(), tokens, Architecture(2))
    assert prediction.item() == pytest.approx(0.1 * (2 * 1 * 2 + 2 * 3 * 1))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU at hand")
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_gpu_gives_the_same_gradient(name):
    architecture = ARCHITECTURES[name]
    tasks, vector = draw(number=300, d=3, n=4, dtype=np.float32), random_vector(architecture).float()
    loss, gradient = loss_and_gradient(vector, architecture, tasks)
    on_gpu, gradient_on_gpu = loss_and_gradient(vector.cuda(), architecture, tasks)
    assert on_gpu == pytest.approx(loss, rel=1e-4)
    assert torch.allclose(gradient_on_gpu.cpu(), gradient, rtol=1e-3, atol=1e-4 * gradient.abs().max().item())
