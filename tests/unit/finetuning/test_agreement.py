"""Agreement of answers against hand calculation, closed forms and simulation."""

import math

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from scipy.stats import spearmanr

from activation_descent.finetuning import agreement
from activation_descent.language.accuracy import calibration
from activation_descent.seeding import generator

TABLE = np.array([[6, 2], [1, 3]])


def stream(purpose):
    return generator(0, "test", "agreement", "v", purpose)


def flags(text):
    return np.array([letter == "1" for letter in text])


def partial_by_formula(ab, ac, bc):
    return (ab - ac * bc) / math.sqrt((1 - ac**2) * (1 - bc**2))


# Predictions


def test_recovery_by_hand():
    zsl = flags("1100000000")
    ft = flags("1011110000")
    icl = flags("0111101000")
    # ZSL wrong on the last eight: FT 11110000, ICL 11101000
    table = agreement.recovery_table(zsl, ft, icl)
    assert table.tolist() == [[3, 1], [1, 3]]
    assert agreement.recovered(table) == 3 / 4
    assert agreement.recovered_by_chance(table) == 4 / 8
    nothing = agreement.recovery_table(flags("11"), flags("10"), flags("01"))
    assert math.isnan(agreement.recovered(nothing))
    assert math.isnan(agreement.recovered_by_chance(nothing))


def test_independent_corrections_recover_at_the_level_of_chance():
    rng, number = stream("independent"), 40_000
    zsl, ft, icl = (rng.random(number) < share for share in (0.5, 0.4, 0.9))
    table = agreement.recovery_table(zsl, ft, icl)
    assert agreement.recovered(table) == pytest.approx(0.9, abs=4 * 0.3 / math.sqrt(0.2 * number))
    assert agreement.recovered_by_chance(table) == pytest.approx(0.9, abs=4 * 0.3 / math.sqrt(0.5 * number))
    assert agreement.phi(table) == pytest.approx(0, abs=4 / math.sqrt(0.5 * number))


def test_phi_and_odds_by_hand():
    assert agreement.phi(TABLE) == pytest.approx((18 - 2) / math.sqrt(8 * 4 * 7 * 5))
    a, b = np.repeat([1, 1, 0, 0], TABLE.ravel()), np.repeat([1, 0, 1, 0], TABLE.ravel())
    assert agreement.phi(TABLE) == pytest.approx(np.corrcoef(a, b)[0, 1])
    odds, p = agreement.odds_ratio(TABLE)
    assert odds == pytest.approx(9)
    # Tables with these margins, by their first cell 3 ... 7; as improbable as this one or less
    probability = {cell: math.comb(8, cell) * math.comb(4, 7 - cell) / math.comb(12, 7) for cell in range(3, 8)}
    assert p == pytest.approx(sum(each for each in probability.values() if each <= probability[6] * (1 + 1e-9)))
    assert math.isnan(agreement.phi(np.array([[5, 0], [3, 0]])))
    assert math.isinf(agreement.odds_ratio(np.array([[5, 0], [3, 2]]))[0])


def test_wilson_interval_solves_its_equation():
    """Its ends are the shares p with |k/n - p| = z sqrt(p (1 - p) / n)."""
    low, high = agreement.wilson_interval(np.int64(14), 16)
    for end in (low, high):
        assert abs(14 / 16 - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / 16), rel=1e-6)
    assert low < 14 / 16 < high < 1
    narrower = agreement.wilson_interval(14, 16, 0.8)
    assert low < narrower[0] < narrower[1] < high
    assert agreement.wilson_interval(0, 0) == (0, 1)


def test_error_consistency_by_hand():
    # Both right on .75 and .5; same on 3 of 4; by chance .75 * .5 + .25 * .5 = .5
    assert agreement.error_consistency(flags("1110"), flags("1100")) == pytest.approx((0.75 - 0.5) / 0.5)
    assert agreement.error_consistency(flags("1100"), flags("1100")) == 1
    assert agreement.error_consistency(flags("1100"), flags("0011")) == -1
    assert math.isnan(agreement.error_consistency(flags("11"), flags("11")))
    rng = stream("kappa")
    a, b = rng.random(40_000) < 0.9, rng.random(40_000) < 0.8
    assert agreement.error_consistency(a, b) == pytest.approx(0, abs=4 / math.sqrt(40_000))


# Label logits


def test_two_labels_give_the_partial_correlation_of_margins():
    icl, ft, zsl = stream("two").standard_normal((3, 30, 2))
    ft, icl = ft + 0.5 * zsl + 0.3 * icl, icl + zsl
    ab, ac, bc = (np.corrcoef(np.diff(x)[:, 0], np.diff(y)[:, 0])[0, 1] for x, y in ((icl, ft), (icl, zsl), (ft, zsl)))
    expected = partial_by_formula(ab, ac, bc)
    assert agreement.logit_agreement(icl, ft, zsl) == pytest.approx(expected)
    # Neither a preference for a label nor a constant of a query is agreement
    biased = ft + np.array([5.0, -1.0]), icl + np.array([9.0, 0.0]) + stream("constants").standard_normal((30, 1))
    assert agreement.logit_agreement(*biased, zsl) == pytest.approx(expected)


