"""Do networks rediscover dynamic programming? The 0/1 knapsack problem in a bounded depth.

n items with integer weights w_i and values v_i, a capacity C; asked is the value of the best choice. The dynamic programme

    f(0, c) = 0,    f(i, c) = max(f(i - 1, c), v_i + f(i - 1, c - w_i))

fills a table of n times C entries. An encoder reads one token an item and one token a capacity, and answers at the latter. One side expects
that the programme is not found; the other that it is once there are more layers than the largest weight (or the capacity), and
approximately with fewer. Perceptrons with as many layers and about as many weights are what attention is held against.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from jaxtyping import Float, Int
from torch import Tensor

from activation_descent.reasoning import STUDY
from activation_descent.reasoning import encoder as encoders
from activation_descent.reasoning.encoder import Encoder, Reaching
from activation_descent.seeding import generator
from activation_descent.side_by_side import Report, Schedule, Shape, Weights, dense, normalise, train

EXPERIMENT = "knapsack"
TOGETHER = 4  # examples in one attention product

Items = Int[np.ndarray, "problem item"]
Table = Int[np.ndarray, "problem row capacity"]


@dataclass(frozen=True)
class Knapsack:
    """The problems, the networks and their training.

    Attributes:
        items: n.
        largest_weight, largest_value: weights and values are uniform from 1 to these.
        capacities: C; a network answers for each of them.
        layers: L; networks are trained for each of them.
        seeds: replications, which share their problems.
        width, heads, mlp_width: of the encoders.
        perceptron_width: of the perceptrons' blocks.
        batch_size: problems of a step.
    """

    items: int
    largest_weight: int
    largest_value: int
    capacities: Sequence[int]
    layers: Sequence[int]
    seeds: int
    width: int
    heads: int
    mlp_width: int
    perceptron_width: int
    steps: int
    warmup_steps: int
    decay_share: float
    batch_size: int
    learning_rate: float

    @property
    def depths(self) -> tuple[int, ...]:
        """L of each network, the deepest first; the seeds of a depth stand together."""
        return tuple(depth for depth in sorted(self.layers, reverse=True) for _ in range(self.seeds))

    @property
    def classes(self) -> int:
        """Values that an answer can have, from 0."""
        return self.items * self.largest_value + 1

    @property
    def encoder(self) -> Encoder:
        """Inputs: weight, value and place of an item, and the capacity, one-hot; outputs: the answer's classes."""
        inputs = self.largest_weight + self.largest_value + self.items + len(self.capacities)
        return Encoder(self.depths, inputs, self.classes, self.width, self.heads, self.mlp_width)


@dataclass(frozen=True)
class Problems:
    """Weights and values of items."""

    weights: Items
    values: Items


def draw(settings: Knapsack, rng: np.random.Generator, number: int) -> Problems:
    """Problems with independent uniform weights and values."""
    size = (number, settings.items)
    return Problems(
        rng.integers(1, settings.largest_weight, size, endpoint=True),
        rng.integers(1, settings.largest_value, size, endpoint=True),
    )


def table(problems: Problems, capacity: int) -> Table:
    """f(i, c) for i = 0 to n and c = 0 to the capacity (Bellman 1957)."""
    number, items = problems.weights.shape
    f = np.zeros((number, items + 1, capacity + 1), dtype=np.int64)
    room = np.arange(capacity + 1)
    for i in range(items):
        left = room - problems.weights[:, i, None]
        taken = np.take_along_axis(f[:, i], np.maximum(left, 0), 1) + problems.values[:, i, None]
        f[:, i + 1] = np.maximum(f[:, i], np.where(left >= 0, taken, 0))
    return f


def greedy(problems: Problems, capacity: int) -> Int[np.ndarray, " problem"]:
    """Take items by falling value per weight (of equals the lighter first) while they fit; skip those that do not."""
    order = np.lexsort((problems.weights, -problems.values / problems.weights), axis=1)
    weights, values = (np.take_along_axis(x, order, 1) for x in (problems.weights, problems.values))
    left = np.full(len(weights), capacity)
    total = np.zeros(len(weights), dtype=np.int64)
    for weight, value in zip(weights.T, values.T, strict=True):
        fits = weight <= left
        left -= np.where(fits, weight, 0)
        total += np.where(fits, value, 0)
    return total


def tokens(settings: Knapsack, problems: Problems) -> Float[Tensor, "problem token input"]:
    """Items, one token each (weight, value and place), then the capacities that are asked for, all one-hot."""
    n, asked = settings.items, len(settings.capacities)
    number = len(problems.weights)
    sizes = (settings.largest_weight, settings.largest_value, n, asked)
    starts = np.cumsum((0, *sizes))
    raw = torch.zeros(number, n + asked, starts[-1])
    for start, entry in ((starts[0], problems.weights - 1), (starts[1], problems.values - 1)):
        raw[:, :n].scatter_(2, torch.from_numpy(start + entry)[..., None], 1.0)
    raw[:, torch.arange(n), starts[2] + torch.arange(n)] = 1.0
    raw[:, n + torch.arange(asked), starts[3] + torch.arange(asked)] = 1.0
    return raw


def answers(settings: Knapsack, problems: Problems) -> Int[Tensor, "problem capacity"]:
    """The optimal values."""
    f = table(problems, max(settings.capacities))
    return torch.from_numpy(f[:, -1, list(settings.capacities)])


# Networks


