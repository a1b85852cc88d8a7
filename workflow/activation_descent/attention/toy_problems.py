"""Do mechanisms that are linear in the length solve the toy problems that softmax attention solves?

Four problems for one causal layer, which answers at every token from those up to it:

    recall      token t holds a pair of key and value and asks for one of the keys so far: the number of pairs is t
    induction   each symbol has one successor in a sequence; a token holds a symbol and the one before it and asks for the next
    copying     the second half of a sequence repeats the first; symbols recur, so that places must be matched
    regression  token t holds (x, y = w . x) and asks for w . x at another x

Tokens hold what belongs together (as in von Oswald et al. 2022), so that one layer of attention is enough and what differs is the
attention: all networks have the same width, steps and data. Each start of a mechanism is trained at every learning rate, and the rate that
is best on tuning sequences counts: a rate that serves one start may fail another, and by which one was tuned on is no finding.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from jaxtyping import Bool, Float
from torch import Tensor

from activation_descent.attention import MECHANISMS, STUDY
from activation_descent.attention.efficient import mechanism, random_directions
from activation_descent.seeding import generator
from activation_descent.side_by_side import Report, Schedule, Shape, Weights, dense, normalise, train

EXPERIMENT = "toy_problems"


@dataclass(frozen=True)
class ToyProblems:
    """Problems, networks and training.

    Attributes:
        lengths: tokens of a sequence, by problem.
        keys, symbols: keys and values of recall; `symbols` are also those of induction and copying.
        jumps: share of tokens that are followed by any symbol and not by the successor (induction).
        input_dim: of regression.
        width: d; one head has as many features.
        random_features, latents: of the performer and of latent attention.
        rates: learning rates to choose from, for each network.
        steps: of training, by problem.
        batch_size: sequences of a step.
        tuning_sequences, evaluation_sequences: of each seed.
    """

    lengths: Mapping[str, int]
    keys: int
    symbols: int
    jumps: float
    input_dim: int
    width: int
    mlp_width: int
    random_features: int
    latents: int
    rates: Sequence[float]
    seeds: int
    steps: Mapping[str, int]
    warmup_steps: int
    decay_share: float
    batch_size: int
    tuning_sequences: int
    evaluation_sequences: int


@dataclass(frozen=True)
class Sequences:
    """Sequences of one problem.

    Attributes:
        inputs: raw tokens.
        targets: a class (as a number) or a value.
        asked: where the answer can be known.
    """

    inputs: Float[Tensor, "sequence token input"]
    targets: Float[Tensor, "sequence token"]
    asked: Bool[Tensor, "sequence token"]


def _one_hot(entries: np.ndarray, size: int) -> Tensor:
    return F.one_hot(torch.from_numpy(entries), size).float()


def recall(settings: ToyProblems, rng: np.random.Generator, number: int) -> Sequences:
    """Multi-query associative recall (Arora et al. 2023), a pair and a query to each token."""
    length = settings.lengths["recall"]
    keys = rng.permuted(np.broadcast_to(np.arange(settings.keys), (number, settings.keys)), axis=1)[:, :length]
    values = rng.integers(settings.symbols, size=(number, length))
    chosen = (rng.random((number, length)) * (1 + np.arange(length))).astype(np.int64)
    queries, answers = (np.take_along_axis(x, chosen, 1) for x in (keys, values))
    parts = [_one_hot(keys, settings.keys), _one_hot(values, settings.symbols), _one_hot(queries, settings.keys)]
    return Sequences(torch.cat(parts, -1), torch.from_numpy(answers).float(), torch.ones(number, length, dtype=torch.bool))


def induction(settings: ToyProblems, rng: np.random.Generator, number: int) -> Sequences:
    """Predict the successor of a symbol that has occurred before (Olsson et al. 2022)."""
    length, symbols = settings.lengths["induction"], settings.symbols
    successor = rng.permuted(np.broadcast_to(np.arange(symbols), (number, symbols)), axis=1)
    jumps = rng.random((number, length)) < settings.jumps
    anywhere = rng.integers(symbols, size=(number, length + 1))
    s = np.empty((number, length + 1), dtype=np.int64)
    s[:, 0] = anywhere[:, 0]
    shown = np.zeros((number, symbols), dtype=bool)  # symbols whose successor has been seen
    asked = np.zeros((number, length), dtype=bool)
    rows = np.arange(number)
    for t in range(length):
        asked[:, t] = shown[rows, s[:, t]] & ~jumps[:, t]
        s[:, t + 1] = np.where(jumps[:, t], anywhere[:, t + 1], successor[rows, s[:, t]])
        shown[rows[~jumps[:, t]], s[~jumps[:, t], t]] = True
    # A token after a jump says so, by no symbol before it
    before = np.concatenate([np.full((number, 1), symbols), np.where(jumps, symbols, s[:, :length])[:, :-1]], 1)
    inputs = torch.cat([_one_hot(s[:, :length], symbols), _one_hot(before, symbols + 1)], -1)
    return Sequences(inputs, torch.from_numpy(s[:, 1:]).float(), torch.from_numpy(asked))


def copying(settings: ToyProblems, rng: np.random.Generator, number: int) -> Sequences:
    """Say the first half again; tokens hold a symbol and their place."""
    length = settings.lengths["copying"]
    half = length // 2
    first = rng.integers(settings.symbols, size=(number, half))
    s = np.concatenate([first, first], 1)
    places = torch.eye(length).expand(number, length, length)
    targets = np.concatenate([s[:, 1:], s[:, :1]], 1)
    asked = torch.zeros(number, length, dtype=torch.bool)
    asked[:, half - 1 : length - 1] = True
    return Sequences(torch.cat([_one_hot(s, settings.symbols), places], -1), torch.from_numpy(targets).float(), asked)


def regression(settings: ToyProblems, rng: np.random.Generator, number: int) -> Sequences:
    """Linear regression with one query a token; w ~ N(0, I / d), so that labels have variance 1."""
    length, d = settings.lengths["regression"], settings.input_dim
    w = rng.standard_normal((number, d, 1)) / math.sqrt(d)
    x, query = rng.standard_normal((2, number, length, d))
    inputs = torch.from_numpy(np.concatenate([x, x @ w, query], -1)).float()
    return Sequences(inputs, torch.from_numpy((query @ w)[..., 0]).float(), torch.ones(number, length, dtype=torch.bool))


PROBLEMS = {"recall": recall, "induction": induction, "copying": copying, "regression": regression}


# Networks: the seeds of each mechanism stand together, in the order of MECHANISMS


class Layer:
    """One causal layer of every mechanism, side by side.

    Args:
        seeds: of the networks of each mechanism; one may stand there several times.
    """

    def __init__(self, problem: str, settings: ToyProblems, root: int, seeds: Sequence[int]):
        self.settings, self.seeds = settings, seeds
        inputs = PROBLEMS[problem](settings, np.random.default_rng(0), 1).inputs.shape[-1]
        d, outputs = settings.width, 1 if problem == "regression" else settings.symbols
        shapes = {
            "embedding": Shape((inputs, d), 1.0),
            "query_key_value": Shape((d, 3 * d), 1 / math.sqrt(d)),
            "output": Shape((d, d), 1 / math.sqrt(d)),
            "up": Shape((d, settings.mlp_width), 1 / math.sqrt(d)),
            "up_bias": Shape((1, settings.mlp_width)),
            "down": Shape((settings.mlp_width, d), 1 / math.sqrt(2 * settings.mlp_width)),
            "readout": Shape((d, outputs), 1 / math.sqrt(d)),
            "readout_bias": Shape((1, outputs)),
            "latents": Shape((settings.latents, d), 1.0),  # latent attention alone uses them
        }

        def stream(name: str, seed: int) -> np.random.Generator:
            return generator(root, STUDY, EXPERIMENT, problem, name, seed)

        # All mechanisms of a seed start from the same weights
        self.weights = Weights(shapes, [stream("initialise", seed) for _ in MECHANISMS for seed in seeds])
        drawn = [random_directions(stream("directions", seed), d, settings.random_features) for seed in seeds]
        self.directions = torch.stack(drawn).float()[:, None]

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Each mechanism on its own networks: `network sequence token feature`."""
        said = []
        for place, name in enumerate(MECHANISMS):
            own = slice(place * len(self.seeds), (place + 1) * len(self.seeds))
            attention = mechanism(name, self.directions, self.weights["latents"][own, None])
            said.append(attention(q[own], k[own], v[own], True))
        return torch.cat(said)

    def __call__(self, inputs: Float[Tensor, "seed sequence token input"]) -> Float[Tensor, "network sequence token output"]:
        """Answers of every network; all mechanisms see the same sequences."""
        w, d = self.weights, self.settings.width
        x = inputs.repeat(len(MECHANISMS), 1, 1, 1)
        n, b, t, _ = x.shape
        x = dense(x.view(n, b * t, -1), w["embedding"])
        q, k, v = dense(normalise(x), w["query_key_value"]).view(n, b, t, 3 * d).chunk(3, -1)
        x = x + dense(self.attend(q, k, v).reshape(n, b * t, d), w["output"])
        x = x + dense(dense(normalise(x), w["up"], w["up_bias"]).relu(), w["down"])
        return dense(normalise(x), w["readout"], w["readout_bias"]).view(n, b, t, -1)


