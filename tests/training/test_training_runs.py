"""Whole trainings of a thin codec on real speech, in their run folders."""

import json

import polars as pl
import pytest
import torch
from made_training import (
    DOUBLE,
    NATIVE,
    PHASE10,
    PHASE12,
    SCRATCH,
    recipe_of,
    start_training,
    steps_saved,
    wait_for,
)

from snac_pipeline.codec import SNAC, weights_digest
from snac_pipeline.corpus import UnreadableAudio
from snac_pipeline.errors import PipelineError
from snac_pipeline.training import loop
from snac_pipeline.training.model import build_model, group_of
from snac_pipeline.training.runs import TRAINING_REVISION
from snac_pipeline.training.schedules import learning_rate_factor

from geometries import build  # isort: skip


def events_of(home, recipe, **changes):
    events = []
    return home.train(recipe, events.append, **changes), events


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed_groups(before, after, model):
    return {group_of(name, model) for name, _ in model.named_parameters() if not torch.equal(before[name], after[name])}


# ---- one run -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def phase12(shared, tmp_path_factory):
    """A finished run of phase 12: home, recipe, result, events."""
    home, recipe = shared.copy(tmp_path_factory.mktemp("phase12")), recipe_of(PHASE12)
    result, events = events_of(home, recipe)
    return home, recipe, result, events


def test_the_held_out_loss_falls_at_both_rates(phase12):
    _, _, result, _ = phase12
    for rate in (NATIVE, DOUBLE):
        assert result["final"][str(rate)] < result["baseline"][str(rate)]
        assert result["improvement"][str(rate)] == pytest.approx(
            1 - result["final"][str(rate)] / result["baseline"][str(rate)]
        )
        low, high = result["improvement_interval"][str(rate)]
        assert 0 < low < result["improvement"][str(rate)] < high


def test_the_baseline_is_the_untrained_model_s_and_comes_first(phase12):
    home, recipe, result, events = phase12
    first = next(event for event in events if f"val_{NATIVE}" in event)
    assert first["message"].startswith("before training")
    kept = json.loads((home.plan(recipe).folder / "baseline_metrics.json").read_text())
    whole = kept["whole"]
    assert {rate: sum(values) / len(values) for rate, values in whole.items()} == pytest.approx(result["baseline"])
    assert all(len(values) == recipe.validation.utterances for values in whole.values())


def test_the_run_folder_has_what_it_promises(phase12):
    home, recipe, result, _ = phase12
    folder = home.plan(recipe).folder
    assert {file.name for file in folder.iterdir()} == {
        "baseline_metrics.json", "best", "checkpoints", "curve.png", "history.jsonl", "inputs.json", "lock", "log.txt",
        "model", "progress.json", "recipe.yaml", "result.json",
    }  # fmt: skip
    assert str(folder) == result["run"]
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((folder / "result.json").read_text())["weights_digest"] == result["weights_digest"]
    facts = json.loads((folder / "inputs.json").read_text())
    assert facts["recipe"] == recipe.identity()
    assert facts["revision"] == TRAINING_REVISION
    assert len(steps_saved(folder)) == recipe.checkpoints.keep


def test_the_saved_model_is_the_measured_one(phase12):
    home, _, result, _ = phase12
    model = SNAC.from_pretrained(result["model"])
    assert weights_digest(model.state_dict()) == result["weights_digest"]
    assert model.spec.output_rates == (NATIVE, DOUBLE)
    assert weights_digest(model.state_dict(), ("encoder.", "quantizer.")) == weights_digest(
        home.start().state_dict(), ("encoder.", "quantizer.")
    )


def test_the_history_has_every_step_and_every_measurement(phase12):
    home, recipe, result, _ = phase12
    lines = (home.plan(recipe).folder / "history.jsonl").read_text().splitlines()
    history = [json.loads(line) for line in lines]
    steps = [entry for entry in history if "loss" in entry]
    measured = [entry for entry in history if f"val_{NATIVE}" in entry]
    assert [entry["step"] for entry in steps] == list(range(1, result["steps"] + 1))
    assert [entry["epoch"] for entry in measured] == list(range(recipe.epochs))
    assert measured[-1][f"val_{DOUBLE}"] == pytest.approx(result["final"][str(DOUBLE)])
    first, main = (sum(entry["epoch"] in epochs for entry in steps) for epochs in ((0,), (1, 2)))
    factors = [1.0] * first + [learning_rate_factor(recipe.stages[1], step, main) for step in range(main)]
    assert [entry["rate"] for entry in steps] == pytest.approx(factors)


def test_the_warm_up_leaves_the_24_khz_output_as_it_was(phase12):
    home, recipe, result, _ = phase12
    history = map(json.loads, (home.plan(recipe).folder / "history.jsonl").read_text().splitlines())
    after_warm_up = next(entry for entry in history if f"val_{NATIVE}" in entry)
    assert after_warm_up[f"val_{NATIVE}"] == pytest.approx(result["baseline"][str(NATIVE)], rel=1e-12)
    assert after_warm_up[f"val_{DOUBLE}"] < result["baseline"][str(DOUBLE)]


