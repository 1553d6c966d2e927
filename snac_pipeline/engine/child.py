"""One heavy step in a process of its own: started, listened to, and ended with everything it started.

In: a command that prints JSON events, one per line, on its standard output: any number of progress events, then one
result (exit 0) or one error. Out: the result. Whichever way the step ends (done, failed, interrupted, killed) nothing
that it started is left running: processes are found by a mark in their environment, by their session and by their
parents, so that sessions of their own (torch.distributed.run) and orphans do not escape. Where the caller itself is
killed, the kernel kills the child. Linux; elsewhere only the child's own process group is ended.
"""

import collections
import contextlib
import ctypes
import functools
import json
import os
import secrets
import selectors
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from snac_pipeline.engine.memory import OomKills
from snac_pipeline.errors import PipelineError

GRACE_SECONDS = 8.0
"""What an interrupted child has to save its state; with the kill behind it below the 10 s we promise."""
TAIL_LINES = 30
MARK = "SNAC_PIPELINE_CHILD"
"""Environment variable by which the processes of one child, and theirs, are found again."""

Event = dict[str, Any]

_SIGNAL_MEANINGS = {
    signal.SIGKILL: "often the machine ran out of memory; use smaller batches or fewer processes",
    signal.SIGTERM: "somebody ended it, or the machine is shutting down; run it again to go on",
    signal.SIGINT: "it was interrupted; run it again to go on",
    signal.SIGSEGV: "a crash inside a native library",
    signal.SIGABRT: "a native library gave up",
    signal.SIGBUS: "often a full disk or a file cut short under a memory map",
    signal.SIGILL: "a native library was built for another processor",
}


class ChildFailed(PipelineError):
    """The child's own error sentence, or what its end says. `tail`: the last lines of its standard error."""

    def __init__(self, message: str, tail: str = "") -> None:
        super().__init__(message)
        self.tail = tail


def run_child(
    argv: Sequence[str],
    on_event: Callable[[Event], None],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    on_text: Callable[[str], None] | None = None,
    grace_seconds: float = GRACE_SECONDS,
) -> Event:
    """Run `argv` to its end and return its result event, without the key "event".

    `on_event` gets every progress event and `on_text` every other line (None: to our standard error), both in this
    thread. `env` is added to our environment. Raises ChildFailed. On any other exception, from a callback or from a
    signal (KeyboardInterrupt, Dagster's interrupt), the child is asked to end, what it says on its way out goes to
    `on_text`, everything left after `grace_seconds` is killed, and the exception goes on.
    """
    mark, oom_kills = secrets.token_hex(16), OomKills()
    child = subprocess.Popen(
        list(argv),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=cwd,
        env={**os.environ, **(env or {}), MARK: mark},
        start_new_session=True,
        preexec_fn=functools.partial(die_with_parent, os.getpid()),
    )
    family = _Family(child.pid, mark)
    listener = _Listener(on_event, on_text or _to_standard_error)
    try:
        _listen(child, family, listener)
    except BaseException:
        with _signals_ignored():
            _end(child, family, listener, grace_seconds)
        raise
    finally:
        for pipe in (child.stdout, child.stderr):
            if pipe is not None:
                pipe.close()
    return _outcome(argv, child.returncode, listener, oom_kills)


def die_with_parent(parent: int) -> None:
    """Ask the kernel to SIGKILL this process when its parent, process `parent`, is gone.

    For the first lines of a process; `parent` is passed in because it may be gone already. The kernel means the thread
    that started the process: it has to stay until the process ends.
    """
    if _prctl is None:
        return
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


_PR_SET_PDEATHSIG = 1
_prctl = getattr(ctypes.CDLL(None), "prctl", None)  # looked up here: nothing may be loaded between fork and exec


class _Listener:
    """Sorts the child's lines: progress to the caller, the last word kept, other text passed on and its tail kept."""

    def __init__(self, on_event: Callable[[Event], None], on_text: Callable[[str], None]) -> None:
        self.on_event, self.on_text = on_event, on_text
        self.last_word: Event | None = None
        self.tail: collections.deque[str] = collections.deque(maxlen=TAIL_LINES)

    def pipes(self, child: subprocess.Popen[bytes]) -> list["_Lines"]:
        """The child's two pipes; reading them never blocks."""
        heard = ((child.stdout, self.on_stdout), (child.stderr, self.on_stderr))
        pipes = [_Lines(pipe, handle) for pipe, handle in heard if pipe is not None]
        for lines in pipes:
            os.set_blocking(lines.pipe.fileno(), False)
        return pipes

    def on_stdout(self, line: str) -> None:
        event = _parse(line)
        if event is None:
            self.on_stderr(line)
        elif event["event"] == "progress":
            self.on_event(event)
        else:
            self.last_word = event

    def on_stderr(self, line: str) -> None:
        self.tail.append(line)
        self.on_text(line)


def _parse(line: str) -> Event | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "event" in event else None


