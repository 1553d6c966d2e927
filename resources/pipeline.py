"""The pipeline's command line as a Dagster resource: one command in a child process, its progress in the run's log."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg
from dagster._core.errors import DagsterInvalidPropertyError
from pydantic import Field

from snac_pipeline.engine import ChildFailed, Event, run_child
from snac_pipeline.settings import DEVICES_VARIABLE, Settings, load_settings

LINE_SECONDS = (5.0, 60.0)
"""Least and most seconds between lines of progress, a sixtieth of the time that has passed in between them: a line is a
row in Dagster's database and costs 3.6 ms. An hour's training has 290 of them, a day's 1,700."""
DEVICES_TAG = "devices"
"""Run tag with the devices of this run, as "cuda:0, cuda:1", in place of the settings' `devices`."""
Context = dg.AssetExecutionContext | dg.AssetCheckExecutionContext | dg.OpExecutionContext

CHILD_ENVIRONMENT = {
    # Threads that wait for each other sleep instead of spinning: on cores that other processes use too, spinning made a
    # training step ten times slower.
    "OMP_WAIT_POLICY": "PASSIVE",
    # Freed memory is kept for the next batch instead of being asked for again with every large tensor: a training step
    # of a small codec on a CPU was 1.3 times as fast, a fused Snake twice.
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
}
"""Of every step, unless the caller's environment says otherwise."""


class PipelineResource(dg.ConfigurableResource[Any]):
    """Runs `snac-pipeline` commands with one settings file."""

    settings_file: str = Field(description="pipeline.yaml: what to work on, where to keep it, with which devices.")

    def settings(self) -> Settings:
        return load_settings(self.settings_file)

    def run(self, context: Context, *command: str) -> dict[str, Any]:
        """The result of `snac-pipeline *command`, on the devices of the run's tag `devices` where it has one.

        What goes wrong there fails the step with its own sentence. Ctrl-C makes the run one that was canceled.
        """
        argv = [sys.executable, "-m", "snac_pipeline.cli", *command, "--settings", self.settings_file, "--json"]
        devices = _tags(context).get(DEVICES_TAG)
        environment = {**CHILD_ENVIRONMENT, **os.environ, **({DEVICES_VARIABLE: devices} if devices else {})}
        try:
            with _canceled_by_ctrl_c(context):
                return run_child(argv, ProgressLog(context.log), env=environment)
        except ChildFailed as error:
            metadata = {"last lines": dg.MetadataValue.md(f"```\n{error.tail}\n```")} if error.tail else {}
            raise dg.Failure(str(error), metadata=metadata) from None


def _tags(context: Context) -> Mapping[str, str]:
    """Of the run; none where an asset is called directly, which is no run."""
    with contextlib.suppress(DagsterInvalidPropertyError):
        return context.run.tags
    return {}


@contextlib.contextmanager
def _canceled_by_ctrl_c(context: Context) -> Iterator[None]:
    """Have Dagster take SIGINT for what it is. It calls a run that nobody terminated through it a failure; that is
    right for SIGTERM, by which machines are shut down, and whose runs are retried."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, pressed = signal.getsignal(signal.SIGINT), threading.Event()

    def note(number: int, frame: Any) -> None:
        pressed.set()
        if callable(before):
            before(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    except BaseException:
        run = context.instance.get_run_by_id(context.run.run_id) if pressed.is_set() else None
        if run is not None and run.status == dg.DagsterRunStatus.STARTED:
            context.instance.report_run_canceling(run, "Ctrl-C was pressed.")
        raise
    finally:
        signal.signal(signal.SIGINT, before)


class ProgressLog:
    """Events as log lines: all that say something new, those that tell how far the step is once in a while."""

    def __init__(self, log: dg.DagsterLogManager) -> None:
        self.log = log
        self.began = time.monotonic()
        self.next_line = float("inf")

    def __call__(self, event: Event) -> None:
        if event.get("fraction", 1) < 1:
            now, (least, most) = time.monotonic(), LINE_SECONDS
            pause = min(most, max(least, (now - self.began) / 60))
            self.next_line = min(self.next_line, now + pause)  # the first knows no rate yet
            if now < self.next_line:
                return
            self.next_line = now + pause
        self.log.info(event["message"])
