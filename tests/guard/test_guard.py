"""Strangers on the GPUs are told, and ended only when that is asked for; nobody else ever is. Real processes."""

import dataclasses
import http.server
import json
import os
import pwd
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from made_nvml import MadeNvml

from snac_pipeline.errors import PipelineError
from snac_pipeline.guard import (
    Ended,
    Rules,
    Sighting,
    end_process,
    install,
    judge,
    look,
    open_nvml,
    unit_text,
    watch,
    watch_arguments,
)

NOBODY = pwd.getpwnam("nobody")
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can start processes of another user")
WAITS = "import time; print('up', flush=True); time.sleep(600)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"


@pytest.fixture
def start():
    """start(code, user) -> a process that is up."""
    started = []

    def start(code: str = WAITS, user: int | None = None) -> subprocess.Popen:
        become = (
            "" if user is None else f"import os, signal; os.setuid({user}); "
        )  # itself: that user may not read this Python
        process = subprocess.Popen([sys.executable, "-S", "-c", become + code], stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout.readline() == b"up\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def sighting(**facts) -> Sighting:
    known = {"gpu": 0, "gpu_name": "Made", "pid": 4711, "started": 1.0, "uid": 1001, "user": "eve", "command": "train"}
    return Sighting(**{**known, "memory_bytes": 2**30, **facts})


def first(nvml: MadeNvml, rules: Rules) -> tuple[Sighting, str]:
    return next(watch(nvml, rules, every_seconds=0.0))


# ---- who is there --------------------------------------------------------------------------------------------------


def test_processes_are_told_with_owner_command_memory_and_gpu(start):
    mine = start()
    seen = look(MadeNvml([(mine.pid, 3 * 2**30)], [(mine.pid, None)]))
    assert [(one.gpu, one.gpu_name, one.pid, one.memory_bytes) for one in seen] == [
        (0, "Made GPU 0", mine.pid, 3 * 2**30),
        (1, "Made GPU 1", mine.pid, None),
    ]
    assert seen[0].user == pwd.getpwuid(os.getuid()).pw_name and "time.sleep(600)" in seen[0].command
    assert seen[0].started == psutil.Process(mine.pid).create_time()
    assert str(seen[0]).startswith(f"GPU 0: process {mine.pid} of {seen[0].user}, 3.0 GiB: ")
    assert [one.gpu for one in look(MadeNvml([], [(mine.pid, 0)]), [1])] == [1]


def test_a_process_that_has_just_ended_is_left_out(start):
    gone = start()
    gone.kill()
    gone.wait()
    assert look(MadeNvml([(gone.pid, 0)])) == []


def test_a_gpu_that_is_not_there_is_named():
    with pytest.raises(PipelineError, match="no GPU 2; this machine has 1"):
        look(MadeNvml([]), [2])


def test_without_a_driver_one_sentence_says_so():
    with pytest.raises(PipelineError, match=r"snac-pipeline\[gpu\]|needs an NVIDIA driver"), open_nvml():
        pytest.skip("this machine has an NVIDIA driver")


# ---- who may be there ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "verdict"),
    [
        ({}, "stranger"),
        ({"user": "ann"}, "allowed"),
        ({"uid": 1000}, "allowed"),
        ({"uid": 0, "user": "root"}, "protected"),
        ({"pid": 1}, "protected"),
        ({"pid": 1, "user": "ann"}, "protected"),
    ],
)
def test_only_others_who_are_not_on_the_list_are_strangers(facts, verdict):
    assert judge(sighting(**facts), Rules(allowed=frozenset({"ann"})), own_uid=1000) == verdict


def test_the_own_users_processes_are_never_touched(start):
    mine = start()
    rules, told = Rules(action="end", dry_run=False, grace_seconds=0.1), []

    class Stop(Exception):
        pass

    def stop(seconds: float) -> None:
        raise Stop

    with pytest.raises(Stop):
        told.extend(watch(MadeNvml([(mine.pid, 0), (1, 0)]), rules, 0.0, sleep=stop))
    assert told == [] and mine.poll() is None


# ---- what is done --------------------------------------------------------------------------------------------------


@as_root
@pytest.mark.parametrize(
    ("action", "words"), [("warn", "would be warned of"), ("notify", "would be notified of"), ("end", "would be ended")]
)
def test_a_dry_run_which_is_the_default_does_nothing(start, action, words):
    other = start(user=NOBODY.pw_uid)
    seen, done = first(MadeNvml([(other.pid, 0)]), Rules(action=action))
    assert (seen.user, done) == ("nobody", words) and other.poll() is None


@as_root
@pytest.mark.parametrize(("code", "done"), [(WAITS, Ended.ASKED), (DEAF, Ended.KILLED)])
def test_a_stranger_is_asked_to_end_and_then_killed(start, code, done):
    other = start(code, NOBODY.pw_uid)
    _, told = first(MadeNvml([(other.pid, 0)]), Rules(action="end", dry_run=False, grace_seconds=1.0))
    assert told == str(done)
    assert other.wait(5) == (-signal.SIGTERM if done is Ended.ASKED else -signal.SIGKILL)


def test_another_process_of_the_same_number_is_not_hit(start):
    """A number is given again; the time at which a process began, and its owner, are not."""
    mine = start()
    [seen] = look(MadeNvml([(mine.pid, 0)]))
    assert end_process(dataclasses.replace(seen, started=seen.started - 60), 0.1) == Ended.GONE
    assert end_process(dataclasses.replace(seen, uid=seen.uid + 1), 0.1) == Ended.GONE
    assert mine.poll() is None
    assert end_process(seen, 5.0) == Ended.ASKED
    mine.wait()
    assert end_process(seen, 0.1) == Ended.GONE


