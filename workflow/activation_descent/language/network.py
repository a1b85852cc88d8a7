"""The embedded model's forward pass for training: what transformers computes, in fewer and larger operations.

Llama (Touvron et al. 2023): blocks of rotary attention and a gated MLP, each behind a root-mean-square normalisation. The weights have the
names of a `LlamaForCausalLM`, as which a model is saved. A step takes as long as with that class, which takes longer to load; and attention
can be another. The rotation of queries and keys is part of the projection: `R(p) W x = cos(p) W x + sin(p) (S W) x`, with S the signed
permutation that swaps the halves of a head.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from jaxtyping import Float, Int
from torch import Tensor, nn

Heads = Float[Tensor, "row head token feature"]
Attend = Callable[[Heads, Heads, Heads], Heads]  # queries and keys (rotated) and values -> what each head says at each token
Tables = tuple[Float[Tensor, "position angle"], Float[Tensor, "position angle"]]


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


def rotary_tables(length: int, head_dim: int, base: float) -> Tables:
    """Cosines and sines of the angle `p base^(-2j / head_dim)` at position p, for both halves of a head's features (Su et al. 2021)."""
    frequencies = base ** (-torch.arange(0, head_dim, 2) / head_dim)
    angles = torch.outer(torch.arange(length).float(), frequencies).repeat(1, 2)
    return angles.cos(), angles.sin()


def turning(weight: Float[Tensor, "*network output input"], heads: int) -> Float[Tensor, "*network both input"]:
    """W and below it S W: in each head the second half of the outputs with the other sign, then the first half."""
    first, second = weight.unflatten(-2, (heads, 2, -1)).unbind(-3)
    return torch.cat([weight, torch.stack([-second, first], -3).flatten(-4, -2)], -2)


def rotate(
    plain: Float[Tensor, "*batch token output"], turned: Float[Tensor, "*batch token output"], tables: Tables
) -> Float[Tensor, "*batch token output"]:
    """Queries or keys of several heads at their positions, from `W x` and `(S W) x`."""
    length, width = plain.shape[-2:]
    cos, sin = (table[:length].repeat(1, width // table.shape[1]) for table in tables)
    return torch.addcmul(plain * cos, turned, sin)


# One network


def final_states(
    network: nn.Module, tokens: Int[Tensor, "row token"], tables: Tables, attends: Iterable[Attend] | None = None
) -> Float[Tensor, "row token feature"]:
    """What the unembedding reads at each position.

    Args:
        network: a `Network`; or a `LlamaForCausalLM` with as many key heads as query heads and tied embeddings.
        tables: see `rotary_tables`; of as many positions as there are tokens in a row, or more.
        attends: each block's attention, if it is not `softmax_attention`.
    """
    config = network.config
    heads, width, epsilon, (rows, length) = config.num_attention_heads, config.hidden_size, config.rms_norm_eps, tokens.shape
    x = F.embedding(tokens, network.model.embed_tokens.weight).view(rows * length, width)
    for block, attend in zip(network.model.layers, attends or [softmax_attention] * config.num_hidden_layers, strict=True):
        attention, mlp = block.self_attn, block.mlp
        asking = torch.cat([attention.q_proj.weight, attention.k_proj.weight])
        weight = torch.cat([turning(asking, 2 * heads), attention.v_proj.weight])
        projected = F.linear(_normalise(x, block.input_layernorm.weight, epsilon), weight).view(rows, length, 5 * width)
        # Split and not indexed: the gradient of an index is a tensor of zeros with something in it
        plain, turned, value = projected.split([2 * width, 2 * width, width], dim=-1)
        rotated = rotate(plain, turned, tables).view(rows, length, 2, heads, width // heads)
        q, k = rotated.permute(2, 0, 3, 1, 4)  # row head token feature
        v = value.view(rows, length, heads, width // heads).transpose(1, 2)
        attended = attend(q, k, v).transpose(1, 2).reshape(rows * length, width)
        x = torch.addmm(x, attended, attention.o_proj.weight.T)
        gate_up = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
        gate, up = F.linear(_normalise(x, block.post_attention_layernorm.weight, epsilon), gate_up).chunk(2, dim=-1)
        x = torch.addmm(x, F.silu(gate) * up, mlp.down_proj.weight.T)
    return _normalise(x, network.model.norm.weight, epsilon).view(rows, length, width)


def forward(
    network: nn.Module, tokens: Int[Tensor, "row token"], tables: Tables, attends: Iterable[Attend] | None = None
) -> Float[Tensor, "row token word"]:
    """Logits of the next token at each position, equal to `network(tokens).logits`. Arguments as of `final_states`."""
    return F.linear(final_states(network, tokens, tables, attends), network.model.embed_tokens.weight)


def next_token_loss(
    network: nn.Module, tokens: Int[Tensor, "row token"], tables: Tables, attends: Iterable[Attend] | None = None
) -> Float[Tensor, ""]:
    """Mean cross-entropy of every token after the first, in nats. Arguments as of `final_states`."""
    states = final_states(network, tokens, tables, attends)[:, :-1].flatten(0, 1)
    return F.cross_entropy(F.linear(states, network.model.embed_tokens.weight), tokens[:, 1:].flatten())


def _normalise(x: Float[Tensor, "token feature"], gain: Tensor, epsilon: float) -> Float[Tensor, "token feature"]:
    return F.rms_norm(x, gain.shape, gain, epsilon)
