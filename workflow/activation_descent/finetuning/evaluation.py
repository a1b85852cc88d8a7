"""What a network and its copies make of queries: label words' logits, and what the comparisons with in-context learning look at.

A query is read together with the label word of class 0, whatever its own label, because two positions are recorded: "query", the last
token of the query, which predicts the label; and "dai", the label word after it, where the code of Dai et al. (2022) records (their
predictions come from the token before).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from activation_descent.finetuning.attention import attention_calls
from activation_descent.finetuning.copies import Deltas, Masks, Sequences, shifted, take
from activation_descent.finetuning.descent import PUBLISHED, Recipe, row_losses, trajectory
from activation_descent.language.models import LanguageModel, Prefix

POSITIONS = ("query", "dai")
TOKENS_AT_ONCE = 2048  # of one forward pass: larger ones leave the processor's caches
ATTENDED_AT_ONCE = 2**14  # the same with the tokens of a prompt, whose keys and values every row holds


@dataclass(frozen=True)
class States:
    """What was recorded of each run's queries, at both of `POSITIONS`.

    Attributes:
        logits: of the label words at the predicting token.
        inputs: what the projections read (normalised where the family normalises first).
        queries: what the query projection gives, scaled as the attention scales it, before any rotation.
        outputs: what the attention adds to the stream, after its output projection and bias.
        scores: attention logits, scaled, before mask and softmax, for the query's own tokens: without begin token and prompt, and at "dai"
            with the label word. Zero where there is no such token.
        own: which entries of the scores are tokens.
        prompt_scores: the same for the tokens of the prompt, begin token included, summed over heads; zero beyond the prompt's end.
    """

    logits: Float[Tensor, "run query label"]
    inputs: Float[Tensor, "run query position layer feature"]
    queries: Float[Tensor, "run query position layer projected"]
    outputs: Float[Tensor, "run query position layer feature"]
    scores: Float[Tensor, "run query position layer head token"]
    own: Bool[Tensor, "run query position token"]
    prompt_scores: Float[Tensor, "run query position layer prompt"]


def label_logits(
    model: LanguageModel,
    queries: Sequences,
    labels: Int[Tensor, "run label"],
    deltas: Mapping[str, Tensor] | None = None,
    prompts: Sequence[Sequence[int]] | None = None,
) -> Float[Tensor, "run query label"]:
    """Logits of the label words after each query.

    Args:
        labels: tokens of each run's label words.
        deltas: what each run adds to the parameters, if anything.
        prompts: begin token and demonstrations of each run, in place of the queries' context. Read once a run.
    """

    def read(tokens: Tensor, lengths: Tensor, context: int, prefix: Prefix | None, words: Tensor) -> dict[str, Tensor]:
        return {"logits": model.logits(tokens, prefix, lengths - 1).gather(1, words)}

    return _over_runs(model, queries, labels, deltas, prompts, read)["logits"]


def read_states(
    model: LanguageModel,
    queries: Sequences,
    labels: Int[Tensor, "run label"],
    deltas: Mapping[str, Tensor] | None = None,
    prompts: Sequence[Sequence[int]] | None = None,
) -> States:
    """Everything that is compared, from one forward pass. Arguments as of `label_logits`."""

    def read(tokens: Tensor, lengths: Tensor, context: int, prefix: Prefix | None, words: Tensor) -> dict[str, Tensor]:
        row, ends = torch.arange(len(tokens))[:, None], torch.stack([lengths - 1, lengths], dim=1)  # row position
        tokens = F.pad(tokens, (0, 1)).scatter(1, lengths[:, None], words[:, :1])
        seen: dict[str, list[Tensor]] = {"inputs": [], "queries": [], "outputs": []}

        def keep(name: str, tensor: Tensor) -> None:
            seen[name].append(tensor.reshape(*tokens.shape, -1)[row, ends])  # OPT flattens in some versions of transformers

        with _watched(model, keep), attention_calls(model) as calls:
            logits = model.logits(tokens, prefix, lengths - 1)
        scores = []
        for layer in range(model.layers):
            call = calls[layer]
            seen["queries"][layer] = call.scale * seen["queries"][layer]
            scores.append(
                call.scale * call.query.transpose(1, 2)[row, ends].transpose(1, 2) @ call.key.mT
            )  # row head position source
        before = context + (len(prefix.tokens) if prefix else 0)
        every = torch.stack(scores).permute(1, 3, 0, 2, 4)  # row position layer head source
        own = torch.arange(context, tokens.shape[1]) <= ends[..., None]
        return {
            "logits": logits.gather(1, words),
            "scores": every[..., before:] * own[:, :, None, None],
            "own": own,
            "prompt_scores": every[..., :before].sum(3),
            **{name: torch.stack(tensors, dim=2) for name, tensors in seen.items()},
        }

    return States(**_over_runs(model, queries, labels, deltas, prompts, read))


@dataclass(frozen=True)
class Training:
    """What fine-tuning met at every token of each demonstration, just before it took its step; at padding nothing that means anything.

    Attributes:
        inputs: what the projections read.
        queries: scaled, as of `States`.
        errors: length of the error signal of the value projection, `|-rate dL / d(W_V x)|`.
    """

    inputs: Float[Tensor, "run demonstration token layer feature"]
    queries: Float[Tensor, "run demonstration token layer projected"]
    errors: Float[Tensor, "run demonstration token layer"]


def read_training(
    model: LanguageModel,
    demonstrations: Sequences,
    masks: Masks,
    rates: Float[Tensor, " run"],
    recipe: Recipe = PUBLISHED,
    labels: Int[Tensor, "run label"] | None = None,
) -> Training:
    """The training side of Dai et al.'s Kendall correlations (2022), of one pass of sequential descent. Arguments as of `descend`."""
    runs, number, longest = demonstrations.tokens.shape
    every: list[tuple[Tensor, ...]] = []
    for place, deltas in zip(range(number), trajectory(model, demonstrations, masks, rates, recipe, labels), strict=False):
        seen: dict[str, list[Tensor]] = {"inputs": [], "queries": []}

        def keep(name: str, tensor: Tensor, seen: dict[str, list[Tensor]] = seen) -> None:
            if name in seen:
                seen[name].append(tensor.detach().reshape(runs, longest, -1))

        tokens, lengths = demonstrations.tokens[:, place], demonstrations.lengths[:, place]
        with torch.enable_grad(), shifted(model, deltas), _watched(model, keep), attention_calls(model) as calls:
            logits = model.network(input_ids=tokens, use_cache=False).logits
            losses = row_losses(logits, tokens, lengths, demonstrations.context, recipe.loss, labels)
            gradients = torch.autograd.grad(losses.sum(), [calls[layer].value for layer in range(model.layers)])
        errors = [
            _of_projection(model, layer, gradient).norm(dim=2) * rates.abs()[:, None] for layer, gradient in enumerate(gradients)
        ]
        queries = [calls[layer].scale * queries for layer, queries in enumerate(seen["queries"])]
        every.append(tuple(torch.stack(layers, dim=2) for layers in (seen["inputs"], queries, errors)))
    return Training(*(torch.stack(steps, dim=1) for steps in zip(*every, strict=True)))


