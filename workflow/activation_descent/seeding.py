"""Every random stream of the project.

A stream is named by what it is for, not by the order in which code asks for it: `numpy.random.SeedSequence` over the study, the
experiment, the variant, the purpose ("train", "tune", "evaluate", "initialise", ...), the seed and the step. Two names give
independent streams; the same name gives the same numbers in whichever process, so a training run can resume at any step
without saving the state of a generator.
"""

import hashlib
from functools import lru_cache

import numpy as np


@lru_cache
def _words(name: str) -> tuple[int, ...]:
    digest = hashlib.sha256(name.encode()).digest()
    return tuple(int.from_bytes(digest[i : i + 4], "little") for i in range(0, 16, 4))


def generator(
    root: int, study: str, experiment: str, variant: str, purpose: str, seed: int = 0, step: int = 0
) -> np.random.Generator:
    """The random stream of one purpose.

    Args:
        root: the configuration's `seed`; changes every stream at once.
        study, experiment, variant, purpose: the stream's name.
        seed: the replication.
        step: the training step, for streams that are drawn anew at each step.

    Raises:
        ValueError: if `root`, `seed` or `step` is negative.
    """
    if min(root, seed, step) < 0:
        raise ValueError(f"root, seed and step of a random stream must not be negative: {root}, {seed}, {step}")
    words = _words("/".join((study, experiment, variant, purpose)))
    sequence = np.random.SeedSequence(root, spawn_key=(*words, seed, step))
    # SFC64 draws float32 uniforms about 1.7 times as fast as Philox, and these draws are half of a training step.
    return np.random.Generator(np.random.SFC64(sequence))
