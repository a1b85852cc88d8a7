"""Is attention with momentum better attention, and is momentum the reason (Dai et al. 2022, section 5)?

The authors read values as gradients of gradient descent, and so add a moving average of values to attention (their equation 14, MoAttn).
Small language models of five kinds are trained from the same weights on the same documents; t is a token, i the tokens up to t:

    vanilla          V softmax(K^T q / sqrt d)
    moving_average   ... + sum_{i<t} eta^(t-i) v_i                     MoAttn; neither keys nor the query have a part in what it adds
    momentum         ... + sum_{i<t} eta^(t-i) v_i (k_i . q) / sqrt d  momentum on the update that they derive, sum_i v_i k_i^T
    convolution      a causal filter of three taps on each feature of V, then as vanilla: a short memory without talk of gradients
    recency_bias     the logits minus slope (t - i), then as vanilla (ALiBi, Press et al. 2022): recency without a filter

If descent were what attention does, momentum would gain, and the two last, which have nothing to do with it, would not.

The paper does not say which eta it took. Here each head learns its own, as the convolution learns its taps: no variant is tuned on any
documents, all cost the same number of training tokens, and a head to which a moving average is of no use can do without.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from jaxtyping import Float, Int
from torch import Tensor, nn

from activation_descent.finetuning import STUDY
from activation_descent.language import world as words
from activation_descent.language.corpus import Corpus, Mixture
from activation_descent.language.network import Heads, forward, rotary_tables, softmax_attention
from activation_descent.language.pretraining import Job, Pretraining
from activation_descent.language.world import World
from activation_descent.records import Row
from activation_descent.seeding import generator

EXPERIMENT = "momentum"
FIRST_RATE = 0.1  # eta before training
TAPS = 3
BATCH = 64  # documents read at once


# Attention in five kinds: queries, keys and values of all heads -> what each head says at each token


class Memory(nn.Module):
    """What has an eta, one for each head."""

    def __init__(self, heads: int, head_dim: int):
        super().__init__()
        self.rate_logit = nn.Parameter(torch.full((heads,), math.log(FIRST_RATE / (1 - FIRST_RATE))))

    @property
    def rate(self) -> Float[Tensor, " head"]:
        """eta, between 0 and 1."""
        return self.rate_logit.sigmoid()


class MovingAverage(Memory):
    """MoAttn."""

    def forward(self, q: Heads, k: Heads, v: Heads) -> Heads:
        """Softmax attention, plus the decaying sum of earlier values (their equation 14)."""
        rows, _, length, _ = v.shape
        # The same weights for all rows: one product with the values of all of them
        remembered = torch.bmm(decay(self.rate, length), v.permute(1, 2, 0, 3).flatten(2)).unflatten(2, (rows, -1))
        return softmax_attention(q, k, v) + remembered.permute(2, 0, 1, 3)


class Momentum(Memory):
    """Momentum on `sum_i v_i k_i^T`, applied to the query that softmax attention sees."""

    def forward(self, q: Heads, k: Heads, v: Heads) -> Heads:
        """Softmax attention, plus the decaying sum of `v_i (k_i . q) / sqrt d`."""
        logits = q @ k.mT / math.sqrt(q.shape[-1])
        weights = logits.masked_fill(_distance(v.shape[2]) < 0, -math.inf).softmax(-1)
        return (weights + decay(self.rate, v.shape[2]) * logits) @ v  # one product with the values serves both


class Convolution(nn.Module):
    """A causal depthwise convolution of the values: taps for the token itself and the ones before it, at first only for itself."""

    def __init__(self, heads: int, head_dim: int):
        super().__init__()
        taps = torch.zeros(heads, TAPS, head_dim)
        taps[:, 0] = 1
        self.taps = nn.Parameter(taps)

    def forward(self, q: Heads, k: Heads, v: Heads) -> Heads:
        """Softmax attention on filtered values."""
        length = v.shape[2]
        padded = F.pad(v, (0, 0, TAPS - 1, 0))
        taps = self.taps[:, :, None].unbind(1)  # head 1 feature
        filtered = sum(tap * padded[:, :, TAPS - 1 - back :][:, :, :length] for back, tap in enumerate(taps))
        return softmax_attention(q, k, filtered)


class RecencyBias(nn.Module):
    """ALiBi: of H heads, head h subtracts 2^(-8 h / H) for each token of distance (Press et al. 2022, section 3)."""

    def __init__(self, heads: int, head_dim: int):
        super().__init__()
        self.register_buffer("slope", 2.0 ** (-8 * torch.arange(1, heads + 1) / heads))

    def forward(self, q: Heads, k: Heads, v: Heads) -> Heads:
        """Softmax attention on biased logits."""
        distance = _distance(v.shape[2])
        bias = torch.where(distance < 0, -math.inf, -self.slope[:, None, None] * distance)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None])


VARIANTS: dict[str, type[nn.Module] | None] = {
    "vanilla": None,
    "moving_average": MovingAverage,
    "momentum": Momentum,
    "convolution": Convolution,
    "recency_bias": RecencyBias,
}


def decay(rate: Float[Tensor, " head"], length: int) -> Float[Tensor, "head token source"]:
    """`rate^(t - i)` for earlier tokens i < t, else 0."""
    return (rate.log()[:, None, None] * _distance(length).clamp(min=1)).exp().tril(-1)


def _distance(length: int) -> Int[Tensor, "token source"]:
    place = torch.arange(length)
    return place[:, None] - place


# A model to train


def make_job(variant: str, settings: Pretraining, world: World, mixture: Mixture, root: int, seed: int) -> Job:
    """A model of one variant. All variants of a seed start from the same weights and read the same documents."""
    kind, head_dim = VARIANTS[variant], settings.hidden_size // settings.heads
    attends = nn.ModuleList(kind(settings.heads, head_dim) for _ in range(settings.layers)) if kind else None
    return Job(settings, world, mixture, root, variant, partial(_stream, root, seed), attends)


def _stream(root: int, seed: int, variant: str, purpose: str, step: int = 0) -> np.random.Generator:
    return generator(root, STUDY, EXPERIMENT, "all", purpose, seed, step)


# Evaluation, on documents of the stream "evaluate"


@dataclass(frozen=True)
class Evaluation:
    """What a model is measured on.

    Attributes:
        lengths: of documents, in tokens; may exceed those that the model was trained on.
        documents: of each length.
        demonstrations: numbers of demonstrations.
        prompts: for in-context accuracy; one prompt tells it for every number of demonstrations.
    """

    lengths: Sequence[int]
    documents: int
    demonstrations: Sequence[int]
    prompts: int


@dataclass(frozen=True)
class Prompts:
    """Documents of classification on held-out tasks, in the shortest form, with labels that training never showed to be right.

    Attributes:
        tokens: examples, the last with its label.
        label: class of each example.
        names: the label word of each class.
        asked: the token before each example's label.
    """

    tokens: Int[Tensor, "prompt token"]
    label: Int[Tensor, "prompt example"]
    names: Int[Tensor, "prompt class"]
    asked: Int[Tensor, " example"]


def draw_prompts(rng: np.random.Generator, corpus: Corpus, number: int, examples: int) -> Prompts:
    """Prompts of held-out tasks in the shortest template, with canonical labels."""
    template = words.spell_out(words.SHORT_TEMPLATE, words.SHORT_TEXT)
    unit, place = len(template.split()), template.split().index("{label}")
    task = rng.choice([corpus.tasks.index(task) for task in words.HELD_OUT_TASKS], number)
    label = rng.integers(2, size=(number, examples))
    rows = corpus.classification_rows(rng, template, task, label, corpus.canonical[task])
    names = torch.from_numpy(corpus.canonical[task])
    return Prompts(torch.from_numpy(rows), torch.from_numpy(label), names, place + unit * torch.arange(examples))


@torch.no_grad()
def accuracies(job: Job, prompts: Prompts) -> Float[Tensor, " example"]:
    """Share of prompts whose label is the more probable of the two words, by the number of examples before it."""
    length = prompts.tokens.shape[1]
    tables = rotary_tables(length, job.settings.hidden_size // job.settings.heads, job.settings.rotary_base)
    right = []
    for part in torch.arange(len(prompts.tokens)).split(BATCH):
        logits = forward(job.network, prompts.tokens[part], tables, job.attends)[:, prompts.asked]
        of_names = logits.gather(2, prompts.names[part, None].expand(-1, logits.shape[1], -1))
        right.append(of_names.argmax(2) == prompts.label[part])
    return torch.cat(right).double().mean(0)


@torch.no_grad()
def perplexity(job: Job, tokens: Int[Tensor, "document token"]) -> float:
    """`exp` of the mean negative log-probability of each token after the first."""
    tables = rotary_tables(tokens.shape[1], job.settings.hidden_size // job.settings.heads, job.settings.rotary_base)
    total = 0.0
    for part in tokens.split(BATCH):
        logits = forward(job.network, part, tables, job.attends)[:, :-1].flatten(0, 1)
        total += F.cross_entropy(logits, part[:, 1:].flatten(), reduction="sum").item()
    return math.exp(total / tokens[:, 1:].numel())


def momentum_records(variant: str, jobs: Sequence[Job], evaluation: Evaluation, root: int) -> Iterator[Row]:
    """Perplexity by length of documents of the training mixture, accuracy by number of demonstrations, and the eta of each layer.

    All seeds of all variants are measured on the same documents.
    """
    corpus = jobs[0].corpus
    rng = generator(root, STUDY, EXPERIMENT, "all", "evaluate")
    prompts = draw_prompts(rng, corpus, evaluation.prompts, max(evaluation.demonstrations) + 1)
    documents = {length: torch.from_numpy(corpus.rows(rng, evaluation.documents, length)) for length in evaluation.lengths}
    for seed, job in enumerate(jobs):
        row = {"study": STUDY, "experiment": EXPERIMENT, "variant": variant, "seed": seed, "step": job.settings.steps}
        row |= {"layer": 0, "length": 0, "demonstrations": 0}
        for length, tokens in documents.items():
            yield row | {"length": length, "metric": "perplexity", "value": perplexity(job, tokens)}
        shares = accuracies(job, prompts)
        for number in evaluation.demonstrations:
            yield row | {"demonstrations": number, "metric": "accuracy", "value": shares[number].item()}
        for layer, module in enumerate(job.attends or (), start=1):
            if isinstance(module, Memory):
                yield row | {"layer": layer, "metric": "momentum_rate", "value": module.rate.mean().item()}
