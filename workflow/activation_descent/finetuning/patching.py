"""What is left of in-context learning when attention to the demonstrations is linearised.

Over [demonstrations; own tokens] a softmax head gives, exactly,

    o(q) = (1 - m) Z(q) + m C(q),

m the attention on the demonstrations, C attention among them, Z attention among the query's own tokens and the begin token: a convex
replacement. Dai et al. (2022, equations 10 to 12) drop softmax and read it as an addition, Z + sum_i v_i (k_i . q). Each form of `FORMS`
puts something simpler in the place of what a head takes from the demonstrations, at the predicting token and in all layers at once, and
the ladder asks how much of the gain of in-context learning stays.

    exact               (1 - m) Z + m C, computed by the split; must change nothing
    linear_attention    Z + a sum_i v_i (k_i . q), one rate a for each head (Dai et al. 2022, equation 12)
    permuted_keys       the same with the keys of other demonstration tokens: which value belongs to which key is lost
    first_order         (1 - M) Z + M (v + Cov(v, k) q / sqrt d), softmax to first order in q, v the mean value
    constant            (1 - M) Z + M C', the same for all queries
    linear_map          Z + W q, the best of all additions that are linear in the query
    affine_map          Z + W q + b

M and C' are means and a, W, b are fitted on tuning queries: a by least squares, W and b by ridge regression.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from activation_descent.finetuning.attention import AttentionCall, replaced_attention
from activation_descent.finetuning.copies import Sequences
from activation_descent.language.models import LanguageModel, Prefix
from activation_descent.language.prompts import BATCH_TOKENS, next_logits

FORMS = ("exact", "linear_attention", "permuted_keys", "first_order", "constant", "linear_map", "affine_map")
PENALTIES = tuple(10.0**exponent for exponent in range(-8, 2))  # of the ridge, in units of the inputs' total square


# One head, split at the demonstrations


@dataclass(frozen=True)
class Split:
    """The attentions of one layer at the predicting token, split at the demonstrations. All inputs share the demonstrations.

    Attributes:
        query: after any rotation.
        logits: on the demonstrations' tokens, before mask and softmax.
        visible: which of these tokens the predicting token may look at.
        values: of the demonstrations' tokens.
        mass: attention on the demonstrations, m.
        own, shown: Z and C.
    """

    query: Float[Tensor, "input head feature"]
    logits: Float[Tensor, "input head shown"]
    visible: Bool[Tensor, "input shown"]
    values: Float[Tensor, "head shown feature"]
    mass: Float[Tensor, "input head 1"]
    own: Float[Tensor, "input head feature"]
    shown: Float[Tensor, "input head feature"]

    @property
    def output(self) -> Float[Tensor, "input head feature"]:
        """What the head says with the demonstrations: `(1 - m) Z + m C`."""
        return (1 - self.mass) * self.own + self.mass * self.shown

    @property
    def update(self) -> Float[Tensor, "input head feature"]:
        """What the demonstrations change: `m (C - Z)`."""
        return self.mass * (self.shown - self.own)


def masked_logits(call: AttentionCall, at: Int[Tensor, " input"]) -> Float[Tensor, "input head source"]:
    """Logits of one token of each input, after the mask."""
    row = torch.arange(len(at))
    logits = call.scale * torch.einsum("bhf,bhsf->bhs", call.query[row, :, at], call.key)
    return logits + call.mask.expand(len(at), -1, -1, -1)[row, :, at]


def split_call(call: AttentionCall, at: Int[Tensor, " input"], shown: slice) -> Split:
    """An attention's call, split.

    Args:
        at: the predicting token of each input.
        shown: where the demonstrations stand among the sources.
    """
    row = torch.arange(len(at))
    query, masked = call.query[row, :, at], masked_logits(call, at)
    is_shown = torch.zeros(masked.shape[-1], dtype=torch.bool)
    is_shown[shown] = True
    parts = masked[..., shown], masked[..., ~is_shown]
    mass = torch.sigmoid(parts[0].logsumexp(-1) - parts[1].logsumexp(-1))
    attended = [
        torch.einsum("bhs,bhsf->bhf", logits.softmax(-1), values)
        for logits, values in zip(parts, (call.value[:, :, shown], call.value[:, :, ~is_shown]), strict=True)
    ]
    visible = call.mask.expand(len(at), -1, -1, -1)[row, 0, at][:, shown] == 0
    logits = call.scale * torch.einsum("bhf,hsf->bhs", query, call.key[0, :, shown])
    return Split(query, logits, visible, call.value[0, :, shown], mass[..., None], attended[1], attended[0])


def linear_attention(split: Split, order: Int[Tensor, " shown"] | None = None) -> Float[Tensor, "input head feature"]:
    """`sum_i v_i (k_i . q)`, times the attention's scale.

    Args:
        order: whose key each value is given, default its own.
    """
    logits = split.logits if order is None else split.logits[..., order]
    return torch.einsum("bhs,hsf->bhf", logits * split.visible[:, None], split.values)


def first_order(split: Split) -> Float[Tensor, "input head feature"]:
    """Softmax attention among the demonstrations to first order in the query: `v + Cov(v, k) q / sqrt d`, moments over the tokens."""
    number = split.visible.sum(-1).clamp(min=1)[:, None, None]
    value = torch.einsum("bs,hsf->bhf", split.visible.float(), split.values) / number
    logit = (split.logits * split.visible[:, None]).sum(-1, keepdim=True) / number
    return value + linear_attention(split) / number - value * logit


# What is fitted on tuning queries


@dataclass(frozen=True)
class Fit:
    """What the forms of one layer need, from tuning queries; notation as at the head of this file."""

    mass: Float[Tensor, "head 1"]
    shown: Float[Tensor, "head feature"]
    order: Int[Tensor, " shown"]
    rate: Float[Tensor, "head 1"]
    permuted_rate: Float[Tensor, "head 1"]
    linear: Float[Tensor, "head input feature"]
    affine: Float[Tensor, "head input feature"]
    intercept: Float[Tensor, "head feature"]


def fit_forms(split: Split, order: Int[Tensor, " shown"]) -> Fit:
    """
    Args:
        split: of tuning queries.
        order: a permutation of the demonstrations' tokens, for `permuted_keys`.
    """
    query, update = split.query.transpose(0, 1), split.update.transpose(0, 1)
    linear, _ = ridge(query, update, intercept=False)
    affine, intercept = ridge(query, update, intercept=True)
    rates = (_least_squares_rate(linear_attention(split, keys), split.update) for keys in (None, order))
    return Fit(split.mass.mean(0), split.shown.mean(0), order, *rates, linear, affine, intercept)


def rebuilt(form: str, split: Split, fit: Fit) -> Float[Tensor, "input head feature"]:
    """Head outputs in one of `FORMS`."""
    match form:
        case "exact":
            return split.output
        case "linear_attention":
            return split.own + fit.rate * linear_attention(split)
        case "permuted_keys":
            return split.own + fit.permuted_rate * linear_attention(split, fit.order)
        case "first_order":
            return (1 - fit.mass) * split.own + fit.mass * first_order(split)
        case "constant":
            return (1 - fit.mass) * split.own + fit.mass * fit.shown
        case "linear_map":
            return split.own + torch.einsum("bhi,hif->bhf", split.query, fit.linear)
        case "affine_map":
            return split.own + torch.einsum("bhi,hif->bhf", split.query, fit.affine) + fit.intercept
    raise ValueError(f"there is no form '{form}' of attention to demonstrations; one of {', '.join(FORMS)}")


def _least_squares_rate(
    direction: Float[Tensor, "input head feature"], update: Float[Tensor, "input head feature"]
) -> Float[Tensor, "head 1"]:
    products = ((direction * other).sum((0, 2)) for other in (update, direction))
    return torch.div(*products).nan_to_num()[:, None]  # a head that sees no demonstration has no direction and no update


def ridge(
    x: Float[Tensor, "head query input"], y: Float[Tensor, "head query feature"], intercept: bool
) -> tuple[Float[Tensor, "head input feature"], Float[Tensor, "head feature"]]:
    """`y = x W + b` for each head. The penalty is the one with the smallest leave-one-out error, in closed form, for each head."""
    x, y = x.double(), y.double()
    size = x.square().sum((1, 2))[:, None]  # before centring: inputs that differ by rounding alone are not to be told apart
    shifts = [part.mean(1, keepdim=True) * intercept for part in (x, y)]
    x, y = x - shifts[0], y - shifts[1]
    left, lengths, right = torch.linalg.svd(x, full_matrices=False)
    turned = left.mT @ y
    maps, errors = [], []
    for penalty in PENALTIES:
        kept = lengths / (lengths.square() + penalty * size)  # of each direction, times 1 / its length
        leverage = (left.square() * (kept * lengths)[:, None]).sum(-1, keepdim=True) + intercept / x.shape[1]
        residual = y - left @ ((kept * lengths)[..., None] * turned)
        errors.append((residual / (1 - leverage).clamp(min=1e-6)).square().sum((1, 2)))
        maps.append(right.mT @ (kept[..., None] * turned))
    best = torch.stack(errors).argmin(0)
    chosen = torch.stack(maps)[best, torch.arange(len(best))]
    offset = (shifts[1] - shifts[0] @ chosen).squeeze(1)
    return chosen.float(), offset.float()


# A whole model


@dataclass(frozen=True)
class Ladder:
    """
    Attributes:
        margins: of the evaluation queries, see `margin`: for each form, and "zero_shot" and "in_context" of the model as it is.
        r_squared: for each form and head how much of the update it gives, `1 - sum |u - u'|^2 / sum |u|^2` over the evaluation queries of
            the model as it is; 0 is the head without demonstrations. Not a number for a head that sees no demonstration.
        mass: mean attention of each head on the demonstrations.
    """

    margins: dict[str, Float[Tensor, " query"]]
    r_squared: dict[str, Float[Tensor, "layer head"]]
    mass: Float[Tensor, "layer head"]

    def gain(self, form: str) -> float:
        """Share of the gain of in-context learning, in mean margins: `(form - zero_shot) / (in_context - zero_shot)`."""
        form_, zero, full = (self.margins[name].double().mean() for name in (form, "zero_shot", "in_context"))
        return ((form_ - zero) / (full - zero)).item()


def margin(logits: Float[Tensor, "*batch query label"], truth: Int[Tensor, " query"]) -> Float[Tensor, "*batch query"]:
    """Log odds of the right label among the label words; with two labels the difference of their logits."""
    others = torch.arange(logits.shape[-1]) != truth[:, None]
    right = logits.masked_select(~others).view(logits.shape[:-1])
    return right - logits.masked_fill(~others, -torch.inf).logsumexp(-1)


@torch.no_grad()
def patching_ladder(
    model: LanguageModel,
    prompt: Sequence[int],
    tuning: Sequence[Sequence[int]],
    evaluation: Sequence[Sequence[int]],
    labels: Sequence[int],
    truth: Int[Tensor, " query"],
    order: Int[Tensor, " shown"],
) -> Ladder:
    """Every form in every head at the last token of each query; later layers read what the earlier patched ones wrote.

    Args:
        prompt: begin token and demonstrations.
        tuning, evaluation: tokens of queries up to where the label stands. The forms are fitted on the tuning queries of the model as it
            is and judged on the evaluation queries.
        labels: the token of each class.
        truth: class of each evaluation query.
        order: a permutation of the demonstrations' tokens.
    """
    prefix, shown = model.encode_prefix(prompt), slice(len(model.begin), len(prompt))
    fits = [fit_forms(split, order) for split in splits(model, prefix, tuning, shown)]
    held_out = splits(model, prefix, evaluation, shown)
    r_squared = {form: torch.stack([_r_squared(form, *pair) for pair in zip(held_out, fits, strict=True)]) for form in FORMS}

    def of_labels(logits: Float[Tensor, "query word"]) -> Float[Tensor, " query"]:
        return margin(logits[:, torch.tensor(labels)], truth)

    margins = {
        "zero_shot": of_labels(next_logits(model, model.begin, evaluation)),
        "in_context": of_labels(next_logits(model, prompt, evaluation)),
    }
    for form in FORMS:
        margins[form] = of_labels(patched_logits(model, prefix, evaluation, shown, _rebuild(form, fits)))
    return Ladder(margins, r_squared, torch.stack([split.mass.mean((0, 2)) for split in held_out]))


def _rebuild(form: str, fits: Sequence[Fit]) -> Callable[[int, Split], Tensor]:
    return lambda layer, split: rebuilt(form, split, fits[layer])


def _r_squared(form: str, split: Split, fit: Fit) -> Float[Tensor, " head"]:
    left = split.output - rebuilt(form, split, fit)
    return 1 - left.square().sum((0, 2)) / split.update.square().sum((0, 2))


@torch.no_grad()
def splits(model: LanguageModel, prefix: Prefix, queries: Sequence[Sequence[int]], shown: slice) -> list[Split]:
    """The split of every layer at the last token of each query."""
    parts: list[list[Split]] = [[] for _ in range(model.layers)]
    for tokens, at in batches(queries):
        with replaced_attention(model, lambda layer, call, at=at: parts[layer].append(split_call(call, at, shown))):
            model.logits(tokens, prefix, at)
    return [_joined(own) for own in parts]


def _joined(parts: Sequence[Split]) -> Split:
    shared = {"values": parts[0].values}
    named = [field.name for field in fields(Split) if field.name not in shared]
    return Split(**shared, **{name: torch.cat([getattr(part, name) for part in parts]) for name in named})


@torch.no_grad()
def patched_logits(
    model: LanguageModel,
    prefix: Prefix,
    queries: Sequence[Sequence[int]],
    shown: slice,
    rebuild: Callable[[int, Split], Float[Tensor, "input head feature"]],
) -> Float[Tensor, "query word"]:
    """Logits after each query when the head outputs at its last token are `rebuild(layer, split)`."""
    results = []
    for tokens, at in batches(queries):

        def replace(layer: int, call: AttentionCall, at: Tensor = at) -> Tensor:
            output = call.output.clone()
            output[torch.arange(len(at)), :, at] = rebuild(layer, split_call(call, at, shown))
            return output

        with replaced_attention(model, replace):
            results.append(model.logits(tokens, prefix, at))
    return torch.cat(results)


def batches(queries: Sequence[Sequence[int]]) -> list[tuple[Int[Tensor, "query token"], Int[Tensor, " query"]]]:
    """Padded tokens and the place of each query's last one, a few queries at once."""
    number = max(1, BATCH_TOKENS // max(map(len, queries)))
    rows = [Sequences.of([queries[start : start + number]], []) for start in range(0, len(queries), number)]
    return [(part.tokens[0], part.lengths[0] - 1) for part in rows]
