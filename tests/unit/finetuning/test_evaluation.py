"""What is recorded of queries against plain forward passes of one query at a time, in every family."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from activation_descent.finetuning import evaluation
from activation_descent.finetuning.attention import attention_calls
from activation_descent.finetuning.copies import Sequences, shifted, subset, take
from activation_descent.finetuning.descent import trajectory
from activation_descent.finetuning.evaluation import accuracy, cross_entropy, label_logits, read_states, read_training
from activation_descent.language.models import FAMILIES, LanguageModel
from activation_descent.language.world import make_tokenizer
from tests.unit.language.test_models import CONFIGS, WORLD

LABELS = torch.tensor([[3, 4], [5, 6]])
QUERIES = [[[10, 11], [12, 13, 14, 15]], [[16, 17, 18], [19]]]
PROMPTS = [[0, 20, 21, 22], [0, 23, 24, 25, 26, 27, 28]]


def make_model(family):
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(CONFIGS[family])
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return LanguageModel(family, network, make_tokenizer(WORLD, 64))


@pytest.fixture(params=sorted(FAMILIES))
def model(request):
    return make_model(request.param)


@pytest.fixture
def llama():
    return make_model("llama")


def random_deltas(model, runs=2):
    source = torch.Generator().manual_seed(2)
    masks = subset(model, "key_value")
    return {name: 0.1 * torch.randn(runs, *mask.shape, generator=source) * mask for name, mask in masks.items()}


@torch.no_grad()
@pytest.mark.parametrize("kind", ["plain", "shifted", "prompted"])
def test_states_are_those_of_one_query_at_a_time(model, kind):
    queries = Sequences.of(QUERIES, model.begin)
    deltas = random_deltas(model) if kind == "shifted" else None
    prompts = PROMPTS if kind == "prompted" else None
    states = read_states(model, queries, LABELS, deltas, prompts)
    assert torch.allclose(label_logits(model, queries, LABELS, deltas, prompts), states.logits, atol=1e-4)
    for run in range(2):
        before = PROMPTS[run] if prompts else model.begin
        for place, query in enumerate(QUERIES[run]):
            whole = torch.tensor([[*before, *query, LABELS[run, 0]]])
            with shifted(model, take(deltas, slice(run, run + 1)) if deltas else {}):
                recording = model.record(whole)
                with attention_calls(model) as calls:
                    model.logits(whole)
            assert torch.allclose(states.logits[run, place], recording.logits[0, -2, LABELS[run]], atol=1e-4)
            for position, at in enumerate((len(query) - 1, len(query))):
                end = len(before) + at
                own = states.own[run, place, position]
                assert own.tolist() == [token <= at for token in range(len(own))]
                for layer, call in calls.items():
                    spot = (run, place, position, layer)
                    assert torch.allclose(states.inputs[spot], recording.attention_input[layer, 0, end], atol=1e-4)
                    assert torch.allclose(states.outputs[spot], recording.attention_output[layer, 0, end], atol=1e-4)
                    assert torch.allclose(states.queries[spot], call.scale * recording.queries[layer, 0, end], atol=1e-4)
                    row = call.logits[0, :, end]  # head source
                    assert torch.allclose(states.scores[spot][:, : at + 1], row[:, len(before) : end + 1], atol=1e-4)
                    assert (states.scores[spot][:, at + 1 :] == 0).all()
                    prompt = states.prompt_scores[spot]
                    assert torch.allclose(prompt[: len(before)], row[:, : len(before)].sum(0), atol=1e-4)
                    assert (prompt[len(before) :] == 0).all()


@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, 6, 12])
def test_chunks_change_nothing(llama, monkeypatch, tokens):
    """From one row at a time to one run at a time."""
    queries, deltas = Sequences.of(QUERIES, llama.begin), random_deltas(llama)
    whole, prompted = read_states(llama, queries, LABELS, deltas), read_states(llama, queries, LABELS, prompts=PROMPTS)
    monkeypatch.setattr(evaluation, "TOKENS_AT_ONCE", tokens)
    for expected, found in (
        (whole, read_states(llama, queries, LABELS, deltas)),
        (prompted, read_states(llama, queries, LABELS, prompts=PROMPTS)),
    ):
        for name, tensor in vars(expected).items():
            assert torch.allclose(getattr(found, name).float(), tensor.float(), atol=1e-5), name


@torch.no_grad()
def test_the_label_that_is_read_is_that_of_class_0(llama):
    queries = Sequences.of(QUERIES, llama.begin)
    plain, other = (read_states(llama, queries, labels) for labels in (LABELS, LABELS.flip(1)))
    assert torch.allclose(plain.outputs[:, :, 0], other.outputs[:, :, 0], atol=1e-6)
    assert not torch.allclose(plain.outputs[:, :, 1], other.outputs[:, :, 1], atol=1e-2)
    assert torch.allclose(plain.logits, other.logits.flip(2), atol=1e-6)


def test_training_is_read_before_each_step(model):
    rows = [[[10, 11, 3], [12, 13, 14, 4]], [[16, 17, 18, 5], [19, 6]]]
    demonstrations, masks = Sequences.of(rows, model.begin), subset(model, "key_value")
    rates = torch.tensor([0.3, -0.2])
    training = read_training(model, demonstrations, masks, rates)
    steps = trajectory(model, demonstrations, masks, rates)
    for place, deltas in zip(range(2), steps, strict=False):
        for run in range(2):
            tokens = torch.tensor([[*model.begin, *rows[run][place]]])
            with torch.no_grad(), shifted(model, take(deltas, slice(run, run + 1))), attention_calls(model) as calls:
                recording = model.record(tokens)
            for layer in range(model.layers):
                found = training.inputs[run, place, : tokens.shape[1], layer]
                assert torch.allclose(found, recording.attention_input[layer, 0], atol=1e-4)
                found = training.queries[run, place, : tokens.shape[1], layer]
                assert torch.allclose(found, calls[layer].scale * recording.queries[layer, 0], atol=1e-4)


def test_error_signals_and_inputs_are_the_value_projection_s_first_step(model):
    """The first step of W_V is -rate sum_i dL/dv_i x_i^T: for a single token with a gradient, its length is |e| |x|, by the model's own
    backward pass."""
    demonstrations, masks = Sequences.of([[[10, 3]]], []), subset(model, "key_value")
    rates = torch.tensor([0.3])
    training = read_training(model, demonstrations, masks, rates)
    *_, deltas = trajectory(model, demonstrations, masks, rates)
    for layer in range(model.layers):
        values = model.projection(layer, "value")
        name = next(name for name, module in model.network.named_modules() if module is values.module)
        moved = deltas[f"{name}.weight"][0]
        moved = (moved.T if values.transposed else moved)[values.rows]
        # The loss is the label's alone, and looks at the token before it: all gradient is at that token
        assert training.errors[0, 0, 1, layer] < 1e-7
        expected = training.errors[0, 0, 0, layer] * training.inputs[0, 0, 0, layer].norm()
        assert torch.allclose(moved.norm(), expected, rtol=1e-4)


def test_loss_and_accuracy_by_hand():
    logits = torch.tensor([[[0.2, 0.8], [0.5, 0.5]], [[0.9, 0.1], [0.4, 0.6]]]).log() + 3
    truth = torch.tensor([[1, 0], [1, 1]])
    assert torch.allclose(cross_entropy(logits, truth).exp(), torch.tensor([0.4, 0.06]) ** -0.5)
    assert accuracy(logits, truth).tolist() == [1.0, 0.5]
