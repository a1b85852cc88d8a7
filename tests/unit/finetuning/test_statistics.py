"""What claims read, from records with a number of its own in each place: a wrong sign, control or position would show."""

import math
import re

import numpy as np
import pandas as pd
import pytest

from activation_descent import records
from activation_descent.finetuning import statistics
from activation_descent.seeding import generator

UNITS = [("travel", 0), ("travel", 1), ("work", 0), ("work", 1)]

# "control metric @position": at the predicting token unless it says otherwise, and "@" for what has no position
PROTOCOL = {
    "zero_shot_accuracy": "zero_shot accuracy @",
    "in_context_accuracy": "in_context accuracy @",
    "fine_tuned_accuracy": "fine_tuned accuracy @",
    "calibrated_accuracy": "C8 accuracy @",
    "in_context_gain": "in_context accuracy @ - C8 accuracy @",
    "fine_tuning_gain": "fine_tuned accuracy @ - zero_shot accuracy @",
    "recovered": "fine_tuned recovered @",
    "recovered_over_chance": "fine_tuned recovered @ - fine_tuned recovered_by_chance @",
    "logit_agreement": "fine_tuned logit_agreement @",
    "published_similarity": "fine_tuned normalised @dai",
    "published_over_random": "fine_tuned normalised @dai - fine_tuned random_uniform @dai",
    "published_over_floor": "fine_tuned normalised @dai - fine_tuned floor @dai",
    "attention_gain": "fine_tuned attention_after @dai - fine_tuned attention_before @dai",
    "attention_centred_gain": "fine_tuned attention_after_centred - fine_tuned attention_before_centred",
    "attention_variation_gain": "fine_tuned attention_before_variation - fine_tuned attention_after_variation",
    "kendall_over_random": "fine_tuned kendall @dai - fine_tuned kendall_random @dai",
    "kendall_over_mismatched": "fine_tuned kendall_inputs - fine_tuned kendall_mismatched",
    "kendall_errors": "fine_tuned kendall_errors",
    "raw_similarity": "fine_tuned raw",
    "partial_similarity": "fine_tuned partial",
    "projected_similarity": "fine_tuned projected",
    "similarity_over_shuffled": "fine_tuned raw - fine_tuned shuffled",
    "diagonal_dominance": "fine_tuned diagonal_dominance @",
}
AUDIT = {
    "published_over_ascent": "fine_tuned normalised @dai - C10_ascent normalised @dai",
    "published_over_untrained": "fine_tuned normalised @dai - C9_untrained normalised @dai",
    "gaussian_similarity": "C0 raw",
    "over_evolution": "fine_tuned raw - C2 raw",
    "over_other_tasks": "fine_tuned raw - C4 raw",
    "over_wrong_labels": "fine_tuned raw - C5_wrong raw",
    "over_other_demonstrations": "fine_tuned raw - C7 raw",
    "over_unrelated_text": "fine_tuned raw - C11_unrelated raw",
    "evolution_reached": "C2 target_reached @",
    "label_contrast": "label_contrast raw",
    "label_contrast_over_null": "label_contrast raw - label_contrast label_null",
    "label_margin": "label_contrast label_margin @",
    "in_context_ceiling": "ceiling_in_context raw",
    "fine_tuned_ceiling": "ceiling_fine_tuned raw",
    "logit_agreement_below_ceiling": "ceiling_in_context logit_agreement @ - fine_tuned logit_agreement @",
}
# Of several controls the one with the largest mean
BEST = {
    "over_parameters": ("fine_tuned raw", ["C3_one raw", "C3_two raw"], 1),
    "best_over_published_step": (
        "fine_tuned raw",
        ["C3_one raw", "C3_two raw", "step_adam raw", "loss_full raw", "C6_label raw", "layer_causal raw"],
        -1,
    ),
    "logit_agreement_over_others": (
        "fine_tuned logit_agreement @",
        ["C2 logit_agreement @", "C3_one logit_agreement @", "C3_two logit_agreement @"],
        1,
    ),
}
INSIDE = {
    "exact_gain": "exact patched_gain @",
    "linear_attention_gain": "linear_attention patched_gain @",
    "first_order_gain": "first_order patched_gain @",
    "constant_gain": "constant patched_gain @",
    "affine_gain": "affine_map patched_gain @",
    "linear_attention_over_constant": "linear_attention patched_r_squared @ - constant patched_r_squared @",
    "binding": "linear_attention patched_r_squared @ - permuted_keys patched_r_squared @",
    "direct_over_dilution": "direct part_similarity @ - dilution part_similarity @",
    "direct_over_null": "direct part_similarity @ - direct part_null @",
    "error_signal_excess": "all error_excess @",
    "label_error_signal_excess": "label error_excess @",
    "contrast_error_signal_excess": "all_contrast error_excess @",
    "dose_slope": "dose dose_slope @",
    "dose_mass_r_squared": "dose dose_mass_r_squared @",
    "dose_direction": "dose dose_direction @",
    "overlap_below_reordered": "reordered_in_context token_overlap @ - fine_tuned token_overlap @",
    "order_correlation": "orders order_correlation @",
    "oracle_share": "oracle oracle_share @",
    "oracle_ceiling": "ceiling oracle_alignment @",
    "gradient_line_share": "demonstrations line_share @",
    "gradient_alignment_over_wrong_labels": "demonstrations oracle_alignment @ - wrong_labels oracle_alignment @",
}
OTHERS = {
    "C10_ascent raw",
    "C2 gradient_alignment @",
    "influence influence_correlation @",
    "influence influence_reliability @",
    "in_context order_sensitivity_normalised @",
    "fine_tuned order_sensitivity_normalised @",
}


