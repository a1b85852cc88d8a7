"""Does a position hold how wrong the prediction before it was? (predictive coding, D2)

Position s + 1 is the first that can know the error of p_s, the prediction of x_{s+1}. Whether its state h_{s+1}^l does is asked of a ridge
regression, by what h_{s+1}^l adds on held-out documents to what the tokens alone tell:

    target    y = -log p_s^L(x_{s+1})
    base      mean of y for the pair (x_s, x_{s+1}) in other documents, shrunk to the mean; one-hots of x_s and of x_{s+1}
    gain      R^2 of base and h_{s+1}^l minus R^2 of base

A gain alone is no error: a state that holds the prediction p_s, or how sure it was, tells much of y. Predictions tell as much of the same
number for another word x', -log p_s(x') with x' from another document; errors do not. So the statistic is the difference, the
specificity. Beside it: the entropy of p_s (how sure it was), the number five positions earlier (a document's difficulty), and the error
as a vector in the embedding space, sum_v (e(x_{s+1}) - p_s)(v) W_v, of which the base takes e(x_{s+1}) away.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

LAG = 5  # of the wrong position
FIRST_POSITION = 8
SHRINK = 8.0  # documents' worth of the mean in the mean of a pair
PENALTY = 1.0  # on one-hot columns, a count of one
STATE_PENALTY = 0.01  # on standardised features of the state, times the number of examples
TARGETS = ("error", "counterfactual", "entropy", "wrong_lag", "vector")


@dataclass(frozen=True)
class Examples:
    """What a set of documents says; the example of position s is one of `rows * positions`, document after document.

    Attributes:
        words: V.
        pair: for each target (x_s, x_{s+1}), (x_s, x') or five positions earlier, whose mean the base knows.
        marks: for each target the words whose one-hots the base has.
        target: y for each target; "vector" has a column for each feature, others have one.
    """

    rows: int
    words: int
    pair: Mapping[str, tuple[Int[Tensor, " example"], Int[Tensor, " example"]]]
    marks: Mapping[str, tuple[Int[Tensor, " example"], ...]]
    target: Mapping[str, Float[Tensor, "example column"]]


def positions(length: int) -> Int[Tensor, " position"]:
    """The positions s of a document that examples are made of."""
    return torch.arange(FIRST_POSITION, length - 1)


def examples(
    log_p: Float[Tensor, "row token word"], tokens: Int[Tensor, "row token"], embedding: Float[Tensor, "word feature"]
) -> Examples:
    """The targets and what the base may know of them.

    Args:
        log_p: the model's own predictions, at its last layer.
        embedding: W.
    """
    place = positions(tokens.shape[1])
    at, following = tokens[:, place], tokens[:, place + 1]
    other = following.roll(1, 0)  # another document's word at the same position
    surprise = -log_p[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]
    prediction = log_p[:, place]
    error = embedding[following] - prediction.exp() @ embedding
    x, y, z = at.flatten(), following.flatten(), other.flatten()
    lagged = (tokens[:, place - LAG].flatten(), tokens[:, place - LAG + 1].flatten())
    return Examples(
        len(tokens),
        log_p.shape[-1],
        pair={"error": (x, y), "counterfactual": (x, z), "entropy": (x, y), "wrong_lag": lagged, "vector": (x, y)},
        marks={"error": (x, y), "counterfactual": (x, y, z), "entropy": (x, y), "wrong_lag": lagged, "vector": (x, y)},
        target={
            "error": surprise[:, place].reshape(-1, 1),
            "counterfactual": -prediction.gather(-1, other[..., None]).reshape(-1, 1),
            "entropy": -(prediction.exp() * prediction).sum(-1).reshape(-1, 1),
            "wrong_lag": surprise[:, place - LAG].reshape(-1, 1),
            "vector": error.flatten(0, 1),
        },
    )


def state_examples(states: Float[Tensor, "row token feature"]) -> Float[Tensor, "example feature"]:
    """h_{s+1} of each example."""
    return states[:, positions(states.shape[1]) + 1].flatten(0, 1)


@dataclass(frozen=True)
class Explained:
    """Sums of squares of each held-out document.

    Attributes:
        total: around the training mean.
        base: left by the base.
        full: left by the base and the states of each layer.
    """

    total: Float[Tensor, " row"]
    base: Float[Tensor, " row"]
    full: Float[Tensor, "state row"]

    @property
    def base_share(self) -> float:
        """R^2 of the base."""
        return float(1 - self.base.sum() / self.total.sum())

    def gains(self, weights: Float[Tensor, "*batch row"] | None = None) -> Float[Tensor, "*batch state"]:
        """What each layer's states add to R^2.

        Args:
            weights: how often a resample has each document; default once.
        """
        weights = torch.ones_like(self.total) if weights is None else weights
        return (weights @ (self.base - self.full).T) / (weights @ self.total)[..., None]


def explain(
    target: str,
    train: Examples,
    train_states: Float[Tensor, "state example feature"],
    test: Examples,
    test_states: Float[Tensor, "state other feature"],
) -> Explained:
    """Fit one target with and without the states on one set of documents, and look at another."""
    y, y_test = (part.target[target].double() for part in (train, test))
    mean = y.mean(0)
    base, base_test = (_base(target, part, train) for part in (train, test))
    factor = torch.linalg.cholesky(base.gram() + PENALTY * torch.eye(base.columns, dtype=y.dtype))
    of_y = torch.cholesky_solve(base.transposed(y - mean), factor)
    rest, left = y - mean - base.times(of_y), y_test - mean - base_test.times(of_y)
    fulls = []
    for states, states_test in zip(train_states.double(), test_states.double(), strict=True):
        scale, centre = states.std(0).clamp(min=1e-6), states.mean(0)
        h, h_test = (states - centre) / scale, (states_test - centre) / scale
        of_h = torch.cholesky_solve(base.transposed(h), factor)
        # Ridge of both blocks at once, by the Schur complement of the base
        inner = h.mT @ (h - base.times(of_h)) + STATE_PENALTY * len(y) * torch.eye(h.shape[1], dtype=h.dtype)
        beta = torch.linalg.solve(inner, h.mT @ rest)
        fulls.append(_by_row(left - (h_test - base_test.times(of_h)) @ beta, test.rows))
    return Explained(_by_row(y_test - mean, test.rows), _by_row(left, test.rows), torch.stack(fulls))


@dataclass(frozen=True)
class _Base:
    """A matrix B of one-hots, a block for each mark, and a few dense columns; never written out.

    Attributes:
        words: V, columns of a block.
        marks: for each block the column that is 1.
    """

    words: int
    marks: tuple[Int[Tensor, " example"], ...]
    dense: Float[Tensor, "example column"]

    @property
    def columns(self) -> int:
        return len(self.marks) * self.words + self.dense.shape[1]

    def times(self, weights: Float[Tensor, "column output"]) -> Float[Tensor, "example output"]:
        """B weights."""
        *blocks, dense = weights.split([*[self.words] * len(self.marks), self.dense.shape[1]])
        return sum((block[mark] for block, mark in zip(blocks, self.marks, strict=True)), self.dense @ dense)

    def transposed(self, x: Float[Tensor, "example output"]) -> Float[Tensor, "column output"]:
        """B^T x."""
        sums = [torch.zeros(self.words, x.shape[1], dtype=x.dtype).index_add_(0, mark, x) for mark in self.marks]
        return torch.cat([*sums, self.dense.mT @ x])

    def gram(self) -> Float[Tensor, "column column"]:
        """B^T B."""
        words, one_hots = self.words, len(self.marks) * self.words
        gram = torch.zeros(self.columns, self.columns, dtype=self.dense.dtype)
        for i, first in enumerate(self.marks):
            for j, second in enumerate(self.marks):
                pairs = torch.bincount(first * words + second, minlength=words**2).view(words, words)
                gram[i * words : (i + 1) * words, j * words : (j + 1) * words] = pairs
        gram[:, one_hots:] = self.transposed(self.dense)
        gram[one_hots:] = gram[:, one_hots:].mT
        return gram


def _base(target: str, part: Examples, train: Examples) -> _Base:
    """One-hots, a constant, and for targets of one column the pair's mean in the training documents."""
    dense = [torch.ones(len(part.target[target]), dtype=torch.float64)]
    if train.target[target].shape[1] == 1:
        dense.append(_pair_means(target, part, train) - train.target[target].double().mean())
    return _Base(part.words, part.marks[target], torch.stack(dense, 1))


def _pair_means(target: str, part: Examples, train: Examples) -> Float[Tensor, " example"]:
    """Means of y over the training examples of each pair, other documents than the example's own."""
    y = train.target[target][:, 0].double()
    cell, cell_train = (_cell(target, one) for one in (part, train))
    total = torch.zeros(part.words**2, dtype=y.dtype).index_add_(0, cell_train, y)[cell]
    count = torch.bincount(cell_train, minlength=part.words**2)[cell].double()
    if part is train:
        # An example's own document would tell the training fit more than it can tell of others
        row = torch.arange(len(y)) // (len(y) // train.rows)
        _, place = torch.unique(cell * train.rows + row, return_inverse=True)
        total = total - torch.zeros(int(place.max()) + 1, dtype=y.dtype).index_add_(0, place, y)[place]
        count = count - torch.bincount(place)[place]
    return (total + SHRINK * y.mean()) / (count + SHRINK)


def _cell(target: str, part: Examples) -> Int[Tensor, " example"]:
    first, second = part.pair[target]
    return first * part.words + second


def _by_row(residual: Float[Tensor, "example column"], rows: int) -> Float[Tensor, " row"]:
    return residual.square().view(rows, -1).sum(1)


def specificity(
    true: Explained, counterfactual: Explained, weights: Float[Tensor, "*batch row"] | None = None
) -> Float[Tensor, "*batch state"]:
    """The gain for the error minus that for another word's number, at each layer.

    The latter counts as zero where it is below, as it is where the decoder has learned what does not carry over to other documents: a
    failure to read predictions speaks for no error.
    """
    return true.gains(weights) - counterfactual.gains(weights).clamp(min=0)
