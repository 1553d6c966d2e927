"""Before a step takes GPUs: who is on them already, one of ours or somebody else, and what to do about it.

Ours tell each other by a lock for each GPU in a folder of this user's, whatever their homes are; of others NVML tells.
"""

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from snac_pipeline.engine.child import MARK
from snac_pipeline.engine.devices import find_devices
from snac_pipeline.engine.locks import ASK_SECONDS, TELL_SECONDS, try_lock
from snac_pipeline.errors import PipelineError
from snac_pipeline.guard.seeing import look, open_nvml
from snac_pipeline.settings import Settings, WhenTaken

Tell = Callable[[str], None]


@contextlib.contextmanager
def on_devices(settings: Settings, doing: str, tell: Tell, *, rest_is_enough: bool) -> Iterator[Settings]:
    """The settings with the devices to use, which are this process's while it lasts.

    rest_is_enough: leave out GPUs that are taken where others are free. Raises PipelineError for a GPU that is taken
    where `when_taken` is `refuse`. On a CPU nothing is held. Of the processes that torchrun started here the first
    holds the GPUs of all; all of them have all of this machine's named still.
    """
    gpus = gpus_to_take(find_devices(settings.devices), os.environ)
    if not gpus:
        yield settings
        return
    with contextlib.ExitStack() as entered:
        nvml = None
        try:
            nvml = entered.enter_context(open_nvml())
        except PipelineError as error:
            tell(f"nobody can tell who else is on the GPUs: {error}")
        ours = hold(_identities(gpus), nvml, doing, settings.when_taken, tell, entered, rest_is_enough)
        # A GPU that is named twice is held once, for two workers of ours.
        left = [name for name in gpus if name in ours]
        yield settings if "LOCAL_RANK" in os.environ else settings.model_copy(update={"devices": left})


def gpus_to_take(devices: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """Those of `devices` that a process with this environment has to hold itself.

    The first of several that torchrun started: those of all, since two such runs that each wait for a GPU of the other
    would wait for ever. None where a command of ours started torchrun, which has them.
    """
    gpus = [name for name in devices if name != "cpu"]
    if "LOCAL_RANK" not in environment:
        return gpus
    first = environment["LOCAL_RANK"] == "0" and MARK not in environment
    return gpus[: int(environment["LOCAL_WORLD_SIZE"])] if first else []


def hold(
    identities: Mapping[str, str],
    nvml: Any | None,
    doing: str,
    rule: WhenTaken,
    tell: Tell,
    held: contextlib.ExitStack,
    rest_is_enough: bool = False,
) -> list[str]:
    """Hold the GPUs, given by their names and unique ids, until `held` closes; those to use.

    nvml: an initialised pynvml, or None where nobody can tell who else is there.
    """
    told = -TELL_SECONDS
    while True:
        attempt = contextlib.ExitStack()
        taken = {name: who for name, uuid in identities.items() if (who := _on(uuid, nvml, doing, attempt))}
        free = [name for name in identities if name not in taken]
        words = "; ".join(f"{name} is taken by {who}" for name, who in taken.items())
        if rest_is_enough and taken and free:
            tell(f"{words}; {', '.join(free)} do the work")
            held.push(attempt)
            return free
        if not taken or rule == "warn":
            if taken:
                tell(f"{words}; both go on, at less speed and with less memory (`when_taken` in the settings)")
            held.push(attempt)
            return list(identities)
        attempt.close()
        if rule == "refuse":
            raise PipelineError(
                f"{words}; wait for it, choose other `devices`, or set `when_taken` to wait or warn in the settings"
            )
        if time.monotonic() - told >= TELL_SECONDS:
            told = time.monotonic()
            tell(f"waiting: {words}")
        time.sleep(ASK_SECONDS)


def _on(uuid: str, nvml: Any | None, doing: str, held: contextlib.ExitStack) -> str | None:
    """Who has a GPU; None where it is ours now."""
    ours = try_lock(locks_folder() / f"{uuid}.lock", doing, held)
    if ours is not None:
        return ours
    if nvml is None:
        return None
    for index in range(nvml.nvmlDeviceGetCount()):
        if _text(nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetHandleByIndex(index))) == uuid:
            others = [one for one in look(nvml, [index]) if one.uid != os.getuid()]
            return f"process {others[0].pid} of {others[0].user} ({others[0].command})" if others else None
    return None


def locks_folder() -> Path:
    """A folder of this user's on this machine. Raises PipelineError where somebody else made it."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(runtime) / "snac-pipeline" if runtime else Path(tempfile.gettempdir(), f"snac-pipeline-{os.getuid()}")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if status.st_uid != os.getuid() or folder.is_symlink():
        raise PipelineError(
            f"{folder} belongs to somebody else; remove it, or set XDG_RUNTIME_DIR to a folder of yours"
        )
    return folder


def _identities(gpus: list[str]) -> dict[str, str]:
    """The unique id of each, which is the same in every process whatever CUDA_VISIBLE_DEVICES counts."""
    import torch

    found = {name: str(torch.cuda.get_device_properties(name).uuid) for name in gpus}
    return {name: uuid if uuid.startswith("GPU-") else f"GPU-{uuid}" for name, uuid in found.items()}


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
