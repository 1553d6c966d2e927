"""Attempts on this machine: a spawned process for each device, a pipe each, and a supervisor that listens to them.

A worker that dies, or says nothing for `hang_seconds`, costs the part that it was doing: it is killed and another is
started. However a run ends, no worker outlives it: one asked to end unwinds what it is doing (temporary files go), one
whose parent is gone is killed.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple, NoReturn

from snac_pipeline.engine.attempts import Beat, Done, Failed, Part, Queue, Work, attempt
from snac_pipeline.engine.child import die_with_parent
from snac_pipeline.engine.memory import OomKills
from snac_pipeline.errors import PipelineError

START_SECONDS = 300.0
"""What a worker may take to load its libraries and what `prepare` loads, perhaps from a slow disk."""
STARTS = 3
"""Failed starts in a row after which a device is given up."""
GRACE_SECONDS = 5.0
"""What a worker has to unwind in; below the 8 s that a step itself has."""

_spawn = multiprocessing.get_context("spawn")


Task = tuple[int, Part]


class Worker(NamedTuple):
    """A process, and our end of the pipe to it."""

    process: BaseProcess
    pipe: Connection


@dataclass
class Place:
    """One worker's place: its device, and the worker that is there at the moment."""

    device: str
    failed_starts: int = 0
    worker: Worker | None = None
    task: Task | None = None
    ready: bool = False
    deadline: float = 0.0
    """When a worker that has said nothing is taken for hung."""


class LocalPool:
    """A worker process for each entry of `devices`; one device may be there several times. See attempts.Pool.

    prepare(device) is what a worker does before its first part; where it fails the worker could not be started.
    """

    def __init__(
        self,
        work: Work,
        devices: Sequence[str],
        hang_seconds: float,
        prepare: Callable[[str], object] | None = None,
    ) -> None:
        self.work, self.hang_seconds, self.prepare = work, hang_seconds, prepare
        self.places = dict(enumerate(map(Place, devices)))
        self.queue = Queue()
        self.events: deque[Beat | Done | Failed] = deque()
        self.oom_kills = OomKills()

    def submit(self, number: int, part: Part, avoid: int | None = None) -> None:
        self.queue.put(number, part, avoid)

    def next(self) -> Beat | Done | Failed:
        while not self.events:
            self._hand_out()
            self._listen()
        self._hand_out()  # before the caller is told, who may be busy for a while
        return self.events.popleft()

    def close(self) -> None:
        """Idle workers end as their pipe closes, the others as they are asked to; after the grace all are killed."""
        running = [(place, place.worker) for place in self.places.values() if place.worker is not None]
        try:
            for place, worker in running:
                worker.pipe.close()
                if place.task is not None:
                    worker.process.terminate()
            deadline = time.monotonic() + GRACE_SECONDS
            for _, worker in running:
                worker.process.join(max(0.0, deadline - time.monotonic()))
        finally:
            for place, _ in running:
                _kill(place)

    def _hand_out(self) -> None:
        for index, place in self.places.items():
            if place.task is None and (task := self.queue.take(index, alone=len(self.places) == 1)):
                worker = place.worker or self._start(place)
                place.task = task
                if place.ready:
                    self._send(place, worker, task)

    def _send(self, place: Place, worker: Worker, task: Task) -> None:
        """Only to a worker that waits for it: the pipe is smaller than a part."""
        place.deadline = time.monotonic() + self.hang_seconds
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died idle: `_listen` hears of it
            worker.pipe.send(task[1])

    def _start(self, place: Place) -> Worker:
        ours, theirs = _spawn.Pipe()
        arguments = (theirs, self.work, self.prepare, place.device, os.getpid())
        # Not a daemon: it has processes of its own, which read ahead.
        process = _spawn.Process(target=_worker, args=arguments, name=f"worker on {place.device}")
        worker = place.worker = Worker(process, ours)
        place.ready, place.deadline = False, time.monotonic() + START_SECONDS
        with _interrupts_held():
            process.start()
        theirs.close()
        return worker

    def _listen(self) -> None:
        """Until somebody says something, dies, or has been silent for too long."""
        busy = [
            (index, place.worker, place.task)
            for index, place in self.places.items()
            if place.worker is not None and place.task is not None
        ]
        patience = min(self.places[index].deadline for index, *_ in busy) - time.monotonic()
        heard = wait([worker.pipe for _, worker, _ in busy], max(0.0, patience))
        for index, worker, task in busy:
            if worker.pipe in heard:
                self._hear(index, worker, task)
        now = time.monotonic()
        for index, worker, task in busy:
            place = self.places.get(index)
            if place is not None and place.task is not None and now > place.deadline and not worker.pipe.poll():
                limit = self.hang_seconds if place.ready else START_SECONDS
                self._fail(index, task, f"its worker process hung: it said nothing for {limit:g} s")

    def _hear(self, index: int, worker: Worker, task: Task) -> None:
        place, (number, _) = self.places[index], task
        try:
            kind, value = worker.pipe.recv()
        except (EOFError, ConnectionResetError):
            worker.process.join(GRACE_SECONDS)
            self._fail(index, task, _end_of(worker.process.exitcode, self.oom_kills))
            return
        place.deadline = time.monotonic() + self.hang_seconds
        if kind == "ready":
            place.ready, place.failed_starts = True, 0
            self._send(place, worker, task)
        elif kind == "beat":
            self.events.append(Beat(number, value))
        elif kind == "done":
            place.task = None
            self.events.append(Done(number, value))
        elif kind == "failed":
            self._fail(index, task, value)
        else:
            raise PipelineError(value)

    def _fail(self, index: int, task: Task, reason: str) -> None:
        """The attempt at this place failed; so may the whole process be wrong (a CUDA error stays): it goes."""
        place, (number, part) = self.places[index], task
        ready = place.ready
        _kill(place)
        if ready:
            self.events.append(Failed(number, reason, index))
            return
        self.queue.put_back(number, part)
        place.failed_starts += 1
        if place.failed_starts == STARTS:
            del self.places[index]
            sentence = f"no worker process can be started on {place.device}: {reason}"
            print(f"{sentence}; {len(self.places)} others go on", file=sys.stderr, flush=True)
            if not self.places:
                raise PipelineError(f"{sentence}; its own words are above. What was committed stays")


