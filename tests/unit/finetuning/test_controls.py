"""What each control keeps and what it removes."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from activation_descent.finetuning import controls
from activation_descent.finetuning.copies import Sequences, norms, shifted, subset
from activation_descent.finetuning.evaluation import label_logits, read_states
from activation_descent.language.models import FAMILIES, LanguageModel
from activation_descent.language.prompts import Speaker
from activation_descent.language.tasks import own_tasks
from activation_descent.language.world import make_tokenizer
from activation_descent.seeding import generator
from tests.unit.language.test_models import CONFIGS, WORLD

RUNS = 3


def make_model(family, **changes):
    torch.manual_seed(0)
    config = deepcopy(CONFIGS[family])
    config.update(changes)
    network = AutoModelForCausalLM.from_config(config)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return LanguageModel(family, network, make_tokenizer(WORLD, 64))


@pytest.fixture(params=sorted(FAMILIES))
def model(request):
    return make_model(request.param)


@pytest.fixture(scope="module")
def speakers():
    """Two tasks of the corpus, spoken to a network with the corpus's vocabulary."""
    model = make_model("llama", vocab_size=len(make_tokenizer(WORLD, 64)))
    return [Speaker.of(model, task) for task in own_tasks(WORLD, 0.3, 0, 40)[:2]]


def rng(purpose, seed=0):
    return generator(0, "test", "controls", "v", purpose, seed)


def rngs(purpose):
    return [rng(purpose, run) for run in range(RUNS)]


def random_deltas(masks):
    source = torch.Generator().manual_seed(2)
    return {name: torch.randn(RUNS, *mask.shape, generator=source) * mask for name, mask in masks.items()}


def cosine(some, other):
    return sum((some[name] * other[name]).flatten(1).sum(1) for name in some) / norms(some) / norms(other)


# Changes of parameters


def test_gaussian_deltas_have_the_length_of_each_tensor_and_another_direction(model):
    masks = subset(model, "key_value")
    deltas = random_deltas(masks)
    found = controls.gaussian_deltas(rngs("gaussian"), deltas, masks)
    for name, mask in masks.items():
        assert torch.allclose(found[name].flatten(1).norm(dim=1), deltas[name].flatten(1).norm(dim=1), rtol=1e-5)
        assert (found[name][:, mask == 0] == 0).all()
        assert (found[name][:, mask == 1] != 0).all()
    dimensions = sum(mask.sum() for mask in masks.values()).item()
    assert cosine(found, deltas).abs().max() < 4 * dimensions**-0.5
    assert not torch.equal(found[name][0] / found[name][0].norm(), found[name][1] / found[name][1].norm())


def test_gaussian_deltas_are_isotropic():
    """Of many draws every entry has the same mean square, whatever the delta's."""
    masks = {"a": torch.ones(4, 2)}
    delta = torch.tensor([[3.0, 0.0], [0.0, 0.0], [0.0, 4.0], [0.0, 0.0]]).expand(4000, -1, -1)
    found = controls.gaussian_deltas([rng("isotropic", run) for run in range(4000)], {"a": delta}, masks)["a"]
    assert torch.allclose(found.square().mean(0), torch.full((4, 2), 25 / 8), rtol=0.1)
    assert found.mean(0).abs().max() < 5 * (25 / 8 / 4000) ** 0.5


def test_permuted_deltas_keep_singular_values_and_entries(model):
    masks = subset(model, "key_value")
    deltas = random_deltas(masks)
    found = controls.permuted_deltas(rngs("permuted"), deltas, masks)
    for name, mask in masks.items():
        assert torch.equal(found[name].flatten(1).sort().values, deltas[name].flatten(1).sort().values)
        assert (found[name][:, mask == 0] == 0).all()
        assert not torch.equal(found[name], deltas[name])
        if mask.dim() == 2:
            assert torch.allclose(torch.linalg.svdvals(found[name]), torch.linalg.svdvals(deltas[name]), atol=1e-4)


def test_rows_and_columns_move_as_wholes():
    delta = torch.arange(48.0).view(1, 6, 8)
    found = controls.permuted_deltas([rng("wholes")], {"a": delta}, {"a": torch.ones(6, 8)})["a"][0]
    assert sorted(map(sorted, found.tolist())) == delta[0].tolist()
    assert sorted(map(sorted, found.T.tolist())) == delta[0].T.tolist()
    assert not torch.equal(found, delta[0])


