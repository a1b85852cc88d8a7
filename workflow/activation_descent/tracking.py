"""Runs in Weights & Biases, and what a job prints.

Tracking never decides the science: a run is written offline unless the configuration says otherwise, and a network that fails costs
a warning. What fails loudly is a folder that cannot be written, because wandb would move the run to the temp folder in silence.
"""

import atexit
import errno
import gc
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from activation_descent.errors import ActivationDescentError, TrackingError

ONLINE_TIMEOUT = 20  # seconds that a run waits for the network before it is recorded offline

Log = Callable[[int, Mapping[str, float]], None]


def log_to(path: str, threads: int | None = None) -> None:
    """Send this process's prints and warnings to a log file, and hold torch to a number of threads.

    An uncaught `ActivationDescentError`, or a disk that is full or cannot be written, ends the process with one sentence, in the log and
    on the terminal; any other exception leaves its traceback in the log. The end itself is made quick.
    """
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    atexit.register(gc.freeze)  # else the interpreter looks for cycles in all of torch before it goes: half a second
    terminal = sys.__stderr__
    sys.stdout = sys.stderr = open(path, "w", buffering=1, encoding="utf-8")  # noqa: SIM115 (open to the process's end)

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sentence = str(error) if isinstance(error, ActivationDescentError) else _of_the_disk(error)
        if sentence:
            print(f"{kind.__name__}: {sentence}", file=terminal, flush=True)
            with suppress(OSError):  # where the log is on the full disk
                print(f"{kind.__name__}: {sentence}")
        else:
            sys.__excepthook__(kind, error, trace)

    sys.excepthook = show


def _of_the_disk(error: BaseException) -> str:
    """What is wrong with the disk, by the error or the one that it came from; nothing if it is something else."""
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
        # Of safetensors, too, whose error has no number
        if getattr(error, "errno", None) == number or os.strerror(number) in str(error):
            where = f" ({error.filename})" if getattr(error, "filename", None) else ""
            return (
                f"the results cannot be written: {os.strerror(number)}{where}; make room or choose another folder, and run again"
            )
    return ""


class Progress:
    """Says on the terminal, at most every few seconds, how far a job is and how long it will take."""

    def __init__(self, name: str, total: int, every: float = 10.0):
        self.name, self.total, self.every = name, total, every
        self.last = time.monotonic()
        self.first: tuple[int, float] | None = None  # step and time from which on progress is measured

    def __call__(self, step: int, losses: Mapping[str, float], watched: Mapping[str, float] | None = None) -> None:
        """Report a step.

        Args:
            losses: their mean is shown.
            watched: other numbers to show, in [0, 1].
        """
        now = time.monotonic()
        if self.first is None:
            self.first = step, now
        if step < self.total and now - self.last < self.every:
            return
        self.last = now
        done, elapsed = step - self.first[0], now - self.first[1]
        left = f", {elapsed / done * (self.total - step):.0f} s left" if done and step < self.total else ""
        loss = sum(losses.values()) / max(len(losses), 1)
        others = "".join(f", {name.replace('_', ' ')} {value:.2f}" for name, value in (watched or {}).items())
        line = f"{self.name}: step {step} of {self.total}, loss {loss:.5f}{others}{left}"
        print(line)
        print(line, file=sys.__stderr__, flush=True)


@contextmanager
def track(
    settings: Mapping[str, Any], folder: Path, study: str, rule: str, variant: str, config: Mapping[str, Any]
) -> Iterator[Log]:
    """A wandb run for one job: project from the settings, group = study, job_type = rule, id = `<rule>-<variant>`.

    An earlier run of the same id in the folder is replaced. Yields a function that logs values at a step; the last values become
    the summary.

    Args:
        settings: `mode` (offline, online or disabled) and `project`.
        folder: runs are kept in `<folder>/wandb`.

    Raises:
        TrackingError: if that folder cannot be written.
    """
    if settings["mode"] == "disabled":
        yield lambda step, values: None
        return
    _require_writable(folder)
    import wandb

    identity = f"{rule}-{variant}"
    for old in (folder / "wandb").glob(f"*run-*-{identity}"):
        shutil.rmtree(old)
    arguments = {
        "project": settings["project"],
        "group": study,
        "job_type": rule,
        "id": identity,
        "name": f"{rule}/{variant}",
        "dir": str(folder),
        "config": dict(config),
        "tags": [study, rule],
    }
    quiet = wandb.Settings(
        console="off",
        x_disable_stats=True,
        x_save_requirements=False,  # the page names the versions; a list of all packages takes a fifth of a second
        disable_git=True,
        disable_code=True,
        init_timeout=ONLINE_TIMEOUT,
    )
    mode = settings["mode"]
    if mode == "online":
        # Asked first, because a run whose start fails blocks its id for the rest of the process
        try:
            _ = wandb.Api(timeout=ONLINE_TIMEOUT).viewer
        except Exception as error:  # wandb has a dozen ways to say that there is no network or no key
            mode = "offline"
            reason = " ".join(str(error).split()) or type(error).__name__
            warning = f"wandb is out of reach, so {identity} is recorded offline: {reason}"
            print(warning)
            print(warning, file=sys.__stderr__, flush=True)
    hook = sys.excepthook
    run = wandb.init(mode=mode, settings=quiet, **arguments)
    sys.excepthook = hook  # wandb's prints a traceback for every error; the run's end is marked below
    if not Path(run.dir).resolve().is_relative_to(folder.resolve()):
        written = run.dir
        run.finish(exit_code=1)
        raise TrackingError(f"wandb wrote {identity} to {written} instead of {folder / 'wandb'}; make that folder writable")
    try:
        yield lambda step, values: run.log(dict(values), step=step)
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish()


def _require_writable(folder: Path) -> None:
    try:
        (folder / "wandb").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder / "wandb"):
            pass
    except OSError as error:
        raise TrackingError(f"runs cannot be recorded in {folder / 'wandb'}: {error.strerror or error}") from error