def _of_projection(
    model: LanguageModel, layer: int, gradient: Float[Tensor, "run head token feature"]
) -> Float[Tensor, "run token output"]:
    """The derivative by what the value projection gives, from that by each head's values; heads that share one add up."""
    _, heads, _, width = gradient.shape
    shared = heads * width // len(model.projection(layer, "value").rows)
    return gradient.unflatten(1, (-1, shared)).sum(2).transpose(1, 2).flatten(2)


def cross_entropy(logits: Float[Tensor, "run query label"], truth: Int[Tensor, "run query"]) -> Float[Tensor, " run"]:
    """Mean of -log p(own label) among the label words, in nats."""
    return F.cross_entropy(logits.transpose(1, 2), truth, reduction="none").mean(1)


def accuracy(logits: Float[Tensor, "run query label"], truth: Int[Tensor, "run query"]) -> Float[Tensor, " run"]:
    """Share of the queries whose own label has the largest logit among the label words."""
    return (logits.argmax(dim=2) == truth).float().mean(1)


def _watched(model: LanguageModel, keep: Callable[[str, Tensor], None]) -> ExitStack:
    """Hooks that hand over `inputs`, `queries` and `outputs` of every layer's attention, layer after layer."""
    hooks = ExitStack()
    for layer, block in enumerate(model.blocks):
        projection = model.projection(layer, "query")
        output = block.get_submodule(f"{model.layout.attention}.{model.layout.output}")

        def projected(module: nn.Module, arguments: tuple, result: Tensor, rows: Tensor = projection.rows) -> None:
            keep("inputs", arguments[0])
            keep("queries", result[..., rows])

        hooks.callback(projection.module.register_forward_hook(projected).remove)
        hooks.callback(output.register_forward_hook(lambda _, __, result: keep("outputs", result)).remove)
    return hooks


