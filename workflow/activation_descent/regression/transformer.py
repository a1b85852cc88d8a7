"""The transformers of the regression study (von Oswald et al. 2022, eq. 2 and the authors' code; row vectors: q_j = e_j W_Q).

A linear layer adds to every token j, the query included,

    e_j <- e_j + sum_h sum_{i in context} (e_j W_Q^h . e_i W_K^h) e_i W_V^h W_P^h

with no biases, no 1/sqrt(k), no mask and no 1/N; keys and values leave the query token out; the prediction is -1 times the last entry
of the last token. A softmax layer takes softmax over the context of the scores / sqrt(width) instead of the scores. Every key is as
wide as a token, so that a layer depends on its weights through A_h = W_Q^h W_K^h^T and B_h = W_V^h W_P^h alone; with
G = sum_i e_i^T e_i the linear update is sum_h e_j A_h G B_h.

The parameters of a network are one vector, so that an optimiser, a checkpoint and a table of snapshots see one tensor;
`unpack` gives them their names and shapes. Networks of one architecture pass side by side when vectors and tokens have a leading axis
of starts: every function counts its axes from the last, the task. What trained networks say is in `answers`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

MATRICES = ("query", "key", "value", "projection")
MLP_WIDENING = 4

Layer = Float[Tensor, "matrix feature feature"]  # one head of one layer, in the order of MATRICES
Tokens = Float[Tensor, "*start feature token task"]
States = Float[Tensor, "*start width token task"]
Vector = Float[Tensor, "*start parameter"]


@dataclass(frozen=True)
class Architecture:
    """What a network is made of.

    Attributes:
        features: entries of a task's token (x_i, y_i): d + 1.
        layers: K.
        heads: H; each is as wide as a token.
        tied: whether one layer's weights serve all layers (a recurrent network).
        attention: "linear", "softmax", or "softmax_first" for a softmax layer under linear ones.
        layer_norm: normalise before attention and MLP; the first of several untied layers goes without, as in the authors' code.
        mlp: a two-layer GELU perceptron, four times as wide, after each attention.
        activation_clip: bound on every entry of every token after attention and after the MLP.
        tokens: "constructed" for (x_i, y_i) and the query (x_q, 0); "classic" for x_i and (0, .., 0, y_i) as tokens of their own, d
            entries each, and a code of the position behind them, whose last entry is then what the prediction is read from (the
            authors' layout); "classic_slot" for the code in front and an entry of its own for y, zero in x-tokens.
        position_size: width of the sine and cosine code of classic tokens.
        embedding_size: width of a linear embedding followed by a residual perceptron; 0 for none.
    """

    features: int
    layers: int = 1
    heads: int = 1
    tied: bool = True
    attention: str = "linear"
    layer_norm: bool = False
    mlp: bool = False
    activation_clip: float | None = None
    tokens: str = "constructed"
    position_size: int = 0
    embedding_size: int = 0

    @property
    def width(self) -> int:
        """Entries of a state."""
        if self.embedding_size:
            return self.embedding_size
        if self.tokens == "constructed":
            return self.features
        return self.features - (self.tokens == "classic") + self.position_size

    @property
    def blocks(self) -> int:
        """Layers with weights of their own."""
        return 1 if self.tied else self.layers

    @property
    def is_attention_alone(self) -> bool:
        """Whether the network is attention on the task's own tokens and nothing else but the clip."""
        return self.tokens == "constructed" and not (self.layer_norm or self.mlp or self.embedding_size)

    @property
    def is_linear_attention(self) -> bool:
        """Whether the network is linear attention on the task's own tokens and nothing else but the clip."""
        return self.is_attention_alone and self.attention == "linear"


def shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """The parameters of a network by name, in the order in which they stand in its vector."""
    blocks, width = architecture.blocks, architecture.width
    shapes: dict[str, tuple[int, ...]] = {"attention": (blocks, architecture.heads, len(MATRICES), width, width)}
    if architecture.layer_norm:
        shapes |= {"norm_scale": (blocks, width), "norm_offset": (blocks, width)}
    if architecture.mlp:
        shapes |= {"mlp_in": (blocks, width, MLP_WIDENING * width), "mlp_out": (blocks, MLP_WIDENING * width, width)}
    if architecture.layer_norm and architecture.mlp:
        shapes |= {"mlp_norm_scale": (blocks, width), "mlp_norm_offset": (blocks, width)}
    if architecture.embedding_size:
        hidden = MLP_WIDENING * width
        shapes |= {"embedding": (architecture.features, width), "embedding_in": (width, hidden), "embedding_in_bias": (hidden,)}
        shapes |= {"embedding_out": (hidden, width), "embedding_out_bias": (width,)}
    return shapes


def unpack(vector: Vector, architecture: Architecture) -> dict[str, Tensor]:
    """Views of a network's vector by name.

    Raises:
        ValueError: if the vector has another length than the architecture asks for.
    """
    named, start = {}, 0
    for name, shape in shapes(architecture).items():
        end = start + math.prod(shape)
        if end > vector.shape[-1]:
            break
        named[name] = vector[..., start:end].view(*vector.shape[:-1], *shape)
        start = end
    if start != vector.shape[-1] or len(named) < len(shapes(architecture)):
        raise ValueError(f"{vector.shape[-1]} parameters do not fit {architecture}")
    return named


def initialise(rng: np.random.Generator, architecture: Architecture, init_scale: float) -> Vector:
    """Haiku's `VarianceScaling(init_scale, "fan_in", "truncated_normal")`: standard deviation sqrt(init_scale / fan_in).

    For one layer, d = 10 and the published 0.002 that is 0.0135 (the paper's text, "std 0.002", is the variance scale of the code).
    W_P has a fan-in of heads * width. Scales start at 1, offsets and biases at 0.
    """
    torch_generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
    width = architecture.width

    def normal(shape: tuple[int, ...], fan_in: int) -> Tensor:
        # A normal cut at two standard deviations has 0.8796 of its width.
        std = math.sqrt(init_scale / fan_in) / 0.87962566103423978
        return torch.nn.init.trunc_normal_(torch.empty(shape), std=std, a=-2 * std, b=2 * std, generator=torch_generator)

    parts = []
    for name, shape in shapes(architecture).items():
        if name == "attention":
            part = normal(shape, width)
            part[:, :, MATRICES.index("projection")] /= math.sqrt(architecture.heads)
        elif name.endswith("scale"):
            part = torch.ones(shape)
        elif name.endswith(("offset", "bias")):
            part = torch.zeros(shape)
        else:
            part = normal(shape, shape[-2])
        parts.append(part.flatten())
    return torch.cat(parts)


def products(attention: Float[Tensor, "*block matrix feature feature"]) -> tuple[Tensor, Tensor]:
    """`A = W_Q W_K^T` and `B = W_V W_P` of each head: all that a layer's output depends on."""
    query, key, value, projection = attention.unbind(-3)
    return query @ key.mT, value @ projection


def position_code(positions: int, size: int) -> Float[Tensor, "position code"]:
    """Sines and cosines of the position, wavelengths from 2 pi to 10,000 * 2 pi (the authors' `create_pos_encoding`)."""
    frequency = torch.exp(torch.arange(0, size, 2, dtype=torch.float64) * (-math.log(10000.0) / size))
    angle = torch.arange(positions)[:, None] * frequency
    code = torch.zeros(positions, size, dtype=torch.float64)
    code[:, 0::2] = angle.sin()
    code[:, 1::2] = angle.cos()
    return code


def linear(
    matrix: Float[Tensor, "*start input output"], e: Float[Tensor, "*start input token task"]
) -> Float[Tensor, "*start output token task"]:
    """Every token times one matrix (row vectors: e W)."""
    return (matrix.mT @ e.flatten(-2)).view(*e.shape[:-3], -1, *e.shape[-2:])


def perceptron(e: States, into: Float[Tensor, "*start width hidden"], out: Float[Tensor, "*start hidden width"]) -> States:
    """Two layers without bias, GELU in jax's approximation between them."""
    return linear(out, functional.gelu(linear(into, e), approximate="tanh"))


def layer_norm(e: States, scale: Float[Tensor, "*start width"], offset: Float[Tensor, "*start width"]) -> States:
    """Haiku's `LayerNorm` over the entries of each token; torch's own wants them last, where a dozen entries are slow to sum."""
    centred = e - e.mean(-3, keepdim=True)
    deviation = torch.rsqrt(centred.square().mean(-3, keepdim=True) + 1e-5)
    return centred * deviation * scale[..., None, None] + offset[..., None, None]


def enter(
    parameters: dict[str, Tensor], tokens: Tokens, architecture: Architecture
) -> Float[Tensor, "*start width position task"]:
    """A task's tokens as the network's first states."""
    e = tokens if architecture.tokens == "constructed" else _split(tokens, architecture)
    if architecture.embedding_size:
        e = linear(parameters["embedding"], e)
        hidden = linear(parameters["embedding_in"], e) + parameters["embedding_in_bias"][..., None, None]
        added = linear(parameters["embedding_out"], functional.gelu(hidden, approximate="tanh"))
        e = e + added + parameters["embedding_out_bias"][..., None, None]
    return e


def _split(tokens: Tokens, architecture: Architecture) -> Float[Tensor, "*start width position task"]:
    """x_1, y_1, x_2, .., y_N, x_q as tokens of their own, with the code of their positions."""
    *starts, features, number, tasks = tokens.shape
    slot = architecture.tokens == "classic_slot"
    parts = tokens.new_zeros(*starts, features if slot else features - 1, number, 2, tasks)
    parts[..., : features - 1, :, 0, :] = tokens[..., :-1, :, :]
    parts[..., -1, :, 1, :] = tokens[..., -1, :, :]
    parts = parts.flatten(-3, -2)[..., :-1, :]  # feature position task; the query has no label
    code = position_code(parts.shape[-2], architecture.position_size).to(tokens).mT[..., None].expand(*starts, -1, -1, tasks)
    return torch.cat([code, parts] if slot else [parts, code], dim=-3)


def attend(
    a: Float[Tensor, "*start head width width"],
    b: Float[Tensor, "*start head width output"],
    softmax: bool,
    queries: Float[Tensor, "*start width query task"],
    context: Float[Tensor, "*start width context task"],
) -> Float[Tensor, "*start output query task"]:
    """What one layer adds to the states of `queries`: the sum over heads of scores * values."""
    *_, width, number, _ = queries.shape
    if number > 1 and not softmax:
        return through(linear_map(a, b, context), queries)
    update = 0
    for a_head, b_head in zip(a.unbind(-3), b.unbind(-3), strict=True):
        asked, values = linear(a_head, queries), linear(b_head, context)
        if number == 1:  # sums along axes before the last, which are fast
            scores = (asked * context).sum(-3, keepdim=True)  # 1 context task
            scores = torch.softmax(scores / math.sqrt(width), -2) if softmax else scores
            update = update + (values * scores).sum(-2, keepdim=True)
        else:
            scores = _task_first(asked).mT @ _task_first(context)  # task query context
            scores = torch.softmax(scores / math.sqrt(width), -1)
            update = update + _task_last(_task_first(values) @ scores.mT)
    return update


def linear_map(
    a: Float[Tensor, "*start head width width"], b: Float[Tensor, "*start head width output"], context: States
) -> Float[Tensor, "*start width output task"]:
    """`M = sum_h A_h G B_h`: what a linear layer adds to any e is e M. Its price hardly depends on the number of heads."""
    heads, _, output = b.shape[-3:]
    e = _task_first(context)
    gram = _task_last(e @ e.mT)  # G: *start width width task
    halves = linear(b.transpose(-3, -2).flatten(-2), gram)  # (G B_h)^T of all heads, one below the other
    halves = halves.unflatten(-3, (heads, output)).transpose(-3, -2).flatten(-4, -3)  # G B_h
    return linear(a.mT.flatten(-3, -2), halves)


def through(
    layer_map: Float[Tensor, "*start width output task"], e: Float[Tensor, "*start width token task"]
) -> Float[Tensor, "*start output token task"]:
    """e M for every token, each task with a map of its own."""
    if e.shape[-2] == 1:
        return (layer_map * e).sum(-3).unsqueeze(-2)
    return _task_last(_task_first(layer_map).mT @ _task_first(e))


class _Moved(torch.autograd.Function):
    """`movedim` whose result and whose gradient are contiguous: the library's product of two matrices for each task wants the task first
    and contiguous, and is thirty times as slow on what automatic differentiation would hand it."""

    @staticmethod
    def forward(ctx, x: Tensor, source: int, destination: int) -> Tensor:
        ctx.axes = (source, destination)
        return x.movedim(source, destination).contiguous()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        source, destination = ctx.axes
        return gradient.movedim(destination, source).contiguous(), None, None


def _task_first(x: Float[Tensor, "*start row column task"]) -> Float[Tensor, "*start task row column"]:
    return _Moved.apply(x, -1, -3)


def _task_last(x: Float[Tensor, "*start task row column"]) -> Float[Tensor, "*start row column task"]:
    return _Moved.apply(x, -3, -1)


def states(
    parameters: dict[str, Tensor], tokens: Tokens, architecture: Architecture, query_only: bool = False
) -> Iterator[tuple[Float[Tensor, "*start width context task"], Float[Tensor, "*start entry 1 task"]]]:
    """Context and query before the first layer and after each; what nobody reads after the last is left out.

    Args:
        query_only: pass no gradient to the context, in which the query has no part.
    """

    def normed(e: Tensor, prefix: str, block: int, layer: int) -> Tensor:
        if not architecture.layer_norm or (layer == 0 and not architecture.tied and prefix == "norm"):
            return e
        return layer_norm(e, parameters[f"{prefix}_scale"][..., block, :], parameters[f"{prefix}_offset"][..., block, :])

    def clipped(e: Tensor) -> Tensor:
        return e if architecture.activation_clip is None else e.clamp(-architecture.activation_clip, architecture.activation_clip)

    def after(e: Tensor, update: Tensor, block: int, layer: int) -> Tensor:
        e = clipped(e + update)
        if architecture.mlp:
            n = normed(e, "mlp_norm", block, layer)
            e = clipped(e + perceptron(n, parameters["mlp_in"][..., block, :, :], parameters["mlp_out"][..., block, :, :]))
        return e

    if (
        query_only and architecture.tokens == "constructed"
    ):  # each token enters alone: no gradient goes back through the context's
        with torch.no_grad():
            context = enter(parameters, tokens[..., :-1, :], architecture)
        query = enter(parameters, tokens[..., -1:, :], architecture)
    else:
        e = enter(parameters, tokens, architecture)
        context, query = e[..., :-1, :].detach() if query_only else e[..., :-1, :], e[..., -1:, :]
    yield context, query
    a, b = products(parameters["attention"])  # *start block head width width
    a, b = a.unbind(-4), b.unbind(-4)
    for layer in range(architecture.layers):
        block = 0 if architecture.tied else layer
        softmax = architecture.attention == "softmax" or (architecture.attention == "softmax_first" and layer == 0)
        keys, asked, values = normed(context, "norm", block, layer), normed(query, "norm", block, layer), b[block]
        if layer == architecture.layers - 1:
            if not architecture.mlp:  # all that will be read is the last entry
                query, values = query[..., -1:, :, :], values[..., -1:]
            query = after(query, attend(a[block], values, softmax, asked, keys), block, layer)
        else:
            if softmax:
                others, own = (attend(a[block], values, softmax, queries, keys) for queries in (keys, asked))
            else:
                layer_map = linear_map(a[block], values, keys)
                others, own = through(layer_map, keys), through(layer_map, asked)
            context, query = after(context, others, block, layer), after(query, own, block, layer)
        yield context, query


def predict(vector: Vector, tokens: Tokens, architecture: Architecture, query_only: bool = False) -> Float[Tensor, "*start task"]:
    """The network's answer to each task's query: -1 times the last entry of its last token. `query_only` as in `states`."""
    *_, (_, query) = states(unpack(vector, architecture), tokens, architecture, query_only)
    return -query[..., -1, 0, :]
