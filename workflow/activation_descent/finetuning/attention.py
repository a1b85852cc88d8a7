"""The inside of every attention of a language model: to look at, and to replace.

    with attention_calls(model) as calls:            calls[layer].weights, .value, ...
        model.logits(tokens, prefix)
    with replaced_attention(model, replace):         replace(layer, call) -> head outputs, or None
        model.logits(tokens, prefix)

Both may be nested; an inner one sees what an outer one made of the outputs. Both may be opened inside `torch.func.vmap` and around
`torch.func.functional_call`, as long as what they saw is returned from the mapped function. Under vmap they also save time: attention is
then plain matrix products, and transformers' own, a fused kernel, is computed for one element of the map after the other.

GPT-2, NeoX, OPT and Llama call an attention function that transformers lets one register. GPT-Neo and XGLM compute attention in their own
modules; there queries, keys and values are those of their projections and of the cache, and the head outputs are exchanged where they
enter the output projection.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from activation_descent.language.models import PARTS, LanguageModel

NAME = "activation_descent"  # of the attention function, as transformers knows it
HANDLERS = "attention_handlers"  # attribute of an attention that is watched
UNREGISTERED = ("gpt_neo", "xglm")  # families that call no registered function


@dataclass(frozen=True)
class AttentionCall:
    """What one attention read and gave, head by head. `output = softmax(scale query key^T + mask) value`.

    Attributes:
        query: after any rotation.
        key, value: after any rotation; grouped heads are repeated, and a prefix stands in front.
        scale: what multiplies the products of queries and keys.
        mask: 0 where a token may look and the lowest number elsewhere; GPT-Neo's local window included.
        output: of the heads, before the output projection.
    """

    query: Float[Tensor, "batch head token feature"]
    key: Float[Tensor, "batch head source feature"]
    value: Float[Tensor, "batch head source feature"]
    scale: float
    mask: Float[Tensor, "#batch 1 token source"]
    output: Float[Tensor, "batch head token feature"]

    @property
    def logits(self) -> Float[Tensor, "batch head token source"]:
        """Before mask and softmax (the attention map of Dai et al. 2022)."""
        return self.scale * self.query @ self.key.mT

    @property
    def weights(self) -> Float[Tensor, "batch head token source"]:
        """After mask and softmax; rows sum to one."""
        return (self.logits + self.mask).softmax(dim=-1)


Handler = Callable[[int, AttentionCall], Tensor | None]


@contextmanager
def attention_calls(model: LanguageModel) -> Iterator[dict[int, AttentionCall]]:
    """Every attention's last call, by layer. Gradients flow through what is kept."""
    calls: dict[int, AttentionCall] = {}
    with _handled(model, calls.__setitem__):
        yield calls


@contextmanager
def replaced_attention(model: LanguageModel, replace: Handler) -> Iterator[None]:
    """Head outputs of another making.

    Args:
        replace: gives the head outputs (batch, head, token, feature) of a layer, or None to leave them as they are.
    """
    with _handled(model, replace):
        yield


@contextmanager
def _handled(model: LanguageModel, handler: Handler) -> Iterator[None]:
    with ExitStack() as undo:
        for layer in range(model.layers):
            attention = model._attention(layer)
            handlers = attention.__dict__.setdefault(HANDLERS, [])
            if model.family in UNREGISTERED and not handlers:
                _watch_modules(model, layer, undo)
            handlers.append((layer, handler))
            undo.callback(handlers.pop)
        if model.family not in UNREGISTERED:
            _register()
            config = model.network.config
            undo.callback(setattr, config, "_attn_implementation", config._attn_implementation)
            config._attn_implementation = NAME
        yield


def _attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Tensor) -> Tensor:
    """Head outputs of an attention, after every handler has had its say."""
    output = (scale * query @ key.mT + mask).softmax(dim=-1) @ value
    for layer, handler in getattr(module, HANDLERS):
        changed = handler(layer, AttentionCall(query, key, value, scale, mask, output))
        output = output if changed is None else changed
    return output


# Families that call a registered function


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(NAME, _registered)
    AttentionMaskInterface.register(NAME, eager_mask)  # other kinds of masks are left out where attention is plainly causal


def _registered(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float, **named: Any
) -> tuple[Tensor, None]:
    """Attention as transformers asks for it; the output is (batch, token, head, feature)."""
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, dim=1) if groups > 1 else x for x in (key, value))
    return _attend(module, query, key, value, scaling, mask).transpose(1, 2), None


# Families that compute attention in their own modules


def _watch_modules(model: LanguageModel, layer: int, undo: ExitStack) -> None:
    attention = model._attention(layer)
    projections = [attention.get_submodule(path) for path in model.layout.projections]
    seen: dict[str, Any] = {}
    watching = ExitStack()

    def watch(module: nn.Module, arguments: tuple, named: dict) -> None:
        seen.update(named)
        # Only now, so that this hook is the last one and sees what others make of a projection
        for part, projection in zip(PARTS, projections, strict=True):
            watching.callback(projection.register_forward_hook(keep_output(part)).remove)

    def keep_output(part: str) -> Callable:
        def hook(module: nn.Module, arguments: tuple, output: Tensor) -> None:
            seen[part] = output.unflatten(-1, (model.heads, -1)).transpose(1, 2)

        return hook

    def exchange(module: nn.Module, arguments: tuple) -> tuple:
        watching.close()
        output = _attend(attention, *_pieces(model.family, attention, layer, seen))
        seen.clear()
        return (output.transpose(1, 2).flatten(2),)

    undo.callback(attention.register_forward_pre_hook(watch, with_kwargs=True).remove)
    undo.callback(attention.get_submodule(model.layout.output).register_forward_pre_hook(exchange).remove)
    undo.callback(watching.close)


def _pieces(family: str, attention: nn.Module, layer: int, seen: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor, float, Tensor]:
    """Query, key, value, scale and mask of an attention that is about to project its head outputs."""
    query, key, value, mask = seen["query"], seen["key"], seen["value"], seen["attention_mask"]
    cache = seen.get("past_key_values" if family == "xglm" else "layer_past")
    if cache is not None:  # already holds what the projections gave
        key, value = cache.layers[layer].keys, cache.layers[layer].values
    if family == "xglm":
        return query, key, value, attention.scaling, mask
    tokens, sources = query.shape[2], key.shape[2]
    window = attention.bias[:, :, sources - tokens : sources, :sources]
    return query, key, value, 1.0, mask.masked_fill(~window, torch.finfo(mask.dtype).min)
