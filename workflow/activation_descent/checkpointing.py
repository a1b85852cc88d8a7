"""Checkpoints of a training job: one process at a time, the same settings and code or none at all."""

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from activation_descent.errors import CheckpointError
from activation_descent.files import whole


@contextmanager
def alone(checkpoint: Path | None) -> Iterator[None]:
    """Wait until no other process trains from this checkpoint.

    A job whose workflow was killed lives on; the job of the next run waits for it here instead of writing into its files.
    """
    if checkpoint is None:
        yield
        return
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    path = checkpoint.with_suffix(".lock")
    with _locked(path):
        try:
            yield
        finally:
            path.unlink()


def _locked(path: Path) -> TextIO:
    """An open file that this process alone has locked. A file that its last owner removed meanwhile is nobody's: try again."""
    while True:
        file = path.open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another process is training here, as {path} says; waiting for it to end", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        if path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino:
            return file
        file.close()


def save(checkpoint: Path | None, identity: str, state: Mapping[str, Tensor], block: int) -> None:
    """Write the state after a block of training, whole or not at all."""
    if checkpoint is None:
        return
    with whole(checkpoint) as partial:
        save_file(dict(state), partial, metadata={"identity": identity, "block": str(block)})


def restore(checkpoint: Path | None, identity: str, state: Mapping[str, Tensor]) -> int:
    """Copy a checkpoint of the same identity into the state; returns the number of blocks that it holds, 0 if there is none.

    Raises:
        CheckpointError: if the file is damaged.
    """
    if checkpoint is None or not checkpoint.exists():
        return 0
    try:
        with safe_open(checkpoint, framework="pt") as stored:
            metadata = stored.metadata()
            if metadata["identity"] != identity:
                print(f"{checkpoint} was written by other settings or other code; training from the start", flush=True)
                return 0
            for name, tensor in state.items():
                tensor.copy_(stored.get_tensor(name))
    except Exception as error:  # safetensors raises its own type, and others on a file cut short
        raise CheckpointError(f"{checkpoint} cannot be read ({error}); delete it to train from the start") from error
    print(f"resuming {checkpoint} after block {metadata['block']}", flush=True)
    return int(metadata["block"])
