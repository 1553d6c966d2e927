"""Whether the kernel killed processes for want of memory: a SIGKILL alone does not say who sent it, or why.

Linux counts such kills, of a control group (a container's or a service's limit) and of the machine.
"""

import contextlib
from pathlib import Path

_COUNTERS = ("memory.events", "memory.oom_control")
"""Of control groups of version 2 and 1; both have a line "oom_kill N", as /proc/vmstat has."""


class OomKills:
    """The kernel's kills for want of memory, from the moment this is made."""

    def __init__(self) -> None:
        self._files = [Path("/proc/vmstat"), *_counter_files()]
        self._before = self._counts()

    def happened(self) -> bool:
        """Whether there was one since the last time this was asked."""
        before, self._before = self._before, self._counts()
        return any(now > then for then, now in zip(before, self._before, strict=True))

    def _counts(self) -> list[int]:
        return [_oom_kills(file) for file in self._files]


def _counter_files() -> list[Path]:
    """Those of the control groups that this process is in; inside a container they are at the top."""
    root, groups = Path("/sys/fs/cgroup"), []
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in ("", "memory"):
                groups += [root / controllers, root / controllers / path.lstrip("/")]
    found = (group / name for group in dict.fromkeys(groups) for name in _COUNTERS)
    return [file for file in found if file.is_file()]


def _oom_kills(file: Path) -> int:
    """0 where the file does not say."""
    with contextlib.suppress(OSError):
        for line in file.read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0
