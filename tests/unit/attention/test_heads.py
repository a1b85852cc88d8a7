"""Scores against hand calculations and plain numpy, controls that must score high and low, and nulls that must be uniform."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from activation_descent.attention import heads
from activation_descent.attention.circuits import Circuits


def circuits_of(m, b):
    """Heads with whole matrices M and B."""
    m, b = (torch.as_tensor(np.asarray(each), dtype=torch.float64) for each in (m, b))
    number, width = m.shape[:2]
    eye = torch.eye(width, dtype=torch.float64).expand(number, -1, -1)
    return Circuits(m, eye, b, eye, [1] * number, [*range(1, number + 1)], "")


def random_circuits(seed=0, number=4, width=12, rank=3):
    rng = np.random.default_rng(seed)
    q, k, v, o = (torch.from_numpy(rng.standard_normal((number, width, rank))) for _ in range(4))
    return Circuits(q, k, v, o.mT, [1] * number, [*range(1, number + 1)], "")


def by_numpy(m, b):
    """The score as its definition reads, from whole matrices."""

    def parts(matrix):
        symmetric = (matrix + matrix.T) / 2
        values = np.linalg.eigvalsh(symmetric)
        u, s, vt = np.linalg.svd(matrix)
        energy = np.cumsum(s**2) / np.sum(s**2)
        r = int(np.argmax(energy >= 0.9 - 1e-12)) + 1
        numbers = (
            np.sum(symmetric**2) / np.sum(matrix**2),
            values[values > 0].sum() / np.abs(values).sum(),
            s[:r].sum() ** 2 / (r * np.sum(s[:r] ** 2)),
        )
        return numbers, (u[:, :r], vt[:r].T), r

    of_m, x, r_x = parts(m)
    of_b, y, r_y = parts(-b)
    overlap = max(np.sum((i.T @ j) ** 2) for i in x for j in y) / min(r_x, r_y)
    return (*of_m, *of_b, 1 - overlap)


def test_score_by_numpy():
    c = random_circuits()
    found = heads.parts_of(*heads.sides(c))
    for head in range(4):
        m, b = (c.query[head] @ c.key[head].T).numpy(), (c.value[head] @ c.output[head]).numpy()
        assert [values[head].item() for values in found.values()] == pytest.approx(by_numpy(m, b), abs=1e-9)
    assert torch.allclose(heads.score(*heads.sides(c)), torch.stack([*found.values()]).amin(0))


def test_small_and_whole_decompositions_agree():
    """Factors of rank 3 in 12 dimensions, and the same products as whole matrices."""
    c = random_circuits()
    whole = circuits_of(c.query @ c.key.mT, c.value @ c.output)
    assert torch.allclose(heads.score(*heads.sides(c)), heads.score(*heads.sides(whole)), atol=1e-9)
    assert torch.allclose(heads.hopfield_tie(c), heads.hopfield_tie(whole), atol=1e-12)


def test_numbers_by_hand():
    """M = diag(2, 1, 0, 0) is symmetric and positive with flatness 9 / (2 * 5); a rotation has no symmetry; B = diag(0, 0, -1, 1) is half
    negative."""
    m = [np.diag([2.0, 1, 0, 0]), np.zeros((4, 4))]
    m[1][:2, :2] = [[0, 1], [-1, 0]]
    b = [np.diag([0.0, 0, -1, 1]), np.diag([-1.0, 0, 0, 0])]
    found = heads.parts_of(*heads.sides(circuits_of(m, b)))
    assert found["symmetry_qk"].tolist() == pytest.approx([1, 0])
    assert found["positivity_qk"][0].item() == pytest.approx(1)
    assert found["flatness_qk"].tolist() == pytest.approx([0.9, 1])
    assert found["positivity_ov"].tolist() == pytest.approx([0.5, 1])
    assert found["separation"].tolist() == pytest.approx([1, 0])


def test_weights_of_nothing_score_nothing():
    nothing = circuits_of(np.zeros((1, 4, 4)), np.zeros((1, 4, 4)))
    assert heads.score(*heads.sides(nothing)).tolist() == [0]
    assert heads.hopfield_tie(nothing).tolist() == [0]


@pytest.mark.parametrize(("width", "rank"), [(64, 32), (48, 24), (64, 8), (11, 11)])
def test_the_construction_scores_one_in_any_basis(width, rank):
    c = heads.hand_made(np.random.default_rng(0), 3, width, rank)
    assert heads.score(*heads.sides(c)).min() > 1 - 1e-9
    assert (c.query @ c.key.mT).diagonal(dim1=1, dim2=2).std() > 0.01  # it was rotated


@pytest.mark.parametrize(
    "spoil",
    [
        lambda c: replace(c, query=-c.query),  # M negative
        lambda c: replace(c, value=-c.value),  # B positive
        lambda c: replace(c, key=c.key.roll(1, dims=2)),  # M a rotation
        lambda c: replace(c, value=-c.query, output=c.query.mT),  # X and Y the same
        lambda c: replace(c, query=c.query * torch.logspace(0, 2, 8, dtype=torch.float64)),  # M far from flat
    ],
)
def test_each_part_of_the_construction_is_needed(spoil):
    c = heads.hand_made(np.random.default_rng(0), 2, 32, 8)
    assert heads.score(*heads.sides(c)).min() > 1 - 1e-9
    assert heads.score(*heads.sides(spoil(c))).max() < 0.92  # flatness looks at 90 % of the energy alone and moves least


def test_the_tie_is_one_where_values_follow_the_energys_gradient():
    c = random_circuits()
    tied = replace(c, value=1.7 * c.key, output=c.query.mT)  # B = 1.7 M^T
    assert heads.hopfield_tie(tied).tolist() == pytest.approx([1] * 4)
    x = torch.from_numpy(np.random.default_rng(1).standard_normal((5, 12)))
    query = x[0].clone().requires_grad_()
    m = tied.query[0] @ tied.key[0].T
    scores = x @ m.T @ query
    (slope,) = torch.autograd.grad(scores.logsumexp(0), query)
    added = scores.softmax(0) @ x @ (tied.value[0] @ tied.output[0])
    assert torch.allclose(added, 1.7 * slope, atol=1e-10)
    assert heads.hopfield_tie(replace(tied, value=-tied.value)).tolist() == pytest.approx([-1] * 4)


def drawn_circuits(c, rng):
    """A draw of the null as heads, from the bases that the draw returns."""
    m, b, _ = heads.random_bases(*heads.sides(c), rng)
    return replace(
        c, query=m.bases[0] * m.singular[:, None], key=m.bases[1], value=b.bases[0] * b.singular[:, None], output=b.bases[1].mT
    )


@pytest.mark.parametrize("width", [20, 5])
def test_random_bases_keep_the_spectra_and_nothing_else(width, monkeypatch):
    """Numbers and ties of a draw are those of heads with its bases; all directions are shown here, for the test to have them."""
    monkeypatch.setattr(heads, "ENERGY", 2.0)
    c = random_circuits(width=width)
    rng = np.random.default_rng(0)
    m, b, tie = heads.random_bases(*heads.sides(c), rng)
    as_heads = drawn_circuits(c, np.random.default_rng(0))
    for drawn, again, own in zip((m, b), heads.sides(as_heads), heads.sides(c), strict=True):
        assert torch.allclose(drawn.singular, own.singular, atol=1e-9)
        assert torch.allclose(again.singular, own.singular, atol=1e-9)
        for name in heads.PARTS:
            assert torch.allclose(drawn.numbers[name], again.numbers[name], atol=1e-9)
    assert torch.allclose(heads.separation(m, b), heads.separation(*heads.sides(as_heads)), atol=1e-9)
    assert torch.allclose(tie, heads.hopfield_tie(as_heads), atol=1e-12)
    if width == 20:
        many = torch.stack([drawn_circuits(c, np.random.default_rng(seed)).key[0, :, 0] for seed in range(400)])
        assert many.mean(0).abs().max() < 4 / np.sqrt(20 * 400)  # uniform on the sphere: mean 0, covariance I / width
        assert torch.allclose(many.T @ many / 400, torch.eye(20, dtype=torch.float64) / 20, atol=4 * np.sqrt(2) / 20 / 20)


def heads_of_the_null(c, rng):
    """The same singular values between bases of its own, by another way than the code's: the SVD of normal matrices."""
    m, b = heads.sides(c)

    def basis():
        u, _, vt = np.linalg.svd(rng.standard_normal(m.bases[0].shape), full_matrices=False)
        return torch.from_numpy(u @ vt)

    return replace(c, query=basis() * m.singular[:, None], key=basis(), value=basis() * b.singular[:, None], output=basis().mT)


