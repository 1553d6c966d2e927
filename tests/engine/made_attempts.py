"""Work for workers that do without torch: parts are lists of names, results are files, and names say what happens."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from snac_pipeline.errors import PipelineError
from snac_pipeline.files import atomic_file


def write_it(folder: Path, part: list[str], device: str) -> Iterator[str]:
    """Commit one file for each item, all at the end.

    A name that begins so costs the worker: "dies" kills it, "exits" ends it, "hangs" stops it, "raises" is a bug,
    "mends" is a PipelineError; with "-once" only the first time; "slow" takes a minute, inside of the write.
    """
    for item in part:
        (folder / f"{os.getpid()}.pid").touch()
        with (folder / "attempts.log").open("a") as log:
            log.write(f"{item} {device} {os.getpid()}\n")
        kind, _, how = item.partition("-")
        if kind in _FATES and not (how == "once" and tried_before(folder, item)):
            _FATES[kind](item)
        time.sleep(0.01)
        yield item
    for item in part:
        with atomic_file(folder / item) as temporary:
            temporary.write_text(item)
            if item.startswith("slow"):
                time.sleep(60)
    return part, device, os.getpid()


def tried_before(folder: Path, item: str) -> bool:
    return attempts(folder, item) > 1


def attempts(folder: Path, item: str) -> int:
    return sum(line.split()[0] == item for line in (folder / "attempts.log").read_text().splitlines())


def raise_bug(item: str) -> None:
    raise RuntimeError(f"{item} cannot be done")


def raise_mendable(item: str) -> None:
    raise PipelineError(f"{item}: the disk is full; make room")


_FATES = {
    "dies": lambda item: os.kill(os.getpid(), signal.SIGKILL),
    "exits": lambda item: os._exit(3),
    "hangs": lambda item: os.kill(os.getpid(), signal.SIGSTOP),
    "raises": raise_bug,
    "mends": raise_mendable,
}


def never_ready(device: str) -> None:
    raise RuntimeError(f"{device} is broken")


def broken_device(device: str) -> None:
    if device == "broken":
        raise RuntimeError("this device is broken")


def committed(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir() if file.suffix not in (".pid", ".log")}


def pids(folder: Path) -> list[int]:
    return [int(file.stem) for file in folder.glob("*.pid")]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False
