"""Locks between real processes: the second waits, or is told who has it; the lock of a killed process is free."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from snac_pipeline.engine.locks import alone, try_lock

HOLDER = """
import contextlib, sys, time
from pathlib import Path
from snac_pipeline.engine.locks import try_lock
with contextlib.ExitStack() as held:
    assert try_lock(Path(sys.argv[1]), "making a test wait", held) is None
    print("held", flush=True)
    sys.stdin.readline()
"""


@contextlib.contextmanager
def holding(file: Path):
    """Another process that has the lock, until told to go on."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    try:
        yield holder
    finally:
        holder.kill()
        holder.communicate()


def test_the_second_is_told_who_has_it_and_a_killed_holder_has_it_no_more(tmp_path):
    file = tmp_path / "locks" / "a.lock"
    with holding(file) as holder, contextlib.ExitStack() as held:
        words = try_lock(file, "waiting", held)
        assert f"process {holder.pid} on {os.uname().nodename}, since 2" in words and "(making a test wait)" in words
        holder.kill()
        holder.wait()
        assert try_lock(file, "waiting", held) is None


def test_who_waits_goes_on_when_the_holder_has_ended_and_is_told_meanwhile(tmp_path):
    file, told = tmp_path / "a.lock", []
    with holding(file) as holder:
        release = threading.Timer(0.6, lambda: (holder.stdin.write("\n"), holder.stdin.flush()))
        release.start()
        began = time.monotonic()
        with alone(file, "waiting", "then it is free", told.append):
            assert time.monotonic() - began > 0.4
            with contextlib.ExitStack() as held:
                assert f"process {os.getpid()} " in try_lock(file, "again", held)
    [words] = told
    assert words.startswith(f"waiting for process {holder.pid} ")


def test_whoever_is_interrupted_while_it_waits_leaves_nothing(tmp_path):
    file = tmp_path / "a.lock"

    def interrupt(words: str) -> None:
        raise KeyboardInterrupt

    with holding(file), contextlib.suppress(KeyboardInterrupt), alone(file, "waiting", "then it is free", interrupt):
        raise AssertionError("it was held by another")
    with alone(file, "free again", "", interrupt):
        pass
