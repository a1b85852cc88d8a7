"""Fine-tuning on demonstrations by gradient descent (Dai et al. 2022, section 4.2 and their code), all runs at once."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from jaxtyping import Float, Int
from torch import Tensor, nn

from activation_descent.finetuning.copies import Deltas, Masks, Sequences, norms, scaled, shifted
from activation_descent.language.models import LanguageModel

LOSSES = ("all", "label", "input", "restricted", "squared", "linear")
TRAINED_AT_ONCE = 2**24  # floats of deltas, 64 MiB: what one backward pass is given


@dataclass(frozen=True)
class Recipe:
    """How a run descends; the defaults are those of Dai et al. (2022).

    Attributes:
        loss: one of `LOSSES`, see `row_losses`.
        optimiser: "sgd" (momentum 0), "adam" (beta .9 and .999) or "sign".
        passes: over the demonstrations.
        sequential: one step a demonstration in the order of the prompt; else one step a pass on the mean loss.
        layer_causal: no gradient from later layers (Deutch et al. 2024), see `_layer_causal_gradients`.
    """

    loss: str = "all"
    optimiser: str = "sgd"
    passes: int = 1
    sequential: bool = True
    layer_causal: bool = False


# Losses


def row_losses(
    logits: Float[Tensor, "row token word"],
    tokens: Int[Tensor, "row token"],
    lengths: Int[Tensor, " row"],
    context: int,
    loss: str,
    labels: Int[Tensor, "row label"] | None = None,
) -> Float[Tensor, " row"]:
    """The loss of each demonstration, whose last token is its label.

        all         mean of -log p(w_t | w_<t) over the text's tokens and the label (Dai et al. 2022, from their code)
        input       the same without the label
        label       -log p(label)
        restricted  -log p(label) among the label words
        squared     1/2 sum_c (z_c - [c is the label] + 1/C)^2, z the label words' logits, centred
        linear      -z_label

    The logits are centred for the last two because what they share, softmax does not see.

    Args:
        context: tokens before the text, of which none is a target.
        labels: tokens of the label words, for the last three.

    Raises:
        ValueError: if there is no such loss, or a row's label is not among the label words.
    """
    if loss not in LOSSES:
        raise ValueError(f"there is no loss '{loss}'; one of {', '.join(LOSSES)}")
    row, last = torch.arange(len(tokens)), lengths - 1
    if loss in ("all", "input"):
        surprise = F.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")
        target = torch.arange(1, tokens.shape[1])
        kept = (target >= context) & (target < (lengths - int(loss == "input"))[:, None])
        return (surprise * kept).sum(1) / kept.sum(1)
    predicted, answer = logits[row, last - 1], tokens[row, last]
    if loss == "label":
        return F.cross_entropy(predicted, answer, reduction="none")
    is_answer = labels == answer[:, None]
    if not is_answer.any(1).all():
        raise ValueError("a demonstration's label is not among the label words")
    z = predicted.gather(1, labels)
    if loss == "restricted":
        return -z.log_softmax(1)[is_answer]
    z = z - z.mean(1, keepdim=True)
    if loss == "squared":
        return 0.5 * (z - is_answer.float() + 1 / labels.shape[1]).square().sum(1)
    return -z[is_answer]


# Descent


PUBLISHED = Recipe()


def descend(
    model: LanguageModel,
    demonstrations: Sequences,
    masks: Masks,
    rates: Float[Tensor, " run"],
    recipe: Recipe = PUBLISHED,
    labels: Int[Tensor, "run label"] | None = None,
) -> Deltas:
    """Fine-tune every run on its demonstrations; as many runs at once as memory allows.

    Args:
        demonstrations: each ends with its label, without what separates demonstrations in a prompt.
        masks: what is trained, from `subset`.
        rates: of each run; a negative one ascends.
        labels: label words of each run, for the losses that need them.
    """
    together = max(1, TRAINED_AT_ONCE // sum(mask.numel() for mask in masks.values()))
    parts = []
    for start in range(0, len(rates), together):
        part = slice(start, start + together)
        own = None if labels is None else labels[part]
        for deltas in trajectory(model, demonstrations.runs(part), masks, rates[part], recipe, own):  # noqa: B007
            pass
        parts.append(deltas)
    return {name: torch.cat([part[name] for part in parts]) for name in masks}


def trajectory(
    model: LanguageModel,
    demonstrations: Sequences,
    masks: Masks,
    rates: Float[Tensor, " run"],
    recipe: Recipe = PUBLISHED,
    labels: Int[Tensor, "run label"] | None = None,
) -> Iterator[Deltas]:
    """The deltas of all runs before the first step and after each one; never changed afterwards. Arguments as of `descend`."""
    deltas: Deltas = {name: torch.zeros(len(rates), *mask.shape) for name, mask in masks.items()}
    number = demonstrations.lengths.shape[1]
    batches = [slice(i, i + 1) for i in range(number)] if recipe.sequential else [slice(None)]
    step = _OPTIMISERS[recipe.optimiser]()
    yield deltas
    for _ in range(recipe.passes):
        for batch in batches:
            rows = demonstrations.rows(batch)
            gradients = mean_gradients(model, rows, deltas, recipe.loss, labels)
            if recipe.layer_causal:
                gradients = _layer_causal_gradients(model, rows, deltas, masks, gradients, recipe.loss, labels)
            moves = scaled(step({name: mask * gradients[name] for name, mask in masks.items()}), -rates)
            deltas = {name: deltas[name] + move for name, move in moves.items()}
            yield deltas


def mean_gradients(
    model: LanguageModel,
    rows: Sequences,
    deltas: Deltas,
    loss: str,
    labels: Int[Tensor, "run label"] | None,
    repeats: int = 1,
) -> Deltas:
    """Each run's gradient of its rows' mean loss; with `repeats` predictions for each row, of their sum."""
    inputs = {name: delta.detach().requires_grad_() for name, delta in deltas.items()}
    _, number, _ = rows.tokens.shape
    tokens, lengths = rows.tokens.flatten(0, 1), rows.lengths.flatten()
    own = None if labels is None else labels.repeat_interleave(number * repeats, dim=0)
    with torch.enable_grad():
        with shifted(model, inputs):
            logits = model.network(input_ids=tokens, use_cache=False).logits
        repeated = (tokens.repeat_interleave(repeats, dim=0), lengths.repeat_interleave(repeats))
        losses = row_losses(logits, *repeated, rows.context, loss, own)
        # Runs share no trained parameter, so that the gradient of the sum holds each one's own
        return dict(zip(inputs, torch.autograd.grad(losses.sum() / number, list(inputs.values())), strict=True))


def _layer_causal_gradients(
    model: LanguageModel,
    rows: Sequences,
    deltas: Deltas,
    masks: Masks,
    plain: Deltas,
    loss: str,
    labels: Int[Tensor, "run label"] | None,
) -> Deltas:
    """Layer-causal gradients (Deutch et al. 2024, as their code has them), as long as the plain ones.

    Every block predicts the next token by itself, through the final normalisation and the unembedding; the losses add up, and no gradient
    leaves its block. Theirs are far longer than the plain ones, so that at one rate the two descents differ in length as well; here each
    run's step is as long as its plain one.
    """
    with ExitStack() as hooks:
        outputs: list[Tensor] = []
        for block in model.blocks:
            hooks.callback(block.register_forward_pre_hook(_detach_input, with_kwargs=True).remove)
            hooks.callback(block.register_forward_hook(lambda _, __, output: outputs.append(_state(output))).remove)
        # What leaves the last block is then normalised and unembedded: all layers' states, next to each other for each row

        def all_layers(module: nn.Module, arguments: tuple, output: Any) -> Any:
            states = torch.stack(outputs, dim=1).flatten(0, 1)
            return (states, *output[1:]) if isinstance(output, tuple) else states

        hooks.callback(model.blocks[-1].register_forward_hook(all_layers).remove)
        gradients = mean_gradients(model, rows, deltas, loss, labels, repeats=model.layers)
    lengths = [norms({name: mask * some[name] for name, mask in masks.items()}) for some in (plain, gradients)]
    return scaled(gradients, lengths[0] / lengths[1])


def _state(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def _detach_input(module: nn.Module, arguments: tuple, named: dict) -> tuple[tuple, dict]:
    if arguments:
        return (arguments[0].detach(), *arguments[1:]), named
    return arguments, named | {"hidden_states": named["hidden_states"].detach()}


def _sgd() -> Callable[[Deltas], Deltas]:
    return lambda gradients: gradients


def _sign() -> Callable[[Deltas], Deltas]:
    return lambda gradients: {name: gradient.sign() for name, gradient in gradients.items()}


def _adam(betas: tuple[float, float] = (0.9, 0.999), epsilon: float = 1e-8) -> Callable[[Deltas], Deltas]:
    """Adam (Kingma and Ba 2015) without its rate."""
    first: Deltas = {}
    second: Deltas = {}
    steps = 0

    def step(gradients: Deltas) -> Deltas:
        nonlocal steps
        steps += 1
        for name, gradient in gradients.items():
            first[name] = betas[0] * first.get(name, 0.0) + (1 - betas[0]) * gradient
            second[name] = betas[1] * second.get(name, 0.0) + (1 - betas[1]) * gradient.square()
        corrections = [1 - beta**steps for beta in betas]
        return {name: first[name] / corrections[0] / ((second[name] / corrections[1]).sqrt() + epsilon) for name in gradients}

    return step


_OPTIMISERS: dict[str, Callable[[], Callable[[Deltas], Deltas]]] = {"sgd": _sgd, "sign": _sign, "adam": _adam}
