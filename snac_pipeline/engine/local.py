"""Run "do one part" on every device of this machine: one spawned process per device, or right here for a single CPU.

A part is whole when its function returns; what a part is, this module does not know. However a run ends, no worker
outlives it: a worker asked to end unwinds what it is doing (temporary files go), one whose parent is gone is killed.
"""

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NoReturn, TypeVar

from snac_pipeline.engine.child import die_with_parent
from snac_pipeline.errors import PipelineError

Part = TypeVar("Part")
Result = TypeVar("Result")

_device = "cpu"


def run_parts(work: Callable[[Part, str], Result], parts: Sequence[Part], devices: Sequence[str]) -> Iterator[Result]:
    """Yield work(part, device) for every part, as they end, each device busy with one part at a time.

    With one device the work is done in this process. `devices` may name one device several times: so many processes.
    Raises what `work` raises; PipelineError when a process dies. Parts that were done stay done; on an interrupt, or
    when the caller stops listening, those in progress are given up.
    """
    devices = devices[: max(1, len(parts))]
    if len(devices) == 1:
        for part in parts:
            yield work(part, devices[0])
        return
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    for device in devices:
        queue.put(device)
    pool = ProcessPoolExecutor(
        len(devices), mp_context=context, initializer=_begin_worker, initargs=(queue, os.getpid())
    )
    try:
        with _interrupts_held():
            futures = [pool.submit(_work, work, part) for part in parts]
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool as error:
        raise PipelineError(
            "a worker process died, often for want of memory; what was committed stays: run again, "
            "with smaller `caching.batch_seconds` if it happens again"
        ) from error
    except Exception:
        raise
    except BaseException:  # an interrupt, or nobody listens any more
        for worker in list((pool._processes or {}).values()):  # terminate_workers() from Python 3.14 on
            worker.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Processes started in here never get the terminal's Ctrl-C: it is their parent's, who ends them; ours waits."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Ended(SystemExit):
    """SIGTERM in a worker."""


def _begin_worker(queue: Any, parent: int) -> None:
    global _device
    die_with_parent(parent)
    signal.signal(signal.SIGTERM, _end_worker)
    _device = queue.get()


def _end_worker(number: int, frame: Any) -> NoReturn:
    raise _Ended


def _work(work: Callable[[Part, str], Result], part: Part) -> Result:
    try:
        return work(part, _device)
    except _Ended:  # the pool would take it for the part's result and go on with the next
        os._exit(128 + signal.SIGTERM)
