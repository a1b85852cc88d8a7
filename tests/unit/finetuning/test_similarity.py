"""Similarities of updates against hand calculation, exact identities and simulation."""

import itertools
import math

import numpy as np
import pytest
import torch

from activation_descent.finetuning import similarity
from activation_descent.seeding import generator


def stream(purpose):
    return generator(0, "test", "similarity", "v", purpose)


def normal(purpose, *shape):
    return torch.from_numpy(stream(purpose).standard_normal(shape))


def vectors(*rows):
    return torch.tensor(rows, dtype=torch.float64)


Z, R, Q = torch.eye(3, dtype=torch.float64)


def test_two_unrelated_movements_have_the_published_similarity_of_a_quarter():
    """Deutch et al. 2023, section 3.1: |r|^2 = |r'|^2 = 3 |z|^2, all orthogonal. c = 1/2, so the floor is 1/2 (1 - 1/2)."""
    found = similarity.update_similarity(Z + math.sqrt(3) * R, Z + math.sqrt(3) * Q, Z)
    expected = {
        "normalised": 0.25,
        "floor": 0.25,
        "raw": 0.0,
        "partial": 0.0,
        "icl_cosine": 0.5,
        "ft_cosine": 0.5,
        "icl_movement": math.sqrt(3),
        "ft_movement": math.sqrt(3),
    }
    assert {name: value.item() for name, value in found.items()} == pytest.approx(expected, abs=1e-12)


def test_updates_by_hand():
    # z = (2, 0), h = (3, 4): h - z = (1, 4), h/5 - z/2 = (-.4, .8), beside z (0, 4)
    h, z = vectors([3, 4])[0], vectors([2, 0])[0]
    assert torch.allclose(similarity.raw_update(h, z), vectors([1, 4])[0])
    assert torch.allclose(similarity.normalised_update(h, z), vectors([-0.4, 0.8])[0])
    assert torch.allclose(similarity.orthogonal_update(h, z), vectors([0, 4])[0])
    found = similarity.update_similarity(h, vectors([3, -4])[0], z)
    assert found["raw"].item() == pytest.approx(-15 / 17)
    assert found["normalised"].item() == pytest.approx((0.16 - 0.64) / 0.8)
    assert found["partial"].item() == pytest.approx(-1)
    assert found["icl_movement"].item() == pytest.approx(math.sqrt(17) / 2)
    assert found["ft_movement"].item() == pytest.approx(math.sqrt(17) / 2)


def test_partial_cosine_is_the_partial_correlation_of_three_cosines():
    icl, ft, zero = normal("partial", 3, 4, 5, 6)
    found = similarity.update_similarity(icl, ft, zero)
    c1, c2, c12 = found["icl_cosine"], found["ft_cosine"], similarity.cosine(icl, ft)
    assert torch.allclose(c12, torch.nn.functional.cosine_similarity(icl, ft, dim=-1))
    assert torch.allclose(found["partial"], (c12 - c1 * c2) / ((1 - c1**2) * (1 - c2**2)).sqrt())


def test_published_similarity_is_its_floor_and_a_share_of_the_partial_cosine():
    icl, ft, zero = normal("identity", 3, 50, 8) + 1
    found = similarity.update_similarity(icl, ft, zero)
    share = 0.5 * ((1 + found["icl_cosine"]) * (1 + found["ft_cosine"])).sqrt()
    assert torch.allclose(found["normalised"], found["floor"] + share * found["partial"])


@pytest.mark.parametrize("sizes", [(0.3, 0.3), (1.0, 2.0), (5.0, 0.5)])
def test_movements_that_are_uncorrelated_beside_the_state_reach_the_floor(sizes):
    """Isotropic updates in d dimensions: S_perp has mean 0 and variance 1 / (d - 1), whatever their size."""
    number, features = 4000, 64
    zero = normal("floor zero", number, features)
    icl, ft = (zero + size * normal(f"floor {place}", number, features) for place, size in enumerate(sizes))
    found = similarity.update_similarity(icl, ft, zero)
    deviation = 1 / math.sqrt((features - 1) * number)
    assert found["partial"].mean().item() == pytest.approx(0, abs=4 * deviation)
    assert found["partial"].std().item() == pytest.approx(1 / math.sqrt(features - 1), rel=0.1)
    assert found["normalised"].mean().item() == pytest.approx(found["floor"].mean().item(), abs=4 * deviation)
    if min(sizes) >= 1:
        assert found["floor"].mean().item() > 20 * deviation


def test_small_steps_keep_their_digits():
    """|delta| = 1e-6 |z| beside z: c = 1 - 5e-13, the floor 1/2 (1 - c). In float32 the latter would be zero."""
    zero, step = vectors([1, 0, 0], [0, 1e-6, 0])
    found = similarity.update_similarity(zero + step, zero + step, zero)
    assert found["floor"].item() == pytest.approx(2.5e-13, rel=1e-3, abs=0)
    assert found["partial"].item() == pytest.approx(1)
    single = similarity.update_similarity((zero + step).float(), (zero + step).float(), zero.float())
    assert single["floor"].item() == pytest.approx(2.5e-13, rel=1e-3, abs=0)


