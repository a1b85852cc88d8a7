"""The embedded model's forward pass for training: what transformers computes, in fewer and larger operations.

Llama (Touvron et al. 2023): blocks of rotary attention and a gated MLP, each behind a root-mean-square normalisation. The weights have the
names of a `LlamaForCausalLM`, as which a model is saved. Between the products its own forward pass moves memory about, and so would
automatic differentiation. Here the gain of a normalisation is part of the weight behind it, gradients of normalisation, gate and loss are
written out, and a rotation is one product of complex numbers: the features that rotate together are made neighbours in the weights, the
same for queries and keys, so that no score changes.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from jaxtyping import Complex, Float, Int
from torch import Tensor, nn

Heads = Float[Tensor, "row head token feature"]
Attend = Callable[[Heads, Heads, Heads], Heads]  # queries and keys (rotated) and values -> what each head says at each token
Turns = Complex[Tensor, "position pair"]

POSITIONS_AT_ONCE = 256  # whose probabilities of all words stay in the processor's cache


def softmax_attention(q: Heads, k: Heads, v: Heads) -> Heads:
    """Causal attention, scores divided by the root of the head's width."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


@dataclass(frozen=True)
class Shape:
    """What a `LlamaConfig` says of a network, under the same names."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    rms_norm_eps: float = 1e-6


class Network(nn.Module):
    """The weights of a `LlamaForCausalLM` with tied embeddings, under its names and in its order, and nothing else.

    The library's own class takes three times as long to load as torch; a training that saves no model can do without it.
    """

    def __init__(self, config: Shape):
        super().__init__()
        self.config = config
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.model.layers = nn.ModuleList(_block(config) for _ in range(config.num_hidden_layers))
        self.model.norm = nn.RMSNorm(config.hidden_size)


def _block(config: Shape) -> nn.Module:
    width, hidden = config.hidden_size, config.intermediate_size
    block, block.self_attn, block.mlp = (nn.Module() for _ in range(3))
    for name in "qkvo":
        block.self_attn.add_module(f"{name}_proj", nn.Linear(width, width, bias=False))
    for name, inputs, outputs in (("gate", width, hidden), ("up", width, hidden), ("down", hidden, width)):
        block.mlp.add_module(f"{name}_proj", nn.Linear(inputs, outputs, bias=False))
    block.input_layernorm, block.post_attention_layernorm = nn.RMSNorm(width), nn.RMSNorm(width)
    return block


# Operations, for one network or several: with a leading axis, where there are several


def rotary_turns(length: int, head_dim: int, base: float) -> Turns:
    """`exp(i p base^(-2j / head_dim))`, what position p multiplies the pair j of a head's features by (Su et al. 2021)."""
    frequencies = base ** (-torch.arange(0, head_dim, 2) / head_dim)
    angles = torch.outer(torch.arange(length).float(), frequencies)
    return torch.polar(torch.ones_like(angles), angles)


def neighbours(weight: Float[Tensor, "*network output input"], heads: int) -> Float[Tensor, "*network output input"]:
    """Queries' or keys' weights with the outputs that rotate together side by side, in place of half a head apart."""
    return weight.unflatten(-2, (heads, 2, -1)).transpose(-3, -2).flatten(-4, -2)


