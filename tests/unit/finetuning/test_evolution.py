"""The evolution strategy on a small network whose classes one token tells apart."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from transformers import AutoModelForCausalLM, GPT2Config

from activation_descent.finetuning import evolution
from activation_descent.finetuning.copies import Sequences, inner_product, norms, subset
from activation_descent.finetuning.evolution import Strategy, alignment, as_queries, evolve
from activation_descent.finetuning.matching import Tuning
from activation_descent.language.models import LanguageModel
from activation_descent.language.world import make_tokenizer
from activation_descent.seeding import generator
from tests.unit.language.test_models import WORLD

STRATEGY = Strategy(directions=40, generations=12)
RUNS = 2


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=50, n_embd=64, n_layer=2, n_head=2, n_positions=32, bos_token_id=0, eos_token_id=1, pad_token_id=1
    )
    network = AutoModelForCausalLM.from_config(config)
    for parameter in network.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.15)
    return LanguageModel("gpt2", network, make_tokenizer(WORLD, 32))


@pytest.fixture(scope="module")
def task(model):
    """Demonstrations, and queries with other tokens beside the one that tells the class."""
    source = torch.Generator().manual_seed(3)
    truth, labels = torch.tensor([[0, 1] * 4] * RUNS), torch.tensor([[3, 4]] * RUNS)

    def texts():
        return [[[*torch.randint(10, 50, (2,), generator=source).tolist(), 5 + t] for t in row] for row in truth.tolist()]

    rows = [[[*text, 3 + t] for text, t in zip(*run, strict=True)] for run in zip(texts(), truth.tolist(), strict=True)]
    return Sequences.of(rows, model.begin), Tuning(Sequences.of(texts(), model.begin), labels, truth)


def rngs(purpose="evolve"):
    return [generator(0, "test", "evolution", "v", purpose, run) for run in range(RUNS)]


@pytest.fixture(scope="module")
def evolved(model, task):
    demonstrations, tuning = task
    masks = subset(model, "key_value")
    target = 0.8 * tuning.loss(model)
    return target, evolve(model, demonstrations, masks, torch.full((RUNS,), 1.0), tuning, target, rngs(), STRATEGY)


@torch.no_grad()
def test_evolution_helps_as_much_as_asked(model, task, evolved):
    demonstrations, tuning = task
    target, found = evolved
    assert found.reached.all()
    assert torch.allclose(tuning.loss(model, found.deltas), target, rtol=0.01)
    assert torch.allclose(found.loss, tuning.loss(model, found.deltas), rtol=1e-4)
    fitness = as_queries(demonstrations, tuning.labels)
    assert (fitness.loss(model, found.deltas) < fitness.loss(model)).all()
    assert (found.generations > 0).all()


def test_evolution_owes_nothing_to_the_gradient(model, task, evolved):
    """Alignment from a network of its own and plain autograd."""
    demonstrations, tuning = task
    _, found = evolved
    assert (found.alignment.abs() < 0.05).all()
    for run in range(RUNS):
        network = deepcopy(model.network)
        logits = network(input_ids=demonstrations.tokens[run]).logits[:, -2, 3:5]
        F.cross_entropy(logits, tuning.truth[run]).backward()
        delta = {name: tensor[run] for name, tensor in found.deltas.items()}
        downhill = {name: -network.get_parameter(name).grad for name in delta}
        downhill = {name: subset(model, "key_value")[name] * tensor for name, tensor in downhill.items()}
        product = sum((delta[name] * downhill[name]).sum() for name in delta)
        lengths = [sum(tensor.square().sum() for tensor in some.values()).sqrt() for some in (delta, downhill)]
        assert found.alignment[run].item() == pytest.approx((product / lengths[0] / lengths[1]).item(), abs=1e-5)


def test_only_trained_rows_of_matrices_change(model, evolved):
    _, found = evolved
    for name, mask in subset(model, "key_value").items():
        change = found.deltas[name]
        assert (change[:, mask == 0] == 0).all()
        assert (change != 0).any() == name.endswith("weight")


def test_the_same_streams_give_the_same_deltas(model, task, evolved):
    demonstrations, tuning = task
    target, found = evolved
    again = evolve(model, demonstrations, subset(model, "key_value"), torch.ones(RUNS), tuning, target, rngs(), STRATEGY)
    assert all(torch.equal(again.deltas[name], delta) for name, delta in found.deltas.items())


@torch.no_grad()
def test_what_is_already_reached_needs_no_evolution(model, task):
    demonstrations, tuning = task
    target = tuning.loss(model) * 1.1
    found = evolve(model, demonstrations, subset(model, "key_value"), torch.ones(RUNS), tuning, target, rngs(), STRATEGY)
    assert norms(found.deltas).tolist() == [0.0] * RUNS
    assert found.generations.tolist() == [0] * RUNS
    assert not found.reached.any()
    assert found.alignment.tolist() == [0.0] * RUNS


def test_an_aligned_run_starts_again_in_half_the_subspace(model, task):
    demonstrations, tuning = task
    strategy = replace(STRATEGY, most_aligned=0.0, attempts=3, generations=1)
    target = 0.8 * tuning.loss(model)
    found = evolve(model, demonstrations, subset(model, "key_value"), torch.ones(RUNS), tuning, target, rngs(), strategy)
    assert found.directions.tolist() == [10] * RUNS


def test_candidates_are_mirrored_and_moves_as_long_as_asked(model, task, monkeypatch):
    demonstrations, tuning = task
    asked, combine = [], evolution._combine

    def spy(masks, factors, points):
        asked.append(points)
        return combine(masks, factors, points)

    monkeypatch.setattr(evolution, "_combine", spy)
    strategy = replace(STRATEGY, directions=400, generations=2, attempts=1, spread=0.3, step=2.0)
    evolve(
        model, demonstrations, subset(model, "key_value"), torch.full((RUNS,), 0.5), tuning, torch.zeros(RUNS), rngs(), strategy
    )
    first, moved, second = asked[:3]
    assert torch.allclose(first[:16], -first[16:])
    # Each is a Gaussian vector of 400 entries, whose length has a relative standard deviation of 1 / sqrt(800)
    assert torch.allclose(first.norm(dim=1), torch.tensor(0.3 * 0.5), rtol=5 / 800**0.5)
    assert moved.norm().item() == pytest.approx(2.0 * 0.5, rel=1e-5)
    assert torch.allclose(second.mean(0), moved[0], atol=1e-6)


def test_a_move_is_towards_the_fitter_candidates(model, task, monkeypatch):
    """On a linear fitness the move lies along its slope but for the noise of 256 pairs in 4 dimensions, about sqrt(3 / 256) across."""
    demonstrations, tuning = task
    slope = torch.tensor([1.0, -2.0, 0.5, 0.0])
    monkeypatch.setattr(evolution, "_combine", lambda masks, factors, points: {"point": points})
    monkeypatch.setattr(Tuning, "loss", lambda self, model, deltas: 1 - deltas["point"] @ slope)
    own = (as_queries(demonstrations, tuning.labels).runs([0]), {"a": torch.ones(1, 1)}, 1.0, tuning.runs([0]))
    never, start = torch.tensor([-100.0]), torch.ones(1)
    strategy = Strategy(directions=4, population=512, generations=1)
    found = evolution._evolve_one(model, *own, never, start, rngs()[0], strategy)["deltas"]["point"][0]
    assert (found @ slope / found.norm() / slope.norm()).item() > 0.97


def test_directions_are_of_rank_1_and_length_1(model):
    masks = subset(model, "key_value")
    factors = evolution._draw_subspace(rngs()[0], masks, 5)
    directions = evolution._combine(masks, factors, torch.eye(5))
    assert torch.allclose(norms(directions), torch.ones(5))
    for name, tensor in directions.items():
        if tensor.dim() == 3:
            assert (torch.linalg.matrix_rank(tensor, rtol=1e-4) == 1).all(), name
    some = evolution._combine(masks, factors, torch.tensor([[2.0, 0.0, -1.0, 0.0, 0.0]]))
    expected = {name: 2 * tensor[:1] - tensor[2:3] for name, tensor in directions.items()}
    assert all(torch.allclose(some[name], expected[name], atol=1e-6) for name in masks)


def test_random_directions_are_not_aligned():
    """Cosines of random directions have a standard deviation of 1 / sqrt(dimensions)."""
    masks = {"a": torch.ones(64, 64), "b": torch.ones(64, 64)}
    directions = evolution._combine(masks, evolution._draw_subspace(rngs()[0], masks, 200), torch.eye(200))
    source = torch.Generator().manual_seed(0)
    other = {name: torch.randn(1, 64, 64, generator=source).expand(200, -1, -1) for name in masks}
    found = alignment(directions, other)
    assert found.std().item() == pytest.approx(8192**-0.5, rel=0.2)
    assert torch.allclose(alignment(other, other), -torch.ones(200))
    assert np.isclose(inner_product(other, other)[0].item(), norms(other)[0].item() ** 2, rtol=1e-5)


def test_demonstrations_as_queries_by_hand():
    rows = Sequences.of([[[7, 8, 4], [9, 3]], [[7, 6], [8, 8, 5]]], [0])
    found = as_queries(rows, torch.tensor([[3, 4], [6, 5]]))
    assert found.truth.tolist() == [[1, 0], [0, 1]]
    assert found.queries.lengths.tolist() == [[3, 2], [2, 3]]
