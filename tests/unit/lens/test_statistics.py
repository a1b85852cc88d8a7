"""What claims read, from a table that is written by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from activation_descent import records
from activation_descent.lens.statistics import lens_statistics, transfer_matrix

DIVERGENCE = np.array(
    [
        [2.00, 1.50, 1.40, 1.30],
        [2.50, 1.00, 0.60, 1.15],
        [2.70, 1.20, 0.50, 0.40],
        [2.90, 1.30, 0.60, 0.20],
    ]
)
CROSS_ENTROPY = DIVERGENCE + 3.0
KL = {
    ("tuned", "model"): [2.0, 1.0, 0.5, 0.2],
    ("shared", "model"): [2.2, 1.1, 0.7, 0.3],
    ("shared_even", "model"): [2.1, 1.6, 0.6, 0.8],
    ("prefix", "model"): [2.1, 1.1, 0.9, 1.2],
    ("logit", "model"): [5.0, 4.0, 2.0, 1.0],
    ("bias", "model"): [3.0, 2.0, 1.0, 0.5],
    ("shared_bias", "model"): [2.1, 1.1, 0.6, 0.3],
    ("low_rank", "model"): [2.3, 1.3, 0.8, 0.4],
    ("shared", "rotated"): [2.5, 2.5, 2.5, 2.5],
    ("tuned", "carried"): [2.0, 1.2, 0.9, 0.7],
    ("shared", "carried"): [2.2, 1.6, 1.2, 1.0],
}
PRIOR = 3.0


def table(prior=PRIOR, seeds=(0, 1)):
    rows = []
    for seed in seeds:
        base = {"study": "lens", "experiment": "lenses", "variant": "v", "seed": seed}
        rows.append(base | {"metric": "prior_kl", "value": prior})
        for (lens, states), values in KL.items():
            for layer, value in enumerate(values):
                rows.append(base | {"lens": lens, "states": states, "layer": layer, "metric": "lens_kl", "value": value})
        for metric, matrix in (("transfer_divergence", DIVERGENCE), ("transfer_cross_entropy", CROSS_ENTROPY)):
            for (fitted, layer), value in np.ndenumerate(matrix):
                cell = {"lens": "tuned", "states": "model", "fitted": fitted, "layer": layer, "metric": metric, "value": value}
                rows += [base | cell, base | cell | {"states": "carried", "value": value + 9}]
        for states, value in (("model", 0.3), ("carried", -0.7)):
            rows.append(base | {"lens": "tuned", "states": states, "metric": "calibrated_gain", "value": value})
            rows.append(base | {"lens": "tuned", "states": states, "metric": "calibrated_gain_low", "value": value - 0.1})
        paths = base | {"experiment": "paths"}
        for layer in range(3):
            for metric, lens, value in (
                ("progress", "shared", 0.5),
                ("progress_null", "shared", 0.0),
                ("step_improved", "tuned", 0.8),
                ("stimulus_response", "tuned", 0.6 + 0.1 * layer),
                ("stimulus_response", "logit", 0.2),
            ):
                rows.append(paths | {"lens": lens, "layer": layer, "metric": metric, "value": value})
        rows.append(paths | {"lens": "tuned", "layer": 0, "metric": "causal_fidelity", "value": 0.9})
    return records.frame(rows)


@pytest.fixture
def found():
    made = records.frame(lens_statistics(table(), "v"))
    records.check(made, "statistics")
    assert made.groupby("metric").size().eq(2).all()  # one number for each seed
    return made[made["seed"] == 1].set_index("metric")["value"]


def test_information(found):
    known = (3 - 2.0) + (3 - 1.0) + (3 - 0.5) + (3 - 0.2)
    assert found["shared_information"] == pytest.approx((0.8 + 1.9 + 2.3 + 2.7) / known)
    assert found["rotated_information"] == pytest.approx(2.0 / known)
    assert found["common_information"] == pytest.approx((7.7 - 2.0) / known)
    assert found["odd_information"] == pytest.approx((1.4 + 2.2) / (2.0 + 2.8))
    assert found["later_information"] == pytest.approx((2.1 + 1.8) / (2.5 + 2.8))
    assert found["logit_information"] == pytest.approx(0.0)
    assert found["low_rank_information"] == pytest.approx((0.7 + 1.7 + 2.2 + 2.6) / known)
    assert found["carried_information"] == pytest.approx((0.8 + 1.4 + 1.8 + 2.0) / (1.0 + 1.8 + 2.1 + 2.3))
    assert found["shared_cost"] == pytest.approx((0.2 + 0.1 + 0.2 + 0.1) / 4)
    assert found["divergence_fall"] == pytest.approx(1.8 / 3)


def test_penalties(found):
    penalties, distances, known = [], [], 0.0
    for i in range(4):
        for j in range(4):
            if i != j:
                penalties.append(DIVERGENCE[i, j] - DIVERGENCE[j, j])
                distances.append(abs(i - j))
                known += PRIOR - DIVERGENCE[j, j]
    assert found["mean_penalty"] == pytest.approx(np.mean(penalties))
    assert found["penalty_share"] == pytest.approx(sum(penalties) / known)
    assert found["penalty_distance"] == pytest.approx(spearmanr(distances, penalties).statistic)
    # Forward pairs (1, 2), (1, 3), (2, 3): penalties .1, .95, .2; improvements .5, .8, .3
    assert found["forward_penalty_share"] == pytest.approx(1.25 / (2.5 + 2.8 + 2.8))
    assert found["gaining_cells"] == pytest.approx(2 / 3)


def test_two_layers_have_one_distance_and_no_forward_pair():
    rows = table(seeds=(0,))
    few = rows[~(rows["layer"] > 1) & ~(rows["fitted"] > 1)]
    found = records.frame(lens_statistics(few, "v")).set_index("metric")["value"]
    assert found["mean_penalty"] == pytest.approx((0.5 + 0.5) / 2)  # 1.5 - 1 and 2.5 - 2
    assert not {"penalty_distance", "forward_penalty_share", "gaining_cells"} & set(found.index)


def test_gains_and_paths(found):
    assert found["calibrated_gain"] == 0.3
    assert found["carried_calibrated_gain"] == -0.7
    assert "calibrated_gain_low" not in found
    assert found["stimulus_response_tuned"] == pytest.approx(0.7)
    assert found["stimulus_response_logit"] == pytest.approx(0.2)
    assert found["causal_fidelity"] == 0.9
    assert found["progress"] - found["progress_null"] == pytest.approx(0.5)


def test_a_model_that_knows_nothing_has_no_ratios():
    made = pd.DataFrame(lens_statistics(table(prior=0.04), "v"))
    assert {"prior_kl", "shared_cost", "progress"} <= set(made["metric"])
    assert not made["metric"].str.contains("information|gain|share$|fall").any()


def test_a_matrix_has_the_translator_in_its_rows():
    own = table(seeds=(0,))
    np.testing.assert_allclose(transfer_matrix(own, "transfer_divergence"), DIVERGENCE)
    np.testing.assert_allclose(transfer_matrix(own, "transfer_divergence", "carried"), DIVERGENCE + 9)