def _kill(place: Place) -> None:
    if place.worker is not None:
        place.worker.pipe.close()
        place.worker.process.kill()
        place.worker.process.join()
    place.worker = place.task = None
    place.ready = False


def _end_of(code: int | None, oom_kills: OomKills) -> str:
    if code is not None and code < 0:
        hint = ""
        if -code == signal.SIGKILL:
            hint = ": the kernel did, as the memory was full" if oom_kills.happened() else ", often for want of memory"
        return f"its worker process was killed by {signal.Signals(-code).name}{hint}"
    return f"its worker process ended with exit status {code}"


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Processes started in here never get the terminal's Ctrl-C: it is their parent's, who ends them; ours waits."""
    resource_tracker.ensure_running()  # with the first process it would be started in here, and lets signals through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# In the worker --------------------------------------------------------------------------------------------------------


class _Ended(SystemExit):
    """SIGTERM in a worker."""


def _worker(pipe: Connection, work: Work, prepare: Callable[[str], object] | None, device: str, parent: int) -> None:
    die_with_parent(parent)
    signal.signal(signal.SIGTERM, _end_worker)
    try:
        if prepare is not None:
            prepare(device)
        pipe.send(("ready", None))
        while True:
            with contextlib.closing(attempt(work, pipe.recv(), device)) as messages:
                for message in messages:
                    pipe.send(message)
    except (_Ended, EOFError, BrokenPipeError):  # asked to end, or nobody is there any more
        os._exit(128 + signal.SIGTERM)


def _end_worker(number: int, frame: Any) -> NoReturn:
    raise _Ended


# Without processes ----------------------------------------------------------------------------------------------------


class InlinePool:
    """Attempts in the caller's own process, one after the other: for debugging. Only exceptions are failures here; a
    crash or a hang is the caller's. See attempts.Pool."""

    def __init__(self, work: Work, device: str) -> None:
        self.work, self.device = work, device
        self.queue = Queue()
        self.running: Generator[tuple[str, Any], None, None] | None = None
        self.number = -1

    def submit(self, number: int, part: Part, avoid: int | None = None) -> None:
        self.queue.put(number, part, avoid)

    def next(self) -> Beat | Done | Failed:
        if self.running is None:
            task = self.queue.take(0, alone=True)
            assert task is not None  # one waits for no more than was submitted
            self.number, part = task
            self.running = attempt(self.work, part, self.device)
        kind, value = next(self.running)
        if kind == "beat":
            return Beat(self.number, value)
        self.running = None
        if kind == "done":
            return Done(self.number, value)
        if kind == "failed":
            return Failed(self.number, value, 0)
        raise PipelineError(value)

    def close(self) -> None:
        if self.running is not None:
            self.running.close()
