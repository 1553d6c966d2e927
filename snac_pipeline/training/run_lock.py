"""The lock of a run folder: one process trains there, and others can ask whether one does."""

import contextlib
import fcntl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from snac_pipeline.errors import PipelineError

LOCK = "lock"
ASKING_SECONDS = 0.5
"""`is_running` holds the lock for an instant: one that is held longer is another training's."""


@contextlib.contextmanager
def only_one(run: Path) -> Iterator[None]:
    """Hold the run's lock; it goes with the process, however that ends. PipelineError when another process has it."""
    with (run / LOCK).open("w") as lock:
        deadline = time.monotonic() + ASKING_SECONDS
        while not _locked(lock, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                raise PipelineError(f"another process is training {run}; wait for it or stop it first")
            time.sleep(0.02)
        yield


def is_running(run: Path) -> bool:
    """Whether a process of this machine is training there now."""
    try:
        with (run / LOCK).open() as lock:
            return not _locked(lock, fcntl.LOCK_SH)
    except FileNotFoundError:
        return False


def _locked(lock: IO[str], how: int) -> bool:
    """Take the lock, if that is possible at once."""
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
