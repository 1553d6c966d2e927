"""The pipeline's command line as a Dagster resource: one command in a child process, its progress in the run's log."""

import os
import sys
import time
from typing import Any

import dagster as dg
from pydantic import Field

from snac_pipeline.engine import ChildFailed, Event, run_child
from snac_pipeline.settings import Settings, load_settings

SECONDS_PER_LINE = 5.0  # a log line is a row in Dagster's database and costs 3.6 ms
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


class PipelineResource(dg.ConfigurableResource):
    """Runs `snac-pipeline` commands with one settings file."""

    settings_file: str = Field(description="pipeline.yaml: what to work on, where to keep it, with which devices.")

    def settings(self) -> Settings:
        return load_settings(self.settings_file)

    def run(self, context: Context, *command: str) -> dict[str, Any]:
        """The result of `snac-pipeline *command`. What goes wrong there fails the step with its own sentence."""
        argv = [sys.executable, "-m", "snac_pipeline.cli", *command, "--settings", self.settings_file, "--json"]
        try:
            return run_child(argv, _ProgressLog(context.log), env={**CHILD_ENVIRONMENT, **os.environ})
        except ChildFailed as error:
            metadata = {"last lines": dg.MetadataValue.md(f"```\n{error.tail}\n```")} if error.tail else {}
            raise dg.Failure(str(error), metadata=metadata) from None


class _ProgressLog:
    """Progress events as log lines, at most one in SECONDS_PER_LINE."""

    def __init__(self, log: dg.DagsterLogManager) -> None:
        self.log = log
        self.next_line = 0.0

    def __call__(self, event: Event) -> None:
        now = time.monotonic()
        if now < self.next_line:
            return
        self.next_line = now + SECONDS_PER_LINE
        self.log.info(event["message"])
