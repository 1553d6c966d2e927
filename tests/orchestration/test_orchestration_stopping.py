"""Terminate, Ctrl-C and SIGKILL: everything that a run started ends, what was done is kept, the next run goes on.

Real runs of a real server and daemon (`dagster dev`), with worker processes, loader processes and ranks.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest
import yaml
from made_listeners import Webhook, listening
from made_project import CONSOLE, DAGSTER, REPOSITORY, Project
from made_server import everything_in, serving, step_processes, wait_for

from resources.runs import open_runs
from snac_pipeline.settings import DEVICES_VARIABLE, SETTINGS_VARIABLE

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))  # made_training

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
PROMISED_SECONDS = 10.0
SECRET = "hooked-on-Phonics-4711"
SPEECH = {"dagster__asset_partition_range_start": "speech", "dagster__asset_partition_range_end": "speech"}
TRAIN, CACHE = "train_phase10", "cache_codes"


@pytest.fixture(scope="module")
def served_and_listening(tmp_path_factory):
    """A project with codes and nothing trained, under `dagster dev`; and the webhook that is told of failed runs."""
    from made_training import CODEC, make_home

    from snac_pipeline.codec import SNAC, CodecSpec

    folder = tmp_path_factory.mktemp("served")
    make_home(folder, SNAC(CodecSpec.from_dict(CODEC)).eval())
    (folder / ".dagster").mkdir()
    shutil.copy(REPOSITORY / "resources" / "dagster.yaml", folder / ".dagster")
    project = Project(folder)
    write_recipe(project)
    project.change_settings(notifications={"webhook": "TEST_WEBHOOK"})
    with listening(Webhook()) as webhook:
        environment = {"TEST_WEBHOOK": f"{webhook.address}/{SECRET}", "GLOO_SOCKET_IFNAME": "lo"}
        with serving(project, OMP_NUM_THREADS="1", **environment) as server:
            yield server, webhook


@pytest.fixture
def served(served_and_listening):
    """The server, each time with codes and without runs."""
    server, _ = served_and_listening
    shutil.rmtree(server.project.folder / "work" / "runs", ignore_errors=True)
    server.project.change_settings(devices=["cpu"])
    return server


def write_recipe(project: Project, **changes) -> None:
    from made_training import PHASE10

    recipe = {
        **PHASE10,
        "stages": [{**PHASE10["stages"][0], "epochs": 400}],
        "curriculum": [{"epochs": 400, "seconds": 0.25}],
        "checkpoints": {"every_steps": 1},
        "loader_workers": 2,
    }
    (project.folder / "recipe.yaml").write_text(yaml.safe_dump({**recipe, **changes}))


def checkpoints(project: Project) -> list[str]:
    return sorted(path.name for path in (project.folder / "work").glob("runs/*/checkpoints/step-*"))


def leftovers(project: Project) -> list[Path]:
    return list((project.folder / "work").rglob(".tmp-*"))


def terminate(server, run: str) -> float:
    """Press Terminate; seconds until no process of the step is left."""
    began = time.monotonic()
    server.terminate(run)
    wait_for(lambda: not step_processes(server.project), 60)
    return time.monotonic() - began


@pytest.mark.parametrize("devices", [["cpu"], ["cpu", "cpu"]], ids=["loaders", "loaders-and-ranks"])
def test_terminating_a_training_ends_every_process_in_time_and_the_next_run_goes_on(served, devices):
    project = served.project
    project.change_settings(devices=devices)
    run = served.launch(TRAIN)
    served.wait_while_it_runs(run, lambda: len(checkpoints(project)) >= 2)
    # The command, its loaders and their resource tracker; with ranks the launcher too, and all of that twice.
    assert len(step_processes(project)) >= (4 if len(devices) == 1 else 8)
    assert terminate(served, run) < PROMISED_SECONDS
    assert served.wait_until_over(run) == dg.DagsterRunStatus.CANCELED
    reached = checkpoints(project)[-1]
    assert leftovers(project) == []

    again = served.launch(TRAIN)
    served.wait_while_it_runs(again, lambda: checkpoints(project)[-1] > reached)
    terminate(served, again)
    assert served.wait_until_over(again) == dg.DagsterRunStatus.CANCELED
    assert f"resuming at step {int(reached.removeprefix('step-'))}" in project.log(again)


def test_a_run_whose_process_was_killed_is_retried_and_goes_on_from_its_checkpoint(served, served_and_listening):
    project, (_, webhook) = served.project, served_and_listening
    first = served.launch(TRAIN)
    served.wait_while_it_runs(first, lambda: len(checkpoints(project)) >= 2)
    old = set(step_processes(project))
    with project.instance() as instance:
        [running] = open_runs(instance)
    assert running.run_id == first and running.alive
    os.kill(running.pid, signal.SIGKILL)

    wait_for(lambda: retry_of(project, first) is not None)
    assert not old & set(step_processes(project)), "the retry has begun beside what it replaces"
    reached = checkpoints(project)[-1]
    retry = retry_of(project, first)
    assert served.status(first) == dg.DagsterRunStatus.FAILURE
    served.wait_while_it_runs(retry, lambda: checkpoints(project)[-1] > reached)
    wait_for(lambda: webhook.received)
    terminate(served, retry)
    served.wait_until_over(retry)
    assert f"resuming at step {int(reached.removeprefix('step-'))}" in project.log(retry)
    [(path, told)] = webhook.received
    assert path == f"/{SECRET}" and (told["job"], told["run_id"]) == (TRAIN, first)
    assert SECRET.encode() not in everything_in(project.folder)


def retry_of(project: Project, run: str) -> str | None:
    """The run that the daemon started in place of another."""
    with project.instance() as instance:
        runs = instance.get_runs(dg.RunsFilter(tags={"dagster/parent_run_id": run}))
    return runs[0].run_id if runs else None


def test_ctrl_c_on_the_command_line_is_a_canceled_run_that_goes_on(served):
    project = served.project
    write_recipe(project, checkpoints={"every_steps": 2})
    home = {"DAGSTER_HOME": str(project.folder / ".dagster"), SETTINGS_VARIABLE: str(project.settings_file)}
    command = [DAGSTER, "job", "execute", "-m", "snac_pipeline.definitions", "-j", TRAIN, "-c", CONSOLE]
    running = subprocess.Popen(
        list(map(str, command)), env={**os.environ, **home}, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_for(lambda: checkpoints(project) or running.poll() is not None)
    assert running.poll() is None, running.stderr.read()
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does: to everybody
    _, said = running.communicate(timeout=60)
    assert checkpoints(project), said
    with project.instance() as instance:
        [run, *_] = instance.get_runs(limit=1)
    assert run.status == dg.DagsterRunStatus.CANCELED, said
    assert "stopped; what was done is kept: run it again to go on" in said
    assert not re.search(r"\bfailed\b", said), said
    assert step_processes(project) == []


def test_a_run_trains_on_the_devices_of_its_tag_and_the_next_training_waits_in_the_queue_while_caching_goes_on(served):
    project = served.project
    write_recipe(project)
    first = served.launch(TRAIN, devices="cpu, cpu")
    served.wait_while_it_runs(first, lambda: checkpoints(project))
    processes = environments(project)
    assert "cpu, cpu" in {environment.get(DEVICES_VARIABLE) for environment in processes}
    ranks = {environment["RANK"] for environment in processes if "RANK" in environment}
    assert ranks == {"0", "1"}, "the settings name one device, the tag two"

    second = served.launch(TRAIN)
    caching = served.launch(CACHE, **SPEECH)  # behind it in the queue
    assert served.wait_until_over(caching) == dg.DagsterRunStatus.SUCCESS, project.log(caching)
    assert served.status(first) == dg.DagsterRunStatus.STARTED
    assert served.status(second) == dg.DagsterRunStatus.QUEUED
    terminate(served, first)

    served.wait_while_it_runs(second, lambda: environments(project))
    assert {environment.get(DEVICES_VARIABLE) for environment in environments(project)} == {None}
    terminate(served, second)
    assert served.wait_until_over(second) == dg.DagsterRunStatus.CANCELED


def environments(project: Project) -> list[dict[str, str]]:
    """Of every process of the project's steps."""
    found = []
    for pid in step_processes(project):
        with contextlib.suppress(OSError):  # those that are gone meanwhile
            words = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
            found.append(dict(word.split("=", 1) for word in words if "=" in word))
    return found


