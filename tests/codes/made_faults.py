"""Processes in which the n-th rename, fsync or write goes wrong: faults.c, and a process to fork them from.

As a program, `python made_faults.py MODULE`, it imports that module once and forks a process for each job of a line on
its standard input: importing torch takes seconds, a fork none.
"""

import ctypes
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import traceback
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
JOB_SECONDS = 1500
"""Longer than any job takes; a process that is left over hangs no test for ever."""


class Call(NamedTuple):
    """A rename, fsync or write, or what went wrong at it (`kill`, `EIO`, ...; then without a path)."""

    process: int
    number: int
    name: str
    path: str


@dataclass
class Job:
    """A call of the server's module in a process of its own. `faults`: see faults.c; in `home` they happen.

    driver: whether the process itself is counted from its start, and not only those that it starts.
    """

    function: str
    arguments: list[Any]
    log: Path
    home: Path
    faults: str = "none:0"
    driver: bool = True


class Ended(NamedTuple):
    """How a job's process ended, what its function returned (None where it did not), and what was counted."""

    status: int
    result: Any
    calls: list[Call]


def compiler() -> str | None:
    return shutil.which("cc") if sys.platform == "linux" else None


def build(folder: Path) -> Path:
    """faults.c as a library."""
    library = folder / "faults.so"
    subprocess.run([compiler(), "-shared", "-fPIC", "-O1", "-o", library, HERE / "faults.c", "-ldl"], check=True)
    return library


class Server:
    """Runs jobs in forks of one process, which has imported `module` of this folder."""

    def __init__(self, library: Path, module: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, module],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def run(self, *jobs: Job) -> list[Ended]:
        """All of them at once; waits for all."""
        for job in jobs:
            for file in (job.log, begun_of(job), result_of(job)):
                file.unlink(missing_ok=True)
        line = [{**vars(job), "log": str(job.log), "home": str(job.home)} for job in jobs]
        print(json.dumps(line), file=self.process.stdin, flush=True)
        statuses = json.loads(self.process.stdout.readline())
        return [Ended(status, _returned(job), told(job.log)) for status, job in zip(statuses, jobs, strict=True)]

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@contextmanager
def serving(folder: Path, module: str):
    server = Server(build(folder), module)
    try:
        yield server
    finally:
        server.close()


def begun_of(job: Job) -> Path:
    return Path(f"{job.log}.begun")


def result_of(job: Job) -> Path:
    return Path(f"{job.log}.result")


def _returned(job: Job) -> Any:
    return json.loads(result_of(job).read_text()) if result_of(job).exists() else None


def told(log: Path) -> list[Call]:
    """What a log says."""
    calls = []
    for line in log.read_text().splitlines() if log.exists() else []:
        process, number, name, *path = line.split(" ", 3)
        calls.append(Call(int(process), int(number), name, "".join(path)))
    return calls


# In the server ------------------------------------------------------------------------------------------------------


def arm(faults: str, home: str, log: str) -> None:
    """From here on calls of this process below `home` are counted, from one."""
    os.environ |= {"FAULTS": faults, "FAULTS_HOME": home, "FAULTS_LOG": log}
    ctypes.CDLL(None).faults_arm()


def main(module: str) -> None:
    jobs = importlib.import_module(module)
    for line in sys.stdin:
        processes = [_fork(Job(**job), jobs) for job in json.loads(line)]
        statuses = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
        print(json.dumps(statuses), flush=True)


def _fork(job: Job, jobs: Any) -> int:
    process = os.fork()
    if process:
        return process
    try:
        signal.alarm(JOB_SECONDS)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)
        if job.driver:
            arm(job.faults, str(job.home), str(job.log))
        else:
            os.environ |= {"FAULTS": job.faults, "FAULTS_HOME": str(job.home), "FAULTS_LOG": str(job.log)}
        result = getattr(jobs, job.function)(*job.arguments)
        result_of(job).write_text(json.dumps(result))
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1])
