"""Five kinds of attention against loops over positions; their training and measurement."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)

from activation_descent.errors import DivergedError
from activation_descent.finetuning import momentum, momentum_training
from activation_descent.finetuning.statistics import momentum_statistics
from activation_descent.language import world as words
from activation_descent.language.corpus import Corpus, Mixture
from activation_descent.language.network import final_states, next_token_loss, softmax_attention
from activation_descent.language.pretraining import Pretraining
from activation_descent.language.world import make_world

WORLD = make_world(0, 0.1)
MIXTURE = Mixture(0.5, 0.25, 0.12, 0.13, 0.3, 0.3, 0.4, 0.2, 0.2, 0.2)
SETTINGS = Pretraining(
    hidden_size=16,
    layers=2,
    heads=2,
    mlp_size=24,
    rotary_base=100.0,
    init_scale=0.1,
    stages=({"length": 20, "short": 0.5}, {"length": 40, "short": 0.25}),
    stage_steps=4,
    stage_accuracy=1.0,
    steps=8,
    decay_steps=2,
    rows=4,
    learning_rate=0.01,
    warmup_steps=2,
    beta1=0.9,
    beta2=0.98,
    weight_decay=0.01,
    clip_norm=1.0,
    block=3,
    settled=0.0,
    in_context_accuracy=1.0,
    fact_accuracy=1.0,
)
EVALUATION = momentum.Evaluation(lengths=(20, 50), documents=6, demonstrations=(1, 3), prompts=5)
HEADS, HEAD_DIM, LENGTH = 2, 3, 7


@pytest.fixture
def heads():
    """Queries, keys and values of two rows."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, HEADS, LENGTH, HEAD_DIM, generator=generator) for _ in range(3)]


def attend(variant, rate=0.5):
    """A variant's attention; its eta in both heads, if it has any."""
    kind = momentum.VARIANTS[variant]
    if kind is None:
        return softmax_attention
    module = kind(HEADS, HEAD_DIM)
    if hasattr(module, "rate_logit"):
        module.rate_logit.data.fill_(math.log(rate / (1 - rate)) if rate else -math.inf)
    return module


def by_position(q, k, v, addition=lambda t, i: 0.0, bias=lambda t, i: 0.0):
    """One head of one row: softmax over i <= t of logits + bias, plus sum_{i < t} addition(t, i) v_i."""
    said = []
    for t in range(len(q)):
        masses = [math.exp(float(q[t] @ k[i]) / math.sqrt(HEAD_DIM) + bias(t, i)) for i in range(t + 1)]
        out = sum(mass * v[i] for i, mass in enumerate(masses)) / sum(masses)
        said.append(out + sum((addition(t, i) * v[i] for i in range(t)), torch.zeros(HEAD_DIM)))
    return torch.stack(said)


def check(attention, heads, expected):
    """Hold an attention against a function of one head's (q, k, v) and its number, for each head of each row."""
    said = attention(*heads)
    for row in range(2):
        for head in range(HEADS):
            assert torch.allclose(said[row, head], expected(*(x[row, head] for x in heads), head), atol=1e-5)


@pytest.mark.parametrize("rate", [0.3, 0.9])
def test_moving_average_by_position(heads, rate):
    check(attend("moving_average", rate), heads, lambda q, k, v, _: by_position(q, k, v, lambda t, i: rate ** (t - i)))


@pytest.mark.parametrize("rate", [0.3, 0.9])
def test_momentum_by_position(heads, rate):
    def expected(q, k, v, _):
        return by_position(q, k, v, lambda t, i: rate ** (t - i) * float(k[i] @ q[t]) / math.sqrt(HEAD_DIM))

    check(attend("momentum", rate), heads, expected)


