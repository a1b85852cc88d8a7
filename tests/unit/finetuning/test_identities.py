"""The equations that the study argues with, on random tensors: what holds exactly, to which order, and where it stops.

Column vectors, as in Dai et al.: keys and values are columns, `Attn(V, K, q) = V softmax(K^T q / sqrt d)`, `LinearAttn(V, K, q) = V K^T q`.
"""

import itertools
import math

import pytest
import torch

from activation_descent.finetuning.attention import AttentionCall
from activation_descent.finetuning.patching import linear_attention, split_call
from activation_descent.finetuning.similarity import dual_weights

D, DV = 6, 4  # of keys and queries, of values
DEMONSTRATIONS, OWN = 9, 5  # tokens


@pytest.fixture
def draw():
    """Standard normal tensors in float64."""
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, dtype=torch.float64, generator=generator)


def same(first, second, tolerance=1e-10):
    return torch.allclose(first, second, rtol=tolerance, atol=tolerance)


def gradient(function, at):
    at = at.detach().clone().requires_grad_()
    return torch.autograd.grad(function(at), at)[0]


def jacobian(function, at):
    return torch.autograd.functional.jacobian(function, at)


def hessian(function, at):
    return torch.autograd.functional.hessian(function, at)


def attention(v, k, q):
    return v @ torch.softmax(k.T @ q / math.sqrt(len(q)), 0)


def rank(matrix):
    return int(torch.linalg.matrix_rank(matrix, rtol=1e-10))


# Dai et al. 2022, section 3: a linear layer after gradient descent, and linear attention


def test_a_trained_linear_layer_is_the_untrained_one_plus_linear_attention(draw):
    """Equations (7) to (9): F(x) = (W_0 + sum_i e_i x_i^T) x = W_0 x + LinearAttn(E, X, x), e_i = -rate dL/d output_i, for any loss."""
    w, inputs, targets, x, rate = draw(DV, D), draw(D, 7), draw(DV, 7), draw(D), 0.3
    loss = lambda outputs: (outputs - targets).abs().pow(1.7).sum() + outputs.logsumexp(0).sum()
    trained = w - rate * gradient(lambda weight: loss(weight @ inputs), w)
    errors = -rate * gradient(loss, w @ inputs)
    assert same(trained - w, sum(torch.outer(e, x_i) for e, x_i in zip(errors.T, inputs.T, strict=True)))
    assert same(trained @ x, w @ x + errors @ dual_weights(inputs.T, x))


def call_of(draw, demonstrations=DEMONSTRATIONS, own=OWN):
    """An attention whose last token reads everything."""
    tokens = demonstrations + own
    query, key, value = (draw(1, 1, tokens, D) for _ in range(3))
    mask = torch.zeros(1, 1, tokens, tokens, dtype=torch.float64)
    return AttentionCall(query, key, value, 1 / math.sqrt(D), mask, torch.zeros_like(query))


def test_softmax_replaces_what_linear_attention_adds_to(draw):
    """Equation (10) is exactly (1 - m) Z + m C, a convex mixture; without softmax, (11) and (12), a sum."""
    call = call_of(draw)
    k, v, q = call.key[0, 0].T, call.value[0, 0].T, call.query[0, 0, -1]
    shown, own = slice(0, DEMONSTRATIONS), slice(DEMONSTRATIONS, None)
    split = split_call(call, torch.tensor([DEMONSTRATIONS + OWN - 1]), shown)
    mass = float(split.mass)
    assert 0 < mass < 1
    zero, context = attention(v[:, own], k[:, own], q), attention(v[:, shown], k[:, shown], q)
    assert same(attention(v, k, q), (1 - mass) * zero + mass * context)
    assert same(split.output[0, 0], attention(v, k, q))
    w_zsl, w_icl = v[:, own] @ k[:, own].T, sum(torch.outer(v[:, i], k[:, i]) for i in range(DEMONSTRATIONS))
    assert same(v @ k.T @ q, (w_zsl + w_icl) @ q)
    assert same(linear_attention(split)[0, 0], w_icl @ q / math.sqrt(D))
    assert not same(attention(v, k, q), zero + mass * context, 1e-2)


