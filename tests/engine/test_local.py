"""Parts done by processes of this machine: a worker that dies, hangs or fails costs its part only, a poisonous item is
found, and no process or temporary file is left however it ends."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from made_attempts import attempts, broken_device, committed, is_alive, never_ready, pids, write_it
from waiting import wait_for

from snac_pipeline.engine.attempts import ATTEMPTS, SUSPECTS, Beat, Done, Failed, Poisonous, run_parts
from snac_pipeline.engine.local import InlinePool, LocalPool
from snac_pipeline.errors import PipelineError
from snac_pipeline.files import TEMPORARY_PREFIX


def run(folder: Path, parts, devices=("a", "b"), hang_seconds=30.0, prepare=None) -> list:
    with contextlib.closing(LocalPool(partial(write_it, folder), devices, hang_seconds, prepare)) as pool:
        return list(run_parts(pool, parts))


def results(events) -> list:
    return [event.result for event in events if isinstance(event, Done)]


def failures(events) -> list[str]:
    return [event.reason for event in events if isinstance(event, Failed)]


def poisonous(events) -> dict[str, str]:
    return {event.item: event.reason for event in events if isinstance(event, Poisonous)}


def leftovers(folder: Path) -> list[Path]:
    return list(folder.glob(f"{TEMPORARY_PREFIX}*"))


def being_written(folder: Path) -> int:
    return sum(file.stat().st_size > 0 for file in leftovers(folder))


def test_every_part_is_done_once_and_each_process_keeps_its_device(tmp_path):
    parts = [[f"item{i}", f"and{i}"] for i in range(12)]
    done = results(run(tmp_path, parts))
    assert sorted(part for part, _, _ in done) == sorted(parts)
    assert {device for _, device, _ in done} == {"a", "b"}
    assert len({(device, pid) for _, device, pid in done}) == 2
    assert os.getpid() not in {pid for _, _, pid in done}
    assert not any(map(is_alive, pids(tmp_path)))


def test_no_more_processes_are_started_than_there_are_parts(tmp_path):
    run(tmp_path, [["one", "two"]], devices="abcd")
    assert len(pids(tmp_path)) == 1
    assert run(tmp_path, []) == []


@pytest.mark.parametrize(
    ("fate", "words"),
    [
        ("dies", "was killed by SIGKILL, often for want of memory"),
        ("exits", "ended with exit status 3"),
        ("hangs", "hung: it said nothing for 2 s"),
        ("raises", "RuntimeError: raises-once cannot be done"),
    ],
)
def test_a_worker_that_fails_costs_its_part_only_which_is_tried_again(tmp_path, fate, words):
    parts = [["x1", f"{fate}-once", "x2"], *([f"y{i}"] for i in range(6))]
    events = run(tmp_path, parts, hang_seconds=2.0)
    assert committed(tmp_path) == {item for part in parts for item in part}
    [reason] = failures(events)
    assert words in reason
    assert poisonous(events) == {}
    assert all(attempts(tmp_path, f"y{i}") == 1 for i in range(6))
    assert attempts(tmp_path, "x1") == 2
    assert not any(map(is_alive, pids(tmp_path)))
    assert leftovers(tmp_path) == []


def test_the_second_attempt_is_made_on_another_device(tmp_path):
    run(tmp_path, [["dies-once"], ["y"]])
    devices = [line.split()[1] for line in (tmp_path / "attempts.log").read_text().splitlines() if "dies" in line]
    assert sorted(devices) == ["a", "b"]


@pytest.mark.parametrize(("fate", "devices"), [("dies", "ab"), ("raises", "a")])
def test_a_poisonous_item_is_found_and_everything_else_of_its_part_is_done(tmp_path, fate, devices):
    parts = [["x1", "x2", "x3", fate, "x4", "x5", "x6"], ["y1", "y2"]]
    events = run(tmp_path, parts, devices)
    [(item, reason)] = poisonous(events).items()
    assert item == fate
    tried = attempts(tmp_path, fate)
    assert ATTEMPTS < tried <= ATTEMPTS + 3  # seven items are halved at most three times
    assert f"all {tried} attempts" in reason and "alone" in reason
    assert committed(tmp_path) == {item for part in parts for item in part} - {fate}
    assert leftovers(tmp_path) == []


def test_when_everything_fails_it_is_the_machine_and_nothing_is_called_poisonous(tmp_path):
    events = []
    with (
        contextlib.closing(LocalPool(partial(write_it, tmp_path), ["a"], 30.0)) as pool,
        pytest.raises(PipelineError, match=f"{SUSPECTS} utterances in a row .*the machine.*RuntimeError: raises"),
    ):
        for event in run_parts(pool, [[f"raises-{i}" for i in range(2 * SUSPECTS)]]):
            events.append(event)
    assert poisonous(events) == {}


def test_what_people_have_to_mend_is_raised_at_once(tmp_path):
    with pytest.raises(PipelineError, match=r"^mends: the disk is full; make room$"):
        run(tmp_path, [["mends"]], devices="a")
    assert attempts(tmp_path, "mends") == 1


def test_a_device_on_which_no_worker_starts_is_given_up_and_the_others_do_its_work(tmp_path, capfd):
    events = run(tmp_path, [[f"x{i}"] for i in range(6)], ["broken", "fine"], prepare=broken_device)
    assert len(results(events)) == 6 and failures(events) == []
    assert {device for _, device, _ in results(events)} == {"fine"}


def test_where_no_worker_starts_at_all_the_run_ends(tmp_path, capfd):
    with pytest.raises(PipelineError, match=r"no worker process can be started on a: .*exit status 1"):
        run(tmp_path, [["x"]], devices="a", prepare=never_ready)
    assert "RuntimeError: a is broken" in capfd.readouterr().err


def test_who_stops_listening_ends_the_processes(tmp_path):
    pool = LocalPool(partial(write_it, tmp_path), ["a", "b"], 30.0)
    events = run_parts(pool, [["fine"], ["slow1"], ["slow2"]])
    begun = set()
    while not {"slow1", "slow2"} <= begun:
        begun |= {event.news for event in [next(events)] if isinstance(event, Beat)}
    wait_for(lambda: being_written(tmp_path) == 2)
    began = time.monotonic()
    pool.close()
    assert time.monotonic() - began < 5
    assert committed(tmp_path) == {"fine"}
    assert not any(map(is_alive, pids(tmp_path)))


CALLER = """
import contextlib, sys
from functools import partial
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from made_attempts import write_it
from snac_pipeline.engine.attempts import run_parts
from snac_pipeline.engine.local import LocalPool
if __name__ == "__main__":
    with contextlib.closing(LocalPool(partial(write_it, Path(sys.argv[1])), ["a", "b"], 30.0)) as pool:
        list(run_parts(pool, [["slow1"], ["slow2"]]))
