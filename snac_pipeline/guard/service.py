"""The watch as a systemd service: of the machine for root, of the user for others."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from snac_pipeline.errors import PipelineError
from snac_pipeline.files import write_text
from snac_pipeline.guard.watching import Rules

UNIT = "snac-gpu-guard.service"


def unit_text(watch_arguments: Sequence[str]) -> str:
    """The unit; its command is this Python with `gpu-guard watch` and the arguments."""
    command = [sys.executable, "-m", "snac_pipeline.cli", "gpu-guard", "watch", *watch_arguments]
    words = " ".join(_quoted(word) for word in command)
    target = "multi-user.target" if _is_root() else "default.target"
    return f"""\
[Unit]
Description=Watch who else is on the GPUs (snac-pipeline gpu-guard)
After=nvidia-persistenced.service

[Service]
ExecStart={words}
Restart=on-failure
RestartSec=30
EnvironmentFile=-%h/.config/snac-pipeline/environment

[Install]
WantedBy={target}
"""


def watch_arguments(rules: Rules, every_seconds: float) -> list[str]:
    """The arguments of `gpu-guard watch` that say the same."""
    words = [word for gpu in rules.gpus for word in ("--gpu", str(gpu))]
    words += [word for user in sorted(rules.allowed) for word in ("--allow", user)]
    words += ["--action", rules.action, *([] if rules.dry_run else ["--apply"])]
    return [*words, "--grace", f"{rules.grace_seconds:g}", "--every", f"{every_seconds:g}"]


def install(watch_arguments: Sequence[str], folder: Path | None = None) -> Path:
    """Write the unit where systemd finds it, and tell systemd where there is one; the unit's path.

    folder: elsewhere. Raises PipelineError where it cannot be written.
    """
    place = (folder or _unit_folder()) / UNIT
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_text(place, unit_text(watch_arguments))
    except OSError as error:
        raise PipelineError(f"{place} cannot be written: {error.strerror}; name another folder (--unit-dir)") from None
    if folder is None and shutil.which("systemctl"):
        service_command("daemon-reload")
    return place


def service_command(verb: str) -> str:
    """systemctl start | stop | status | daemon-reload of the unit; what it prints.

    Raises PipelineError without systemd, and when systemctl fails (a service that is not running is no failure).
    """
    unit = [] if verb == "daemon-reload" else [UNIT]
    done = _run(["systemctl", *_user_option(), "--no-pager", verb, *unit])
    if done.returncode != 0 and verb != "status":
        raise PipelineError(f"systemctl {verb} {UNIT} failed: {(done.stderr or done.stdout).strip()}")
    return (done.stdout or done.stderr).strip()


def logs(lines: int) -> str:
    """The last lines that the service has written."""
    unit = ["--user-unit", UNIT] if _user_option() else ["--unit", UNIT]
    return _run(["journalctl", "--no-pager", "--lines", str(lines), *unit]).stdout.strip()


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        raise PipelineError(
            f"{command[0]} is not here: this machine has no systemd; run `snac-pipeline gpu-guard watch` by other means"
        ) from None


def _quoted(word: str) -> str:
    """As systemd reads a command line: $ and % are doubled, a word with spaces stands in quotes."""
    word = word.replace("\\", "\\\\").replace("%", "%%").replace("$", "$$").replace('"', '\\"')
    return f'"{word}"' if not word or any(letter.isspace() for letter in word) else word


def _unit_folder() -> Path:
    return Path("/etc/systemd/system") if _is_root() else Path.home() / ".config" / "systemd" / "user"


def _user_option() -> list[str]:
    return [] if _is_root() else ["--user"]


def _is_root() -> bool:
    return os.getuid() == 0
