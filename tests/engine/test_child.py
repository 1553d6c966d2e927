"""A child process is heard, worded and ended, with everything it started: real processes, no stand-ins."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from made_attempts import is_alive
from waiting import wait_for

from snac_pipeline.engine import ChildFailed, run_child

SLEEPER = [sys.executable, "-c", "import time; time.sleep(120)"]

EMIT = """
import json, os, pathlib, signal, subprocess, sys, time
def emit(event, **fields): print(json.dumps({"event": event, **fields}), flush=True)
"""


def script(body: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", EMIT + textwrap.dedent(body), *map(str, arguments)]


def run(argv: list[str], events: list | None = None, texts: list | None = None, **options) -> dict:
    return run_child(
        argv,
        on_event=[].append if events is None else events.append,
        on_text=[].append if texts is None else texts.append,
        **options,
    )


def pids_in(folder: Path) -> list[int]:
    return [int(file.name) for file in folder.iterdir() if file.name.isdigit()]


# What it says ---------------------------------------------------------------------------------------------------------


def test_the_result_is_returned_and_progress_arrives_while_the_child_runs():
    arrived = []
    result = run_child(
        script('emit("progress", message="half", done=1); time.sleep(0.5); emit("result", count=2)'),
        on_event=lambda event: arrived.append((event, time.monotonic())),
    )
    assert result == {"count": 2}
    [(event, moment)] = arrived
    assert event == {"event": "progress", "message": "half", "done": 1}
    assert time.monotonic() - moment > 0.3


def test_other_lines_are_passed_on_and_are_no_events():
    events, texts = [], []
    body = 'print("a line"); print("[1, 2]"); print("torch warns", file=sys.stderr); emit("result")'
    assert run(script(body), events, texts) == {}
    assert events == []
    assert sorted(texts) == ["[1, 2]", "a line", "torch warns"]


def test_long_lines_many_lines_and_a_last_line_without_an_end():
    events, texts = [], []
    body = """
        for index in range(2000): emit("progress", message="x" * 300, index=index)
        sys.stderr.write("no end" + "y" * 200_000)
        sys.stdout.write(json.dumps({"event": "result", "z": "z" * 300_000}))
    """
    assert len(run(script(body), events, texts)["z"]) == 300_000
    assert [event["index"] for event in events] == list(range(2000))
    assert [len(text) for text in texts] == [200_006]


def test_environment_and_folder_are_those_asked_for(tmp_path):
    body = 'emit("result", a=os.environ["A"], home=os.environ.get("PATH"), cwd=os.getcwd())'
    result = run(script(body), env={"A": "b"}, cwd=tmp_path)
    assert result == {"a": "b", "home": os.environ["PATH"], "cwd": str(tmp_path)}


# How it fails ---------------------------------------------------------------------------------------------------------


def test_its_own_error_is_the_message_and_the_rest_of_its_words_the_tail():
    body = 'print("before", file=sys.stderr); emit("error", message="corpus x is empty; add files"); sys.exit(1)'
    with pytest.raises(ChildFailed, match=r"^corpus x is empty; add files$") as failure:
        run(script(body))
    assert failure.value.tail == "before"


def test_a_crash_without_an_error_event_shows_its_last_line():
    with pytest.raises(ChildFailed, match="failed with exit status 1: ZeroDivisionError: division by zero") as failure:
        run(script("1 / 0"))
    assert "Traceback" in failure.value.tail


@pytest.mark.parametrize(
    ("name", "words"), [("SIGKILL", "out of memory"), ("SIGTERM", "run it again"), ("SIGSEGV", "native library")]
)
def test_death_by_a_signal_has_words_of_its_own(name, words):
    with pytest.raises(ChildFailed, match=f"was killed by {name}: .*{words}"):
        run(script(f"os.kill(os.getpid(), signal.{name})"))


def test_exit_0_without_a_result_is_a_failure():
    with pytest.raises(ChildFailed, match="ended without a result"):
        run(script('emit("progress", message="nearly")'))


def test_a_program_that_is_not_there_is_named():
    with pytest.raises(FileNotFoundError, match="/no/such/program"):
        run(["/no/such/program"])


# How it ends ----------------------------------------------------------------------------------------------------------

FAMILY = """
    # A child, a child in a session of its own, and an orphan of a parent that is gone: each writes its pid as a file.
    folder = pathlib.Path(sys.argv[1])
    sleeper = "import os, pathlib, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);" \\
              "pathlib.Path(sys.argv[1], str(os.getpid())).touch(); time.sleep(120)"
    start = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[2], sys.argv[1]], " \\
            "start_new_session=True)"
    subprocess.Popen([sys.executable, "-c", sleeper, folder])
    subprocess.Popen([sys.executable, "-c", sleeper, folder], start_new_session=True)
    subprocess.run([sys.executable, "-c", start, folder, sleeper])
    while len(list(folder.iterdir())) < 3: time.sleep(0.02)
"""


class Stop(BaseException):
    """As KeyboardInterrupt or Dagster's interrupt: not an Exception."""


def stop(event: dict) -> None:
    raise Stop


