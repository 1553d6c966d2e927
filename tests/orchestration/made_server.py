"""The Dagster UI of a project, as `dagster dev` serves it: web server, code server and daemon, ended by process id."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from snac_pipeline.settings import SETTINGS_VARIABLE

START_SECONDS = 300.0
"""Ten on a quiet machine."""


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of the UI of the project in `folder`, whose Dagster home is .dagster; its log is ui.log there."""
    home = folder / ".dagster"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    environment = {**os.environ, "DAGSTER_HOME": str(home), SETTINGS_VARIABLE: str(folder / "pipeline.yaml")}
    command = [sys.executable, "-m", "dagster", "dev", "-m", "snac_pipeline.definitions", "-h", "127.0.0.1"]
    with (home / "ui.log").open("w") as log:
        server = subprocess.Popen(
            [*command, "-p", str(port)], env=environment, cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
        try:
            _wait_for(address, server, home / "ui.log")
            yield address
        finally:
            _end(server)


def _wait_for(address: str, server: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/server_info", timeout=5):
            return
        time.sleep(0.3)
    raise AssertionError(f"no UI at {address}:\n{log.read_text()}")


def _end(server: subprocess.Popen) -> None:
    """`dagster dev` ends what it started when asked; what is left of its session after that is killed."""
    server.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.wait(timeout=30)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()
