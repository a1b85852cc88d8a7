"""Is a language model's forward pass predictive coding? The probes D1 to D4 on any model, and the rule that judges them.

The claim: the first layer predicts x_{t+1} from x_t; each layer reads the true tokens and the predictions, forms the error, and updates
all positions by it.

    D1  can predictions be read at each layer, better than a bigram?       `update_regression.readability`; necessary, no evidence
    D2  does position s + 1 hold the error of the prediction at s?         `error_decoding`
    D3  are updates of predictions driven by errors, or copies?            `update_regression`
    D4  is the error used: does a smaller error push less?                 `causal_use`

Every model is seen through the same interface, the control of `error_correction` among them. Predictive coding is found in a model when
D2, D3 and D4 all hold (`judged`). That a probe says no is not yet evidence against it:

    D2  sees errors of two populations, as the control's. One population of signed errors is a linear function of the prediction and the
        token, both of which stand in the stream anyway, so that nothing is added to them: the same control with signed errors passes D3
        and D4 and fails D2. D2 alone refutes nothing.
    D3  is what refutes: the drives explain less than 1 % of the updates all through their interval (they explain most of the control's,
        on as many documents), or more and with a lambda elsewhere.
    D4  refutes where the slope is above zero all through its interval, copies or shared features; around zero it tells nothing.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from activation_descent.lens import STUDY, causal_use, error_decoding, update_regression
from activation_descent.lens.causal_use import CONTEXTS
from activation_descent.lens.criteria import AGREEMENT, ALL, COPYING, ERROR_RATIO, GAIN, SPECIFIC, SURVIVING
from activation_descent.lens.error_decoding import TARGETS
from activation_descent.lens.update_regression import KERNELS
from activation_descent.records import Row

if TYPE_CHECKING:
    from activation_descent.language.models import LanguageModel
    from activation_descent.lens.bodies import Body
    from activation_descent.lens.error_correction import ErrorCorrection
    from activation_descent.lens.readout import Unembedding
    from activation_descent.lens.translators import Translators

EXPERIMENT = "predictive_coding"
BATCH = 64  # documents at once

Tokens = Int[Tensor, "row token"]
Train = Int[Tensor, "other token"]  # as many as there are
Cut = Bool[Tensor, "row query key"]
Lens = Callable[[int, Float[Tensor, "*batch feature"]], Float[Tensor, "*batch word"]]  # layer, states there -> log-probabilities


@dataclass(frozen=True)
class Probed:
    """A causal model whose predictions can be followed through its blocks.

    Attributes:
        layers: L, blocks; states are counted from 0, what enters the first, to L.
        states: of documents, at all L + 1 places.
        lens: log-probabilities of the next token, read from states at one place; at L the model's own.
        resume: tokens, layer, states there, cut edges (query, key) or none -> log-probabilities in the end.
        embedding: W, a vector for each word.
        cuts: whether `resume` can cut edges; if not, what needs it is left out.
    """

    layers: int
    states: Callable[[Tokens], Float[Tensor, "state row token feature"]]
    lens: Lens
    resume: Callable[[Tokens, int, Float[Tensor, "row token feature"], Cut | None], Float[Tensor, "row token word"]]
    embedding: Float[Tensor, "word feature"]
    cuts: bool = True


def probed_control(model: "ErrorCorrection") -> Probed:
    """The error-correcting control; its predictions stand in the same directions at all layers, so that its own unembedding reads them."""
    words = model.settings.words
    return Probed(
        model.settings.loops,
        torch.no_grad()(model.states),
        lambda layer, states: model.read(states),
        lambda tokens, layer, states, cut: model.resume(layer, states, cut),
        model.basis[words : 2 * words],
    )


def probed_language_model(model: "LanguageModel", lens: Lens) -> Probed:
    """A language model of the language study.

    Args:
        lens: log-probabilities at each place, the last one included.
    """

    @torch.no_grad()
    def states(tokens: Tokens) -> Float[Tensor, "state row token feature"]:
        recording = model.record(tokens)
        return torch.cat([recording.residual, recording.final[None]])

    @torch.no_grad()
    def resume(tokens: Tokens, layer: int, states: Float[Tensor, "row token feature"], cut: Cut | None):
        length = tokens.shape[1]
        closed = torch.ones(length, length, dtype=torch.bool).triu(1).expand(len(tokens), -1, -1)
        closed = closed if cut is None else closed | cut
        mask = torch.zeros(closed.shape).masked_fill(closed, torch.finfo(torch.float32).min)[:, None]

        def enter(module, arguments, named):
            if arguments:
                return (states, *arguments[1:]), named
            return arguments, named | {"hidden_states": states}

        # Blocks before the layer run on the tokens, and what they say is thrown away
        hook = model.blocks[layer].register_forward_pre_hook(enter, with_kwargs=True)
        try:
            return model.network(input_ids=tokens, attention_mask=mask, use_cache=False).logits.log_softmax(-1)
        finally:
            hook.remove()

    return Probed(model.layers, states, lens, resume, model.network.get_input_embeddings().weight.detach())


def probed_body(body: "Body", seed: int, lens: Lens) -> Probed:
    """One seed of the lens study's own models, whose edges cannot be cut.

    Args:
        lens: log-probabilities at each place, the last one included.
    """
    one = replace(body, weights={name: weight[seed : seed + 1] for name, weight in body.weights.items()})
    log_p = lambda states: one.unembedding.logits(states[:, None])[0, 0].log_softmax(-1)

    def resume(tokens: Tokens, layer: int, states: Float[Tensor, "row token feature"], cut: Cut | None):
        if cut is not None:
            raise ValueError("edges of this model cannot be cut")
        final = one.resume(tokens[None], layer, states[None])
        return log_p(final.flatten(1, 2)).view(*tokens.shape, -1)

    embedding = one.weights["embedding"][0]
    return Probed(one.layers, lambda tokens: one.record(tokens[None])[0], lens, resume, embedding, cuts=False)


def lens_of(translators: "Translators", unembedding: "Unembedding", seed: int = 0) -> Lens:
    """Log-probabilities log softmax U(T_l(h)) of one seed's translators; at the last place of U alone."""

    def log_probabilities(layer: int, states: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch word"]:
        flat = states.reshape(1, 1, -1, states.shape[-1])
        if layer < translators.layers:
            one = translators.one(layer)
            one.parameters = {name: value[seed : seed + 1] for name, value in one.parameters.items()}
            flat = one(flat)
        read = unembedding.of(seed).logits(flat)[0, 0].log_softmax(-1)
        return read.view(*states.shape[:-1], -1)

    return log_probabilities


# The probes


@dataclass(frozen=True)
class ProbeSettings:
    """How much is looked at.

    Attributes:
        causal_layers: l of D4, of which those are taken that a model has.
        resamples: of documents, for intervals.
    """

    causal_layers: Sequence[int]
    resamples: int


def predictive_coding_records(
    probed: Probed, train: Train, test: Tokens, settings: ProbeSettings, rng: np.random.Generator, row: Mapping[str, Any]
) -> list[Row]:
    """D1 to D4 of one model on one draw of documents.

    Args:
        train: documents that decoders, means and frequencies are fitted on.
        test: documents of the same length that everything is measured on.
        rng: for resamples, positions and words.
        row: what all rows have in common: variant, seed, ...
    """
    with torch.no_grad():
        train_states, test_states = probed.states(train), probed.states(test)
        log_p = torch.stack([probed.lens(layer, states) for layer, states in enumerate(test_states)])
        train_final = probed.lens(probed.layers, train_states[-1])
    rows = [
        *_readability(log_p, test),
        *_decoding(probed, (train, train_final, train_states), (test, log_p[-1], test_states), settings, rng),
    ]
    regressions = _regressions(log_p, train, test, probed.layers)
    rows += _updates(regressions, settings, rng)
    drives = {layer: update_regression.regress(sums.sum((0, 1))).weights[1::2] for layer, sums in regressions["own"].items()}
    rows += _causal(probed, train, train_states, test, test_states, drives, settings, rng)
    # A number that does not exist, as the slope of nothing, has no row
    rows = [{"layer": ALL, "control": "none"} | one for one in rows if np.isfinite(one["value"])]
    summary = {one["metric"]: one["value"] for one in rows if one["layer"] == ALL and one["control"] == "none"}
    rows += [{"layer": ALL, "control": "none", "metric": name, "value": value} for name, value in judged(summary).items()]
    return [{"study": STUDY, "experiment": EXPERIMENT, "step": 0} | dict(row) | one for one in rows]


def judged(summary: Mapping[str, float]) -> dict[str, float]:
    """The rule, 1 or 0 for yes and no; what could not be measured is no yes.

    Args:
        summary: metrics of a model, ends of intervals among them (`_low`, `_high`).

    Returns:
        decodes_error       D2: specificity at least .03, its interval above zero, larger behind the first layer than before it
        updates_by_error    D3: gain at least .01 throughout its interval, lambda in [.5, 1.5]
        uses_error          D4: slope below zero, also without directions of token identity, and as D3 says
        predictive_coding   1: all of them; 0: D3 or D4 tells against it, as the module says; 1/2: neither
        copies_followed     D3: gain at least .01 throughout its interval, lambda below .3
    """
    of = lambda name: summary.get(name, np.nan)
    decodes = (
        of("error_specificity_inner") >= SPECIFIC and of("error_specificity_inner_low") > 0 and of("error_specificity_growth") > 0
    )
    explained = of("update_gain_low") >= GAIN
    updates = explained and ERROR_RATIO[0] <= of("error_ratio") <= ERROR_RATIO[1]
    pushes = of("causal_slope_high") < 0 and of("causal_slope_off_identity_high") < 0
    survives = of("causal_slope_off_identity") <= SURVIVING * of("causal_slope")
    uses = pushes and survives and AGREEMENT[0] <= of("causal_agreement") <= AGREEMENT[1]
    verdicts = {
        "decodes_error": decodes,
        "updates_by_error": updates,
        "uses_error": uses,
        "copies_followed": explained and of("error_ratio") < COPYING,
    }
    negligible = of("update_gain_high") < GAIN
    elsewhere = explained and (of("error_ratio_high") < ERROR_RATIO[0] or of("error_ratio_low") > ERROR_RATIO[1])
    against = negligible or elsewhere or of("causal_slope_low") > 0
    whole = 1.0 if decodes and updates and uses else 0.0 if against else 0.5
    return {name: float(bool(verdict)) for name, verdict in verdicts.items()} | {"predictive_coding": whole}


def _readability(log_p: update_regression.Predictions, tokens: Tokens) -> Iterator[Row]:
    for name, values in update_regression.readability(log_p, tokens).items():
        for layer, value in enumerate(values):
            yield {"layer": layer, "metric": f"read_{name}", "value": float(value)}


def _decoding(probed: Probed, train: tuple, test: tuple, settings: ProbeSettings, rng: np.random.Generator) -> Iterator[Row]:
    """D2: a gain for each layer and target, and what the rule reads."""
    (tokens, final, states), (test_tokens, test_final, test_states) = train, test
    known = error_decoding.examples(final, tokens, probed.embedding)
    asked = error_decoding.examples(test_final, test_tokens, probed.embedding)
    h, h_test = (torch.stack([error_decoding.state_examples(one) for one in part]) for part in (states, test_states))
    explained = {target: error_decoding.explain(target, known, h, asked, h_test) for target in TARGETS}
    for target, found in explained.items():
        yield {"control": target, "metric": "decoding_base", "value": found.base_share}
        for layer, gain in enumerate(found.gains()):
            yield {"control": target, "layer": layer, "metric": "decoding_gain", "value": float(gain)}
    true, other = explained["error"], explained["counterfactual"]
    specific = error_decoding.specificity(true, other)
    for layer, value in enumerate(specific):
        yield {"layer": layer, "metric": "error_specificity", "value": float(value)}
    weights = document_weights(len(test_tokens), rng, settings.resamples)
    resampled = error_decoding.specificity(true, other, weights)
    # The first state has read no earlier position, the last one is read by none
    inner = slice(1, probed.layers)
    yield from _with_interval("error_specificity_inner", specific[inner].mean(), resampled[:, inner].mean(1))
    grown = specific[inner].mean() - specific[0]
    yield {"metric": "error_specificity_growth", "value": float(grown)}


def _with_interval(metric: str, value: Tensor | float, resampled: Tensor) -> Iterator[Row]:
    numbers = resampled[resampled.isfinite()].numpy()
    low, high = np.quantile(numbers, [0.025, 0.975]) if len(numbers) else (np.nan, np.nan)
    for suffix, number in (("", value), ("_low", low), ("_high", high)):
        yield {"metric": metric + suffix, "value": float(number)}


def _regressions(
    log_p: update_regression.Predictions, train: Train, test: Tokens, layers: int
) -> dict[str, dict[int, update_regression.Products]]:
    """Sums of products of each layer after the first, in the documents' own context and in another's."""
    words = log_p.shape[-1]
    unigram = (torch.bincount(train.flatten(), minlength=words) + 1).float().log()
    return {
        context: {
            layer: update_regression.products(log_p, test, layer, unigram, context == "other") for layer in range(1, layers)
        }
        for context in ("own", "other")
    }


def _updates(
    regressions: Mapping[str, Mapping[int, update_regression.Products]], settings: ProbeSettings, rng: np.random.Generator
) -> Iterator[Row]:
    """D3: each layer, all layers together, halves of the documents and the null."""
    # Layers count alike, whatever the size of their updates
    pooled = {
        context: sum(sums / sums[..., -1, -1].sum() for sums in by_layer.values()) for context, by_layer in regressions.items()
    }
    for context, name in (("own", "none"), ("other", "other_context")):
        for layer, sums in [*regressions[context].items(), (ALL, pooled[context])]:
            for one in _update_rows(update_regression.regress(sums.sum((0, 1)))):
                yield one | {"layer": layer, "control": name}
    own = pooled["own"]
    found = update_regression.regress(own.sum((0, 1)))
    lead = int(found.kernel_gain.argmax())
    weights = document_weights(len(own), rng, settings.resamples)
    again = update_regression.regress(torch.einsum("br,rij->bij", weights, own.sum(1)))
    yield {"metric": "leading_kernel", "value": lead}
    strict = update_regression.regress(own.sum((0, 1)), update_regression.WITH_FIRST)
    for one in _update_rows(strict):
        yield one | {"control": "first_prediction"}
    yield {"control": "first_prediction", "metric": "error_ratio", "value": float(strict.error_ratio[lead])}
    yield from _with_interval("error_ratio", found.error_ratio[lead], again.error_ratio[:, lead])
    yield from _with_interval("update_gain", found.gain, again.gain)
    yield {"metric": "other_context_gain", "value": float(update_regression.regress(pooled["other"].sum((0, 1))).gain)}
    halves = [update_regression.regress(own[:, half].sum(0)).weights[2 * lead] for half in (0, 1)]
    yield {"metric": "uniformity_positions", "value": float(halves[1] / halves[0])}
    each = torch.stack([update_regression.regress(sums.sum((0, 1))).weights[2 * lead] for sums in regressions["own"].values()])
    yield {"metric": "uniformity_layers", "value": float(each.min() / each.max())}


def _update_rows(found: update_regression.Regression) -> Iterator[Row]:
    for place, kernel in enumerate(KERNELS):
        followed, predicted = found.weights[2 * place : 2 * place + 2].tolist()
        yield {"metric": f"{kernel}_followed", "value": followed}
        yield {"metric": f"{kernel}_predicted", "value": predicted}
        yield {"metric": f"{kernel}_gain", "value": float(found.kernel_gain[place])}
    yield {"metric": "drive_gain", "value": float(found.gain)}


def _causal(
    probed: Probed,
    train: Train,
    train_states: Tensor,
    test: Tokens,
    test_states: Tensor,
    drives: Mapping[int, Tensor],
    settings: ProbeSettings,
    rng: np.random.Generator,
) -> Iterator[Row]:
    """D4: slopes of each layer, condition and context, and what the rule reads."""
    slopes: dict[str, list[Tensor]] = {}
    agreements = []
    weights = document_weights(len(test), rng, settings.resamples)
    for layer in [layer for layer in settings.causal_layers if layer in drives]:
        identity = causal_use.identity_directions(train_states[layer], train)
        parts = []
        for rows in torch.arange(len(test)).split(BATCH):
            tokens = test[rows]
            parts.append(
                causal_use.respond(
                    tokens,
                    test_states[layer][rows],
                    lambda h, layer=layer: probed.lens(layer, h),
                    lambda states, cut, tokens=tokens, layer=layer: probed.resume(tokens, layer, states, cut),
                    identity,
                    rng,
                    probed.cuts,
                )
            )
        responses = {name: causal_use.joined([part[name] for part in parts]) for name in parts[0]}
        for name, found in responses.items():
            for context in CONTEXTS:
                yield {"layer": layer, "control": name, "metric": f"slope_{context}", "value": float(found.slope(context))}
            slopes.setdefault(name, []).append(torch.cat([found.slope("same")[None], found.slope("same", weights)]))
        agreement = responses["error"].agreement(sum(drive for place, drive in drives.items() if place >= layer))
        agreements.append(agreement)
        yield {"layer": layer, "metric": "slope_agreement", "value": agreement}
    means = {name: torch.stack(found).mean(0) for name, found in slopes.items()}
    yield from _with_interval("causal_slope", means["error"][0], means["error"][1:])
    yield from _with_interval("causal_slope_off_identity", means["off_identity"][0], means["off_identity"][1:])
    if "cut_error" in means:
        yield {"metric": "causal_error_path", "value": float(1 - means["cut_error"][0] / means["error"][0])}
    yield {"metric": "causal_agreement", "value": float(np.mean(agreements))}


def document_weights(rows: int, rng: np.random.Generator, resamples: int) -> Float[Tensor, "resample row"]:
    """How often each bootstrap resample has each document."""
    return torch.from_numpy(rng.multinomial(rows, [1 / rows] * rows, size=resamples).astype(np.float64))
