"""Scripts in processes that have their libraries already: forks of one that has loaded them, and does nothing else.

To load torch takes one to three seconds, and the shorter half of a run's jobs take not much longer than that.
"""

import multiprocessing
import os
import runpy
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from multiprocessing import connection

# One thread each: before a library is loaded, because some ask when they are
THREADS = ("OMP", "GOTO", "OPENBLAS", "MKL", "NUMEXPR")
# Processes are started and waited for in threads of one process, and who looks first takes the exit code
_CHILDREN = threading.Lock()


def load(libraries: Sequence[str]) -> None:
    """Have the process that forks come from load these modules when it starts, with the first script. What cannot be imported is left out.

    They must start no threads, which a fork would not have.
    """
    os.environ.update({f"{library}_NUM_THREADS": "1" for library in THREADS})
    multiprocessing.get_context("forkserver").set_forkserver_preload(list(libraries))


def run(script: str, watch: Callable[[int], AbstractContextManager] = lambda process: nullcontext()) -> int:
    """Run a Python file as a main program in a fork that computes on one thread, and wait for its end. For any thread.

    Args:
        watch: what to do from before the script's first line to its end, given the number of its process.

    Returns:
        the exit code; minus a signal's number, if that ended the process.
    """
    context = multiprocessing.get_context("forkserver")
    gate, latch = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(script, gate))
    with _CHILDREN:
        process.start()
    gate.close()
    with watch(process.pid):
        latch.close()
        connection.wait([process.sentinel])
        with _CHILDREN:
            process.join()
    return process.exitcode


def _run(script: str, gate: connection.Connection) -> None:
    with suppress(EOFError):
        gate.recv_bytes()
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit:
        raise
    except BaseException:  # as at the end of a process of its own, whose hook the script may have set
        sys.excepthook(*sys.exc_info())
        sys.exit(1)
