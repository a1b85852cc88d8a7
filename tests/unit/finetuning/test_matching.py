"""Matching of losses on curves with known roots, and on a network."""

import math

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from activation_descent.finetuning import matching
from activation_descent.finetuning.copies import Sequences, norms, scaled, subset
from activation_descent.finetuning.descent import Recipe, descend
from activation_descent.finetuning.evaluation import accuracy, cross_entropy
from activation_descent.finetuning.matching import Tuning, best_rates, match_loss, match_norm, match_scale, try_rates
from activation_descent.language.models import LanguageModel
from activation_descent.language.world import make_tokenizer
from tests.unit.language.test_models import WORLD


def match(curves, target, **arguments):
    """Match curves by name of the run; counts evaluations of each run."""
    calls = torch.zeros(len(curves), dtype=torch.long)

    def loss(scale, active):
        calls[active] += 1
        return torch.stack([curves[run](s) for run, s in zip(active.tolist(), scale, strict=True)])

    start = torch.stack([curve(torch.zeros(())) for curve in curves])
    return match_scale(loss, start, torch.tensor(target), **arguments), calls


def parabola(centre, lowest=0.1):
    return lambda s: lowest + 0.02 * (s - centre) ** 2


def test_scales_where_curves_meet_their_targets():
    """Exponential decay, a parabola's first root, a loss that rises, and a decay that is long past its target at the first scale."""
    curves = [lambda s: torch.exp(-0.3 * s), parabola(5.0), lambda s: 0.7 + 0.1 * s**2, lambda s: torch.exp(-30 * s)]
    found, calls = match(curves, [0.2, 0.3, 1.5, 0.5])
    assert found.reached.all()
    assert torch.allclose(found.loss, torch.tensor([0.2, 0.3, 1.5, 0.5]), rtol=0.01)
    expected = torch.tensor([math.log(5) / 0.3, 5 - math.sqrt(10), math.sqrt(8), math.log(2) / 30])
    assert torch.allclose(found.scale, expected, rtol=0.03)
    assert calls.max() < 15


def test_a_finer_tolerance():
    found, _ = match([lambda s: torch.exp(-0.3 * s)], [0.2], tolerance=1e-5)
    assert found.scale.item() == pytest.approx(math.log(5) / 0.3, rel=1e-4)


def test_targets_out_of_reach():
    """A parabola above its target, a flat end above it, a loss that moves away from the start on, and one that soon is not a number."""
    curves = [
        parabola(3.0),
        lambda s: 0.4 + 0.2 * torch.exp(-s),
        lambda s: 0.5 + s,
        lambda s: torch.where(s < 0.2, 0.5 - s, torch.nan),
    ]
    found, calls = match(curves, [0.05, 0.3, 0.2, 0.1])
    assert not found.reached.any()
    assert abs(found.scale[0] - 3.0) < 1.0  # the bottom, or what is known of it
    assert found.loss[0] < 0.12
    assert found.loss[1] == pytest.approx(0.4, rel=0.01)
    assert found.scale[2] == 0.0
    assert 0.15 < found.scale[3] < 0.2
    assert calls.max() < 30


def test_beyond_a_rise_there_is_nothing_to_find():
    """The loss first rises, and falls below the target only later: the region from 0 on ends before."""
    found, _ = match([lambda s: 0.5 + 0.1 * torch.sin(s)], [0.45])
    assert not found.reached.item()
    assert found.scale.item() == 0.0


def test_runs_that_are_done_are_not_asked_again():
    flat = lambda s: 1 - 0.4 * s.clamp(max=0.25)  # at its target at the first scale
    _, calls = match([flat, lambda s: torch.exp(-0.01 * s)], [0.9, 0.6])
    assert calls[0] == 1
    assert calls[1] > 3


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    network = AutoModelForCausalLM.from_config(config)
    for parameter in network.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.15)
    return LanguageModel("llama", network, make_tokenizer(WORLD, 64))


def task(model, runs=3):
    """One token tells the class. Demonstrations and tuning queries have other tokens beside it."""
    source = torch.Generator().manual_seed(3)
    truth = torch.tensor([[0, 1] * 4] * runs)
    labels = torch.tensor([[3, 4]] * runs)

    def texts():
        return [[[*torch.randint(10, 50, (2,), generator=source).tolist(), 5 + t, 9] for t in row] for row in truth.tolist()]

    demonstrations = [[[*text, 3 + t] for text, t in zip(*run, strict=True)] for run in zip(texts(), truth.tolist(), strict=True)]
    tuning = Tuning(Sequences.of(texts(), model.begin), labels, truth)
    return Sequences.of(demonstrations, model.begin), tuning


@torch.no_grad()
def test_a_network_is_matched_on_its_tuning_queries(model):
    demonstrations, tuning = task(model)
    masks = subset(model, "key_value")
    tuned = descend(model, demonstrations, masks, torch.full((3,), 0.2), Recipe(loss="restricted", passes=4), tuning.labels)
    start, target = tuning.loss(model), tuning.loss(model, tuned)
    assert (target < 0.9 * start).all()
    too_far = scaled(tuned, torch.tensor([1.0, 3.0, 0.2]))
    deltas, matched = match_loss(model, too_far, tuning, target, start)
    assert matched.reached.all()
    assert torch.allclose(tuning.loss(model, deltas), target, rtol=0.01)
    assert torch.allclose(tuning.loss(model, deltas), matched.loss, rtol=1e-4)
    _, matched = match_loss(model, tuned, tuning, torch.full((3,), 1e-9), start)
    assert not matched.reached.any()


def test_lengths_are_matched():
    deltas = {"a": torch.tensor([[3.0, 0.0], [1.0, 0.0]]), "b": torch.tensor([[4.0], [0.0]])}
    matched = match_norm(deltas, torch.tensor([10.0, 0.5]))
    assert norms(matched).tolist() == pytest.approx([10.0, 0.5])
    assert matched["b"][0].item() == pytest.approx(8.0)


def test_best_rates_by_hand():
    score = torch.tensor([[0.9, 0.1, 0.5], [0.7, 0.7, 0.5], [0.2, 0.2, torch.nan]])
    grid = [0.3, 0.1, 1.0]
    assert best_rates(score, grid, torch.tensor([0, 0, 1])).tolist() == pytest.approx([0.1, 0.1, 0.1])
    assert best_rates(score, grid, torch.tensor([0, 1, 1])).tolist() == pytest.approx([0.3, 0.1, 0.1])
    assert best_rates(-score, grid, torch.zeros(3, dtype=torch.long)).tolist() == pytest.approx([0.3, 0.3, 0.3])


@torch.no_grad()
def test_rates_are_tried_on_tuning_queries(model, monkeypatch):
    demonstrations, tuning = task(model)
    masks = subset(model, "key_value")
    losses, accuracies = try_rates(model, demonstrations, masks, [0.05, 0.4], tuning, Recipe(loss="restricted"))
    assert losses.shape == accuracies.shape == (2, 3)
    deltas = descend(model, demonstrations, masks, torch.full((3,), 0.4), Recipe(loss="restricted"), tuning.labels)
    logits = tuning.logits(model, deltas)
    assert torch.allclose(losses[1], cross_entropy(logits, tuning.truth))
    assert torch.equal(accuracies[1], accuracy(logits, tuning.truth))
    assert matching.FIRST < 1
