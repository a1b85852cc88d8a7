"""Tests against hand enumeration, SciPy and simulation; intervals against closed forms of their variance and coverage."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import bootstrap, norm, t, ttest_1samp

from activation_descent import inference
from activation_descent.seeding import generator


def stream(purpose, seed=0):
    return generator(0, "test", "inference", "v", purpose, seed)


def table(*tasks):
    """Units from the values of each task."""
    rows = [(f"task {place}", draw, value) for place, values in enumerate(tasks) for draw, value in enumerate(values)]
    return pd.DataFrame(rows, columns=["task", "draw", "value"])


def drawn(rng, tasks, draws, between, within):
    """Units around zero whose tasks differ by `between` and whose draws differ by `within`."""
    value = rng.normal(0, between, (tasks, 1)) + rng.normal(0, within, (tasks, draws))
    task, draw = np.indices(value.shape)
    return pd.DataFrame({"task": task.ravel(), "draw": draw.ravel(), "value": value.ravel()})


UNEQUAL = table([1.0, 2.0, 4.0], [-1.0, 0.5])


def enumerated(tasks, reaches):
    """Share of the sign patterns whose mean of task means reaches."""
    sizes = [len(values) for values in tasks]
    count = 0
    for signs in itertools.product([1, -1], repeat=sum(sizes)):
        flipped, at = [], 0
        for values in tasks:
            flipped.append(np.mean(np.array(values) * signs[at : at + len(values)]))
            at += len(values)
        count += reaches(np.mean(flipped))
    return count / 2 ** sum(sizes)


# Units


def test_examples_are_not_units():
    twice = pd.concat([UNEQUAL, UNEQUAL])
    for judge in (inference.mean_over_tasks, lambda units: inference.sign_flip_p(units, stream("p"))):
        with pytest.raises(ValueError, match="average its examples"):
            judge(twice)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_undefined_values_are_refused(value):
    units = table([1.0, value], [2.0])
    for judge in (inference.sign_flip_p, inference.cluster_interval):
        with pytest.raises(ValueError, match=r"finite value: \[\['task 0', 1\]\]"):
            judge(units, stream("undefined"))
    with pytest.raises(ValueError, match="finite value for each layer"):
        inference.max_t(units.assign(layer=0), "layer", stream("undefined"))


def test_the_order_of_tasks_does_not_matter():
    named = UNEQUAL.assign(task=pd.Categorical(UNEQUAL["task"], ["task 1", "task 0"]))
    assert inference.mean_over_tasks(named) == pytest.approx(inference.mean_over_tasks(UNEQUAL))
    means = inference.bootstrap_means(named, stream("categories"), 20_000)
    again = inference.bootstrap_means(UNEQUAL.iloc[::-1], stream("reversed"), 20_000)
    assert means.std() == pytest.approx(again.std(), rel=8 / math.sqrt(2 * 20_000))
    assert means.mean() == pytest.approx(again.mean(), abs=8 * means.std() / math.sqrt(20_000))


def test_every_task_counts_alike():
    assert inference.mean_over_tasks(UNEQUAL) == pytest.approx((7 / 3 - 0.25) / 2)


# Tests


@pytest.mark.parametrize("tasks", [[[3.0, 1.0, -1.0]], [[1.0, 2.0, 4.0], [-1.0, 0.5]], [[1.0], [1.0], [1.0], [1.0], [-1.0]]])
def test_sign_flips_by_enumeration(tasks):
    units = table(*tasks)
    mean = inference.mean_over_tasks(units)
    for alternative, reaches in {
        "two-sided": lambda value: abs(value) >= abs(mean) - 1e-12,
        "greater": lambda value: value >= mean - 1e-12,
        "less": lambda value: value <= mean + 1e-12,
    }.items():
        found = inference.sign_flip_p(units.sample(frac=1, random_state=2), stream("flips"), alternative)
        assert found == pytest.approx(enumerated(tasks, reaches)), alternative


def test_sampled_sign_flips_count_the_observed_pattern():
    """20 equal differences: no sampled pattern reaches them, and still p is not zero."""
    units = table(np.ones(20))
    assert inference.sign_flip_p(units, stream("sampled"), resamples=999) == pytest.approx(1 / 1000)
    assert inference.sign_flip_p(table(np.ones(12)), stream("exact")) == pytest.approx(2 / 2**12)


def test_sampled_sign_flips_approach_the_exact_p():
    tasks = [[1.0, 2.0, 4.0, -3.0], [-1.0, 0.5, 2.5, 0.3]]
    exact = inference.sign_flip_p(table(*tasks), stream("exact"))
    sampled = inference.sign_flip_p(table(*tasks), stream("sampled"), resamples=255)
    assert sampled != exact
    assert sampled == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 255) + 1 / 256)


def test_equivalence_by_enumeration():
    tasks = [[0.3, -0.2, 0.1], [0.15, 0.05]]
    above = enumerated([np.add(values, 0.25) for values in tasks], lambda v: v >= np.mean([0.2 / 3, 0.1]) + 0.25 - 1e-12)
    below = enumerated([np.subtract(values, 0.25) for values in tasks], lambda v: v <= np.mean([0.2 / 3, 0.1]) - 0.25 + 1e-12)
    assert inference.equivalence_p(table(*tasks), 0.25, stream("tost")) == pytest.approx(max(above, below))
    with pytest.raises(ValueError, match="above zero"):
        inference.equivalence_p(table(*tasks), 0.0, stream("tost"))


def test_equivalence_says_what_two_t_tests_say():
    rng = stream("equivalence")
    units = drawn(rng, 1, 40, 0, 0.05)
    for margin, equivalent in ((0.04, True), (0.01, False)):
        values = units["value"]
        expected = max(
            ttest_1samp(values, -margin, alternative="greater").pvalue, ttest_1samp(values, margin, alternative="less").pvalue
        )
        found = inference.equivalence_p(units, margin, rng)
        assert (found < 0.05) is equivalent
        assert bool(expected < 0.05) is equivalent
        assert found == pytest.approx(expected, abs=0.02)


def test_holm_by_hand():
    # Times 4, 3, 2, 1 in rising order: .04, .06, .06 (not .06 below .06), .2
    assert inference.holm(np.array([0.03, 0.01, 0.2, 0.02])) == pytest.approx([0.06, 0.04, 0.2, 0.06])
    assert inference.holm(np.array([0.6, 0.9])) == pytest.approx([1.0, 1.0])


def family(*members):
    """Units of one task with one value for each member."""
    layer, draw = np.indices(np.shape(members))
    return pd.DataFrame({"task": "only", "draw": draw.ravel(), "layer": layer.ravel(), "value": np.ravel(members)})


def test_max_t_by_enumeration():
    members = [[3.0, 1.0, -1.0, 2.0], [0.1, 0.2, 0.3, 0.4], [1.0, -5.0, 2.0, 2.0]]
    scaled = np.array([np.array(values) / np.sqrt(np.sum(np.square(values))) for values in members])
    largest = [np.abs(scaled @ signs).max() for signs in itertools.product([1, -1], repeat=4)]
    expected = [np.mean(np.array(largest) >= abs(row.sum()) - 1e-9) for row in scaled]
    assert len(set(expected)) == 3
    found = inference.max_t(family(*members).sample(frac=1, random_state=3), "layer", stream("max"))
    assert found.index.tolist() == [0, 1, 2]
    assert found.tolist() == pytest.approx(expected)


def test_max_t_of_copies_is_the_single_test():
    """Flips are common to a family: copies of one member, in whatever units, cost nothing."""
    values = np.array([3.0, 1.0, -1.0, 2.0, 2.5])
    single = inference.sign_flip_p(table(values), stream("single"))
    assert inference.max_t(family(values, 10 * values, -values), "layer", stream("max")).tolist() == pytest.approx([single] * 3)


def test_max_t_keeps_the_error_of_the_family():
    """12 independent members without an effect: at least one p <= .1 in a tenth of the families (exact tests, 7 units: 128 flips)."""
    families = 200
    hits = sum(
        inference.max_t(family(*stream("family", seed).standard_normal((12, 7))), "layer", stream("max")).min() <= 0.1
        for seed in range(families)
    )
    level = math.floor(0.1 * 64) / 64  # p-values of 7 units are multiples of 1/64
    assert hits / families == pytest.approx(level, abs=4 * math.sqrt(0.09 / families))


def test_max_t_finds_the_layer_that_differs_and_leaves_empty_ones():
    values = stream("layers").standard_normal((3, 30))
    values[1] += 2
    values[2] = 0
    found = inference.max_t(family(*values), "layer", stream("max"), resamples=999)
    assert found[1] == pytest.approx(1 / 1000)
    assert found[0] > 0.05
    assert found[2] == 1
    with pytest.raises(ValueError, match="each layer"):
        inference.max_t(family(*values).iloc[1:], "layer", stream("max"))


# Intervals


def test_resampled_means_have_the_variance_of_both_levels():
    """Var = (1/T) [variance of the task means + mean over tasks of (variance of its draws) / n], all divided by number."""
    tasks = [[1.0, 2.0, 4.0], [-1.0, 0.5], [3.0, 3.0, 3.0, 7.0]]
    means = inference.bootstrap_means(table(*tasks), stream("variance"), 40_000)
    expected = (np.var([np.mean(v) for v in tasks]) + np.mean([np.var(v) / len(v) for v in tasks])) / 3
    assert means.var() == pytest.approx(expected, rel=4 * math.sqrt(2 / 40_000))
    centre = np.mean([np.mean(v) for v in tasks])
    assert means.mean() == pytest.approx(centre, abs=4 * math.sqrt(expected / 40_000))


def test_resampled_means_of_two_units_by_enumeration():
    """Tasks {0} and {1, 2}. Each slot is 0 (1/2), 1 (1/8), 1.5 (1/4) or 2 (1/8), and the mean that of two slots."""
    means = inference.bootstrap_means(table([0.0], [1.0, 2.0]), stream("enumeration"), 40_000)
    expected = {0.0: 16, 0.5: 8, 0.75: 16, 1.0: 8 + 1, 1.25: 4, 1.5: 4 + 2, 1.75: 4, 2.0: 1}
    for value, count in expected.items():
        share = count / 64
        assert (means == value).mean() == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 40_000))


@pytest.mark.parametrize("confidence", [0.95, 0.8])
def test_interval_of_one_task_is_scipys(confidence):
    """Skewed draws, so that bias and acceleration count. In standard errors of the mean, a quantile of 2.5 % from 40,000 resamples has a
    standard deviation of sqrt(.025 .975 / 40,000) / phi(1.96) = .013, and here two are compared.
    """
    values = stream("skewed").exponential(size=15) ** 2
    expected = bootstrap(
        (values,), np.mean, confidence_level=confidence, n_resamples=40_000, method="BCa", rng=stream("scipy")
    ).confidence_interval
    plain = bootstrap(
        (values,), np.mean, confidence_level=confidence, n_resamples=40_000, method="percentile", rng=stream("scipy")
    ).confidence_interval
    low, high = inference.cluster_interval(table(values), stream("ours"), confidence, 40_000)
    error = values.std() / math.sqrt(15)
    assert low == pytest.approx(expected.low, abs=0.08 * error)
    assert high == pytest.approx(expected.high, abs=0.08 * error)
    assert abs(plain.high - expected.high) > 0.2 * error


def coverage(tasks, draws, between, within, rounds=300):
    """How often the interval holds the true mean of zero; and a normal interval of the closed variance, on the same data."""
    inside = expected = 0
    for seed in range(rounds):
        rng = stream(f"coverage {tasks} {draws} {between}", seed)
        units = drawn(rng, tasks, draws, between, within)
        low, high = inference.cluster_interval(units, rng, 0.95, 1000)
        inside += low <= 0 <= high
        values = units["value"].to_numpy().reshape(tasks, draws)
        variance = (values.mean(1).var() + values.var(1).mean() / draws) / tasks
        expected += abs(values.mean()) <= norm.isf(0.025) * math.sqrt(variance)
    return inside / rounds, expected / rounds


@pytest.mark.parametrize(("tasks", "draws", "between", "within"), [(1, 20, 0, 1), (6, 10, 0, 1), (6, 10, 3, 1)])
def test_coverage_is_that_of_a_normal_interval(tasks, draws, between, within):
    """Same data on both sides: a rate of disagreement of 5 % or less leaves a difference of sd sqrt(.05 / 300), and skew a point or so."""
    inside, expected = coverage(tasks, draws, between, within)
    assert inside == pytest.approx(expected, abs=4 * math.sqrt(0.05 / 300))
    if tasks == 1:
        # |mean| <= 1.96 s sqrt((n - 1) / n) / sqrt(n): the share of a t distribution within 1.96 sqrt(19 / 20), .93
        share = 1 - 2 * t.sf(norm.isf(0.025) * math.sqrt(19 / 20), 19)
        assert inside == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 300))
    elif between == 0:
        assert inside > 0.95  # draws count twice
    else:
        # Tasks alone: 1.96 sqrt(5 / 6) of a t distribution with five degrees of freedom, and a little for the draws
        share = 1 - 2 * t.sf(norm.isf(0.025) * math.sqrt(5 / 6), 5)
        assert share == pytest.approx(0.866, abs=0.001)
        assert inside == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 300))


def test_units_alone_would_be_too_sure():
    """What the levels are for: ten draws of six different tasks are not 60 replications."""
    rng = stream("naive")
    units = drawn(rng, 6, 10, 3, 1)
    low, high = inference.cluster_interval(units, rng)
    one_level = units.assign(task="all", draw=range(60))
    naive_low, naive_high = inference.cluster_interval(one_level, rng)
    assert high - low > 2 * (naive_high - naive_low)


@pytest.mark.parametrize(("units", "expected"), [(table([2.0, 2.0], [2.0]), (2.0, 2.0)), (table([2.0]), (math.nan, math.nan))])
def test_intervals_of_degenerate_units(units, expected):
    assert inference.cluster_interval(units, stream("degenerate")) == pytest.approx(expected, nan_ok=True)


def accelerated(units, purpose, acceleration):
    """Efron's interval of the same resampled means, equation by equation."""
    means = inference.bootstrap_means(units, stream(purpose), 4000)
    estimate = inference.mean_over_tasks(units)
    ties = np.isclose(means, estimate, rtol=1e-9)
    assert ties.any()
    bias = norm.ppf((means[~ties] < estimate).sum() / 4000 + ties.sum() / 8000)
    ends = bias + norm.ppf([0.025, 0.975])
    return np.quantile(means, norm.cdf(bias + ends / (1 - acceleration * ends)))


