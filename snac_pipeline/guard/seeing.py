"""Processes on GPUs: NVML knows their numbers and memory, the system who they are.

In: NVML (the package nvidia-ml-py; extra `gpu`). Out: `Sighting`s.
"""

import contextlib
import pwd
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from snac_pipeline.errors import PipelineError


@dataclass(frozen=True)
class Sighting:
    """A process that computes on a GPU."""

    gpu: int
    gpu_name: str
    pid: int
    started: float
    """Seconds since 1970. With it the process id names the process for good; a number alone is given again."""
    uid: int
    user: str
    """Login name, or the user id where it has none here."""
    command: str
    memory_bytes: int | None
    """On the GPU; None where NVML does not tell."""

    def __str__(self) -> str:
        memory = "" if self.memory_bytes is None else f", {self.memory_bytes / 2**30:.1f} GiB"
        return f"GPU {self.gpu}: process {self.pid} of {self.user}{memory}: {self.command}"


@contextlib.contextmanager
def open_nvml() -> Iterator[Any]:
    """The module pynvml, initialised. Raises PipelineError where it is not installed or there is no NVIDIA driver."""
    try:
        import pynvml
    except ModuleNotFoundError:
        raise PipelineError("gpu-guard needs nvidia-ml-py: install the extra `snac-pipeline[gpu]`") from None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise PipelineError(f"no GPU can be asked: {error}; gpu-guard needs an NVIDIA driver") from None
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def look(nvml: Any, gpus: Sequence[int] = ()) -> list[Sighting]:
    """The processes on `gpus` (none given: on all), by GPU and process id.

    A process that ends meanwhile is left out. Raises PipelineError for a GPU that is not there.
    """
    import psutil  # of the extra `gpu`, as NVML

    count = nvml.nvmlDeviceGetCount()
    for gpu in gpus:
        if not 0 <= gpu < count:
            raise PipelineError(f"there is no GPU {gpu}; this machine has {count}, counted from 0")
    sightings = []
    for gpu in gpus or range(count):
        handle = nvml.nvmlDeviceGetHandleByIndex(gpu)
        name = nvml.nvmlDeviceGetName(handle)
        for entry in nvml.nvmlDeviceGetComputeRunningProcesses(handle):
            with contextlib.suppress(psutil.NoSuchProcess):
                sightings.append(_sighting(gpu, name, entry.pid, entry.usedGpuMemory))
    return sorted(sightings, key=lambda one: (one.gpu, one.pid))


def _sighting(gpu: int, gpu_name: str, pid: int, memory_bytes: int | None) -> Sighting:
    import psutil

    process = psutil.Process(pid)
    with process.oneshot():
        uid = process.uids().real
        command = " ".join(process.cmdline()) or process.name()
        return Sighting(gpu, gpu_name, pid, process.create_time(), uid, _user(uid), command, memory_bytes)


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
