"""Linear self-attention (von Oswald et al. 2022, eq. 2 and the authors' code; row vectors: q_j = e_j W_Q).

    e_j <- e_j + lambda * sum_{i in context} (e_j W_Q . e_i W_K) e_i W_V W_P        for every token j, the query included

No biases, no 1/sqrt(k), no mask, no 1/N; keys and values leave the query token out; the prediction is -1 times the last entry of
the last token. With A = W_Q W_K^T, B = W_V W_P and G = sum_i e_i^T e_i the update is e_j A G B: linear in the number of tokens.

A layer's weights are one tensor `[..., matrix, feature, feature]`, the matrices in the order of `MATRICES`.
"""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from activation_descent.regression.tasks import Tasks

MATRICES = ("query", "key", "value", "projection")

Weights = Float[Tensor, "matrix feature feature"]
Tokens = Float[Tensor, "feature token task"]


def initialise(rng: np.random.Generator, input_dim: int, init_scale: float) -> Weights:
    """Haiku's `VarianceScaling(init_scale, "fan_in", "truncated_normal")`: standard deviation sqrt(init_scale / fan_in).

    For d = 10 and the published 0.002 that is 0.0135 (the paper's text, "std 0.002", is the variance scale of the code).
    """
    features = input_dim + 1
    # A normal cut at two standard deviations has 0.8796 of its width.
    std = math.sqrt(init_scale / features) / 0.87962566103423978
    torch_generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
    weights = torch.empty(len(MATRICES), features, features)
    return torch.nn.init.trunc_normal_(weights, std=std, a=-2 * std, b=2 * std, generator=torch_generator)


def products(
    weights: Weights,
) -> tuple[Float[Tensor, "feature feature"], Float[Tensor, "feature feature"]]:
    """`A = W_Q W_K^T` and `B = W_V W_P`: all that a layer's output depends on."""
    query, key, value, projection = weights
    return query @ key.T, value @ projection


def linear_self_attention(weights: Weights, tokens: Tokens, damping: float = 1.0, labels_only: bool = False) -> Tokens:
    """One layer applied to every token.

    Args:
        damping: lambda, the factor on the update.
        labels_only: update only the last feature (`y_update` in the authors' code), as a roll-out of one layer does.
    """
    a, b = products(weights)
    if labels_only:
        b = torch.cat([torch.zeros_like(b[:, :-1]), b[:, -1:]], dim=1)
    context = tokens[:, :-1]
    values = torch.einsum("gf,gnt->fnt", b, context)  # e_i B
    scores_keys = torch.einsum("fg,fnt->gnt", a, tokens)  # e_j A
    if labels_only:  # G B has one column: sum over the context first, O(tokens)
        summed = (context * values[-1]).sum(1)  # feature task
        update = torch.zeros_like(tokens)
        update[-1] = (scores_keys * summed[:, None]).sum(0)
    else:
        summed = torch.einsum("gnt,fnt->gft", context, values)  # G B
        update = torch.einsum("gnt,gft->fnt", scores_keys, summed)
    return tokens + damping * update


def read_out(tokens: Tokens) -> Float[Tensor, " task"]:
    """The prediction `-y` of the query token."""
    return -tokens[-1, -1]


def effective_model(weights: Weights, tokens: Tokens) -> Float[Tensor, "input task"]:
    """The linear model that one layer writes: prediction = model . x_q, exactly `-A[:d] G B[:, d]`.

    It is the derivative of the prediction with respect to the query (the "model" of Model cos and Model diff).
    """
    a, b = products(weights)
    context = tokens[:, :-1]
    summed = (context * torch.einsum("f,fnt->nt", b[:, -1], context)).sum(1)  # G b
    return -a[:-1] @ summed


def one_layer_gradient(weights: Weights, tasks: Tasks) -> tuple[Float[Tensor, ""], Weights]:
    """Loss `0.5 mean_tasks (prediction - y_q)^2` of one layer and its gradient, by hand.

    Only the query's row of the attention is computed: nothing else enters the loss of a single layer. The query's label is zero,
    so the last row of W_Q has no gradient, and only the last column of W_P has one. At 2,048 tasks this takes about half the time of
    automatic differentiation, which a test compares it with. Sums over tokens and features accumulate in place: a product of all
    tokens would be a megabyte that has to leave the cache and come back.
    """
    query, key, value, projection = weights
    tokens, x = tasks.tokens, tasks.query
    features, number_tokens, number = tokens.shape
    flat = tokens.view(features, number_tokens * number)

    b = value @ projection[:, -1]
    values = (b @ flat).view(number_tokens, number)  # v_i = b . e_i
    h = tokens[:, 0] * values[0]  # h = G b = sum_i v_i e_i: feature task
    for token in range(1, number_tokens - 1):
        h.addcmul_(tokens[:, token], values[token])
    u = key @ (query[:-1].T @ x)  # u = A^T x_q: feature task
    error = -(u * h).sum(0) - tasks.target
    loss = 0.5 * error.square().mean()

    delta = error * (-1.0 / number)  # d loss / d (u . h)
    grad_a = x @ (delta * h).T  # input feature
    u *= delta
    scores = tokens[0] * u[0]  # delta u . e_i: token task
    for feature in range(1, features):
        scores.addcmul_(tokens[feature], u[feature])
    scores[-1] = 0.0  # the query is no value
    grad_b = flat @ scores.view(-1)  # sum over tasks of G (delta u)

    gradient = torch.zeros_like(weights)
    gradient[0, :-1] = grad_a @ key
    gradient[1] = grad_a.T @ query[:-1]
    gradient[2] = torch.outer(grad_b, projection[:, -1])
    gradient[3, :, -1] = value.T @ grad_b
    return loss, gradient
