"""A language model whose every layer corrects its predictions by their errors: the positive control of the predictive-coding study.

Documents are chains of tokens with a bigram table of their own, drawn around one table that all documents share, so that there is
something to know beforehand and something to learn in context. With p_s the prediction of x_{s+1} at position s and e(.) a one-hot
vector, a layer does

    c_t <- c_t + eta sum_{s < t} alpha_ts (e(x_{s+1}) - p_s),    p = softmax(c),    c at first W[x_t].

The table W, the rate eta and the kernel alpha (softmax attention, query x_t, key x_s) are trained by next-token prediction at
every loop; the layer is the same in all loops. Errors are formed at position s + 1, which reads the prediction one position back, and
stand in the residual stream in two populations, relu(e - p) and relu(p - e), as in PredNet (Lotter et al. 2016). In one population
e - p the error is no more than the prediction and the token, both of which stand there anyway: whatever reads a linear function
of it reads the prediction. `populations=1` is that model, for comparison.

The stream is a rotation of five parts of V features each: c, the token, the token before it and the two kinds of error.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor, nn

from activation_descent.adam import Adam
from activation_descent.errors import DivergedError
from activation_descent.seeding import generator

PARTS = 5  # of the residual stream
FLOOR = 1e-6  # of a transition's weight, so that no row of a table is empty


@dataclass(frozen=True)
class ErrorCorrectionSettings:
    """What the control is and how it is trained.

    Attributes:
        words: V, tokens of the vocabulary.
        length: tokens of a document.
        loops: L, how often the layer is applied.
        concentration: how near a document's table is to the shared one; a row of it is Dirichlet with this total.
        key_size: features of the kernel's queries and keys.
        steps, rows, learning_rate: of Adam; the rate falls to zero linearly.
    """

    words: int
    length: int
    loops: int
    concentration: float
    key_size: int
    steps: int
    rows: int
    learning_rate: float


# Documents


def shared_table(rng: np.random.Generator, words: int) -> Float[np.ndarray, "word word"]:
    """The bigram table that documents have in common, rows drawn from the flat Dirichlet distribution."""
    return rng.dirichlet(np.ones(words), size=words)


def bigram_documents(
    rng: np.random.Generator, table: Float[np.ndarray, "word word"], number: int, length: int, concentration: float
) -> Int64[np.ndarray, "row token"]:
    """Markov chains, each with a table of its own: the row of word x is Dirichlet(concentration * table[x])."""
    words = len(table)
    weights = rng.standard_gamma(concentration * table, size=(number, words, words)) + FLOOR
    edges = weights.cumsum(-1)
    edges /= edges[..., -1:]
    tokens = np.empty((number, length), dtype=np.int64)
    tokens[:, 0] = rng.integers(words, size=number)
    draws, every = rng.random((length, number, 1)), np.arange(number)
    for place in range(1, length):
        tokens[:, place] = (edges[every, tokens[:, place - 1]] < draws[place]).sum(-1).clip(max=words - 1)
    return tokens


# The model


class ErrorCorrection(nn.Module):
    """The looped layer.

    Args:
        rng: draws the initial kernel and the basis of the stream.
        populations: 2 for rectified errors, 1 for signed ones.
    """

    def __init__(self, settings: ErrorCorrectionSettings, rng: np.random.Generator, populations: int = 2):
        super().__init__()
        words, size = settings.words, settings.key_size
        if populations not in (1, 2):
            raise ValueError(f"errors stand in one population or in two, not in {populations}")
        self.settings, self.populations = settings, populations
        self.prior = nn.Parameter(torch.zeros(words, words))  # W
        self.query = nn.Parameter(_normal(rng, words, size) / math.sqrt(size))
        self.key = nn.Parameter(_normal(rng, words, size) / math.sqrt(size))
        self.rate = nn.Parameter(torch.ones(()))  # eta
        basis = np.linalg.qr(rng.standard_normal((PARTS * words, PARTS * words)))[0]
        self.register_buffer("basis", torch.from_numpy(basis.astype(np.float32)))

    def embed(self, tokens: Int[Tensor, "row token"]) -> Float[Tensor, "row token part"]:
        """The parts of the stream before the first loop, not yet rotated: no errors, and predictions from x_t alone."""
        token = F.one_hot(tokens, self.settings.words).float()
        before = F.pad(token, (0, 0, 1, -1))
        return torch.cat([self.prior[tokens], token, before, torch.zeros_like(token), torch.zeros_like(token)], -1)

    def kernel(
        self,
        token: Float[Tensor, "row token word"],
        before: Float[Tensor, "row token word"],
        cut: Bool[Tensor, "row query key"] | None,
    ) -> Float[Tensor, "row query key"]:
        """alpha: weight at t of the error that stands at s + 1, by x_t and x_s."""
        scores = (token @ self.query) @ (before @ self.key).mT
        length = token.shape[1]
        closed = torch.ones(length, length, dtype=torch.bool).triu(1)
        closed[1:, 0] = True  # holds no error, and is what the first position, which corrects nothing, attends to
        if cut is not None:
            closed = closed | cut
        return scores.masked_fill(closed, -torch.inf).softmax(-1)

    def block(
        self, parts: Float[Tensor, "row token part"], cut: Bool[Tensor, "row query key"] | None = None
    ) -> Float[Tensor, "row token part"]:
        """One loop.

        Args:
            cut: edges of attention that carry nothing.
        """
        _, token, before, _, _ = parts.split(self.settings.words, -1)
        return self.correct(parts, self.kernel(token, before, cut), cut)

    def correct(
        self,
        parts: Float[Tensor, "row token part"],
        kernel: Float[Tensor, "row query key"],
        cut: Bool[Tensor, "row query key"] | None = None,
    ) -> Float[Tensor, "row token part"]:
        """Form the errors, which takes attention one position back, and correct by them."""
        c, token, before, _, _ = parts.split(self.settings.words, -1)
        predicted = F.pad(c.softmax(-1), (0, 0, 1, -1))
        if cut is not None:
            predicted = predicted.masked_fill(F.pad(cut.diagonal(-1, 1, 2), (1, 0))[..., None], 0.0)
        error = F.pad((token - predicted)[:, 1:], (0, 0, 1, 0))  # the first token was not predicted
        excess = F.relu(error) if self.populations == 2 else error
        lack = F.relu(-error) if self.populations == 2 else torch.zeros_like(error)
        c = c + self.rate * kernel @ (excess - lack)
        return torch.cat([c, token, before, excess, lack], -1)

    # As other models are seen: through a stream whose parts nobody is told

    def states(self, tokens: Int[Tensor, "row token"]) -> Float[Tensor, "state row token feature"]:
        """The stream before the first loop and after each."""
        found = [self.embed(tokens)]
        for _ in range(self.settings.loops):
            found.append(self.block(found[-1]))
        return torch.stack(found) @ self.basis

    def read(self, states: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch word"]:
        """Log-probabilities of the next token: log softmax(c)."""
        return (states @ self.basis.mT[:, : self.settings.words]).log_softmax(-1)

    def resume(
        self, layer: int, states: Float[Tensor, "row token feature"], cut: Bool[Tensor, "row query key"] | None = None
    ) -> Float[Tensor, "row token word"]:
        """Log-probabilities after the loops from `layer` on, begun from these states."""
        parts = states @ self.basis.mT
        for _ in range(layer, self.settings.loops):
            parts = self.block(parts, cut)
        return parts[..., : self.settings.words].log_softmax(-1)


def _normal(rng: np.random.Generator, *shape: int) -> Tensor:
    return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))


def train(
    model: ErrorCorrection,
    documents: Int64[np.ndarray, "row token"],
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> float:
    """Next-token prediction at every loop, `settings.rows` documents a step and each document once.

    Args:
        documents: `settings.steps * settings.rows` of them.
        report: called after each step with its loss.

    Returns:
        The last step's cross-entropy in nats, mean over loops.

    Raises:
        ValueError: for another number of documents.
        DivergedError: if the loss is no longer finite.
    """
    settings = model.settings
    if len(documents) != settings.steps * settings.rows:
        raise ValueError(f"{settings.steps} steps of {settings.rows} documents, but {len(documents)} documents")
    adam = Adam(model.parameters())
    batches = torch.from_numpy(documents).view(settings.steps, settings.rows, -1)
    for step, tokens in enumerate(batches):
        parts, loss = model.embed(tokens), torch.zeros(())
        _, token, before, _, _ = parts.split(settings.words, -1)
        kernel = model.kernel(token, before, None)  # of what no loop changes
        for _ in range(settings.loops):
            parts = model.correct(parts, kernel)
            loss = loss + F.cross_entropy(parts[:, :-1, : settings.words].flatten(0, 1), tokens[:, 1:].flatten()) / settings.loops
        loss.backward()
        adam.step(settings.learning_rate * (1 - step / settings.steps))
        report(step + 1, loss.item())
    if not math.isfinite(loss.item()):
        raise DivergedError(f"training of the error-correcting control diverged: its loss is {loss.item()}")
    return loss.item()


def train_seed(
    settings: ErrorCorrectionSettings, root: int, seed: int
) -> tuple[ErrorCorrection, Callable[[str, int], np.ndarray]]:
    """A trained control, and what draws documents of its table for a purpose.

    Args:
        root: the configuration's `seed`.
    """
    stream = lambda purpose: generator(root, "lens", "predictive_coding", "error_correction", purpose, seed)
    table = shared_table(stream("table"), settings.words)
    draw = lambda purpose, number: bigram_documents(stream(purpose), table, number, settings.length, settings.concentration)
    model = ErrorCorrection(settings, stream("initialise"))
    train(model, draw("train", settings.steps * settings.rows))
    return model, draw
