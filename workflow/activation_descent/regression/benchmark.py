"""Milliseconds per training step, as `train` takes them."""

import multiprocessing
import resource
import time
from dataclasses import replace

import torch

from activation_descent.records import Row
from activation_descent.regression import STUDY
from activation_descent.regression.training import Job, Training

BATCH = 2048  # fresh tasks a step for every variant, whatever it trains on
BLOCK = 10  # steps between two looks at the clock


def step_times(settings: Training, variant: str, repeats: int) -> list[Row]:
    """Records of one variant for a step of one start on `BATCH` fresh tasks: the whole step, its data, its update (the difference of the
    two), and peak memory.

    Data and whole step are timed in turn, `repeats` times after a warm-up; of each the fastest repeat is reported, which other work
    on the machine disturbed least (as `timeit` advises). Runs in a process of its own, whose peak memory is then the variant's alone.
    """
    with multiprocessing.get_context("fork").Pool(1) as process:
        return process.apply(_step_times, (settings, variant, repeats))


def _step_times(settings: Training, variant: str, repeats: int) -> list[Row]:
    torch.set_flush_denormal(True)  # as training does
    settings = replace(settings, seeds=1, best_of=None, batch_size=BATCH, dataset_size=None)
    job = Job(settings, root=0, variant=variant)
    data, whole = [], []
    for repeat in range(repeats + 1):
        steps = range(repeat * BLOCK, (repeat + 1) * BLOCK)
        start = time.perf_counter()
        for step in steps:
            job.tasks(0, step)
        drawn = time.perf_counter()
        job.advance(steps)
        data.append((drawn - start) / BLOCK * 1e3)
        whole.append((time.perf_counter() - drawn) / BLOCK * 1e3)
    values = {
        "data_time": min(data[1:]),
        "update_time": min(whole[1:]) - min(data[1:]),
        "step_time": min(whole[1:]),
        "peak_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    base = {"study": STUDY, "experiment": settings.experiment, "variant": variant}
    return [base | {"metric": metric, "value": value} for metric, value in values.items()]
