"""Which gradient step does a trained head take? Its update, held against the step that each reading of softmax attention predicts.

A head adds `u = sum_i a_i c_i` to the state x that asks, `c_i = W_OV x_i` what it reads from token i, `a = softmax(s)`. Every reading
(numbers as in `softmax_gradients`) predicts a direction p, and one rate for each head, `u = eta p`, fitted on other prompts:

    linear        (i)    sum_i s_i c_i                         linear attention (Dai et al. 2022)
    first_order   (i')   c + sum_i (s_i - s) (c_i - c) / n     softmax to first order; c and s without index are means
    gaussian      (ii)   sum_i g_i c_i / sum_i g_i             kernel regression on |q - k_i| alone, g_i = exp(s_i - |k_i|^2 / 2 sqrt(d))
    from_state    (ii)   sum_i a_i c_i - x                     the step on sum_i a_i |c_i - f|^2 from f = x
    hopfield      (iii)  grad_x log sum_i exp(s_i(x))          the energy of the query; equal to u where W_OV = c W_Q^T W_K
    error         -      -grad of the loss at x + update       descent on the model's own loss, at the place where the head writes

and two controls: `exact`, (ii) from f = 0 and (iv a), which is the head itself and says nothing; and `elsewhere`, what the head says at
other tokens.

R^2 = 1 - sum |u - eta p|^2 / sum |u - mean(u)|^2 over evaluation tokens. A reading may be worse than a constant: R^2 < 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Updates = Float[Tensor, "prompt token feature"]


@dataclass(frozen=True)
class Head:
    """What one head read and gave at every token of several prompts.

    Attributes:
        scores: s, products of queries and keys over sqrt(d).
        visible: which sources a token may look at.
        halves: |k_i|^2 / 2 sqrt(d), one for each source.
        contents: c_i, in the coordinates in which the update is read.
        state: x in the same coordinates.
        energy: the gradient of log sum exp by x.
        error: minus the gradient of the loss by x + update.
    """

    scores: Float[Tensor, "prompt token source"]
    visible: Bool[Tensor, "#prompt token source"]
    halves: Float[Tensor, "prompt source"]
    contents: Float[Tensor, "prompt source feature"]
    state: Updates
    energy: Updates
    error: Updates

    def smoothed(self, logits: Float[Tensor, "prompt token source"]) -> Updates:
        """The mean of what is read under the softmax of any logits."""
        return logits.masked_fill(~self.visible, -torch.inf).softmax(-1) @ self.contents

    @property
    def update(self) -> Updates:
        """What the head writes: the mean of what is read under its own softmax."""
        return self.smoothed(self.scores)


def steps(head: Head, elsewhere: Updates) -> dict[str, Updates]:
    """What each of `READINGS` and `CONTROLS` predicts.

    Args:
        elsewhere: the head's update, dealt to other tokens.
    """
    seen = head.visible.to(head.scores.dtype)
    number = seen.sum(-1, keepdim=True)
    mean_score = (head.scores * seen).sum(-1, keepdim=True) / number
    mean = seen @ head.contents / number
    # sum_i (s_i - s) (c_i - c) = sum_i (s_i - s) c_i, for the deviations of the scores add up to zero
    slope = ((head.scores - mean_score) * seen) @ head.contents / number
    update = head.update
    return {
        "linear": (head.scores * seen) @ head.contents,
        "first_order": mean + slope,
        "gaussian": head.smoothed(head.scores - head.halves[:, None]),
        "from_state": update - head.state,
        "hopfield": head.energy,
        "error": head.error,
        "exact": update,
        "elsewhere": elsewhere,
    }


@dataclass
class Moments:
    """Sums over tokens from which rate and R^2 of one head follow, so that no token need be kept.

    Attributes:
        number: of tokens.
        update: sum of u, and of |u|^2.
        product: <u, p> of each reading.
        length: |p|^2 of each reading.
    """

    number: float
    update: Float[Tensor, " feature"]
    energy: float
    product: dict[str, float]
    length: dict[str, float]

    @classmethod
    def of(cls, update: Updates, predicted: Mapping[str, Updates], kept: Bool[Tensor, "prompt token"]) -> "Moments":
        """
        Args:
            kept: the tokens that count.
        """
        u = update[kept].double()
        p = {name: step[kept].double() for name, step in predicted.items()}
        return cls(
            float(len(u)),
            u.sum(0),
            u.square().sum().item(),
            {name: (u * step).sum().item() for name, step in p.items()},
            {name: step.square().sum().item() for name, step in p.items()},
        )

    def rate(self, reading: str) -> float:
        """eta by least squares; zero for a reading that predicts nothing."""
        return self.product[reading] / self.length[reading] if self.length[reading] > 0 else 0.0

    def cosine(self, reading: str) -> float:
        """Of all updates and all predictions, as one long vector each; zero for a reading that predicts nothing."""
        length = (self.energy * self.length[reading]) ** 0.5
        return self.product[reading] / length if length > 0 else 0.0

    def r_squared(self, reading: str, rate: float) -> float:
        """Of `u = rate p` on these tokens."""
        residual = self.energy - 2 * rate * self.product[reading] + rate**2 * self.length[reading]
        return 1 - residual / (self.energy - self.update.square().sum().item() / self.number)


def add(first: Moments, second: Moments) -> Moments:
    """The moments of two sets of tokens together."""
    return Moments(
        first.number + second.number,
        first.update + second.update,
        first.energy + second.energy,
        {name: value + second.product[name] for name, value in first.product.items()},
        {name: value + second.length[name] for name, value in first.length.items()},
    )


def scores_of(tuning: Moments, evaluation: Moments) -> dict[str, float]:
    """R^2 of each reading on the evaluation tokens, at the rate that fits the tuning tokens."""
    return {reading: evaluation.r_squared(reading, tuning.rate(reading)) for reading in evaluation.product}
