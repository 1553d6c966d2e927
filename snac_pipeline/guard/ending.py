"""Ending one process for certain: asked first, killed after a grace period, never another one of the same number."""

import contextlib
import os
import select
import signal
from enum import StrEnum

from snac_pipeline.guard.seeing import Sighting


class Ended(StrEnum):
    """What became of it."""

    GONE = "had ended before"
    ASKED = "ended when asked to (SIGTERM)"
    KILLED = "did not listen and was killed (SIGKILL)"
    REFUSED = "may not be ended by this user; run the guard as root"


def end_process(sighting: Sighting, grace_seconds: float) -> Ended:
    """End the process that was seen, if it is still that one.

    Its handle (pidfd) is taken first and its start time compared then, so that the signals reach this process or none.
    """
    try:
        handle = os.pidfd_open(sighting.pid)
    except ProcessLookupError:
        return Ended.GONE
    try:
        if not _is_still(sighting):
            return Ended.GONE
        signal.pidfd_send_signal(handle, signal.SIGTERM)
        if _ends_within(handle, grace_seconds):
            return Ended.ASKED
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        _ends_within(handle, grace_seconds)
        return Ended.KILLED
    except ProcessLookupError:
        return Ended.GONE
    except PermissionError:
        return Ended.REFUSED
    finally:
        os.close(handle)


def _is_still(sighting: Sighting) -> bool:
    import psutil  # of the extra `gpu`

    try:
        process = psutil.Process(sighting.pid)
        return process.create_time() == sighting.started and process.uids().real == sighting.uid
    except psutil.NoSuchProcess:
        return False


def _ends_within(handle: int, seconds: float) -> bool:
    readable, _, _ = select.select([handle], [], [], seconds)
    return bool(readable)
