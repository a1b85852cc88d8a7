"""Small language models of the study's own: the kinds that lenses must tell apart, several seeds of each side by side.

    untied        an ordinary transformer: every layer has weights of its own
    tied_loops    one layer applied L times, with a loss after every loop: refines one prediction by construction (positive control)
    tied          the same with a loss at the end alone: tied weights make no common code (diagnostic)
    random_body   frozen random layers and embeddings under a trained unembedding: layers that cannot refine anything (negative control)

They read the corpus of the language study letter by letter. Words must be spelled out, recognised and put into context, so that
depth is of use; the vocabulary is small, so that lenses are cheap. Pre-norm blocks with rotary positions and a GELU perceptron;
normalisation is by the root mean square, without gains, which the next weights could express. All seeds go through one batched product.
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from jaxtyping import Float, Int, Int64
from torch import Tensor

from activation_descent.adam import Adam
from activation_descent.errors import CheckpointError, DivergedError
from activation_descent.language.corpus import Corpus
from activation_descent.language.network import rotary_tables, rotate, turning
from activation_descent.language.world import BEGIN, PADDING, UNKNOWN
from activation_descent.lens import STUDY
from activation_descent.lens.readout import Unembedding
from activation_descent.seeding import generator

EPSILON = 1e-5
ROTARY_BASE = 1000.0

Stream = Float[Tensor, "seed row token feature"]
Tokens = Int[Tensor, "seed row token"]
Report = Callable[[int, Mapping[str, float]], None]


@dataclass(frozen=True)
class Shape:
    """What a body is and how it is trained; `config/README.md` explains each setting."""

    hidden_size: int
    layers: int
    heads: int
    mlp_size: int
    length: int
    rows: int
    steps: int
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    clip_norm: float


# Letters


class Letters:
    """The corpus as rows of letters: words with a space after each, cut to rows of one length.

    Attributes:
        alphabet: what a token stands for; the first one begins every document.
    """

    def __init__(self, corpus: Corpus, vocabulary: tuple[str, ...]):
        self.corpus = corpus
        spelled = ["" if word in (PADDING, UNKNOWN) else "\n" if word == BEGIN else f"{word} " for word in vocabulary]
        self.alphabet = ("\n", " ", *sorted(set("".join(spelled)) - {"\n", " "}))
        token = {letter: place for place, letter in enumerate(self.alphabet)}
        self.sizes = np.array([len(word) for word in spelled])
        self.starts = np.cumsum(self.sizes) - self.sizes
        self.letters = np.array([token[letter] for letter in "".join(spelled)])

    def rows(self, rng: np.random.Generator, number: int, length: int) -> Int64[np.ndarray, "row token"]:
        """Fresh documents of `length` letters."""
        words = self.corpus.rows(rng, number, length // 2)  # a word has two letters at least, its space among them
        sizes = self.sizes[words]
        ends = sizes.cumsum(1)
        # The word that holds each letter, and the letter's place in it
        place = np.arange(length)
        holder = (ends[:, None] <= place[None, :, None]).sum(-1)
        offset = place - np.take_along_axis(ends - sizes, holder, 1)
        return self.letters[self.starts[np.take_along_axis(words, holder, 1)] + offset]


# The network


@dataclass
class Body:
    """Several seeds of one kind.

    Attributes:
        weights: by name, each with a leading dimension of seeds and, in blocks, one of layers (of size 1 where they are tied).
    """

    kind: str
    shape: Shape
    weights: dict[str, Tensor]

    @classmethod
    def initial(cls, kind: str, shape: Shape, words: int, rngs: list[np.random.Generator]) -> "Body":
        """Normal weights of spread 1 / sqrt(inputs), outputs of a block smaller by sqrt(2 L); in a random body 1.5 / sqrt(inputs)."""
        width, mlp, layers = shape.hidden_size, shape.mlp_size, 1 if kind.startswith("tied") else shape.layers
        frozen = kind == "random_body"
        scale, out = (1.5, 1.5) if frozen else (1.0, 1 / math.sqrt(2 * shape.layers))
        sizes = {
            "embedding": ((words, width), 1.0),
            "attention": ((layers, 3 * width, width), scale / math.sqrt(width)),
            "output": ((layers, width, width), out / math.sqrt(width)),
            "up": ((layers, mlp, width), scale / math.sqrt(width)),
            "down": ((layers, width, mlp), out / math.sqrt(mlp)),
            "head": ((words, width), 1 / math.sqrt(width)),
        }
        drawn = {
            name: [rng.standard_normal(size, dtype=np.float32) * spread for name, (size, spread) in sizes.items()]
            for name, rng in enumerate(rngs)
        }
        columns = zip(sizes, zip(*drawn.values(), strict=True), strict=True)
        return cls(kind, shape, {name: torch.from_numpy(np.stack(column)) for name, column in columns})

    @property
    def seeds(self) -> int:
        """Models side by side."""
        return len(self.weights["head"])

    @property
    def layers(self) -> int:
        """L, the loops where weights are tied."""
        return self.shape.layers

    @property
    def unembedding(self) -> Unembedding:
        """The head behind a root-mean-square normalisation without a gain."""
        head = self.weights["head"]
        return Unembedding(head, head.new_zeros(head.shape[:2]), "rms", EPSILON)

    def embed(self, tokens: Tokens) -> Stream:
        """h_0. One set of rows for all seeds is passed as `seed = 1`."""
        tables = self.weights["embedding"]
        return torch.stack([F.embedding(tokens[min(seed, len(tokens) - 1)], tables[seed]) for seed in range(self.seeds)])

    def block(self, x: Stream, layer: int) -> Stream:
        """h_{l+1} = h_l + F_l(h_l): attention, then the perceptron."""
        seeds, rows, length, width = x.shape
        heads = self.shape.heads

        def of(name: str) -> Tensor:
            weight = self.weights[name]
            return weight[:, layer if weight.shape[1] > 1 else 0]

        flat = x.reshape(seeds, rows * length, width)
        asking, value = of("attention").split([2 * width, width], 1)
        weight = torch.cat([turning(asking, 2 * heads), value], 1)
        projected = (_normalise(flat) @ weight.mT).view(seeds * rows, length, 5 * width)
        plain, turned, value = projected.split([2 * width, 2 * width, width], -1)
        rotated = rotate(plain, turned, rotary_tables(length, width // heads, ROTARY_BASE))
        q, k = rotated.view(seeds * rows, length, 2, heads, width // heads).permute(2, 0, 3, 1, 4)
        v = value.view(seeds * rows, length, heads, width // heads).transpose(1, 2)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        flat = torch.baddbmm(flat, attended.transpose(1, 2).reshape(seeds, rows * length, width), of("output").mT)
        hidden = F.gelu(_normalise(flat) @ of("up").mT)
        return torch.baddbmm(flat, hidden, of("down").mT).view(x.shape)

    def states(self, tokens: Tokens) -> Iterator[Stream]:
        """h_0 to h_L."""
        x = self.embed(tokens)
        yield x
        for layer in range(self.layers):
            x = self.block(x, layer)
            yield x

    # What `states.Subject` asks for

    @torch.no_grad()
    def record(self, tokens: Tokens) -> Float[Tensor, "seed depth row token feature"]:
        """h_0 to h_L, without gradients."""
        return torch.stack([*self.states(tokens)], 1)

    @torch.no_grad()
    def resume(self, tokens: Tokens, layer: int, states: Stream) -> Stream:
        """h_L when `states` enter block `layer`; `tokens` are not read again."""
        for place in range(layer, self.layers):
            states = self.block(states, place)
        return states

    def trained(self) -> list[Tensor]:
        """The weights that training changes."""
        return [self.weights["head"]] if self.kind == "random_body" else list(self.weights.values())


def _normalise(x: Float[Tensor, "... feature"]) -> Float[Tensor, "... feature"]:
    return F.rms_norm(x, x.shape[-1:], eps=EPSILON)


# Training


def loss(body: Body, tokens: Tokens) -> Float[Tensor, " seed"]:
    """Mean cross-entropy of every token after the first, in nats; of `tied_loops` averaged over the loops."""
    states = list(body.states(tokens))[1:]
    read = torch.stack(states if body.kind == "tied_loops" else states[-1:], 1)[:, :, :, :-1]
    seeds, loops, rows, length, _ = read.shape
    logits = _normalise(read).flatten(1, 3) @ body.weights["head"].mT
    targets = tokens[:, None, :, 1:].expand(seeds, loops, rows, length).reshape(-1)
    return F.cross_entropy(logits.flatten(0, 1), targets, reduction="none").view(seeds, -1).mean(1)


def train(
    kind: str,
    shape: Shape,
    letters: Letters,
    root: int,
    seeds: int,
    every: int,
    report: Report = lambda step, values: None,
) -> Body:
    """Train all seeds of one kind, each on documents of its own; seeds share weights and documents with those of other kinds.

    Args:
        root: the configuration's `seed`.
        every: steps between two reports of each seed's mean loss.

    Raises:
        DivergedError: if a loss is no longer finite.
    """
    streams = [partial(generator, root, STUDY, "bodies", "all", seed=seed) for seed in range(seeds)]
    body = Body.initial(kind, shape, len(letters.alphabet), [stream("initialise") for stream in streams])
    parameters = [weight.requires_grad_(True) for weight in body.trained()]
    adam = Adam(parameters, (0.9, 0.98), shape.weight_decay)
    total = torch.zeros(seeds)
    for step in range(shape.steps):
        rows = [letters.rows(stream("train", step=step), shape.rows, shape.length) for stream in streams]
        losses = loss(body, torch.from_numpy(np.stack(rows)))
        losses.sum().backward()
        _clip(parameters, shape.clip_norm)
        adam.step(shape.learning_rate * min(1, (step + 1) / shape.warmup_steps) * (1 - step / shape.steps))
        total += losses.detach()
        if (step + 1) % every == 0:
            if not total.isfinite().all():
                raise DivergedError(f"training of the lens study's {kind} models diverged before step {step + 1}")
            report(step + 1, {f"training_loss/seed_{seed}": value / every for seed, value in enumerate(total.tolist())})
            total.zero_()
    for weight in parameters:
        weight.requires_grad_(False)
    return body


def _clip(parameters: list[Tensor], longest: float) -> None:
    """Cut each seed's gradient to a length; seeds do not meet."""
    square = sum(parameter.grad.square().flatten(1).sum(1) for parameter in parameters)
    factor = (longest / (square.sqrt() + 1e-6)).clamp(max=1)
    for parameter in parameters:
        parameter.grad *= factor.view(-1, *[1] * (parameter.dim() - 1))


def save(body: Body, path: Path) -> None:
    """Write a body as safetensors, with its kind and shape as metadata, whole or not at all."""
    from safetensors.torch import save_file

    partial = path.with_name(path.name + ".partial")
    # One entry: of several, their order in the file would change from run to run
    described = json.dumps({"kind": body.kind, "shape": asdict(body.shape)}, sort_keys=True)
    save_file({name: weight.contiguous() for name, weight in body.weights.items()}, partial, {"body": described})
    os.replace(partial, path)


def load(path: Path) -> Body:
    """Read what `save` wrote.

    Raises:
        CheckpointError: if the file is missing or damaged.
    """
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as stored:
            described = json.loads(stored.metadata()["body"])
            weights = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (not a mapping)
        return Body(described["kind"], Shape(**described["shape"]), weights)
    except Exception as error:  # safetensors raises its own type, and others on a file cut short
        raise CheckpointError(f"{path} cannot be read ({error}); delete it to train again") from error