def test_mirrored_deltas():
    assert controls.mirrored({"a": torch.tensor([[1.0, -2.0]])})["a"].tolist() == [[-1.0, 2.0]]


# Demonstrations


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_wrong_labels_keep_none(classes):
    labels = rng("labels").integers(classes, size=3000)
    wrong = controls.wrong_labels(rng("wrong"), labels, classes)
    assert (wrong != labels).all()
    assert set(wrong) == set(range(classes))
    counts = np.bincount((wrong - labels) % classes, minlength=classes)[1:]
    assert np.abs(counts - 3000 / (classes - 1)).max() < 5 * (3000 / (classes - 1)) ** 0.5


def test_random_labels_know_nothing_of_their_examples():
    labels = rng("labels").integers(3, size=3000)
    drawn = controls.random_labels(rng("random"), labels, 3)
    table = np.array([[np.sum((labels == a) & (drawn == b)) for b in range(3)] for a in range(3)])
    assert np.abs(table - 1000 / 3).max() < 5 * (1000 / 3) ** 0.5


def test_other_words_are_no_labels_and_differ(speakers):
    words = controls.other_words(rng("words"), speakers[0])
    assert len(set(words)) == len(words) == len(speakers[0].labels)
    assert set(words) <= set(speakers[0].abstract)
    assert not set(words) & set(speakers[0].labels)


def test_demonstration_rows_are_the_prompt_without_separators(speakers):
    speaker, shown = speakers[0], speakers[0].task.demonstrations[:4]
    tokens = [speaker.labels[example.label] for example in shown]
    rows = controls.demonstration_rows(speaker, shown, tokens)
    prompt = speaker.prompt(shown, tokens, 6)
    assert prompt.tokens == [*speaker.model.begin, *(token for row in rows for token in [*row, *speaker.ending])]


def test_another_task_lends_its_texts_and_takes_the_labels(speakers):
    speaker, other = speakers
    shown = speaker.task.demonstrations[:10]
    examples, labels = controls.another_task(rng("another"), speaker, shown, other)
    assert set(examples) <= set(other.task.demonstrations)
    assert len(set(examples)) == 10
    assert labels == [speaker.labels[example.label] for example in examples]
    lengths = [[len(who.query(example.text)) for example in some] for who, some in ((speaker, shown), (other, examples))]
    assert lengths[0] == lengths[1]
    again, _ = controls.another_task(rng("again"), speaker, shown, other)
    assert again != examples


# Prompts


def test_an_unrelated_prompt_is_as_long_and_says_nothing_of_the_task(speakers):
    speaker, other = speakers
    prompt = controls.unrelated_prompt(rng("unrelated"), [other], speaker.model.begin, 40)
    assert len(prompt) == 40
    assert prompt[: len(speaker.model.begin)] == speaker.model.begin
    texts = {token for example in other.task.demonstrations for token in speaker.model.encode(f" {example.text}")}
    assert set(prompt[len(speaker.model.begin) :]) <= texts
    assert not set(prompt) & {*speaker.labels, *speaker.ending, *other.labels}


def test_an_unlabelled_prompt_is_the_prompt_without_labels(speakers):
    speaker, shown = speakers[0], speakers[0].task.demonstrations[:5]
    whole = speaker.prompt(shown, [speaker.labels[example.label] for example in shown], 6).tokens
    assert controls.unlabelled_prompt(speaker, shown) == [token for token in whole if token not in speaker.labels]


# Networks


def same(some, other, name):
    return torch.equal(some.network.get_parameter(name), other.network.get_parameter(name))


