"""Translators against plain loops, automatic differentiation and, where it is installed, the authors' library."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)

from activation_descent.lens import readout, transfer
from activation_descent.lens.readout import Batch, Unembedding, divergence, readings
from activation_descent.lens.states import Network, batch_of
from activation_descent.lens.translators import KINDS, Fit, Reader, Translators, fit

SEEDS, LAYERS, TOKENS, WIDTH, WORDS = 2, 4, 9, 6, 11


def unembedding(norm="layer", dtype=torch.float32, seeds=SEEDS):
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(seeds, WORDS, WIDTH, generator=generator, dtype=dtype)
    return Unembedding(weight, torch.randn(seeds, WORDS, generator=generator, dtype=dtype), norm)


def batch(dtype=torch.float32, seeds=SEEDS, number=0):
    generator = torch.Generator().manual_seed(100 + number)
    states = torch.randn(seeds, LAYERS, TOKENS, WIDTH, generator=generator, dtype=dtype)
    final = (2 * torch.randn(seeds, TOKENS, WORDS, generator=generator, dtype=dtype)).softmax(-1)
    return Batch(states, final, torch.randint(WORDS, (seeds, TOKENS), generator=generator))


def initial(kind, seeds=SEEDS, layers=LAYERS, width=WIDTH):
    return Translators.initial(kind, seeds, layers, width, np.random.default_rng(3))


@pytest.mark.parametrize("kind", KINDS)
def test_at_first_every_kind_is_the_logit_lens(kind):
    states = batch().states
    assert torch.equal(initial(kind)(states), states)


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        ("logit", 0),
        ("bias", 384),
        ("shared", 4160),
        ("shared_bias", 4480),
        ("low_rank", 4224),
        ("tuned", 24960),
        ("shared_even", 4160),
        ("prefix", 4160),
    ],
)
def test_parameters_of_each_kind(kind, size):
    """The specification's counts at d = 64, L = 6; low rank has r = round(d / 2L) = 5."""
    assert initial(kind, layers=6, width=64).size == size


@pytest.mark.parametrize("tokens_first", [False, True])
@pytest.mark.parametrize("chunk", [2 * TOKENS * WORDS, 5 * WORDS])
@pytest.mark.parametrize("norm", ["none", "rms", "layer"])
def test_divergence_and_its_gradient(norm, chunk, tokens_first, monkeypatch):
    """Two layers at once and parts of a layer, also of states that lie in memory by token."""
    monkeypatch.setattr(readout, "CHUNK", chunk)
    monkeypatch.setattr(readout, "FEWEST", 3)
    own, read = unembedding(norm, torch.float64), batch(torch.float64)
    states = read.states.transpose(1, 2).contiguous().transpose(1, 2) if tokens_first else read.states.clone()
    states.requires_grad_(True)
    found = divergence(states, own, read).detach()
    for seed in range(SEEDS):
        for layer in range(LAYERS):
            for token in range(TOKENS):
                h = read.states[seed, layer, token]
                if norm == "layer":
                    h = F.layer_norm(h, (WIDTH,), eps=1e-5)
                elif norm == "rms":
                    h = h / torch.sqrt(h.square().mean() + 1e-5)
                log_q = (own.weight[seed] @ h + own.bias[seed]).log_softmax(0)
                p = read.final[seed, token]
                assert float(found[seed, layer, token]) == pytest.approx(float((p * (p.log() - log_q)).sum()), abs=1e-12)
    assert torch.autograd.gradcheck(lambda x: divergence(x, own, read), (states,))


def test_readings_are_in_bits():
    own, read = unembedding(), batch()
    found = readings(read.states, own, read)
    log_q = own.logits(read.states).log_softmax(-1)
    nats = F.kl_div(log_q, read.final[:, None].log().expand_as(log_q), reduction="none", log_target=True).sum(-1)
    torch.testing.assert_close(found["divergence"], nats / math.log(2), atol=1e-5, rtol=1e-5)
    for seed, layer, token in np.ndindex(SEEDS, LAYERS, TOKENS):
        wanted = -float(log_q[seed, layer, token, read.following[seed, token]]) / math.log(2)
        assert float(found["cross_entropy"][seed, layer, token]) == pytest.approx(wanted, abs=1e-5)


