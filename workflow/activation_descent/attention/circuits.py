"""What a head's weights do to the residual stream, from a language model or from a file that holds attention weights and nothing else.

With row vectors a head scores tokens by `x_q M x_i^T`, `M = W_Q W_K^T`, and adds `sum_i a_i x_i B`, `B = W_V W_O`. The scale of the
normalisation in front is folded into W_Q, W_K and W_V; its offset and the projections' biases, which move neither M nor B, are left out, as
is the scores' factor 1 / sqrt(d). Rotary positions turn M with the distance of the tokens: it is taken at distance zero.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from activation_descent.errors import ModelError
from activation_descent.language.models import LanguageModel

ROTARY = ("llama", "gpt_neox")
CHECKPOINT_BLOCK = "h.{}.attn.c_attn.weight"  # GPT-2's names, with or without "transformer." in front


@dataclass(frozen=True)
class Circuits:
    """The heads of a model as products of two factors each, layer after layer.

    Attributes:
        query, key: `M = query key^T`.
        value, output: `B = value output`.
        layer, head: where each stands, from 1.
        notes: what was folded and what was left out.
    """

    query: Float[Tensor, "head width rank"]
    key: Float[Tensor, "head width rank"]
    value: Float[Tensor, "head width rank"]
    output: Float[Tensor, "head rank width"]
    layer: list[int]
    head: list[int]
    notes: str

    def __len__(self) -> int:
        return len(self.layer)


@torch.no_grad()
def circuits_of_model(model: LanguageModel) -> Circuits:
    """All heads of a language model; keys and values that heads share are repeated."""
    parts: dict[str, list[Tensor]] = {"query": [], "key": [], "value": [], "output": []}
    folded = _normalises_first(model)
    for layer, block in enumerate(model.blocks):
        scale = block.get_submodule(model.layout.norm).weight.double() if folded else None
        for part in ("query", "key", "value"):
            weight = model.projection(layer, part).weight.T.double()  # input output
            weight = weight if scale is None else scale[:, None] * weight
            heads = weight.unflatten(1, (-1, model.width_of_head)).movedim(1, 0)
            parts[part].append(heads.repeat_interleave(model.heads // len(heads), dim=0))
        parts["output"].append(model.output_weight(layer).double().unflatten(0, (model.heads, -1)))
    notes = [
        "scale of the normalisation folded in" if folded else "no normalisation in front of attention",
        "rotary positions at distance zero" if model.family in ROTARY else "no rotary positions",
    ]
    places = [(layer + 1, head + 1) for layer in range(model.layers) for head in range(model.heads)]
    return Circuits(
        **{part: torch.cat(layers) for part, layers in parts.items()},
        layer=[layer for layer, _ in places],
        head=[head for _, head in places],
        notes="; ".join(notes),
    )


def _normalises_first(model: LanguageModel) -> bool:
    return getattr(model.network.config, "do_layer_norm_before", True)


def circuits_of_checkpoint(path: Path, heads: int | None = None) -> Circuits:
    """All heads of a safetensors file with GPT-2's names: `h.<layer>.attn.c_attn.weight` (width, 3 width), `h.<layer>.attn.c_proj.weight`
    (width, width) and, if there is one, `h.<layer>.ln_1.weight`. Other tensors may be missing.

    Args:
        path: the file, or a folder with a `model.safetensors`.
        heads: of a layer; without it `n_head` or `num_attention_heads` of a `config.json` beside the file.

    Raises:
        ModelError: if the file cannot be read, holds no such tensors, or their shapes do not go together; one sentence.
    """
    from safetensors import safe_open

    file = path / "model.safetensors" if path.is_dir() else path
    try:
        with safe_open(file, framework="pt") as stored:
            names = set(stored.keys())
            prefix = next((prefix for prefix in ("transformer.", "") if prefix + CHECKPOINT_BLOCK.format(0) in names), None)
            if prefix is None:
                raise ModelError(f"checkpoint {path}: there is no tensor '{CHECKPOINT_BLOCK.format(0)}'")
            heads = heads or _configured_heads(file.with_name("config.json"))
            found = []
            while prefix + CHECKPOINT_BLOCK.format(len(found)) in names:
                block = f"{prefix}h.{len(found)}"
                wanted = [f"{block}.attn.{name}.weight" for name in ("c_attn", "c_proj")]
                scale = f"{block}.ln_1.weight"
                missing = next((name for name in wanted if name not in names), None)
                if missing:
                    raise ModelError(f"checkpoint {path}: there is no tensor '{missing}'")
                tensors = [stored.get_tensor(name).double() for name in wanted]
                found.append((*tensors, stored.get_tensor(scale).double() if scale in names else None))
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"checkpoint {path} cannot be read: {' '.join(str(error).split())}") from error
    except Exception as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"checkpoint {path} cannot be read: {' '.join(str(error).split())}") from error  # safetensors' own type
    return _of_layers(path, found, heads)


def _configured_heads(config: Path) -> int:
    try:
        settings = json.loads(config.read_text(encoding="utf-8"))
        return int(settings.get("n_head") or settings["num_attention_heads"])
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"checkpoint {config.parent}: neither 'heads' nor {config.name} says how many heads a layer has"
        ) from error


def _of_layers(path: Path, layers: list[tuple[Tensor, Tensor, Tensor | None]], heads: int) -> Circuits:
    parts: dict[str, list[Tensor]] = {"query": [], "key": [], "value": [], "output": []}
    for number, (fused, output, scale) in enumerate(layers):
        width = fused.shape[0]
        if fused.shape != (width, 3 * width) or output.shape != (width, width) or width % heads:
            raise ModelError(
                f"checkpoint {path}: layer {number} has attention weights of shapes {tuple(fused.shape)} and {tuple(output.shape)}, "
                f"which are not GPT-2's for {heads} heads"
            )
        fused = fused if scale is None else scale[:, None] * fused
        for part, weight in zip(("query", "key", "value"), fused.split(width, dim=1), strict=True):
            parts[part].append(weight.unflatten(1, (heads, -1)).movedim(1, 0))
        parts["output"].append(output.unflatten(0, (heads, -1)))
    scaled = [scale is not None for *_, scale in layers]
    folded = "scale of the normalisation folded in" if all(scaled) else "no scale of a normalisation in the file"
    return Circuits(
        **{part: torch.cat(stack) for part, stack in parts.items()},
        layer=[layer + 1 for layer in range(len(layers)) for _ in range(heads)],
        head=[head + 1 for _ in layers for head in range(heads)],
        notes=f"{folded}; no rotary positions",
    )