def test_what_did_not_move_has_no_direction():
    found = similarity.update_similarity(Z + R, Z, Z)
    for name in ("raw", "normalised", "partial"):
        assert found[name].isnan()
    assert found["ft_movement"].item() == 0


def test_odd_part_forgets_what_both_signs_share():
    floor, first_order = torch.tensor([0.3, 0.1]), torch.tensor([0.05, -0.02])
    assert torch.allclose(similarity.odd_part(floor + first_order, floor - first_order), first_order)


@pytest.mark.parametrize("directions", [vectors([1, 1, 0]), vectors([1, 1, 0], [2, 2, 0]), vectors([1, 1, 0], [0, 0, 0])])
def test_projection_off_a_line(directions):
    found = similarity.project_off(vectors([3, 1, 5], [1, 1, 0]), directions)
    assert torch.allclose(found, vectors([1, -1, 5], [0, 0, 0]), atol=1e-12)


def test_projection_off_a_span_of_each_layer_is_least_squares():
    updates, directions = normal("updates", 2, 7, 6), normal("directions", 2, 1, 3, 6)
    found = similarity.project_off(updates, directions)
    for layer in range(2):
        basis = directions[layer, 0].numpy().T
        fitted = np.linalg.lstsq(basis, updates[layer].numpy().T)[0]
        assert np.allclose(found[layer].numpy(), updates[layer].numpy() - (basis @ fitted).T)


def test_shuffled_pairs_are_all_other_pairs():
    first, second = normal("shuffled", 2, 3, 5, 4)
    found = similarity.shuffled_cosine(first, second)
    for layer, query in itertools.product(range(3), range(5)):
        others = [similarity.cosine(first[layer, query], second[layer, other]).item() for other in range(5) if other != query]
        assert found[layer, query].item() == pytest.approx(np.mean(others))
    assert similarity.shuffled_cosine(first[:, :1], second[:, :1]).isnan().all()


def test_a_constant_direction_does_not_exceed_its_shuffled_pairs():
    direction = normal("direction", 4).expand(6, 4)
    assert torch.allclose(similarity.shuffled_cosine(direction, 2 * direction), torch.ones(6, dtype=torch.float64))


def test_uniform_baseline_measures_the_mean_feature():
    """E cos(u, U[0,1)^d) = sqrt(3)/2 cos(u, 1) to order 1/d; one cosine's standard deviation is about 1/2 / sqrt(d) (d = 1024)."""
    update = normal("update", 1024) + 0.5
    like = update.expand(500, 1024)
    expected = math.sqrt(3) / 2 * similarity.cosine(update, torch.ones_like(update)).item()
    found = similarity.cosine(like, similarity.uniform_update(like, stream("uniform")))
    assert expected > 0.3
    assert found.mean().item() == pytest.approx(expected, abs=4 * 0.5 / math.sqrt(1024 * 500) + 1 / 1024)


def test_gaussian_baseline_keeps_lengths_and_has_no_direction():
    """E cos = 0 with variance 1/d even where the mean feature is large."""
    like = normal("like", 500, 256) + 0.5
    drawn = similarity.gaussian_update(like, stream("gaussian"))
    assert torch.allclose(drawn.norm(dim=-1), like.norm(dim=-1))
    found = similarity.cosine(like, drawn)
    assert found.mean().item() == pytest.approx(0, abs=4 / math.sqrt(256 * 500))
    assert found.square().mean().item() == pytest.approx(1 / 256, rel=4 * math.sqrt(2 / 500))
    assert not torch.equal(drawn, similarity.gaussian_update(like, stream("another")))


# Attention maps

VALID = torch.tensor([True, True, True, False])


def test_attention_by_hand():
    # Logits are logarithms: softmax gives (1/2, 1/4, 1/4), (1/6, 2/3, 1/6), (1/3, 1/3, 1/3)
    icl, ft, zero = (vectors([*row, 7]).log()[0] for row in ([2, 1, 1], [1, 4, 1], [1, 1, 1]))
    icl, ft, zero = icl + 1, ft + 1, zero + 1
    found = similarity.attention_similarity(icl, ft, zero, VALID)
    a, b = 1 + math.log(2), 1 + math.log(4)
    expected = {
        "before": (a + 2) / math.sqrt(3 * (a * a + 2)),
        "after": (a + b + 1) / math.sqrt((a * a + 2) * (b * b + 2)),
        "delta": 0.0,
        "before_variation": 1 / 6,
        "after_variation": 5 / 12,
    }
    assert {name: found[name].item() for name in expected} == pytest.approx(expected, abs=1e-12)
    # Centred: log 2 times (2, -1, -1)/3 and log 4 times (-1, 2, -1)/3, and nothing for ZSL
    assert found["after_centred"].item() == pytest.approx(-0.5)
    assert found["delta_centred"].item() == pytest.approx(-0.5)
    assert found["before_centred"].isnan()


