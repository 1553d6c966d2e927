"""Looking again and again at who is on the GPUs, and doing what the rules say, once for each process.

Doing nothing is the default: a dry run tells what would be done.
"""

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from snac_pipeline.guard.ending import end_process
from snac_pipeline.guard.seeing import Sighting, look

Action = Literal["warn", "notify", "end"]
Verdict = Literal["allowed", "protected", "stranger"]
WEBHOOK_VARIABLE = "SNAC_PIPELINE_WEBHOOK"
"""Environment variable with the address that `notify` posts to; it is never shown."""
ROOT, FIRST_PROCESS = 0, 1


@dataclass(frozen=True)
class Rules:
    """What is watched, who may be there, and what becomes of the others."""

    gpus: Sequence[int] = ()
    """None given: all."""
    allowed: frozenset[str] = field(default_factory=frozenset)
    """Login names."""
    action: Action = "warn"
    dry_run: bool = True
    """Only say what `action` would be."""
    grace_seconds: float = 30.0
    """Between SIGTERM and SIGKILL."""


def judge(sighting: Sighting, rules: Rules, own_uid: int | None = None) -> Verdict:
    """allowed: on the list, or the guard's own user. protected: root's, or process 1; told, never ended."""
    own_uid = os.getuid() if own_uid is None else own_uid
    if sighting.uid == ROOT or sighting.pid == FIRST_PROCESS:
        return "protected"
    return "allowed" if sighting.user in rules.allowed or sighting.uid == own_uid else "stranger"


def watch(
    nvml: Any, rules: Rules, every_seconds: float, sleep: Callable[[float], object] = time.sleep
) -> Iterator[tuple[Sighting, str]]:
    """Look every so often, for ever; each stranger once, and what was done."""
    known: set[tuple[int, float]] = set()
    while True:
        seen = look(nvml, rules.gpus)
        for sighting in seen:
            name = (sighting.pid, sighting.started)
            if judge(sighting, rules) == "stranger" and name not in known:
                known.add(name)
                yield sighting, _act(sighting, rules)
        known &= {(sighting.pid, sighting.started) for sighting in seen}  # of those that have gone, nothing is kept
        sleep(every_seconds)


def _act(sighting: Sighting, rules: Rules) -> str:
    if rules.dry_run:
        return {"warn": "would be warned of", "notify": "would be notified of", "end": "would be ended"}[rules.action]
    if rules.action == "end":
        return str(end_process(sighting, rules.grace_seconds))
    return _notify(sighting) if rules.action == "notify" else "warned of"


def _notify(sighting: Sighting) -> str:
    """Post to the webhook; a notification that fails is told and the watch goes on."""
    address = os.environ.get(WEBHOOK_VARIABLE)
    if not address:
        return f"not notified of: {WEBHOOK_VARIABLE} is not set"
    body = json.dumps({"text": str(sighting), **vars(sighting)}).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10):
            return "notified of"
    except (urllib.error.URLError, ValueError, OSError) as error:
        reason = getattr(error, "reason", None) or type(error).__name__  # the message may have the address
        return f"not notified of: {reason if not isinstance(reason, str) or address not in reason else 'refused'}"