def test_the_same_call_again_trains_nothing(phase12):
    home, _, result, _ = phase12
    again, events = events_of(home, recipe_of(PHASE12, loader_workers=3, checkpoints={"keep": 5}))
    assert events == []
    assert again.pop("reused")
    assert json.loads(json.dumps(result)) == {**again, "reused": False}


def test_whatever_changes_the_result_is_another_run(phase12):
    home, recipe, _, _ = phase12
    rows = home.utterances
    train_row = rows.filter(rows["split"] == "train")["digest"][0]
    folders = [
        home.plan(recipe).folder,
        home.plan(recipe_of(PHASE12, seed=1)).folder,
        home.plan(recipe_of(PHASE12, batch_size=3)).folder,
        home.plan(recipe, limit=3).folder,
        home.plan(recipe, utterances=rows.filter(rows["digest"] != train_row)).folder,
    ]
    with torch.no_grad():
        other = home.start()
        next(other.decoder.parameters()).mul_(1.01)
    folders.append(home.plan(recipe, start=other).folder)
    assert len(set(folders)) == len(folders)


def test_a_limit_takes_that_many_utterances_and_always_the_same(phase12):
    home, recipe, _, _ = phase12
    assert home.plan(recipe, limit=4).facts["inputs"]["limit"] == 4
    few, fewer = home.plan(recipe, limit=4).train_rows, home.plan(recipe, limit=2).train_rows
    assert (len(few), len(fewer)) == (4, 2)
    assert few["digest"][:2].to_list() == fewer["digest"].to_list()
    assert set(few["split"]) == {"train"}


# ---- what learns ---------------------------------------------------------------------------------------------------


