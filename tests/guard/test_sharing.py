"""Taking GPUs: ours tell each other by locks, others are seen through NVML; warned of, waited for or refused."""

import contextlib
import os
import sys
import threading
from pathlib import Path

import psutil
import pytest
from made_nvml import MadeNvml

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))  # test_locks

from test_locks import holding

from snac_pipeline.engine.child import MARK
from snac_pipeline.engine.devices import worker_devices
from snac_pipeline.errors import PipelineError
from snac_pipeline.guard.sharing import gpus_to_take, hold, locks_folder, on_devices
from snac_pipeline.settings import Settings

NOBODY = MadeNvml([], [])
TWO = {"cuda:0": "GPU-made-0", "cuda:1": "GPU-made-1"}


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@pytest.fixture
def stranger(monkeypatch):
    """A process that is another user's, as far as this user's id tells."""
    uid = psutil.Process().uids().real
    monkeypatch.setattr(os, "getuid", lambda: uid + 1)
    monkeypatch.setattr("snac_pipeline.guard.sharing.locks_folder", lambda: Path(os.environ["XDG_RUNTIME_DIR"]))
    return os.getpid()


def held_by(rule="warn", nvml=NOBODY, identities=TWO, **options):
    """The devices to use, what was told, and what holds them."""
    told, held = [], contextlib.ExitStack()
    return hold(identities, nvml, "a test", rule, told.append, held, **options), told, held


def test_free_gpus_are_held_until_the_end_and_then_free_again():
    for _ in range(2):
        devices, told, held = held_by("refuse")
        with held:
            assert (devices, told) == (["cuda:0", "cuda:1"], [])
            with pytest.raises(PipelineError, match=f"cuda:0 is taken by process {os.getpid()} on .*; cuda:1 is taken"):
                held_by("refuse")


def test_a_gpu_that_is_named_twice_is_held_once_and_used_by_two(monkeypatch):
    monkeypatch.setattr("snac_pipeline.guard.sharing.find_devices", list)
    monkeypatch.setattr("snac_pipeline.guard.sharing._identities", lambda gpus: {gpu: TWO[gpu] for gpu in gpus})
    monkeypatch.setattr("snac_pipeline.guard.sharing.open_nvml", lambda: contextlib.nullcontext(NOBODY))
    corpora = {"c": {"path": "speech"}}
    settings = Settings(corpora=corpora, devices=["cuda:0", "cuda:0"], when_taken="refuse")
    with on_devices(settings, "a test", print, rest_is_enough=True) as ours:
        assert ours.devices == ["cuda:0", "cuda:0"]
        assert worker_devices(ours.devices, processes=0) == ["cuda:0", "cuda:0"]
        assert worker_devices(["cuda:0"], processes=2) == ["cuda:0", "cuda:0"]
        with (
            pytest.raises(PipelineError, match="cuda:0 is taken by process"),
            on_devices(settings, "another", print, rest_is_enough=True),
        ):
            pass


def test_a_gpu_of_another_home_is_warned_of_and_used_or_refused():
    with holding(locks_folder() / "GPU-made-1.lock") as other:
        devices, [words], held = held_by("warn")
        held.close()
        assert devices == ["cuda:0", "cuda:1"]
        assert f"cuda:1 is taken by process {other.pid} on " in words and "(making a test wait)" in words
        with pytest.raises(PipelineError, match=r"cuda:1 is taken by .*choose other `devices`"):
            held_by("refuse")
        devices, _, held = held_by("refuse", identities={"cuda:0": TWO["cuda:0"]})
        held.close()
        assert devices == ["cuda:0"]


def test_a_gpu_is_waited_for_until_it_is_free():
    with holding(locks_folder() / "GPU-made-0.lock") as other:
        threading.Timer(0.6, lambda: (other.stdin.write("\n"), other.stdin.flush())).start()
        devices, told, held = held_by("wait")
        held.close()
    assert devices == ["cuda:0", "cuda:1"]
    assert [words.startswith("waiting: cuda:0 is taken by process ") for words in told] == [True]


def test_caching_takes_what_is_free_whatever_the_rule():
    with holding(locks_folder() / "GPU-made-0.lock"):
        for rule in ("warn", "wait", "refuse"):
            devices, [words], held = held_by(rule, rest_is_enough=True)
            held.close()
            assert devices == ["cuda:1"] and words.endswith("; cuda:1 do the work")


def test_somebody_elses_process_is_named_with_owner_and_id(stranger):
    nvml = MadeNvml([(stranger, 1 << 30)], [])
    devices, [words], held = held_by("warn", nvml)
    held.close()
    owner = psutil.Process(stranger).username()
    assert devices == ["cuda:0", "cuda:1"] and f"cuda:0 is taken by process {stranger} of {owner} (" in words
    with pytest.raises(PipelineError, match=f"process {stranger} of {owner}"):
        held_by("refuse", nvml)


def test_ones_own_other_processes_are_no_strangers():
    devices, told, held = held_by("refuse", MadeNvml([(os.getpid(), None)], []))
    held.close()
    assert (devices, told) == (["cuda:0", "cuda:1"], [])


def test_the_first_process_of_a_torchrun_by_hand_takes_the_gpus_of_all_and_those_of_our_own_leave_them_to_the_command():
    both = ["cuda:0", "cuda:1"]
    assert gpus_to_take(both, {}) == gpus_to_take(both, {MARK: "a step of Dagster's"}) == both
    of_two, alone = ({"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": size} for size in "21")
    assert gpus_to_take(both, of_two) == both and gpus_to_take(both, of_two | {"LOCAL_RANK": "1"}) == []
    assert gpus_to_take(both, alone) == ["cuda:0"]
    assert gpus_to_take(both, of_two | {MARK: "our own"}) == []
    assert gpus_to_take(["cpu", "cpu"], {}) == gpus_to_take(["cpu", "cpu"], of_two) == []


def test_a_folder_of_locks_that_somebody_else_made_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(PipelineError, match="belongs to somebody else"):
        locks_folder()
