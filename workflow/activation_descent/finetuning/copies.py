"""Many fine-tuned copies of one network in one forward pass.

A run is one copy. What it adds to the shared parameters is its *delta*; the forward pass of all runs together is the network's own, with
hooks on the modules that have deltas: `W x + b + (dW_run x + db_run)`. So the rows of all runs share one large product with the weights
that they have in common, tied embeddings come untied where only the unembedding is trained, and whatever records the network's forward
pass works on its copies too.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from jaxtyping import Float, Int
from torch import Tensor, nn

from activation_descent.language.models import LanguageModel

Deltas = dict[str, Float[Tensor, "run ..."]]
Masks = dict[str, Float[Tensor, "..."]]

PROMPT = "prompt"  # the delta of placeholder tokens' embeddings, which is no parameter's
SUBSETS = ("key_value", "query_output", "mlp_in", "mlp_out", "biases_norms", "last_layer", "head", "prefix")
MLP = {  # where a family's block widens the stream, and where it narrows it again
    "gpt2": (("mlp.c_fc",), ("mlp.c_proj",)),
    "gpt_neo": (("mlp.c_fc",), ("mlp.c_proj",)),
    "gpt_neox": (("mlp.dense_h_to_4h",), ("mlp.dense_4h_to_h",)),
    "opt": (("fc1",), ("fc2",)),
    "llama": (("mlp.gate_proj", "mlp.up_proj"), ("mlp.down_proj",)),
    "xglm": (("fc1",), ("fc2",)),
}


@dataclass(frozen=True)
class Sequences:
    """Rows of tokens for each run, padded at their end, where causal attention makes padding harmless.

    Attributes:
        tokens: of which the first `context` are the same kind of thing in all rows: a begin token, placeholders of a soft prompt.
        lengths: tokens of each row that are no padding.
        context: tokens that no loss asks for and that do not belong to the text.
    """

    tokens: Int[Tensor, "run row token"]
    lengths: Int[Tensor, "run row"]
    context: int

    @classmethod
    def of(cls, rows: Sequence[Sequence[Sequence[int]]], context: Sequence[int]) -> "Sequences":
        """Rows of each run, equally many in all; each is read behind the tokens of the context."""
        whole = [[[*context, *row] for row in run] for run in rows]
        lengths = torch.tensor([[len(row) for row in run] for run in whole])
        longest = int(lengths.max())
        padded = [[row + [0] * (longest - len(row)) for row in run] for run in whole]
        return cls(torch.tensor(padded), lengths, len(context))

    def runs(self, index: Int[Tensor, " chosen"] | Sequence[int] | slice) -> "Sequences":
        """Those of some runs."""
        return Sequences(self.tokens[index], self.lengths[index], self.context)

    def rows(self, index: Int[Tensor, " chosen"] | slice) -> "Sequences":
        """The same rows of every run, cut to the longest that is left."""
        lengths = self.lengths[:, index]
        return Sequences(self.tokens[:, index, : int(lengths.max())], lengths, self.context)

    def with_placeholders(self, tokens: Sequence[int]) -> "Sequences":
        """Tokens put in at the end of the context: where a soft prompt stands."""
        placed = torch.tensor(tokens).expand(*self.lengths.shape, -1)
        whole = torch.cat([self.tokens[..., : self.context], placed, self.tokens[..., self.context :]], dim=-1)
        return Sequences(whole, self.lengths + len(tokens), self.context + len(tokens))


# What may be trained


def subset(model: LanguageModel, name: str, placeholders: int = 0) -> Masks:
    """The parameters that a run may train: for each a mask of ones, and of zeros at what a fused module holds besides.

    Args:
        name: one of `SUBSETS`. "key_value" are the projections to keys and values, weights and biases of all layers (Dai et al. 2022);
            "biases_norms" all vectors (BitFit, Ben Zaken et al. 2022, and gains of normalisations, which is all that some families have);
            "head" the unembedding alone, even where it is tied; "prefix" a soft prompt (Lester et al. 2021) in place of `placeholders`
            tokens, see `Sequences.with_placeholders`.

    Raises:
        ValueError: if there is no such subset.
    """
    layers = range(model.layers)
    match name:
        case "key_value":
            return _projections(model, ("key", "value"))
        case "query_output":
            outputs = [f"{model.layout.attention}.{model.layout.output}"]
            return _projections(model, ("query",)) | _parameters(model, [(block, path) for block in layers for path in outputs])
        case "mlp_in" | "mlp_out":
            paths = MLP[model.family][name == "mlp_out"]
            return _parameters(model, [(block, path) for block in layers for path in paths])
        case "last_layer":
            return _parameters(model, [(model.layers - 1, path) for path, _ in model.blocks[-1].named_modules()])
        case "biases_norms":
            named = model.network.named_parameters()
            return {name: torch.ones_like(parameter) for name, parameter in named if parameter.ndim == 1}
        case "head":
            head = model.network.get_output_embeddings()
            return {f"{_name(model, head)}.weight": torch.ones_like(head.weight)}
        case "prefix":
            return {PROMPT: torch.ones(placeholders, model.network.get_input_embeddings().embedding_dim)}
    raise ValueError(f"there is no subset '{name}' of parameters; one of {', '.join(SUBSETS)}")


def _name(model: LanguageModel, module: nn.Module) -> str:
    return next(name for name, other in model.network.named_modules() if other is module)


@torch.no_grad()
def _parameters(model: LanguageModel, places: Sequence[tuple[int, str]]) -> Masks:
    masks = {}
    for layer, path in places:
        module = model.blocks[layer].get_submodule(path)
        for leaf, parameter in module.named_parameters(recurse=False):
            masks[f"{_name(model, module)}.{leaf}"] = torch.ones_like(parameter)
    return masks


@torch.no_grad()
def _projections(model: LanguageModel, parts: Sequence[str]) -> Masks:
    masks: Masks = {}
    for layer in range(model.layers):
        for projection in (model.projection(layer, part) for part in parts):
            module = projection.module
            for leaf, parameter in module.named_parameters(recurse=False):
                mask = masks.setdefault(f"{_name(model, module)}.{leaf}", torch.zeros_like(parameter))
                (mask.T if leaf == "weight" and projection.transposed else mask)[projection.rows] = 1
    return masks


# Copies of a network


@contextmanager
def shifted(model: LanguageModel, deltas: Mapping[str, Float[Tensor, "run ..."]]) -> Iterator[None]:
    """Inside, the network reads a batch of runs, all rows of the first one first, each with the shared parameters plus its delta.

    Raises:
        ValueError: if a delta belongs to an embedding table; `PROMPT` shifts what is read from it.
    """
    by_module: dict[str, dict[str, Tensor]] = {}
    for name, delta in deltas.items():
        module, _, leaf = name.rpartition(".")
        by_module.setdefault(module, {})[leaf] = delta
    with ExitStack() as hooks:
        for name, own in by_module.items():
            if PROMPT in own:
                module, hook = model.network.get_input_embeddings(), _prompt_hook(own[PROMPT], len(model.begin))
            else:
                module = model.network.get_submodule(name)
                hook = _shift_hook(module, own)
            hooks.callback(module.register_forward_hook(hook).remove)
        yield


def _shift_hook(module: nn.Module, delta: Mapping[str, Tensor]) -> Callable:
    if isinstance(module, nn.Embedding):
        raise ValueError("an embedding table has no delta of its own; train a prompt instead")
    weight, bias = delta.get("weight"), delta.get("bias")
    is_norm = module.weight.ndim == 1
    if weight is not None and not is_norm and isinstance(module, nn.Linear):
        weight = weight.mT  # GPT-2's Conv1D keeps (input, output)
    plain = _without_parameters(module) if is_norm else None

    def hook(module: nn.Module, arguments: tuple, output: Tensor) -> Tensor:
        runs = len(next(iter(delta.values())))
        if weight is None:
            return (output.reshape(runs, -1, output.shape[-1]) + bias[:, None]).view_as(output)
        seen = plain(arguments[0]) if is_norm else arguments[0]
        seen = seen.reshape(runs, -1, seen.shape[-1])
        change = seen * weight[:, None] if is_norm else torch.bmm(seen, weight)
        if bias is not None:
            change = change + bias[:, None]
        return output + change.view_as(output)

    return hook


@torch.no_grad()
def _without_parameters(norm: nn.Module) -> nn.Module:
    """A normalisation with gains of 1 and biases of 0, and nobody else's hooks."""
    plain = deepcopy(norm).requires_grad_(False)
    plain._forward_hooks.clear()
    plain._forward_pre_hooks.clear()
    for name, parameter in plain.named_parameters():
        parameter.fill_(float(name == "weight"))
    return plain