def rotate(projected: Float[Tensor, "*batch token output"], turns: Turns) -> Float[Tensor, "*batch token output"]:
    """Heads of queries or keys at their positions; `neighbours` have made the projection."""
    pairs = torch.view_as_complex(projected.unflatten(-1, (-1, 2)))
    turned = pairs * turns[: pairs.shape[-2]].repeat(1, pairs.shape[-1] // turns.shape[1])
    return torch.view_as_real(turned).flatten(-2)


class Normalised(torch.autograd.Function):
    """Root-mean-square normalisation without a gain, `y = s x` with `s = (mean x^2 + epsilon)^(-1/2)`."""

    @staticmethod
    def forward(ctx: Any, x: Float[Tensor, "*batch feature"], epsilon: float) -> Float[Tensor, "*batch feature"]:
        mean_square = torch.linalg.vecdot(x, x)[..., None] / x.shape[-1]
        scale = mean_square.add_(epsilon).rsqrt_()
        y = x * scale
        ctx.save_for_backward(y, scale)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        y, scale = ctx.saved_tensors  # dy/dx = s (1 - y y^T / features)
        along = torch.linalg.vecdot(gradient, y)[..., None] / y.shape[-1]
        return torch.addcmul(gradient, y, along, value=-1).mul_(scale), None


class Gated(torch.autograd.Function):
    """`silu(gate) * up` of the two halves of a projection."""

    @staticmethod
    def forward(ctx: Any, projected: Float[Tensor, "*batch both"]) -> Float[Tensor, "*batch half"]:
        gate, up = projected.chunk(2, -1)
        opened = F.silu(gate)
        ctx.save_for_backward(projected, opened)
        return opened * up

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        projected, opened = ctx.saved_tensors
        gate, up = projected.chunk(2, -1)
        result = torch.empty_like(projected)
        by_gate, by_up = result.chunk(2, -1)
        torch.mul(gradient, opened, out=by_up)
        torch.ops.aten.silu_backward.grad_input(gradient * up, gate, grad_input=by_gate)
        return result


class Surprise(torch.autograd.Function):
    """Mean cross-entropy of each network over positions, in nats, from what the unembedding reads and from the unembedding."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Float[Tensor, "network token feature"],
        words: Float[Tensor, "network word feature"],
        targets: Int[Tensor, "network token"],
    ) -> Float[Tensor, " network"]:
        by_states, by_words, total = torch.empty_like(states), torch.zeros_like(words), torch.zeros(len(states))
        for network, unembedding in enumerate(words):
            pieces = (tensor[network].split(POSITIONS_AT_ONCE) for tensor in (states, by_states, targets))
            for state, by_state, target in zip(*pieces, strict=True):
                error = torch.mm(state, unembedding.T).softmax(1)  # probabilities; minus what came, the gradient by the logits
                came = target[:, None]
                total[network] -= error.gather(1, came).log_().sum()
                error.scatter_add_(1, came, torch.full_like(came, -1, dtype=error.dtype))
                torch.mm(error, unembedding, out=by_state)
                by_words[network].addmm_(error.T, state)
        number = targets.shape[1]
        ctx.save_for_backward(by_states.div_(number), by_words.div_(number))
        return total / number

    @staticmethod
    def backward(ctx: Any, gradient: Float[Tensor, " network"]) -> tuple[Tensor, Tensor, None]:
        by_states, by_words = ctx.saved_tensors
        return by_states * gradient[:, None, None], by_words * gradient[:, None, None], None


# One network


def final_states(
    network: nn.Module, tokens: Int[Tensor, "row token"], turns: Turns, attends: Iterable[Attend] | None = None
) -> Float[Tensor, "row token feature"]:
    """The last states, normalised but for the gain.

    Args:
        network: a `Network`; or a `LlamaForCausalLM` with as many key heads as query heads and tied embeddings.
        turns: see `rotary_turns`; of as many positions as there are tokens in a row, or more.
        attends: each block's attention, if it is not `softmax_attention`.
    """
    config = network.config
    heads, width, epsilon, (rows, length) = config.num_attention_heads, config.hidden_size, config.rms_norm_eps, tokens.shape
    x = F.embedding(tokens, network.model.embed_tokens.weight).view(rows * length, width)
    for block, attend in zip(network.model.layers, attends or [softmax_attention] * config.num_hidden_layers, strict=True):
        attention, mlp = block.self_attn, block.mlp
        query, key = neighbours(attention.q_proj.weight, heads), neighbours(attention.k_proj.weight, heads)
        weight = torch.cat([query, key, attention.v_proj.weight]) * block.input_layernorm.weight
        projected = F.linear(Normalised.apply(x, epsilon), weight).view(rows, length, 3 * width)
        # Split and not indexed: the gradient of an index is a tensor of zeros with something in it
        asking, value = projected.split([2 * width, width], dim=-1)
        rotated = rotate(asking, turns).view(rows, length, 2, heads, width // heads)
        q, k = rotated.permute(2, 0, 3, 1, 4)  # row head token feature
        v = value.view(rows, length, heads, width // heads).transpose(1, 2)
        attended = attend(q, k, v).transpose(1, 2).reshape(rows * length, width)
        x = torch.addmm(x, attended, attention.o_proj.weight.T)
        gate_up = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]) * block.post_attention_layernorm.weight
        x = torch.addmm(x, Gated.apply(F.linear(Normalised.apply(x, epsilon), gate_up)), mlp.down_proj.weight.T)
    return Normalised.apply(x, epsilon).view(rows, length, width)


def forward(
    network: nn.Module, tokens: Int[Tensor, "row token"], turns: Turns, attends: Iterable[Attend] | None = None
) -> Float[Tensor, "row token word"]:
    """Logits of the next token at each position, equal to `network(tokens).logits`. Arguments as of `final_states`."""
    return F.linear(final_states(network, tokens, turns, attends), _unembedding(network))


def next_token_loss(
    network: nn.Module, tokens: Int[Tensor, "row token"], turns: Turns, attends: Iterable[Attend] | None = None
) -> Float[Tensor, ""]:
    """Mean cross-entropy of every token after the first, in nats. Arguments as of `final_states`."""
    states = final_states(network, tokens, turns, attends)[:, :-1].flatten(0, 1)
    return Surprise.apply(states[None], _unembedding(network)[None], tokens[None, :, 1:].flatten(1))[0]


def _unembedding(network: nn.Module) -> Float[Tensor, "word feature"]:
    """The tied embeddings, with the gain of the last normalisation."""
    return network.model.embed_tokens.weight * network.model.norm.weight
