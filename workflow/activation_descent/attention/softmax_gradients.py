"""Softmax attention as a gradient step: what is exact, of which function, and where it ends.

Keys k_i, values v_i, a query q of width d; scores s_i = k_i . q / sqrt(d), a = softmax(s), Att = sum_i a_i v_i. Each statement names a
function and a variable, and says that attention is a step down (or up) its gradient. Automatic differentiation of that function is held
against attention as it is computed; the counterexample is the same comparison one condition away.

    linear_objective     (i)    Dai et al. 2022: W_0 q + sum_i v_i (k_i . q) is a unit step from W_0 on -sum_i <v_i, W k_i>
    first_order          (i')   Att = mean(v) + Cov(v, k) q / sqrt(d) + O(|q|^2): a step from W = 0 on centred least squares
    local_least_squares  (ii)   Att is the Newton step from any f on sum_i w_i |v_i - f|^2 (Nadaraya 1964, Watson 1964)
    hopfield             (iii)  with values tied to keys, a unit step of the query on an energy (Ramsauer et al. 2021, equation 2)
    augmented_state      (iv a) a unit step in an empty subspace beside the query, for any values
    token_flow           (iv b) without normalisation, tokens move down an interaction energy (Geshkovski et al. 2023; Sander et al. 2022)
    implicit_update      (iv c) a context is an update of the next layer's weights of rank one (Dherin et al. 2025)

Gaps are relative: |difference| / |what it is held against|. All arithmetic is in float64.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from jaxtyping import Float
from torch import Tensor
from torch.func import grad, hessian, jacrev

from activation_descent.attention import STUDY
from activation_descent.records import Row
from activation_descent.seeding import generator

EXPERIMENT = "softmax_gradients"
LARGE_LOGITS = 5.0  # standard deviation of logits that are not small: the largest weight of a dozen is then near 1


@dataclass(frozen=True)
class Identities:
    """On what the statements are tried: `problems` draws of each seed, with entries N(0, 1) about a mean that is N(0, 1) itself."""

    seeds: int
    problems: int
    keys: int
    width: int
    values: int


@dataclass(frozen=True)
class Memory:
    """What one query attends to."""

    keys: Float[Tensor, "key width"]
    values: Float[Tensor, "key value"]
    query: Float[Tensor, " width"]


Check = Callable[[Memory, torch.Generator], tuple[float, float]]


def attend(
    keys: Float[Tensor, "key width"], values: Float[Tensor, "key value"], query: Float[Tensor, " width"]
) -> Float[Tensor, " value"]:
    """Softmax attention."""
    return (keys @ query / math.sqrt(len(query))).softmax(0) @ values


def gap(found: Tensor, expected: Tensor) -> float:
    """|found - expected| / |expected|."""
    return ((found - expected).norm() / expected.norm()).item()


def draw(rng: np.random.Generator, settings: Identities) -> Memory:
    """Keys, values and a query, each normal around a normal mean of its own, in float64."""

    def cloud(width: int) -> Tensor:
        return torch.from_numpy(rng.standard_normal((settings.keys, width)) + rng.standard_normal(width))

    return Memory(cloud(settings.width), cloud(settings.values), torch.from_numpy(rng.standard_normal(settings.width)))


def _normal(random: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=random)


# (i)


def linear_objective(memory: Memory, random: torch.Generator) -> tuple[float, float]:
    """-grad of L(W) = -sum_i <v_i, W k_i> is sum_i v_i k_i^T at every W, so that a step of any length lowers L in proportion: no minimum.

    Counterexample: at W_0 != 0 least squares steps by the delta rule, sum_i (v_i - W_0 k_i) k_i^T.
    """
    k, v, q = memory.keys, memory.values, memory.query
    start = _normal(random, v.shape[1], k.shape[1])

    def objective(w: Tensor) -> Tensor:
        return -(v * (k @ w.mT)).sum()

    step = -grad(objective)(start)
    attention = (k @ q) @ v
    far = objective(start + 1e3 * step)
    falls = objective(start) - 1e3 * step.square().sum()
    squares = -grad(lambda w: 0.5 * (v - k @ w.mT).square().sum())(start)
    identity = max(gap((start + step) @ q, start @ q + attention), gap(far, falls))
    return identity, gap(squares @ q, attention)


def losses_with_this_gradient(memory: Memory) -> float:
    """Largest gap between attention and the first step from W = 0 on other losses whose slope at zero is -v.

    The linear objective, least squares, and 2 log(1 + exp(-v z)) entry by entry share the step: attention does not say which.
    """
    k, v, q = memory.keys, memory.values, memory.query
    zero = torch.zeros(v.shape[1], k.shape[1], dtype=k.dtype)
    losses = (
        lambda w: -(v * (k @ w.mT)).sum(),
        lambda w: 0.5 * (v - k @ w.mT).square().sum(),
        lambda w: 2 * F.softplus(-v * (k @ w.mT)).sum(),
    )
    return max(gap(-grad(loss)(zero) @ q, (k @ q) @ v) for loss in losses)


# (i')


def first_order(memory: Memory, random: torch.Generator) -> tuple[float, float]:
    """At q = 0 attention is the mean value, and its derivative by q is the step from W = 0 on 1/2 sum_i |(v_i - v) - W (k_i - k)|^2 with
    the rate 1 / (n sqrt(d)), means taken off.

    Counterexample: logits that are not small, with a standard deviation of `LARGE_LOGITS`.
    """
    k, v, q = memory.keys, memory.values, memory.query
    n, d = k.shape
    centred_k, centred_v = k - k.mean(0), v - v.mean(0)
    zero = torch.zeros(v.shape[1], d, dtype=k.dtype)
    step = -grad(lambda w: 0.5 * (centred_v - centred_k @ w.mT).square().sum())(zero) / (n * math.sqrt(d))
    derivative = jacrev(lambda q: attend(k, v, q))(torch.zeros_like(q))
    identity = max(gap(derivative, step), gap(attend(k, v, torch.zeros_like(q)), v.mean(0)))
    large = q * LARGE_LOGITS / (k @ q / math.sqrt(d)).std()
    return identity, gap(v.mean(0) + step @ large, attend(k, v, large))


def uncentred_gap(memory: Memory) -> float:
    """How far Dai et al.'s sum_i v_i k_i^T, over n sqrt(d), is from softmax attention's derivative at q = 0."""
    k, v = memory.keys, memory.values
    n, d = k.shape
    derivative = jacrev(lambda q: attend(k, v, q))(torch.zeros_like(memory.query))
    return gap(v.mT @ k / (n * math.sqrt(d)), derivative)


def remainder_order(memory: Memory) -> float:
    """The power of |q| by which the first-order expression fails, from queries of 1e-2 and 1e-3 times the length: 2."""
    k, v, q = memory.keys, memory.values, memory.query
    derivative = jacrev(lambda q: attend(k, v, q))(torch.zeros_like(q))
    errors = [(attend(k, v, s * q) - v.mean(0) - derivative @ (s * q)).norm() for s in (1e-2, 1e-3)]
    return math.log10(errors[0] / errors[1])


# (ii)


def local_least_squares(memory: Memory, random: torch.Generator) -> tuple[float, float]:
    """Attention is the Newton step from any f on J(f) = sum_i w_i |v_i - f|^2 with w_i = exp(s_i), the step with the rate
    1 / (2 sum_i w_i), and the unit step from f = 0 on 1/2 sum_i a_i |v_i - f|^2; w_i is a Gaussian of |q - k_i| times
    exp(|k_i|^2 / 2 sqrt(d)).

    Counterexample: the residual stream adds attention to the state f = x, where the step on J from x would take its place.
    """
    k, v, q = memory.keys, memory.values, memory.query
    root = math.sqrt(len(q))
    w = (k @ q / root).exp()
    start = 3 * _normal(random, v.shape[1])

    def local(f: Tensor) -> Tensor:
        return (w * (v - f).square().sum(1)).sum()

    slope = grad(local)(start)
    newton = start - torch.linalg.solve(hessian(local)(start), slope)
    descent = start - slope / (2 * w.sum())
    unit = -grad(lambda f: 0.5 * ((w / w.sum()) * (v - f).square().sum(1)).sum())(torch.zeros_like(start))
    gaussian = (k.square().sum(1) / (2 * root)).exp() * (-(q - k).square().sum(1) / (2 * root)).exp()
    smoothed = gaussian @ v / gaussian.sum()
    attention = attend(k, v, q)
    identity = max(gap(found, attention) for found in (newton, descent, unit, smoothed))
    return identity, gap(start + attention, newton)


def shared_rate_gap(memory: Memory, random: torch.Generator) -> float:
    """How far the functional step from F = 0 is from attention when its rate 1 / sum_i w_i(q) is that of another query: the loss changes
    with the query, and nothing is learned that two queries share."""
    k, v, q = memory.keys, memory.values, memory.query
    root = math.sqrt(len(q))
    other = _normal(random, len(q))
    w, w_other = ((k @ asked / root).exp() for asked in (q, other))
    return gap(w @ v / w_other.sum(), attend(k, v, q))


# (iii)


def hopfield_energy(state: Float[Tensor, " width"], patterns: Float[Tensor, "pattern width"], beta: float) -> Float[Tensor, ""]:
    """E(xi) = -1/beta log sum_i exp(beta x_i . xi) + 1/2 |xi|^2."""
    return -(beta * patterns @ state).logsumexp(0) / beta + 0.5 * state.square().sum()


def hopfield(memory: Memory, random: torch.Generator) -> tuple[float, float]:
    """Three tied forms: xi - grad E = X^T softmax(beta X xi); values V = K M^T read out after retrieval, Att = M grad_q sqrt(d) lse; and in
    the residual stream, scores x . A x_i and values c A x_i: what is added is c grad_x lse.

    Counterexample: values of their own, held against the best multiple of the gradient.
    """
    k, v, q = memory.keys, memory.values, memory.query
    d = len(q)
    beta = 1 / math.sqrt(d)
    retrieved = q - grad(hopfield_energy)(q, k, beta)
    readout = _normal(random, v.shape[1], d)
    read = readout @ grad(lambda x: (k @ x * beta).logsumexp(0) / beta)(q)
    a = _normal(random, d, d)  # W_Q^T W_K

    def lse(x: Tensor) -> Tensor:
        return (k @ a.mT @ x * beta).logsumexp(0)

    gradient = grad(lse)(q)
    weights = (k @ a.mT @ q * beta).softmax(0)
    tied, own = weights @ (k @ (1.7 * a).mT), weights @ (k @ _normal(random, d, d).mT)
    identity = max(gap(retrieved, attend(k, k, q)), gap(read, attend(k, k @ readout.mT, q)), gap(1.7 / beta * gradient, tied))
    best = (own @ gradient) / (gradient @ gradient)
    return identity, gap(best * gradient, own)


def jacobian_asymmetry(field: Callable[[Tensor], Tensor], at: Float[Tensor, " width"]) -> float:
    """|J - J^T| / |J + J^T| of a vector field: zero where it is a gradient."""
    jacobian = jacrev(field)(at)
    return ((jacobian - jacobian.mT).norm() / (jacobian + jacobian.mT).norm()).item()


# (iv)


def augmented_state(memory: Memory, random: torch.Generator) -> tuple[float, float]:
    """Att = grad_lambda log sum_i exp(k_i . q / sqrt(d) + v_i . lambda) at lambda = 0, whatever the values.

    Counterexample: after a first step lambda is not zero, and the scores change with it.
    """
    k, v, q = memory.keys, memory.values, memory.query

    def lse(state: Tensor) -> Tensor:
        return (k @ q / math.sqrt(len(q)) + v @ state).logsumexp(0)

    zero, attention = torch.zeros(v.shape[1], dtype=v.dtype), attend(k, v, q)
    return gap(grad(lse)(zero), attention), gap(grad(lse)(attention), attention)


def token_flow(memory: Memory, random: torch.Generator) -> tuple[float, float]:
    """Tokens x_i that are queries, keys and values alike: sum_j exp(beta x_i . x_j) x_j is the gradient by x_i of
    1 / (2 beta) sum_ij exp(beta x_i . x_j).

    Counterexample: with softmax's normalisation of rows the field of all tokens has no symmetric Jacobian, so that it is no gradient.
    """
    x = F.normalize(memory.keys, dim=1)
    beta = math.sqrt(x.shape[1])

    def energy(x: Tensor) -> Tensor:
        return (beta * x @ x.mT).exp().sum() / (2 * beta)

    def normalised(flat: Tensor) -> Tensor:
        tokens = flat.view_as(x)
        return ((beta * tokens @ tokens.mT).softmax(1) @ tokens).flatten()

    return gap(grad(energy)(x), (beta * x @ x.mT).exp() @ x), jacobian_asymmetry(normalised, x.flatten())


def rank_one_update(
    weight: Float[Tensor, "output width"], seen: Float[Tensor, " width"], alone: Float[Tensor, " width"]
) -> Float[Tensor, "output width"]:
    """`Delta W = W (A(C, x) - A(x)) A(x)^T / |A(x)|^2`: W + Delta W reads A(x) as W reads A(C, x)."""
    return torch.outer(weight @ (seen - alone), alone) / alone.square().sum()


def implicit_update(memory: Memory, random: torch.Generator) -> tuple[float, float]:
    """W A(C, x) = (W + Delta W) A(x), for attention with and without a context, and for any two vectors as well.

    Counterexample: the update that one query makes, for another.
    """
    k, v, q = memory.keys, memory.values, memory.query
    context = len(k) // 2
    weight, other, anything = (_normal(random, *shape) for shape in ((7, v.shape[1]), (len(q),), (v.shape[1],)))
    seen, alone = attend(k, v, q), attend(k[context:], v[context:], q)
    update = rank_one_update(weight, seen, alone)
    identity = max(
        gap((weight + update) @ alone, weight @ seen),
        gap((weight + rank_one_update(weight, anything, alone)) @ alone, weight @ anything),
    )
    seen_other, alone_other = attend(k, v, other), attend(k[context:], v[context:], other)
    return identity, gap(update @ alone_other, weight @ (seen_other - alone_other))


STATEMENTS: dict[str, Check] = {
    "linear_objective": linear_objective,
    "first_order": first_order,
    "local_least_squares": local_least_squares,
    "hopfield": hopfield,
    "augmented_state": augmented_state,
    "token_flow": token_flow,
    "implicit_update": implicit_update,
}


def identity_records(settings: Identities, root: int) -> Iterator[Row]:
    """For each statement and seed the largest gap of its identity and the median gap of its counterexample over the problems; and what else
    the claims read of a statement."""
    for seed in range(settings.seeds):
        base = {"study": STUDY, "experiment": EXPERIMENT, "seed": seed}
        memories = [
            draw(generator(root, STUDY, EXPERIMENT, "memory", "evaluate", seed, number), settings)
            for number in range(settings.problems)
        ]
        for name, check in STATEMENTS.items():
            random = torch.Generator().manual_seed(
                int(generator(root, STUDY, EXPERIMENT, name, "evaluate", seed).integers(2**63))
            )
            identities, counterexamples = zip(*(check(memory, random) for memory in memories), strict=True)
            numbers = {"identity_gap": max(identities), "counterexample_gap": float(np.median(counterexamples))}
            if name == "linear_objective":
                numbers["shared_gradient_gap"] = max(map(losses_with_this_gradient, memories))
            if name == "first_order":
                numbers["uncentred_gap"] = float(np.median([uncentred_gap(memory) for memory in memories]))
                numbers["remainder_order"] = float(np.median([remainder_order(memory) for memory in memories]))
            if name == "local_least_squares":
                numbers["shared_rate_gap"] = float(np.median([shared_rate_gap(memory, random) for memory in memories]))
            for metric, value in numbers.items():
                yield base | {"variant": name, "metric": metric, "value": value}