def place_of(term):
    control, metric, *position = term.split()
    return control, metric, (position[0][1:] if position else "query") or None


def places():
    """Every place that is named, and beside each the same metric at other positions, by other controls and of single layers."""
    sums = [*PROTOCOL.values(), *AUDIT.values(), *INSIDE.values(), *OTHERS]
    terms = {term for text in sums for term in re.split(r" - ", text)} | {
        term for own, others, _ in BEST.values() for term in (own, *others)
    }
    return sorted(terms)


@pytest.fixture(scope="module")
def numbers():
    rng = generator(0, "test", "finetuning_statistics", "v", "numbers")
    return {place_of(term): pd.Series(rng.uniform(0.1, 0.9, 4), pd.MultiIndex.from_tuples(UNITS)) for term in places()}


@pytest.fixture(scope="module")
def table(numbers):
    rows = []
    for (control, metric, position), values in numbers.items():
        base = {"control": control, "metric": metric, "position": position}
        for (task, seed), value in values.items():
            unit = base | {"task": task, "seed": seed}
            rows.append(unit | {"layer": np.nan, "value": value})
            if position is not None:  # a layer's own, and the other position's where nothing is read
                rows.append(unit | {"layer": 1, "value": value + 50})
                other = "dai" if position == "query" else "query"
                if (control, metric, other) not in numbers:
                    rows.append(unit | {"position": other, "layer": np.nan, "value": value + 90})
    for (task, seed), value in zip(UNITS, (0.4, 0.3, 0.2, 0.1), strict=True):
        for first, second, shift in (("in_context", "fine_tuned", 0.5), ("in_context", "C2", 0.1), ("C2", "fine_tuned", 0.2)):
            pair = {"control": first, "reference": second, "metric": "pair_similarity", "task": task, "seed": seed}
            rows.append(pair | {"value": value + shift})
    return pd.DataFrame(rows)


def said(numbers, text):
    first, *taken_off = (numbers[place_of(term)] for term in text.split(" - "))
    return first - sum(taken_off)


def same(found, expected):
    assert found.to_dict() == pytest.approx(expected.to_dict())


@pytest.mark.parametrize(
    ("read", "expected"),
    [(statistics.protocol_statistics, PROTOCOL), (statistics.audit_statistics, AUDIT), (statistics.inside_statistics, INSIDE)],
)
def test_each_statistic_is_what_its_metric_says(table, numbers, read, expected):
    found = read(table)
    for metric, text in expected.items():
        assert metric in records.METRICS
        same(found[metric], said(numbers, text))


def test_no_statistic_is_left_out(table):
    found = {
        *statistics.protocol_statistics(table),
        *statistics.audit_statistics(table),
        *statistics.inside_statistics(table),
    }
    by_hand = {
        "odd_similarity",
        "over_other_pairs",
        "evolution_alignment",
        "corrected_similarity",
        "influence_over_half",
        "order_sensitivity_log_ratio",
    }
    assert found == {*PROTOCOL, *AUDIT, *BEST, *INSIDE, *by_hand}


@pytest.mark.parametrize("metric", BEST)
def test_the_best_of_several_controls_is_compared(table, numbers, metric):
    own, others, sign = BEST[metric]
    best = max((numbers[place_of(term)] for term in others), key=lambda values: values.mean())
    same(statistics.audit_statistics(table)[metric], sign * (numbers[place_of(own)] - best))


def test_the_others_by_hand(table, numbers):
    def of(term):
        return numbers[place_of(term)]

    audit, inside = statistics.audit_statistics(table), statistics.inside_statistics(table)
    same(audit["odd_similarity"], (of("fine_tuned raw") - of("C10_ascent raw")) / 2)
    assert audit["over_other_pairs"].tolist() == pytest.approx([0.5 - 0.15] * 4)
    ceilings = of("ceiling_in_context raw") * of("ceiling_fine_tuned raw")
    same(audit["corrected_similarity"], of("C7 raw") / ceilings.map(math.sqrt))
    same(inside["influence_over_half"], of("influence influence_correlation @") - of("influence influence_reliability @") / 2)
    ratio = of("in_context order_sensitivity_normalised @") / of("fine_tuned order_sensitivity_normalised @")
    same(inside["order_sensitivity_log_ratio"], ratio.map(math.log))


def test_alignment_counts_in_either_direction_and_ceilings_below_zero_correct_nothing(table):
    changed = table.copy()
    is_aligned = changed["metric"] == "gradient_alignment"
    changed.loc[is_aligned, "value"] *= -1
    found = statistics.audit_statistics(changed)
    same(found["evolution_alignment"], -changed[is_aligned].set_index(["task", "seed"])["value"])
    is_ceiling = (table["control"] == "ceiling_in_context") & (table["task"] == "work") & table["layer"].isna()
    changed.loc[is_ceiling, "value"] = -0.1
    assert set(statistics.audit_statistics(changed)["corrected_similarity"].index.get_level_values("task")) == {"travel"}


def test_gates_read_the_means_of_controls(table):
    found = statistics.protocol_statistics(table) | statistics.audit_statistics(table) | statistics.inside_statistics(table)
    gates = statistics.gates(found, {"gain": 0.05, "level": 0.05}, generator(0, "test", "finetuning_statistics", "v", "gates"))
    for metric in ("gaussian_similarity", "evolution_reached", "evolution_alignment", "oracle_share", "oracle_ceiling"):
        assert gates[metric].item() == pytest.approx(found[metric].mean())
    means = [found[name].mean() for name in ("in_context_ceiling", "fine_tuned_ceiling")]
    assert gates["ceilings"].item() == pytest.approx(min(means))
