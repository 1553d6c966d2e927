"""A project under `dagster dev`: the UI's server, the daemon and a code server, asked as the browser asks them."""

import contextlib
import json
import os
import signal
import subprocess
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
from made_project import DAGSTER, Project
from ports import free_port
from waiting import wait_for

from snac_pipeline.engine.child import MARK
from snac_pipeline.settings import SETTINGS_VARIABLE

LAUNCH = """mutation ($params: ExecutionParams!) { launchRun(executionParams: $params) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } } } }"""
TERMINATE = """mutation ($run: String!) { terminateRun(runId: $run) { __typename } }"""
SERVED = "SERVED_BY_A_TEST"
OVER = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)


@dataclass(frozen=True)
class Server:
    """A project that is served."""

    project: Project
    address: str
    pid: int

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        return ask(self.address, query, **variables)

    def launch(self, job: str, **tags: str) -> str:
        """Start a job as the Launchpad does; its run id. tags: with "/" as "__"."""
        location = "snac_pipeline.definitions"
        selector = {"repositoryLocationName": location, "repositoryName": "__repository__", "jobName": job}
        metadata = {"tags": [{"key": key.replace("__", "/"), "value": value} for key, value in tags.items()]}
        params = {"selector": selector, "runConfigData": {}, "mode": "default", "executionMetadata": metadata}
        answer = self.ask(LAUNCH, params=params)["launchRun"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return answer["run"]["runId"]

    def terminate(self, run: str) -> None:
        """Press Terminate."""
        answer = self.ask(TERMINATE, run=run)["terminateRun"]
        assert answer["__typename"] == "TerminateRunSuccess", answer

    def status(self, run: str) -> dg.DagsterRunStatus:
        with self.project.instance() as instance:
            return instance.get_run_by_id(run).status

    def wait_while_it_runs(self, run: str, condition: Callable[[], Any], seconds: float = 300.0) -> None:
        """Until `condition` holds; the run may not end before."""

        def holds() -> bool:
            if condition():
                return True
            assert self.status(run) not in OVER, self.project.log(run)
            return False

        wait_for(holds, seconds)

    def wait_until_over(self, run: str, seconds: float = 300.0) -> dg.DagsterRunStatus:
        wait_for(lambda: self.status(run) in OVER, seconds)
        return self.status(run)


@contextlib.contextmanager
def serving(project: Project, **environment: str) -> Iterator[Server]:
    """`dagster dev` for a project, until it answers; its end with everything that it started."""
    with served(project.folder, **environment) as (address, pid):
        yield Server(project, address, pid)


@contextlib.contextmanager
def served(folder: Path, **environment: str) -> Iterator[tuple[str, int]]:
    """The UI's address and process, for the project in `folder`, whose Dagster home is .dagster; its log is there."""
    port = free_port()
    home, address = folder / ".dagster", f"http://127.0.0.1:{port}"
    command = [str(DAGSTER), "dev", "-m", "snac_pipeline.definitions", "-h", "127.0.0.1", "-p", str(port)]
    mark = uuid.uuid4().hex  # DAGSTER_HOME would not do: `make` exports that of the repository to the tests themselves
    own = {"DAGSTER_HOME": str(home), SETTINGS_VARIABLE: str(folder / "pipeline.yaml"), SERVED: mark}
    with (home / "ui.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **own, **environment}, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
        try:
            wait_for(lambda: _answers(address, process, home / "ui.log"), 400)
            yield address, process.pid
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            finally:
                for pid, words in _environments():
                    if f"{SERVED}={mark}" in words:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)


def ask(address: str, query: str, **variables: Any) -> dict[str, Any]:
    """The answer of a Dagster server to a GraphQL query."""
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(f"{address}/graphql", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)["data"]
    except urllib.error.HTTPError as error:  # 500 where the answer is a PythonError
        return json.load(error)["data"]


def _answers(address: str, process: subprocess.Popen, log: Path) -> bool:
    assert process.poll() is None, log.read_text()
    try:
        found = ask(address, "{ repositoriesOrError { ... on RepositoryConnection { nodes { name } } } }")
        return bool(found and found["repositoriesOrError"].get("nodes"))
    except (urllib.error.URLError, ConnectionError, json.JSONDecodeError):
        return False


def step_processes(project: Project) -> list[int]:
    """Processes of the project's steps: the commands that assets run, and all that these started."""
    home = f"DAGSTER_HOME={project.folder / '.dagster'}"
    return [pid for pid, words in _environments() if home in words and any(w.startswith(f"{MARK}=") for w in words)]


def _environments() -> Iterator[tuple[int, list[str]]]:
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # others' processes, and those that are gone
            words = (process / "environ").read_bytes().decode(errors="replace").split("\0")
            state = (process / "stat").read_text().rpartition(") ")[2].split()[0]
            if state not in "ZX":
                yield int(process.name), words


def everything_in(folder: Path) -> bytes:
    """The bytes of all files below a folder, Dagster's databases and logs among them."""
    return b"\0".join(file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file())
