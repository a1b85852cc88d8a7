"""Seconds that the comparison and its controls take for one task and draw."""

import resource
import time
from collections.abc import Iterator, Sequence

from activation_descent.finetuning import STUDY, audit
from activation_descent.finetuning.cells import Sampling, draw_cells
from activation_descent.finetuning.interventions import Effort
from activation_descent.finetuning.protocol import run_protocol
from activation_descent.language.prompts import Speaker
from activation_descent.records import Row


def measure(speakers: Sequence[Speaker], sampling: Sampling, effort: Effort, root: int, variant: str) -> Iterator[Row]:
    """core_time: the protocol with every published metric; control_time: every control, with the same metrics; both processor time, per
    cell. Cells run side by side, so that more of them cost less each."""
    core, controls, cells = 0.0, 0.0, 0
    for group in draw_cells(speakers, sampling, root):
        start = time.process_time()
        protocol = run_protocol(group, effort.rates)
        for _ in audit.protocol_records(protocol, root, variant):
            pass
        middle = time.process_time()
        for _ in audit.control_records(protocol, speakers, effort, root, variant):
            pass
        core, controls, cells = core + middle - start, controls + time.process_time() - middle, cells + len(group)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    numbers = {"core_time": core / cells, "control_time": controls / cells, "peak_memory": memory}
    for metric, value in numbers.items():
        yield {"study": STUDY, "experiment": "benchmark", "variant": variant, "metric": metric, "value": value}
