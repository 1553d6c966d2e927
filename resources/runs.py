"""`python -m resources.runs list | free [RUN ...]`: Dagster's runs that have not ended, and those that never will.

A run whose process is killed (SIGKILL, a power cut) outside of the server stays STARTED for ever and keeps its place
among the runs and in its pools. Its events have the id of its process: where that is gone, or is younger than the run's
own words, nobody works at it any more. Prints JSON events as `snac-pipeline` does, which calls this as `runs`.
"""

import argparse
import contextlib
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import dagster as dg

OPEN = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]


@dataclass(frozen=True)
class OpenRun:
    """A run that has begun and not ended."""

    run_id: str
    job: str
    status: str
    pid: int | None
    """Of its process; None where it has not said."""
    alive: bool | None
    """Whether that process still runs on this machine; None where nobody can tell."""

    def __str__(self) -> str:
        states = {True: f"process {self.pid} works at it", False: f"its process {self.pid} is gone", None: "who knows"}
        return f"{self.run_id}  {self.job}  {self.status}: {states[self.alive]}"


def open_runs(instance: dg.DagsterInstance) -> list[OpenRun]:
    """Every run that has begun and not ended, the newest first."""
    runs = instance.get_runs(dg.RunsFilter(statuses=OPEN))
    return [OpenRun(run.run_id, run.job_name, run.status.value, *_process_of(instance, run.run_id)) for run in runs]


def free(instance: dg.DagsterInstance, wanted: list[str]) -> list[OpenRun]:
    """Mark runs as failed and free their places: the `wanted`, or all whose process is gone; those that were freed.

    Raises ValueError, in one sentence, for a wanted run that is not open or whose process lives.
    """
    found = {run.run_id: run for run in open_runs(instance)}
    for run_id in wanted:
        if run_id not in found:
            raise ValueError(f"{run_id} is no run that has begun and not ended; `snac-pipeline runs list` lists these")
        if found[run_id].alive:
            raise ValueError(
                f"process {found[run_id].pid} still works at {run_id}; terminate the run, or end that first"
            )
    if not wanted and not _on_this_machine(instance):
        raise ValueError(
            "Dagster's storage is shared with other machines, whose processes cannot be seen from here; name the runs: "
            "`snac-pipeline runs free RUN`"
        )
    freed = [run for run in found.values() if run.run_id in wanted or (not wanted and run.alive is False)]
    for run in freed:
        gone = f"The process of this run ({run.pid}) is gone" if run.pid else "Nobody works at this run any more"
        record = instance.get_run_by_id(run.run_id)
        if record is not None:  # not deleted in the meantime
            instance.report_run_failed(record, f"{gone}: it was marked as failed by `snac-pipeline runs free`.")
        if instance.event_log_storage.supports_global_concurrency_limits:
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
    return freed


def _process_of(instance: dg.DagsterInstance, run_id: str) -> tuple[int | None, bool | None]:
    """The process that executes a run, by the last engine event that names one, and whether it lives."""
    for entry in reversed(instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)):
        event = entry.dagster_event
        named = event.engine_event_data.metadata.get("pid") if event else None
        if named is not None:
            pid = int(str(named.value))
            return pid, _lives(pid, entry.timestamp)
    return None, None


def _lives(pid: int, before: float) -> bool:
    """Whether process `pid` runs and began before that moment (seconds since 1970): a number is given again."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        boot = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime "))
        started = int(boot.split()[1]) + int(fields[18]) / os.sysconf("SC_CLK_TCK")
        return state not in "ZX" and started <= before + 1  # btime is in whole seconds
    return False


def _on_this_machine(instance: dg.DagsterInstance) -> bool:
    return "Sqlite" in type(instance.run_storage).__name__


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m resources.runs", description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=["list", "free"])
    parser.add_argument("run", nargs="*")
    options = parser.parse_args()
    if not os.environ.get("DAGSTER_HOME"):
        return _error("DAGSTER_HOME is not set; set it to the folder that Dagster runs with (`make ui`: .dagster)")
    with dg.DagsterInstance.get() as instance:
        try:
            runs = free(instance, options.run) if options.verb == "free" else open_runs(instance)
        except ValueError as error:
            return _error(str(error))
    for run in runs:
        _say("progress", message=str(run))
    count = {"freed": len(runs)} if options.verb == "free" else {"open": len(runs)}
    _say("result", **count, runs=[asdict(run) for run in runs])
    return 0


def _error(message: str) -> int:
    _say("error", message=message)
    return 1


def _say(event: str, **content: object) -> None:
    print(json.dumps({"event": event, **content}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
