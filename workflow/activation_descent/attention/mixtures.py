"""Sequences for layers that were not trained for regression alone.

Every token is a pair (a_i, b_i) of d entries each: what came, and what came after it. The query is (a_q, 0) and asks for b_q.

    regression   a = x ~ U(-r, r)^d, b = (w . x, 0, .., 0): the tasks of the regression study (von Oswald et al. 2022)
    dynamics     a = s_i, b = s_{i+1} = W s_i + noise, W orthogonal: autoregressive linear dynamics (von Oswald et al. 2023)
    markov       a and b unit vectors of consecutive states of a chain with random transitions
    copying      a and b consecutive vectors of a random list that repeats

The last three are one sequence, seen up to a random place: the context grows from one pair to all of them. Inputs have the second moment of
regression's, r^2 / 3 an entry, so that one layer can serve all.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from activation_descent.attention import OTHERS
from activation_descent.regression.tasks import Tasks, linear_tasks


@dataclass(frozen=True)
class Mixture:
    """What sequences are made of.

    Attributes:
        width: d.
        pairs: N, of regression; the longest context of the others.
        half_range: r.
        noise: of the dynamics, its standard deviation over a state's.
        symbols: states of a chain.
        concentration: of a chain's transitions, Dirichlet: small for one successor, large for many.
        period: vectors of the list to copy.
    """

    width: int
    pairs: int
    half_range: float
    noise: float
    symbols: int
    concentration: float
    period: int

    @property
    def spread(self) -> float:
        """Standard deviation of an entry of a."""
        return self.half_range / math.sqrt(3)


@dataclass(frozen=True)
class Sequences:
    """A batch.

    Attributes:
        tokens: context pairs, then the query.
        visible: which pairs of the context are there.
        target: b_q.
    """

    tokens: Float[Tensor, "*start task pair feature"]
    visible: Bool[Tensor, "*start task context"]
    target: Float[Tensor, "*start task width"]


def regression(rng: np.random.Generator, mixture: Mixture, number: int, dtype: type = np.float32) -> tuple[Sequences, Tasks]:
    """Regression prompts, also as the regression study has them."""
    tasks = linear_tasks(rng, number, mixture.width, mixture.pairs, mixture.half_range, dtype=dtype)
    tokens = tasks.tokens.new_zeros(number, mixture.pairs + 1, 2 * mixture.width)
    tokens[..., : mixture.width + 1] = tasks.tokens.permute(2, 1, 0)
    target = tokens.new_zeros(number, mixture.width)
    target[:, 0] = tasks.target
    return Sequences(tokens, torch.ones(number, mixture.pairs, dtype=torch.bool), target), tasks


def sequence(kind: str, rng: np.random.Generator, mixture: Mixture, number: int, length: int) -> Float[Tensor, "task time width"]:
    """Vectors of one of `OTHERS`, one after the other.

    Raises:
        ValueError: if there is no such kind.
    """
    match kind:
        case "dynamics":
            return torch.from_numpy(_dynamics(rng, mixture, number, length))
        case "markov":
            return torch.from_numpy(_chain(rng, mixture, number, length))
        case "copying":
            listed = mixture.spread * rng.standard_normal((number, mixture.period, mixture.width))
            return torch.from_numpy(listed[:, np.arange(length) % mixture.period])
    raise ValueError(f"there are no sequences of kind '{kind}'; one of {', '.join(OTHERS)}")


def _dynamics(rng: np.random.Generator, mixture: Mixture, number: int, length: int) -> Float[np.ndarray, "task time width"]:
    q, r = np.linalg.qr(rng.standard_normal((number, mixture.width, mixture.width)))
    step = q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None]  # uniform over orthogonal matrices
    noise = mixture.noise * mixture.spread * rng.standard_normal((length, number, mixture.width))
    states = [mixture.spread * rng.standard_normal((number, mixture.width))]
    for added in noise[1:]:
        states.append((step @ states[-1][..., None])[..., 0] + added)
    return np.stack(states, axis=1)


def _chain(rng: np.random.Generator, mixture: Mixture, number: int, length: int) -> Float[np.ndarray, "task time width"]:
    """States are vectors of the standard basis, other ones in every chain, as long as an input of regression."""
    cumulated = rng.dirichlet(np.full(mixture.symbols, mixture.concentration), (number, mixture.symbols)).cumsum(-1)
    places = rng.random((number, mixture.width)).argsort(1)[:, : mixture.symbols]
    draws = rng.random((length, number))
    state = (draws[0] * mixture.symbols).astype(int)
    chain = [state]
    for draw in draws[1:]:
        row = cumulated[np.arange(number), state]
        state = np.minimum((row < draw[:, None]).sum(1), mixture.symbols - 1)
        chain.append(state)
    place = np.take_along_axis(places, np.stack(chain, axis=1), axis=1)
    return math.sqrt(mixture.width) * mixture.spread * np.eye(mixture.width)[place]


def autoregressive(
    kind: str, rng: np.random.Generator, mixture: Mixture, number: int, seen: int | None = None, dtype: type = np.float32
) -> Sequences:
    """Sequences of one of `OTHERS`, each seen up to a place of its own.

    Args:
        seen: pairs that are visible in all of them; from one to all at random unless given.
    """
    vectors = sequence(kind, rng, mixture, number, mixture.pairs + 2).numpy().astype(dtype)
    context = np.full(number, seen) if seen else rng.integers(1, mixture.pairs + 1, number)
    rows = np.arange(number)
    pairs = np.concatenate([vectors[:, :-1], vectors[:, 1:]], axis=2)  # task pair feature
    query = np.concatenate([vectors[rows, context], np.zeros((number, mixture.width), dtype)], axis=1)
    tokens = np.concatenate([pairs[:, : mixture.pairs], query[:, None]], axis=1)
    visible = np.arange(mixture.pairs) < context[:, None]
    return Sequences(*map(torch.from_numpy, (tokens, visible, vectors[rows, context + 1])))