def test_logit_agreement_leaves_zsl_out():
    """icl = zsl + u + e, ft = zsl/2 + u + e' with equal variances: half of what is left is common."""
    number = 20_000
    zsl, common, first, second = stream("common").standard_normal((4, number, 3))
    found = agreement.logit_agreement(zsl + common + first, zsl / 2 + common + second, zsl)
    assert found == pytest.approx(0.5, abs=4 * 0.75 / math.sqrt(2 * number))
    alone = agreement.logit_agreement(zsl + first, zsl / 2 + second, zsl)
    assert alone == pytest.approx(0, abs=4 / math.sqrt(2 * number))


def test_calibration_alone_has_no_logit_agreement():
    icl, zsl = stream("calibrated").standard_normal((2, 50, 3))
    assert math.isnan(agreement.logit_agreement(icl, zsl + np.array([1.0, 0.0, -3.0]), zsl))


def test_calibration_by_hand():
    """Logit differences 1 and 3 and a target of sigmoid(0): by symmetry the shift of the difference is -2."""
    shift = agreement.calibration_shift(np.array([[1.0, 0.0], [3.0, 0.0]]), np.array([0.5, 0.5]))
    assert shift == pytest.approx([-1, 1])
    # One query: softmax(z + b) = target is solved by b = log target - z
    logits, target = np.array([[0.3, -1.0, 2.0]]), np.array([0.2, 0.7, 0.1])
    expected = np.log(target) - logits[0]
    assert agreement.calibration_shift(logits, target) == pytest.approx(expected - expected.mean())


