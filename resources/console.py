"""What a run says on the terminal: a line when a step begins, as it goes on, and when it is done; errors as sentences.

Everything else that Dagster logs is in its database and in the UI. Chosen by `-c resources/console.yaml`: Dagster has
no other way to choose a logger for `dagster job execute`.
"""

import functools
import logging
import os
import sys
import time

import dagster as dg


@dg.logger(
    config_schema=None,
    description="Short lines: time, step, what happens. Failures that explain themselves come without a stack trace.",
)
def console_logger(init_context: dg.InitLoggerContext) -> logging.Logger:
    _tell_where_runs_go()
    handler = logging.StreamHandler()
    handler.setFormatter(_ShortLines())
    handler.addFilter(lambda record: bool(_words(record)))
    logger = logging.Logger("snac_pipeline", level=logging.DEBUG)
    logger.addHandler(handler)
    return logger


@functools.cache
def _tell_where_runs_go() -> None:
    if not os.environ.get("DAGSTER_HOME"):
        print("DAGSTER_HOME is not set: this run will not be in the UI (`make ui` uses .dagster/)", file=sys.stderr)


class _ShortLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        step = record.dagster_meta["step_key"] or record.dagster_meta["job_name"]  # type: ignore[attr-defined]
        return f"{time.strftime('%H:%M:%S', time.localtime(record.created))}  {step:<18} {_words(record)}"


def _words(record: logging.LogRecord) -> str:
    """What is worth a line; empty for the rest."""
    meta = record.dagster_meta  # type: ignore[attr-defined]
    event = meta["dagster_event"]
    if event is None:
        if meta["orig_message"].startswith("Dependencies for step"):
            return "not started, because of what failed before it"
        return meta["orig_message"] if record.levelno >= logging.INFO else ""
    match event.event_type:
        case dg.DagsterEventType.STEP_START:
            return "…"
        case dg.DagsterEventType.STEP_SUCCESS:
            return f"done in {event.step_success_data.duration_ms / 1000:.1f} s"
        case dg.DagsterEventType.STEP_FAILURE:
            if _interrupted(event):
                return "stopped"
            explained = event.step_failure_data.user_failure_data
            return f"failed: {explained.description if explained else meta['orig_message'] + _trace(event)}"
        case dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            return _check(event.asset_check_evaluation_data)
        case dg.DagsterEventType.RUN_SUCCESS:
            return "done"
        case dg.DagsterEventType.RUN_FAILURE:
            return "failed"
        case dg.DagsterEventType.RUN_CANCELED:
            # Here and not with the step, whose last lines are lost: Ctrl-C ends the `tail` that Dagster shows them by.
            return "stopped; what was done is kept: run it again to go on"
        case _:
            return ""


def _interrupted(event: dg.DagsterEvent) -> bool:
    error = event.step_failure_data.error
    return error is not None and error.cls_name == "DagsterExecutionInterruptedError"


def _trace(event: dg.DagsterEvent) -> str:
    error = event.step_failure_data.error
    return f"\n{error.to_string()}" if error else ""


def _check(evaluation: dg.AssetCheckEvaluation) -> str:
    if evaluation.passed:
        return f"check {evaluation.check_name} passed"
    return f"check {evaluation.check_name} did not pass: {evaluation.description or 'see its metadata'}"