def test_updates_by_context_and_by_fine_tuning_are_different_kinds_of_object(draw):
    """Equation (13) minus W_ZSL: dW_V X X^T W_K^T + W_V X X^T dW_K^T + dW_V X X^T dW_K^T is made of the query's tokens X, W_ICL of X'."""
    demonstrations = draw(D, DEMONSTRATIONS)
    w_v, w_k, d_v, d_k = draw(DV, D), draw(D, D), draw(DV, D), draw(D, D)

    def zsl(x):
        return w_v @ x @ (w_k @ x).T

    def by_fine_tuning(x):
        return (w_v + d_v) @ x @ ((w_k + d_k) @ x).T - zsl(x)

    def by_context(x):
        tokens = torch.cat([demonstrations, x], dim=1)
        return w_v @ tokens @ (w_k @ tokens).T - zsl(x)

    first, second = draw(D, 1), draw(D, 1)
    gram = first @ first.T
    assert same(by_fine_tuning(first), d_v @ gram @ w_k.T + w_v @ gram @ d_k.T + d_v @ gram @ d_k.T)
    assert same(by_context(first), by_context(second))
    assert not same(by_fine_tuning(first), by_fine_tuning(second), 1e-2)
    assert rank(by_fine_tuning(first)) == 2  # the difference of two products of rank |X|
    assert rank(by_context(first)) == DV
    assert (by_fine_tuning(draw(D, 0)) == 0).all()
    assert by_context(draw(D, 0)).norm() > 1


# Of which function is sum_i v_i k_i^T a gradient? v: columns v_i, k: columns k_i


def hebbian(v, k):
    """L(W) = -sum_i <v_i, W k_i>."""
    return lambda w: -(v * (w @ k)).sum()


def test_linear_attention_is_a_step_on_a_linear_loss_wherever_it_starts(draw):
    v, k, q, w_zsl = draw(DV, 7), draw(D, 7), draw(D), draw(DV, D)
    for w in (torch.zeros(DV, D, dtype=torch.float64), w_zsl, 100 * draw(DV, D)):
        assert same(-gradient(hebbian(v, k), w), v @ k.T)
    assert same((w_zsl - gradient(hebbian(v, k), w_zsl)) @ q, w_zsl @ q + v @ k.T @ q)
    # No curvature and no minimum: along its own step it falls for ever, and no error comes back
    assert (hessian(hebbian(v, k), w_zsl) == 0).all()
    falls = [float(hebbian(v, k)(w_zsl + t * v @ k.T)) for t in (0, 10, 1000, 100_000)]
    assert falls == sorted(falls, reverse=True)
    assert falls[-1] < -1e5


def test_every_matrix_is_such_a_gradient(draw):
    matrix = draw(DV, D)
    assert same(-gradient(lambda w: -(matrix * w).sum(), draw(DV, D)), matrix)


def test_the_first_step_from_zero_does_not_tell_losses_apart(draw):
    """Squared error and 2 log(1 + exp(-v z)) have the same derivative -v at z = 0; from elsewhere squared error gives the delta rule."""
    v, k, w_0 = draw(DV, 7), draw(D, 7), draw(DV, D)
    squared = lambda w: 0.5 * (v - w @ k).square().sum()
    logistic = lambda w: 2 * torch.nn.functional.softplus(-v * (w @ k)).sum()
    zero = torch.zeros_like(w_0)
    for loss in (squared, logistic):
        assert same(-gradient(loss, zero), v @ k.T)
        assert not same(-gradient(loss, w_0), v @ k.T, 1e-2)
    assert same(-gradient(squared, w_0), (v - w_0 @ k) @ k.T)


# What dropping softmax leaves


def first_order(v, k, q):
    """mean value + Cov(v, k) q / sqrt d, with Cov the mean of the product of deviations."""
    v_0, k_0 = v - v.mean(1, keepdim=True), k - k.mean(1, keepdim=True)
    return v.mean(1) + v_0 @ k_0.T @ q / v.shape[1] / math.sqrt(len(q))


