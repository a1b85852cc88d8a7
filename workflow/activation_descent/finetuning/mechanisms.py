"""What in-context learning does inside its attentions, held against what gradient descent would do there.

update_parts        where a change of the predicting token comes from: the demonstrations' values, attention that they take from the
                    query's own tokens, or what these tokens have read before
error_signals       are values what the dual form takes them for, the negative gradient of a loss (Dai et al. 2022, equations 8, 9, 12)?
dose_response       does a block of demonstrations that is shown r times move a head r times as far, as a sum over demonstrations does,
                    or as far as attention that is shared out does, m(r) = r S / (r S + S_own)?
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from jaxtyping import Bool, Float, Int
from torch import Tensor

from activation_descent.finetuning.attention import AttentionCall, attention_calls, replaced_attention
from activation_descent.finetuning.patching import batches, masked_logits, splits
from activation_descent.finetuning.similarity import cosine, shuffled_cosine
from activation_descent.language.models import LanguageModel

PARTS = ("direct", "dilution", "inputs")

# Where an update comes from


@torch.no_grad()
def update_parts(
    model: LanguageModel, prompt: Sequence[int], queries: Sequence[Sequence[int]]
) -> dict[str, Float[Tensor, "layer query feature"]]:
    """The parts of h_ICL - h_ZSL, h what an attention adds to the stream at the last token of each query; they add up exactly.

    With weights a and values v behind the demonstrations D, weights b and values u without them, Q the begin token and the query's own
    tokens, and O the output projection:

        direct      O sum_D a v             the update that Dai et al. (2022, equation 12) read as W q
        dilution    O sum_Q (a - b) v       attention that the demonstrations take from Q
        inputs      O sum_Q b (v - u)       other values of Q: its tokens have read the demonstrations, and stand elsewhere

    Args:
        prompt: begin token and demonstrations.
    """
    behind, alone = (model.encode_prefix(tokens) if tokens else None for tokens in (prompt, model.begin))
    settings = ((behind, slice(len(model.begin), len(prompt))), (alone, slice(0, 0)))
    parts: dict[str, list[Tensor]] = {name: [] for name in PARTS}
    for tokens, at in batches(queries):
        seen: list[list[tuple[Tensor, ...]]] = []
        for prefix, shown in settings:
            seen.append([])
            with replaced_attention(
                model, lambda _, call, at=at, shown=shown, own=seen[-1]: own.append(_weighted(call, at, shown))
            ):
                model.logits(tokens, prefix, at)
        layers = [
            _project(model, layer, [direct, _mix(a - b, v), _mix(b, v - u)])
            for layer, ((direct, a, v), (_, b, u)) in enumerate(zip(*seen, strict=True))
        ]
        for name, part in zip(PARTS, zip(*layers, strict=True), strict=True):
            parts[name].append(torch.stack(part))
    return {name: torch.cat(part, dim=1) for name, part in parts.items()}


def _weighted(call: AttentionCall, at: Int[Tensor, " input"], shown: slice) -> tuple[Tensor, Tensor, Tensor]:
    """What heads take from the demonstrations, and weights and values of all other sources."""
    weights = masked_logits(call, at).softmax(-1)
    rest = torch.ones(weights.shape[-1], dtype=torch.bool)
    rest[shown] = False
    return _mix(weights[..., shown], call.value[:, :, shown]), weights[..., rest], call.value[:, :, rest]


def _mix(weights: Float[Tensor, "input head source"], values: Float[Tensor, "input head source feature"]) -> Tensor:
    return torch.einsum("bhs,bhsf->bhf", weights, values)


def _project(
    model: LanguageModel, layer: int, heads: Sequence[Float[Tensor, "input head part"]]
) -> list[Float[Tensor, "input feature"]]:
    """Head outputs through the output projection, without its bias."""
    module = model._attention(layer).get_submodule(model.layout.output)
    rows = [head.flatten(1) for head in heads]
    bias = module(torch.zeros_like(rows[0][:1]))
    return [module(row) - bias for row in rows]


def part_similarity(
    parts: Mapping[str, Float[Tensor, "layer query feature"]], update: Float[Tensor, "layer query feature"]
) -> dict[str, dict[str, Float[Tensor, " layer"]]]:
    """Mean cosine of each part with an update of fine-tuning: of the same query ("paired"), and of the others ("shuffled", its null)."""
    return {
        name: {"paired": cosine(part, update).mean(-1), "shuffled": shuffled_cosine(part, update).mean(-1)}
        for name, part in parts.items()
    }


# Values as error signals


@dataclass(frozen=True)
class ErrorSignals:
    """Values of one prompt and negative gradients of its loss by the heads' outputs, all of length 1.

    Attributes:
        values: not a number where there is none, see `signal_contrast`.
        errors: the same where the gradient is zero, as in the last layer wherever the loss asks for nothing.
    """

    values: Float[Tensor, "layer head token feature"]
    errors: Float[Tensor, "layer head token feature"]

    @property
    def of_tokens(self) -> Float[Tensor, "layer head token"]:
        """`cos(v_i, -dL / do_i)` of each token."""
        return (self.values * self.errors).sum(-1)

    @property
    def alignment(self) -> Float[Tensor, "layer head"]:
        """`A_h`, the mean over tokens with a gradient."""
        return self.of_tokens.nanmean(-1)


def error_signals(
    model: LanguageModel, tokens: Int[Tensor, " token"], targets: Bool[Tensor, " token"] | None = None
) -> ErrorSignals:
    """Are the values of a prompt proportional to the error signals that fine-tuning on it would meet?

    The dual form of linear attention (Irie et al. 2022; Dai et al. 2022, equation 9) has outer products e_i x_i^T with
    e_i = -dL / do_i in the place where attention has v_i k_i^T.

    Args:
        tokens: begin token and demonstrations.
        targets: tokens whose surprise -log p(w_t | w_<t) the loss adds up, default all but the first: the loss of Dai et al.; the label
            tokens for a loss of labels alone.
    """
    values, errors = _values_and_errors(model, tokens, targets)
    return ErrorSignals(_unit(values), _unit(errors))


def signal_contrast(
    model: LanguageModel,
    tokens: Int[Tensor, " token"],
    other: Int[Tensor, " token"],
    targets: Bool[Tensor, " token"] | None = None,
) -> ErrorSignals:
    """The same of differences between two prompts: does a change of labels change values as it changes error signals?

    What both prompts share, such as the direction that all values and all errors have in common, is gone. Not a number where nothing
    differs, as before the first label that does.

    Args:
        tokens, other: the same texts with other labels, equally long.
        targets: as of `error_signals`.
    """
    pairs = zip(*(_values_and_errors(model, each, targets) for each in (tokens, other)), strict=True)
    return ErrorSignals(*(_unit(_difference(*pair)) for pair in pairs))


def _difference(
    first: Float[Tensor, "*batch feature"], second: Float[Tensor, "*batch feature"]
) -> Float[Tensor, "*batch feature"]:
    """Zero where only rounding tells the two apart."""
    apart = first.double() - second.double()
    is_rounding = apart.norm(dim=-1, keepdim=True) <= 1e-5 * first.double().norm(dim=-1, keepdim=True)
    return torch.where(is_rounding, 0.0, apart)


def _values_and_errors(
    model: LanguageModel, tokens: Int[Tensor, " token"], targets: Bool[Tensor, " token"] | None
) -> tuple[Float[Tensor, "layer head token feature"], Float[Tensor, "layer head token feature"]]:
    """Values of all heads, and -dL / do of what the heads say."""
    chosen = torch.ones(len(tokens), dtype=torch.bool) if targets is None else targets
    with torch.enable_grad(), attention_calls(model) as calls:
        logits = model.logits(tokens[None])[0]
        loss = F.cross_entropy(logits[:-1], tokens[1:], reduction="none")[chosen[1:]].sum()
        gradients = torch.autograd.grad(loss, [call.output for call in calls.values()])
    return torch.cat([call.value.detach() for call in calls.values()]), -torch.cat(gradients)


def _unit(vector: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch feature"]:
    return vector.double() / vector.double().norm(dim=-1, keepdim=True)


@dataclass(frozen=True)
class PermutationTest:
    """Alignment against values of other tokens of the same kind, one-sided: more alike than chance.

    Attributes:
        excess: alignment minus its mean under permutations.
        p_total: of the mean over heads and layers.
        p_heads: of each head, corrected for their number by the largest standardised excess (Westfall and Young 1993).
    """

    excess: Float[Tensor, "layer head"]
    p_total: float
    p_heads: Float[Tensor, "layer head"]


def permutation_test(
    signals: ErrorSignals, classes: Int[Tensor, " token"], rng: np.random.Generator, resamples: int = 1000
) -> PermutationTest:
    """Permute values among tokens of one class, the same way in all heads.

    Args:
        classes: of each token, its place in the template. What all tokens of a class share is then part of the null; only what a token's
            value has in common with its own error is left.
    """
    layers, heads, length, _ = signals.values.shape
    members = [np.flatnonzero(classes.numpy() == each) for each in np.unique(classes.numpy())]
    drawn = np.tile(np.arange(length), (resamples, 1))
    for own in members:
        drawn[:, own] = rng.permuted(np.tile(own, (resamples, 1)), axis=1)
    order, token = torch.from_numpy(drawn), torch.arange(length)
    pairs = zip(signals.errors.flatten(0, 1), signals.values.flatten(0, 1), strict=True)
    null = torch.stack([(errors @ values.mT)[token, order].nanmean(-1) for errors, values in pairs])  # head, resample
    found = signals.alignment.flatten()
    centre, spread = null.mean(1), null.std(1).clamp(min=1e-12)
    largest = ((null - centre[:, None]) / spread[:, None]).max(0).values
    p_heads = (1 + (largest >= ((found - centre) / spread)[:, None] - 1e-9).sum(1)) / (1 + resamples)
    p_total = (1 + (null.mean(0) >= found.mean() - 1e-12).sum().item()) / (1 + resamples)
    return PermutationTest((found - centre).view(layers, heads), p_total, p_heads.view(layers, heads))


# Dose response


@dataclass(frozen=True)
class DoseResponse:
    """What a head takes from the demonstrations when their block is shown r times, over queries. Lengths are in head space.

    If repetition changes neither queries nor keys nor values, softmax attention (Nadaraya and Watson's kernel smoother) gives
    m(r) = r S / (r S + S_own) with the sums S of r = 1, and leaves the direction as it is: a prediction without a free parameter.

    Attributes:
        repeats: r, the first one 1.
        mass: mean attention on the demonstrations, m.
        length: mean length of the direct part, in units of that of C for r = 1: m(1) where r = 1.
        direction: mean cosine of the direct part with that for r = 1.
        slope: of the logarithm of the direct part's length on log r, mean over queries; 1 for a sum over demonstrations, 0 for a mean.
        kernel_slope: the same of the predicted m(r).
        mass_r_squared: how well the prediction gives m(r) - m(1) of every query and head for r > 1, as a share of its variance.
        kernel_r_squared, additive_r_squared: the same of the change of length, for m(r) - m(1) and for (r - 1) m(1), a sum.
    """

    repeats: tuple[int, ...]
    mass: Float[Tensor, "repeat layer head"]
    length: Float[Tensor, "repeat layer head"]
    direction: Float[Tensor, "repeat layer head"]
    slope: Float[Tensor, "layer head"]
    kernel_slope: Float[Tensor, "layer head"]
    mass_r_squared: float
    kernel_r_squared: float
    additive_r_squared: float


@torch.no_grad()
def dose_response(
    model: LanguageModel, block: Sequence[int], queries: Sequence[Sequence[int]], repeats: Sequence[int] = (1, 2, 4)
) -> DoseResponse:
    """Show a block of demonstrations once and more often.

    Args:
        block: tokens of the demonstrations, without the begin token.

    Raises:
        ValueError: if the repeats do not begin with 1 or do not fit in the context window.
    """
    longest = len(model.begin) + max(repeats) * len(block) + max(map(len, queries))
    if longest > model.context_length or repeats[0] != 1:
        raise ValueError(
            f"repeats {list(repeats)} must begin with 1 and fit in {model.context_length} tokens; these need {longest}"
        )
    mass, shown = [], []
    for number in repeats:
        prompt = [*model.begin, *list(block) * number]
        layers = splits(model, model.encode_prefix(prompt), queries, slice(len(model.begin), len(prompt)))
        mass.append(torch.stack([split.mass[..., 0] for split in layers]))
        shown.append(torch.stack([split.shown for split in layers]))
    return summarise(torch.stack(mass).double(), torch.stack(shown).double(), tuple(repeats))


def kernel_mass(mass: Float[Tensor, "*batch"], repeat: int) -> Float[Tensor, "*batch"]:
    """Attention on a block that is shown `repeat` times from that on one showing, where `S / S_own = m / (1 - m)`."""
    return repeat * mass / (repeat * mass + 1 - mass)


def summarise(
    mass: Float[Tensor, "repeat layer query head"],
    shown: Float[Tensor, "repeat layer query head feature"],
    repeats: tuple[int, ...],
) -> DoseResponse:
    """
    Args:
        mass: attention on the demonstrations, m.
        shown: attention among them, C.
    """
    length = mass * shown.norm(dim=-1) / shown[0].norm(dim=-1)
    kernel = torch.stack([kernel_mass(mass[0], repeat) for repeat in repeats])
    additive = torch.stack([repeat * mass[0] for repeat in repeats])
    dose = torch.tensor(repeats).double().log()
    dose = dose - dose.mean()
    slopes = [torch.einsum("r,rlqh->lqh", dose, part.log()).mean(1) / dose.square().sum() for part in (length, kernel)]
    return DoseResponse(
        repeats,
        mass.mean(2),
        length.mean(2),
        cosine(shown, shown[:1]).mean(2),
        *slopes,
        *(_explained(seen, said) for seen, said in ((mass, kernel), (length, kernel), (length, additive))),
    )


def _explained(seen: Float[Tensor, "repeat layer query head"], said: Float[Tensor, "repeat layer query head"]) -> float:
    """R^2 of changes from the first dose."""
    seen, said = ((part - part[0])[1:] for part in (seen, said))
    return (1 - (seen - said).square().sum() / (seen - seen.mean()).square().sum()).item()
