"""What claims read, from small tables by hand."""

import pandas as pd
import pytest

from activation_descent import records
from activation_descent.reasoning import statistics


def values(rows):
    records.check(records.frame(rows), "statistics")
    return {(row["variant"], row["metric"], row["seed"]): row["value"] for row in rows}


def test_layers_around_a_capacity():
    assert statistics.layers_around([1, 3, 4, 6, 8], 4) == (6, 4)
    with pytest.raises(ValueError, match="both sides"):
        statistics.layers_around([6, 8], 4)


def test_knapsack_statistics_by_hand():
    accuracy = {
        ("encoder", 1, 4): (0.5, 0.4),
        ("encoder", 4, 4): (0.8, 0.7),
        ("encoder", 6, 4): (0.96, 0.95),
        ("encoder", 8, 4): (0.9, 0.85),
        ("encoder", 8, 16): (0.6, 0.3),
        ("perceptron", 6, 4): (0.55, 0.45),
        ("greedy", 0, 4): (0.8, 0.0),
        ("dynamic_programme", 8, 4): (1.0, 1.0),
        ("dynamic_programme", 8, 16): (0.99, 1.0),
    }
    for depth in (1, 4, 6):
        accuracy["encoder", depth, 16] = (0.1, 0.1)
    rows = [
        {"variant": v, "layers": n, "capacity": c, "seed": 2, "metric": metric, "value": value}
        for (v, n, c), both in accuracy.items()
        for metric, value in zip(("accuracy_of_optimum", "hard_accuracy_of_optimum"), both, strict=True)
    ]
    found = {metric: value for (_, metric, _), value in values(statistics.knapsack_statistics(pd.DataFrame(rows))).items()}
    assert found == pytest.approx(
        {
            "above_capacity_accuracy": 0.95,
            "accuracy_lost_below_capacity": 0.16,
            "accuracy_gained_by_depth": 0.4,
            "above_weight_accuracy": 0.3,
            "perceptron_accuracy": 0.45,
            "gain_on_perceptron": 0.41,
            "programme_accuracy": 0.99,
            "greedy_accuracy": 0.8,
        }
    )


def test_table_statistics_by_hand():
    tables = {"trained": [0.2, 0.5, 0.6], "untrained": [0.2, 0.3, 0.5], "inputs": [0.45], "shuffled": [-0.1, 0.01, 0.0]}
    answers = {"trained": [0.5, 0.8, 0.95], "untrained": [0.5, 0.6, 0.7], "inputs": [0.5], "shuffled": [0.0, 0.0, 0.0]}
    rows = [
        {"condition": condition, "layer": layer, "seed": 0, "metric": metric, "value": value}
        for metric, found in (("table_r_squared", tables), ("answer_r_squared", answers))
        for condition, course in found.items()
        for layer, value in enumerate(course)
    ]
    found = {metric: value for (_, metric, _), value in values(statistics.table_statistics(pd.DataFrame(rows))).items()}
    assert found == pytest.approx(
        {
            "table_gain": 0.2,
            "table_gain_on_inputs": 0.15,
            "answer_readout": 0.95,
            "answer_gain": 0.25,
            "shuffled_readout": 0.01,
        }
    )


def test_logic_statistics_by_hand():
    balanced = {
        ("rule_priority", "rule_priority"): 0.97,
        ("rule_priority", "label_priority"): 0.7,
        ("label_priority", "rule_priority"): 0.6,
        ("label_priority", "label_priority"): 0.99,
    }
    rows = [
        {"variant": v, "sampler": s, "seed": 1, "metric": "balanced_accuracy", "value": value}
        for (v, s), value in balanced.items()
    ]
    for variant, course in (("construction", [1.0, 1.0, 0.9]), ("shallow_construction", [1.0, 1.0, 0.1])):
        rows += [
            {"variant": variant, "sampler": s, "seed": 1, "metric": "depth_accuracy", "depth": d, "value": value}
            for s in ("rule_priority", "label_priority")
            for d, value in zip((-1, 0, 2), course, strict=True)
        ]
    found = values(statistics.logic_statistics(pd.DataFrame(rows)))
    assert found["rule_priority", "own_sampler_accuracy", 1] == 0.97
    assert found["rule_priority", "other_sampler_accuracy", 1] == 0.7
    assert found["rule_priority", "lost_on_other_sampler", 1] == pytest.approx(0.29)
    assert found["label_priority", "lost_on_other_sampler", 1] == pytest.approx(0.37)
    assert found["construction", "worst_depth_accuracy", 1] == 0.9
    assert found["construction", "too_shallow_accuracy", 1] == 0.1