def test_softmax_to_first_order_has_a_quadratic_remainder(draw):
    v, k, q = draw(DV, 7), draw(D, 7), draw(D)
    remainders = [(attention(v, k, q / 2**n) - first_order(v, k, q / 2**n)).norm().item() for n in range(4, 9)]
    ratios = [b / a for a, b in itertools.pairwise(remainders)]
    assert ratios == pytest.approx([0.25] * 4, rel=0.05)
    assert ratios[-1] == pytest.approx(0.25, rel=0.01)
    # Linear attention without the means is another matrix: no scale of it is the derivative at q = 0
    derivative = jacobian(lambda x: attention(v, k, x), torch.zeros(D, dtype=torch.float64))
    plain = v @ k.T
    fitted = (derivative * plain).sum() / plain.square().sum() * plain
    assert same(derivative, jacobian(lambda x: first_order(v, k, x), q))
    assert (derivative - fitted).norm() > 0.1 * derivative.norm()


def test_softmax_to_first_order_is_a_step_on_centred_least_squares(draw):
    v, k, q, n = draw(DV, 7), draw(D, 7), draw(D), 7
    v_0, k_0 = v - v.mean(1, keepdim=True), k - k.mean(1, keepdim=True)
    loss = lambda w: 0.5 * (v_0 - w @ k_0).square().sum()
    step = -gradient(loss, torch.zeros(DV, D, dtype=torch.float64)) / (n * math.sqrt(D))
    assert same(v.mean(1) + step @ q, first_order(v, k, q))


# Softmax attention as a kernel smoother (Nadaraya and Watson), and as a step in a space of functions


def test_attention_is_a_newton_step_on_a_locally_weighted_square(draw):
    """J_q(f) = sum_i w_i(q) |v_i - f|^2: from any f one Newton step, or one of descent at the rate 1 / (2 sum w), ends in attention."""
    v, k, q = draw(DV, 7), draw(D, 7), draw(D)
    w = (k.T @ q / math.sqrt(D)).exp()
    loss = lambda f: (w * (v - f[:, None]).square().sum(0)).sum()
    for f in (torch.zeros(DV, dtype=torch.float64), 10 * draw(DV)):
        slope, curvature = gradient(loss, f), hessian(loss, f)
        assert same(slope, -2 * (v - f[:, None]) @ w)
        assert same(curvature, 2 * w.sum() * torch.eye(DV, dtype=torch.float64))
        assert same(f - torch.linalg.solve(curvature, slope), attention(v, k, q))
        assert same(f - slope / (2 * w.sum()), attention(v, k, q))
    shares = w / w.sum()
    unit = lambda f: 0.5 * (shares * (v - f[:, None]).square().sum(0)).sum()
    assert same(-gradient(unit, torch.zeros(DV, dtype=torch.float64)), attention(v, k, q))


def test_its_kernel_is_gaussian_with_a_prior_by_the_length_of_keys(draw):
    k, q = draw(D, 7), draw(D)
    width = 2 * math.sqrt(D)
    gaussian = (k.square().sum(0) / width).exp() * (-(k - q[:, None]).square().sum(0) / width).exp()
    assert same(torch.softmax(k.T @ q / math.sqrt(D), 0), gaussian / gaussian.sum())


def kernel(a, b):
    return (a.T @ b / math.sqrt(len(a))).exp()


def test_the_functional_gradient_of_squared_error_is_a_sum_of_kernels(draw):
    """In the space of kappa(q, k) = exp(q.k / sqrt d): -grad 1/2 sum |v_i - F(k_i)|^2 = sum_i kappa(., k_i) (v_i - F(k_i)).

    For F = sum_j c_j kappa(., z_j) and H = sum_j b_j kappa(., y_j) the inner product is sum_ij <c_i, b_j> kappa(z_i, y_j).
    """
    v, k, centres, c, others, b = draw(DV, 7), draw(D, 7), draw(D, 3), draw(DV, 3), draw(D, 4), draw(DV, 4)
    residual = v - c @ kernel(centres, k)
    loss = lambda t: 0.5 * (v - (c @ kernel(centres, k) + t * b @ kernel(others, k))).square().sum()
    along = gradient(loss, torch.zeros((), dtype=torch.float64))
    inner = ((residual.T @ b) * kernel(k, others)).sum()
    assert same(-along, inner)


