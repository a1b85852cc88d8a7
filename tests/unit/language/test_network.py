"""The forward pass for training: transformers' own logits and gradients, and each operation by itself."""

import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from transformers import LlamaConfig, LlamaForCausalLM

from activation_descent.language import network

WORDS, WIDTH, BASE = 50, 16, 100.0
SHAPE = network.Shape(WORDS, WIDTH, 24, 3, 2)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_the_fast_forward_pass_is_that_of_transformers(heads):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=WIDTH,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=heads,
        max_position_embeddings=40,
        rope_parameters={"rope_type": "default", "rope_theta": BASE},
        tie_word_embeddings=True,
        initializer_range=0.1,
    )
    model = LlamaForCausalLM(config)
    for name, parameter in model.named_parameters():
        if "norm" in name:  # they start at 1, which would hide a mistake
            torch.nn.init.normal_(parameter, mean=1.0, std=0.3)
    tokens = torch.randint(WORDS, (3, 30), generator=torch.Generator().manual_seed(0))
    turns = network.rotary_turns(40, WIDTH // heads, BASE)
    library = model(input_ids=tokens, labels=tokens)
    assert torch.allclose(network.forward(model, tokens, turns), library.logits, atol=1e-5)
    loss = network.next_token_loss(model, tokens, turns)
    assert torch.isclose(loss, library.loss, atol=1e-5)
    ours = torch.autograd.grad(loss, list(model.parameters()))
    theirs = torch.autograd.grad(model(input_ids=tokens, labels=tokens).loss, list(model.parameters()))
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, other, atol=1e-5)


def test_a_network_has_the_librarys_names_in_its_order():
    """Weights are drawn, trained and saved by them."""
    config = LlamaConfig(**asdict(SHAPE), tie_word_embeddings=True)
    shapes = [(name, parameter.shape) for name, parameter in LlamaForCausalLM(config).named_parameters()]
    assert [(name, parameter.shape) for name, parameter in network.Network(SHAPE).named_parameters()] == shapes


def test_training_does_not_load_the_library():
    program = (
        "import sys, torch; from activation_descent.language import network as n; "
        f"made = n.Network(n.{SHAPE}); "
        "n.next_token_loss(made, torch.ones(2, 5, dtype=torch.long), n.rotary_turns(5, 8, 100.0)).backward(); "
        "sys.exit('transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_normalisation_and_its_derivative():
    x = torch.randn(2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.allclose(network.Normalised.apply(x, 0.1), F.rms_norm(x, (5,), eps=0.1))
    assert torch.autograd.gradcheck(lambda x: network.Normalised.apply(x, 0.1), x)


def test_the_gate_and_its_derivative():
    x = torch.randn(2, 3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    gate, up = x.chunk(2, -1)
    assert torch.allclose(network.Gated.apply(x), gate * torch.sigmoid(gate) * up)
    assert torch.autograd.gradcheck(network.Gated.apply, x)


def test_a_rotation_by_hand():
    """Two heads of four features, half a head apart in the weights: (x_0, x_2) turn by p, (x_1, x_3) by p / 10 where the base is 100."""
    turns = network.rotary_turns(3, 4, 100.0)
    x = torch.arange(24.0).view(3, 8)
    weight = torch.eye(8)
    found = network.rotate(x @ network.neighbours(weight, 2).T, turns)
    for position in range(3):
        for head in range(2):
            for pair, angle in ((0, 1.0 * position), (1, 0.1 * position)):
                a, b = (x[position, 4 * head + place].item() for place in (pair, pair + 2))
                expected = [a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)]
                assert found[position, 4 * head + 2 * pair :][:2].tolist() == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_a_loss_over_more_positions_than_are_taken_at_once(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    states, words = (torch.randn(2, n, 4, generator=generator, requires_grad=True) for n in (11, 9))
    targets = torch.randint(9, (2, 11), generator=generator)
    monkeypatch.setattr(network, "POSITIONS_AT_ONCE", 4)
    weight = torch.tensor([1.0, 3.0])
    found = network.Surprise.apply(states, words, targets)
    expected = torch.stack([F.cross_entropy(states[i] @ words[i].T, targets[i]) for i in (0, 1)])
    assert torch.allclose(found, expected)
    pairs = zip(*(torch.autograd.grad((weight * loss).sum(), [states, words]) for loss in (found, expected)), strict=True)
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in pairs)
