"""Which jobs run in several parts, on several machines."""

from collections.abc import Mapping
from typing import Any

from activation_descent.errors import SettingsError


def check_shards(
    shards: Mapping[str, Mapping[str, int]], variants: Mapping[str, Mapping[str, Any]], models: Mapping[str, Any]
) -> None:
    """Hold `shards` of the configuration against what is there to be cut.

    Args:
        variants: resolved settings of the regression study.
        models: those of `finetuning.models`, by name.

    Raises:
        SettingsError: one sentence for the first fault.
    """
    for variant, number in shards["regression"].items():
        if variant not in variants:
            raise SettingsError(f"shards.regression: there is no variant '{variant}'")
        starts = variants[variant]["best_of"] or variants[variant]["seeds"]
        if number > starts:
            raise SettingsError(f"shards.regression.{variant}: {number} shards, but only {starts} random starts to share out")
    for model in shards["finetuning"]:
        if not models.get(model):
            raise SettingsError(f"shards.finetuning: there is no model '{model}' in finetuning.models")