def test_the_largest_of_null_models_is_as_large_as_it_should_be():
    """Heads from the null itself: their adjusted p is uniform for the largest, and 5 % of models have a head below .05."""
    rng = np.random.default_rng(0)
    smallest = []
    for seed in range(60):
        c = heads_of_the_null(random_circuits(seed, width=8, rank=2), rng)
        maxima, _ = heads.null_maxima(c, 39, rng)
        smallest.append(heads.adjusted_p(heads.score(*heads.sides(c)), maxima).min())
    assert stats.kstest(smallest, "uniform").pvalue > 0.001
    assert np.mean(np.array(smallest) <= 0.05) < 0.2


def test_the_construction_is_found_among_random_heads():
    rng = np.random.default_rng(0)
    noise, planted = random_circuits(width=32, rank=8), heads.hand_made(rng, 1, 32, 8)
    both = Circuits(
        *(torch.cat([getattr(noise, part), getattr(planted, part)]) for part in ("query", "key", "value", "output")),
        [1] * 5,
        [1, 2, 3, 4, 5],
        "",
    )
    score = heads.score(*heads.sides(both))
    maxima, _ = heads.null_maxima(both, 39, rng)
    p = heads.adjusted_p(score, maxima)
    assert score[4] > 0.9
    assert p[4] == pytest.approx(1 / 40)
    assert p[:4].min() > 0.05
    assert score[:4].max() < 0.9
    assert heads.crossed_maxima(both, 39, rng).max() < 0.9  # its M with another's B


def test_crossed_scores_are_scores_of_crossed_heads():
    c = random_circuits()
    scores, others = heads.crossed_scores(c)
    for head in range(4):
        for other in range(4):
            crossed = replace(c, value=c.value[[other] * 4], output=c.output[[other] * 4])
            assert scores[head, other].item() == pytest.approx(heads.score(*heads.sides(crossed))[head].item(), abs=1e-9)
            assert others[head, other].item() == (head != other)
    maxima = heads.crossed_maxima(c, 50, np.random.default_rng(0))
    assert maxima.max() <= scores[others].max().item() + 1e-12


def test_adjusted_p_by_hand():
    p = heads.adjusted_p(torch.tensor([0.5, 0.9, 0.1]), np.array([0.2, 0.6, 0.5, 0.4]))
    assert p.tolist() == pytest.approx([3 / 5, 1 / 5, 1])
