"""Causal language models by name, through one small interface.

    embedded:<size>   trained here (a folder, passed in)
    a path            a local folder that transformers can load
    anything else     an id on a hub

Six families are known: GPT-2, GPT-Neo, Pythia (NeoX), OPT, Llama and XGLM (the port of the fairseq models of Dai et al. 2022). They
differ in where their modules stand and in how their projections are laid out; both stand in `FAMILIES` and nowhere else. Everything
is recorded by hooks on those modules, so that the numbers are those of the model's own forward pass.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from activation_descent.errors import ModelError

EMBEDDED = "embedded:"
PARTS = ("query", "key", "value")
HUB_TIMEOUT = 20  # seconds that the hub has to answer
PICKLED = (
    "a pickle can run whatever its author put into it, so convert it to safetensors, or set allow_pickle: true for this model in "
    "language.models of the configuration if you trust where it comes from"
)


@dataclass(frozen=True)
class Family:
    """Where a family keeps its modules.

    Attributes:
        blocks: path from the model to the list of its blocks.
        attention: path from a block to its attention.
        projections: paths from the attention to query, key and value; one path alone if they are fused.
        output: path from the attention to its output projection.
        norm: path from a block to the normalisation that the attention reads, where the family normalises first.
        fused: "columns" (GPT-2: [query | key | value] along the outputs) or "heads" (NeoX: query, key, value head by head).
    """

    blocks: str
    attention: str
    projections: tuple[str, ...]
    output: str
    norm: str
    fused: str = ""


FAMILIES = {
    "gpt2": Family("transformer.h", "attn", ("c_attn",), "c_proj", "ln_1", "columns"),
    "gpt_neo": Family("transformer.h", "attn.attention", ("q_proj", "k_proj", "v_proj"), "out_proj", "ln_1"),
    "gpt_neox": Family("gpt_neox.layers", "attention", ("query_key_value",), "dense", "input_layernorm", "heads"),
    "opt": Family("model.decoder.layers", "self_attn", ("q_proj", "k_proj", "v_proj"), "out_proj", "self_attn_layer_norm"),
    "llama": Family("model.layers", "self_attn", ("q_proj", "k_proj", "v_proj"), "o_proj", "input_layernorm"),
    "xglm": Family("model.layers", "self_attn", ("q_proj", "k_proj", "v_proj"), "out_proj", "self_attn_layer_norm"),
}


@dataclass(frozen=True)
class Projection:
    """One of query, key and value of one layer, `y = weight x + bias`, whatever module holds its parameters.

    Attributes:
        module: the linear layer, or GPT-2's Conv1D whose weight is stored transposed.
        rows: which of the module's outputs are this projection's.
        transposed: whether the stored weight is (input, output).
    """

    module: nn.Module
    rows: Int[Tensor, " output"]
    transposed: bool

    @property
    def weight(self) -> Float[Tensor, "output input"]:
        """The weight; gradients flow to the stored parameter."""
        stored = self.module.weight.T if self.transposed else self.module.weight
        return stored[self.rows]

    @property
    def bias(self) -> Float[Tensor, " output"] | None:
        """The bias, if there is one; gradients flow to the stored parameter."""
        return None if self.module.bias is None else self.module.bias[self.rows]

    @torch.no_grad()
    def add(self, weight: Float[Tensor, "output input"], bias: Float[Tensor, " output"] | None = None) -> None:
        """Add to the stored parameters in place; the other projections of a fused module stay as they are."""
        stored = self.module.weight.T if self.transposed else self.module.weight
        stored.index_add_(0, self.rows, weight.to(stored.dtype))
        if bias is not None:
            self.module.bias.index_add_(0, self.rows, bias.to(stored.dtype))

    def gradient(self) -> tuple[Float[Tensor, "output input"], Float[Tensor, " output"] | None]:
        """The gradients of weight and bias after a backward pass."""
        weight = self.module.weight.grad.T if self.transposed else self.module.weight.grad
        return weight[self.rows], None if self.module.bias is None else self.module.bias.grad[self.rows]


@dataclass
class Recording:
    """What one forward pass did at the recorded layers, in the order in which they were named.

    Attributes:
        logits: of the next token.
        residual: the stream that enters each recorded layer's block.
        final: the stream that leaves the last block, before the last normalisation.
        attention_input: what the projections read (normalised where the family normalises first).
        queries, keys, values: outputs of the projections, before any rotation, scaling or split into heads.
        attention_output: what the attention adds to the stream, after its output projection and bias.
    """

    logits: Float[Tensor, "batch token word"]
    residual: Float[Tensor, "layer batch token feature"]
    final: Float[Tensor, "batch token feature"]
    attention_input: Float[Tensor, "layer batch token feature"]
    queries: Float[Tensor, "layer batch token query"]
    keys: Float[Tensor, "layer batch token key"]
    values: Float[Tensor, "layer batch token key"]
    attention_output: Float[Tensor, "layer batch token feature"]


@dataclass(frozen=True)
class Prefix:
    """Tokens that many inputs begin with, and what later tokens read of them. Never changed by use."""

    tokens: tuple[int, ...]
    layers: tuple[tuple[Tensor, Tensor], ...]  # keys and values, (1, head, token, feature) each

    def first(self, length: int) -> "Prefix":
        """The beginning of the prefix, in which no later token has a part."""
        layers = tuple((keys[:, :, :length], values[:, :, :length]) for keys, values in self.layers)
        return Prefix(self.tokens[:length], layers)


class LanguageModel:
    """A causal language model with its tokenizer.

    Attributes:
        name: as it was asked for.
        family: key of `FAMILIES`.
        layers, heads, width: blocks, query heads, features of the residual stream.
        context_length: tokens that an input may have.
    """

    def __init__(self, name: str, network: nn.Module, tokenizer: Any):
        self.name, self.network, self.tokenizer = name, network.eval(), tokenizer
        config = network.config
        self.family = config.model_type
        self.layout = FAMILIES[self.family]
        self.blocks = _follow(network, self.layout.blocks)
        self.layers, self.heads, self.width = len(self.blocks), config.num_attention_heads, config.hidden_size
        self.context_length = config.max_position_embeddings
        self.parameters = sum(parameter.numel() for parameter in network.parameters())

    # Words and tokens

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, without the begin and end tokens of the tokenizer."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def label_token(self, word: str) -> int:
        """The one token of a label word where it follows a text and a space.

        Raises:
            ModelError: if the vocabulary has no such token.
        """
        tokens = self.encode(f" {word}")
        if len(tokens) != 1 or tokens[0] == self.tokenizer.unk_token_id:
            pieces = " + ".join(repr(self.tokenizer.decode([token])) for token in tokens)
            raise ModelError(
                f"model {self.name}: the label word '{word}' is not one token of its vocabulary but {pieces or 'nothing'}"
            )
        return tokens[0]

    @property
    def begin(self) -> list[int]:
        """What an input starts with: the tokenizer's begin token, if it has one."""
        return [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]

    # Forward passes

    def logits(
        self,
        tokens: Int[Tensor, "batch token"],
        prefix: Prefix | None = None,
        at: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch token word"] | Float[Tensor, "batch word"]:
        """Logits of the next token at each position. Inputs of several lengths are padded at their end, where padding changes nothing
        before it.

        Args:
            prefix: what stands before the tokens, see `encode_prefix`.
            at: one position for each input. Only there are logits computed, which saves most of the time where the vocabulary is large.
        """
        arguments = {"input_ids": tokens} | (
            self._behind(prefix, tokens.shape) if prefix and prefix.tokens else {"use_cache": False}
        )
        if at is None:
            return self.network(**arguments).logits
        states = self.network.base_model(**arguments).last_hidden_state
        return self.network.get_output_embeddings()(states[torch.arange(len(tokens)), at])

    def _behind(self, prefix: Prefix, shape: tuple[int, int]) -> dict[str, Any]:
        """What tells the network that its input stands behind a prefix."""
        from transformers import DynamicCache

        number, length = shape
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(prefix.layers):
            cache.update(keys, values, layer)
            shared = cache.layers[layer]  # a view: `update` would copy the prefix for each input, and once more with what follows
            shared.keys, shared.values = keys.expand(number, -1, -1, -1), values.expand(number, -1, -1, -1)
        positions = torch.arange(len(prefix.tokens), len(prefix.tokens) + length).expand(number, -1)
        mask = torch.ones(number, len(prefix.tokens) + length, dtype=torch.long)
        return {"past_key_values": cache, "use_cache": True, "attention_mask": mask, "position_ids": positions}

    @torch.no_grad()
    def encode_prefix(self, tokens: Sequence[int]) -> Prefix:
        """Read the tokens, which may be none, once and keep their keys and values."""
        from transformers import DynamicCache

        if not tokens:
            return Prefix((), ())
        cache = DynamicCache()
        self.network.base_model(input_ids=torch.tensor([tokens]), past_key_values=cache, use_cache=True)
        return Prefix(tuple(tokens), tuple((layer.keys, layer.values) for layer in cache.layers))

    def record(
        self, tokens: Int[Tensor, "batch token"], layers: Sequence[int] | None = None, prefix: Prefix | None = None
    ) -> Recording:
        """One forward pass with everything that the studies look at.

        Args:
            layers: which layers to record, default all.
        """
        chosen = range(self.layers) if layers is None else layers
        seen: dict[tuple[str, int], Tensor] = {}
        with ExitStack() as hooks:

            def watch(module: nn.Module, hook: Callable) -> None:
                hooks.callback(module.register_forward_hook(hook, with_kwargs=True).remove)

            for layer in chosen:
                block, attention = self.blocks[layer], self._attention(layer)
                watch(block, keep_input(seen, ("residual", layer)))
                watch(_follow(attention, self.layout.output), keep_output(seen, ("attention_output", layer)))
                modules = [_follow(attention, path) for path in self.layout.projections]
                watch(modules[0], keep_input(seen, ("attention_input", layer)))
                for place, module in enumerate(modules):
                    watch(module, keep_output(seen, ("projected", layer, place)))
            watch(self.blocks[-1], keep_output(seen, ("final",)))
            logits = self.logits(tokens, prefix)

        shape = (*tokens.shape, -1)  # OPT projects flattened tokens in some versions of transformers

        def stack(name: str) -> Tensor:
            return torch.stack([seen[name, layer].reshape(shape) for layer in chosen])

        def projected(layer: int, part: str) -> Tensor:
            if self.layout.fused:
                return seen["projected", layer, 0].reshape(shape)[..., self.projection(layer, part).rows]
            return seen["projected", layer, PARTS.index(part)].reshape(shape)

        parts = {part: torch.stack([projected(layer, part) for layer in chosen]) for part in PARTS}
        return Recording(
            logits,
            stack("residual"),
            seen[("final",)],
            stack("attention_input"),
            parts["query"],
            parts["key"],
            parts["value"],
            stack("attention_output"),
        )

    # Parameters

    def projection(self, layer: int, part: str) -> Projection:
        """Query, key or value projection of a layer.

        Args:
            part: one of `PARTS`.
        """
        attention, place = self._attention(layer), PARTS.index(part)
        if not self.layout.fused:
            module = _follow(attention, self.layout.projections[place])
            return Projection(module, torch.arange(module.weight.shape[0]), False)
        module = _follow(attention, self.layout.projections[0])
        transposed = self.layout.fused == "columns"
        outputs = torch.arange(module.weight.shape[1 if transposed else 0])
        if transposed:
            return Projection(module, outputs.view(3, -1)[place], True)
        return Projection(module, outputs.view(self.heads, 3, -1)[:, place].flatten(), False)

    def output_weight(self, layer: int) -> Float[Tensor, "head_feature feature"]:
        """W_O of a layer as (input, output): the heads' outputs side by side, times it, are what the attention adds but for a bias."""
        module = _follow(self._attention(layer), self.layout.output)
        return module.weight if self.layout.fused == "columns" else module.weight.T

    @property
    def width_of_head(self) -> int:
        """Features of a head's queries."""
        return len(self.projection(0, "query").rows) // self.heads

    def _attention(self, layer: int) -> nn.Module:
        return _follow(self.blocks[layer], self.layout.attention)


def _follow(module: Any, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name)
    return module


def keep_input(seen: dict, key: tuple) -> Callable:
    """A forward hook that keeps what a module reads."""

    def hook(module: nn.Module, arguments: tuple, named: dict, output: Any) -> None:
        seen[key] = arguments[0] if arguments else named["hidden_states"]

    return hook


def keep_output(seen: dict, key: tuple) -> Callable:
    """A forward hook that keeps what a module gives, gradients included."""

    def hook(module: nn.Module, arguments: tuple, named: dict, output: Any) -> None:
        seen[key] = output[0] if isinstance(output, tuple) else output

    return hook


def load(name: str, folder: Path | None = None, allow_pickle: bool = False) -> LanguageModel:
    """A model and its tokenizer, in float32 on the processor. Code that comes with a model is never run.

    Args:
        name: see the head of this file.
        folder: where an embedded model was trained.
        allow_pickle: read weights that are not safetensors, too: a pickle can run whatever its author put into it.

    Raises:
        ModelError: if there is no such model, its hub is out of reach, its family is not known, it brings code or pickled weights, or its
            files are damaged; one sentence.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    source = str(folder) if name.startswith(EMBEDDED) else name
    source = str(Path(source).expanduser()) if source.startswith("~") else source
    local = name.startswith(EMBEDDED) or _is_path(name)
    if local and not Path(source).is_dir():
        raise ModelError(f"model {name}: there is no folder {source}")
    what = f"the folder {source} cannot be loaded" if local else "it could not be fetched from the hub"
    options = {"local_files_only": local or not _answers(name), "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(source, **options)
        if getattr(config, "auto_map", None):
            raise ModelError(f"model {name}: its config.json asks for code of its own (auto_map), which is never run")
        if config.model_type not in FAMILIES:
            raise ModelError(f"model {name}: its family '{config.model_type}' is not one of {', '.join(FAMILIES)}")
        if local and not allow_pickle and not [*Path(source).glob("*.safetensors")] and [*Path(source).glob("*.bin")]:
            raise ModelError(f"model {name}: {source} holds pickled weights alone; {PICKLED}")
        weights = {"dtype": torch.float32, "use_safetensors": None if allow_pickle else True}
        network = AutoModelForCausalLM.from_pretrained(source, **options, **weights)
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
    except ModelError:
        raise
    except Exception as error:  # transformers, the hub and their network libraries raise a dozen types
        reason = " ".join(str(error).split())[:300]
        pickled = f"; {PICKLED}" if "safetensors" in reason and not local and not allow_pickle else ""
        raise ModelError(f"model {name}: {what}: {reason}{pickled}") from error
    return LanguageModel(name, network, tokenizer)


def _answers(name: str) -> bool:
    """Whether the hub says anything of a model in time: otherwise each of its files would be waited for, and what is on this machine must
    do."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi().model_info(name, timeout=HUB_TIMEOUT)
    except HfHubHTTPError:  # an answer, if not the one that was hoped for; loading says which
        return True
    except Exception:  # offline, or no answer: the network libraries raise a dozen types
        return False
    return True


def _is_path(name: str) -> bool:
    """Whether a name is a folder's; ids on a hub have one slash or none."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or Path(name).is_dir()