@pytest.mark.parametrize("scale", [0.1, 1, 30, 1000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_calibration_reaches_its_target(scale, dtype):
    logits = (stream("target").standard_normal((50, 4)) * scale).astype(dtype)
    target = np.array([0.7, 0.1, 0.15, 0.05], dtype=dtype)
    shift = agreement.calibration_shift(logits, target)
    assert softmax(logits + shift, axis=1).mean(0) == pytest.approx(target, abs=1e-6)
    assert shift.sum() == pytest.approx(0, abs=1e-6 * scale)


def test_calibration_finds_the_shift_that_was_made_and_the_uniform_one():
    logits, made = stream("made").standard_normal((40, 3)) * 2, np.array([1.5, -2.0, 0.5])
    found = agreement.calibration_shift(logits, softmax(logits + made, axis=1).mean(0))
    assert found == pytest.approx(made, abs=1e-6)
    uniform = agreement.calibration_shift(logits, np.full(3, 1 / 3))
    assert uniform == pytest.approx(calibration(torch.from_numpy(logits)).numpy(), abs=1e-6)


@pytest.mark.parametrize("target", [[1.0, 0.0], [0.6, 0.6], [1.2, -0.2]])
def test_calibration_refuses_what_is_no_marginal(target):
    with pytest.raises(ValueError, match="positive and sum to 1"):
        agreement.calibration_shift(np.zeros((3, 2)), np.array(target))


def test_calibration_refuses_what_it_cannot_reach():
    """Beside 1e17 shifts are multiples of 16: one query's sigmoid is 0, 1/2 or 1, not .3."""
    with pytest.raises(ValueError, match="no shift"):
        agreement.calibration_shift(np.array([[1e17, 0.0]]), np.array([0.3, 0.7]))


def test_partial_correlation_of_explained_values_is_undefined():
    values = stream("explained").standard_normal(9)
    controls = np.column_stack([values, values])
    assert math.isnan(agreement.partial_correlation(2 * values + 1, values**2, controls))
    assert agreement.partial_correlation(values, -3 * values + 7, np.ones((9, 1))) == pytest.approx(-1)


# Orders

PROBABILITY = np.array([[[0.2, 0.8, 0.0], [0.5, 0.25, 0.25]], [[0.6, 0.0, 0.4], [0.5, 0.25, 0.25]]])  # permutation query token


def test_order_sensitivity_by_hand():
    # First query: deviations .2, .4, .2 of two values each; second: none
    assert agreement.order_sensitivity(PROBABILITY) == pytest.approx([0.8, 0.0])
    # Mean (.4, .4, .2), both orders sqrt(.24) away; ZSL (1, 0, 0) and the second query's own mean are sqrt(.56) and 0 away
    zsl = np.array([[1.0, 0.0, 0.0], [0.5, 0.25, 0.25]])
    assert agreement.normalised_order_sensitivity(PROBABILITY, zsl) == pytest.approx(math.sqrt(0.24 / 0.56))


def test_normalised_order_sensitivity_does_not_depend_on_the_step():
    random = softmax(stream("orders").standard_normal((11, 7, 5)), axis=-1)
    zsl, moved = random[0], random[1:]
    near = zsl + 0.01 * (moved - zsl)
    far = agreement.normalised_order_sensitivity(moved, zsl)
    assert agreement.normalised_order_sensitivity(near, zsl) == pytest.approx(far)
    assert agreement.order_sensitivity(near) == pytest.approx(0.01 * agreement.order_sensitivity(moved))


def test_order_correlation_by_hand():
    icl = np.array([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0], [3.0, 3.0, 3.0]])
    ft = np.array([[5.0, 1.0, 0.1], [7.0, 0.0, 0.1], [9.0, 2.0, 0.1]])
    found = agreement.order_correlation(icl, ft)
    assert found[:2] == pytest.approx([1, 0.5])
    assert math.isnan(found[2])


# Distributions


def test_overlap_by_hand():
    first = np.array([[0.5, 0.3, 0.2, 0.0], [0.5, 0.3, 0.2, 0.0], [0.5, 0.3, 0.2, 0.0]])
    second = np.array([[0.4, 0.1, 0.0, 0.5], [0.6, 0.4, 0.0, 0.0], [0.0, 0.1, 0.5, 0.4]])
    # Two most probable: {0, 1} and {0, 3}, {0, 1}, {2, 3}
    assert agreement.token_overlap(first, second, 2).tolist() == [0.5, 1, 0]
    found = agreement.overlap_cosine(first, second, 2)
    assert found["product"] == pytest.approx([1, math.inf, 0])
    cosine = (0.5 * 0.6 + 0.3 * 0.4) / math.sqrt((0.25 + 0.09) * (0.36 + 0.16))
    assert found["additive"] == pytest.approx([0.2 / math.sqrt(0.25 * 0.16 + 1), cosine, 0])
    same = agreement.overlap_cosine(first, first, 2)
    assert same["additive"] == pytest.approx([1, 1, 1])


# Influences


def test_influence_correlation_is_the_partial_correlation_of_ranks():
    rng = stream("ranks")
    icl, ft = rng.standard_normal((2, 12, 4))
    slot = rng.permutation(12)
    icl = np.exp(icl + 0.2 * slot[:, None])  # ranks do not see the exponential
    found = agreement.influence_correlation(icl, ft, slot, np.full(12, "same"))
    for query in range(4):
        a, b = icl[:, query], ft[:, query]
        pairs = (spearmanr(x, y).statistic for x, y in ((a, b), (a, slot), (b, slot)))
        assert found[query] == pytest.approx(partial_by_formula(*pairs))


def test_recency_and_labels_are_no_agreement_on_examples():
    """Both prefer late demonstrations and one label, and nothing else is common."""
    demonstrations, queries = 32, 2000
    slot, label = np.arange(demonstrations), np.arange(demonstrations) % 2
    first, second, example = stream("recency").standard_normal((3, demonstrations, queries))
    trend = (0.05 * slot + 1.0 * label)[:, None]
    plain = np.mean([spearmanr(a, b).statistic for a, b in zip((trend + first).T[:200], (trend + second).T[:200], strict=True)])
    found = agreement.influence_correlation(trend + first, trend + second, slot, label)
    assert plain > 0.25
    assert found.mean() == pytest.approx(0, abs=4 / math.sqrt(29 * queries))
    common = agreement.influence_correlation(trend + first + 2 * example, trend + second + 2 * example, slot, label)
    assert common.mean() > 0.7


# Noise


def test_attenuation_by_hand():
    assert agreement.disattenuated(0.3, 0.9, 0.4) == pytest.approx(0.5)
    found = agreement.disattenuated(np.array([0.3, 0.3, 0.3]), np.array([0.9, -0.9, 0.0]), np.array([0.4, -0.4, 0.4]))
    assert found[0] == pytest.approx(0.5)
    assert np.isnan(found[1:]).all()


def test_attenuation_is_undone():
    """True correlation .6, seen through noise of variance 1 and 3: cross .6 / sqrt(2 * 4) of unit signals, reliabilities 1/2, 1/4."""
    rng, number = stream("attenuation"), 200_000
    signal = rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], number).T
    icl, again = signal[0] + rng.standard_normal((2, number))
    ft, ft_again = signal[1] + math.sqrt(3) * rng.standard_normal((2, number))
    cross, icl_reliability, ft_reliability = (
        np.corrcoef(*pair)[0, 1] for pair in ((icl, ft_again), (icl, again), (ft, ft_again))
    )
    # Standard errors of three correlations, relative: 1 / (r sqrt(n)), halved for the reliabilities
    error = sum(weight / (r * math.sqrt(number)) for weight, r in ((1, cross), (0.5, icl_reliability), (0.5, ft_reliability)))
    assert cross < 0.25
    assert agreement.disattenuated(cross, icl_reliability, ft_reliability) == pytest.approx(0.6, rel=4 * error)


def test_a_sigmoid_of_the_shifted_margin_is_the_marginal():
    """Two labels: b solves mean sigmoid(x + b) = target, here by bisection."""
    margin = stream("bisection").standard_normal(25) * 3
    low, high = -20.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if expit(margin + middle).mean() < 0.8 else (low, middle)
    shift = agreement.calibration_shift(np.column_stack([np.zeros(25), margin]), np.array([0.2, 0.8]))
    assert shift[1] - shift[0] == pytest.approx(low, abs=1e-6)
