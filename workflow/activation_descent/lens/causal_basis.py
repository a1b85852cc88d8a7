"""Causal basis extraction: the directions of a layer that its lens depends on, and whether the model depends on them, too.

    r(h, v) = h + (E<h, v> - <h, v>) v                  v erased: what lies along it is replaced by its mean
    sigma(v; f) = E_h KL( f(h) || f(r(h, v)) )          its influence on a prediction f

The basis is found greedily: v_i maximises the influence on the lens among unit vectors orthogonal to those before (Belrose et al. 2023,
section 4.2, and their code: L-BFGS from the left singular vectors of the translated unembedding). A lens is faithful if the
influences on the lens and on the model, with v erased at the same layer, rank alike.
"""

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from activation_descent.lens.readout import Batch, Unembedding, divergence
from activation_descent.lens.states import Rows, Subject, Tokens
from activation_descent.lens.translators import Translators

ITERATIONS = 100


def erase(
    states: Float[Tensor, "... feature"], direction: Float[Tensor, " feature"], mean: Tensor
) -> Float[Tensor, "... feature"]:
    """r(h, v), with the mean state given."""
    return states + ((mean - states) @ direction)[..., None] * direction


@torch.no_grad()
def undisturbed(states: Float[Tensor, "token feature"], translators: Translators, unembedding: Unembedding) -> Batch:
    """States of one layer of one model, and what its lens makes of them."""
    own = unembedding.logits(translators(states[None, None]))[:, 0].softmax(-1)
    return Batch(states[None, None], own, torch.zeros(own.shape[:2], dtype=torch.long))


def influence(
    read: Batch, direction: Float[Tensor, " feature"], translators: Translators, unembedding: Unembedding
) -> Float[Tensor, ""]:
    """sigma(v; lens) in nats of a translator of one layer of one model, from `undisturbed` states."""
    states = read.states[0, 0]
    erased = erase(states, direction, states.mean(0))
    return divergence(translators(erased[None, None]), unembedding, read).mean()


def extract(
    states: Float[Tensor, "token feature"], translators: Translators, unembedding: Unembedding, number: int
) -> tuple[Float[Tensor, "direction feature"], Float64[np.ndarray, " direction"]]:
    """The first directions of the basis and their influences in nats, sorted by influence.

    Args:
        translators: of one layer of one model (`Translators.one`).
    """
    from scipy.optimize import minimize

    width = states.shape[1]
    effective = torch.eye(width)
    if "weight" in translators.parameters:
        effective = effective + translators.parameters["weight"][0, 0]
    starts = torch.linalg.svd(unembedding.weight[0] @ effective, full_matrices=False).Vh
    read = undisturbed(states, translators, unembedding)
    found: list[Tensor] = []
    energies: list[float] = []
    for place in range(number):
        basis = torch.stack(found) if found else torch.zeros(0, width)

        def loss(flat: np.ndarray, basis: Tensor = basis) -> tuple[float, np.ndarray]:
            free = torch.tensor(flat, dtype=states.dtype, requires_grad=True)
            value = -influence(read, _unit(free, basis), translators, unembedding)
            value.backward()
            return float(value.detach()), free.grad.double().numpy()

        start = _unit(starts[place], basis).double().numpy()
        best = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": ITERATIONS})
        found.append(_unit(torch.tensor(best.x, dtype=states.dtype), basis))
        energies.append(-float(best.fun))
    order = np.argsort(energies, kind="stable")[::-1]
    return torch.stack([found[place] for place in order]), np.array(energies)[order]


def _unit(free: Tensor, basis: Float[Tensor, "direction feature"]) -> Tensor:
    """The unit vector along what of `free` is orthogonal to the basis."""
    for _ in range(2):  # once more for what rounding left
        free = free - basis.T @ (basis @ free)
    return free / free.norm()


@torch.no_grad()
def model_influence(
    subject: Subject,
    tokens: Tokens,
    layer: int,
    states: Rows,
    final: Float[Tensor, "seed position word"],
    directions: Float[Tensor, "seed direction feature"],
) -> Float[Tensor, "seed direction"]:
    """sigma(v; model) in nats: v erased from every position of the states that enter a block.

    Args:
        states: h_l of all rows.
        final: p_L at every position that has a next token.
    """
    found = torch.empty(directions.shape[:2])
    means = states.flatten(1, 2).mean(1)
    for place in range(directions.shape[1]):
        erased = torch.stack(
            [erase(own, direction, mean) for own, direction, mean in zip(states, directions[:, place], means, strict=True)]
        )
        last = subject.resume(tokens, layer, erased)[:, :, :-1].flatten(1, 2)[:, None]
        batch = Batch(last, final, torch.zeros(final.shape[:2], dtype=torch.long))
        found[:, place] = divergence(last, subject.unembedding, batch).mean((1, 2))
    return found
