"""Locks that say who holds them, for work that several processes would otherwise do twice or in each other's way.

In: a file, on this machine or on a disk that several share. Out: its lock, which goes with the process however that
ends, and for the others a sentence about the holder. Disks without locks (some network ones) are told and not locked.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from snac_pipeline.files import make_folder

ASK_SECONDS = 0.2
TELL_SECONDS = 30.0
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


def try_lock(file: Path, doing: str, held: contextlib.ExitStack) -> str | None:
    """Take the lock until `held` closes and note who has it; None when it is ours, else who holds it.

    Raises OSError of _NO_LOCKS where the disk has no locks.
    """
    make_folder(file.parent)
    with contextlib.ExitStack() as opened:
        handle = opened.enter_context(file.open("a+", encoding="utf-8"))
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return _holder(handle)
        handle.truncate(0)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        handle.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since, "doing": doing}))
        handle.flush()
        held.push(opened.pop_all())
    return None


@contextlib.contextmanager
def alone(file: Path, doing: str, waiting: str, tell: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock, waiting for whoever has it; `tell` hears who that is, now and then, and `waiting`, what for."""
    with contextlib.ExitStack() as held:
        told = -TELL_SECONDS
        while True:
            try:
                holder = try_lock(file, doing, held)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                tell(f"{file.parent} has no locks ({error.strerror}): whoever works here too does the same work again")
                break
            if holder is None:
                break
            if time.monotonic() - told >= TELL_SECONDS:
                told = time.monotonic()
                tell(f"waiting for {holder}; {waiting}. Ctrl-C stops waiting")
            time.sleep(ASK_SECONDS)
        yield


def _holder(handle: IO[str]) -> str:
    """Who has the lock, by what it wrote down, which may be half written at this moment."""
    handle.seek(0)
    try:
        who = json.loads(handle.read())
        return f"process {who['pid']} on {who['host']}, since {who['since']} ({who['doing']})"
    except (ValueError, KeyError):
        return "another process, which began just now"