def test_from_nothing_one_functional_step_is_attention(draw):
    """Unnormalised at the rate 1 (Cheng et al. 2023), softmax at the rate 1 / sum_j kappa(q, k_j), which depends on the query."""
    v, k, q = draw(DV, 7), draw(D, 7), draw(D)
    step = v @ kernel(k, q[:, None])[:, 0]
    assert same(step, sum(v[:, i] * (k[:, i] @ q / math.sqrt(D)).exp() for i in range(7)))
    assert same(step / kernel(k, q[:, None]).sum(), attention(v, k, q))


def test_at_the_keys_it_is_a_preconditioned_iteration_that_would_interpolate(draw):
    """F <- F + D^-1 G (V - F), G the kernel at the keys and D its row sums; D^-1 G is similar to a positive matrix, spectrum in (0, 1]."""
    v, k = draw(DV, 5), draw(D, 5)
    gram = kernel(k, k)
    matrix = gram / gram.sum(1, keepdim=True)
    spectrum = torch.linalg.eigvals(matrix)
    assert spectrum.imag.abs().max() < 1e-10
    assert spectrum.real.min() > 0
    assert spectrum.real.max() == pytest.approx(1)
    said = torch.zeros(5, DV, dtype=torch.float64)
    distances = []
    for step in range(4000):
        said = said + matrix @ (v.T - said)
        if step == 0:
            assert same(said, torch.stack([attention(v, k, k[:, j]) for j in range(5)]))
        distances.append(float((said - v.T).norm()))
    slowest = 1 - spectrum.real.min().item()
    assert distances[-1] < 10 * distances[0] * slowest**3999 + 1e-9
    assert distances[0] > 0.1  # one layer does not interpolate


# Softmax attention as a step of the query (Ramsauer et al. 2020)


def hopfield_energy(patterns, beta):
    """E(xi) = -1/beta log sum_i exp(beta x_i . xi) + 1/2 xi . xi, patterns in columns."""
    return lambda xi: -(beta * patterns.T @ xi).logsumexp(0) / beta + 0.5 * xi.square().sum()


@pytest.mark.parametrize("beta", [0.3, 1.0, 8.0])
def test_retrieval_is_a_unit_step_down_the_hopfield_energy(draw, beta):
    patterns, xi = draw(D, 7), draw(D)
    energy = hopfield_energy(patterns, beta)
    retrieved = patterns @ torch.softmax(beta * patterns.T @ xi, 0)
    assert same(xi - gradient(energy, xi), retrieved)
    # The concave-convex procedure: the step minimises a bound that touches the energy at xi, so no step goes up
    bound = lambda x: 0.5 * x.square().sum() + energy(xi) - 0.5 * xi.square().sum() + (gradient(energy, xi) - xi) @ (x - xi)
    assert same(gradient(bound, retrieved), torch.zeros(D, dtype=torch.float64))
    for x in (xi, retrieved, draw(D), 3 * draw(D)):
        assert energy(x) <= bound(x) + 1e-12
    while (retrieved - xi).norm() > 1e-12:
        assert energy(retrieved) <= energy(xi) + 1e-12
        xi, retrieved = retrieved, patterns @ torch.softmax(beta * patterns.T @ retrieved, 0)


def test_values_that_are_a_linear_map_of_keys_are_a_readout_of_that_step(draw):
    """V = M K: Att = M grad_q [sqrt d lse(K^T q / sqrt d)]."""
    k, q, m = draw(D, 7), draw(D), draw(DV, D)
    potential = lambda x: math.sqrt(D) * (k.T @ x / math.sqrt(D)).logsumexp(0)
    assert same(attention(m @ k, k, q), m @ gradient(potential, q))


