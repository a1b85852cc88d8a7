"""Exact population losses of gradient-based learners by way of eigenvalues (noiseless linear tasks with isotropic inputs).

With S = sum_i x_i x_i^T and w ~ N(0, I) a learner of this kind leaves the residual p(l) of the true weight along an eigenvector of S
with eigenvalue l, and E loss = 0.5 Var(x) E sum_j p(l_j)^2. K steps of GD++ (von Oswald et al. 2022, appendix A.10; one gradient step
on labels, one contraction x <- (I - gamma S) x of the inputs at once) follow, in units of the rate per example r = eta / N,

    a_0 = p_0 = 1,    p_{k+1} = p_k (1 - r_k l a_k^2),    a_{k+1} = a_k (1 - gamma_k l a_k^2);

gamma = 0 is gradient descent.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from activation_descent.regression.closed_forms import uniform_moments
from activation_descent.regression.tasks import fill_uniform

Spectra = Float[Tensor, "input task"]


def spectra(rng: np.random.Generator, number: int, input_dim: int, context_length: int, half_range: float) -> Spectra:
    """Eigenvalues of S, ascending, for `number` contexts of inputs U(-half_range, half_range)."""
    x = np.empty((number, input_dim, context_length))
    fill_uniform(rng, x, half_range)
    return torch.from_numpy(np.linalg.eigvalsh(x @ x.swapaxes(1, 2)).T.copy())


def residuals(
    eigenvalues: Float[Tensor, "*other"], rates: Sequence[float] | Tensor, gammas: Sequence[float] | Tensor
) -> Float[Tensor, "*other"]:
    """p_K for rates and gammas of each step; each may be a tensor that broadcasts with the eigenvalues."""
    p = torch.ones_like(eigenvalues)
    a = torch.ones_like(eigenvalues)
    for rate, gamma in zip(rates, gammas, strict=True):
        scaled = eigenvalues * a.square()
        p, a = p * (1 - rate * scaled), a * (1 - gamma * scaled)
    return p


def newton_residuals(eigenvalues: Float[Tensor, "*other"], alpha: float, steps: int) -> Float[Tensor, "*other"]:
    """Iterative Newton, M_0 = alpha S, M_{k+1} = 2 M_k - M_k S M_k: the residual 1 - l m squares at each step."""
    return (1 - alpha * eigenvalues.square()) ** (2**steps)


def ridge_residuals(eigenvalues: Float[Tensor, "*other"], penalty: float) -> Float[Tensor, "*other"]:
    """Ridge regression: penalty / (l + penalty); zero penalty, least squares, leaves nothing."""
    return penalty / (eigenvalues + penalty)


def task_losses(left: Float[Tensor, "*other input task"], half_range: float) -> Float[Tensor, "*other task"]:
    """Expected loss of each context over weights and queries: `0.5 Var(x) sum_j p_j^2`."""
    return 0.5 * uniform_moments(half_range)[0] * left.square().sum(-2)
