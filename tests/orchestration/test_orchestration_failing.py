"""What befalls a machine is told as what it is, in one sentence at the top of the failure; runs that died are freed."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.events import DagsterEvent, EngineEventData
from dagster._core.execution.stats import StepEventStatus
from made_project import CONSOLE, REPOSITORY

from resources.runs import _lives, free, open_runs
from snac_pipeline.engine.local import STARTS

CLI = [sys.executable, "-m", "snac_pipeline.cli"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system in memory with one page free; skipped where this user may not mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("cannot mount a tmpfs here")
    with open(folder / "filler", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    os.truncate(folder / "filler", (folder / "filler").stat().st_size - 3 * 4096)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_told_with_its_place_and_what_to_do(project, small_disk):
    project.change_settings(home=str(small_disk))
    run = project.run("prepare_corpus", must_succeed=False)
    words = project.failure(run)
    assert words.startswith((f"cannot write {small_disk}", f"cannot create the folder {small_disk}"))
    assert "No space left on device; " in words and "\n" not in words


def test_want_of_memory_is_told_with_what_to_do(project):
    codec = project.folder / "codec"
    shutil.copytree(REPOSITORY / "examples" / "base_codec", codec)
    config = json.loads((codec / "config.json").read_text())
    (codec / "config.json").write_text(json.dumps({**config, "decoder_dim": 4_194_304}))
    project.change_settings(base_codec={"source": str(codec)})
    run = project.run("cache_codes", must_succeed=False)
    words = project.failure(run)
    assert words.startswith("the machine ran out of memory (") and "use smaller batches" in words and "\n" not in words


@pytest.mark.slow
def test_workers_that_are_killed_again_and_again_are_told_of_as_such(project):
    project.change_settings(
        base_codec={"source": str(REPOSITORY / "examples" / "base_codec")},
        devices=["cpu"],
        caching={"processes": 1, "readers": 0, "verify": 0},
    )
    project.run("prepare_corpus")
    over, killed = threading.Event(), []
    killer = threading.Thread(target=kill_workers, args=(over, killed))
    killer.start()
    try:
        run = project.run("cache_codes", must_succeed=False)
    finally:
        over.set()
        killer.join()
    words = project.failure(run)
    assert len(killed) == STARTS
    assert words.startswith("no worker process can be started on cpu: its worker process was killed by SIGKILL")
    assert "What was committed stays" in words and "\n" not in words


def kill_workers(over: threading.Event, killed: list[int]) -> None:
    """SIGKILL to every worker that a command of this process starts, as the kernel does where memory is short."""
    while not over.wait(0.05):
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # those that are gone
                if int(process.name) not in killed and b"spawn_main" in (process / "cmdline").read_bytes():
                    command = parent_of(process)
                    if parent_of(Path("/proc", str(command))) == os.getpid():
                        killed.append(int(process.name))
                        os.kill(int(process.name), signal.SIGKILL)


def parent_of(process: Path) -> int:
    return int((process / "stat").read_text().rpartition(") ")[2].split()[1])


# ---- a signal between two steps ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "at", "status"),
    [
        ("SIGINT", "RUN_START", dg.DagsterRunStatus.CANCELED),
        ("SIGINT", "STEP_SUCCESS", dg.DagsterRunStatus.CANCELED),
        ("SIGTERM", "STEP_SUCCESS", dg.DagsterRunStatus.FAILURE),
    ],
    ids=["Ctrl-C at the begin", "Ctrl-C", "a machine that shuts down"],
)
def test_ctrl_c_outside_of_steps_is_a_canceled_run_and_sigterm_one_to_try_again(project, monkeypatch, sent, at, status):
    monkeypatch.setenv("SIGNAL", sent)
    monkeypatch.setenv("AT", at)
    module = Path(__file__).with_name("made_interrupting.py")
    done = project.dagster("job", "execute", "-f", module, "-j", "prepare_corpus", "-c", CONSOLE)
    with project.instance() as instance:
        [run] = instance.get_runs()
        ended = [
            step.step_key for step in instance.get_run_step_stats(run.run_id) if step.status == StepEventStatus.SUCCESS
        ]
    assert ended == (["audio"] if at == "STEP_SUCCESS" else []), done.stderr
    assert run.status == status, project.log(run.run_id)


# ---- runs that never end ---------------------------------------------------------------------------------------------


def begun(instance: dg.DagsterInstance, pid: int) -> str:
    """A run that process `pid` began and has not ended."""
    run = instance.create_run_for_job(NOTHING)
    instance.report_engine_event("begun", run, EngineEventData.in_process(pid))
    instance.report_dagster_event(DagsterEvent("PIPELINE_START", NOTHING.name, message="it began"), run.run_id)
    return run.run_id


@dg.op
def nothing() -> None:
    """Does nothing."""


NOTHING = dg.GraphDefinition("nothing_at_all", node_defs=[nothing]).to_job()


def test_runs_whose_process_is_gone_are_freed_and_those_that_run_are_not(project):
    sleeper = subprocess.Popen(["sleep", "600"])
    gone = subprocess.Popen(["true"])
    gone.wait()
    try:
        with project.instance() as instance:
            alive, dead = begun(instance, sleeper.pid), begun(instance, gone.pid)
            assert {run.run_id: run.alive for run in open_runs(instance)} == {alive: True, dead: False}
            with pytest.raises(ValueError, match=f"process {sleeper.pid} still works at {alive}"):
                free(instance, [alive])
            with pytest.raises(ValueError, match="no run that has begun"):
                free(instance, ["1234"])
        environment = {**os.environ, "DAGSTER_HOME": str(project.folder / ".dagster")}
        done = subprocess.run([*CLI, "runs", "free", "--json"], env=environment, capture_output=True, text=True)
        result = json.loads(done.stdout.splitlines()[-1])
        assert result["freed"] == 1 and [run["run_id"] for run in result["runs"]] == [dead], done.stderr
        with project.instance() as instance:
            assert instance.get_run_by_id(dead).status == dg.DagsterRunStatus.FAILURE
            assert [run.run_id for run in open_runs(instance)] == [alive]
            events = [entry.dagster_event.message for entry in instance.all_logs(dead) if entry.dagster_event]
        assert "marked as failed by `snac-pipeline runs free`" in events[-1]
    finally:
        sleeper.send_signal(signal.SIGKILL)
        sleeper.wait()


def test_a_process_that_is_younger_than_the_runs_word_is_another_one():
    assert not _lives(os.getpid(), before=0.0)


def test_without_a_dagster_home_it_says_what_to_set():
    environment = {name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"}
    done = subprocess.run([*CLI, "runs", "list"], env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "DAGSTER_HOME is not set" in done.stderr and "Traceback" not in done.stderr
