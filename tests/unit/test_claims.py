import math

import numpy as np
import pandas as pd
import pytest

from activation_descent import claims, records
from activation_descent.claims import Condition
from activation_descent.errors import SettingsError

SETTINGS = {"confidence": 0.95, "resamples": 2000, "minimum_units": 3}
CLAIM = {
    "id": "c",
    "study": "regression",
    "source": "a paper",
    "statement": "it holds",
    "statistic": {"variant": "v", "metric": "loss_ratio"},
    "supported": "<= 1.004",
    "refuted": "> 1.02",
    "gate": [{"variant": "v", "metric": "construction_loss_ratio", "must_be": "in [0.999, 1.001]"}],
    "threshold": "a table",
    "figure": "f.svg",
}


def table(values, controls=(1.0,)):
    base = {"study": "regression", "experiment": "e", "variant": "v"}
    rows = [base | {"seed": i, "metric": "loss_ratio", "value": value} for i, value in enumerate(values)]
    rows += [base | {"seed": i, "metric": "construction_loss_ratio", "value": value} for i, value in enumerate(controls)]
    rows += [base | {"seed": 0, "metric": "loss_ratio", "value": 99.0, "variant": "other"}]
    return records.frame(rows)


def judge(values, controls=(1.0,), **changes):
    return claims.judge(CLAIM | changes, table(values, controls), SETTINGS, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("<= 1.5", [1.5, -2.0], [1.6]),
        ("< 1.5", [1.4], [1.5]),
        (">= -1e-3", [-0.001, 3.0], [-0.01]),
        ("> 0", [0.1], [0.0]),
        ("in [0.9, 1.1]", [0.9, 1.0, 1.1], [0.89, 1.2]),
        ("outside [0.9, 1.1]", [0.8, 1.2], [0.9, 1.0, 1.1]),
    ],
)
def test_conditions(text, inside, outside):
    condition = Condition.parse(text)
    assert all(condition.holds(value) for value in inside)
    assert not any(condition.holds(value) for value in outside)
    assert Condition.parse(str(condition)) == condition


def test_a_condition_holds_for_an_interval_only_if_for_all_of_it():
    assert Condition.parse("in [0, 1]").holds(0.2, 0.9)
    assert not Condition.parse("in [0, 1]").holds(0.2, 1.1)
    assert not Condition.parse("outside [0, 1]").holds(-0.5, 1.5)
    assert not Condition.parse("outside [0, 1]").holds(-0.5, 0.5)
    assert Condition.parse("outside [0, 1]").holds(-0.5, -0.1)


@pytest.mark.parametrize("text", ["", "about 1", "<= one", "in [2, 1]", "in [1]", "=> 1", "<= 1 or so"])
def test_other_conditions_are_refused(text):
    with pytest.raises(ValueError, match="is not a condition"):
        Condition.parse(text)


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        ("<= 1", "> 1", False),
        ("<= 1", ">= 1", True),
        ("in [0, 1]", "outside [-1, 2]", False),
        ("in [0, 1]", "outside [0.5, 2]", True),
        ("< 0", "> -5", True),
        ("<= 0", ">= 1", False),
        ("> 1", "< 2", True),  # between the bounds alone
        ("> 1", "> 2", True),  # above them
        ("< -1", "< -2", True),  # below them
    ],
)
def test_meets(first, second, together):
    assert Condition.parse(first).meets(Condition.parse(second)) is together
    assert Condition.parse(second).meets(Condition.parse(first)) is together


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([1.001, 1.002, 1.003], "supported"),
        ([1.05, 1.06, 1.04], "refuted"),
        ([1.01, 1.01, 1.01], "inconclusive"),  # between the criteria
        ([1.0, 1.0, 1.05], "inconclusive"),  # the interval is too wide
        ([1.001, 1.002], "inconclusive"),  # too few units
        ([], "inconclusive"),
    ],
)
def test_verdicts(values, verdict):
    row = judge(values)
    assert row["verdict"] == verdict
    assert row["n"] == len(values)
    assert tuple(row) == claims.COLUMNS


@pytest.mark.parametrize("controls", [(1.01,), (1.0, 1.01), ()])
def test_a_failed_or_absent_control_makes_any_value_inconclusive(controls):
    row = judge([1.001, 1.002, 1.003], controls)
    assert row["verdict"] == "inconclusive"
    mean = f"{np.mean(controls):.4g}" if controls else "absent"
    assert row["gate"] == f"construction_loss_ratio in [0.999, 1.001]: {mean} FAILED"


def test_value_and_equal_values():
    row = judge([1.0, 1.0, 1.0])
    assert (row["value"], row["ci_low"], row["ci_high"]) == (1.0, 1.0, 1.0)
    assert row["verdict"] == "supported"
    assert row["gate"] == "construction_loss_ratio in [0.999, 1.001]: 1 passed"


def test_divergence_is_refuted_not_lost():
    row = judge([math.inf, math.inf, 7.0], statistic={"variant": "v", "metric": "loss_ratio"})
    assert row["verdict"] == "refuted"
    assert (row["ci_low"], row["ci_high"]) == (7.0, math.inf)
    alone = judge([math.inf])
    assert (alone["value"], alone["n"], alone["verdict"]) == (math.inf, 1, "inconclusive")
    assert math.isnan(alone["ci_low"])


@pytest.mark.parametrize("values", [(1.0, 2.0), (1.0, math.inf)])
def test_two_units_have_an_interval(values):
    units = pd.DataFrame({"task": "", "draw": [0, 1], "value": values})
    assert claims.interval(units, 0.95, 2000, np.random.default_rng(0)) == values


def test_interval_covers_the_mean_as_often_as_it_says():
    """Normal samples of 30: 95 % intervals should cover 0 in about 93 to 95 % of cases (the bootstrap's known shortfall)."""
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        units = pd.DataFrame({"task": "", "draw": range(30), "value": rng.standard_normal(30)})
        low, high = claims.interval(units, 0.95, 500, rng)
        covered += low <= 0 <= high
    assert 0.89 <= covered / 400 <= 0.98


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"supported": "about 1"}, "claim c: 'about 1' is not a condition"),
        ({"refuted": "> 1"}, r"claim c: a value could be supported \(<= 1.004\) and refuted \(> 1\)"),
        ({"statistic": {"variant": "v", "metric": "beauty"}}, "claim c: statistic names the metric beauty"),
        (
            {"statistic": {"variant": "w", "metric": "loss_ratio"}},
            "claim c: statistic names the variant w; study regression has statistics of v",
        ),
        ({"gate": [{"variant": "w", "metric": "loss_ratio", "must_be": "> 1"}]}, "claim c: gate names the variant w"),
        ({"gate": [{"variant": "v", "metric": "loss_ratio", "must_be": "good"}]}, "claim c: gate on loss_ratio: 'good'"),
    ],
)
def test_claims_that_cannot_be_judged_are_refused(change, message):
    with pytest.raises(SettingsError, match=message):
        claims.check([CLAIM | change], {"regression": ["v"]})


def test_an_id_stands_once():
    with pytest.raises(SettingsError, match="two claims have the id c"):
        claims.check([CLAIM, CLAIM], {"regression": ["v"]})
    claims.check([CLAIM], {"regression": ["v"]})
