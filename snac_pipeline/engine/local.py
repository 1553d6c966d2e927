"""Run "do one part" on every device of this machine: one spawned process per device, or right here for a single CPU.

A part is whole when its function returns; what a part is, this module does not know.
"""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from snac_pipeline.errors import PipelineError

Part = TypeVar("Part")
Result = TypeVar("Result")

_device = "cpu"


def run_parts(work: Callable[[Part, str], Result], parts: Sequence[Part], devices: Sequence[str]) -> Iterator[Result]:
    """Yield work(part, device) for every part, as they end, each device busy with one part at a time.

    With one device the work is done in this process. `devices` may name one device several times: so many processes.
    Raises what `work` raises; PipelineError when a process dies. Parts that were done stay done.
    """
    if len(devices) == 1 or len(parts) <= 1:
        for part in parts:
            yield work(part, devices[0])
        return
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    for device in devices:
        queue.put(device)
    pool = ProcessPoolExecutor(len(devices), mp_context=context, initializer=_take_device, initargs=(queue,))
    try:
        futures = [pool.submit(_work, work, part) for part in parts]
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool as error:
        raise PipelineError(
            "a worker process died, often for want of memory; what was committed stays: run again, "
            "with smaller `caching.batch_seconds` if it happens again"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _take_device(queue: Any) -> None:
    global _device
    _device = queue.get()


def _work(work: Callable[[Part, str], Result], part: Part) -> Result:
    return work(part, _device)
