"""Parts done by several processes: one device each, and no process or temporary file left however it ends."""

import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import made_codes as made
import pytest
from made_work import write_it

from snac_pipeline.codes.parts import part_files
from snac_pipeline.engine.local import run_parts
from snac_pipeline.errors import PipelineError


def wait_for(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def sleepers(folder: Path) -> list[int]:
    return [int(file.stem) for file in folder.glob("*.pid")]


def committed(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir() if file.suffix != ".pid"}


def test_every_part_is_done_once_and_each_process_keeps_its_device(tmp_path):
    parts = [f"part{i}" for i in range(12)]
    done = list(run_parts(partial(write_it, tmp_path), parts, ["a", "b"]))
    assert sorted(part for part, _, _ in done) == sorted(parts)
    assert {device for _, device, _ in done} == {"a", "b"}
    assert len({(device, pid) for _, device, pid in done}) == 2
    assert os.getpid() not in {pid for _, _, pid in done}


def test_one_device_or_one_part_is_done_right_here(tmp_path):
    for parts, devices in ((["x", "y"], ["a"]), (["x"], ["a", "b", "c"])):
        assert list(run_parts(partial(write_it, tmp_path), parts, devices)) == [(p, "a", os.getpid()) for p in parts]
    assert list(run_parts(partial(write_it, tmp_path), [], ["a", "b"])) == []


def test_an_error_in_a_part_is_raised_as_it_is_and_done_parts_stay(tmp_path):
    with pytest.raises(RuntimeError, match="wrong1 cannot be done"):
        list(run_parts(partial(write_it, tmp_path), ["fine", "wrong1", "fine2"], ["a", "b"]))
    assert "wrong1" not in committed(tmp_path)
    assert "fine" in committed(tmp_path)
    assert made.leftovers(tmp_path) == []


def test_a_killed_process_is_a_clear_error_and_the_others_clean_up(tmp_path):
    def kill_one():
        wait_for(lambda: len(sleepers(tmp_path)) == 2)
        os.kill(sleepers(tmp_path)[0], signal.SIGKILL)

    threading.Thread(target=kill_one).start()
    with pytest.raises(PipelineError, match=r"a worker process died.*run again"):
        list(run_parts(partial(write_it, tmp_path), ["fine", "slow1", "slow2", "later"], ["a", "b"]))
    assert "fine" in committed(tmp_path)
    assert not any(map(is_alive, sleepers(tmp_path)))
    assert len(made.leftovers(tmp_path)) == 1, "only the killed one's own"


def test_who_stops_listening_ends_the_processes(tmp_path):
    results = run_parts(partial(write_it, tmp_path), ["fine", "slow1", "slow2"], ["a", "b"])
    assert next(results)[0] == "fine"
    wait_for(lambda: len(sleepers(tmp_path)) == 2)
    began = time.monotonic()
    results.close()
    assert time.monotonic() - began < 10
    assert committed(tmp_path) == {"fine"}
    assert not any(map(is_alive, sleepers(tmp_path)))


CALLER = """
import sys
from functools import partial
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from made_work import write_it
from snac_pipeline.engine.local import run_parts
if __name__ == "__main__":
    list(run_parts(partial(write_it, Path(sys.argv[1])), ["slow1", "slow2"], ["a", "b"]))
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
    wait_for(lambda: len(sleepers(folder)) == 2)
    if how == "killed":
        caller.kill()
    else:
        os.killpg(caller.pid, signal.SIGINT)  # as a terminal does: to everybody
    _, said = caller.communicate(timeout=20)
    wait_for(lambda: not any(map(is_alive, sleepers(folder))), seconds=10)
    assert committed(folder) - {path.name for path in made.leftovers(folder)} == set()
    if how == "ctrl-c":
        assert made.leftovers(folder) == []
        assert said.count("Traceback") == 1, f"the caller's own and no worker's:\n{said}"


# With the codec -------------------------------------------------------------------------------------------------------


def test_after_a_killed_worker_the_next_run_completes_what_one_process_would_give(cached, codec, corpus, tmp_path):
    """Two processes, of which one is killed at the first progress; then two again."""
    utterances = made.utterances_of(corpus, tmp_path)
    parts = tmp_path / "codes" / cached[2]["fingerprint"]
    me = os.getpid()

    def kill_a_worker(event):
        if "fraction" in event:
            os.kill(max(workers_of(me)), signal.SIGKILL)

    with pytest.raises(PipelineError, match="a worker process died"):
        made.cache(codec, utterances, tmp_path, devices=["cpu", "cpu"], on_event=kill_a_worker, part_utterances=1)
    kept = {file: file.read_bytes() for file in part_files(parts)}
    assert 0 < len(kept) < len(utterances)

    result = made.cache(codec, utterances, tmp_path, devices=["cpu", "cpu"], part_utterances=1)
    assert result["encoded"] == len(utterances) - len(kept)
    assert all(file.read_bytes() == data for file, data in kept.items())
    made.assert_same_codes(made.all_rows(parts), made.all_rows(cached[0] / "codes" / parts.name))


def workers_of(parent: int) -> list[int]:
    """Spawned workers, by /proc: children of ours that run multiprocessing's `spawn_main`."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(") ")[2].split()
                if int(fields[1]) == parent and b"spawn_main" in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
            except (FileNotFoundError, ProcessLookupError):
                pass
    return found
