"""Statistics of the audit: one value for each task and draw, from the records of `audit` and `inside`.

All at the predicting token, but for what the papers printed, which is at theirs ("dai"). A contrast takes what a control reaches off what
fine-tuning reaches; of several controls of a kind the one with the largest mean counts, the same one for all tasks and draws.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from activation_descent.finetuning import STUDY
from activation_descent.finetuning.agreement import disattenuated
from activation_descent.inference import bootstrap_means, sign_flip_p
from activation_descent.records import Row

Units = pd.Series  # indexed by task and seed
UNIT = ["task", "seed"]
CONTROL_MEANS = ("gaussian_similarity", "evolution_reached", "evolution_alignment", "oracle_share", "oracle_ceiling")
PARAMETERS = "C3_"
STEPS = ("C3_", "step_", "loss_", "C6_label", "layer_causal")  # ways to fine-tune that are not the published one


def units(records: pd.DataFrame, control: str, metric: str, position: str | None = "query") -> Units:
    """One number of each task and draw, its mean over layers.

    Args:
        position: None for what has none.
    """
    rows = records[(records["control"] == control) & (records["metric"] == metric)]
    rows = rows.reindex(columns=[*UNIT, "position", "layer", "value"])  # records of the inside have neither position nor layer
    rows = rows[rows["layer"].isna()]
    rows = rows[rows["position"].isna()] if position is None else rows[rows["position"] == position]
    return rows.set_index(UNIT)["value"].sort_index()


def best(records: pd.DataFrame, starts: Sequence[str], metric: str, position: str | None = "query") -> tuple[str, Units]:
    """The control with the largest mean, among those whose name begins with one of `starts`, and its numbers."""
    names = sorted({name for name in records["control"].unique() if name.startswith(tuple(starts))})
    found = {name: units(records, name, metric, position) for name in names}
    found = {name: numbers for name, numbers in found.items() if len(numbers)}
    name = max(found, key=lambda name: found[name].mean())
    return name, found[name]


def protocol_statistics(records: pd.DataFrame) -> dict[str, Units]:
    """From the records of the protocol alone."""

    def of(control: str, metric: str, position: str | None = "query") -> Units:
        return units(records, control, metric, position)

    accuracies = {name: of(name, "accuracy", None) for name in ("zero_shot", "in_context", "fine_tuned", "C8")}
    raw = of("fine_tuned", "raw")
    return {
        # The protocol
        "zero_shot_accuracy": accuracies["zero_shot"],
        "in_context_accuracy": accuracies["in_context"],
        "fine_tuned_accuracy": accuracies["fine_tuned"],
        "calibrated_accuracy": accuracies["C8"],
        "in_context_gain": accuracies["in_context"] - accuracies["C8"],
        "fine_tuning_gain": accuracies["fine_tuned"] - accuracies["zero_shot"],
        # As published, and what that hides
        "recovered": of("fine_tuned", "recovered", None),
        "logit_agreement": of("fine_tuned", "logit_agreement", None),
        "recovered_over_chance": of("fine_tuned", "recovered", None) - of("fine_tuned", "recovered_by_chance", None),
        "published_similarity": of("fine_tuned", "normalised", "dai"),
        "published_over_random": of("fine_tuned", "normalised", "dai") - of("fine_tuned", "random_uniform", "dai"),
        "published_over_floor": of("fine_tuned", "normalised", "dai") - of("fine_tuned", "floor", "dai"),
        "attention_gain": of("fine_tuned", "attention_after", "dai") - of("fine_tuned", "attention_before", "dai"),
        "attention_centred_gain": of("fine_tuned", "attention_after_centred") - of("fine_tuned", "attention_before_centred"),
        "attention_variation_gain": of("fine_tuned", "attention_before_variation")
        - of("fine_tuned", "attention_after_variation"),
        "kendall_over_random": of("fine_tuned", "kendall", "dai") - of("fine_tuned", "kendall_random", "dai"),
        "kendall_over_mismatched": of("fine_tuned", "kendall_inputs") - of("fine_tuned", "kendall_mismatched"),
        "kendall_errors": of("fine_tuned", "kendall_errors"),
        # The primary numbers
        "raw_similarity": raw,
        "partial_similarity": of("fine_tuned", "partial"),
        "projected_similarity": of("fine_tuned", "projected"),
        "similarity_over_shuffled": raw - of("fine_tuned", "shuffled"),
        "diagonal_dominance": of("fine_tuned", "diagonal_dominance", None),
    }


def audit_statistics(records: pd.DataFrame) -> dict[str, Units]:
    """From the records of the controls."""

    def of(control: str, metric: str, position: str | None = "query") -> Units:
        return units(records, control, metric, position)

    raw, ascent = of("fine_tuned", "raw"), of("C10_ascent", "raw")
    in_context_ceiling, fine_tuned_ceiling = of("ceiling_in_context", "raw"), of("ceiling_fine_tuned", "raw")
    others = of("C7", "raw")
    return {
        # Published
        "published_over_ascent": of("fine_tuned", "normalised", "dai") - of("C10_ascent", "normalised", "dai"),
        "published_over_untrained": of("fine_tuned", "normalised", "dai") - of("C9_untrained", "normalised", "dai"),
        "odd_similarity": 0.5 * (raw - ascent),
        "gaussian_similarity": of("C0", "raw"),
        # Against what improves as much by other means
        "over_evolution": raw - of("C2", "raw"),
        "over_parameters": raw - best(records, [PARAMETERS], "raw")[1],
        "over_other_tasks": raw - of("C4", "raw"),
        "over_wrong_labels": raw - of("C5_wrong", "raw"),
        "over_other_demonstrations": raw - others,
        "over_unrelated_text": raw - of("C11_unrelated", "raw"),
        "over_other_pairs": _over_other_pairs(records),
        "best_over_published_step": best(records, STEPS, "raw")[1] - raw,
        "evolution_alignment": of("C2", "gradient_alignment", None).abs(),
        "evolution_reached": of("C2", "target_reached", None),
        # Labels and noise
        "label_contrast": of("label_contrast", "raw"),
        "label_contrast_over_null": of("label_contrast", "raw") - of("label_contrast", "label_null"),
        "label_margin": of("label_contrast", "label_margin", None),
        "in_context_ceiling": in_context_ceiling,
        "fine_tuned_ceiling": fine_tuned_ceiling,
        "logit_agreement_below_ceiling": of("ceiling_in_context", "logit_agreement", None)
        - of("fine_tuned", "logit_agreement", None),
        "logit_agreement_over_others": of("fine_tuned", "logit_agreement", None)
        - best(records, ["C2", PARAMETERS], "logit_agreement", None)[1],
        "corrected_similarity": others.combine(
            pd.concat([in_context_ceiling, fine_tuned_ceiling], axis=1).apply(tuple, axis=1),
            lambda cross, ceilings: float(disattenuated(cross, *ceilings)),
        ).dropna(),
    }


def _over_other_pairs(records: pd.DataFrame) -> Units:
    """Similarity of in-context learning and fine-tuning minus the mean over all other pairs of changes that improve as much."""
    pairs = records[records["metric"] == "pair_similarity"]
    is_asked = (pairs["control"] == "in_context") & (pairs["reference"] == "fine_tuned")
    asked, rest = (part.groupby(UNIT)["value"].mean() for part in (pairs[is_asked], pairs[~is_asked]))
    return asked - rest


def sign_consistency(records: pd.DataFrame, rng: np.random.Generator) -> Units:
    """For each task the share of layers whose raw similarity is above zero, its 95 % bootstrap interval over draws included."""
    rows = records[
        (records["control"] == "fine_tuned")
        & (records["metric"] == "raw")
        & (records["position"] == "query")
        & records["layer"].notna()
    ]
    shares = {}
    for task, own in rows.groupby("task"):
        units_of = own.rename(columns={"seed": "draw"})[["task", "draw", "layer", "value"]]
        above = [np.quantile(bootstrap_means(layer, rng), 0.025) > 0 for _, layer in units_of.groupby("layer")]
        shares[task, 0] = float(np.mean(above))
    return pd.Series(shares).rename_axis(UNIT)


def inside_statistics(records: pd.DataFrame) -> dict[str, Units]:
    """From the records of `inside`."""

    def of(control: str, metric: str) -> Units:
        return units(records, control, metric, None)

    return {
        "exact_gain": of("exact", "patched_gain"),
        "linear_attention_gain": of("linear_attention", "patched_gain"),
        "first_order_gain": of("first_order", "patched_gain"),
        "constant_gain": of("constant", "patched_gain"),
        "affine_gain": of("affine_map", "patched_gain"),
        "linear_attention_over_constant": of("linear_attention", "patched_r_squared") - of("constant", "patched_r_squared"),
        "binding": of("linear_attention", "patched_r_squared") - of("permuted_keys", "patched_r_squared"),
        "direct_over_dilution": of("direct", "part_similarity") - of("dilution", "part_similarity"),
        "direct_over_null": of("direct", "part_similarity") - of("direct", "part_null"),
        "error_signal_excess": of("all", "error_excess"),
        "label_error_signal_excess": of("label", "error_excess"),
        "contrast_error_signal_excess": of("all_contrast", "error_excess"),
        "dose_slope": of("dose", "dose_slope"),
        "dose_mass_r_squared": of("dose", "dose_mass_r_squared"),
        "dose_direction": of("dose", "dose_direction"),
        "overlap_below_reordered": of("reordered_in_context", "token_overlap") - of("fine_tuned", "token_overlap"),
        "influence_over_half": of("influence", "influence_correlation") - 0.5 * of("influence", "influence_reliability"),
        "order_correlation": of("orders", "order_correlation"),
        "order_sensitivity_log_ratio": np.log(
            of("in_context", "order_sensitivity_normalised") / of("fine_tuned", "order_sensitivity_normalised")
        ),
        "oracle_share": of("oracle", "oracle_share"),
        "oracle_ceiling": of("ceiling", "oracle_alignment"),
        "gradient_line_share": of("demonstrations", "line_share"),
        "gradient_alignment_over_wrong_labels": of("demonstrations", "oracle_alignment") - of("wrong_labels", "oracle_alignment"),
    }


def gates(statistics: Mapping[str, Units], gate: Mapping[str, float], rng: np.random.Generator) -> dict[str, Units]:
    """One number for the model, what the claims' gates read: means of controls, and whether it has in-context learning.

    Args:
        gate: `language.evaluation.gate` of the configuration.
    """
    gain = statistics["in_context_gain"]
    p = sign_flip_p(gain.rename("value").reset_index().rename(columns={"seed": "draw"}), rng, "greater")
    numbers = {"gate_passed": float(gain.mean() >= gate["gain"] and p < gate["level"])}
    numbers |= {metric: statistics[metric].mean() for metric in CONTROL_MEANS if metric in statistics}
    if "in_context_ceiling" in statistics:
        numbers["ceilings"] = min(statistics[name].mean() for name in ("in_context_ceiling", "fine_tuned_ceiling"))
    return {metric: pd.Series({("all", 0): value}).rename_axis(UNIT) for metric, value in numbers.items()}


def statistic_rows(statistics: Mapping[str, Units], variant: str) -> Iterator[Row]:
    """Statistics as rows of records, one a metric, task and draw."""
    base = {"study": STUDY, "experiment": "statistics", "variant": variant}
    for metric, numbers in statistics.items():
        for (task, seed), value in numbers[np.isfinite(numbers)].items():
            yield base | {"task": task, "seed": seed, "metric": metric, "value": float(value)}


def momentum_statistics(table: pd.DataFrame) -> Iterator[Row]:
    """One number for each seed: what each kind of attention gains on softmax attention, and on two others, with the same seed.

    Metrics: perplexity_gain, mean over lengths of the log perplexity of vanilla minus that of the variant, and the same over the
    convolution and over the moving average; accuracy_gain, mean over numbers of demonstrations; final_accuracy, with the most of them.

    Args:
        table: records of `momentum`, of all variants.
    """
    perplexities = table[table["metric"] == "perplexity"]
    surprise = perplexities.assign(value=np.log(perplexities["value"])).pivot_table("value", "seed", "variant")
    accuracies = table[table["metric"] == "accuracy"]
    accuracy = accuracies.pivot_table("value", "seed", "variant")
    most = accuracies[accuracies["demonstrations"] == accuracies["demonstrations"].max()].pivot_table("value", "seed", "variant")
    numbers = {
        "perplexity_gain": -surprise.sub(surprise["vanilla"], axis=0),
        "accuracy_gain": accuracy.sub(accuracy["vanilla"], axis=0),
        "final_accuracy": most,
    }
    for other in ("convolution", "moving_average"):
        if other in surprise:
            numbers[f"gain_over_{other}"] = -surprise.sub(surprise[other], axis=0)
    for metric, wide in numbers.items():
        for variant, seeds in wide.items():
            for seed, value in seeds.items():
                yield {
                    "study": STUDY,
                    "experiment": "momentum",
                    "variant": variant,
                    "seed": seed,
                    "metric": metric,
                    "value": value,
                }