"""


@pytest.mark.parametrize("how", ["killed", "ctrl-c"])
def test_processes_do_not_outlive_their_parent(tmp_path, how):
    script, folder = tmp_path / "caller.py", tmp_path / "out"
    script.write_text(CALLER)
    folder.mkdir()
    caller = subprocess.Popen(
        [sys.executable, script, folder, Path(__file__).parent],
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    wait_for(lambda: being_written(folder) == 2)
    if how == "killed":
        caller.kill()
    else:
        os.killpg(caller.pid, signal.SIGINT)  # as a terminal does: to everybody
    _, said = caller.communicate(timeout=20)
    wait_for(lambda: not any(map(is_alive, pids(folder))), seconds=10)
    assert committed(folder) - {path.name for path in leftovers(folder)} == set()
    if how == "ctrl-c":
        assert leftovers(folder) == []
        assert said.count("Traceback") == 1, f"the caller's own and no worker's:\n{said}"


def test_without_processes_exceptions_are_tried_again_and_found_just_so(tmp_path):
    with contextlib.closing(InlinePool(partial(write_it, tmp_path), "a")) as pool:
        events = list(run_parts(pool, [["x", "raises-once", "raises"], ["y"]]))
    assert list(poisonous(events)) == ["raises"]
    assert committed(tmp_path) == {"x", "y", "raises-once"}
    assert pids(tmp_path) == [os.getpid()]
