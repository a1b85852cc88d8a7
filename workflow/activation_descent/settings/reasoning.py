"""Settings of the reasoning study."""

from collections.abc import Mapping
from typing import Any

from activation_descent.errors import SettingsError


def check_reasoning(study: Mapping[str, Any]) -> None:
    """Refuse knapsack and logic settings that cannot be compared.

    Raises:
        SettingsError: if settings that are fine one by one cannot be run together.
    """
    training, logic = study["knapsack"]["training"], study["logic"]
    where = "configuration: reasoning.knapsack.training"
    if training["width"] % training["heads"]:
        raise SettingsError(f"{where}.width: {training['width']} does not divide into {training['heads']} heads")
    few, many, heaviest = min(training["capacities"]), max(training["capacities"]), training["items"] * training["largest_weight"]
    if many >= heaviest:
        raise SettingsError(
            f"{where}.capacities: {training['items']} items of weight {training['largest_weight']} at most always fit into {many}"
        )
    if not min(training["layers"]) <= few < max(training["layers"]):
        raise SettingsError(
            f"{where}.layers: {sorted(training['layers'])} must lie on both sides of the smallest capacity, {few}; the claims compare them"
        )
    least, most = logic["space"]["predicates"]
    if least > most:
        raise SettingsError(
            f"configuration: reasoning.logic.space.predicates: the least number {least} exceeds the largest, {most}"
        )
    if logic["layers"] <= logic["space"]["depth"]:
        raise SettingsError(
            f"configuration: reasoning.logic.layers: {logic['layers']} layers do {logic['layers'] - 1} rounds of forward chaining; "
            f"proofs are up to {logic['space']['depth']} deep"
        )