def residual_step(tokens, w_ov, w_q, w_k):
    """What a head adds to the stream: x -> sum_i a_i W_OV x_i, with scores (W_Q x) . (W_K x_i)."""
    return lambda x: w_ov @ tokens @ torch.softmax((w_k @ tokens).T @ (w_q @ x), 0)


def asymmetry(matrix):
    return float((matrix - matrix.T).norm() / (matrix + matrix.T).norm())


def test_a_head_is_a_gradient_in_its_query_if_its_output_map_is_tied(draw):
    """grad_x log sum_i exp(x . A x_i) = sum_i a_i A x_i with A = W_Q^T W_K, so the head steps along it where W_OV = c A."""
    tokens, x, w_q, w_k = draw(D, 7), draw(D), 0.5 * draw(3, D), 0.5 * draw(3, D)
    tie = w_q.T @ w_k
    potential = lambda point: (point @ tie @ tokens).logsumexp(0)
    tied = residual_step(tokens, -2.5 * tie, w_q, w_k)
    assert same(tied(x), -2.5 * gradient(potential, x))
    assert asymmetry(jacobian(tied, x)) < 1e-12
    # A field is a gradient only where its Jacobian, Cov_a(W_OV x_i, A x_i), is symmetric
    untied_map = draw(D, D)
    untied = jacobian(residual_step(tokens, untied_map, w_q, w_k), x)
    shares = torch.softmax(x @ tie @ tokens, 0)
    values, keys = untied_map @ tokens, tie @ tokens
    values, keys = values - (values @ shares)[:, None], keys - (keys @ shares)[:, None]
    assert same(untied, (values * shares) @ keys.T)
    assert asymmetry(untied) > 0.1


# Softmax attention as a step in an empty part of the state


def test_attention_is_a_step_in_the_value_coordinates_of_an_augmented_state(draw):
    """Att = grad_lambda log sum_i exp(k_i . q / sqrt d + v_i . lambda) at lambda = 0, for any values; after the step it is another map."""
    v, k, q = draw(DV, 7), draw(D, 7), draw(D)
    potential = lambda free: (k.T @ q / math.sqrt(D) + v.T @ free).logsumexp(0)
    zero = torch.zeros(DV, dtype=torch.float64)
    assert same(gradient(potential, zero), attention(v, k, q))
    assert not same(gradient(potential, attention(v, k, q)), attention(v, k, q), 1e-2)
    # In the joint state only the value coordinates are attention; the others move the query
    joint = torch.cat([k / math.sqrt(D), v])
    moved = gradient(lambda state: (joint.T @ state).logsumexp(0), torch.cat([q, zero]))
    assert same(moved[D:], attention(v, k, q))
    assert moved[:D].norm() > 0.01


# Context as a change of the weights behind it (Dherin et al. 2025)


def test_any_context_is_a_rank_one_change_of_the_next_weights(draw):
    """W -> W + W (A(C, x) - A(x)) A(x)^T / |A(x)|^2 without context does what W does with it, whatever stands behind W."""
    w, other = draw(8, DV), draw(3, 8)
    v, k, q = draw(DV, 7), draw(D, 7), draw(D)
    with_context, without = attention(v, k, q), attention(v[:, 4:], k[:, 4:], q)

    def change(moved, start):
        return w @ torch.outer(moved - start, start) / start.square().sum()

    def perceptron(weight, a):
        return other @ torch.nn.functional.gelu(weight @ a)

    assert rank(change(with_context, without)) == 1
    assert same(perceptron(w + change(with_context, without), without), perceptron(w, with_context))
    # It is another matrix for another query, and it exists for any two vectors, learning or none
    q = draw(D)
    again = change(attention(v, k, q), attention(v[:, 4:], k[:, 4:], q))
    assert not same(again, change(with_context, without), 1e-2)
    anything, start = 100 * draw(DV), draw(DV)
    assert same(perceptron(w + change(anything, start), start), perceptron(w, anything), 1e-8)
