"""In-context regression tasks (von Oswald et al. 2022, section 3).

Arrays run over tasks along their *last* axis: sums over a task's ten tokens or features then vectorise over thousands of tasks.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Tasks:
    """A batch of regression tasks.

    Attributes:
        tokens: `(x_i, y_i)` for the context, then the query `(x_q, 0)` as the last token.
        target: `y_q`, the label that the query asks for.
    """

    tokens: Float[Tensor, "feature token task"]
    target: Float[Tensor, " task"]

    @property
    def inputs(self) -> Float[Tensor, "input context task"]:
        """x_i of the context."""
        return self.tokens[:-1, :-1]

    @property
    def labels(self) -> Float[Tensor, "context task"]:
        """y_i of the context."""
        return self.tokens[-1, :-1]

    @property
    def query(self) -> Float[Tensor, "input task"]:
        """x_q."""
        return self.tokens[:-1, -1]


def fill_uniform(rng: np.random.Generator, out: np.ndarray, half_range: float) -> None:
    """Fill an array with `U(-half_range, half_range)`.

    The generator's raw 64-bit words, read as signed integers of the array's width and scaled: two float32 numbers a word and no
    shift afterwards. Takes two thirds of the time of `Generator.random`, which is half of a training step's data.
    """
    integer = {4: np.int32, 8: np.int64}[out.itemsize]
    words = -(-out.nbytes // 8)
    raw = rng.bit_generator.random_raw(words).view(integer)[: out.size].reshape(out.shape)
    torch.from_numpy(out).copy_(torch.from_numpy(raw)).mul_(half_range / 2.0 ** (8 * out.itemsize - 1))


def linear_tasks(
    rng: np.random.Generator,
    number: int,
    input_dim: int,
    context_length: int,
    half_range: float,
    weight_scale: float = 1.0,
    dtype: type = np.float32,
    out: np.ndarray | None = None,
) -> Tasks:
    """Noiseless linear regression: `w ~ N(0, weight_scale^2 I)`, `x ~ U(-half_range, half_range)^d`, `y = w . x`.

    The paper's text says half_range 1; the authors' code, and with it every published curve, has half_range 0.5
    (`create_reg_data` with `input_range=1`).

    Args:
        rng: the stream; `number` tasks are drawn from it.
        dtype: numpy floating type of the draws and of the result.
        out: an array of shape (feature, token, task) to hold the tokens. A loop that draws into the same array again and again
            spares the system fresh pages, which cost as much as the numbers.

    Raises:
        ValueError: if a size is below 1 or a scale is not positive.
    """
    if min(number, input_dim, context_length) < 1 or min(half_range, weight_scale) <= 0:
        raise ValueError("tasks need number, input_dim, context_length >= 1 and half_range, weight_scale > 0")
    weight = rng.standard_normal((input_dim, number), dtype=dtype)
    weight *= weight_scale
    tokens = np.empty((input_dim + 1, context_length + 1, number), dtype) if out is None else out
    x, y = tokens[:-1], tokens[-1]
    fill_uniform(rng, x, half_range)
    np.einsum("fnt,ft->nt", x, weight, out=y)
    target = y[-1].copy()
    y[-1] = 0.0
    return Tasks(torch.from_numpy(tokens), torch.from_numpy(target))


def sine_tasks(
    rng: np.random.Generator,
    number: int,
    context_length: int,
    half_range: float,
    amplitude: tuple[float, float],
    shared_draw: bool,
    dtype: type = np.float32,
) -> Tasks:
    """Sine waves `y = a sin(x + rho)`, `x ~ U(-half_range, half_range)` (figure 4).

    The paper: a ~ U(0.1, 5) and rho ~ U(0, pi). The authors' code: a ~ U(0.1, 0.5), and the key of a's draw serves rho again, so that
    a task has one free number and not two.

    Args:
        shared_draw: use a's uniform number for rho, too.
    """
    draws = rng.random((2, number), dtype=dtype)
    a = amplitude[0] + (amplitude[1] - amplitude[0]) * draws[0]
    rho = np.pi * draws[0 if shared_draw else 1]
    tokens = np.empty((2, context_length + 1, number), dtype)
    fill_uniform(rng, tokens[0], half_range)
    np.multiply(a, np.sin(tokens[0] + rho), out=tokens[1])
    target = tokens[1, -1].copy()
    tokens[1, -1] = 0.0
    return Tasks(torch.from_numpy(tokens), torch.from_numpy(target))


def other_distribution_tasks(
    rng: np.random.Generator, number: int, input_dim: int, context_length: int, scale: float, dtype: type = np.float64
) -> Tasks:
    """Linear tasks with exponential, normal or Laplace inputs, a third each (`create_ood_data` in the authors' code).

    The context's inputs are divided by their Frobenius norm and multiplied by `scale`, the query by the *context's* norm, too.
    """
    weight = rng.standard_normal((input_dim, number), dtype=dtype)
    shape = (input_dim, context_length + 1, number)
    kinds = np.stack([rng.standard_exponential(shape), rng.standard_normal(shape), rng.laplace(size=shape)])
    x = np.take_along_axis(kinds, rng.integers(3, size=number)[None, None, None], axis=0)[0]
    x *= scale / np.linalg.norm(x[:, :-1], axis=(0, 1))
    labels = np.einsum("fnt,ft->nt", x, weight)
    target = labels[-1].copy()
    labels[-1] = 0.0
    tokens = np.concatenate([x, labels[None]]).astype(dtype, copy=False)
    return Tasks(torch.from_numpy(tokens), torch.from_numpy(target.astype(dtype, copy=False)))


def with_noisy_labels(rng: np.random.Generator, tasks: Tasks, number: int) -> Tasks:
    """The same tasks with `number` labels of each context replaced by N(0, 1) numbers."""
    tokens = tasks.tokens.clone()
    context_length, count = tasks.labels.shape
    order = torch.from_numpy(rng.random((context_length, count)).argsort(axis=0))
    noise = torch.from_numpy(rng.standard_normal((context_length, count))).to(tokens.dtype)
    tokens[-1, :-1] = torch.where(order < number, noise, tokens[-1, :-1])
    return Tasks(tokens, tasks.target)
