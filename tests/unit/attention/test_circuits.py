"""Weights of every family against what its own forward pass scores and adds, and files that hold attention alone or are no such files."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from activation_descent.attention import heads
from activation_descent.attention.circuits import circuits_of_checkpoint, circuits_of_model
from activation_descent.errors import ModelError
from activation_descent.finetuning.attention import attention_calls
from activation_descent.language.models import FAMILIES, LanguageModel
from activation_descent.language.world import make_tokenizer
from tests.unit.language.test_models import CONFIGS, WORLD


def model_of(family, **changes):
    torch.manual_seed(0)
    config = CONFIGS[family]
    if changes:
        config = type(config)(**{**config.to_dict(), **changes})
    network = AutoModelForCausalLM.from_config(config)
    for name, parameter in network.named_parameters():
        torch.nn.init.normal_(parameter, std=0.3)
        if name.endswith("bias"):
            torch.nn.init.zeros_(parameter)
    return LanguageModel(family, network, make_tokenizer(WORLD, 64))


def tokens():
    return torch.randint(2, 50, (2, 9), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize("family", [*sorted(FAMILIES), "opt without a norm in front"])
def test_scores_and_updates_of_a_model_follow_from_its_circuits(family):
    """Without biases: a token's score with itself is x M x^T, and the attention adds sum_h a_h x B_h, x before the norm's scale."""
    changes = {"do_layer_norm_before": False} if " " in family else {}
    model = model_of(family.split()[0], **changes)
    circuits = circuits_of_model(model)
    recording = model.record(tokens())
    with attention_calls(model) as calls:
        model.logits(tokens())
    assert len(circuits) == model.layers * model.heads
    for layer, call in calls.items():
        x = recording.attention_input[layer].double()
        if not changes:
            x = x / model.blocks[layer].get_submodule(model.layout.norm).weight
        added = 0
        for head in range(model.heads):
            place = layer * model.heads + head
            assert (circuits.layer[place], circuits.head[place]) == (layer + 1, head + 1)
            m = circuits.query[place] @ circuits.key[place].T
            scale = 0.5 if model.family == "opt" else call.scale  # OPT divides its queries beforehand
            own = scale * torch.einsum("bti,ij,btj->bt", x, m, x)
            assert torch.allclose(own, call.logits[:, head].diagonal(dim1=1, dim2=2).double(), atol=1e-4)
            added = added + call.weights[:, head].double() @ x @ circuits.value[place] @ circuits.output[place]
        assert torch.allclose(added, recording.attention_output[layer].double(), atol=1e-4)
    folded = "no normalisation in front" if changes else "scale of the normalisation folded in"
    rotary = "rotary positions at distance zero" if family in ("llama", "gpt_neox") else "no rotary"
    assert circuits.notes.startswith(folded)
    assert rotary in circuits.notes


@torch.no_grad()
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_construction_is_found_in_a_model(family):
    """Put by hand into the second head of the second layer, behind a normalisation with a scale of its own."""
    changes = {"num_key_value_heads": 4} if family == "llama" else {}
    model = model_of(family, **changes)
    planted = heads.hand_made(np.random.default_rng(0), 1, 16, 4)
    scale = model.blocks[1].get_submodule(model.layout.norm).weight.double()
    rows = slice(4, 8)
    for part in ("query", "key", "value"):
        wanted = (getattr(planted, part)[0] / scale[:, None]).T  # output input
        projection = model.projection(1, part)
        change = torch.zeros_like(projection.weight)
        change[rows] = wanted.float() - projection.weight[rows]
        projection.add(change)
    model.output_weight(1)[rows] = planted.output[0].float()
    circuits = circuits_of_model(model)
    score = heads.score(*heads.sides(circuits))
    assert score[4 + 1] > 0.999
    assert score[[place for place in range(12) if place != 5]].max() < 0.9


def checkpoint(folder, prefix="transformer.", norm=True, layers=2, config=True):
    """GPT-2's attention weights and nothing else."""
    model = model_of("gpt2")
    kept = ["attn.c_attn.weight", "attn.c_proj.weight", *(["ln_1.weight"] if norm else [])]
    state = model.network.state_dict()
    tensors = {f"{prefix}h.{i}.{name}": state[f"transformer.h.{i}.{name}"].contiguous() for i in range(layers) for name in kept}
    save_file(tensors, folder / "model.safetensors")
    if config:
        (folder / "config.json").write_text(json.dumps({"n_head": 4}))
    return model


@pytest.mark.parametrize("prefix", ["transformer.", ""])
def test_a_file_with_attention_weights_only(tmp_path, prefix):
    model = checkpoint(tmp_path, prefix, layers=3)
    whole, alone = circuits_of_model(model), circuits_of_checkpoint(tmp_path)
    for part in ("query", "key", "value", "output"):
        assert torch.equal(getattr(whole, part), getattr(alone, part))
    assert (whole.layer, whole.head, whole.notes) == (alone.layer, alone.head, alone.notes)


def test_a_file_without_a_norm_says_so(tmp_path):
    checkpoint(tmp_path, norm=False, config=False)
    circuits = circuits_of_checkpoint(tmp_path / "model.safetensors", heads=4)
    assert circuits.notes == "no scale of a normalisation in the file; no rotary positions"
    assert len(circuits) == 8


@pytest.mark.parametrize(
    ("spoil", "heads", "sentence"),
    [
        (lambda f: (f / "model.safetensors").unlink(), 4, "cannot be read"),
        (lambda f: (f / "model.safetensors").write_bytes(b"{}"), 4, "cannot be read"),
        (lambda f: (f / "config.json").unlink(), None, "neither 'heads' nor config.json says how many heads"),
        (
            lambda f: save_file({"x": torch.zeros(1)}, f / "model.safetensors"),
            4,
            r"there is no tensor 'h\.0\.attn\.c_attn\.weight'",
        ),
        (
            lambda f: save_file({"h.0.attn.c_attn.weight": torch.zeros(4, 12)}, f / "model.safetensors"),
            2,
            r"there is no tensor 'h\.0\.attn\.c_proj\.weight'",
        ),
        (
            lambda f: None,
            3,
            r"layer 0 has attention weights of shapes \(16, 48\) and \(16, 16\), which are not GPT-2's for 3 heads",
        ),
    ],
)
def test_bad_files_are_one_sentence(tmp_path, spoil, heads, sentence):
    checkpoint(tmp_path)
    spoil(tmp_path)
    with pytest.raises(ModelError, match=sentence) as caught:
        circuits_of_checkpoint(tmp_path, heads)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
