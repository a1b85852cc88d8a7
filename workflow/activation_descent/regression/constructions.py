"""Weights by hand (von Oswald et al. 2022, Proposition 1 and appendix A.1), and weights between hand and training (A.3)."""

import torch
from jaxtyping import Float
from torch import Tensor

from activation_descent.regression.transformer import Layer, products


def gradient_descent_layer(
    input_dim: int,
    rate_per_example: float,
    initial_model: Float[Tensor, " input"] | None = None,
    dtype: torch.dtype = torch.float64,
) -> Layer:
    """The layer whose prediction is that of one gradient step on `1/(2N) sum (w . x_i - y_i)^2`.

    W_Q = W_K = diag(I, 0); W_V has -1 in its corner and W_0 left of it; W_P = diag(0, .., 0, eta / N).

    Args:
        rate_per_example: eta / N, the factor on the *sum* over the context.
        initial_model: W_0, zero unless given. A query token must then be `(x_q, -W_0 . x_q)`.
    """
    features = input_dim + 1
    identity = torch.diag(torch.cat([torch.ones(input_dim, dtype=dtype), torch.zeros(1, dtype=dtype)]))
    value = torch.zeros(features, features, dtype=dtype)
    value[-1, -1] = -1.0
    if initial_model is not None:
        value[:-1, -1] = initial_model.to(dtype)
    projection = torch.zeros(features, features, dtype=dtype)
    projection[-1, -1] = rate_per_example
    return torch.stack([identity, identity, value, projection])


def gd_plus_plus_layer(input_dim: int, rate_per_example: float, gamma: float, dtype: torch.dtype = torch.float64) -> Layer:
    """The layer of one step of GD++ (appendix A.10): as a gradient step's, with W_V W_P = diag(-gamma I, -eta / N).

    Every input contracts, x <- (I - gamma X X^T) x, the query's with the others, while the labels take the gradient step.
    """
    layer = gradient_descent_layer(input_dim, rate_per_example, dtype=dtype)
    _, _, value, projection = layer
    value.diagonal()[:-1] = -1.0
    projection.diagonal()[:-1] = gamma
    return layer


def step_sizes(layer: Layer) -> tuple[float, float]:
    """`(eta / N, gamma)` of a layer in the construction's units.

    Attention fixes only the product of A and B; with beta the mean diagonal of A's x-block, eta / N = -beta B_yy and gamma = -beta
    times the mean diagonal of B's x-block.
    """
    a, b = products(layer)
    beta = a.diagonal()[:-1].mean().item()
    return -beta * b[-1, -1].item(), -beta * b.diagonal()[:-1].mean().item()


def interpolate(trained: Layer, constructed: Layer, share: float = 0.5) -> Layer:
    """Layer between a trained layer and the construction: the *products* A and B are averaged, not the factors (A.3).

    A = (1 - share) A_trained / beta + share A_constructed, B = (1 - share) beta B_trained + share B_constructed. The result is
    returned as a layer with W_Q = A, W_K = I, W_V = B, W_P = I. It is undefined at beta = 0 and large near it, as at
    initialisation.
    """
    a_trained, b_trained = products(trained)
    beta = a_trained.diagonal()[:-1].mean()
    a_constructed, b_constructed = products(constructed)
    a = (1 - share) * a_trained / beta + share * a_constructed
    b = (1 - share) * b_trained * beta + share * b_constructed
    identity = torch.eye(a.shape[0], dtype=a.dtype)
    return torch.stack([a, identity, b, identity])
