"""What the claims read of knapsack and logic: one number a seed."""

from collections.abc import Mapping, Sequence

import pandas as pd

from activation_descent.reasoning import SAMPLERS, STUDY
from activation_descent.records import Row


def layers_around(layers: Sequence[int], capacity: int) -> tuple[int, int]:
    """The fewest layers that exceed a capacity, and the most that do not.

    Raises:
        ValueError: if all exceed it, or none.
    """
    above, below = [n for n in layers if n > capacity], [n for n in layers if n <= capacity]
    if not above or not below:
        raise ValueError(f"layers {sorted(layers)} do not lie on both sides of the capacity {capacity}")
    return min(above), max(below)


def knapsack_statistics(records: pd.DataFrame) -> list[Row]:
    """Accuracy on the two sides of the line L = C at the smallest capacity, with the most layers at the largest, and of the controls."""
    answers = records[records["metric"].isin(["accuracy_of_optimum", "hard_accuracy_of_optimum"])]
    table = answers.pivot_table(index=["variant", "layers", "capacity", "seed"], columns="metric", values="value")
    overall, hard = table["accuracy_of_optimum"], table["hard_accuracy_of_optimum"]
    layers, capacities = overall["encoder"].index.unique("layers"), overall["encoder"].index.unique("capacity")
    few, many = min(capacities), max(capacities)
    above, below = layers_around(list(layers), few)
    deepest, shallowest = max(layers), min(layers)
    programme = overall["dynamic_programme"]
    found = {
        "above_capacity_accuracy": hard["encoder", above, few],
        "accuracy_lost_below_capacity": overall["encoder", above, few] - overall["encoder", below, few],
        "accuracy_gained_by_depth": overall["encoder", deepest, few] - overall["encoder", shallowest, few],
        "above_weight_accuracy": hard["encoder", deepest, many],
        "perceptron_accuracy": hard["perceptron", above, few],
        "gain_on_perceptron": overall["encoder", above, few] - overall["perceptron", above, few],
        "programme_accuracy": programme.groupby("seed").min(),
        "greedy_accuracy": overall["greedy", 0, few],
    }
    return _rows("knapsack", "knapsack", found)


def table_statistics(records: pd.DataFrame) -> list[Row]:
    """What training adds to the readout of the table, at the layer where it adds most, over the same layer untrained; and controls."""
    layers = records[records["metric"].isin(["table_r_squared", "answer_r_squared"])]
    wide = layers.pivot_table(index=["condition", "layer", "seed"], columns="metric", values="value")
    entries, answer = wide["table_r_squared"], wide["answer_r_squared"]
    last = max(entries["trained"].index.unique("layer"))
    found = {
        "table_gain": (entries["trained"] - entries["untrained"]).groupby("seed").max(),
        "table_gain_on_inputs": entries["trained"].groupby("seed").max() - entries["inputs"].groupby("seed").max(),
        "answer_readout": answer["trained", last],
        "answer_gain": answer["trained", last] - answer["untrained", last],
        "shuffled_readout": entries["shuffled"].groupby("seed").max(),
    }
    return _rows("table", "knapsack", found)


def logic_statistics(records: pd.DataFrame) -> list[Row]:
    """Accuracy on the own sampler; what is lost on the other one, against networks that were trained on it; the reasoning weights."""
    balanced = records[records["metric"] == "balanced_accuracy"].set_index(["variant", "sampler", "seed"])["value"].sort_index()
    depths = records[records["metric"] == "depth_accuracy"]
    rows: list[Row] = []
    for own, other in (tuple(SAMPLERS), tuple(SAMPLERS)[::-1]):
        found = {
            "own_sampler_accuracy": balanced[own, own],
            "other_sampler_accuracy": balanced[own, other],
            "lost_on_other_sampler": balanced[other, other] - balanced[own, other],
        }
        rows += _rows("simple_logic", own, found)
    deepest = depths[depths["depth"] == depths["depth"].max()]
    found = {
        "worst_depth_accuracy": depths[depths["variant"] == "construction"].groupby("seed")["value"].min(),
        "too_shallow_accuracy": deepest[deepest["variant"] == "shallow_construction"].groupby("seed")["value"].max(),
    }
    return rows + _rows("simple_logic", "construction", found)


def _rows(experiment: str, variant: str, found: Mapping[str, pd.Series]) -> list[Row]:
    return [
        {"study": STUDY, "experiment": experiment, "variant": variant, "seed": int(seed), "metric": metric, "value": float(value)}
        for metric, values in found.items()
        for seed, value in values.items()
    ]
