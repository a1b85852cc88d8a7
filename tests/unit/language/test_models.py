"""Each family of models, small and random, held against its own plain forward pass."""

import json
import math
import os
import socket
import subprocess
import sys
import time

import pytest
import torch
from torch.nn.functional import linear
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GPT2Config,
    GPTNeoConfig,
    GPTNeoXConfig,
    LlamaConfig,
    OPTConfig,
    XGLMConfig,
)

from activation_descent.errors import ModelError
from activation_descent.language.models import FAMILIES, PARTS, LanguageModel, load
from activation_descent.language.world import make_tokenizer, make_world

SPECIAL = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
CONFIGS = {
    "gpt2": GPT2Config(vocab_size=50, n_embd=16, n_layer=3, n_head=4, n_positions=64, **SPECIAL),
    "gpt_neo": GPTNeoConfig(
        vocab_size=50,
        hidden_size=16,
        num_layers=4,
        num_heads=4,
        attention_types=[[["global", "local"], 2]],
        max_position_embeddings=64,
        window_size=8,
        **SPECIAL,
    ),
    "gpt_neox": GPTNeoXConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=32,
        max_position_embeddings=64,
        **SPECIAL,
    ),
    "opt": OPTConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=4,
        ffn_dim=32,
        max_position_embeddings=64,
        word_embed_proj_dim=16,
        **SPECIAL,
    ),
    "llama": LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        **SPECIAL,
    ),
    "xglm": XGLMConfig(
        vocab_size=50, d_model=16, num_layers=3, attention_heads=4, ffn_dim=32, max_position_embeddings=64, **SPECIAL
    ),
}
WORLD = make_world(0, 0.1)


@pytest.fixture(params=sorted(FAMILIES))
def model(request):
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(CONFIGS[request.param])
    for parameter in network.parameters():  # biases and normalisations start at 0 and 1, which would hide mistakes
        torch.nn.init.normal_(parameter, std=0.3)
    return LanguageModel(request.param, network, make_tokenizer(WORLD, 64))


def tokens(rows=3, length=20):
    return torch.randint(2, 50, (rows, length), generator=torch.Generator().manual_seed(1))


def test_every_family_is_tested():
    assert set(CONFIGS) == set(FAMILIES)


@torch.no_grad()
def test_logits_and_residual_states_are_those_of_the_plain_forward_pass(model):
    plain = model.network(input_ids=tokens(), output_hidden_states=True)
    recording = model.record(tokens())
    assert torch.equal(recording.logits, plain.logits)
    assert torch.equal(model.logits(tokens()), plain.logits)
    assert recording.residual.shape == (model.layers, 3, 20, model.width)
    for layer in range(model.layers):
        assert torch.equal(recording.residual[layer], plain.hidden_states[layer])
    assert not torch.equal(recording.final, recording.residual[-1])


@torch.no_grad()
def test_a_recording_of_some_layers_is_a_part_of_that_of_all(model):
    whole, part = model.record(tokens()), model.record(tokens(), layers=[2, 0])
    for name in ("residual", "attention_input", "queries", "keys", "values", "attention_output"):
        assert torch.equal(getattr(part, name), getattr(whole, name)[[2, 0]]), name


@torch.no_grad()
def test_projections_are_what_their_parameters_make_of_the_attention_input(model):
    recording = model.record(tokens())
    for layer in range(model.layers):
        for part, seen in zip(PARTS, (recording.queries, recording.keys, recording.values), strict=True):
            projection = model.projection(layer, part)
            expected = linear(recording.attention_input[layer], projection.weight, projection.bias)
            assert torch.allclose(seen[layer], expected, atol=1e-5)


@torch.no_grad()
def test_attention_output_is_attention_over_the_recorded_projections(model):
    """Where nothing rotates queries and keys, the attention can be redone by hand from what was recorded."""
    if model.family in ("gpt_neox", "llama"):
        pytest.skip("rotary: the recorded projections are those before the rotation")
    recording, layer = model.record(tokens()), 2  # global in GPT-Neo
    heads = lambda x: x[layer].unflatten(-1, (model.heads, -1)).transpose(1, 2)
    query, key, value = heads(recording.queries), heads(recording.keys), heads(recording.values)
    scale = 1.0 if model.family == "gpt_neo" else 1 / math.sqrt(query.shape[-1])
    scores = scale * query @ key.mT
    scores = scores.masked_fill(torch.ones(20, 20).triu(1).bool(), -torch.inf)
    mixed = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
    module = model._attention(layer).get_submodule(model.layout.output)
    expected = module(mixed)
    assert torch.allclose(recording.attention_output[layer], expected, atol=1e-4)


@torch.no_grad()
def test_recorded_values_of_rotary_families_stand_in_the_cache(model):
    """Values are not rotated in any family; the cache holds them head by head."""
    recording, prefix = model.record(tokens(1)), model.encode_prefix(tokens(1)[0].tolist())
    for layer, (_, values) in enumerate(prefix.layers):
        recorded = recording.values[layer].unflatten(-1, (values.shape[1], -1)).transpose(1, 2)
        assert torch.allclose(recorded, values, atol=1e-6)