def test_acceleration_is_the_jackknife_over_units():
    """Without each unit in turn; the task of one draw goes with it."""
    units = table([31.0, 32.0, 39.0], [28.7, 30.5], [33.0, 37.0], [35.0], [70.0, 50.0])
    left = np.array([inference.mean_over_tasks(units.drop(unit)) for unit in units.index])
    pulls = left.mean() - left
    acceleration = np.sum(pulls**3) / (6 * np.sum(pulls**2) ** 1.5)
    assert acceleration > 0.01
    found = inference.cluster_interval(units, stream("jackknife"), resamples=4000)
    assert found == pytest.approx(accelerated(units, "jackknife", acceleration), rel=1e-3)


def test_rounding_has_no_acceleration():
    """Draws that are equal inside tasks: no unit pulls, and what the jackknife leaves is rounding."""
    units = table(*([value] * 4 for value in stream("constant").exponential(size=9)))
    found = inference.cluster_interval(units, stream("rounding"), resamples=4000)
    assert found == pytest.approx(accelerated(units, "rounding", 0), rel=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_ties_survive_rounding(seed):
    """Accuracies and the like are multiples of something, so that many resampled means equal the estimate. They do so in any unit."""
    counts = stream("ties", seed).integers(0, 10, 5).astype(float)
    whole = inference.cluster_interval(table(counts), stream("resampling"), resamples=4000)
    tenths = inference.cluster_interval(table(0.1 * counts), stream("resampling"), resamples=4000)
    assert tenths == pytest.approx(0.1 * np.array(whole))


# Design


def test_minimal_detectable_effect_has_its_power():
    effect = inference.minimal_detectable_effect(2.0, 3)
    rounds = 40_000
    values = stream("power").normal(effect, 2.0, (rounds, 3))
    power = (ttest_1samp(values, 0, axis=1).pvalue < 0.05).mean()
    assert power == pytest.approx(0.8, abs=4 * math.sqrt(0.16 / rounds))


def test_minimal_detectable_effect_of_many_units_is_the_normal_one():
    """(1.960 + .842) sd / sqrt(n); with a spread of .019 over ten draws, a t distribution asks for a tenth more."""
    normal_shift = norm.isf(0.025) + norm.isf(0.2)
    assert inference.minimal_detectable_effect(3.0, 10_000) == pytest.approx(3 * normal_shift / 100, rel=1e-3)
    assert inference.minimal_detectable_effect(1.0, 10, 0.01, 0.9) > inference.minimal_detectable_effect(1.0, 10, 0.01) > 1
    ten = inference.minimal_detectable_effect(math.sqrt(2) * 0.019, 10)
    assert normal_shift * 0.0085 < ten < 1.15 * normal_shift * 0.0085
    with pytest.raises(ValueError, match="two units"):
        inference.minimal_detectable_effect(1.0, 1)
