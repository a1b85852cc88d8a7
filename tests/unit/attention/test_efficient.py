"""Each mechanism against loops over tokens; causal forms against sequences that end; the performer against exact softmax."""

import math

import numpy as np
import pytest
import torch

from activation_descent.attention import MECHANISMS, efficient
from activation_descent.attention.efficient_benchmark import PeakMemory, crossover, exponent

LENGTH, SIZE = 7, 4


@pytest.fixture
def heads():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(LENGTH, SIZE, generator=generator, dtype=torch.float64) for _ in range(3)]


def make(name):
    rng = np.random.default_rng(0)
    latents = torch.from_numpy(rng.standard_normal((3, SIZE)))
    return efficient.mechanism(name, efficient.random_directions(rng, SIZE, 6), latents)


def softmax_of(logits):
    mass = [math.exp(x) for x in logits]
    return [x / sum(mass) for x in mass]


def mean(weights, values):
    return sum(w * v for w, v in zip(weights, values, strict=True))


def expected(name, q, k, v):
    """What one query reads from the keys and values that it sees, as in the papers."""
    scale = math.sqrt(SIZE)
    if name == "softmax":
        return mean(softmax_of([float(q @ key) / scale for key in k]), v)
    if name == "linear":
        return sum(float(q @ key) / scale * value for key, value in zip(k, v, strict=True))
    if name == "elu":
        phi = lambda x: torch.where(x > 0, x + 1, x.exp())
        masses = [float(phi(q) @ phi(key)) for key in k]
        return mean([m / sum(masses) for m in masses], v)
    if name == "efficient":
        context = torch.stack([mean(softmax_of(k[:, f].tolist()), v) for f in range(SIZE)])
        return mean(softmax_of(q.tolist()), context)
    latents = torch.from_numpy(np.random.default_rng(0).standard_normal((3, SIZE)))
    attention = [softmax_of([float(latent @ key) / scale for key in k]) for latent in latents]
    keys, values = [mean(w, k) for w in attention], [mean(w, v) for w in attention]
    return mean(softmax_of([float(q @ key) / scale for key in keys]), values)


