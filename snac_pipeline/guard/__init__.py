"""Who else is on the GPUs: processes as NVML sees them; those of others are told and, when asked for, ended."""

from snac_pipeline.guard.ending import Ended, end_process
from snac_pipeline.guard.seeing import Sighting, look, open_nvml
from snac_pipeline.guard.service import UNIT, follow_logs, install, service_command, unit_text
from snac_pipeline.guard.watching import Rules, judge, watch

__all__ = [
    "UNIT", "Ended", "Rules", "Sighting", "end_process", "follow_logs", "install", "judge", "look", "open_nvml",
    "service_command", "unit_text", "watch",
]  # fmt: skip
