"""Loss of networks on tasks and its gradient: by a compiled kernel where there is one, else by automatic differentiation."""

import math
from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from activation_descent.regression.tasks import Tasks
from activation_descent.regression.transformer import Architecture, predict, products, unpack


def losses_and_gradients(
    vectors: Float[Tensor, "start parameter"], architecture: Architecture, tasks: Iterable[Tasks]
) -> tuple[Float[Tensor, " start"], Float[Tensor, "start parameter"]]:
    """Loss `0.5 mean_tasks (prediction - y_q)^2` of networks, each on tasks of its own, and its gradient.

    Linear attention and one softmax layer on a processor go through compiled kernels, one start after the other; everything else through
    automatic differentiation, all starts in one pass: a few hundred tasks are too few for the time of an operation to be its arithmetic.
    """
    one_softmax = architecture.is_attention_alone and architecture.attention == "softmax" and architecture.layers == 1
    compiled = architecture.is_linear_attention or (one_softmax and architecture.activation_clip is None)
    if compiled and vectors.device.type == "cpu":
        return _attention_gradients(vectors, architecture, tasks)
    vectors, tasks = vectors.detach().requires_grad_(), list(tasks)
    tokens = torch.stack([each.tokens for each in tasks]).to(vectors.device)
    target = torch.stack([each.target for each in tasks]).to(vectors.device)
    losses = 0.5 * (predict(vectors, tokens, architecture) - target).square().mean(-1)
    (gradients,) = torch.autograd.grad(losses.sum(), vectors)
    return losses.detach().cpu(), gradients


def _attention_gradients(
    vectors: Float[Tensor, "start parameter"], architecture: Architecture, tasks: Iterable[Tasks]
) -> tuple[Float[Tensor, " start"], Float[Tensor, "start parameter"]]:
    attention = unpack(vectors, architecture)["attention"]  # start block head matrix feature feature
    a, b = products(attention)
    grad_a, grad_b = torch.empty_like(a), torch.empty_like(b)
    arrays = [array.numpy() for array in (a, b, grad_a, grad_b)]
    losses = [
        _run_kernel(architecture, each.tokens.numpy(), each.target.numpy(), *of_start)
        for each, *of_start in zip(tasks, *arrays, strict=True)
    ]
    query, key, value, projection = attention.unbind(-3)
    # A = W_Q W_K^T and B = W_V W_P
    gradient = torch.stack([grad_a @ key, grad_a.mT @ query, grad_b @ projection.mT, value.mT @ grad_b], dim=-3)
    return torch.tensor(losses), gradient.flatten(1)


def _run_kernel(
    architecture: Architecture,
    tokens: np.ndarray,
    target: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    grad_a: np.ndarray,
    grad_b: np.ndarray,
) -> float:
    """Loss of one network by the kernel made for it, which writes the gradients by A and B."""
    from activation_descent.regression.kernel import linear_attention_gradient, one_layer_gradient, two_layers_gradient

    clip = architecture.activation_clip
    if architecture.layers == 1 and clip is None:
        return one_layer_gradient(a, b, architecture.attention == "softmax", tokens, target, grad_a, grad_b)
    weights = (a, b, np.ascontiguousarray(a.swapaxes(-1, -2)), np.ascontiguousarray(b.swapaxes(-1, -2)))
    if architecture.layers == 2 and architecture.heads == 1 and clip is None:
        return two_layers_gradient(*weights, tokens, target, grad_a, grad_b)
    clip = math.inf if clip is None else float(clip)
    return linear_attention_gradient(*weights, architecture.layers, clip, tokens, target, grad_a, grad_b)
