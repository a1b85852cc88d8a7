"""Copies of a network in one forward pass against networks that hold the copies' parameters, in every family."""

from copy import deepcopy

import pytest
import torch
from transformers import AutoModelForCausalLM

from activation_descent.finetuning import copies
from activation_descent.finetuning.copies import PROMPT, SUBSETS, Sequences, shifted, subset
from activation_descent.language.models import FAMILIES, LanguageModel
from activation_descent.language.world import make_tokenizer
from tests.unit.language.test_models import CONFIGS, WORLD

WIDENED = {"gpt2": 64, "gpt_neo": 64, "gpt_neox": 32, "opt": 32, "llama": 32, "xglm": 32}  # features inside the MLP
PARAMETERS = [name for name in SUBSETS if name != "prefix"]


@pytest.fixture(params=sorted(FAMILIES))
def model(request):
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(CONFIGS[request.param])
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return LanguageModel(request.param, network, make_tokenizer(WORLD, 64))


def tokens(rows=3, length=20):
    return torch.randint(2, 50, (rows, length), generator=torch.Generator().manual_seed(1))


def random_deltas(masks, runs, std=0.1):
    source = torch.Generator().manual_seed(2)
    return {name: std * torch.randn(runs, *mask.shape, generator=source) * mask for name, mask in masks.items()}


@torch.no_grad()
def moved(model, deltas, run):
    """A network of its own with one run's parameters."""
    network = deepcopy(model.network)
    head = network.get_output_embeddings()
    if any("lm_head" in name or "embed_out" in name for name in deltas):
        head.weight = torch.nn.Parameter(head.weight.clone())  # untied
    for name, delta in deltas.items():
        network.get_parameter(name).add_(delta[run])
    return LanguageModel(model.name, network, model.tokenizer)


@torch.no_grad()
@pytest.mark.parametrize("name", PARAMETERS)
def test_a_run_is_the_network_with_its_parameters(model, name):
    deltas = random_deltas(subset(model, name), 3)
    before = deepcopy(model.network.state_dict())
    with shifted(model, deltas):
        found = model.logits(tokens(6)).unflatten(0, (3, 2))
        at = model.logits(tokens(6), at=torch.arange(6)).unflatten(0, (3, 2))
    for run in range(3):
        expected = moved(model, deltas, run).logits(tokens(6).unflatten(0, (3, 2))[run])
        assert torch.allclose(found[run], expected, atol=1e-4)
        assert torch.allclose(at[run], expected[torch.arange(2), 2 * run + torch.arange(2)], atol=1e-4)
    assert not torch.allclose(found, model.logits(tokens(6)).unflatten(0, (3, 2)), atol=1e-2)
    assert all(torch.equal(before[key], value) for key, value in model.network.state_dict().items())
    assert not any(module._forward_hooks for module in model.network.modules())


@torch.no_grad()
def test_copies_read_behind_prefixes_of_their_own(model):
    deltas = random_deltas(subset(model, "key_value"), 1)
    with shifted(model, deltas):
        found = model.logits(tokens()[:, 8:], model.encode_prefix(tokens()[0, :8].tolist()))
    whole = torch.cat([tokens()[:1, :8].expand(3, -1), tokens()[:, 8:]], dim=1)
    assert torch.allclose(found, moved(model, deltas, 0).logits(whole)[:, 8:], atol=1e-4)


@torch.no_grad()
def test_keys_and_values_and_nothing_else(model):
    masks = subset(model, "key_value")
    parts = [model.projection(layer, part) for layer in range(model.layers) for part in ("key", "value")]
    count = sum(part.weight.numel() + (0 if part.bias is None else part.bias.numel()) for part in parts)
    assert sum(mask.sum() for mask in masks.values()) == count
    assert all(set(mask.unique().tolist()) <= {0.0, 1.0} for mask in masks.values())
    plain = model.record(tokens())
    with shifted(model, random_deltas(masks, 3, std=1.0)):
        changed = model.record(tokens())
    assert torch.equal(changed.queries[0], plain.queries[0])
    assert not (changed.keys[0] == plain.keys[0]).any()
    assert not (changed.values[0] == plain.values[0]).any()


@torch.no_grad()
def test_queries_and_output_projections_and_nothing_else(model):
    plain = model.record(tokens())
    with shifted(model, random_deltas(subset(model, "query_output"), 3, std=1.0)):
        changed = model.record(tokens())
    assert not (changed.queries[0] == plain.queries[0]).any()
    assert torch.equal(changed.keys[0], plain.keys[0])
    assert torch.equal(changed.values[0], plain.values[0])


@torch.no_grad()
@pytest.mark.parametrize("name", ["mlp_in", "mlp_out"])
def test_the_mlp_and_nothing_before_it(model, name):
    masks = subset(model, name)
    plain = model.record(tokens())
    with shifted(model, random_deltas(masks, 3)):
        changed = model.record(tokens())
    assert torch.equal(changed.attention_output[0], plain.attention_output[0])
    assert not torch.allclose(changed.residual[1], plain.residual[1])
    assert all(max(mask.shape) == WIDENED[model.family] for mask in masks.values() if mask.dim() == 2)