def by_hand(kind, settings, batches):
    """The same fit with a list of parameters for each layer, logits of one layer at a time and torch's own derivative; one model."""
    shape, own = KINDS[kind], unembedding(seeds=1)
    each = [{} for _ in range(LAYERS)]
    common = {}
    for layer in range(LAYERS):
        for part, size in (("weight", (WIDTH, WIDTH)), ("bias", (WIDTH,))):
            if getattr(shape, part) == "shared":
                common.setdefault(part, torch.zeros(size, requires_grad=True))
                each[layer][part] = common[part]
            elif getattr(shape, part) == "layer":
                each[layer][part] = torch.zeros(size, requires_grad=True)
    unique = list({id(tensor): tensor for layer in each for tensor in layer.values()}.values())
    if settings.optimiser == "adam":
        optimiser = torch.optim.Adam(unique)
    else:
        optimiser = torch.optim.SGD(unique, lr=1.0, momentum=0.9, nesterov=True, weight_decay=settings.weight_decay)
    chosen = {"all": range(LAYERS), "even": range(0, LAYERS, 2), "prefix": range(LAYERS // 2)}[shape.fitted_to]
    losses = []
    for step in range(settings.steps):
        rate = settings.learning_rate * (1 - step / settings.steps) * (0.1 if settings.optimiser == "sgd" else 1)
        optimiser.param_groups[0]["lr"] = rate
        total = 0.0
        for part in range(settings.batches):
            read = batches[step * settings.batches + part]
            for layer in chosen:
                h = read.states[0, layer]
                if "weight" in each[layer]:
                    h = h + read.states[0, layer] @ each[layer]["weight"].T
                if "bias" in each[layer]:
                    h = h + each[layer]["bias"]
                log_q = (F.layer_norm(h, (WIDTH,)) @ own.weight[0].T + own.bias[0]).log_softmax(-1)
                p = read.final[0]
                total = total + (p * (p.log() - log_q)).sum(-1).mean() / settings.batches
        optimiser.zero_grad()
        total.backward()
        if settings.optimiser == "sgd":
            torch.nn.utils.clip_grad_norm_(unique, settings.clip_norm)
        optimiser.step()
        losses.append(float(total) / len(chosen))
    return losses, each


@pytest.mark.parametrize("kind", ["bias", "tuned", "shared", "shared_bias", "shared_even", "prefix"])
@pytest.mark.parametrize(
    "settings", [Fit("adam", 0.02, 6), Fit("sgd", 1.0, 6, weight_decay=0.01, clip_norm=0.5), Fit("adam", 0.02, 3, batches=2)]
)
def test_a_fit_is_the_one_by_hand(kind, settings):
    batches = [batch(seeds=1, number=number) for number in range(6)]
    reader = Reader(initial(kind, seeds=1))
    course = fit(
        {kind: reader}, unembedding(seeds=1), lambda step: batches[step * settings.batches :][: settings.batches], settings
    )
    losses, each = by_hand(kind, settings, batches)
    assert [losses[kind] for losses in course] == pytest.approx(losses, abs=1e-5)
    for name, parameter in reader.translators.parameters.items():
        for layer in range(parameter.shape[1]):
            torch.testing.assert_close(
                parameter[0, layer].view_as(each[layer][name]), each[layer][name].detach(), atol=1e-4, rtol=1e-3
            )


@pytest.mark.parametrize("settings", [Fit("adam", 0.02, 4), Fit("sgd", 1.0, 4, clip_norm=0.1)])
def test_models_and_kinds_side_by_side_do_not_meet(settings):
    batches = [batch(number=number) for number in range(4)]
    together = {kind: Reader(initial(kind)) for kind in KINDS}
    fit(together, unembedding(), lambda step: [batches[step]], settings)
    for seed in range(SEEDS):
        alone = {
            "low_rank": Reader(
                Translators("low_rank", {k: v[seed : seed + 1] for k, v in initial("low_rank").parameters.items()}, 4)
            )
        }
        own = [
            Batch(read.states[seed : seed + 1], read.final[seed : seed + 1], read.following[seed : seed + 1]) for read in batches
        ]
        fit(alone, unembedding().of(seed), lambda step, own=own: [own[step]], settings)
        for name, parameter in alone["low_rank"].translators.parameters.items():
            torch.testing.assert_close(together["low_rank"].translators.parameters[name][seed : seed + 1], parameter)


def test_low_rank_maps_have_their_rank_and_learn():
    own, reader = unembedding(), Reader(initial("low_rank"))
    course = fit({"low_rank": reader}, own, lambda step: [batch()], Fit("adam", 0.05, 60))
    assert course[-1]["low_rank"] < 0.8 * course[0]["low_rank"]
    left, right = reader.translators.parameters["left"], reader.translators.parameters["right"]
    assert left.shape[-1] == right.shape[-2] == 1  # round(6 / 8)
    states = batch().states
    moved = reader.translators(states) - reader.translators(torch.zeros_like(states)) - states
    assert torch.linalg.matrix_rank(moved, rtol=1e-4).max() == 1


def test_a_reader_reads_what_its_transform_makes():
    read, doubled = batch(), Reader(initial("tuned"), lambda states: 2 * states)
    settings = Fit("adam", 0.01, 3)
    fit({"doubled": doubled}, unembedding("none"), lambda step: [read], settings)
    plain = Reader(initial("tuned"))
    fit({"plain": plain}, unembedding("none"), lambda step: [Batch(2 * read.states, read.final, read.following)], settings)
    torch.testing.assert_close(doubled.translators.parameters, plain.translators.parameters)


# The authors' library


def test_losses_and_transfer_are_those_of_the_tuned_lens_library():
    """Twenty steps of the published optimiser on the same batches of a small GPT-2, then every translator on every layer."""
    library = pytest.importorskip("tuned_lens.nn.lenses", reason="pip install -e '.[oracle]'")
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=97, n_positions=32, n_embd=16, n_layer=3, n_head=2, bos_token_id=0, eos_token_id=0)
    network = GPT2LMHeadModel(config).eval()
    for parameter in network.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
        parameter.requires_grad_(False)
    subject = Network(network, "gpt2")
    batches = [batch_of(subject, torch.randint(97, (1, 4, 24))) for _ in range(21)]
    theirs = library.TunedLens.from_model(network)
    parameters = [parameter for parameter in theirs.parameters() if parameter.requires_grad]
    optimiser = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / 20)

    def apart(translator, layer, read):
        log_q = theirs(read.states[0, layer], translator).log_softmax(-1)
        return (read.final[0] * (read.final[0].log() - log_q)).sum(-1).mean()

    losses = []
    for read in batches[:20]:
        loss = sum(apart(layer, layer, read) for layer in range(3))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        losses.append(float(loss.detach()) / 3)

    reader = Reader(initial("tuned", seeds=1, layers=3, width=16))
    course = fit({"tuned": reader}, subject.unembedding, lambda step: [batches[step]], Fit("sgd", 1.0, 20))
    assert losses[-1] < 0.9 * losses[0]
    assert [losses["tuned"] for losses in course] == pytest.approx(losses, abs=1e-6)
    with torch.no_grad():
        wanted = [[float(apart(i, j, batches[20])) / math.log(2) for j in range(3)] for i in range(3)]
    found = transfer.matrices(reader, subject.unembedding, batches[20], 4)["divergence"][0].mean(-1)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
