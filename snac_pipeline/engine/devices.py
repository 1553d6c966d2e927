"""Which devices to use."""

import os
from collections.abc import Sequence

from snac_pipeline.errors import PipelineError


def find_devices(wanted: Sequence[str] = ()) -> list[str]:
    """The devices in `wanted`, checked; or, when empty, every GPU, or the CPU where there is none.

    Raises PipelineError for a name that torch does not know or a GPU that is not there.
    """
    import torch

    available = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if not wanted:
        return available or ["cpu"]
    for name in wanted:
        if name != "cpu" and name not in available:
            raise PipelineError(
                f"device {name!r} is not here; `devices` may name cpu, {', '.join(available) or 'only'}"
            )
    return list(wanted)


def worker_devices(devices: Sequence[str], processes: int) -> list[str]:
    """One entry per worker process: each device once, or `processes` of them in turn.

    On a CPU the default is one process for every two cores, which share its threads.
    """
    count = processes or (max(1, (os.cpu_count() or 1) // 2) if list(devices) == ["cpu"] else len(devices))
    return [devices[i % len(devices)] for i in range(count)]


def readers_for(devices: Sequence[str], cores: int) -> int:
    """Processes that read ahead for each worker: a GPU's share of the cores; none for a CPU.

    One core reads about 2,000 s of flac a second: a GPU wants several times that; a CPU, which encodes 10, loses 1 %.
    """
    gpus = [device for device in devices if device != "cpu"]
    return max(1, cores // len(gpus)) if gpus else 0
