"""Want of memory is told as such, by the kernel's own count of its kills, in a real control group with a limit."""

import os
import sys
from pathlib import Path

import pytest

from snac_pipeline.engine import ChildFailed, run_child
from snac_pipeline.engine.memory import OomKills
from snac_pipeline.errors import trouble

HUNGRY = """
import pathlib, sys
pathlib.Path(sys.argv[1], "cgroup.procs").write_text("0")
eaten = [bytearray(1 << 20) for _ in range(512)]
"""


@pytest.fixture
def small_group():
    """A control group below this process's own, with 64 MiB; skipped where none can be made."""
    groups = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    own = {controllers: path for _, controllers, path in groups}
    version = "memory" if "memory" in own else ""
    parent = Path("/sys/fs/cgroup", version, own.get(version, "").lstrip("/"))
    folder = parent / f"snac-pipeline-test-{os.getpid()}"
    try:
        folder.mkdir()
        limit = folder / ("memory.limit_in_bytes" if version else "memory.max")
        limit.write_text(str(64 << 20))
    except OSError as error:
        if folder.is_dir():
            folder.rmdir()
        pytest.skip(f"no control group can be made here: {error}")
    yield folder
    folder.rmdir()


def test_a_child_that_the_kernel_killed_for_want_of_memory_is_told_so(small_group):
    with pytest.raises(ChildFailed, match="SIGKILL: the kernel ended it, as the memory was full"):
        run_child([sys.executable, "-c", HUNGRY, str(small_group)], [].append, on_text=[].append)


def test_a_child_that_somebody_killed_is_not_called_out_of_memory_for_certain():
    kills = OomKills()
    with pytest.raises(ChildFailed, match="SIGKILL: often the machine ran out of memory"):
        run_child([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], [].append, on_text=[].append)
    assert not kills.happened()


def test_errors_of_memory_have_a_sentence_whatever_class_they_are_of():
    import numpy as np
    import torch

    raised = [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nGPU 0 has a total of"),
        MemoryError(),
    ]
    for allocate in (np.zeros, torch.zeros):
        with pytest.raises((MemoryError, RuntimeError)) as caught:
            allocate(10**15)
        raised.append(caught.value)
    words = [trouble(error) for error in raised]
    assert words[0].startswith("the GPU ran out of memory (CUDA out of memory. Tried to allocate 20.00 GiB.)")
    assert all(sentence.startswith("the machine ran out of memory (") for sentence in words[1:])
    assert all("\n" not in sentence for sentence in words)


def test_other_errors_are_no_trouble_of_the_machine():
    assert trouble(RuntimeError("shapes do not fit")) is None
    assert trouble(FileNotFoundError(2, "No such file or directory", "x")) is None