def test_momentum_accumulates_updates_as_momentum_does(heads):
    """M_t = eta (M_{t-1} + v_{t-1} k_{t-1}^T): every update so far, shrunk by eta a step; it adds M_t q_t / sqrt d."""
    q, k, v = (x[0, 1] for x in heads)
    added = (attend("momentum", 0.7)(*heads) - softmax_attention(*heads))[0, 1]
    matrix = torch.zeros(HEAD_DIM, HEAD_DIM)
    for t in range(LENGTH):
        assert torch.allclose(added[t], matrix @ q[t] / math.sqrt(HEAD_DIM), atol=1e-5)
        matrix = 0.7 * (matrix + torch.outer(v[t], k[t]))


def test_each_head_has_its_own_rate(heads):
    module = attend("moving_average")
    module.rate_logit.data.copy_(torch.tensor([0.2, 0.8]).logit())
    check(module, heads, lambda q, k, v, head: by_position(q, k, v, lambda t, i: (0.2, 0.8)[head] ** (t - i)))


def test_convolution_by_position(heads):
    module = attend("convolution")
    module.taps.data.normal_(generator=torch.Generator().manual_seed(1))

    def expected(q, k, v, head):
        taps = module.taps[head]
        filtered = [sum(taps[back] * v[i - back] for back in range(min(i, 2) + 1)) for i in range(LENGTH)]
        return by_position(q, k, torch.stack(filtered))

    check(module, heads, expected)


def test_recency_bias_by_position(heads):
    slopes = (1 / 16, 1 / 256)  # of two heads
    check(attend("recency_bias"), heads, lambda q, k, v, h: by_position(q, k, v, bias=lambda t, i: -slopes[h] * (t - i)))


@pytest.mark.parametrize("variant", ["moving_average", "momentum"])
def test_without_memory_momentum_is_vanilla(heads, variant):
    assert torch.allclose(attend(variant, 0.0)(*heads), softmax_attention(*heads), atol=1e-6)
    assert not torch.allclose(attend(variant)(*heads), softmax_attention(*heads), atol=1e-2)


def test_a_convolution_begins_as_vanilla(heads):
    assert torch.equal(attend("convolution")(*heads), softmax_attention(*heads))


def test_a_recency_bias_of_slope_zero_is_vanilla(heads):
    module = attend("recency_bias")
    module.slope.zero_()
    assert torch.allclose(module(*heads), softmax_attention(*heads), atol=1e-6)


@pytest.fixture(scope="module")
def trained():
    """Two seeds of each variant after a few steps."""
    return {variant: momentum_training.train(variant, SETTINGS, WORLD, MIXTURE, 0, 2) for variant in momentum.VARIANTS}


@pytest.mark.parametrize("variant", momentum.VARIANTS)
def test_later_tokens_change_nothing_before_them(trained, variant):
    job = trained[variant][0]
    tokens = torch.randint(0, len(WORLD.vocabulary), (1, 30), generator=torch.Generator().manual_seed(0))
    before = final_states(job.network, tokens, job.tables, job.attends)
    for place in (1, 17, 29):
        changed = tokens.clone()
        changed[0, place] = (changed[0, place] + 1) % len(WORLD.vocabulary)
        after = final_states(job.network, changed, job.tables, job.attends)
        assert torch.allclose(after[:, :place], before[:, :place], atol=1e-5)
        assert not torch.allclose(after[:, place:], before[:, place:], atol=1e-3)


def test_all_variants_start_from_the_same_weights_and_read_the_same_documents():
    jobs = {v: [momentum.make_job(v, SETTINGS, WORLD, MIXTURE, 0, seed) for seed in (0, 1)] for v in momentum.VARIANTS}
    first, other = jobs["vanilla"]
    for job, another in jobs.values():
        for seed, one in zip((first, other), (job, another), strict=True):
            assert all(map(torch.equal, seed.network.parameters(), one.network.parameters()))
            assert torch.equal(seed.rows(3, 1), one.rows(3, 1))
    assert not torch.equal(first.rows(3, 1), other.rows(3, 1))
    assert not torch.equal(first.parameters[0], other.parameters[0])


@pytest.mark.parametrize("variant", ["moving_average", "momentum", "convolution"])
def test_what_a_variant_adds_is_trained(trained, variant):
    fresh = momentum.make_job(variant, SETTINGS, WORLD, MIXTURE, 0, 0)
    for before, after in zip(fresh.attends.parameters(), trained[variant][0].attends.parameters(), strict=True):
        assert not torch.equal(before, after)


