"""The embedded model's forward pass for training: what transformers computes, in fewer and larger operations.

Llama (Touvron et al. 2023): blocks of rotary attention and a gated MLP, each behind a root-mean-square normalisation. The weights are
those of the `LlamaForCausalLM` that is saved. On one core about twice as fast as its own forward pass, because the rotation of queries and
keys is part of the projection: `R(p) W x = cos(p) W x + sin(p) (S W) x`, with S the signed permutation that swaps the halves of a head.
"""

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from jaxtyping import Float, Int
from torch import Tensor, nn


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


def forward(
    network: nn.Module, tokens: Int[Tensor, "row token"], tables: tuple[Tensor, Tensor]
) -> Float[Tensor, "row token word"]:
    """Logits of the next token at each position, equal to `network(tokens).logits`.

    Args:
        network: a `LlamaForCausalLM` with as many key heads as query heads and tied embeddings.
        tables: see `rotary_tables`.
    """
    config = network.config
    heads, width, (rows, length) = config.num_attention_heads, config.hidden_size, tokens.shape
    cos, sin = (table[:length, None, None] for table in tables)  # token 1 1 feature
    x = F.embedding(tokens, network.model.embed_tokens.weight).view(rows * length, width)
    for block in network.model.layers:
        attention, mlp = block.self_attn, block.mlp
        query, key = attention.q_proj.weight, attention.k_proj.weight
        weight = torch.cat([query, key, _swapped(query, heads), _swapped(key, heads), attention.v_proj.weight])
        projected = F.linear(_normalise(x, block.input_layernorm), weight).view(rows, length, 5, heads, width // heads)
        rotated = torch.addcmul(projected[:, :, :2] * cos, projected[:, :, 2:4], sin)
        q, k, v = (part.transpose(1, 2) for part in (*rotated.unbind(2), projected[:, :, 4]))  # row head token feature
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(rows * length, width)
        x = torch.addmm(x, attended, attention.o_proj.weight.T)
        gate_up = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
        gate, up = F.linear(_normalise(x, block.post_attention_layernorm), gate_up).chunk(2, dim=-1)
        x = torch.addmm(x, F.silu(gate) * up, mlp.down_proj.weight.T)
    return F.linear(_normalise(x, network.model.norm), network.model.embed_tokens.weight).view(rows, length, -1)