@torch.no_grad()
def test_the_last_layer_and_nothing_else(model):
    masks = subset(model, "last_layer")
    assert sum(mask.numel() for mask in masks.values()) == sum(p.numel() for p in model.blocks[-1].parameters())
    plain = model.record(tokens())
    with shifted(model, random_deltas(masks, 3)):
        changed = model.record(tokens())
    assert torch.equal(changed.residual, plain.residual)
    assert not torch.allclose(changed.final, plain.final)


def test_biases_and_normalisations_are_all_vectors(model):
    masks = subset(model, "biases_norms")
    assert set(masks) == {name for name, parameter in model.network.named_parameters() if parameter.dim() < 2}


@torch.no_grad()
def test_the_head_comes_untied(model):
    deltas = random_deltas(subset(model, "head"), 3)
    plain = model.record(tokens())
    with shifted(model, deltas):
        changed = model.record(tokens())
    assert torch.equal(changed.final, plain.final)
    assert not torch.allclose(changed.logits, plain.logits)


@torch.no_grad()
def test_a_soft_prompt_moves_the_embeddings_of_its_placeholders(model):
    sequences = Sequences.of(tokens(6, 5).unflatten(0, (3, 2)).tolist(), model.begin).with_placeholders([7, 8])
    rows = sequences.tokens.flatten(0, 1)
    begin = len(model.begin)
    assert rows[0, : begin + 3].tolist() == [*model.begin, 7, 8, tokens(6, 5)[0, 0]]
    assert sequences.context == begin + 2
    prompt = random_deltas(subset(model, "prefix", 2), 3)
    with shifted(model, prompt):
        found = model.logits(rows)
    embedded = model.network.get_input_embeddings()(rows)
    for run in range(3):
        embedded[2 * run : 2 * run + 2, begin : begin + 2] += prompt[PROMPT][run]
    assert torch.allclose(found, model.network(inputs_embeds=embedded).logits, atol=1e-4)


def test_no_delta_of_an_embedding_table(model):
    name = next(name for name, module in model.network.named_modules() if module is model.network.get_input_embeddings())
    with pytest.raises(ValueError, match="prompt"), shifted(model, {f"{name}.weight": torch.zeros(1, 50, 16)}):
        pass


def test_an_unknown_subset(model):
    with pytest.raises(ValueError, match="key_value, query_output"):
        subset(model, "keys")


@torch.no_grad()
def test_padding_changes_nothing_before_it(model):
    rows = [tokens(1, length)[0].tolist() for length in (3, 9)]
    sequences = Sequences.of([rows], model.begin)
    assert sequences.tokens.shape == (1, 2, 9 + len(model.begin))
    padded = model.logits(sequences.tokens[0])
    for row, length, own in zip(padded, sequences.lengths[0], rows, strict=True):
        assert torch.allclose(row[:length], model.logits(torch.tensor([[*model.begin, *own]]))[0], atol=1e-4)


def test_rows_and_runs_of_sequences_by_hand():
    sequences = Sequences.of([[[5], [6, 7]], [[8, 9], [3]]], [1])
    assert sequences.tokens.tolist() == [[[1, 5, 0], [1, 6, 7]], [[1, 8, 9], [1, 3, 0]]]
    assert sequences.lengths.tolist() == [[2, 3], [3, 2]]
    assert sequences.runs(slice(1, 2)).tokens.tolist() == [[[1, 8, 9], [1, 3, 0]]]
    assert sequences.rows(slice(1, 2)).tokens.tolist() == [[[1, 6, 7]], [[1, 3, 0]]]
    assert sequences.runs(slice(1, 2)).rows(slice(1, 2)).tokens.tolist() == [[[1, 3]]]  # no column of padding alone


def test_arithmetic_of_deltas_by_hand():
    deltas = {"a": torch.tensor([[3.0], [1.0]]), "b": torch.tensor([[[4.0, 0.0]], [[2.0, 2.0]]])}
    assert copies.norms(deltas).tolist() == [5.0, 3.0]
    assert copies.inner_product(deltas, {"b": torch.ones(2, 1, 2), "a": torch.ones(2, 1)}).tolist() == [7.0, 5.0]
    twice = copies.scaled(deltas, torch.tensor([2.0, -1.0]))
    assert twice["b"].tolist() == [[[8.0, 0.0]], [[-2.0, -2.0]]]
    assert copies.take(deltas, torch.tensor([1]))["a"].tolist() == [[1.0]]


@torch.no_grad()
def test_rounding_to_half_by_hand():
    """Around 1 the numbers of float16 are 2^-10 apart above and 2^-11 below."""
    model = LanguageModel("llama", AutoModelForCausalLM.from_config(CONFIGS["llama"]), make_tokenizer(WORLD, 64))
    name = "model.layers.0.self_attn.k_proj.weight"
    weight = model.network.get_parameter(name).fill_(1.0)
    weight[0, 0] = 1 + 2**-12  # not a float16: the rounding of the start is no part of the change
    delta = torch.zeros(2, *weight.shape)
    delta[0, 1, :4] = torch.tensor([2**-12, 1.5 * 2**-11, -(2**-11), -(2**-13)])
    delta[1, 0, 0] = 2**-10
    rounded, moved = copies.rounded_to_half(model, {name: delta})
    expected = torch.zeros(2, *weight.shape)
    expected[0, 1, :4] = torch.tensor([0.0, 2**-10, -(2**-11), 0.0])
    expected[1, 0, 0] = 2**-10
    assert torch.equal(rounded[name], expected)
    assert moved.tolist() == [0.5, 1.0]
