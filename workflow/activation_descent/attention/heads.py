"""Does a head hold the construction? A score of its weights, and what chance gives.

The construction of a gradient step (von Oswald et al. 2022, proposition 1) needs, in some basis of the residual stream, two orthogonal
subspaces X and Y, with `M = W_Q W_K^T` a positive multiple of the projector on X and `B = W_V W_O` a negative multiple of that on Y.
Five numbers say how far a head is from it, whatever the basis; each is 1 for the construction:

    symmetry     |sym(M)|^2 / |M|^2
    positivity   sum of the positive eigenvalues of sym(M) / sum of their absolute values
    flatness     (sum_i s_i)^2 / (r sum_i s_i^2) over the r largest singular values, which hold 90 % of the energy
    the same of -B (where positivity is B's negativity)
    separation   1 - |P_X P_Y|_F^2 / min(r_X, r_Y), P_X and P_Y the projectors on the r leading singular directions of M and of B

The score is the least of them. M and B have directions that they read and directions that they write to, which coincide in the
construction; the separation is the least of the four pairs. The Hopfield tie (Ramsauer et al. 2021) is another construction:
`t = <B^T, M> / (|B| |M|)`, 1 where what a head adds is the gradient of its log sum exp by the query. (With row vectors that gradient is
`sum_i a_i x_i M^T`; hence the transpose.)

Nulls. Random bases: the same singular values between independent uniform bases, for all heads at once; the largest of their scores is what
the largest score of a model must exceed. Other heads: M of one head with B of another.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from activation_descent.attention.circuits import Circuits

ENERGY = 0.9
PARTS = ("symmetry", "positivity", "flatness")

Basis = Float[Tensor, "head width rank"]


@dataclass(frozen=True)
class Side:
    """M or -B of every head.

    Attributes:
        numbers: `PARTS`.
        bases: leading singular directions, left and right, with zeros in the place of those beyond r.
        singular: singular values, falling.
        rank: r.
    """

    numbers: dict[str, Float[Tensor, " head"]]
    bases: tuple[Basis, Basis]
    singular: Float[Tensor, "head rank"]
    rank: Float[Tensor, " head"]


def side(left: Basis, right: Basis, sign: float = 1.0, singular: Float[Tensor, "head rank"] | None = None) -> Side:
    """The products `sign * left right^T`, taken apart.

    Products of a small rank live on the span of their factors, whose 2 * rank dimensions are all that is decomposed.

    Args:
        singular: singular values, falling, if the factors are singular vectors already; then the product is `left diag(singular) right^T`.
    """
    if singular is not None:
        scaled = left * singular[:, None]
        span, small_left, small_right = _on_span(scaled, right)
        matrix = sign * small_left @ small_right.mT
        u, s, v = left, singular, right
    else:
        span, small_left, small_right = _on_span(left, right)
        matrix = sign * small_left @ small_right.mT
        u, s, vt = torch.linalg.svd(matrix)
        rank = left.shape[2]
        u, s, v = u[:, :, :rank], s[:, :rank], vt.mT[:, :, :rank]
        u, v = (basis if span is None else span @ basis for basis in (u, v))
    symmetric = (matrix + matrix.mT) / 2
    eigenvalues = torch.linalg.eigvalsh(symmetric)
    energy = s.square().sum(1)
    kept = s.square().cumsum(1) - s.square() < ENERGY * energy[:, None]
    r = kept.sum(1).to(s.dtype)

    def share(part: Tensor, whole: Tensor) -> Tensor:
        return part / torch.where(whole > 0, whole, 1)  # a head without weights is nowhere near the construction

    numbers = {
        "symmetry": share(symmetric.square().sum((1, 2)), energy),
        "positivity": share(eigenvalues.clamp(min=0).sum(1), eigenvalues.abs().sum(1)),
        "flatness": share((s * kept).sum(1).square(), r * (s * kept).square().sum(1)),
    }
    return Side(numbers, (u * kept[:, None], v * kept[:, None]), s, r)


def _on_span(left: Basis, right: Basis) -> tuple[Tensor | None, Tensor, Tensor]:
    """Factors in the coordinates of an orthonormal basis of their span, and that basis; none if it would be no smaller."""
    if 2 * left.shape[2] >= left.shape[1]:
        return None, left, right
    span, _ = torch.linalg.qr(torch.cat([left, right], dim=2))
    return span, span.mT @ left, span.mT @ right


def sides(circuits: Circuits) -> tuple[Side, Side]:
    """M and -B of every head."""
    return side(circuits.query, circuits.key), side(circuits.value, circuits.output.mT, sign=-1.0)


def separation(m: Side, b: Side) -> Float[Tensor, " head"]:
    """1 minus the largest overlap of X and Y."""
    least = torch.minimum(m.rank, b.rank).clamp(min=1)
    overlaps = [(x.mT @ y).square().sum((1, 2)) / least for x in m.bases for y in b.bases]
    return 1 - torch.stack(overlaps).amax(0)


def parts_of(m: Side, b: Side) -> dict[str, Float[Tensor, " head"]]:
    """The seven numbers of each head."""
    of_m = {f"{name}_qk": value for name, value in m.numbers.items()}
    of_b = {f"{name}_ov": value for name, value in b.numbers.items()}
    return of_m | of_b | {"separation": separation(m, b)}


def score(m: Side, b: Side) -> Float[Tensor, " head"]:
    """The least of the numbers."""
    return torch.stack([*parts_of(m, b).values()]).amin(0)


def hopfield_tie(circuits: Circuits) -> Float[Tensor, " head"]:
    """`t = <B^T, M>_F / (|B| |M|)`; zero for a head without weights."""
    q, k, v, o = circuits.query, circuits.key, circuits.value, circuits.output
    product = ((q.mT @ o.mT) * (k.mT @ v)).sum((1, 2))  # tr(M B) = tr(Q K^T V O) = sum (O Q)^T * (K^T V)
    lengths = ((q.mT @ q) * (k.mT @ k)).sum((1, 2)) * ((v.mT @ v) * (o @ o.mT)).sum((1, 2))
    return product / torch.where(lengths > 0, lengths, 1).sqrt()


# Nulls


def random_bases(m: Side, b: Side, rng: np.random.Generator) -> tuple[Side, Side, Float[Tensor, " head"]]:
    """Heads with the same singular values between independent uniform bases: M, -B and the Hopfield tie."""
    shape = m.bases[0].shape

    def basis() -> Basis:
        q, r = torch.linalg.qr(torch.from_numpy(rng.standard_normal(shape)))
        return q * r.diagonal(dim1=1, dim2=2).sign()[:, None]  # uniform, not what the algorithm prefers

    query, key, value, output = basis(), basis(), basis(), basis()
    product = (query * m.singular[:, None]).mT @ output, key.mT @ (value * b.singular[:, None])
    tie = (product[0] * product[1]).sum((1, 2)) / (m.singular.norm(dim=1) * b.singular.norm(dim=1)).clamp(min=1e-300)
    drawn = side(query, key, singular=m.singular), side(value, output, sign=-1.0, singular=b.singular)
    return *drawn, tie


def null_maxima(
    circuits: Circuits, draws: int, rng: np.random.Generator
) -> tuple[Float[np.ndarray, " draw"], Float[np.ndarray, " draw"]]:
    """The largest score and the largest |t| over all heads, in each of `draws` random bases."""
    m, b = sides(circuits)
    scores, ties = [], []
    for _ in range(draws):
        *drawn, tie = random_bases(m, b, rng)
        scores.append(score(*drawn).max().item())
        ties.append(tie.abs().max().item())
    return np.array(scores), np.array(ties)


def adjusted_p(observed: Float[Tensor, " head"], maxima: Float[np.ndarray, " draw"]) -> Float[np.ndarray, " head"]:
    """p of each head, adjusted for all of them: how often the largest of a null model is as large."""
    reached = (maxima[:, None] >= observed.numpy()).sum(0)
    return (1 + reached) / (1 + len(maxima))


def crossed_scores(circuits: Circuits) -> tuple[Float[Tensor, "head head"], Bool[Tensor, "head head"]]:
    """Scores of M of one head (rows) with B of another (columns), and where they are another's."""
    m, b = sides(circuits)
    own = torch.stack([*m.numbers.values()]).amin(0)[:, None].minimum(torch.stack([*b.numbers.values()]).amin(0))
    heads = len(circuits)
    crossed = torch.stack([separation(m, _rolled(b, shift)) for shift in range(heads)], dim=1)  # head shift
    columns = (torch.arange(heads)[:, None] + torch.arange(heads)) % heads
    apart = torch.empty_like(own).scatter_(1, columns, crossed)
    return own.minimum(apart), ~torch.eye(heads, dtype=torch.bool)


