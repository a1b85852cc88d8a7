"""The embedded model's forward pass for training: what transformers computes, in fewer and larger operations.

Llama (Touvron et al. 2023): blocks of rotary attention and a gated MLP, each behind a root-mean-square normalisation. The weights are
those of the `LlamaForCausalLM` that is saved. On one core about twice as fast as its own forward pass, because the rotation of queries and
keys is part of the projection: `R(p) W x = cos(p) W x + sin(p) (S W) x`, with S the signed permutation that swaps the halves of a head.
"""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from jaxtyping import Float, Int
from torch import Tensor, nn

Heads = Float[Tensor, "row head token feature"]
Attend = Callable[[Heads, Heads, Heads], Heads]  # queries and keys (rotated) and values -> what each head says at each token


def softmax_attention(q: Heads, k: Heads, v: Heads) -> Heads:
    """Causal attention, scores divided by the root of the head's width."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def rotary_tables(
    length: int, head_dim: int, base: float
) -> tuple[Float[Tensor, "token feature"], Float[Tensor, "token feature"]]:
    """Cosines and sines of the angle `p base^(-2i / head_dim)` at position p, for both halves of a head's features."""
    frequencies = base ** (-torch.arange(0, head_dim, 2) / head_dim)
    angles = torch.outer(torch.arange(length).float(), frequencies).repeat(1, 2)
    return angles.cos(), angles.sin()


def _swapped(weight: Float[Tensor, "output input"], heads: int) -> Float[Tensor, "output input"]:
    """S W: in each head the second half of the outputs with the other sign, then the first half."""
    first, second = weight.view(heads, 2, -1, weight.shape[1]).unbind(1)
    return torch.stack([-second, first], 1).reshape(weight.shape)


def _normalise(x: Float[Tensor, "token feature"], norm: nn.Module) -> Float[Tensor, "token feature"]:
    return F.rms_norm(x, (x.shape[-1],), norm.weight, norm.variance_epsilon)


def final_states(
    network: nn.Module, tokens: Int[Tensor, "row token"], tables: tuple[Tensor, Tensor], attends: Iterable[Attend] | None = None
) -> Float[Tensor, "row token feature"]:
    """What the unembedding reads at each position.

    Args:
        network: a `LlamaForCausalLM` with as many key heads as query heads and tied embeddings.
        tables: see `rotary_tables`.
        attends: each block's attention, if it is not `softmax_attention`.
    """
    config = network.config
    heads, width, (rows, length) = config.num_attention_heads, config.hidden_size, tokens.shape
    # Queries and keys of all heads share the tables: token feature
    cos, sin = (table[:length].repeat(1, 2 * heads) for table in tables)
    x = F.embedding(tokens, network.model.embed_tokens.weight).view(rows * length, width)
    for block, attend in zip(network.model.layers, attends or [softmax_attention] * config.num_hidden_layers, strict=True):
        attention, mlp = block.self_attn, block.mlp
        query, key = attention.q_proj.weight, attention.k_proj.weight
        weight = torch.cat([query, key, _swapped(query, heads), _swapped(key, heads), attention.v_proj.weight])
        projected = F.linear(_normalise(x, block.input_layernorm), weight).view(rows, length, 5 * width)
        # Split and not indexed: the gradient of an index is a tensor of zeros with something in it
        plain, turned, value = projected.split([2 * width, 2 * width, width], dim=-1)
        rotated = torch.addcmul(plain * cos, turned, sin).view(rows, length, 2, heads, width // heads)
        q, k = rotated.permute(2, 0, 3, 1, 4)  # row head token feature
        v = value.view(rows, length, heads, width // heads).transpose(1, 2)
        attended = attend(q, k, v).transpose(1, 2).reshape(rows * length, width)
        x = torch.addmm(x, attended, attention.o_proj.weight.T)
        gate_up = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
        gate, up = F.linear(_normalise(x, block.post_attention_layernorm), gate_up).chunk(2, dim=-1)
        x = torch.addmm(x, F.silu(gate) * up, mlp.down_proj.weight.T)
    return _normalise(x, network.model.norm).view(rows, length, width)


def forward(
    network: nn.Module, tokens: Int[Tensor, "row token"], tables: tuple[Tensor, Tensor], attends: Iterable[Attend] | None = None
) -> Float[Tensor, "row token word"]:
    """Logits of the next token at each position, equal to `network(tokens).logits`. Arguments as of `final_states`."""
    return F.linear(final_states(network, tokens, tables, attends), network.model.embed_tokens.weight)


def next_token_loss(
    network: nn.Module, tokens: Int[Tensor, "row token"], tables: tuple[Tensor, Tensor], attends: Iterable[Attend] | None = None
) -> Float[Tensor, ""]:
    """Mean cross-entropy of every token after the first, in nats. Arguments as of `final_states`."""
    states = final_states(network, tokens, tables, attends)[:, :-1].flatten(0, 1)
    return F.cross_entropy(F.linear(states, network.model.embed_tokens.weight), tokens[:, 1:].flatten())
