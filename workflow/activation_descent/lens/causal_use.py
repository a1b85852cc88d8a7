"""Do later positions use the error? (predictive coding, D4)

The stream at (s, l) is moved by +-0.25 |h| along the gradient of log p_s^l(v), with v = x_{s+1} the word that does follow, and the
remaining blocks run on. With p_s(v) larger the error at v is smaller, and a model that corrects by errors pushes v less wherever it
reads it: the slope of the centred final logit of v at t > s + 1 by the change of p_s(v) is negative, and larger where x_t = x_s. What
copies predictions or shares features has a positive slope.

    condition       moved along                                              what it is for
    error           the gradient for v = x_{s+1}
    random_word     the gradient for a random word v, and v's logit read     an error at v; also any competition between words
    off_identity    the gradient without the directions in which states      is the move more than "looks like another token"?
                    of different tokens differ on average
    orthogonal      the difference of two documents' states, without the     does any move of this length do it?
                    gradient
    cut_error       as error, with the edges s + 1 -> s cut                  an error has no other way to be formed
    cut_direct      as error, with the edges t -> s cut for t > s + 1        prediction errors do not pass there, copies do

Slopes are `sum d dp / sum dp^2` over documents and positions, with d and dp the changes of logit and probability between the moves to
either side. The orthogonal move, which has next to no dp, is held against that of the error.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from activation_descent.lens.update_regression import kernels

CONDITIONS = ("error", "random_word", "off_identity", "orthogonal", "cut_error", "cut_direct")
CONTEXTS = ("same", "other")  # whether x_t is x_s
STEP = 0.25  # of the state's length
IDENTITY_DIRECTIONS = 24
FEWEST = 4  # states of a token, for its mean to count
FIRST_POSITION, LAST_POSITIONS = 8, 8  # s leaves so many positions before and behind it

State = Float[Tensor, "row feature"]
Lens = Callable[[State], Float[Tensor, "row word"]]
Resume = Callable[[Float[Tensor, "row token feature"], Bool[Tensor, "row query key"] | None], Float[Tensor, "row token word"]]


def identity_directions(
    states: Float[Tensor, "row token feature"], tokens: Int[Tensor, "row token"]
) -> Float[Tensor, "direction feature"]:
    """The leading directions, 24 at most, in which the mean states of different tokens differ; orthonormal."""
    flat, kind = states.flatten(0, 1).double(), tokens.flatten()
    count = torch.bincount(kind)
    means = torch.zeros(len(count), flat.shape[1], dtype=flat.dtype).index_add_(0, kind, flat)
    means = means[count >= FEWEST] / count[count >= FEWEST][:, None]
    _, lengths, directions = torch.linalg.svd(means - means.mean(0), full_matrices=False)
    kept = (lengths > 1e-6 * lengths[0]).sum().clamp(max=IDENTITY_DIRECTIONS)
    return directions[:kept].to(states.dtype)


@dataclass(frozen=True)
class Responses:
    """What moves at (s, l) did, one condition.

    Attributes:
        change: of p_s^l(v), from the move down to the move up.
        response: of the centred final log-probability of v at each position.
        same: whether x_t = x_s.
        later: whether t > s + 1.
        weight: alpha^k_ts of each kernel of the update regression.
    """

    change: Float[Tensor, " row"]
    response: Float[Tensor, "row token"]
    same: Bool[Tensor, "row token"]
    later: Bool[Tensor, "row token"]
    weight: Float[Tensor, "row token kernel"]

    def slope(self, context: str, weights: Float[Tensor, "*batch row"] | None = None) -> Float[Tensor, "*batch"]:
        """Centred logits per unit of probability, at positions of one of `CONTEXTS`; not a number where there is none.

        Args:
            weights: how often a resample has each document; default once.
        """
        chosen = self.later & (self.same if context == "same" else ~self.same)
        change = self.change[:, None].double()
        weights = torch.ones(len(change), dtype=change.dtype) if weights is None else weights
        return (weights @ (self.response * change * chosen).sum(1)) / (weights @ (change.square() * chosen).sum(1))

    def agreement(self, drive: Float[Tensor, " kernel"]) -> float:
        """Slope of the responses by what the update regression predicts, `sum_k drive_k alpha^k_ts dp`; 1 if they agree.

        Args:
            drive: b_k^-, summed over the layers that are left.
        """
        predicted = (self.weight.double() @ drive.double()) * self.change[:, None] * self.later
        return float((self.response * predicted).sum() / predicted.square().sum())


def respond(
    tokens: Int[Tensor, "row token"],
    states: Float[Tensor, "row token feature"],
    lens: Lens,
    resume: Resume,
    identity: Float[Tensor, "direction feature"],
    rng: np.random.Generator,
    cuts: bool = True,
) -> Mapping[str, Responses]:
    """Move one position of each document, in each of `CONDITIONS`.

    Args:
        states: at layer l.
        lens: log-probabilities at l.
        resume: final log-probabilities of blocks l and on, with edges of attention that are cut.
        identity: see `identity_directions`.
        cuts: whether `resume` can cut edges; if not, the conditions that need it are left out.
    """
    rows, length = tokens.shape
    every = torch.arange(rows)
    s = torch.from_numpy(rng.integers(FIRST_POSITION, length - LAST_POSITIONS, size=rows))
    h, following = states[every, s], tokens[every, s + 1]
    words = lens(h).shape[-1]
    other_word = (following + torch.from_numpy(rng.integers(1, words, size=rows))) % words
    along, along_other = _gradient(lens, h, following), _gradient(lens, h, other_word)
    # A shift and not a permutation, in which a document may meet itself
    data = h.roll(1, 0) - h
    moves = {
        "error": (along, following),
        "random_word": (along_other, other_word),
        "off_identity": (along - along @ identity.T @ identity, following),
        "orthogonal": (data - (data * _unit(along)).sum(-1, keepdim=True) * _unit(along), following),
        "cut_error": (along, following),
        "cut_direct": (along, following),
    }
    place = torch.arange(length)
    later, same = place > s[:, None] + 1, tokens == tokens[every, s][:, None]
    weight = torch.stack([kernel[every, :, s] for kernel in kernels(tokens).values()], -1)
    # Edges (query, key)
    closed = {name: torch.zeros(rows, length, length, dtype=torch.bool) for name in ("cut_error", "cut_direct")}
    closed["cut_error"][every, s + 1, s] = True
    closed["cut_direct"][every, :, s] = later

    found: dict[str, Responses] = {}
    for name, (direction, word) in moves.items():
        if name in closed and not cuts:
            continue
        step = STEP * h.norm(dim=-1, keepdim=True) * _unit(direction)
        sides = []
        with torch.no_grad():
            for moved in (h + step, h - step):
                full = states.clone()
                full[every, s] = moved
                final = resume(full, closed.get(name))
                centred = final[every, :, word] - final.mean(-1)
                sides.append((lens(moved)[every, word].exp(), centred))
        (p_up, up), (p_down, down) = sides
        change = found["error"].change if name == "orthogonal" else p_up - p_down
        found[name] = Responses(change, up - down, same, later, weight)
    return found


def _gradient(lens: Lens, h: State, word: Int[Tensor, " row"]) -> State:
    """grad_h log p(v), one position a row."""
    h = h.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        lens(h).gather(-1, word[:, None]).sum().backward()
    return h.grad


def _unit(vector: State) -> State:
    return vector / vector.norm(dim=-1, keepdim=True).clamp(min=1e-12)


def joined(parts: list[Responses]) -> Responses:
    """The same condition in several sets of documents."""
    return Responses(*(torch.cat([getattr(part, name) for part in parts]) for name in Responses.__dataclass_fields__))
