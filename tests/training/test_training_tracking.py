"""What can be followed while a run trains: trackers, the log, and where the run stands."""

import json
import os
import re
import subprocess
import sys
import textwrap

import pytest
from made_training import NATIVE, PHASE10, recipe_of, start_training, wait_for

from snac_pipeline.errors import PipelineError
from snac_pipeline.settings import load_settings
from snac_pipeline.status import home_status, run_line
from snac_pipeline.training.runs import execute_run
from snac_pipeline.training.tracking import open_tracker

STAND_IN = {
    "wandb": """
        class Audio:
            def __init__(self, samples, sample_rate): self.samples, self.rate = samples, sample_rate
        class Run:
            def log(self, figures, step):
                for name, value in figures.items(): tell(step, name, value)
            def finish(self): print("closed")
        def init(project, id, name, dir, resume, config): print("opened", id); return Run()
    """,
    "mlflow": """
        from types import SimpleNamespace
        def set_experiment(name): pass
        def start_run(run_id, run_name):
            print("opened", run_id or run_name)
            return SimpleNamespace(info=SimpleNamespace(run_id="known-by-its-id"))
        def log_dict(content, name): assert content == {"a": 1}
        def log_metrics(figures, step):
            for name, value in figures.items(): tell(step, name, value)
        def log_artifact(file, artifact_path):
            import soundfile
            samples, rate = soundfile.read(file)
            print("heard", artifact_path, rate, len(samples))
        def end_run(): print("closed")
    """,
    "trackio": """
        class Audio:
            def __init__(self, samples, sample_rate): self.samples, self.rate = samples, sample_rate
        def init(project, name, resume, config): print("opened", name)
        def log(figures, step):
            for name, value in figures.items(): tell(step, name, value)
        def finish(): print("closed")
    """,
}
TELL = """
def tell(step, name, value):
    if hasattr(value, "samples"): print("heard", name, value.rate, len(value.samples))
    else: print(step, name, value)
"""
FOLLOW = """
import sys, pathlib, numpy as np
from snac_pipeline.training.tracking import open_tracker
for attempt in range(2):
    tracker = open_tracker(sys.argv[1], pathlib.Path(sys.argv[2]), {"a": 1})
    tracker.log_scalars(3, {"loss": 0.5, "codebook_perplexity": [1.0, 2.0]})
    tracker.log_audio(3, "held_out_0_8000", np.zeros(80, np.float32), 8000)
    tracker.close()
assert {"wandb", "mlflow", "trackio", "tensorboard"} & set(sys.modules) == {sys.argv[1]}
"""


@pytest.mark.parametrize("name", STAND_IN)
def test_a_tracker_hears_all_that_the_loop_says_and_only_its_package_is_imported(tmp_path, name):
    (tmp_path / f"{name}.py").write_text(TELL + textwrap.dedent(STAND_IN[name]))
    (tmp_path / "run-1").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", FOLLOW, name, str(tmp_path / "run-1")],
        env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    again = "known-by-its-id" if name == "mlflow" else "run-1"
    said = ["3 loss 0.5", "3 codebook_perplexity/0 1.0", "3 codebook_perplexity/1 2.0", "heard held_out_0_8000 8000 80"]
    assert done.stdout.splitlines() == ["opened run-1", *said, "closed", f"opened {again}", *said, "closed"]


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio", "tensorboard"])
def test_a_tracker_whose_package_is_missing_says_what_to_install(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(PipelineError, match=f"`training.tracker` is {name}, but the package {name} is not installed"):
        open_tracker(name, tmp_path, {})


def test_tensorboard_gets_curves_and_sounds_of_a_run(home):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = recipe_of(PHASE10)
    plan = home.plan(recipe)
    execute_run(plan, "cpu", lambda event: None, tracker="tensorboard")
    shown = EventAccumulator(str(plan.folder / "tensorboard"), size_guidance={"scalars": 0, "audio": 0}).Reload()
    history = [json.loads(line) for line in (plan.folder / "history.jsonl").read_text().splitlines()]
    losses = [(entry["step"], entry["loss"]) for entry in history if "loss" in entry]
    assert [(event.step, event.value) for event in shown.Scalars("loss")] == [(s, pytest.approx(v)) for s, v in losses]
    assert {f"val_{NATIVE}", "gradient_norm", "learning_rate_trunk"} <= set(shown.Tags()["scalars"])
    sounds = shown.Audio(f"held_out_0_{NATIVE}")
    assert [(sound.step, sound.sample_rate) for sound in sounds] == [(5, NATIVE), (10, NATIVE), (15, NATIVE)]


# ---- the log and the status ----------------------------------------------------------------------------------------


def test_status_tells_where_a_run_stands_while_it_trains_after_and_when_it_was_killed(home):
    settings, run = load_settings(home.folder / "pipeline.yaml"), home.plan(recipe_of(PHASE10)).folder
    child = start_training(home, PHASE10, hold_at=7)
    try:
        wait_for(lambda: "step 7/15" in (run / "log.txt").read_text() if (run / "log.txt").exists() else False)
        told = home_status(settings)["runs"][run.name]
        assert (told["state"], told["pid"], told["device"]) == ("running", child.pid, "cpu")
        assert (told["epoch"], told["epochs"], told["step"], told["steps"]) == (2, 3, 7, 15)
        assert told["seconds_left"] > 0 and told["gpu_memory_bytes"] is None
        line = (
            rf"running, epoch 2 of 3, step 7 of 15, loss {told['loss']:.4f}, \d+ min left, PID {child.pid} on .*, cpu"
        )
        assert re.fullmatch(line, run_line(told))
    finally:
        child.kill()
        child.join()
    told = home_status(settings)["runs"][run.name]
    assert (told["state"], told["last_checkpoint"]) == ("begun", "step-000000005")
    assert run_line(told).endswith(f"loss {told['loss']:.4f}, to be resumed from step-000000005")
    home.train(recipe_of(PHASE10))
    told = home_status(settings)["runs"][run.name]
    assert told["state"] == "finished" and told["steps"] == 15
    assert re.fullmatch(r"finished, 15 steps, held-out loss improved: 8000 Hz \+\d+\.\d%", run_line(told))
    log = (run / "log.txt").read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  \S", line) for line in log)
    assert sum("resuming at step 5" in line for line in log) == 1
