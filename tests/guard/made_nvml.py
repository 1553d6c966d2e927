"""Stands for NVML: GPUs with the processes that a test puts on them."""

from types import SimpleNamespace


class MadeNvml:
    def __init__(self, *gpus: list[tuple[int, int | None]]):
        """gpus: for each, the (process id, bytes) on it."""
        self.gpus = list(gpus)

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return f"GPU-made-{handle}"

    def nvmlDeviceGetName(self, handle: int) -> str:
        return f"Made GPU {handle}"

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=pid, usedGpuMemory=memory) for pid, memory in self.gpus[handle]]
