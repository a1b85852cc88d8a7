"""Weights that reason: an encoder of L layers, by hand, that does L - 1 rounds of forward chaining (Zhang et al. 2022 build L - 2 in BERT).

A token is a rule, and carries what it has proved. In a layer, head j of attention looks for a token that has proved the predicate in place
j of the rule's body, and finds the null token, which has proved nothing, if there is none:

    score   beta if token i has proved b_j, beta / 2 if i is the null token, 0 otherwise
    value   1 if token i has proved anything, 0 otherwise
    s       the sum over three heads: 3 if the whole body is proved, 2 or less if not

and the perceptron concludes: state_k <- relu(2 head_k + 2 s - 7) for each predicate k, which is 1 if s = 3 and k is the head, else 0. A
predicate's token is the rule from itself to itself, so that it reads in one layer more what was proved.

Every token keeps five ones, so that the normalisation before attention subtracts and divides by constants, which the weights undo.
"""

import math

import numpy as np
import torch

from activation_descent.reasoning.encoder import Encoder
from activation_descent.reasoning.simple_logic import BODY, Space, features
from activation_descent.side_by_side import Weights

SHARPNESS = 60.0  # beta; what is not looked for weighs exp(-beta / 2)
CONFIDENCE = 10.0  # logit of a proved predicate
ONES = 5  # in a token
EPSILON = 1e-5  # PyTorch's, in the normalisation


def logic_encoder(space: Space, layers: tuple[int, ...], tied: bool = True) -> Encoder:
    """The architecture that the construction needs, one head for each place of a body; training gets the same. Its layers are all alike."""
    width = -(-(features(space) + 1) // BODY) * BODY
    return Encoder(layers, features(space), 1, width, BODY, 2 * width, tied)


def construct(space: Space, layers: int) -> tuple[Encoder, Weights]:
    """An encoder with `layers` layers that proves what is proved in `layers - 1` rounds."""
    encoder = logic_encoder(space, (layers,))
    weights = Weights(encoder.shapes(), [np.random.default_rng(0)])
    weights.flat.zero_()
    names, most = space.most + 1, space.most
    head, proved, unproved, null = 3 * names, 4 * names, 5 * names, 5 * names + 1
    scratch = features(space)
    size = encoder.width // BODY
    mean = ONES / encoder.width
    spread = math.sqrt(mean - mean**2 + EPSILON)  # x = spread * normalised + mean
    with torch.no_grad():
        weights["embedding"][0] = torch.eye(features(space), encoder.width)
        for layer in range(1 if encoder.tied else layers):
            query, query_bias = weights[f"{layer}.query"][0], weights[f"{layer}.query_bias"][0, 0]
            key_value, key_value_bias = weights[f"{layer}.key_value"][0], weights[f"{layer}.key_value_bias"][0, 0]
            strength = SHARPNESS * math.sqrt(size)
            for place in range(BODY):
                start = place * size
                for k in range(names):
                    query[place * names + k, start + k] = strength * spread
                    query_bias[start + k] = strength * mean
                    key_value[proved + k, start + k] = spread
                    key_value_bias[start + k] = mean
                query_bias[start + names] = strength / 2
                key_value[null, start + names] = spread
                key_value_bias[start + names] = mean
                value = encoder.width + start
                key_value[proved : proved + names, value] = spread
                key_value_bias[value] = names * mean
                weights[f"{layer}.output"][0, start, scratch] = 1.0
            up, up_bias, down = weights[f"{layer}.up"][0], weights[f"{layer}.up_bias"][0, 0], weights[f"{layer}.down"][0]
            for k in range(most):
                new, old = k, most + k
                up[head + k, new], up[scratch, new], up_bias[new] = 2.0, 2.0, -7.0
                up[proved + k, old] = 1.0
                down[new, proved + k], down[new, unproved] = 1.0, -1.0
                down[old, proved + k], down[old, unproved] = -1.0, 1.0
            up[scratch, 2 * most] = 1.0
            down[2 * most, scratch] = -1.0
        weights["readout"][0, proved : proved + most] = CONFIDENCE * spread
        weights["readout"][0, unproved] = -CONFIDENCE * spread
        weights["readout_bias"][0] = CONFIDENCE * (most - 1) * mean
    return encoder, weights
