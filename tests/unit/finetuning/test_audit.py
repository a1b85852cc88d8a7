"""The records of the audit, on a small random network, where much is known beforehand."""

import itertools
from dataclasses import replace
from math import comb

import numpy as np
import pandas as pd
import pytest
import torch

from activation_descent import records
from activation_descent.finetuning import audit, inside, significance, statistics
from activation_descent.finetuning.copies import subset
from activation_descent.finetuning.descent import descend
from activation_descent.finetuning.evolution import Strategy
from activation_descent.finetuning.interventions import Effort
from activation_descent.finetuning.protocol import chosen_rates, run_protocol
from tests.unit.finetuning.test_cells import SAMPLING, cells

EFFORT = Effort([0.1], [0.001], 2, Strategy(directions=10, population=4, generations=2))
DEPTH = inside.Depth(orders=3, influence_demonstrations=3, influence_queries=4, oracle_steps=2)


@pytest.fixture(scope="module")
def protocol():
    return run_protocol(cells(), [0.1])


@pytest.fixture(scope="module")
def table(protocol):
    rows = [
        *audit.protocol_records(protocol, 0, "tiny"),
        *audit.control_records(protocol, protocol.cells.speakers[::3], EFFORT, 0, "tiny"),
    ]
    return records.frame(rows)


@pytest.fixture(scope="module")
def within(protocol):
    return records.frame(inside.inside_records(protocol, DEPTH, 0, "tiny"))


def test_records_keep_the_contract(table, within):
    records.check(table, "audit")
    records.check(within, "inside")
    assert not table.duplicated(["task", "seed", "control", "reference", "position", "layer", "metric"]).any()
    assert not within.duplicated(["task", "seed", "control", "metric"]).any()


def test_published_similarity_is_floor_and_partial_cosine(table):
    """SimAOU = floor + 1/2 sqrt((1 + c1)(1 + c2)) S_perp holds query by query; for means of nearly equal queries nearly."""
    one = replace_queries(1)
    for layer in range(2):
        c1, c2 = (one[name][0, 0, layer] for name in ("icl_cosine", "ft_cosine"))
        rest = 0.5 * ((1 + c1) * (1 + c2)).sqrt() * one["partial"][0, 0, layer]
        assert one["normalised"][0, 0, layer].item() == pytest.approx((one["floor"][0, 0, layer] + rest).item(), abs=1e-9)


def replace_queries(number):
    done = run_protocol(cells(sampling=replace(SAMPLING, queries=number)), [0.1])
    return audit.similarities(done.in_context, done.fine_tuned, done.zero)


def test_in_context_learning_is_identical_to_itself(protocol):
    found = audit.similarities(protocol.in_context, protocol.in_context, protocol.zero)
    for metric in ("normalised", "raw", "partial", "attention_after", "attention_delta"):
        assert torch.allclose(found[metric], torch.ones(()).double(), atol=1e-6), metric
    assert torch.allclose(found["attention_after_variation"], torch.zeros(()).double(), atol=1e-6)


def test_a_model_without_learning_does_not_react_to_labels(table):
    """The contrast's manipulation check: a random network hardly cares for the labels of its prompt."""
    margin = statistics.units(table, "label_contrast", "label_margin", None)
    assert margin.abs().mean() < 1.0


def test_gaussian_states_have_no_direction(table):
    found = statistics.units(table, "C0", "raw")
    # 6 cells of 5 queries, 2 layers, 16 features: a standard error of 1 / sqrt(960)
    assert abs(found.mean()) < 5 / np.sqrt(6 * 5 * 2 * 16)


def test_steering_gives_the_mean_of_the_others(table):
    """Two queries' updates are each other's means, so that C12 is the shuffled pair of in-context learning with itself."""
    assert statistics.units(table, "C12", "raw").mean() > 0.3


def test_every_statistic_has_a_unit_for_each_cell(table, within):
    numbers = statistics.protocol_statistics(table) | statistics.audit_statistics(table) | statistics.inside_statistics(within)
    for metric, units in numbers.items():
        assert metric in records.METRICS, metric
        assert set(units.index) <= {(task, draw) for task in ("work", "travel") for draw in range(3)}, metric
    for metric in ("raw_similarity", "over_evolution", "label_contrast", "published_over_floor", "exact_gain", "dose_slope"):
        assert len(numbers[metric]) == 6, metric
    assert (numbers["exact_gain"] - 1).abs().max() < 1e-2
    rows = [*statistics.statistic_rows(numbers, "tiny")]
    records.check(records.frame(rows), "statistics")


def test_pairs_are_all_pairs_of_what_improves(table, protocol):
    pairs = table[table["metric"] == "pair_similarity"]
    names = ["in_context", "fine_tuned", *audit.IMPROVING]
    first = pairs[(pairs["task"] == "work") & (pairs["seed"] == 0)]
    found = {frozenset(pair) for pair in zip(first["control"], first["reference"], strict=True)}
    assert found <= {frozenset(pair) for pair in itertools.combinations(names, 2)}
    assert len(found) == len(first) >= len(names) * (len(names) - 1) / 2 - len(names)  # but for what does not move a layer
    one = first[(first["control"] == "in_context") & (first["reference"] == "fine_tuned")]["value"].item()
    assert one == pytest.approx(statistics.units(table, "fine_tuned", "raw")["work", 0], abs=1e-6)


def test_excess_over_other_pairs_by_hand():
    pairs = {("in_context", "fine_tuned"): 0.5, ("in_context", "C2"): 0.1, ("fine_tuned", "C2"): 0.3}
    rows = [
        {"task": task, "seed": 0, "control": a, "reference": b, "metric": "pair_similarity", "value": value + shift}
        for task, shift in (("a", 0.0), ("b", 1.0))
        for (a, b), value in pairs.items()
    ]
    assert statistics._over_other_pairs(pd.DataFrame(rows)).tolist() == pytest.approx([0.3, 0.3])