def test_an_interrupted_child_may_save_its_state_and_nothing_it_started_lives_on(tmp_path):
    body = """
        signal.signal(signal.SIGTERM, lambda *_: (folder.joinpath("saved").touch(), sys.exit(0)))
        emit("progress", message="ready"); time.sleep(120)
    """
    began = time.monotonic()
    with pytest.raises(Stop):
        run_child(script(textwrap.dedent(FAMILY) + textwrap.dedent(body), tmp_path), stop)
    assert time.monotonic() - began < 5
    assert (tmp_path / "saved").exists()
    assert len(pids_in(tmp_path)) == 3
    assert not any(map(is_alive, pids_in(tmp_path)))


def test_what_an_interrupted_child_says_last_is_passed_on(tmp_path):
    body = """
        def leave(*_):
            emit("progress", message="not any more"); print("saving", file=sys.stderr, flush=True)
            emit("error", message="stopped at step 3 of 9; run it again to go on"); sys.exit(130)
        signal.signal(signal.SIGTERM, leave)
        emit("progress", message="ready"); time.sleep(120)
    """
    heard, events = [], []

    def stop_at_the_first(event: dict) -> None:
        events.append(event["message"])
        raise Stop

    with pytest.raises(Stop):
        run_child(script(textwrap.dedent(body), tmp_path), stop_at_the_first, on_text=heard.append)
    assert events == ["ready"]
    assert heard == ["saving", "stopped at step 3 of 9; run it again to go on"]


def test_a_child_that_does_not_listen_is_killed_after_the_grace(tmp_path):
    body = """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        folder.joinpath(str(os.getpid())).touch()
        emit("progress", message="ready")
        while True: print("deaf" * 1000, flush=True)
    """
    began = time.monotonic()
    with pytest.raises(Stop):
        run_child(script(textwrap.dedent(FAMILY) + textwrap.dedent(body), tmp_path), stop, grace_seconds=1)
    assert 1 <= time.monotonic() - began < 6
    assert len(pids_in(tmp_path)) == 4
    assert not any(map(is_alive, pids_in(tmp_path)))


@pytest.mark.parametrize("last", ['emit("result")', "os.kill(os.getpid(), signal.SIGKILL)"], ids=["done", "killed"])
def test_what_outlives_the_child_is_ended_and_does_not_hold_up_the_caller(tmp_path, last):
    began = time.monotonic()
    argv = script(textwrap.dedent(FAMILY) + last, tmp_path)
    if "kill" in last:
        with pytest.raises(ChildFailed, match="SIGKILL"):
            run(argv)
    else:
        assert run(argv) == {}
    assert time.monotonic() - began < 5
    assert not any(map(is_alive, pids_in(tmp_path)))


CALLER = """
import signal, sys
from snac_pipeline.engine import run_child
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in a shell's background
run_child([sys.executable, "-c", sys.argv[1], sys.argv[2]], on_event=lambda event: print("ready", flush=True))
"""


def start_caller(body: str, folder: Path) -> subprocess.Popen:
    child = EMIT + textwrap.dedent(FAMILY) + textwrap.dedent(body)
    caller = subprocess.Popen([sys.executable, "-c", CALLER, child, str(folder)], stdout=subprocess.PIPE)
    assert caller.stdout.readline() == b"ready\n"
    return caller


def test_impatient_ctrl_c_does_not_interrupt_the_clean_up(tmp_path):
    body = """
        signal.signal(signal.SIGTERM, lambda *_: (time.sleep(1), folder.joinpath("saved").touch(), sys.exit(0)))
        emit("progress", message="ready"); time.sleep(120)
    """
    caller = start_caller(body, tmp_path)
    for _ in range(5):
        caller.send_signal(signal.SIGINT)
        time.sleep(0.1)
    caller.wait(timeout=30)
    assert caller.returncode != 0
    assert (tmp_path / "saved").exists()
    assert not any(map(is_alive, pids_in(tmp_path)))


def test_the_child_dies_with_a_caller_that_is_killed(tmp_path):
    caller = start_caller(
        'folder.joinpath("leader").write_text(str(os.getpid())); emit("progress", message="r"); time.sleep(120)',
        tmp_path,
    )
    leader = int((tmp_path / "leader").read_text())
    assert is_alive(leader)
    caller.kill()
    caller.wait()
    try:
        wait_for(lambda: not is_alive(leader), seconds=3)
    finally:
        for pid in pids_in(tmp_path):  # its own children die with it only where they ask to: here they did not
            os.kill(pid, signal.SIGKILL)


def test_other_processes_of_ours_are_left_alone(tmp_path):
    bystander = subprocess.Popen(SLEEPER)
    try:
        with pytest.raises(Stop):
            run_child(script('emit("progress", message="ready"); time.sleep(120)'), stop)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_two_children_at_once_from_threads_do_not_end_each_other():
    results = []

    def one(seconds: float) -> None:
        results.append(run(script(f'time.sleep({seconds}); emit("result", pid=os.getpid())')))

    threads = [threading.Thread(target=one, args=(seconds,)) for seconds in (0.1, 0.8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({result["pid"] for result in results}) == 2


def test_the_result_survives_json(tmp_path):
    value = {"text": "ق ü \u2028", "number": 1e-9, "none": None, "list": [{"a": [1]}]}
    (tmp_path / "value.json").write_text(json.dumps(value))
    body = 'emit("result", **json.loads(pathlib.Path(sys.argv[1]).read_text()))'
    assert run(script(body, tmp_path / "value.json")) == value
