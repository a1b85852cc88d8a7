"""Bounded loss of the eigenvalue recursion and its gradient on one processor core, compiled by Numba.

The same function as `recursion.residuals` with automatic differentiation, which a test compares it with, in a tenth of the time: the
recursion is a chain of cheap products along which automatic differentiation spends its time on memory. Work goes over lanes of
`LANES` contexts, whose course stays in the first cache.
"""

import numpy as np
from numba import njit

LANES = 64
CUT = 1e8  # bound on |p| and |a|, whose course is of degree 3^K in the eigenvalue; no gradient passes a number at the bound


@njit(cache=True, error_model="numpy", fastmath={"contract", "nsz"})
def bounded_loss(eigenvalues, rates, gammas, bound, loss, rate_gradient, gamma_gradient):
    """Mean over contexts of the loss relative to that of w = 0, `m = mean_j p_K(l_j)^2`, or `bound (1 + log(m / bound))` above bound.

    Args:
        eigenvalues: float64 [input, context].
        rates, gammas: float64 [start, step].
        loss: [start], overwritten, as are the next two.
        rate_gradient, gamma_gradient: [start, step].
    """
    dims, contexts = eigenvalues.shape
    starts, steps = rates.shape
    spectrum = np.empty((dims, LANES))
    a, p = np.empty((dims, steps + 1, LANES)), np.empty((dims, steps + 1, LANES))
    d_rate, d_gamma = np.empty((steps, LANES)), np.empty((steps, LANES))
    m, d_a, d_p = np.empty(LANES), np.empty(LANES), np.empty(LANES)
    a[:, 0] = 1.0
    p[:, 0] = 1.0
    for s in range(starts):
        total = 0.0
        d_rate[:] = 0.0
        d_gamma[:] = 0.0
        for first in range(0, contexts, LANES):
            lanes = min(LANES, contexts - first)
            m[:] = 0.0
            for j in range(dims):
                for t in range(lanes):
                    spectrum[j, t] = eigenvalues[j, first + t]
                for t in range(lanes, LANES):
                    spectrum[j, t] = 0.0
                for k in range(steps):
                    rate, gamma = rates[s, k], gammas[s, k]
                    for t in range(LANES):
                        z = spectrum[j, t] * a[j, k, t] * a[j, k, t]
                        p[j, k + 1, t] = min(max(p[j, k, t] * (1 - rate * z), -CUT), CUT)
                        a[j, k + 1, t] = min(max(a[j, k, t] * (1 - gamma * z), -CUT), CUT)
                for t in range(LANES):
                    m[t] += p[j, steps, t] * p[j, steps, t] / dims
            for t in range(LANES):
                if t >= lanes:
                    m[t] = 0.0
                elif m[t] <= bound:
                    total += m[t]
                    m[t] = 1.0
                else:
                    total += bound * (1 + np.log(m[t] / bound))
                    m[t] = bound / m[t]
            for j in range(dims):
                for t in range(LANES):
                    d_p[t] = m[t] * 2 / dims * p[j, steps, t]
                    d_a[t] = 0.0
                for k in range(steps - 1, -1, -1):
                    rate, gamma = rates[s, k], gammas[s, k]
                    for t in range(LANES):
                        z = spectrum[j, t] * a[j, k, t] * a[j, k, t]
                        to_p = d_p[t] if abs(p[j, k + 1, t]) < CUT else 0.0
                        to_a = d_a[t] if abs(a[j, k + 1, t]) < CUT else 0.0
                        by_rate, by_gamma = to_p * p[j, k, t], to_a * a[j, k, t]
                        d_rate[k, t] -= by_rate * z
                        d_gamma[k, t] -= by_gamma * z
                        d_p[t] = to_p * (1 - rate * z)
                        d_a[t] = to_a * (1 - gamma * z) - 2 * spectrum[j, t] * a[j, k, t] * (by_rate * rate + by_gamma * gamma)
        loss[s] = total / contexts
        for k in range(steps):
            rate_gradient[s, k] = d_rate[k].sum() / contexts
            gamma_gradient[s, k] = d_gamma[k].sum() / contexts
