"""Attempts on the machines of a Ray cluster: an actor for each GPU, or for each core where there is none.

Actors and not Ray Data: an attempt that fails says so, and the policy above both engines decides what becomes of its
part; Ray Data drops a failed block without saying which, or tries it for ever. All machines have to see the same
`home`, recordings and base codec. An actor that is ended takes with it what it was writing: a temporary file may stay,
which `snac-pipeline gc` finds after a day.
"""

import os
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from snac_pipeline.engine.attempts import Beat, Done, Failed, Part, Queue, Work, attempt
from snac_pipeline.engine.local import START_SECONDS, STARTS, Task
from snac_pipeline.errors import PipelineError


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise PipelineError(
            "`caching.engine: ray` needs the package ray; install it with `pip install 'snac-pipeline[ray]'`"
        ) from error
    return ray


def connect(address: str | None = None) -> None:
    """Join the cluster at `address` (host:port) unless joined already; None: the one that `ray start` began on this
    machine, else one of this machine alone. Raises PipelineError where there is none."""
    ray = _ray()
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(address=address, include_dashboard=None if address else False, logging_level="warning")
    except Exception as error:  # Ray raises bare ones too
        raise PipelineError(
            f"no Ray cluster answers at {address or 'this machine'} ({error}); start one with `ray start --head` and "
            "give its address as `caching.ray_address`"
        ) from error


def cluster_devices(wanted: Sequence[str], processes: int, address: str | None = None) -> list[str]:
    """The device of every worker: as many as the cluster has GPUs, or cores where it has none or `wanted` is the CPU.

    processes: how many workers instead; 0: as many. Ray gives each actor one GPU, which is then its "cuda:0".
    """
    connect(address)
    resources = _ray().cluster_resources()
    gpus = 0 if list(wanted) == ["cpu"] else int(resources.get("GPU", 0))
    return ["cuda:0" if gpus else "cpu"] * (processes or gpus or cluster_cores())


def cluster_cores() -> int:
    """Cores of all machines."""
    return max(1, int(_ray().cluster_resources().get("CPU", 1)))


@dataclass
class _Place:
    device: str
    failed_starts: int = 0
    actor: Any = None
    process: tuple[str, int] | None = None
    """Ray's id of the actor's machine, and its process there; known once it is ready."""
    task: Task | None = None
    messages: Any = None
    deadline: float = 0.0


class RayPool:
    """An actor for each entry of `devices`, wherever the connected cluster has room. See attempts.Pool and LocalPool,
    which this is the like of."""

    def __init__(
        self, work: Work, devices: Sequence[str], hang_seconds: float, prepare: Callable[[str], object] | None = None
    ) -> None:
        self.ray = _ray()
        self.work, self.hang_seconds, self.prepare = work, hang_seconds, prepare
        self.places = dict(enumerate(map(_Place, devices)))
        self.queue = Queue()
        self.events: deque[Beat | Done | Failed] = deque()

    def submit(self, number: int, part: Part, avoid: int | None = None) -> None:
        self.queue.put(number, part, avoid)

    def next(self) -> Beat | Done | Failed:
        while not self.events:
            self._hand_out()
            self._listen()
        self._hand_out()
        return self.events.popleft()

    def close(self) -> None:
        for place in self.places.values():
            self._kill(place)

    def _hand_out(self) -> None:
        for index, place in self.places.items():
            if place.task is None and (task := self.queue.take(index, alone=len(self.places) == 1)):
                if place.actor is None:
                    place.actor = self._actor(place.device)
                place.task = task
                place.messages = place.actor.do.options(num_returns="streaming").remote(task[1])
                place.deadline = time.monotonic() + (self.hang_seconds if place.process else START_SECONDS)

    def _actor(self, device: str) -> Any:
        # No restarts and retries of Ray's own: they are counted in one place.
        options = {"num_cpus": 1, "num_gpus": 0 if device == "cpu" else 1, "max_restarts": 0, "max_task_retries": 0}
        actor = self.ray.remote(**options)(_Worker).options(scheduling_strategy="SPREAD")
        return actor.remote(self.work, self.prepare, device)

    def _listen(self) -> None:
        busy = {place.messages: (index, place.task) for index, place in self.places.items() if place.task is not None}
        patience = min(self.places[index].deadline for index, _ in busy.values()) - time.monotonic()
        heard, _ = self.ray.wait(list(busy), timeout=max(0.0, patience))
        for messages in heard:
            self._hear(*busy[messages])
        now = time.monotonic()
        for messages, (index, task) in busy.items():
            place = self.places.get(index)
            if place is not None and messages not in heard and now > place.deadline:
                limit = self.hang_seconds if place.process else START_SECONDS
                self._fail(index, task, f"its actor hung: it said nothing for {limit:g} s")

    def _hear(self, index: int, task: Task) -> None:
        place, (number, _) = self.places[index], task
        try:
            kind, value = self.ray.get(next(place.messages))
        except self.ray.exceptions.RayError as error:
            self._fail(index, task, f"its actor died: {_first_line(error)}")
            return
        place.deadline = time.monotonic() + self.hang_seconds
        if kind == "ready":
            place.process, place.failed_starts = value, 0
        elif kind == "beat":
            self.events.append(Beat(number, value))
        elif kind == "done":
            place.task = place.messages = None
            self.events.append(Done(number, value))
        elif kind == "failed":
            self._fail(index, task, value)
        else:
            raise PipelineError(value)

    def _fail(self, index: int, task: Task, reason: str) -> None:
        place, (number, part) = self.places[index], task
        ready = place.process is not None
        self._kill(place)
        if ready:
            self.events.append(Failed(number, reason, index))
            return
        self.queue.put_back(number, part)
        place.failed_starts += 1
        if place.failed_starts == STARTS:
            del self.places[index]
            if not self.places:
                raise PipelineError(f"no actor can be started for {place.device}: {reason}")

    def _kill(self, place: _Place) -> None:
        """End the actor. Ray asks its process to end itself; one that is stopped is killed by a task beside it."""
        if place.actor is not None:
            self.ray.kill(place.actor)
            if place.process is not None:
                node, process = place.process
                beside = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)
                self.ray.remote(num_cpus=0, max_retries=0)(_end_process).options(scheduling_strategy=beside).remote(
                    process
                )
        place.actor = place.process = place.task = place.messages = None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


class _Worker:
    """In the cluster: one actor, one device."""

    def __init__(self, work: Work, prepare: Callable[[str], object] | None, device: str) -> None:
        self.work, self.device = work, device
        if prepare is not None:
            prepare(device)

    def do(self, part: Part) -> Any:
        """The messages of `attempt`, after one that says where this is."""
        yield "ready", (_ray().get_runtime_context().get_node_id(), os.getpid())
        yield from attempt(self.work, part, self.device)


def _end_process(process: int) -> None:
    """SIGKILL an actor's process, if it is still that: process numbers are used again."""
    try:
        with open(f"/proc/{process}/cmdline", "rb") as file:
            if b"ray::" in file.read():
                os.kill(process, signal.SIGKILL)
    except (FileNotFoundError, ProcessLookupError):
        pass
