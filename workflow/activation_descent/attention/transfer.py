"""Layers of `layers` on regression prompts, held against one step of gradient descent on the same prompts; and on their own sequences.

A layer that never saw regression has nowhere to say the label, so a linear readout of the query's final state is fitted on prompts of their
own by least squares; everything else of the layer stays as it was trained. The model is the derivative of the answer by the query, as in
the regression study. Controls: the layer as it was before training, with a readout fitted in the same way; and the layer's own readout.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from activation_descent.attention import STUDY
from activation_descent.attention.layers import EXPERIMENT, Layers, Network, Trained, update
from activation_descent.attention.mixtures import Mixture, Sequences, autoregressive, regression
from activation_descent.records import Row
from activation_descent.regression.alignment import Answer, align, answer_of_model, loss_of
from activation_descent.regression.learners import gradient_descent_model, optimal_rate
from activation_descent.regression.tasks import Tasks
from activation_descent.seeding import generator

Layer = Float[Tensor, "matrix feature feature"]
Readout = Float[Tensor, " feature"]


@dataclass(frozen=True)
class Prompts:
    """Regression prompts in both layouts."""

    sequences: Sequences
    tasks: Tasks


def draw_prompts(mixture: Mixture, root: int, purpose: str, number: int) -> Prompts:
    """From the stream "tune" or "evaluate", the same for all networks."""
    return Prompts(*regression(generator(root, STUDY, EXPERIMENT, "regression", purpose), mixture, number, np.float64))


def final_state(layer: Layer, attention: str, sequences: Sequences) -> Float[Tensor, "task feature"]:
    """The query after the layer."""
    return sequences.tokens[:, -1] + update(layer[None], attention, sequences)[0]


def fitted_readout(layer: Layer, attention: str, prompts: Prompts) -> Readout:
    """Least squares of the label on the final state; the shortest if several are as good."""
    states = final_state(layer, attention, prompts.sequences)
    return torch.linalg.lstsq(states, prompts.tasks.target[:, None], driver="gelsd").solution[:, 0]


def own_readout(mixture: Mixture) -> Readout:
    """Where training put the label: the first entry of the second half."""
    return torch.eye(2 * mixture.width, dtype=torch.float64)[mixture.width]


def answer(layer: Layer, attention: str, prompts: Prompts, readout: Readout) -> Answer:
    """Prediction and model of a layer with a readout.

    With scores s_i = e_q A . e_i and c_i = e_i B r, the derivative of `e_q . r + sum_i a_i c_i` by e_q is r plus

        linear    sum_i c_i A e_i
        softmax   sum_i a_i (c_i - sum_j a_j c_j) A e_i / sqrt(width)
    """
    query_weight, key, value, projection = layer
    a, b = query_weight @ key.mT, value @ projection
    context, query = prompts.sequences.tokens[:, :-1], prompts.sequences.tokens[:, -1]
    contents = context @ (b @ readout)  # task context
    weights = (context @ (query @ a)[..., None])[..., 0]
    slopes = contents
    if attention == "softmax":
        weights = (weights / math.sqrt(layer.shape[-1])).softmax(-1)
        added = (weights * contents).sum(-1, keepdim=True)
        slopes = weights * (contents - added) / math.sqrt(layer.shape[-1])
    prediction = query @ readout + (weights * contents).sum(-1)
    inputs = len(prompts.tasks.query)
    model = readout[:inputs, None] + a[:inputs] @ (slopes[..., None, :] @ context)[..., 0, :].mT
    return Answer(prediction, model)


def transfer_records(settings: Layers, mixture: Mixture, attention: str, trained: Trained, root: int) -> Iterator[Row]:
    """Loss / loss of a gradient step, model cosine and model difference of each network, for each way to read it.

    control: refitted, own_readout (where a share of regression taught it one), untrained (refitted, too).
    """
    tuning, prompts = (draw_prompts(mixture, root, purpose, settings.tasks) for purpose in ("tune", "evaluate"))
    descent = answer_of_model(
        gradient_descent_model(prompts.tasks, [optimal_rate(mixture.width, mixture.pairs, mixture.half_range)]), prompts.tasks
    )
    for network, layer, before in zip(trained.networks, trained.weights, trained.initial, strict=True):
        answers = {
            "refitted": answer(layer, attention, prompts, fitted_readout(layer, attention, tuning)),
            "untrained": answer(before, attention, prompts, fitted_readout(before, attention, tuning)),
        }
        if network.share > 0:
            answers["own_readout"] = answer(layer, attention, prompts, own_readout(mixture))
        for control, said in answers.items():
            distance = align(said, descent)
            numbers = {
                "transfer_loss_ratio": loss_of(said, prompts.tasks) / loss_of(descent, prompts.tasks),
                "transfer_cosine": distance.cosine,
                "transfer_difference": distance.model_difference,
            }
            for row in _bases(settings, attention, network):
                for metric, value in numbers.items():
                    yield row | {"control": control, "metric": metric, "value": value}


def _bases(settings: Layers, attention: str, network: Network) -> Iterator[Row]:
    """What identifies a network in records: regression alone is the end of every mixture."""
    for kind in [network.others] if network.others else settings.others:
        yield {
            "study": STUDY,
            "experiment": EXPERIMENT,
            "variant": f"{attention}_{kind}",
            "seed": network.start,
            "share": network.share,
        }


# Layers on their own sequences


def unit_step(sequences: Sequences) -> Float[Tensor, "task width"]:
    """What one step of rate 1 from W = 0 on `1/2 sum_i |b_i - W a_i|^2` over the visible pairs answers: `sum_i b_i (a_i . a_q)`."""
    width = sequences.target.shape[-1]
    context, query = sequences.tokens[:, :-1], sequences.tokens[:, -1, :width]
    scores = (context[..., :width] @ query[..., None])[..., 0] * sequences.visible
    return (scores[:, None] @ context[..., width:])[:, 0]


def growing_records(settings: Layers, mixture: Mixture, attention: str, trained: Trained, root: int) -> Iterator[Row]:
    """Layers that never saw regression on their own sequences, at every context length, against one gradient step on the same context.

    The step has one rate for all lengths, as a layer has, the best one on tuning sequences. growing_cosine is that of the two answers.
    """
    lengths = range(1, mixture.pairs + 1)

    def sequences(kind: str, purpose: str, seen: int) -> Sequences:
        rng = generator(root, STUDY, EXPERIMENT, kind, purpose, step=seen)
        return autoregressive(kind, rng, mixture, settings.tasks, seen, np.float64)

    for kind in settings.others:
        tuning = [sequences(kind, "tune", seen) for seen in lengths]
        steps = [unit_step(own) for own in tuning]
        product = sum((step * own.target).sum() for step, own in zip(steps, tuning, strict=True))
        rate = product / sum(step.square().sum() for step in steps)
        own = [place for place, network in enumerate(trained.networks) if (network.share, network.others) == (0, kind)]
        for seen in lengths:
            batch = sequences(kind, "evaluate", seen)
            descent = rate * unit_step(batch)
            losses = {"gradient_descent": _loss(descent, batch), "none": _loss(torch.zeros_like(descent), batch)}
            for place in own:
                (base,) = _bases(settings, attention, trained.networks[place])
                said = update(trained.weights[place][None], attention, batch)[0, :, mixture.width :]
                row = base | {"context_length": seen}
                for learner, loss in ({"transformer": _loss(said, batch)} | losses).items():
                    yield row | {"learner": learner, "metric": "growing_loss", "value": loss}
                moved = descent.square().sum(-1) > 0  # a chain may ask for a state that it has not been in
                cosine = torch.cosine_similarity(said[moved], descent[moved], dim=-1).mean().item()
                yield row | {"learner": "transformer", "metric": "growing_cosine", "value": cosine}


def _loss(said: Float[Tensor, "task width"], batch: Sequences) -> float:
    return 0.5 * (said - batch.target).square().sum(-1).mean().item()