@torch.no_grad()
def test_a_shared_prefix_gives_the_logits_of_the_whole_input(model):
    shared = tokens()[:1, :12]
    whole = torch.cat([shared.expand(3, -1), tokens()[:, 12:]], dim=1)
    prefix = model.encode_prefix(shared[0].tolist())
    before = [keys.clone() for keys, _ in prefix.layers]
    expected = model.logits(whole)[:, 12:]
    for _ in range(2):  # a second use finds the prefix unchanged
        assert torch.allclose(model.logits(tokens()[:, 12:], prefix), expected, atol=1e-4)
    assert all(torch.equal(keys, old) for (keys, _), old in zip(prefix.layers, before, strict=True))
    recorded = model.record(tokens()[:, 12:], prefix=prefix)
    assert torch.allclose(recorded.attention_output, model.record(whole).attention_output[:, :, 12:], atol=1e-4)


@torch.no_grad()
def test_logits_at_one_position_are_those_of_the_whole_pass(model):
    at, rows = torch.tensor([19, 3, 11]), torch.arange(3)
    assert torch.allclose(model.logits(tokens(), at=at), model.logits(tokens())[rows, at], atol=1e-5)
    prefix = model.encode_prefix(tokens(1, 9)[0].tolist())
    whole = model.logits(tokens(), prefix)[rows, at]
    assert torch.allclose(model.logits(tokens(), prefix, at), whole, atol=1e-5)
    assert not torch.allclose(whole, model.logits(tokens())[rows, at], atol=1e-2)  # the prefix matters


def test_gradients_and_updates_of_one_projection_leave_the_others_alone(model):
    model.logits(tokens()).square().mean().backward()
    projections = {part: model.projection(1, part) for part in PARTS}
    before = {
        part: (p.weight.detach().clone(), p.bias if p.bias is None else p.bias.detach().clone())
        for part, p in projections.items()
    }
    weight, bias = projections["value"].gradient()
    assert weight.shape == projections["value"].weight.shape
    assert weight.abs().max() > 0
    # The stored gradient holds exactly the three parts
    stored = projections["value"].module.weight.grad
    if model.layout.fused:
        total = sum(projections[part].gradient()[0].square().sum() for part in PARTS)
        assert torch.isclose(total, stored.square().sum(), rtol=1e-5)
    projections["value"].add(torch.ones_like(weight), None if bias is None else torch.ones_like(bias))
    for part, (old_weight, old_bias) in before.items():
        moved = 1.0 if part == "value" else 0.0
        assert torch.allclose(projections[part].weight, old_weight + moved)
        if old_bias is not None:
            assert torch.allclose(projections[part].bias, old_bias + moved)


def test_a_label_word_must_be_one_token(model):
    assert model.label_token("positive") == WORLD.vocabulary.index("positive")
    with pytest.raises(ModelError, match="label word 'Technology' is not one token of its vocabulary"):
        model.label_token("Technology")
    with pytest.raises(ModelError, match=r"label word 'very negative' is not one token .* 'very' \+ 'negative'"):
        model.label_token("very negative")


def test_missing_and_foreign_models_are_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(ModelError, match="model embedded:default: there is no folder"):
        load("embedded:default", tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"model \./nowhere: there is no folder \./nowhere"):
        load("./nowhere")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(str(tmp_path))
    config = BloomConfig(vocab_size=len(WORLD.vocabulary), hidden_size=16, n_layer=1, n_head=2)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "bloom")
    make_tokenizer(WORLD, 64).save_pretrained(tmp_path / "bloom")
    with pytest.raises(ModelError, match="its family 'bloom' is not one of gpt2, gpt_neo"):
        load(str(tmp_path / "bloom"))


def test_a_hub_out_of_reach_is_one_sentence(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="model nobody/nothing: it could not be fetched from the hub") as caught:
        load("nobody/nothing")
    assert "\n" not in str(caught.value)


def test_a_saved_model_is_loaded_with_its_tokenizer(model, tmp_path):
    model.network.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    loaded = load(str(tmp_path))
    assert loaded.family == model.family
    assert torch.equal(loaded.logits(tokens()), model.logits(tokens()))
    assert loaded.encode("very fish") == model.encode("very fish")


def saved(folder, model, **changes):
    """A model's folder, with other entries in its config.json."""
    model.network.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return str(folder)


@pytest.mark.parametrize("model", ["llama"], indirect=True)
@pytest.mark.parametrize("changes", [{}, {"model_type": "mine"}], ids=["a known family", "a family of its own"])
def test_code_that_comes_with_a_model_is_refused_and_not_run(model, tmp_path, changes):
    mapped = {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}
    folder = saved(tmp_path / "model", model, auto_map=mapped, **changes)
    (tmp_path / "model/mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    with pytest.raises(ModelError) as caught:
        load(folder, allow_pickle=True)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("model", ["gpt2"], indirect=True)
def test_pickled_weights_are_refused_unless_they_are_allowed(model, tmp_path):
    folder = saved(tmp_path, model)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.network.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"holds pickled weights alone; a pickle can run whatever .* allow_pickle: true"):
        load(folder)
    assert torch.equal(load(folder, allow_pickle=True).logits(tokens()), model.logits(tokens()))


def test_a_hub_that_never_answers_is_one_sentence_in_time(tmp_path):
    script = """
from activation_descent.errors import ModelError
from activation_descent.language import models
models.HUB_TIMEOUT = 2
try:
    models.load("nobody/nothing")
except ModelError as error:
    print("SENTENCE", error)
"""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        environment = os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
        start = time.monotonic()
        done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=150)
    assert "SENTENCE model nobody/nothing: it could not be fetched from the hub" in done.stdout, done.stderr
    assert time.monotonic() - start < 60