def test_at_every_step_each_part_has_its_own_rate_and_a_frozen_one_no_gradient(home, monkeypatch):
    """Every step of a real run is watched through the optimizer that it really steps."""
    seen, step = [], torch.optim.AdamW.step

    def watched(optimizer, *args, **kwargs):
        rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
        gradients = {g["name"] for g in optimizer.param_groups if any(p.grad is not None for p in g["params"])}
        seen.append((rates, gradients))
        return step(optimizer, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    recipe = recipe_of(PHASE12)
    result = home.train(recipe)
    warm_up = [rates for rates, gradients in seen if gradients == {"double_head"}]
    main = [rates for rates, gradients in seen if gradients == {"double_head", "trunk", "native_head"}]
    assert len(warm_up) + len(main) == len(seen) == result["steps"]
    assert all(rates == {"double_head": 2e-3, "trunk": 0.0, "native_head": 0.0} for rates in warm_up)
    for i, rates in enumerate(main):
        factor = learning_rate_factor(recipe.stages[1], i, len(main))
        assert rates == pytest.approx(
            {"double_head": 2e-3 * factor, "trunk": 1e-3 * factor, "native_head": 5e-4 * factor}
        )
    assert max(rates["trunk"] for rates in main) > 0.9e-3


def test_a_48_khz_warm_up_changes_its_head_alone_and_lowers_the_held_out_loss(home):
    """Phase 11's first stage, whose 24 kHz output nothing looks at."""
    stages = [{"name": "warm-up", "epochs": 3, "learning_rates": {"double_head": 5e-3}, "schedule": "constant"}]
    recipe = recipe_of(PHASE10, phase="phase11", heads={"double": {"n_ffts": [64, 512]}}, stages=stages)
    before = build_model(recipe, home.start())
    result = home.train(recipe)
    after = SNAC.from_pretrained(result["model"])
    assert changed_groups(state_of(before), state_of(after), after) == {"double_head"}
    assert set(result["final"]) == {str(DOUBLE)}
    assert result["improvement_interval"][str(DOUBLE)][0] > 0


def test_a_stage_that_freezes_the_quantizer_freezes_its_codebooks_too(home):
    """Codes that nothing chooses are moved only while the quantizer learns."""
    stages = [
        {"name": "decoder", "epochs": 2, "learning_rates": {"trunk": 1e-3, "native_head": 1e-3}},
        {"name": "all", "epochs": 1, "learning_rates": dict.fromkeys(("encoder", "quantizer", "trunk"), 0.0)},
    ]
    recipe = recipe_of(PHASE10, stages=stages, codebooks={"restart_every": 2, "restart_until": 0.5})
    before = home.start()
    after = SNAC.from_pretrained(home.train(recipe)["model"])
    assert changed_groups(state_of(before), state_of(after), after) == {"trunk", "native_head"}


def test_encoder_and_quantizer_can_be_trained_on_from_audio(home):
    parts = ("encoder", "quantizer", "trunk", "native_head")
    recipe = recipe_of(PHASE10, stages=[{"name": "all", "epochs": 3, "learning_rates": dict.fromkeys(parts, 1e-3)}])
    before, result = home.start(), home.train(recipe)
    after = SNAC.from_pretrained(result["model"])
    assert changed_groups(state_of(before), state_of(after), after) == set(parts)
    assert result["codes_fingerprint"] is None
    assert result["improvement"][str(NATIVE)] > 0


def test_codes_given_to_a_recipe_that_changes_them_are_refused(home):
    """Trained from them, the encoder would learn nothing and no one would be told."""
    parts = ("encoder", "quantizer", "trunk", "native_head")
    recipe = recipe_of(PHASE10, stages=[{"name": "all", "epochs": 3, "learning_rates": dict.fromkeys(parts, 1e-3)}])
    codes = home.inputs(recipe_of(PHASE10)).codes_fingerprint
    with pytest.raises(AssertionError):
        home.plan(recipe, codes_fingerprint=codes)


# ---- what is refused -----------------------------------------------------------------------------------------------


def test_codes_of_another_encoder_are_refused(home):
    stranger = build(home.start().spec, seed=5)
    with pytest.raises(PipelineError, match="cached codes are those of encoder"):
        home.plan(recipe_of(PHASE10), start=stranger)


def test_a_decoder_recipe_without_codes_is_refused(home):
    with pytest.raises(PipelineError, match="run `cache` first"):
        home.plan(recipe_of(PHASE10), codes_fingerprint=None)


@pytest.mark.parametrize("split", ["train", "val"])
def test_one_side_without_utterances_is_refused(home, split):
    rows = home.utterances
    with pytest.raises(PipelineError, match="both need at least one"):
        home.plan(recipe_of(PHASE10), utterances=rows.filter(rows["split"] != split))


def test_an_utterance_without_codes_is_named(home):
    for part in (home.work / "codes").glob("*/part-*.parquet"):
        part.unlink()
        break
    with pytest.raises(PipelineError, match="run `snac-pipeline cache`"):
        home.train(recipe_of(PHASE10))


def test_a_loss_that_is_not_finite_names_step_files_and_the_last_checkpoint(home):
    stages = [{**PHASE10["stages"][0], "learning_rates": {"trunk": 1e30, "native_head": 1e30}, "schedule": "constant"}]
    recipe = recipe_of(PHASE10, stages=stages, checkpoints={"every_steps": 1})
    with pytest.raises(PipelineError, match="not finite at step 2 ") as error:
        home.train(recipe)
    run = home.plan(recipe)
    utterances = run.train_rows.select("digest", "file").rows()
    assert sum(f"{digest} ({file})" in str(error.value) for digest, file in utterances) >= 1
    assert f"last good checkpoint is {run.folder / 'checkpoints' / 'step-000000001'}" in str(error.value)
    assert run.result() is None


def test_a_loss_that_is_not_finite_at_once_says_that_there_is_no_checkpoint(home):
    start = home.start()
    with torch.no_grad():
        start.decoder.model[-2].bias.fill_(float("nan"))
    with pytest.raises(PipelineError, match=r"not finite at step 1 \(epoch 1\).*there is no checkpoint yet"):
        home.train(recipe_of(PHASE10), start=start)


def test_a_held_out_utterance_of_a_twentieth_second_is_measured(home):
    """Corpora have them; a coarse frame is shorter than half of the largest STFT window."""
    short = {"utterances": 3, "seconds": 0.032}
    recipe = recipe_of(PHASE10, heads={"native": {"n_ffts": [64, 1024]}}, validation=short)
    assert home.train(recipe)["final"][str(NATIVE)] > 0


def test_a_second_process_on_the_same_run_is_told_so(home):
    recipe = recipe_of(PHASE10)
    first = start_training(home, PHASE10, hold_at=2)
    try:
        wait_for((home.plan(recipe).folder / "baseline_metrics.json").exists)
        with pytest.raises(PipelineError, match="another process is training"):
            home.train(recipe)
    finally:
        first.kill()
        first.join()


# ---- what a run reports --------------------------------------------------------------------------------------------


def test_progress_says_step_loss_and_how_much_is_done(home, monkeypatch):
    monkeypatch.setattr(loop, "LOG_SECONDS", 0.0)
    result, events = events_of(home, recipe_of(SCRATCH))
    steps = [event for event in events if "fraction" in event]
    assert [event["step"] for event in steps] == list(range(1, result["steps"] + 1))
    assert steps[-1]["fraction"] == 1.0
    assert all(1 <= use <= 32 for event in steps for use in event["codebook_perplexity"])
    assert all("message" in event for event in events)


def test_a_recording_that_is_damaged_meanwhile_is_named(home, tmp_path):
    damaged = tmp_path / "damaged.flac"
    damaged.write_bytes(b"no longer audio")
    rows = home.utterances.with_columns(file=pl.when(split="train").then(pl.lit(str(damaged))).otherwise("file"))
    with pytest.raises(UnreadableAudio, match=str(damaged)):
        home.train(recipe_of(PHASE10), utterances=rows)