@torch.no_grad()
def _over_runs(
    model: LanguageModel,
    queries: Sequences,
    labels: Int[Tensor, "run label"],
    deltas: Mapping[str, Tensor] | None,
    prompts: Sequence[Sequence[int]] | None,
    read: Callable[[Tensor, Tensor, int, Prefix | None, Tensor], dict[str, Tensor]],
) -> dict[str, Tensor]:
    """Read the rows of all runs: several runs at once, or one run's rows part by part, or behind one prompt after the other."""
    runs, number, longest = queries.tokens.shape
    together = 1 if prompts else max(1, TOKENS_AT_ONCE // (number * longest))
    results = []
    for start in range(0, runs, together):
        some = queries.runs(slice(start, start + together))
        own: Deltas = take(deltas, slice(start, start + together)) if deltas else {}
        pieces = []
        # Rows without a prompt are short, and for those plain products are faster than the fused kernel
        with shifted(model, own), nullcontext() if prompts else _eager_attention(model):
            prefix = model.encode_prefix(prompts[start]) if prompts else None
            skipped = queries.context if prefix else 0  # the prompt has a begin token of its own
            part = min(TOKENS_AT_ONCE // longest, ATTENDED_AT_ONCE // (longest + (len(prefix.tokens) if prefix else 0)))
            for first in range(0, number, max(1, part)):
                rows = slice(first, first + max(1, part))
                tokens, lengths = some.tokens[:, rows].flatten(0, 1), some.lengths[:, rows].flatten()
                words = labels[start : start + together].repeat_interleave(tokens.shape[0] // len(some.tokens), dim=0)
                found = read(tokens[:, skipped:], lengths - skipped, queries.context - skipped, prefix, words)
                pieces.append({name: tensor.unflatten(0, (len(some.tokens), -1)) for name, tensor in found.items()})
        results.append({name: torch.cat([piece[name] for piece in pieces], dim=1) for name in pieces[0]})
    longest = max((result["prompt_scores"].shape[-1] for result in results if "prompt_scores" in result), default=0)
    for result in results:
        if "prompt_scores" in result:
            result["prompt_scores"] = F.pad(result["prompt_scores"], (0, longest - result["prompt_scores"].shape[-1]))
    return {name: torch.cat([result[name] for result in results]) for name in results[0]}


@contextmanager
def _eager_attention(model: LanguageModel) -> Iterator[None]:
    config = model.network.config
    usual, config._attn_implementation = config._attn_implementation, "eager"
    try:
        yield
    finally:
        config._attn_implementation = usual
