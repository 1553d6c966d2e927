"""Who else is on the GPUs: processes as NVML sees them; those of others are told and, when asked for, ended."""

from snac_pipeline.guard.ending import Ended, end_process
from snac_pipeline.guard.seeing import Sighting, look, open_nvml
from snac_pipeline.guard.service import UNIT, install, logs, service_command, unit_text, watch_arguments
from snac_pipeline.guard.sharing import on_devices
from snac_pipeline.guard.watching import Rules, judge, watch

__all__ = [
    "UNIT", "Ended", "Rules", "Sighting", "end_process", "install", "judge", "logs", "look", "on_devices", "open_nvml",
    "service_command", "unit_text", "watch", "watch_arguments",
]  # fmt: skip
