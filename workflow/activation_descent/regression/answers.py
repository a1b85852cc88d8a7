"""What a trained network of the regression study says: its predictions, the linear model behind each, and a layer applied repeatedly.

All are evaluations: nothing here asks for a derivative by the weights.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from activation_descent.regression.transformer import Architecture, Layer, Tokens, Vector, linear, predict, products, unpack

TASKS_AT_ONCE = 1000  # what fits the caches


@torch.no_grad()
def predictions(vector: Vector, tokens: Tokens, architecture: Architecture) -> Float[Tensor, " task"]:
    """`transformer.predict` of any number of tasks."""
    if architecture.is_linear_attention:  # whose model comes on the way
        return written_model(vector, tokens, architecture)[0]
    return torch.cat([predict(vector, part, architecture) for part in tokens.split(TASKS_AT_ONCE, dim=-1)])


def written_model(
    vector: Vector, tokens: Tokens, architecture: Architecture
) -> tuple[Float[Tensor, " task"], Float[Tensor, "input task"]]:
    """The prediction and its derivative by the query's inputs: the "model" of Model cos and Model diff.

    For linear attention on the task's own tokens the prediction is linear in the query, and the derivative is the model itself.
    """
    derive = _linear_model if architecture.is_linear_attention else _derived_model
    parts = [derive(vector.detach(), part, architecture) for part in tokens.detach().split(TASKS_AT_ONCE, dim=-1)]
    predicted, models = zip(*parts, strict=True)
    return torch.cat(predicted), torch.cat(models, dim=1)


def _derived_model(
    vector: Vector, tokens: Tokens, architecture: Architecture
) -> tuple[Float[Tensor, " task"], Float[Tensor, "input task"]]:
    """`written_model` by automatic differentiation."""
    query = tokens[:, -1:].clone().requires_grad_()
    prediction = predict(vector, torch.cat([tokens[:, :-1], query], dim=1), architecture, query_only=True)
    (gradient,) = torch.autograd.grad(prediction.sum(), query)
    return prediction.detach(), gradient[:-1, 0]


@torch.no_grad()
def _linear_model(
    vector: Vector, tokens: Tokens, architecture: Architecture
) -> tuple[Float[Tensor, " task"], Float[Tensor, "input task"]]:
    """`written_model` of linear attention: with M_k what layer k adds to any token e as e M_k,

        prediction = -e_q . r,    r = (I + M_1) .. (I + M_K) u_y,    model = -r without its last entry.

    and no entry of r that the clip holds where it comes by. Tasks stand first here: products of small matrices, one for each task.
    """
    a, b = products(unpack(vector, architecture)["attention"])  # block head feature feature
    clip = math.inf if architecture.activation_clip is None else architecture.activation_clip

    def added(left: Tensor, gram: Tensor, right: Tensor, e: Float[Tensor, "task row feature"]) -> Tensor:
        """`sum_h e L_h G R_h`, every e in a row."""
        return sum(e @ left_head @ gram @ right_head for left_head, right_head in zip(left, right, strict=True))

    e = tokens.permute(2, 1, 0).contiguous()  # task token feature
    blocks = [0 if architecture.tied else layer for layer in range(architecture.layers)]
    grams, inside = [], []
    for block in blocks:
        grams.append(e[:, :-1].mT @ e[:, :-1])
        if len(grams) < architecture.layers:
            e = e + added(a[block], grams[-1], b[block], e)
            inside.append(e[:, -1:].abs() <= clip)
            e = e.clamp(-clip, clip)
    r = torch.zeros_like(e[:, -1:])  # task 1 feature
    r[..., -1] = 1
    r = r + added(b[blocks[-1]].mT, grams[-1], a[blocks[-1]].mT, r)
    answer = (e[:, -1:] * r).sum((1, 2))
    r *= (answer.abs() <= clip)[:, None, None]
    for block, gram, passes in zip(blocks[-2::-1], grams[-2::-1], inside[::-1], strict=True):
        r = r * passes
        r = r + added(b[block].mT, gram, a[block].mT, r)
    return -answer.clamp(-clip, clip), -r[:, 0, :-1].T


def apply_repeatedly(layer: Layer, tokens: Tokens, damping: float, iterations: int) -> Float[Tensor, "iteration task"]:
    """Predictions after 0, 1, .. applications of one linear layer that updates only the labels (`y_update` in the authors' code).

    Args:
        damping: lambda, the factor on each update.
    """
    a, b = products(layer)
    tokens = tokens.clone()
    context, label = tokens[:, :-1], tokens[-1]
    asked = linear(a[:-1], tokens[:-1])  # x_j A: the inputs never change
    values_of_inputs = linear(b[:-1, -1:], context[:-1])[0]
    predictions = [-label[-1].clone()]
    for _ in range(iterations):
        values = values_of_inputs + b[-1, -1] * context[-1]  # (e_i B)_y: context task
        summed = (context * values).sum(1)  # G b: feature task
        label += damping * ((asked * summed[:, None]).sum(0) + label * (a[-1] @ summed))
        predictions.append(-label[-1].clone())
    return torch.stack(predictions)