def test_terminating_a_caching_run_ends_its_workers_and_readers_and_the_next_run_encodes_what_is_missing(served):
    project = served.project
    for name in ("codes", "manifest", "splits", "quarantine"):
        shutil.rmtree(project.folder / "work" / name)
    many = [write_speech(project, number) for number in range(60)]
    caching = {"processes": 2, "readers": 1, "part_utterances": 1, "verify": 2, "batch_seconds": 5.0}
    project.change_settings(devices=["cpu"], caching=caching)
    prepared = served.launch("prepare_corpus", **SPEECH)
    assert served.wait_until_over(prepared) == dg.DagsterRunStatus.SUCCESS, project.log(prepared)
    run = served.launch(CACHE, **SPEECH)
    served.wait_while_it_runs(run, lambda: len(parts(project)) >= 3)
    assert len(step_processes(project)) >= 5, "the command, two workers and their readers"
    assert terminate(served, run) < PROMISED_SECONDS
    assert served.wait_until_over(run) == dg.DagsterRunStatus.CANCELED
    kept = {part: part.read_bytes() for part in parts(project)}
    assert leftovers(project) == [] and len(kept) < len(many)

    again = served.launch(CACHE, **SPEECH)
    assert served.wait_until_over(again) == dg.DagsterRunStatus.SUCCESS, project.log(again)
    figures = project.newest("code_cache", "speech").metadata
    assert figures["encoded"].value == figures["utterances"].value - len(kept)
    assert all(part.read_bytes() == content for part, content in kept.items())


def parts(project: Project) -> list[Path]:
    return list((project.folder / "work").glob("codes/*/part-*.parquet"))


def write_speech(project: Project, number: int) -> Path:
    from made_project import write_recording

    file = project.folder / "speech" / f"many{number % 5}" / f"{number}.wav"
    write_recording(file, seed=5000 + number, seconds=4.0)
    return file
