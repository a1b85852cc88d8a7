"""Descent of many runs at once against torch's own optimisers on networks of their own, in every family."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from transformers import AutoModelForCausalLM

from activation_descent.finetuning import descent
from activation_descent.finetuning.copies import Sequences, inner_product, norms, subset
from activation_descent.finetuning.descent import LOSSES, Recipe, descend, row_losses, trajectory
from activation_descent.language.models import FAMILIES, LanguageModel
from activation_descent.language.world import make_tokenizer
from tests.unit.language.test_models import CONFIGS, WORLD

RATES = torch.tensor([0.2, 0.05, -0.1])
LABELS = torch.tensor([[3, 4], [5, 6], [6, 3]])


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


def texts(number=4):
    """Rows of several lengths for three runs, each ending with a label word of its run."""
    source = torch.Generator().manual_seed(1)
    return [
        [[*torch.randint(7, 50, (2 + (row + run) % 4,), generator=source).tolist(), own[row % 2]] for row in range(number)]
        for run, own in enumerate(LABELS.tolist())
    ]


def demonstrations(model, number=4):
    return Sequences.of(texts(number), model.begin)


def plain_loss(network, model, row):
    """The mean over the tokens of the text and its label, from the network's own forward pass of this row alone."""
    tokens = torch.tensor([[*model.begin, *row]])
    targets = tokens[0, max(len(model.begin), 1) :]
    return F.cross_entropy(network(input_ids=tokens).logits[0, -len(targets) - 1 : -1], targets)


def trained_alone(model, masks, run, optimiser, steps):
    """A network's change under an optimiser of torch's, with gradients masked.

    Args:
        optimiser: from parameters and a rate.
        steps: lists of rows, the loss of a step being their mean.
    """
    network = deepcopy(model.network)
    parameters = {name: network.get_parameter(name) for name in masks}
    rate = RATES[run].item()
    step = optimiser(list(parameters.values()), abs(rate))
    for rows in steps:
        network.zero_grad()
        loss = torch.stack([plain_loss(network, model, row) for row in rows]).mean()
        (loss if rate > 0 else -loss).backward()
        for name, parameter in parameters.items():
            parameter.grad *= masks[name]
        step.step()
    return {name: (parameter - model.network.get_parameter(name)).detach() for name, parameter in parameters.items()}


def assert_close(found, expected, run, tolerance=1e-4):
    for name, change in expected.items():
        size = max(change.abs().max().item(), 1e-3)
        assert torch.allclose(found[name][run], change, atol=tolerance * size), name


def test_sequential_descent_is_torchs(model):
    masks = subset(model, "key_value")
    found = descend(model, demonstrations(model), masks, RATES)
    for run, rows in enumerate(texts()):
        assert_close(found, trained_alone(model, masks, run, torch.optim.SGD, [[row] for row in rows]), run)
    assert all((delta[:, mask == 0] == 0).all() for delta, mask in zip(found.values(), masks.values(), strict=True))


@pytest.mark.parametrize("name", ["query_output", "mlp_in", "mlp_out", "biases_norms", "last_layer"])
def test_other_subsets_descend_alike(llama, name):
    masks = subset(llama, name)
    found = descend(llama, demonstrations(llama), masks, RATES)
    for run in (0, 2):
        assert_close(found, trained_alone(llama, masks, run, torch.optim.SGD, [[row] for row in texts()[run]]), run)


def test_the_whole_batch_at_once_is_torchs(llama):
    masks = subset(llama, "key_value")
    found = descend(llama, demonstrations(llama), masks, RATES, Recipe(sequential=False, passes=3))
    for run, rows in enumerate(texts()):
        assert_close(found, trained_alone(llama, masks, run, torch.optim.SGD, [rows] * 3), run)


def test_adam_is_torchs(llama):
    masks = subset(llama, "key_value")
    found = descend(llama, demonstrations(llama), masks, RATES, Recipe(optimiser="adam", passes=2))
    for run, rows in enumerate(texts()):
        assert_close(found, trained_alone(llama, masks, run, torch.optim.Adam, [[row] for row in rows] * 2), run, 1e-3)


def test_sign_descent_moves_every_weight_by_the_rate(llama):
    masks = subset(llama, "key_value")
    found = descend(llama, demonstrations(llama, 1), masks, RATES, Recipe(optimiser="sign"))
    plain = descend(llama, demonstrations(llama, 1), masks, RATES)
    for name in masks:
        assert torch.equal(found[name], plain[name].sign() * RATES.abs()[:, None, None])