def _rolled(b: Side, shift: int) -> Side:
    """The same heads, each in the place of the one `shift` before it."""
    return Side(
        b.numbers,
        tuple(basis.roll(-shift, dims=0) for basis in b.bases),
        b.singular.roll(-shift, dims=0),
        b.rank.roll(-shift, dims=0),
    )


def crossed_maxima(circuits: Circuits, draws: int, rng: np.random.Generator) -> Float[np.ndarray, " draw"]:
    """The largest score when every M goes with the B of another head, in random rearrangements that leave no head its own."""
    scores, _ = crossed_scores(circuits)
    table, heads = scores.numpy(), len(circuits)
    maxima = []
    while len(maxima) < draws:
        order = rng.permutation(heads)
        if (order != np.arange(heads)).all():
            maxima.append(table[np.arange(heads), order].max())
    return np.array(maxima)


# Controls


def hand_made(rng: np.random.Generator, heads: int, width: int, rank: int) -> Circuits:
    """Heads that hold the construction under a random rotation: M a multiple of the projector on `rank` directions, or half of all if there
    are no more, B a negative multiple of that on as many others."""
    normal = torch.from_numpy(rng.standard_normal((heads, width, width)))
    rotation, _ = torch.linalg.qr(normal)
    size = min(rank, width // 2)
    x, y = rotation[:, :, :size], rotation[:, :, size : 2 * size]
    places = range(1, heads + 1)
    return Circuits(0.7 * x, x, -0.2 * y, y.mT, [1] * heads, [*places], "by hand")