def test_rates_are_those_of_the_first_draws():
    drawn, grid = cells(), [0.05, 2.0]
    demonstrations, masks = drawn.read(drawn.shown, drawn.own_labels(drawn.shown)), subset(drawn.model, "key_value")
    losses = torch.stack(
        [drawn.tuning.loss(drawn.model, descend(drawn.model, demonstrations, masks, torch.full((6,), rate))) for rate in grid]
    )
    expected = [grid[losses[:, task * 3 : task * 3 + 2].mean(1).argmin()] for task in range(2)]
    assert chosen_rates(drawn, demonstrations, masks, grid).tolist() == pytest.approx(np.repeat(expected, 3))


def test_what_can_be_told_by_hand(table):
    index = pd.MultiIndex.from_product([["a", "b"], range(4)], names=["task", "seed"])
    values = {"raw_similarity": [0.1, 0.2] * 4, "odd_similarity": [0.01, -0.01] * 4, "label_margin": [1.0] * 8}
    numbers = {metric: pd.Series(value, index=index) for metric, value in values.items()}
    rows = pd.DataFrame(significance.significance_records(numbers, table, "tiny", np.random.default_rng(0)))
    records.check(records.frame(rows.to_dict("records")), "significance")
    found = rows[rows.get("layer", np.nan).isna()].pivot_table("value", "control", "metric")
    assert set(found.index) == {"raw_similarity", "odd_similarity", "fine_tuned"}  # what has no null of zero is not tested
    # All of one sign: 2 of 2^8 sign patterns are as extreme. Twice that, of two contrasts; the other one has a mean of zero
    assert found.loc["raw_similarity", "p_value"] == pytest.approx(2 / 256)
    assert found.loc["raw_similarity", "p_holm"] == pytest.approx(4 / 256)
    assert found.loc["odd_similarity", "p_value"] == 1
    assert found.loc["odd_similarity", "p_equivalence"] == pytest.approx(1 / 256)
    assert found.loc["raw_similarity", "p_equivalence"] == 1
    # Power of .8 for eight units: a mean of 1.16 standard deviations (Cohen 1988, table 2.4.1 gives 1.2 for n = 8)
    assert found.loc["raw_similarity", "detectable_effect"] == pytest.approx(
        1.16 * np.std(values["raw_similarity"], ddof=1), rel=0.02
    )
    layers = rows[rows["metric"] == "p_max_t"]
    assert sorted(layers["layer"]) == [1, 2]
    assert layers["value"].between(0, 1).all()


def test_corrections_are_pooled():
    counts = {
        "recovered_both": [5, 3],
        "recovered_fine_tuned": [1, 1],
        "recovered_in_context": [0, 1],
        "recovered_neither": [2, 3],
    }
    rows = [{"control": "fine_tuned", "metric": metric, "value": value} for metric, values in counts.items() for value in values]
    found = significance._recovery(pd.DataFrame(rows))
    assert found["recovery_odds_ratio"] == 8 * 5 / (2 * 1)
    # Fisher: tables with margins 10, 6 and 9, 7 at least as unlikely as (8, 2; 1, 5)
    weights = {k: comb(10, k) * comb(6, 9 - k) for k in range(3, 10)}
    assert found["p_recovery"] == pytest.approx(sum(w for w in weights.values() if w <= weights[8]) / comb(16, 9))
    # Wilson for 8 of 10: (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)
    assert (found["recovered_low"], found["recovered_high"]) == pytest.approx((0.4902, 0.9433), abs=1e-4)


def test_the_best_control_is_the_same_for_all_cells():
    rows = []
    for task, draw, first, second in (("a", 0, 0.1, 0.4), ("a", 1, 0.9, 0.4), ("b", 0, 0.0, 0.4)):
        for control, value in (("C3_one", first), ("C3_two", second)):
            rows.append({"task": task, "seed": draw, "control": control, "position": "query", "metric": "raw", "value": value})
    name, found = statistics.best(pd.DataFrame(rows).assign(layer=np.nan), ["C3_"], "raw")
    assert name == "C3_two"  # .4 on average against .33, although the other is best once
    assert found.tolist() == [0.4, 0.4, 0.4]


def test_sign_consistency_counts_layers_whose_interval_is_above_zero():
    rng = np.random.default_rng(0)
    rows = []
    for layer, mean in ((1, 1.0), (2, 1.0), (3, -1.0), (4, 0.0)):
        for draw, noise in enumerate((-0.2, 0.2, -0.1, 0.1)):
            rows.append({"task": "a", "seed": draw, "layer": layer, "value": mean + noise})
    table = pd.DataFrame(rows).assign(control="fine_tuned", metric="raw", position="query")
    assert statistics.sign_consistency(table, rng).tolist() == [0.5]


def test_gates_need_a_gain_that_is_large_and_certain():
    def gate(values):
        index = pd.MultiIndex.from_product([["a", "b"], range(4)], names=["task", "seed"])
        rng = np.random.default_rng(0)
        found = statistics.gates({"in_context_gain": pd.Series(values, index=index)}, {"gain": 0.05, "level": 0.05}, rng)
        return found["gate_passed"].item()

    assert gate([0.3, 0.4, 0.2, 0.3, 0.3, 0.4, 0.2, 0.3]) == 1
    assert gate([0.01] * 8) == 0  # certain and small
    assert gate([1.0, -0.9, 0.9, -0.8, 0.9, -0.9, 0.9, -0.5]) == 0  # large and uncertain
