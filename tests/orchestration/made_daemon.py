"""Dagster's daemon on a project, as a process of its own: what it starts when it is left alone."""

import os
import signal
import subprocess
import time

import dagster as dg
from dagster._core.execution.backfill import BulkActionStatus
from dagster._core.scheduler.instigation import TickStatus
from made_project import DAGSTER, Project

from assets.looking import CORPORA_TAG
from snac_pipeline.settings import SETTINGS_VARIABLE

QUIET_TICKS = 3
"""So many ticks of each kind that start nothing mean that nothing more is to come."""

PATIENCE_SECONDS = 3000.0


class Daemon:
    """`dagster-daemon run`, for as long as the `with` lasts; `instigators`: the schedules and sensors to wait for."""

    def __init__(self, project: Project, *instigators: str) -> None:
        self.project, self.instigators, self.log = project, instigators, project.folder / "daemon.txt"

    def __enter__(self) -> "Daemon":
        with self.project.instance() as instance:
            self.known = {run.run_id for run in instance.get_runs()}
        environment = {
            **os.environ,
            "DAGSTER_HOME": str(self.project.folder / ".dagster"),
            SETTINGS_VARIABLE: str(self.project.settings_file),
            "DAGSTER_GRPC_TIMEOUT_SECONDS": "600",  # 60 to start a run was too little on a machine busy with others
        }
        command = [DAGSTER.with_name("dagster-daemon"), "run", "-m", "snac_pipeline.definitions"]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(command, env=environment, cwd=self.project.folder, stdout=log, stderr=log)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def started(self) -> list[str]:
        """The runs of since the last call, as "assets [corpora]", when no more are to come; all have succeeded."""
        end, quiet_since = time.monotonic() + PATIENCE_SECONDS, time.time()
        with self.project.instance() as instance:
            while not self._is_quiet(instance, quiet_since):
                if self._is_busy(instance):
                    quiet_since = time.time()
                assert self.process.poll() is None and time.monotonic() < end, self.log.read_text()[-5000:]
                time.sleep(1)
            runs = [run for run in instance.get_runs() if run.run_id not in self.known]
        self.known |= {run.run_id for run in runs}
        assert all(run.is_success for run in runs), self.log.read_text()[-5000:]
        return [_words(run) for run in runs]

    def _is_busy(self, instance: dg.DagsterInstance) -> bool:
        backfills = instance.get_backfills(status=BulkActionStatus.REQUESTED)
        return bool(backfills) or any(not run.is_finished for run in instance.get_runs())

    def _is_quiet(self, instance: dg.DagsterInstance, since: float) -> bool:
        if self._is_busy(instance):
            return False
        idle = {}
        for state in instance.all_instigator_state():
            ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id, after=since)
            idle[state.instigator_name] = [tick.status for tick in ticks if tick.status != TickStatus.STARTED]
        ticks = [idle.get(name, []) for name in self.instigators]
        return all(len(one) >= QUIET_TICKS and set(one) == {TickStatus.SKIPPED} for one in ticks)


def _words(run: dg.DagsterRun) -> str:
    if run.job_name == "observe_audio":
        return f"audio [{run.tags[CORPORA_TAG]}]"
    assets = ", ".join(sorted(key.to_user_string() for key in run.asset_selection or ()))
    ends = [run.tags.get(f"dagster/asset_partition_range_{end}") for end in ("start", "end")]
    corpora = "..".join(filter(None, ends)) or run.tags.get("dagster/partition")
    return f"{assets} [{corpora}]" if corpora else assets