def new_encoders(settings: Knapsack, root: int) -> Weights:
    """Fresh encoders of all depths and seeds."""
    return Weights(settings.encoder.shapes(), _generators(settings, root, "encoder"))


def new_perceptrons(settings: Knapsack, root: int) -> Weights:
    """Residual perceptrons on all items of a problem and one capacity at once."""
    encoder, width = settings.encoder, settings.perceptron_width
    inputs = settings.items * (settings.largest_weight + settings.largest_value) + len(settings.capacities)
    shapes = {"embedding": Shape((inputs, width), 1 / math.sqrt(settings.items))}
    for layer in range(encoder.layers[0]):
        n = encoder.reaching(layer)
        shapes |= {
            f"{layer}.up": Shape((width, 2 * width), 1 / math.sqrt(width), n),
            f"{layer}.up_bias": Shape((1, 2 * width), 0.0, n),
            f"{layer}.down": Shape((2 * width, width), 1 / math.sqrt(4 * width * encoder.layers[0]), n),
        }
    shapes |= {"readout": Shape((width, settings.classes), 1 / math.sqrt(width)), "readout_bias": Shape((1, settings.classes))}
    return Weights(shapes, _generators(settings, root, "perceptron"))


def _generators(settings: Knapsack, root: int, variant: str) -> list[np.random.Generator]:
    """A stream for each network."""
    return [
        generator(root, STUDY, EXPERIMENT, f"{variant}_{depth}", "initialise", place % settings.seeds)
        for place, depth in enumerate(settings.depths)
    ]


def encoder_states(settings: Knapsack, weights: Weights, raw: Float[Tensor, "network problem token input"]) -> list[Reaching]:
    """States after each layer, the tokens first. Items and capacities attend to items, in groups where the batch divides."""
    together = math.gcd(raw.shape[1], TOGETHER)
    x = encoders.embed(weights, settings.encoder, raw)
    return encoders.run(weights, settings.encoder, x, settings.items, together)


def encoder_logits(
    settings: Knapsack, weights: Weights, raw: Float[Tensor, "network problem token input"]
) -> Float[Tensor, "network problem capacity class"]:
    """What the encoders answer."""
    last = encoders.final(settings.encoder, encoder_states(settings, weights, raw))
    return encoders.read(weights, settings.encoder, last[:, :, settings.items :])


def perceptron_logits(
    settings: Knapsack, weights: Weights, raw: Float[Tensor, "network problem token input"]
) -> Float[Tensor, "network problem capacity class"]:
    """What the perceptrons answer to the same problems."""
    networks, number = raw.shape[:2]
    described, asked = settings.largest_weight + settings.largest_value, len(settings.capacities)
    items = raw[:, :, : settings.items, :described].flatten(2)
    rows = torch.cat([items[:, :, None].expand(-1, -1, asked, -1), torch.eye(asked).expand(networks, number, -1, -1)], -1)
    x = dense(rows.reshape(networks, number * asked, -1), weights["embedding"])
    ended = []
    for layer in range(settings.encoder.layers[0]):
        reaching = settings.encoder.reaching(layer)
        ended.append(x[reaching:])
        x = x[:reaching]
        hidden = dense(normalise(x), weights[f"{layer}.up"], weights[f"{layer}.up_bias"]).relu()
        x = x + dense(hidden, weights[f"{layer}.down"])
    x = torch.cat([x, *ended[::-1]])
    return dense(normalise(x), weights["readout"], weights["readout_bias"]).view(networks, number, asked, settings.classes)


NETWORKS = {"encoder": (new_encoders, encoder_logits), "perceptron": (new_perceptrons, perceptron_logits)}


def train_networks(
    kind: str,
    settings: Knapsack,
    root: int,
    checkpoint: Path | None = None,
    code: str = "",
    report: Report = lambda step, values: None,
) -> Weights:
    """Train all depths and seeds of one kind, on fresh problems at each step, by cross-entropy over the values.

    Args:
        kind: of `NETWORKS`.
        checkpoint, report: as in `side_by_side.train`.
        code: digest of the code, part of a checkpoint's identity.

    Raises:
        DivergedError: if a loss is no longer finite.
        CheckpointError: if the checkpoint is damaged.
    """
    new, logits = NETWORKS[kind]
    weights, depths = new(settings, root), len(settings.layers)

    def losses(step: int) -> Float[Tensor, " network"]:
        streams = [generator(root, STUDY, EXPERIMENT, "problems", "train", seed, step) for seed in range(settings.seeds)]
        problems = [draw(settings, rng, settings.batch_size) for rng in streams]
        raw = torch.stack([tokens(settings, drawn) for drawn in problems]).repeat(depths, 1, 1, 1)
        wanted = torch.stack([answers(settings, drawn) for drawn in problems]).repeat(depths, 1, 1)
        said = logits(settings, weights, raw)
        each = F.cross_entropy(said.flatten(0, 2), wanted.flatten(), reduction="none")
        return each.view(len(said), -1).mean(1)

    schedule = Schedule(settings.steps, settings.warmup_steps, settings.decay_share)
    identity = {"kind": kind, "root": root, "code": code} | {k: str(v) for k, v in asdict(settings).items()}
    names = [f"layers_{depth}_seed_{place % settings.seeds}" for place, depth in enumerate(settings.depths)]
    train(weights, losses, dict.fromkeys(names, settings.learning_rate), schedule, checkpoint, identity, report)
    return weights
