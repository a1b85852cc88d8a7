"""Time and memory of each mechanism against the length, the exponents with which they grow, and where a mechanism overtakes softmax."""

import time
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from activation_descent.attention import MECHANISMS, STUDY
from activation_descent.attention.efficient import mechanism, random_directions
from activation_descent.records import Row


class PeakMemory(TorchDispatchMode):
    """Bytes of the tensors that live at the same time while operations run inside of it, at most; inputs do not count."""

    def __init__(self):
        super().__init__()
        self.alive: Counter[int] = Counter()
        self.bytes: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {x.untyped_storage().data_ptr() for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                place = tensor.untyped_storage().data_ptr()
                if place in given and place not in self.bytes:
                    continue
                self.alive[place] += 1
                self.bytes[place] = tensor.untyped_storage().nbytes()
                weakref.finalize(tensor, self._freed, place)
        self.peak = max(self.peak, sum(self.bytes.values()))
        return out

    def _freed(self, place: int) -> None:
        self.alive[place] -= 1
        if not self.alive[place]:
            del self.alive[place], self.bytes[place]


def measure(lengths: Sequence[int], features: int, repeats: int) -> list[Row]:
    """Milliseconds (the fastest repeat) and megabytes of one head on one sequence, by mechanism and length, with what follows from them."""
    rng = np.random.default_rng(0)
    directions, latents = (
        random_directions(rng, features, features).float(),
        torch.from_numpy(rng.standard_normal((features, features))).float(),
    )
    base = {"study": STUDY, "experiment": "benchmark"}
    rows: list[Row] = []
    for condition, causal in (("bidirectional", False), ("causal", True)):
        times: dict[str, list[float]] = {}
        for name in MECHANISMS:
            attention = mechanism(name, directions, latents)
            times[name], memory = [], []
            for length in lengths:
                q, k, v = torch.from_numpy(rng.standard_normal((3, length, features))).float()
                with torch.no_grad():
                    times[name].append(_fastest(partial(attention, q, k, v, causal), repeats))
                    with PeakMemory() as peak:
                        attention(q, k, v, causal)
                memory.append(peak.peak / 1e6)
            own = base | {"variant": name, "condition": condition}
            for metric, values in (("attention_time", times[name]), ("attention_memory", memory)):
                rows += [own | {"length": n, "metric": metric, "value": x} for n, x in zip(lengths, values, strict=True)]
                rows.append(own | {"metric": f"{metric}_exponent", "value": exponent(lengths, values)})
            rows.append(own | {"metric": "crossover_length", "value": crossover(lengths, times[name], times["softmax"])})
    return rows


def _fastest(work: Callable[[], Tensor], repeats: int) -> float:
    found = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        found.append(1e3 * (time.perf_counter() - start))
    return min(found[1:])


def exponent(lengths: Sequence[int], values: Sequence[float]) -> float:
    """Slope of log value against log length over the longer half, where what does not grow is outweighed."""
    half = len(lengths) // 2
    return float(np.polyfit(np.log(lengths[half:]), np.log(values[half:]), 1)[0])


def crossover(lengths: Sequence[int], values: Sequence[float], softmax: Sequence[float]) -> float:
    """The length from which a mechanism takes less time than softmax attention and keeps to it, between lengths by a line in logarithms.

    The shortest length if it always does; infinity if it does not at the longest.
    """
    gap = np.log(values) - np.log(softmax)
    slower = np.flatnonzero(gap >= 0)
    if not len(slower):
        return float(lengths[0])
    last = slower[-1]
    if last == len(lengths) - 1:
        return float("inf")
    share = gap[last] / (gap[last] - gap[last + 1])
    return float(np.exp(np.log(lengths[last]) + share * np.log(lengths[last + 1] / lengths[last])))
