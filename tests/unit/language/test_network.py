"""The forward pass for training: transformers' own logits and gradients, and each operation by itself."""

import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest
import torch
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
    tables = network.rotary_tables(40, WIDTH // heads, BASE)
    library = model(input_ids=tokens, labels=tokens)
    assert torch.allclose(network.forward(model, tokens, tables), library.logits, atol=1e-5)
    loss = network.next_token_loss(model, tokens, tables)
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
        "n.next_token_loss(made, torch.ones(2, 5, dtype=torch.long), n.rotary_tables(5, 8, 100.0)).backward(); "
        "sys.exit('transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_rotation_by_hand():
    """Two heads of four features, half a head apart in the weights: (x_0, x_2) turn by p, (x_1, x_3) by p / 10 where the base is 100."""
    tables = network.rotary_tables(3, 4, 100.0)
    x = torch.arange(24.0).view(3, 8)
    plain, turned = (x @ network.turning(torch.eye(8), 2).T).chunk(2, -1)
    found = network.rotate(plain, turned, tables)
    for position in range(3):
        for head in range(2):
            for pair, angle in ((0, 1.0 * position), (1, 0.1 * position)):
                a, b = (x[position, 4 * head + place].item() for place in (pair, pair + 2))
                expected = [a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)]
                assert found[position, 4 * head + pair :][:3:2].tolist() == pytest.approx(expected, rel=1e-5, abs=1e-5)