@as_root
def test_each_stranger_is_told_once(start):
    one, other = start(user=NOBODY.pw_uid), start(user=NOBODY.pw_uid)
    nvml, rounds = MadeNvml([(one.pid, 0)]), []

    def sleep(seconds: float) -> None:
        rounds.append(seconds)
        if len(rounds) == 3:
            nvml.gpus[0].append((other.pid, 0))

    rows = watch(nvml, Rules(), 7.0, sleep)
    assert [next(rows)[0].pid, next(rows)[0].pid] == [one.pid, other.pid]
    assert rounds == [7.0] * 3


@as_root
def test_notifications_are_posted_to_an_address_that_is_not_told(start, monkeypatch):
    posted = []

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            posted.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.send_response(200 if self.path == "/secret" else 500)
            self.end_headers()

        def log_message(self, *words):
            pass

    other = start(user=NOBODY.pw_uid)
    nvml, rules = MadeNvml([(other.pid, 0)]), Rules(action="notify", dry_run=False)
    monkeypatch.delenv("SNAC_PIPELINE_WEBHOOK", raising=False)
    assert first(nvml, rules)[1] == "not notified of: SNAC_PIPELINE_WEBHOOK is not set"
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("SNAC_PIPELINE_WEBHOOK", f"{address}/secret")
        assert first(nvml, rules)[1] == "notified of"
        monkeypatch.setenv("SNAC_PIPELINE_WEBHOOK", f"{address}/wrong")
        assert first(nvml, rules)[1].startswith("not notified of") and "wrong" not in first(nvml, rules)[1]
        server.shutdown()
    monkeypatch.setenv("SNAC_PIPELINE_WEBHOOK", f"{address}/secret")
    assert first(nvml, rules)[1].startswith("not notified of") and "secret" not in first(nvml, rules)[1]
    assert posted[0][0] == "/secret" and posted[0][1]["pid"] == other.pid and "of nobody" in posted[0][1]["text"]


# ---- as a service --------------------------------------------------------------------------------------------------


def test_the_unit_starts_the_watch_with_its_arguments(tmp_path):
    arguments = ["--gpu", "0", "--allow", "ann", "--every", "10"]
    file = install([*arguments, "a $ 100 % word"], tmp_path / "units")
    text = file.read_text()
    [line] = [line for line in text.splitlines() if line.startswith("ExecStart=")]
    assert line.endswith('gpu-guard watch --gpu 0 --allow ann --every 10 "a $$ 100 %% word"')
    assert line.startswith(f"ExecStart={sys.executable} ") and text == unit_text([*arguments, "a $ 100 % word"])


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(PipelineError, match=r"cannot be written.*--unit-dir"):
        install([], tmp_path / "file")


# ---- as a command --------------------------------------------------------------------------------------------------

FAKE = """
from made_nvml import MadeNvml
class NVMLError(Exception): pass
made = MadeNvml([({pid}, 2**30)])
nvmlInit = nvmlShutdown = lambda: None
nvmlDeviceGetCount = made.nvmlDeviceGetCount
nvmlDeviceGetHandleByIndex = made.nvmlDeviceGetHandleByIndex
nvmlDeviceGetName = made.nvmlDeviceGetName
nvmlDeviceGetComputeRunningProcesses = made.nvmlDeviceGetComputeRunningProcesses
"""


@pytest.fixture
def command(start, tmp_path):
    """Start `snac-pipeline gpu-guard` on a machine that has one GPU with one process, which is nobody's."""
    other = start(user=NOBODY.pw_uid)
    (tmp_path / "pynvml.py").write_text(FAKE.format(pid=other.pid))
    paths = os.pathsep.join([str(tmp_path), str(Path(__file__).parent)])
    running = []

    def command(*words: str) -> subprocess.Popen:
        arguments = [sys.executable, "-m", "snac_pipeline.cli", "gpu-guard", *words]
        environment = {**os.environ, "PYTHONPATH": paths}
        running.append(
            subprocess.Popen(
                arguments, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
        return running[-1]

    command.other = other
    yield command
    for process in running:
        process.kill()
        process.communicate()


@as_root
def test_the_list_is_told_without_any_settings(command):
    out, err = (done := command("list")).communicate(timeout=60)
    assert done.returncode == 0, err
    assert f"stranger  GPU 0: process {command.other.pid} of nobody, 1.0 GiB" in err
    assert out.split() == ["processes:", "1", "strangers:", "1"]


@as_root
def test_a_watch_says_what_it_would_do_until_it_is_interrupted(command):
    process = command("watch", "--action", "end", "--every", "0.1")
    assert process.stderr.readline().endswith(": would be ended\n")
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130 and command.other.poll() is None
    process = command("watch", "--action", "end", "--apply", "--grace", "5")
    assert process.stderr.readline().endswith("ended when asked to (SIGTERM)\n")
    assert command.other.wait(5) == -signal.SIGTERM


@as_root
def test_what_is_installed_watches_as_asked(command, tmp_path):
    words = ["--gpu", "0", "--allow", "eve", "--allow", "ann", "--action", "end", "--apply", "--every", "5"]
    out, err = command("install", *words, "--unit-dir", str(tmp_path / "units")).communicate(timeout=60)
    assert "snac-gpu-guard.service" in out, err
    expected = watch_arguments(Rules([0], frozenset({"ann", "eve"}), "end", False), 5.0)
    assert (tmp_path / "units" / "snac-gpu-guard.service").read_text() == unit_text(expected)