@pytest.fixture
def double_precision():
    """Adam divides by the gradient's size, and so what rounding leaves of a gradient that is zero moves a weight as far as any other."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("variant", momentum.VARIANTS)
def test_side_by_side_each_is_what_it_is_alone(variant):
    """Against pretraining's own steps, which take one network, PyTorch's derivatives and its clipping of gradients."""
    settings = replace(SETTINGS, clip_norm=0.3)
    together = momentum_training.train(variant, settings, WORLD, MIXTURE, 0, 3)
    for seed, job in enumerate(together):
        alone = momentum.make_job(variant, settings, WORLD, MIXTURE, 0, seed)
        fresh = [parameter.detach().clone() for parameter in alone.parameters]
        for step in range(settings.steps):
            alone.advance(range(step, step + 1), int(step >= settings.stage_steps), settings.steps - settings.decay_steps)
        for before, one, other in zip(fresh, alone.parameters, job.parameters, strict=True):
            assert torch.allclose(one, other, rtol=1e-5, atol=1e-7)
            assert not torch.allclose(one, before, atol=1e-3)


@pytest.mark.parametrize("variant", momentum.VARIANTS)
def test_losses_and_gradients_side_by_side_are_those_alone(variant):
    jobs = [momentum.make_job(variant, SETTINGS, WORLD, MIXTURE, 0, seed) for seed in (0, 1, 2)]
    alone = [momentum.make_job(variant, SETTINGS, WORLD, MIXTURE, 0, seed) for seed in (0, 1, 2)]
    networks = momentum_training.join(jobs)
    losses = momentum_training.next_token_losses(networks, torch.stack([job.rows(5, 1) for job in jobs]))
    losses.sum().backward()
    for seed, job in enumerate(alone):
        loss = next_token_loss(job.network, job.rows(5, 1), job.tables, job.attends)
        loss.backward()
        assert losses[seed].item() == pytest.approx(loss.item(), rel=1e-5)
        for together, parameter in zip(networks.parameters, job.parameters, strict=True):
            own = together.grad.view(3, *parameter.shape)[seed]
            assert torch.allclose(own, parameter.grad, rtol=1e-4, atol=1e-5 * parameter.grad.abs().max().item())


def test_a_loss_over_more_positions_than_are_taken_at_once(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    states, words = (torch.randn(2, n, 4, generator=generator, requires_grad=True) for n in (11, 9))
    targets = torch.randint(9, (2, 11), generator=generator)
    monkeypatch.setattr(momentum_training, "POSITIONS_AT_ONCE", 4)
    weight = torch.tensor([1.0, 3.0])
    found = momentum_training._Surprise.apply(states, words, targets)
    expected = torch.stack([F.cross_entropy(states[i] @ words[i].T, targets[i]) for i in (0, 1)])
    assert torch.allclose(found, expected)
    pairs = zip(*(torch.autograd.grad((weight * loss).sum(), [states, words]) for loss in (found, expected)), strict=True)
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in pairs)


def test_normalisation_and_its_derivative():
    x = torch.randn(2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.allclose(momentum_training._Normalised.apply(x, 0.1), F.rms_norm(x, (5,), eps=0.1))
    assert torch.autograd.gradcheck(lambda x: momentum_training._Normalised.apply(x, 0.1), x)


def test_stages_change_by_the_clock(monkeypatch):
    read, rates = [], []
    rows, rate = momentum_training.Job.rows, momentum_training.Job.rate
    monkeypatch.setattr(momentum_training.Job, "rows", lambda job, *place: read.append(place) or rows(job, *place))
    monkeypatch.setattr(momentum_training.Job, "rate", lambda job, *place: rates.append(place) or rate(job, *place))
    momentum_training.train("vanilla", SETTINGS, WORLD, MIXTURE, 0, 1)
    assert read == [(step, int(step >= 4)) for step in range(8)]
    assert rates == [(step, 6) for step in range(8)]


@pytest.mark.parametrize("variant", momentum.VARIANTS)
def test_the_same_seeds_give_the_same_bytes(trained, variant):
    again = momentum_training.train(variant, SETTINGS, WORLD, MIXTURE, 0, 2)
    for job, before in zip(again, trained[variant], strict=True):
        assert all(map(torch.equal, job.parameters, before.parameters))
    assert not torch.equal(again[0].parameters[0], again[1].parameters[0])


def test_a_resumed_run_ends_with_the_same_weights(trained, tmp_path, monkeypatch):
    save, seen = momentum_training.checkpointing.save, []

    def interrupted(*arguments):
        save(*arguments)
        if arguments[-1] == 2:
            raise KeyboardInterrupt

    checkpoint = tmp_path / "checkpoint.safetensors"
    monkeypatch.setattr(momentum_training.checkpointing, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        momentum_training.train("momentum", SETTINGS, WORLD, MIXTURE, 0, 2, checkpoint)
    monkeypatch.setattr(momentum_training.checkpointing, "save", save)
    report = lambda step, values: seen.append((step, values["training_loss"]))
    jobs = momentum_training.train("momentum", SETTINGS, WORLD, MIXTURE, 0, 2, checkpoint, report=report)
    for job, whole in zip(jobs, trained["momentum"], strict=True):
        assert all(map(torch.equal, job.parameters, whole.parameters))
    assert [step for step, _ in seen] == [3, 6, 8]
    assert all(math.isfinite(loss) for _, loss in seen)
    assert not checkpoint.exists()


def test_a_loss_that_is_not_finite_names_the_variant():
    with pytest.raises(DivergedError, match="convolution diverged"):
        momentum_training.train("convolution", replace(SETTINGS, init_scale=float("inf")), WORLD, MIXTURE, 0, 1)


# Measurement


class Reader:
    """Gives the probability 1/2 to the token that follows, or to the one after it in the vocabulary, and shares the rest."""

    def __init__(self, monkeypatch, off=0):
        self.off, self.words = off, len(WORLD.vocabulary)
        monkeypatch.setattr(momentum, "forward", self)

    def __call__(self, network, tokens, tables, attends):
        likely = (tokens.roll(-1, dims=1) + self.off) % self.words
        probability = torch.full((*tokens.shape, self.words), 0.5 / (self.words - 1))
        return probability.scatter(2, likely[..., None], 0.5).log()


def test_perplexity_of_a_reader_of_known_probability(monkeypatch):
    job = momentum.make_job("vanilla", SETTINGS, WORLD, MIXTURE, 0, 0)
    tokens = torch.randint(0, len(WORLD.vocabulary), (100, 9), generator=torch.Generator().manual_seed(0))
    Reader(monkeypatch)
    assert momentum.perplexity(job, tokens) == pytest.approx(2, rel=1e-4)
    Reader(monkeypatch, off=1)
    assert momentum.perplexity(job, tokens) == pytest.approx(2 * (len(WORLD.vocabulary) - 1), rel=1e-4)


def test_perplexity_is_that_of_the_training_loss(trained):
    job = trained["momentum"][0]
    tokens = job.rows(100, 1)
    with torch.no_grad():
        loss = next_token_loss(job.network, tokens, job.tables, job.attends).item()
    assert momentum.perplexity(job, tokens) == pytest.approx(math.exp(loss), rel=1e-5)


def test_accuracy_of_one_who_knows_some_labels(monkeypatch):
    """One who expects the first class's word is right where the label is the first class."""
    job = momentum.make_job("vanilla", SETTINGS, WORLD, MIXTURE, 0, 0)
    prompts = momentum.draw_prompts(np.random.default_rng(0), job.corpus, 150, 6)

    def expects(word):
        logits = torch.zeros(*prompts.tokens.shape, len(WORLD.vocabulary))
        return logits.scatter(2, word[:, None, None].expand(-1, prompts.tokens.shape[1], 1), 1.0)

    places = iter(range(0, 10**6))

    def first_class(network, tokens, tables, attends):
        start = next(places) * momentum.BATCH
        return expects(prompts.names[:, 0])[start : start + len(tokens)]

    monkeypatch.setattr(momentum, "forward", first_class)
    assert torch.equal(momentum.accuracies(job, prompts), (prompts.label == 0).double().mean(0))
    Reader(monkeypatch)
    assert (momentum.accuracies(job, prompts) == 1).all()