def test_a_soft_prompt_descends_as_its_embeddings(llama):
    rows = demonstrations(llama).with_placeholders([7, 8])
    found = descend(llama, rows, subset(llama, "prefix", 2), RATES)["prompt"]
    for run in range(3):
        prompt, begin = torch.zeros(2, llama.width), len(llama.begin)
        for row, length in zip(rows.tokens[run], rows.lengths[run], strict=True):
            embedded = llama.network.get_input_embeddings()(row[None, :length]).detach()
            embedded[0, begin : begin + 2] += prompt
            embedded.requires_grad_()
            logits = llama.network(inputs_embeds=embedded).logits[0]
            loss = F.cross_entropy(logits[begin + 1 : -1], row[begin + 2 : length])
            prompt = prompt - RATES[run] * torch.autograd.grad(loss, embedded)[0][0, begin : begin + 2]
        assert torch.allclose(found[run], prompt, atol=1e-5)


def test_runs_do_not_see_each_other(llama, monkeypatch):
    masks, rows = subset(llama, "key_value"), demonstrations(llama)
    together = descend(llama, rows, masks, RATES, Recipe(loss="restricted"), LABELS)
    monkeypatch.setattr(descent, "TRAINED_AT_ONCE", 1)
    apart = descend(llama, rows, masks, RATES, Recipe(loss="restricted"), LABELS)
    for name in masks:
        assert torch.allclose(together[name], apart[name], atol=1e-6)


def test_a_run_that_diverges_leaves_the_others_alone(llama):
    masks, rows = subset(llama, "key_value"), demonstrations(llama)
    found = descend(llama, rows, masks, torch.tensor([0.2, torch.inf, -0.1]))
    expected = descend(llama, rows, masks, RATES)
    for name in masks:
        assert not found[name][1].isfinite().any()
        assert torch.allclose(found[name][::2], expected[name][::2], atol=1e-6)


def test_a_trajectory_begins_with_nothing_and_ends_where_descent_does(llama):
    masks, rows = subset(llama, "key_value"), demonstrations(llama)
    steps = list(trajectory(llama, rows, masks, RATES, Recipe(passes=2)))
    assert len(steps) == 9
    assert norms(steps[0]).tolist() == [0.0] * 3
    for name, delta in descend(llama, rows, masks, RATES).items():
        assert torch.equal(steps[4][name], delta)


def test_ascent_mirrors_descent_to_first_order(model):
    """The sum of the two is of second order in the rate, but for OPT's kinks: a rate of a half leaves about a quarter of it."""
    masks, rows = subset(model, "key_value"), demonstrations(model)
    left = []
    for rate in (0.02, 0.01):
        rates = torch.full((3,), rate)
        up, down = (descend(model, rows, masks, sign * rates) for sign in (-1, 1))
        left.append(norms({name: up[name] + down[name] for name in masks}))
        assert (left[-1] < 0.1 * norms(down)).all()
    assert (left[1] / left[0] < (0.45 if model.family == "opt" else 0.3)).all()


# Losses


def test_losses_by_hand():
    """Three words; a begin token, a text of one token and a label; a second row one token longer."""
    p = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.6, 0.3], [0.2, 0.2, 0.6]])
    logits = torch.stack([p.log(), p.flip(0).log() + 7])
    tokens, lengths = torch.tensor([[0, 1, 2], [0, 2, 1]]), torch.tensor([3, 3])
    labels = torch.tensor([[1, 2], [1, 2]])

    def found(loss):
        return row_losses(logits, tokens, lengths, 1, loss, labels).exp()

    # Row 1: p(1) = .25, then p(2) = .3; row 2: p(2) = .6, then p(1) = .6
    assert torch.allclose(found("all"), torch.tensor([(0.25 * 0.3) ** -0.5, 1 / 0.6]))
    assert torch.allclose(found("input"), torch.tensor([4.0, 1 / 0.6]))
    assert torch.allclose(found("label"), torch.tensor([1 / 0.3, 1 / 0.6]))
    assert torch.allclose(found("restricted"), torch.tensor([3.0, 1.5]))
    z = 0.5 * torch.tensor([0.5, 2.0]).log()  # half the difference of the label's logit and the other one's
    assert torch.allclose(found("linear"), (-z).exp())
    assert torch.allclose(found("squared"), (z - 0.5).square().exp())


def test_losses_leave_padding_and_context_out():
    source = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 6, 9, generator=source)
    short, long = torch.tensor([[0, 5, 6, 7, 3]]), torch.tensor([[0, 5, 6, 7, 3, 8]])
    for loss in LOSSES:
        labels = torch.tensor([[4, 3]])
        arguments = (torch.tensor([5]), 2, loss, labels)
        padded, plain = row_losses(logits, long, *arguments), row_losses(logits[:, :5], short, *arguments)
        assert torch.allclose(padded, plain)
    kept = logits.log_softmax(2)[0]
    assert row_losses(logits, long, torch.tensor([5]), 2, "all")[0] == pytest.approx(
        -(kept[1, 6] + kept[2, 7] + kept[3, 3]).item() / 3
    )


