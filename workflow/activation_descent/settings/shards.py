"""Jobs that run in several parts, on several machines."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from activation_descent.errors import SettingsError

Thing = TypeVar("Thing")


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


def shard_of(number: int, shards: int, shard: int) -> range:
    """Which of `number` things one of `shards` equal parts (to within one) has, in their order."""
    return range(number * shard // shards, number * (shard + 1) // shards)


def own_part(things: Sequence[Thing], shard: Sequence[int] | None, what: str) -> Sequence[Thing]:
    """The part of a shard.

    Args:
        shard: its place and how many there are; None for everything.
        what: how to call the things in an error.

    Raises:
        SettingsError: if there are more shards than things.
    """
    if shard is None:
        return things
    place, shards = shard
    if shards > len(things):
        raise SettingsError(f"{shards} shards, but only {len(things)} {what} to share out; see shards in config/README.md")
    own = shard_of(len(things), shards, place)
    return things[own.start : own.stop]