def _to_standard_error(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _listen(child: subprocess.Popen[bytes], family: "_Family", listener: _Listener) -> None:
    """Until the child has ended and both pipes are empty. What outlives the child is killed: it may hold the pipes."""
    with selectors.DefaultSelector() as selector:
        for lines in listener.pipes(child):
            selector.register(lines.pipe, selectors.EVENT_READ, lines)
        while selector.get_map():
            if child.poll() is not None:
                family.kill()
            for key, _ in selector.select(timeout=0.2):
                if not key.data.read():
                    selector.unregister(key.fileobj)
    child.wait()
    family.kill()


class _Lines:
    """A pipe, read as it fills, in whole lines."""

    def __init__(self, pipe: IO[bytes], handle: Callable[[str], None]) -> None:
        self.pipe, self.handle, self.rest = pipe, handle, b""

    def read(self) -> bool:
        """Handle what has arrived; False at the end of the pipe."""
        data = os.read(self.pipe.fileno(), 1 << 16)
        *lines, self.rest = (self.rest + data).split(b"\n")
        if not data and self.rest:
            lines, self.rest = [self.rest], b""
        for line in lines:
            self.handle(line.decode("utf-8", "replace"))
        return bool(data)

    def read_if_any(self) -> bool:
        """The same; False, too, while nothing has arrived."""
        try:
            return self.read()
        except BlockingIOError:
            return False


def _end(child: subprocess.Popen[bytes], family: "_Family", listener: _Listener, grace_seconds: float) -> None:
    """SIGTERM to the child alone, which knows how to end its own; after the grace, SIGKILL to all that is left."""
    listener.on_event = lambda event: None  # it may be what raised
    pipes = listener.pipes(child)
    family.look()  # now, while parents still tell what belongs to it
    if child.poll() is None:
        child.terminate()
    deadline = time.monotonic() + grace_seconds
    while time.monotonic() < deadline:
        ended = child.poll() is not None  # before its pipes are read a last time
        said = [lines.read_if_any() for lines in pipes]  # a child that prints would block on a full pipe
        family.look()
        if ended and not any(said):
            break
        if not any(said):
            time.sleep(0.05)
    family.kill()
    child.wait()
    if listener.last_word is not None and listener.last_word["event"] == "error":
        listener.on_text(listener.last_word["message"])


@contextlib.contextmanager
def _signals_ignored() -> Iterator[None]:
    """A second Ctrl-C must not interrupt the clean-up. Only the main thread may say so, and only it gets signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


class _Process(NamedTuple):
    pid: int
    parent: int
    session: int
    started: int  # clock ticks after boot: with the pid, an identity that is not used again
    alive: bool


class _Family:
    """The child and everything that came of it, as far as it has been seen."""

    def __init__(self, leader: int, mark: str) -> None:
        self.leader = leader
        self.marking = f"{MARK}={mark}".encode()
        self.seen: set[tuple[int, int]] = set()

    def look(self) -> list[int]:
        """The living members' process ids, the leader's too until it has been waited for."""
        processes = {process.pid: process for process in _processes()}
        members = {pid for pid, process in processes.items() if self._is_member(process)}
        grown = True
        while grown:
            children = {pid for pid, process in processes.items() if process.parent in members} - members
            members |= children
            grown = bool(children)
        self.seen |= {(pid, processes[pid].started) for pid in members}
        return [pid for pid in members if processes[pid].alive]

    def _is_member(self, process: _Process) -> bool:
        if process.session == self.leader or (process.pid, process.started) in self.seen:
            return True
        try:
            return self.marking in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
        except OSError:  # another user's, or gone
            return False

    def kill(self) -> None:
        """SIGKILL every member until none is left; a process may start another while we look."""
        if not Path("/proc/self/stat").exists():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.leader, signal.SIGKILL)
        deadline = time.monotonic() + 2
        while (members := self.look()) and time.monotonic() < deadline:
            for pid in members:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)


def _processes() -> Iterator[_Process]:
    """Every process of this machine that /proc shows; none where there is no /proc."""
    with contextlib.suppress(FileNotFoundError):
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                # The second field, the command's name in parentheses, may hold anything.
                fields = Path(f"/proc/{name}/stat").read_bytes().rpartition(b") ")[2].split()
                yield _Process(int(name), int(fields[1]), int(fields[3]), int(fields[19]), fields[0] not in b"ZX")


def _outcome(argv: Sequence[str], code: int, listener: _Listener, oom_kills: OomKills) -> Event:
    word, tail = listener.last_word, "\n".join(listener.tail)
    command = shlex.join([Path(argv[0]).name, *argv[1:]])
    if code == 0 and word is not None and word["event"] == "result":
        return {key: value for key, value in word.items() if key != "event"}
    if word is not None and word["event"] == "error":
        raise ChildFailed(word["message"], tail)
    if code < 0:
        name = signal.Signals(-code).name
        meaning = _SIGNAL_MEANINGS.get(signal.Signals(-code), "see its last lines")
        if -code == signal.SIGKILL and oom_kills.happened():
            meaning = "the kernel ended it, as the memory was full; use smaller batches or fewer processes"
        raise ChildFailed(f"`{command}` was killed by {name}: {meaning}", tail)
    if code == 0:
        raise ChildFailed(f"`{command}` ended without a result", tail)
    last = next((line.strip() for line in reversed(listener.tail) if line.strip()), "it said nothing")
    raise ChildFailed(f"`{command}` failed with exit status {code}: {last}", tail)
