"""A run that was killed or interrupted goes on as if nothing had been, bit for bit."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest
import torch
import yaml
from made_training import (
    INTERRUPTED,
    PHASE10,
    PHASE12,
    SCRATCH,
    recipe_of,
    start_training,
    steps_saved,
    wait_for,
)
from safetensors.torch import load_file

from snac_pipeline.errors import PipelineError
from snac_pipeline.training.data import read_batches

SAME = ("steps", "baseline", "final", "improvement_interval", "stages", "best", "weights_digest")


def outcome(home, content):
    """What a finished run ended with: figures, final weights, and the loss of every step."""
    recipe = recipe_of(content)
    run = home.plan(recipe)
    result = run.result()
    return {name: result[name] for name in SAME}, (run.folder / "history.jsonl").read_text()


@pytest.fixture(scope="module")
def uninterrupted(shared, tmp_path_factory):
    """`outcome` of a recipe that is trained in one go; each recipe once."""
    known = {}

    def train(content):
        key = json.dumps(content)
        if key not in known:
            home = shared.copy(tmp_path_factory.mktemp("uninterrupted"))
            home.train(recipe_of(content))
            known[key] = outcome(home, content)
        return known[key]

    return train


def end(home, content, cadence, at, number):
    """Train in a process that gets the signal `number` when the checkpoint of step `at` is there; the newest step.

    SIGKILL comes while the next step is done, or after it, but before anything else is saved.
    """
    content = {**content, "checkpoints": {"every_steps": cadence, "keep": 3}}
    run = home.plan(recipe_of(content)).folder
    child = start_training(home, content, hold_at=at + 1 if number == signal.SIGKILL else None)
    wait_for(lambda: at in steps_saved(run) or not child.is_alive())
    os.kill(child.pid, number)
    child.join()
    assert child.exitcode == (INTERRUPTED if number != signal.SIGKILL else -signal.SIGKILL)
    assert not (run / "result.json").exists()
    return steps_saved(run)[-1]


def resume(home, content):
    """Train on in this process; the step that it resumed at."""
    events = []
    home.train(recipe_of(content), events.append)
    return next(event["step"] for event in events if event["message"].startswith("resuming"))


# Steps per epoch: 5, 5, 5. The first epoch ends a lesson of the curriculum and, in phase 12, a stage.
PHASE11 = {
    **PHASE12,
    "phase": "phase11",
    "heads": {"double": {"n_ffts": [64, 512]}},
    "stages": [{**stage, "head_weights": {}} for stage in PHASE12["stages"]],
}
AVERAGED = {**PHASE10, "ema": 0.9, "keep_best": True}
OPTIONS = {**PHASE12, "precision": "bf16", "accumulate": 2, "ema": 0.9, "keep_best": True}  # steps: 3, 3, 3
FROM_AUDIO = {**SCRATCH, "accumulate": 2, "ema": 0.9}

KILLS = {
    "phase12, between lessons and stages": (PHASE12, 20, 5),
    "scratch, with codes that move": (SCRATCH, 7, 7),
}
MORE_KILLS = {
    "phase10, first step": (PHASE10, 1, 1),
    "phase10, mid-epoch": (PHASE10, 3, 3),
    "phase10, between lessons": (PHASE10, 20, 5),
    "phase10, last step but one": (PHASE10, 14, 14),
    "phase10, readers in a process, between lessons": ({**PHASE10, "loader_workers": 1}, 20, 5),
    "phase10, readers in two processes, mid-epoch": ({**PHASE10, "loader_workers": 2}, 7, 7),
    "phase10, averaged": (AVERAGED, 6, 6),
    "phase11, in its warm-up": (PHASE11, 2, 2),
    "phase11, between stages": (PHASE11, 20, 5),
    "phase11, main": (PHASE11, 12, 12),
    "phase12, in its warm-up": (PHASE12, 3, 3),
    "phase12, mid-epoch": (PHASE12, 7, 7),
    "phase12, every option, in its warm-up": (OPTIONS, 2, 2),
    "phase12, every option, between stages": (OPTIONS, 20, 3),
    "phase12, every option, main": (OPTIONS, 7, 7),
    "scratch, before codes are rounded": (SCRATCH, 2, 2),
    "scratch, as codes begin": (SCRATCH, 4, 4),
    "scratch, between lessons": (SCRATCH, 20, 5),
    "scratch, averaged, readers in a process": ({**FROM_AUDIO, "loader_workers": 1}, 4, 4),
}


def ends_the_same_when_killed(home, uninterrupted, content, cadence, at):
    assert end(home, content, cadence, at, signal.SIGKILL) == at
    assert resume(home, content) == at
    assert outcome(home, content) == uninterrupted({**content, "loader_workers": 0})


@pytest.mark.parametrize("content, cadence, at", KILLS.values(), ids=KILLS)
def test_a_killed_run_ends_as_an_uninterrupted_one(home, uninterrupted, content, cadence, at):
    ends_the_same_when_killed(home, uninterrupted, content, cadence, at)


@pytest.mark.slow
@pytest.mark.parametrize("content, cadence, at", MORE_KILLS.values(), ids=MORE_KILLS)
def test_wherever_it_was_killed_a_run_ends_as_an_uninterrupted_one(home, uninterrupted, content, cadence, at):
    ends_the_same_when_killed(home, uninterrupted, content, cadence, at)


# Half of what is written, or removed, is there when the process is killed: with a checkpoint at every step and at every
# epoch's end, call 7 of what writes one is that of the first epoch's second saving of step 5 or later.
HALVES = {
    "the first weights": (PHASE10, "safetensors.torch", "save_file", 1),
    "weights": (PHASE12, "safetensors.torch", "save_file", 4),
    "the state": (PHASE12, "torch", "save", 4),
    "the state at a lesson's end": (SCRATCH, "torch", "save", 6),
    "an old checkpoint that goes": (PHASE10, "shutil", "rmtree", 2),
    "the best model": (AVERAGED, "safetensors.torch", "save_file", 7),
}


@pytest.mark.slow
@pytest.mark.parametrize("content, module, name, call", HALVES.values(), ids=HALVES)
def test_killed_in_the_middle_of_writing_a_run_ends_as_an_uninterrupted_one(
    home, uninterrupted, content, module, name, call
):
    child = start_training(home, {**content, "checkpoints": {"every_steps": 1}}, dies_in=(module, name, call))
    child.join()
    assert child.exitcode == -signal.SIGKILL
    run = home.plan(recipe_of(content)).folder
    assert not (run / "result.json").exists()
    home.train(recipe_of(content))
    assert outcome(home, content) == uninterrupted(content)
    assert [path.name for path in run.rglob(".tmp-*")] == []


def test_an_interrupted_run_has_a_checkpoint_of_its_last_step_and_ends_the_same(home, uninterrupted):
    newest = end(home, PHASE12, 2, 2, signal.SIGTERM)
    assert resume(home, PHASE12) == newest
    assert outcome(home, PHASE12) == uninterrupted(PHASE12)


@pytest.mark.slow
def test_killed_and_resumed_again_and_again(home, uninterrupted):
    for at in (3, 6, 12):
        end(home, PHASE12, 3, at, signal.SIGKILL)
    resume(home, PHASE12)
    assert outcome(home, PHASE12) == uninterrupted(PHASE12)


def test_a_checkpoint_that_was_being_written_is_not_resumed_from_and_goes_away(home, uninterrupted):
    end(home, PHASE10, 3, 3, signal.SIGKILL)
    checkpoints = home.plan(recipe_of(PHASE10)).folder / "checkpoints"
    half = checkpoints / ".tmp-half"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    resume(home, PHASE10)
    assert outcome(home, PHASE10) == uninterrupted(PHASE10)
    assert not half.exists()


@pytest.mark.parametrize("file", ["state.pt", "model.safetensors"])
def test_a_damaged_checkpoint_is_told_and_the_one_before_is_gone_on_from(home, uninterrupted, file):
    end(home, PHASE10, 3, 6, signal.SIGKILL)
    run = home.plan(recipe_of(PHASE10)).folder
    newest = run / "checkpoints" / "step-000000006"
    (newest / file).write_bytes((newest / file).read_bytes()[:-1000])
    events = []
    home.train(recipe_of(PHASE10, checkpoints={"every_steps": 3, "keep": 9}), events.append)
    assert re.match(f"the checkpoint {newest} is damaged .*; going back", events[0]["message"])
    assert events[1]["message"] == "resuming at step 5"
    assert outcome(home, PHASE10) == uninterrupted(PHASE10)
    assert load_file(newest / "model.safetensors") and torch.load(newest / "state.pt")["progress"]["step"] == 6


def test_where_every_checkpoint_is_damaged_nothing_is_trained(home):
    end(home, PHASE10, 3, 3, signal.SIGKILL)
    run = home.plan(recipe_of(PHASE10)).folder
    for state in run.glob("checkpoints/*/state.pt"):
        state.write_bytes(b"")
    with pytest.raises(PipelineError, match=f"no checkpoint of {run} can be read; restore one from a copy"):
        home.train(recipe_of(PHASE10))


def test_ctrl_c_on_the_command_line_exits_with_130_and_the_run_goes_on(home, uninterrupted):
    content = {**PHASE10, "loader_workers": 0}
    recipe = recipe_of(content)
    (home.folder / "recipe.yaml").write_text(yaml.safe_dump({**content, "checkpoints": {"every_steps": 1}}))
    command = [sys.executable, "-m", "snac_pipeline.cli", "train", "decoder_24khz", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = home.plan(recipe).folder
    child = subprocess.Popen(command, cwd=home.folder, env=environment, stdout=subprocess.PIPE, text=True)
    wait_for(lambda: steps_saved(run) or child.poll() is not None)
    child.send_signal(signal.SIGINT)
    printed, _ = child.communicate(timeout=60)
    assert child.returncode == 130
    last = json.loads(printed.splitlines()[-1])
    newest = steps_saved(run)[-1]
    assert last["event"] == "error"
    assert last["message"].startswith(f"stopped at step {newest} of 15; run it again")
    assert resume(home, content) == newest
    assert outcome(home, content) == uninterrupted(PHASE10)


@pytest.mark.slow
def test_readers_in_other_processes_change_nothing_and_survive_ctrl_c(home, uninterrupted):
    """Ctrl-C in a terminal reaches every process of the group, the loader's workers too."""
    content = {**PHASE10, "loader_workers": 1, "checkpoints": {"every_steps": 1}}
    run = home.plan(recipe_of(content)).folder
    child = start_training(home, content, group=True)
    wait_for(lambda: steps_saved(run) or not child.is_alive())
    os.killpg(child.pid, signal.SIGINT)
    child.join()
    assert child.exitcode == INTERRUPTED
    newest = steps_saved(run)[-1]
    assert resume(home, content) == newest
    assert outcome(home, content) == uninterrupted(PHASE10)


def test_reading_ahead_draws_none_of_training_s_random_numbers():
    """It starts once more in a resumed epoch, whose noise has to be the same."""
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert list(read_batches([], [], workers=0)) == []
    assert torch.equal(torch.get_rng_state(), before)