@pytest.mark.parametrize("name", ["softmax", "linear", "elu", "efficient", "latent"])
@pytest.mark.parametrize("causal", [False, True])
def test_mechanisms_by_token(heads, name, causal):
    q, k, v = heads
    said = make(name)(q, k, v, causal)
    for t in range(LENGTH):
        seen = t + 1 if causal else LENGTH
        assert torch.allclose(said[t], expected(name, q[t], k[:seen], v[:seen]), atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_performer_by_token(heads, causal):
    q, k, v = heads
    directions = efficient.random_directions(np.random.default_rng(1), SIZE, 6)
    said = efficient.performer(directions)(q, k, v, causal)

    def phi(x):
        x = x / SIZE**0.25
        return torch.stack([(w @ x - x @ x / 2).exp() for w in directions])

    for t in range(LENGTH):
        seen = t + 1 if causal else LENGTH
        masses = [float(phi(q[t]) @ phi(key)) for key in k[:seen]]
        assert torch.allclose(said[t], mean([m / sum(masses) for m in masses], v[:seen]), atol=1e-4)


@pytest.mark.parametrize("name", MECHANISMS)
def test_causal_attention_does_not_see_what_comes_later(heads, name):
    q, k, v = heads
    attention = make(name)
    before = attention(q, k, v, True)
    later = [torch.cat([x[:4], x[4:] - 1]) for x in (k, v)]
    after = attention(q, *later, True)
    assert torch.allclose(before[:4], after[:4], atol=1e-5)
    assert (before[4:] - after[4:]).abs().max() > 1e-3
    assert torch.allclose(before[-1], attention(q, k, v, False)[-1], atol=1e-5)  # the last token sees everything


@pytest.mark.parametrize("chunk", [1, 3, 7, 64])
def test_prefix_sums_do_not_depend_on_their_chunks(heads, chunk):
    a, b, v = heads
    wanted = torch.stack([sum(float(a[t] @ b[i]) * v[i] for i in range(t + 1)) for t in range(LENGTH)])
    assert torch.allclose(efficient.prefix(a, b, v, chunk), wanted)


def test_random_directions_are_orthogonal_and_as_long_as_gaussian_ones():
    directions = efficient.random_directions(np.random.default_rng(0), 16, 4000)
    block = directions[:16]
    gram = block @ block.T
    assert torch.allclose(gram - gram.diag().diag(), torch.zeros(16, 16, dtype=torch.float64), atol=1e-10)
    assert directions.square().sum(1).mean().item() == pytest.approx(16, rel=0.02)


def test_positive_features_have_the_softmax_kernel_as_mean():
    rng = np.random.default_rng(0)
    q, k = torch.from_numpy(0.7 * rng.standard_normal((2, 1, 8)))
    directions = efficient.random_directions(rng, 8, 200_000)
    scaled = [x / 8**0.25 for x in (q, k)]
    products = [(x @ directions.T - x.square().sum() / 2).exp() for x in scaled]
    assert (products[0] * products[1]).mean().item() == pytest.approx(math.exp(float(q @ k.T) / math.sqrt(8)), rel=0.02)


def test_the_performer_comes_nearer_with_the_root_of_its_features():
    rng = np.random.default_rng(0)
    q, k, v = torch.from_numpy(rng.standard_normal((3, 64, 16)) * [[[0.5]], [[0.5]], [[1]]])
    sizes = [32, 128, 512, 2048]
    errors = [
        np.mean(
            [
                efficient.softmax_error(efficient.performer(efficient.random_directions(rng, 16, m)), q, k, v, False)
                for _ in range(8)
            ]
        )
        for m in sizes
    ]
    assert np.polyfit(np.log(sizes), np.log(errors), 1)[0] == pytest.approx(-0.5, abs=0.1)


def test_softmax_is_at_no_distance_from_itself_and_linear_attention_is(heads):
    assert efficient.softmax_error(efficient.softmax, *heads, True) == 0
    assert efficient.softmax_error(efficient.linear, *heads, True) > 0.1


# Costs


def test_exponent_of_powers():
    lengths = [64, 128, 256, 512]
    assert exponent(lengths, [n**2 / 7 for n in lengths]) == pytest.approx(2)
    assert exponent(lengths, [1.0, 1.0, 3.0, 6.0]) == pytest.approx(1)  # the longer half


def test_crossover_by_hand():
    lengths = [1, 10, 100]
    assert crossover(lengths, [10.0, 10.0, 10.0], [1.0, 10.0, 100.0]) == pytest.approx(10)
    assert crossover(lengths, [10.0, 10.0, 10.0], [1.0, 2.0, 50.0]) == pytest.approx(10 ** (1 + math.log(5) / math.log(25)))
    assert crossover(lengths, [1.0] * 3, [2.0] * 3) == 1
    assert crossover(lengths, [1.0, 1.0, 3.0], [2.0] * 3) == math.inf


def test_peak_memory_counts_what_lives_at_the_same_time():
    x = torch.ones(250)  # 1,000 bytes
    with PeakMemory() as peak:
        y = x + 1
        z = y + 1
        del y
        y = z + 1
        del y, z
        _ = x[:10]  # a view of what is given
    assert peak.peak == 2000


@pytest.mark.parametrize(
    ("name", "grows"), [("softmax", 2), ("efficient", 1), ("elu", 1), ("linear", 1), ("performer", 1), ("latent", 1)]
)
@pytest.mark.parametrize("causal", [False, True])
def test_memory_grows_with_the_length_or_its_square(name, grows, causal):
    rng = np.random.default_rng(0)
    attention = efficient.mechanism(name, efficient.random_directions(rng, 8, 8), torch.from_numpy(rng.standard_normal((8, 8))))
    lengths, found = [256, 512, 1024, 2048], []
    for length in lengths:
        with torch.no_grad(), PeakMemory() as peak:
            attention(*torch.from_numpy(rng.standard_normal((3, length, 8))), causal)
        found.append(float(peak.peak))
    assert exponent(lengths, found) == pytest.approx(grows, abs=0.1)
