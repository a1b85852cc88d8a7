"""Scripts in processes that have their libraries already: forks of one that has loaded them, and does nothing else.

To load torch takes one to three seconds, and the shorter half of a run's jobs take not much longer than that.
"""

import multiprocessing
import os
import runpy
import sys
import threading
from collections.abc import Sequence
from multiprocessing import connection
from multiprocessing.process import BaseProcess

# One thread each: before a library is loaded, because some ask when they are
THREADS = ("OMP", "GOTO", "OPENBLAS", "MKL", "NUMEXPR")
# Processes are started and waited for in threads of one process, and who looks first takes the exit code
_CHILDREN = threading.Lock()


def load(libraries: Sequence[str]) -> None:
    """Have the first process that is started load these modules, for all. To be called before; what cannot be imported is left out.

    They must start no threads, which a fork would not have.
    """
    os.environ.update({f"{library}_NUM_THREADS": "1" for library in THREADS})
    multiprocessing.get_context("forkserver").set_forkserver_preload(list(libraries))


def start(script: str) -> BaseProcess:
    """Run a Python file as a main program, in a fork that computes on one thread."""
    process = multiprocessing.get_context("forkserver").Process(target=_run, args=(script,))
    with _CHILDREN:
        process.start()
    return process


def wait(process: BaseProcess) -> int:
    """The exit code of a started process once it has ended; minus a signal's number, if that ended it."""
    connection.wait([process.sentinel])
    with _CHILDREN:
        process.join()
    return process.exitcode


def _run(script: str) -> None:
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit:
        raise
    except BaseException:  # as at the end of a process of its own, whose hook the script may have set
        sys.excepthook(*sys.exc_info())
        sys.exit(1)