def test_prompts_are_of_held_out_tasks_with_canonical_labels():
    corpus = Corpus(WORLD, MIXTURE)
    prompts = momentum.draw_prompts(np.random.default_rng(0), corpus, 40, 5)
    vocabulary = WORLD.vocabulary
    tasks = [words.LEXICONS[task] for task in words.HELD_OUT_TASKS]
    for tokens, labels, names in zip(prompts.tokens, prompts.label, prompts.names, strict=True):
        classes = next(task for task in tasks if next(iter(task)) == vocabulary[names[0]])
        assert [vocabulary[name] for name in names] == list(classes)
        said = [vocabulary[token] for token in tokens]
        assert said[0] == words.BEGIN
        for example, label in enumerate(labels):
            *text, word, end = said[1 + 4 * example : 5 + 4 * example]
            assert end == ";"
            assert word == list(classes)[label]
            assert set(text) & set(classes[word].split())
            assert prompts.asked[example] == 2 + 4 * example  # the last word of its text


def test_records(trained):
    rows = [row for variant, jobs in trained.items() for row in momentum.momentum_records(variant, jobs, EVALUATION, 0)]
    table = pd.DataFrame(rows)
    assert len(table) == 5 * 2 * (2 + 2) + 2 * 2 * 2  # and eta of two layers of two variants
    assert not table.drop(columns="value").duplicated().any()
    perplexities = table[table["metric"] == "perplexity"]["value"]
    assert perplexities.between(20, 2 * len(WORLD.vocabulary)).all()  # hardly trained
    again = pd.DataFrame(momentum.momentum_records("vanilla", trained["vanilla"], EVALUATION, 0))
    assert again["value"].tolist() == table[table["variant"] == "vanilla"]["value"].tolist()