@torch.no_grad()
def test_untrained_networks_keep_the_architecture_alone(model):
    before = torch.random.get_rng_state()
    fresh, again, other = (controls.untrained(model, rng("untrained", seed)) for seed in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    names = [name for name, parameter in fresh.network.named_parameters() if parameter.dim() == 2]
    assert not any(same(fresh, model, name) for name in names)
    assert not any(same(fresh, other, name) for name in names)
    assert all(same(fresh, again, name) for name in names)
    assert fresh.logits(torch.tensor([[3, 4]])).shape == (1, 2, 50)
    assert fresh.tokenizer is model.tokenizer


@torch.no_grad()
def test_random_blocks_keep_everything_around_them(model):
    fresh = controls.random_blocks(model, rng("blocks"))
    recording, plain = fresh.record(torch.tensor([[3, 4, 5]])), model.record(torch.tensor([[3, 4, 5]]))
    assert torch.equal(recording.residual[0], plain.residual[0])  # the embeddings
    assert torch.equal(recording.attention_input[0], plain.attention_input[0])  # the first normalisation
    assert not torch.allclose(recording.queries[0], plain.queries[0])
    assert not torch.allclose(recording.final, plain.final)
    for block, trained in zip(fresh.blocks, model.blocks, strict=True):
        for (name, some), other in zip(block.named_parameters(), trained.parameters(), strict=True):
            assert torch.equal(some, other) == ("norm" in name or "ln_" in name), name
    heads = [some.network.get_output_embeddings().weight for some in (fresh, model)]
    assert torch.equal(*heads)


@torch.no_grad()
def test_shuffled_networks_keep_entries_and_lose_their_order(model):
    mixed = controls.shuffled(model, rng("shuffled"))
    for name, parameter in model.network.named_parameters():
        other = mixed.network.get_parameter(name)
        assert torch.equal(parameter.flatten().sort().values, other.flatten().sort().values)
        assert not torch.equal(parameter, other)
    tied = [some.network.get_output_embeddings().weight is some.network.get_input_embeddings().weight for some in (model, mixed)]
    assert tied[0] == tied[1]


# Recorded states


def test_gaussian_updates_are_as_long_and_isotropic():
    update = torch.zeros(5000, 2, 8)
    update[:, 0, 0], update[:, 1, 3] = 2.0, 0.5
    found = controls.gaussian_updates(rng("updates"), update)
    assert torch.allclose(found.norm(dim=-1), torch.tensor([2.0, 0.5]).expand(5000, 2))
    assert torch.allclose(found.square().mean(0), torch.tensor([[4 / 8], [0.25 / 8]]).expand(2, 8), rtol=0.1)
    cosines = found[:, 0, 0] / 2
    assert abs(cosines.mean().item()) < 5 * (8 * 5000) ** -0.5


def test_steered_outputs_by_hand():
    zero = torch.tensor([[[1.0], [2.0], [3.0]]])
    icl = zero + torch.tensor([[[3.0], [6.0], [0.0]]])
    assert controls.steered_outputs(zero, icl).tolist() == [[[1 + 3.0], [2 + 1.5], [3 + 4.5]]]


@torch.no_grad()
def test_steering_by_the_own_states_changes_nothing(model):
    queries = Sequences.of([[[10, 11], [12, 13, 14, 15]], [[16, 17, 18], [19]]], model.begin)
    labels = torch.tensor([[3, 4], [5, 6]])
    states = read_states(model, queries, labels)
    found = controls.steered_logits(model, queries, labels, states.outputs[:, :, 0])
    assert torch.allclose(found, states.logits, atol=1e-4)


@torch.no_grad()
def test_steered_logits_are_those_of_the_given_states(model, monkeypatch):
    """Attention outputs of copies of the network, put into the plain one: the stream at the last token is then theirs."""
    queries = Sequences.of([[[10, 11], [12, 13, 14, 15]], [[16, 17, 18], [19]]], model.begin)
    labels = torch.tensor([[3, 4], [5, 6]])
    masks = subset(model, "key_value")
    deltas = {name: 0.1 * delta[:2] for name, delta in random_deltas(masks).items()}
    states = read_states(model, queries, labels, deltas)
    for tokens in (2048, 1):
        monkeypatch.setattr(controls, "TOKENS_AT_ONCE", tokens)
        found = controls.steered_logits(model, queries, labels, states.outputs[:, :, 0])
        assert torch.allclose(found, states.logits, atol=1e-4)
    assert not torch.allclose(found, label_logits(model, queries, labels), atol=1e-2)


def test_every_control_says_what_it_removes():
    assert list(controls.CONTROLS) == ["C0", "C1", "C1p", *(f"C{number}" for number in range(2, 13))]
    assert all(controls.CONTROLS.values())


def test_no_hook_stays(model):
    with shifted(model, {}):
        controls.steered_logits(
            model, Sequences.of([[[5]]], [0]), torch.tensor([[3, 4]]), torch.zeros(1, 1, model.layers, model.width)
        )
    assert not any(module._forward_hooks for module in model.network.modules())