def draw(problem: str, settings: ToyProblems, root: int, purpose: str, seed: int, number: int, step: int = 0) -> Sequences:
    """Sequences of the stream of a purpose: "train", "tune" or "evaluate"."""
    return PROBLEMS[problem](settings, generator(root, STUDY, EXPERIMENT, problem, purpose, seed, step), number)


def losses(layer: Layer, problem: str, batches: Sequence[Sequences]) -> Float[Tensor, " network"]:
    """Mean loss of each network over what can be known: cross-entropy, squared error for regression.

    Args:
        batches: one for each seed.
    """
    said = layer(torch.stack([batch.inputs for batch in batches]))
    targets, asked = (
        torch.stack([getattr(b, name) for b in batches]).repeat(len(MECHANISMS), 1, 1) for name in ("targets", "asked")
    )
    if problem == "regression":
        each = (said[..., 0] - targets).square()
    else:
        each = F.cross_entropy(said.flatten(0, 2), targets.long().flatten(), reduction="none").view(targets.shape)
    return (each * asked).sum((1, 2)) / asked.sum((1, 2))


def train_networks(
    problem: str,
    settings: ToyProblems,
    root: int,
    checkpoint: Path | None = None,
    code: str = "",
    report: Report = lambda step, values: None,
) -> tuple[Layer, dict[str, list[float]]]:
    """Train every mechanism from every start at every learning rate, side by side.

    Returns:
        the networks of the seeds of each mechanism, each trained at the rate whose network has the lowest loss on tuning sequences;
        these rates, of the seeds of each mechanism.

    Raises:
        DivergedError: if a loss is no longer finite.
        CheckpointError: if the checkpoint is damaged.
    """
    seeds, rates = range(settings.seeds), list(settings.rates)
    layer = Layer(problem, settings, root, [seed for seed in seeds for _ in rates])
    each = {f"{name}_seed_{seed}_rate_{rate}": rate for name in MECHANISMS for seed in seeds for rate in rates}

    def drawn(purpose: str, number: int, step: int = 0) -> list[Sequences]:
        return [batch for s in seeds for batch in [draw(problem, settings, root, purpose, s, number, step)] * len(rates)]

    schedule = Schedule(settings.steps[problem], settings.warmup_steps, settings.decay_share)
    identity = {"problem": problem, "root": root, "code": code}
    identity |= {name: str(value) for name, value in asdict(settings).items()}
    train(
        layer.weights,
        lambda step: losses(layer, problem, drawn("train", settings.batch_size, step)),
        each,
        schedule,
        checkpoint,
        identity,
        report,
    )
    best = Layer(problem, settings, root, seeds)
    with torch.no_grad():
        found = losses(layer, problem, drawn("tune", settings.tuning_sequences)).view(-1, len(rates))
        lowest = found.argmin(1)
        chosen = lowest + len(rates) * torch.arange(len(found))
        for name, weight in best.weights.named.items():
            weight.copy_(layer.weights[name][chosen])
    by_name = zip(MECHANISMS, lowest.view(len(MECHANISMS), -1).tolist(), strict=True)
    return best, {name: [rates[place] for place in own] for name, own in by_name}


def scores(layer: Layer, problem: str, settings: ToyProblems, root: int) -> Float[np.ndarray, "network token"]:
    """By place in the sequence: accuracy, or for regression the share of the labels' variance that is explained.

    Not a number where nothing is asked.
    """
    batches = [draw(problem, settings, root, "evaluate", seed, settings.evaluation_sequences) for seed in layer.seeds]
    with torch.no_grad():
        said = layer(torch.stack([batch.inputs for batch in batches]))
    targets, asked = (
        torch.stack([getattr(b, name) for b in batches]).repeat(len(MECHANISMS), 1, 1) for name in ("targets", "asked")
    )
    if problem == "regression":
        return (1 - (said[..., 0] - targets).square().mean(1) / targets.square().mean(1)).numpy()
    right = ((said.argmax(-1) == targets) & asked).sum(1)
    return (right / asked.sum(1)).numpy()