def test_gains_are_paired_by_seed():
    """Perplexities e^2, e^4 against e^1, e^2 (seed 0) gain 3/2 nats on average; accuracies .5, .7 against .6, 1.0 gain .2."""
    rows = []
    for variant, seed, surprises, shares in (
        ("vanilla", 0, (2, 4), (0.5, 0.7)),
        ("moving_average", 0, (1, 2), (0.6, 1.0)),
        ("convolution", 0, (1, 1), (0.5, 0.9)),
        ("vanilla", 1, (5, 5), (0.5, 0.5)),
        ("moving_average", 1, (5, 6), (0.5, 0.4)),
        ("convolution", 1, (5, 5), (0.5, 0.5)),
    ):
        row = {"variant": variant, "seed": seed}
        rows += [
            row | {"metric": "perplexity", "length": i, "demonstrations": 0, "value": math.exp(x)}
            for i, x in enumerate(surprises)
        ]
        rows += [
            row | {"metric": "accuracy", "length": 9, "demonstrations": i, "value": x} for i, x in enumerate(shares, start=1)
        ]
    found = pd.DataFrame(momentum_statistics(pd.DataFrame(rows))).set_index(["variant", "metric", "seed"])["value"]
    assert found["moving_average", "perplexity_gain"].tolist() == pytest.approx([1.5, -0.5])
    assert found["moving_average", "accuracy_gain"].tolist() == pytest.approx([0.2, -0.05])
    assert found["moving_average", "gain_over_convolution"].tolist() == pytest.approx([-0.5, -0.5])
    assert found["convolution", "gain_over_moving_average"].tolist() == pytest.approx([0.5, 0.5])
    assert found["vanilla", "final_accuracy"].tolist() == [0.7, 0.5]
    assert found["vanilla", "perplexity_gain"].tolist() == [0, 0]