def test_a_label_must_be_among_the_label_words(llama):
    with pytest.raises(ValueError, match="label words"):
        descend(llama, demonstrations(llama), subset(llama, "key_value"), RATES, Recipe(loss="linear"), LABELS + 20)


def test_an_unknown_loss(llama):
    with pytest.raises(ValueError, match="all, label"):
        descend(llama, demonstrations(llama), subset(llama, "key_value"), RATES, Recipe(loss="labels"), LABELS)


@pytest.mark.parametrize("loss", LOSSES)
def test_descent_lowers_its_loss(llama, loss):
    masks, rows = subset(llama, "key_value"), demonstrations(llama)
    path = list(trajectory(llama, rows, masks, torch.full((3,), 0.02), Recipe(loss=loss, sequential=False, passes=5), LABELS))
    flat = (rows.tokens.flatten(0, 1), rows.lengths.flatten(), rows.context, loss, LABELS.repeat_interleave(4, dim=0))

    def loss_at(deltas):
        with torch.no_grad(), descent.shifted(llama, deltas):
            return row_losses(llama.logits(flat[0]), *flat).view(3, 4).mean(1)

    losses = torch.stack([loss_at(deltas) for deltas in path])
    assert (losses.diff(dim=0) < 0).all()


# Layer-causal descent


def gpt2_blocks(network, tokens):
    transformer = network.transformer
    x = transformer.wte(tokens) + transformer.wpe(torch.arange(tokens.shape[1]))
    return x, [lambda x, block=block: block(x) for block in transformer.h], transformer.ln_f


def llama_blocks(network, tokens):
    x = network.model.embed_tokens(tokens)
    rotation = network.model.rotary_emb(x, torch.arange(tokens.shape[1])[None])
    return (
        x,
        [lambda x, block=block: block(x, position_embeddings=rotation) for block in network.model.layers],
        network.model.norm,
    )


def neox_blocks(network, tokens):
    x = network.gpt_neox.embed_in(tokens)
    rotation = network.gpt_neox.rotary_emb(x, torch.arange(tokens.shape[1])[None])

    def call(x, block):
        output = block(x, attention_mask=None, position_embeddings=rotation)
        return output[0] if isinstance(output, tuple) else output

    return x, [lambda x, block=block: call(x, block) for block in network.gpt_neox.layers], network.gpt_neox.final_layer_norm


@pytest.mark.parametrize(("family", "taken_apart"), [("gpt2", gpt2_blocks), ("llama", llama_blocks), ("gpt_neox", neox_blocks)])
def test_layer_causal_descent_is_a_loop_with_detached_blocks(family, taken_apart):
    model = make_model(family)
    masks = subset(model, "key_value")
    found = descend(model, demonstrations(model), masks, RATES, Recipe(layer_causal=True))
    for run, rows in enumerate(texts()):
        network = deepcopy(model.network)
        parameters = {name: network.get_parameter(name) for name in masks}
        for row in rows:
            tokens = torch.tensor([[*model.begin, *row]])
            targets = tokens[0, max(len(model.begin), 1) :]
            x, blocks, norm = taken_apart(network, tokens)
            loss = torch.zeros(())
            for block in blocks:
                x = block(x.detach())
                loss = loss + F.cross_entropy(network.get_output_embeddings()(norm(x))[0, -len(targets) - 1 : -1], targets)
            own, plain = (
                {
                    name: mask * gradient
                    for (name, mask), gradient in zip(
                        masks.items(), torch.autograd.grad(some, list(parameters.values())), strict=True
                    )
                }
                for some in (loss, plain_loss(network, model, row))
            )
            lengths = [sum(g.square().sum() for g in some.values()).sqrt() for some in (plain, own)]
            with torch.no_grad():
                for name, parameter in parameters.items():
                    parameter -= RATES[run] * lengths[0] / lengths[1] * own[name]
        change = {name: (parameter - model.network.get_parameter(name)).detach() for name, parameter in parameters.items()}
        assert_close(found, change, run)


def test_layer_causal_steps_in_every_family(model):
    """A step is as long as plain descent's, and along it in the last layer, which has no later one; elsewhere it is another."""
    masks, rows = subset(model, "key_value"), demonstrations(model, 1)
    plain, causal = (descend(model, rows, masks, RATES, Recipe(layer_causal=it)) for it in (False, True))
    assert torch.allclose(norms(causal), norms(plain), rtol=1e-4)

    def cosines(names):
        some, other = ({name: deltas[name] for name in names} for deltas in (plain, causal))
        return inner_product(some, other) / norms(some) / norms(other)

    last = {name for name in masks if f".{model.layers - 1}." in name}
    assert torch.allclose(cosines(last), torch.ones(3), atol=1e-5)
    assert (cosines(set(masks) - last) < 0.99).all()