@pytest.mark.parametrize("outside", [0.0, 1e4, -math.inf])
def test_other_keys_and_constants_change_nothing_that_softmax_does_not_see(outside):
    rows = normal("rows", 3, 5, 2, 4)
    valid = VALID.expand(5, 1, 4)
    plain = similarity.attention_similarity(*rows, valid)
    changed = rows.clone()
    changed[..., 3] = outside
    changed = changed + normal("constants", 3, 5, 2, 1)
    changed = similarity.attention_similarity(*changed, valid)
    for name in plain:
        seen_by_softmax = name.endswith(("centred", "variation"))
        assert torch.allclose(plain[name], changed[name]) is seen_by_softmax, name
    short = similarity.attention_similarity(*rows[..., :3], torch.ones(3, dtype=torch.bool))
    for name in plain:
        assert torch.allclose(plain[name], short[name]), name


def test_a_common_constant_makes_unrelated_logits_similar():
    """E cos of independent N(c, 1) rows is about c^2 / (1 + c^2): .9 for c = 3. Centred rows of n keys have variance 1 / (n - 1)."""
    icl, ft, zero = normal("common", 3, 2000, 20)
    valid = torch.ones(20, dtype=torch.bool)
    found = similarity.attention_similarity(icl + 3, ft + 3, zero + 3, valid)
    assert found["after"].mean().item() == pytest.approx(0.9, abs=0.02)
    assert found["after_centred"].mean().item() == pytest.approx(0, abs=4 / math.sqrt(19 * 2000))
    # Two changes from the same point have half of their variance in common
    assert found["delta_centred"].mean().item() == pytest.approx(0.5, abs=0.02)


def test_total_variation_is_one_for_disjoint_attention_and_the_gain_a_share_of_the_way():
    first, second = vectors([50, 0, 0, 0], [0, 50, 0, 0])
    assert similarity.total_variation(first, second, VALID).item() == pytest.approx(1)
    assert similarity.total_variation(first, first + 3, VALID).item() == 0


# Layers


def test_cross_layer_matrix_is_the_mean_cosine_of_each_pair_of_layers():
    icl, ft = normal("layers", 2, 3, 5, 4)
    found = similarity.cross_layer_matrix(icl, ft)
    for row, column in itertools.product(range(3), range(3)):
        assert found[row, column].item() == pytest.approx(similarity.cosine(icl[row], ft[column]).mean().item())


def test_diagonal_dominance_by_hand():
    # Diagonal 1; at distance 1 entries 2, 4, 6, 8 (mean 5), at distance 2 entries 1, 2 (mean 1.5): 1 - (5 + 1.5) / 2
    matrix = vectors([1, 2, 1], [4, 1, 6], [2, 8, 1])
    assert similarity.diagonal_dominance(matrix) == pytest.approx(1 - 3.25)
    assert similarity.diagonal_dominance(torch.full((5, 5), 0.7)) == pytest.approx(0)
    with pytest.raises(ValueError, match="two layers"):
        similarity.diagonal_dominance(torch.ones(1, 1))


# Attention to the demonstrations


def test_dual_weights_by_hand():
    memory, query = vectors([1, 2], [0, -1]), vectors([3, 1])[0]
    assert similarity.dual_weights(memory, query).tolist() == [5, -1]
    assert similarity.error_weighted(memory, query, torch.tensor([5.0, 2.0])).tolist() == [25, 2]
    several = similarity.dual_weights(normal("memory", 3, 1, 5, 4), normal("query", 3, 2, 4))
    assert several.shape == (3, 2, 5)


def test_dual_weights_are_what_a_gradient_step_does_to_the_output():
    """One step on sum_i l_i(W z_i) moves W z by sum_i e_i (z_i^T z): equation 9 of Dai et al., by autograd."""
    memory, query, target = normal("inputs", 5, 4), normal("test input", 4), normal("targets", 5, 3)
    weight = normal("weight", 3, 4).requires_grad_()
    outputs = memory @ weight.T
    outputs.retain_grad()
    (outputs.sin() * target).sum().backward()
    errors = -0.1 * outputs.grad
    moved = -0.1 * weight.grad @ query
    weights = similarity.dual_weights(memory, query)
    assert torch.allclose(errors.T @ weights, moved)
    each = similarity.error_weighted(memory, query, errors.norm(dim=1))
    assert torch.allclose(each, (errors * weights[:, None]).norm(dim=1))


def test_kendall_tau_by_hand():
    # (1, 2, 3, 4) against (1, 3, 2, 4): 5 pairs agree, 1 does not: 4/6. Without the last: 2 agree, 1 does not: 1/3
    first = vectors([1, 2, 3, 4]).expand(3, 4)
    second = vectors([1, 3, 2, 4], [1, 3, 2, -9], [5, 5, 5, 5])
    valid = torch.tensor([[True] * 4, [True] * 3 + [False], [True] * 4])
    found = similarity.kendall_tau(first, second, valid)
    assert found[:2].tolist() == pytest.approx([4 / 6, 1 / 3])
    assert found[2].isnan()
    assert similarity.kendall_tau(first, second, torch.tensor([True, False, False, False])).isnan().all()
    assert torch.equal(found[:2], similarity.kendall_tau(first[:2], second[:2].softmax(1), valid[:2]))
