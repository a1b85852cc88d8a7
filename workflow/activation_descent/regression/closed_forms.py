"""What theory says of gradient descent on the tasks, in plain numbers: figures draw it without loading what computes with tensors.

Rates are *per example*: eta / N, the factor on the sum over the context, which is what a layer's weights hold.
"""

# Of GD++ by N, two steps, d = 10 (von Oswald et al. 2022, appendix A.10)
PUBLISHED_GAMMAS = {10: 0.179, 25: 0.099, 50: 0.056, 100: 0.029}
BOTH_LAYERS = ("deep_linear", "tanh", "relu")  # networks that are not linear in the weights that they train: their updates part
PAIRS_UP_TO = 5  # layers: GD++ with more has one rate and one gamma for all of them


def uniform_moments(half_range: float) -> tuple[float, float]:
    """Variance and fourth moment of `U(-half_range, half_range)`."""
    return half_range**2 / 3, half_range**4 / 5


def _second_moment(input_dim: int, context_length: int, half_range: float) -> float:
    """`c` with E[(sum_i x_i x_i^T / N)^2] = c I for coordinates that are independent, symmetric and identically distributed."""
    variance, fourth = uniform_moments(half_range)
    return (fourth + (input_dim - 1) * variance**2) / context_length + (1 - 1 / context_length) * variance**2


def expected_loss(
    rate_per_example: float, input_dim: int, context_length: int, half_range: float, weight_scale: float = 1.0
) -> float:
    """Population loss of one gradient step: `0.5 d s2 (1 - 2 eta s2 + eta^2 c)`, eta = N * rate_per_example."""
    variance, _ = uniform_moments(half_range)
    eta = rate_per_example * context_length
    c = _second_moment(input_dim, context_length, half_range)
    return 0.5 * input_dim * variance * weight_scale**2 * (1 - 2 * eta * variance + eta**2 * c)


def optimal_rate(input_dim: int, context_length: int, half_range: float) -> float:
    """The rate per example that minimises `expected_loss`: `eta* = s2 / c`.

    It is also the global optimum of one linear self-attention layer (Mahankali et al. 2023; Ahn et al. 2023).
    """
    variance, _ = uniform_moments(half_range)
    return variance / _second_moment(input_dim, context_length, half_range) / context_length
