"""What a piece of work costs: seconds, and the memory it takes on top of what was taken before."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True)
class Cost:
    """Wall and CPU seconds; peak resident megabytes beyond those at the start, None where there is no Linux /proc."""

    seconds: float
    cpu_seconds: float
    megabytes: float | None


def costing(work: Callable[[], Result]) -> tuple[Result, Cost]:
    """Do `work`; its result and its cost. Memory that was free inside the process and is used again is not counted."""
    before, began, cpu = _resident("VmRSS"), time.perf_counter(), time.process_time()
    resettable = _reset_peak()
    result = work()
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    return result, Cost(seconds, cpu_seconds, _resident("VmHWM") - before if resettable else None)


def _reset_peak() -> bool:
    """proc(5): writing 5 to clear_refs sets the peak VmHWM to what is resident now."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _resident(key: str) -> float:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0.0
    return int(status.split(f"{key}:")[1].split()[0]) / 1024
