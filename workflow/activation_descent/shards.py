"""What each part of a job that is cut has to do."""

from collections.abc import Sequence
from typing import TypeVar

from activation_descent.errors import SettingsError

Thing = TypeVar("Thing")


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
