"""What is seen inside the attentions of every family, against the models' own outputs, and replacements that must change nothing."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from activation_descent.finetuning.attention import attention_calls, replaced_attention
from activation_descent.language.models import FAMILIES, LanguageModel
from activation_descent.language.world import make_tokenizer
from tests.unit.language.test_models import CONFIGS, WORLD


@pytest.fixture(params=sorted(FAMILIES))
def model(request):
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(CONFIGS[request.param])
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return LanguageModel(request.param, network, make_tokenizer(WORLD, 64))


def tokens(rows=3, length=20):
    return torch.randint(2, 50, (rows, length), generator=torch.Generator().manual_seed(1))


def projected(model, layer, output):
    """What the attention adds to the stream, from head outputs."""
    return model._attention(layer).get_submodule(model.layout.output)(output.transpose(1, 2).flatten(2))


def prefix_of(model, length):
    return model.encode_prefix(tokens(1, length)[0].tolist()) if length else None


@torch.no_grad()
@pytest.mark.parametrize("before", [0, 12])
def test_what_is_seen_makes_the_recorded_attention_output(model, before):
    prefix = prefix_of(model, before)
    recording = model.record(tokens(), prefix=prefix)
    with attention_calls(model) as calls:
        logits = model.logits(tokens(), prefix)
    assert torch.allclose(logits, recording.logits, atol=1e-5)
    assert list(calls) == list(range(model.layers))
    for layer, call in calls.items():
        assert call.query.shape == (3, model.heads, 20, model.width // model.heads)
        assert call.key.shape == call.value.shape == (3, model.heads, before + 20, model.width // model.heads)
        made = (call.scale * call.query @ call.key.mT + call.mask).softmax(-1) @ call.value
        assert torch.allclose(made, call.output, atol=1e-6)
        assert torch.allclose(call.weights @ call.value, call.output, atol=1e-6)
        assert torch.allclose(projected(model, layer, call.output), recording.attention_output[layer], atol=1e-5)


@torch.no_grad()
def test_values_and_where_nothing_rotates_queries_and_keys_are_the_projections(model):
    recording = model.record(tokens())
    with attention_calls(model) as calls:
        model.logits(tokens())
    for layer, call in calls.items():
        parts = {"value": recording.values, "query": recording.queries, "key": recording.keys}
        for part, recorded in parts.items():
            if part != "value" and model.family in ("gpt_neox", "llama"):
                continue
            groups = model.width // recorded.shape[-1]
            head = recorded[layer].unflatten(-1, (model.heads // groups, -1)).transpose(1, 2).repeat_interleave(groups, dim=1)
            found = getattr(call, part)
            if part == "query":  # OPT scales its queries before they reach the attention
                head, found = head * call.query.shape[-1] ** (0 if model.family == "gpt_neo" else -0.5), found * call.scale
            assert torch.allclose(found, head, atol=1e-5), part


@torch.no_grad()
@pytest.mark.parametrize("before", [0, 12])
def test_a_token_looks_back_only_and_in_local_layers_not_far(model, before):
    with attention_calls(model) as calls:
        model.logits(tokens(), prefix_of(model, before))
    for layer, call in calls.items():
        window = 8 if model.family == "gpt_neo" and layer % 2 else 100
        back = torch.arange(before, before + 20)[:, None] - torch.arange(before + 20)
        allowed = (back >= 0) & (back < window)
        assert torch.equal((call.weights > 0).any(0).any(0), allowed)
        assert torch.allclose(call.weights.sum(-1), torch.ones(()), atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("before", [0, 12])
def test_a_replacement_by_the_same_changes_nothing_and_by_another_is_projected(model, before):
    prefix = prefix_of(model, before)
    plain = model.record(tokens(), prefix=prefix)
    with replaced_attention(model, lambda layer, call: call.weights @ call.value):
        same = model.record(tokens(), prefix=prefix)
    assert torch.allclose(same.logits, plain.logits, atol=1e-5)
    assert torch.allclose(same.attention_output, plain.attention_output, atol=1e-5)
    with replaced_attention(model, lambda layer, call: call.value[:, :, before:] if layer == 1 else None):
        other = model.record(tokens(), prefix=prefix)
    assert torch.allclose(other.residual[1], plain.residual[1], atol=1e-5)
    groups = model.width // plain.values.shape[-1]
    value = plain.values[1].unflatten(-1, (model.heads // groups, -1)).transpose(1, 2).repeat_interleave(groups, dim=1)
    assert torch.allclose(other.attention_output[1], projected(model, 1, value), atol=1e-5)
    assert not torch.allclose(other.residual[2], plain.residual[2], atol=1e-2)
    assert torch.equal(model.record(tokens(), prefix=prefix).logits, plain.logits)  # nothing stays behind


@torch.no_grad()
def test_an_inner_context_sees_what_an_outer_one_made(model):
    with replaced_attention(model, lambda layer, call: 2 * call.output), attention_calls(model) as inner:
        recording = model.record(tokens())
    for layer, call in inner.items():
        assert torch.allclose(call.output, 2 * call.weights @ call.value, atol=1e-5)
        assert torch.allclose(projected(model, layer, call.output), recording.attention_output[layer], atol=1e-5)
    with attention_calls(model) as outer, replaced_attention(model, lambda layer, call: 2 * call.output):
        model.logits(tokens())
    assert all(torch.allclose(call.output, call.weights @ call.value, atol=1e-5) for call in outer.values())


@torch.no_grad()
@pytest.mark.parametrize("watched_first", [True, False])
def test_what_other_hooks_make_of_a_projection_is_seen(model, watched_first):
    def double(module, arguments, output):
        return 2 * output

    module = model.projection(0, "value").module
    handle = None if watched_first else module.register_forward_hook(double)
    with attention_calls(model) as calls:
        handle = handle or module.register_forward_hook(double)
        try:
            recording = model.record(tokens())
        finally:
            handle.remove()
    assert torch.allclose(projected(model, 0, calls[0].output), recording.attention_output[0], atol=1e-4)
    values = 2 * model.record(tokens()).values[0]
    groups = model.width // values.shape[-1]
    heads = values.unflatten(-1, (model.heads // groups, -1)).transpose(1, 2).repeat_interleave(groups, dim=1)
    assert torch.allclose(calls[0].value, heads, atol=1e-5)


def test_an_error_inside_leaves_the_model_as_it_was(model):
    def fail(layer, call):
        raise RuntimeError("stop")

    before = model.logits(tokens())
    with pytest.raises(RuntimeError, match="stop"), replaced_attention(model, fail):
        model.logits(tokens())
    assert torch.equal(model.logits(tokens()), before)


def test_calls_of_many_parameters_at_once(model):
    """Under vmap over parameters, behind a prefix that each of them encodes, the calls are those of one model after the other."""
    parameters = {name: value.detach() for name, value in model.network.named_parameters()}
    copies = {name: torch.stack([value, value * 1.1]) for name, value in parameters.items()}
    before, after = tokens(1, 12)[0], tokens()

    def seen(chosen):
        with torch.nn.utils.stateless._reparametrize_module(model.network, chosen, tie_weights=True):
            with attention_calls(model) as calls:
                prefix = model.encode_prefix(before.tolist())
                logits = model.logits(after, prefix)
            with replaced_attention(model, lambda layer, call: call.value[:, :, 12:]):
                changed = model.logits(after, prefix)
            return logits, changed, torch.stack([call.logits for call in calls.values()]), calls[1].output

    together = torch.func.vmap(seen)(copies)
    for place in range(2):
        alone = seen({name: value[place] for name, value in copies.items()})
        for found, expected in zip(together, alone, strict=True):
            assert torch.allclose(found[place], expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(together[0][0], together[0][1], atol=1e-2)


def test_gradients_flow_through_what_is_seen(model):
    """Of the last layer, the loss reaches the values through the outputs alone: d L / d value = weights^T d L / d output."""
    with attention_calls(model) as calls:
        loss = model.logits(tokens()).square().sum()
    call = calls[model.layers - 1]
    by_output, by_value = torch.autograd.grad(loss, (call.output, call.value))
    assert by_output.abs().max() > 0
    assert torch.allclose(by_value, call.weights.mT @ by_output, rtol=1e-4, atol=1e-4 * by_value.abs().max().item())
