"""What becomes of a part: it is tried, tried again, and cut in halves until what no worker survives stands alone.

In: parts (sequences of items), and a pool of workers that says how each attempt at one ended. Out: results, and the
poisonous items, each with its reason. One policy above every engine; what a part is, this module does not know.
"""

import contextlib
import itertools
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from snac_pipeline.errors import PipelineError, trouble

ATTEMPTS = 3
"""Attempts at a whole part before it is cut in halves, which get one each."""
SUSPECTS = 5
"""Items in a row that fail alone, nothing being done in between: then it is not the items."""
BEAT_SECONDS = 0.5

Part = Sequence[Any]
Work = Callable[[Part, str], Generator[Any, None, Any]]
"""work(part, device): yields news of how far it is, at least as often as a hang is to be noticed; returns the part's
result once the part is whole on the disk."""


class Beat(NamedTuple):
    """A sign of life: what the work yielded."""

    number: int
    news: Any


class Done(NamedTuple):
    """An attempt that ended well."""

    number: int
    result: Any


class Failed(NamedTuple):
    """An attempt that did not: the worker died, hung or raised. `place` is the worker's, see `Pool.submit`."""

    number: int
    reason: str
    place: int


class Poisonous(NamedTuple):
    """An item on which every attempt failed, the last ones with it alone."""

    item: Any
    reason: str


class Pool(Protocol):
    """Workers that make attempts."""

    def submit(self, number: int, part: Part, avoid: int | None = None) -> None:
        """Queue an attempt at `part`. `avoid`: not at this place, where there is another."""

    def next(self) -> Beat | Done | Failed:
        """Wait for the next thing that happens to an attempt.

        Raises PipelineError as the work did, and when no worker can be started any more.
        """

    def close(self) -> None:
        """End the workers; attempts in progress are given up."""


class _Task(NamedTuple):
    part: Part
    tries: int
    """Attempts left, with this one."""
    failures: int
    """Attempts that failed with all of these items."""


def run_parts(pool: Pool, parts: Sequence[Part]) -> Iterator[Beat | Done | Failed | Poisonous]:
    """Do all parts with the workers of `pool` and yield what happens, as it happens. The caller closes the pool.

    A part that fails is tried ATTEMPTS times, each time by another worker where there is one, and then halved down to
    the items that fail alone: these are told as poisonous, everything else of the part is done. Raises PipelineError as
    the work did, and when SUSPECTS items in a row fail alone: then the trouble is the machine's.
    """
    numbers, tasks = itertools.count(), {}
    suspects: list[Poisonous] = []

    def submit(task: _Task, avoid: int | None = None) -> None:
        number = next(numbers)
        tasks[number] = task
        pool.submit(number, task.part, avoid)

    for part in parts:
        submit(_Task(part, ATTEMPTS, 0))
    while tasks:
        event = pool.next()
        yield event
        if isinstance(event, Done):
            del tasks[event.number]
            yield from suspects
            suspects.clear()
        elif isinstance(event, Failed):
            part, tries, failures = tasks.pop(event.number)
            if tries > 1:
                submit(_Task(part, tries - 1, failures + 1), event.place)
            elif len(part) > 1:
                half = len(part) // 2
                submit(_Task(part[:half], 1, failures + 1), event.place)
                submit(_Task(part[half:], 1, failures + 1), event.place)
            else:
                reason = f"all {failures + 1} attempts that it was part of failed, the last with it alone"
                suspects.append(Poisonous(part[0], f"{reason}: {event.reason}"))
            if len(suspects) == SUSPECTS:
                raise PipelineError(
                    f"{SUSPECTS} utterances in a row failed alone, and none was done in between: that is the machine "
                    f"and not the utterances; the last: {event.reason}. What was committed stays: mend it, run again"
                )
    yield from suspects


def attempt(work: Work, part: Part, device: str) -> Generator[tuple[str, Any], None, None]:
    """One attempt, in the worker: ("beat", news) now and then, and last ("done", result), ("failed", reason), or
    ("error", sentence) for a PipelineError, which is for people to mend and not tried again."""
    spoken = -BEAT_SECONDS
    with contextlib.closing(work(part, device)) as steps:
        while True:
            try:
                news = next(steps)
            except StopIteration as end:
                yield "done", end.value
                return
            except PipelineError as error:
                yield "error", str(error)
                return
            except Exception as error:
                traceback.print_exc()
                yield "failed", trouble(error) or f"{type(error).__name__}: {error}"
                return
            if time.monotonic() - spoken >= BEAT_SECONDS:
                yield "beat", news
                spoken = time.monotonic()


class Queue:
    """The attempts that wait for a worker, in order."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[int, Part, int | None]] = deque()

    def put(self, number: int, part: Part, avoid: int | None) -> None:
        self.waiting.append((number, part, avoid))

    def put_back(self, number: int, part: Part) -> None:
        """First again: its worker did not even begin."""
        self.waiting.appendleft((number, part, None))

    def take(self, place: int, alone: bool) -> tuple[int, Part] | None:
        """The first that the worker at `place` may do, which is any where it is `alone`; None where there is none."""
        for i, (number, part, avoid) in enumerate(self.waiting):
            if alone or avoid != place:
                del self.waiting[i]
                return number, part
        return None
