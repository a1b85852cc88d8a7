"""Residual states of language models: what enters each block, what leaves the last one, and what the model makes of changed ones.

States are recorded by hooks on the blocks, because the last entry of transformers' `hidden_states` has been through the last
normalisation, and a lens that normalised it again would be wrong. Blocks return a tensor or a tuple, by family and release; both are read.
Key-value caches are off: a layer that stands twice in a model would share one slot of the cache with itself and see wrong keys.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor, nn

from activation_descent.errors import DataError, ModelError
from activation_descent.language.tasks import Task
from activation_descent.lens.readout import Batch, Unembedding

Recorded = Float[Tensor, "seed depth row token feature"]  # depth: h_0 to h_L
Rows = Float[Tensor, "seed row token feature"]
Tokens = Int[Tensor, "seed row token"]

# Last normalisations by the names that families give them, looked up in the base model and in its decoder
FINAL_NORMS = ("ln_f", "final_layer_norm", "norm", "layer_norm")
TOLERANCE = 1e-4  # of logits, relative to their spread; float32 leaves about 1e-6


@runtime_checkable
class Subject(Protocol):
    """What the study looks at: one language model, read on several streams of tokens, or several seeds of one kind."""

    @property
    def unembedding(self) -> Unembedding:
        """Of each seed."""
        ...

    @property
    def layers(self) -> int:
        """L."""
        ...

    def record(self, tokens: Tokens) -> Recorded:
        """h_0 to h_L."""
        ...

    def resume(self, tokens: Tokens, layer: int, states: Rows) -> Rows:
        """h_L when `states` enter block `layer` in the place of its own."""
        ...


def batch_of(subject: Subject, tokens: Tokens) -> Batch:
    """States and predictions at every position that has a next token, row after row."""
    with torch.no_grad():
        recorded = subject.record(tokens)[:, :, :, :-1].flatten(2, 3)
        unembedding = subject.unembedding
        final = torch.cat([unembedding.logits(recorded[:, -1:, part]) for part in _parts(recorded.shape[2])], 2)[:, 0].softmax(-1)
    return Batch(recorded[:, :-1], final, tokens[:, :, 1:].flatten(1))


def _parts(tokens: int, size: int = 1024) -> Iterator[slice]:
    return (slice(first, first + size) for first in range(0, tokens, size))


class Network:
    """A causal language model of transformers, read on `seeds` streams of tokens.

    Raises:
        ModelError: if its blocks or last normalisation cannot be found, or its logits are not the unembedding of its last state.
    """

    def __init__(self, network: nn.Module, name: str, seeds: int = 1):
        self.network, self.name = network.eval(), name
        self.blocks = blocks_of(network, name)
        self.single = unembedding_of(network, name)
        unembedding = self.single
        self._unembedding = Unembedding(
            unembedding.weight.expand(seeds, -1, -1),
            unembedding.bias.expand(seeds, -1),
            unembedding.norm,
            unembedding.epsilon,
        )

    @property
    def unembedding(self) -> Unembedding:
        """The same for each stream of tokens."""
        return self._unembedding

    @property
    def layers(self) -> int:
        """L, blocks of the model."""
        return len(self.blocks)

    @torch.no_grad()
    def record(self, tokens: Tokens) -> Recorded:
        """h_0 to h_L, by hooks on the blocks."""
        states, _ = recorded(self.network, self.blocks, tokens.flatten(0, 1))
        return states.unflatten(1, tokens.shape[:2]).transpose(0, 1)

    @torch.no_grad()
    def resume(self, tokens: Tokens, layer: int, states: Rows) -> Rows:
        """h_L when `states` enter block `layer`."""
        if layer == self.layers:
            return states
        flat = states.flatten(0, 1)
        return _last_state(self.network, self.blocks, tokens.flatten(0, 1), layer, flat).view(states.shape)


def blocks_of(network: nn.Module, name: str) -> nn.ModuleList:
    """A model's blocks: the list of as many modules as its configuration counts layers.

    Raises:
        ModelError: if there is none.
    """
    layers = network.config.num_hidden_layers
    for module in network.base_model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == layers:
            return module
    raise ModelError(f"model {name}: it has no list of {layers} blocks to read states from")


def recorded(
    network: nn.Module, blocks: nn.ModuleList, tokens: Int[Tensor, "row token"]
) -> tuple[Float[Tensor, "depth row token feature"], Float[Tensor, "row token word"]]:
    """h_0 to h_L and the logits of one forward pass."""
    entered: list[Tensor] = []
    left: list[Tensor] = []

    def entering(module: nn.Module, arguments: tuple, named: dict[str, Any]) -> None:
        entered.append(arguments[0] if arguments else named["hidden_states"])

    def leaving(module: nn.Module, arguments: tuple, output: Any) -> None:
        left.append(output[0] if isinstance(output, tuple) else output)

    with ExitStack() as hooks:
        for block in dict.fromkeys(blocks):  # a block that stands twice has one hook, which it calls twice
            hooks.callback(block.register_forward_pre_hook(entering, with_kwargs=True).remove)
        hooks.callback(blocks[-1].register_forward_hook(leaving).remove)
        logits = network(input_ids=tokens, use_cache=False).logits
    return torch.stack([*entered, left[-1]]), logits


def _last_state(
    network: nn.Module, blocks: nn.ModuleList, tokens: Int[Tensor, "row token"], layer: int, states: Tensor
) -> Tensor:
    """h_L when other states enter a block. Earlier blocks run on the model's own and are not heard."""
    found: list[Tensor] = []

    def replace(module: nn.Module, arguments: tuple, named: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        if arguments:
            return (states, *arguments[1:]), named
        return arguments, named | {"hidden_states": states}

    def leaving(module: nn.Module, arguments: tuple, output: Any) -> None:
        found.append(output[0] if isinstance(output, tuple) else output)

    with ExitStack() as hooks:
        hooks.callback(blocks[layer].register_forward_pre_hook(replace, with_kwargs=True).remove)
        hooks.callback(blocks[-1].register_forward_hook(leaving).remove)
        network.base_model(input_ids=tokens, use_cache=False)
    return found[-1]


def unembedding_of(network: nn.Module, name: str) -> Unembedding:
    """Last normalisation and unembedding of a model, held against its own logits.

    Raises:
        ModelError: if the model has no last normalisation (OPT-350m), projects its last state, or has logits that are not the
            unembedding of its normalised last state (Gemma-2 bends them).
    """
    base = network.base_model
    norm = next((module for holder in (base, getattr(base, "decoder", None)) for module in [_norm_in(holder)] if module), None)
    if norm is None:
        raise ModelError(f"model {name}: it has no last normalisation, so no lens can read its layers as its own head does")
    head = network.get_output_embeddings()
    weight = head.weight.detach().float()
    bias = weight.new_zeros(len(weight)) if head.bias is None else head.bias.detach().float()
    scale = norm.weight.detach().float()
    if isinstance(norm, nn.LayerNorm):
        kind, epsilon, shift = "layer", norm.eps, norm.bias
    else:
        kind, epsilon, shift = "rms", getattr(norm, "variance_epsilon", getattr(norm, "eps", 1e-6)), None
    if scale.shape[0] != weight.shape[1]:
        raise ModelError(f"model {name}: it projects its last state before the unembedding, so no lens can read its layers")
    if shift is not None:
        bias = bias + weight @ shift.detach().float()
    unembedding = Unembedding((weight * scale)[None], bias[None], kind, epsilon)
    length = min(16, network.config.max_position_embeddings)
    probe = torch.arange(length)[None] % len(weight)
    with torch.no_grad():
        states, logits = recorded(network, blocks_of(network, name), probe)
        read = unembedding.logits(states[-1:])[0]
    apart, spread = float((read[0] - logits[0]).abs().max()), float(logits.std())
    if apart > TOLERANCE * max(spread, 1.0):
        raise ModelError(
            f"model {name}: its logits are not the unembedding of its normalised last state (they differ by {apart:.2g}), so lenses "
            "cannot read its layers"
        )
    return unembedding


def _norm_in(module: nn.Module | None) -> nn.Module | None:
    return next((found for name in FINAL_NORMS if (found := getattr(module, name, None)) is not None), None)


# Tokens


def text_rows(
    encode: Callable[[str], list[int]], end: int | None, tasks: Sequence[Task], parts: Sequence[str], length: int
) -> Int64[np.ndarray, "row token"]:
    """Texts of real sets as rows of tokens: joined by the end token, cut to one length, the ragged rest dropped (Belrose et al. 2023).

    Args:
        end: the tokenizer's end token, if it has one.
        parts: pools of the tasks to take texts from.

    Raises:
        DataError: if they do not fill a row.
    """
    texts = [example.text for task in tasks for part in parts for example in getattr(task, part)]
    tokens = [token for text in texts for token in (*encode(text), *([] if end is None else [end]))]
    rows = len(tokens) // length
    if not rows:
        names, pools = ", ".join(task.name for task in tasks), " and ".join(parts)
        raise DataError(f"data sets {names}: their {pools} texts have {len(tokens)} tokens, too few for a row of {length}")
    return np.array(tokens[: rows * length], dtype=np.int64).reshape(rows, length)