def _prompt_hook(prompt: Float[Tensor, "run placeholder feature"], begin: int) -> Callable:
    def hook(module: nn.Module, arguments: tuple, output: Tensor) -> Tensor:
        own = prompt.repeat_interleave(len(output) // len(prompt), dim=0)
        return output + F.pad(own, (0, 0, begin, output.shape[1] - begin - own.shape[1]))

    return hook


def take(deltas: Mapping[str, Tensor], index: Int[Tensor, " chosen"] | slice) -> Deltas:
    """The deltas of some runs."""
    return {name: delta[index] for name, delta in deltas.items()}


def scaled(deltas: Mapping[str, Tensor], scale: Float[Tensor, " run"] | float) -> Deltas:
    """Each run's delta times its scale."""
    return {name: torch.as_tensor(scale).view(-1, *[1] * (delta.ndim - 1)) * delta for name, delta in deltas.items()}


def inner_product(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> Float[Tensor, " run"]:
    """Over all tensors of each run."""
    return torch.stack([(delta * second[name]).flatten(1).sum(1) for name, delta in first.items()]).sum(0)


def norms(deltas: Mapping[str, Float[Tensor, "run ..."]]) -> Float[Tensor, " run"]:
    """Euclidean norm over all tensors of a run."""
    return inner_product(deltas, deltas).sqrt()


def rounded_to_half(model: LanguageModel, deltas: Mapping[str, Tensor]) -> tuple[Deltas, Float[Tensor, " run"]]:
    """What is left of the deltas where start and end are kept in float16, as Dai et al.'s (2022) code keeps them.

    Returns:
        half(theta + delta) - half(theta), so that a delta of nothing stays nothing; and the share of the entries with a delta that it
        moves at all.
    """
    rounded, moved, trained = {}, 0, 0
    for name, delta in deltas.items():
        start = model.network.get_parameter(name).detach()
        rounded[name] = (start + delta).half().float() - start.half().float()
        moved = moved + (rounded[name] != 0).flatten(1).sum(1)
        trained = trained + (delta != 0).flatten(1).sum(1)
    return rounded, moved / trained
