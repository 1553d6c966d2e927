"""Workers by the name that the settings give their engine: which devices they have, and the pool that they are."""

from collections.abc import Callable, Sequence
from typing import Literal

from snac_pipeline.engine.attempts import Pool, Work
from snac_pipeline.engine.devices import find_devices, worker_devices
from snac_pipeline.engine.local import InlinePool, LocalPool

Engine = Literal["local", "ray", "inline"]


def devices_of(engine: Engine, wanted: Sequence[str], processes: int, ray_address: str | None = None) -> list[str]:
    """One device for each worker. Raises PipelineError for devices that are not there, and without a cluster."""
    if engine == "ray":
        from snac_pipeline.engine.ray import cluster_devices

        return cluster_devices(wanted, processes, ray_address)
    return worker_devices(find_devices(wanted), processes)


def open_pool(
    engine: Engine,
    work: Work,
    devices: Sequence[str],
    hang_seconds: float,
    prepare: Callable[[str], object] | None = None,
) -> Pool:
    """The workers that do `work`. prepare(device): what each does before its first part."""
    if engine == "inline":
        return InlinePool(work, devices[0])
    if engine == "ray":
        from snac_pipeline.engine.ray import RayPool

        return RayPool(work, devices, hang_seconds, prepare)
    return LocalPool(work, devices, hang_seconds, prepare)
