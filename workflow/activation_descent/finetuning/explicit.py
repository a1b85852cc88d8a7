"""Positive control: a layer whose learning in context is gradient descent by construction, put through the comparison with fine-tuning.

Von Oswald et al. (2022, proposition 1; here with W_0 = 0, several labels a token and column vectors): tokens e = (x, y), a query
(x_q, 0), and an attention layer W_Q = W_K = diag(I, 0), W_V = diag(0, I), whose linear form gives the query

    sum_i W_V e_i (W_K e_i)^T W_Q e_q = (0, sum_i y_i x_i^T x_q),

the prediction after one step, at rate 1, on `1/2 sum_i |W x_i - y_i|^2` from W = 0. Fine-tuning is Dai et al.'s (2022, section 4.1): the
demonstrations one after the other, each alone and without its label, one step of gradient descent on W_K and W_V each, here on the squared
error. A comparison that does not score high here cannot find gradient descent in a language model.

Every query reads its own token, too, as in a causal language model: that is all that there is without demonstrations. By its empty label it
has the value 0, so h_ZSL = 0: raw similarity is defined here, normalised and partial similarity are not.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from activation_descent.finetuning import STUDY
from activation_descent.finetuning.similarity import cosine, odd_part, raw_update
from activation_descent.records import Row
from activation_descent.seeding import generator

EXPERIMENT = "explicit_layer"

Tokens = Float[Tensor, "trial token feature"]
Queries = Float[Tensor, "trial query feature"]
Matrix = Float[Tensor, "trial output feature"]


@dataclass(frozen=True)
class Control:
    """What the control is run on.

    Attributes:
        trials: tasks, each with demonstrations of its own: the unit of replication.
        queries: of a task; similarity is their mean.
        demonstrations: N.
        input_dim, label_dim: entries of x and of y.
        half_range: inputs are U(-half_range, half_range).
        rate: of fine-tuning. Small, because gradient descent in context takes one step on all demonstrations and fine-tuning one a
            demonstration: the more it corrects by the way, the less the two agree.
        temperatures: inverse temperatures of the softmax layers.
    """

    trials: int = 20
    queries: int = 64
    demonstrations: int = 32
    input_dim: int = 10
    label_dim: int = 10
    half_range: float = 1.0
    rate: float = 0.001
    temperatures: Sequence[float] = (0.3, 1.0, 3.0, 10.0)


@dataclass(frozen=True)
class Layer:
    """One attention layer for each trial.

    Attributes:
        temperature: the inverse temperature of a softmax over all keys; None for linear attention.
        centred: take the demonstrations' mean value off their values, so that a softmax without preferences says nothing.
    """

    query: Matrix
    key: Matrix
    value: Matrix
    temperature: float | None = None
    centred: bool = False


@dataclass(frozen=True)
class Problems:
    """Linear tasks `y = W x`: W ~ N(0, I), inputs uniform.

    Attributes:
        demonstrations: (x_i, y_i).
        queries: (x_q, 0).
    """

    demonstrations: Tokens
    queries: Queries


def draw_problems(rng: np.random.Generator, control: Control) -> Problems:
    """Fresh tasks, in float64; labels of queries are zero."""
    number, d = control.demonstrations + control.queries, control.input_dim
    x = rng.uniform(-control.half_range, control.half_range, (control.trials, number, d))
    weight = rng.standard_normal((control.trials, control.label_dim, d))
    tokens = torch.from_numpy(np.concatenate([x, x @ weight.swapaxes(1, 2)], axis=2))
    demonstrations, queries = tokens.split([control.demonstrations, control.queries], dim=1)
    queries[..., d:] = 0
    return Problems(demonstrations, queries)


def descent_layer(control: Control) -> Layer:
    """The linear layer whose update in context is one gradient step."""
    inputs = torch.arange(control.input_dim + control.label_dim) < control.input_dim
    on_inputs, on_labels = (torch.diag(kept.double()).expand(control.trials, -1, -1) for kept in (inputs, ~inputs))
    return Layer(on_inputs, on_inputs, on_labels)


def random_layer(rng: np.random.Generator, control: Control) -> Layer:
    """A linear layer that was never built nor trained: entries N(0, 1 / width)."""
    width = control.input_dim + control.label_dim
    drawn = rng.standard_normal((3, control.trials, width, width)) / width**0.5
    return Layer(*torch.from_numpy(drawn))


def attend(layer: Layer, context: Tokens, queries: Queries) -> Float[Tensor, "trial query output"]:
    """What the layer says to each query, which reads the context, if there is any, and its own token."""
    asked = queries @ layer.query.mT
    keys, own_keys = (tokens @ layer.key.mT for tokens in (context, queries))
    values, own_values = (tokens @ layer.value.mT for tokens in (context, queries))
    if layer.centred and context.shape[1]:
        values = values - values.mean(1, keepdim=True)
    scores = torch.cat([asked @ keys.mT, (asked * own_keys).sum(-1, keepdim=True)], dim=-1)
    if layer.temperature is not None:
        scores = (layer.temperature * scores).softmax(-1)
    return scores[..., :-1] @ values + scores[..., -1:] * own_values


def fine_tune(layer: Layer, demonstrations: Tokens, rate: float, label_dim: int) -> Layer:
    """The layer after one step on W_K and W_V for each demonstration, in their order, on `1/2 |prediction - y_i|^2`.

    A demonstration is read as a query is, alone and without its label; the prediction is the last `label_dim` entries.
    """
    nothing = demonstrations[:, :0]
    for demonstration in demonstrations.split(1, dim=1):
        asked, label = demonstration.clone(), demonstration[..., -label_dim:]
        asked[..., -label_dim:] = 0
        key, value = (weight.clone().requires_grad_() for weight in (layer.key, layer.value))
        prediction = attend(replace(layer, key=key, value=value), nothing, asked)[..., -label_dim:]
        # Trials have weights of their own, so the gradient of the sum is the gradient of each
        loss = 0.5 * (prediction - label).square().sum()
        by_key, by_value = torch.autograd.grad(loss, (key, value))
        layer = replace(layer, key=layer.key - rate * by_key, value=layer.value - rate * by_value)
    return layer


def update_similarity(layer: Layer, tuned: Layer, problems: Problems, label_dim: int) -> Float[Tensor, "trial query"]:
    """Raw SimAOU: the cosine of what demonstrations in context and what fine-tuning change in the prediction of a query."""
    context = problems.demonstrations
    zero, icl, ft = (
        attend(*run, problems.queries)[..., -label_dim:]
        for run in ((layer, context[:, :0]), (layer, context), (tuned, context[:, :0]))
    )
    return cosine(raw_update(icl, zero), raw_update(ft, zero))


def variants(rng: np.random.Generator, control: Control) -> dict[str, Layer]:
    """The layer by hand, with softmaxes in the place of its linear attention, and the negative control."""
    linear = descent_layer(control)
    softmaxes = {
        f"softmax_{temperature:g}{suffix}": replace(linear, temperature=temperature, centred=bool(suffix))
        for suffix in ("", "_centred")
        for temperature in control.temperatures
    }
    return {"linear": linear, **softmaxes, "random_weights": random_layer(rng, control)}


def explicit_records(control: Control, root: int) -> Iterator[Row]:
    """Similarity of each trial, for each layer of `variants`.

    Metrics: explicit_similarity; explicit_odd_similarity, the part of it that turns with the sign of the rate;
    explicit_shuffled_similarity, after fine-tuning on labels that were dealt anew among the demonstrations.
    """
    rng = generator(root, STUDY, EXPERIMENT, "all", "evaluate")
    problems = draw_problems(rng, control)
    order = torch.from_numpy(rng.permuted(np.tile(np.arange(control.demonstrations), (control.trials, 1)), axis=1))
    shuffled = problems.demonstrations.clone()
    shuffled[..., -control.label_dim :] = shuffled[..., -control.label_dim :].take_along_dim(order[..., None], dim=1)
    for variant, layer in variants(rng, control).items():

        def similarity(demonstrations: Tokens, rate: float, layer: Layer = layer) -> Float[Tensor, " trial"]:
            tuned = fine_tune(layer, demonstrations, rate, control.label_dim)
            return update_similarity(layer, tuned, problems, control.label_dim).mean(1)

        descent = similarity(problems.demonstrations, control.rate)
        values = {
            "explicit_similarity": descent,
            "explicit_odd_similarity": odd_part(descent, similarity(problems.demonstrations, -control.rate)),
            "explicit_shuffled_similarity": similarity(shuffled, control.rate),
        }
        for metric, trials in values.items():
            for trial, value in enumerate(trials.tolist()):
                base = {"study": STUDY, "experiment": EXPERIMENT, "variant": variant, "seed": trial}
                yield base | {"metric": metric, "value": value}
