"""Targets at twice the codec's rate: which recordings count, what the loss looks at, and that results name the kind."""

import json

import polars as pl
import pytest
import torch
from made_training import DOUBLE, NATIVE, PHASE10, PHASE12, recipe_of

from snac_pipeline.errors import PipelineError
from snac_pipeline.training.targets import TRANSITION, countable, in_band, lowpass

RATE = 48_000

QUICK = {
    **PHASE12,
    "stages": [{"name": "main", "epochs": 1, "learning_rates": {"double_head": 1e-3}}],
    "curriculum": [{"epochs": 1, "seconds": 0.5}],
    "validation": {"utterances": 2, "seconds": 0.5},
}
"""One short epoch."""


def with_bandwidth(utterances, hertz):
    """`hertz`: a function of the row's number among its split, or one number."""
    values = hertz if callable(hertz) else lambda number: hertz
    numbers = utterances.select(pl.int_range(pl.len()).over("split")).to_series()
    return utterances.with_columns(bandwidth=pl.Series([values(number) for number in numbers], dtype=pl.Float32))


def trained(home, utterances, **changes):
    events = []
    recipe = recipe_of(QUICK, **changes)
    result = home.train(recipe, events.append, utterances=utterances)
    return result, [event["message"] for event in events]


# ---- which recordings --------------------------------------------------------------------------------------------


def test_of_native_targets_only_recordings_with_the_band_count_and_the_others_are_told(home):
    utterances = with_bandwidth(home.utterances, lambda number: 7_000.0 if number % 2 == 0 else 3_900.0)
    recipe = recipe_of(PHASE12, targets="native")
    run = home.plan(recipe, utterances=utterances)
    kept = {*run.train_rows["digest"], *run.val_rows["digest"]}
    wide = set(utterances.filter(pl.col("bandwidth") > 5_000)["digest"])
    assert 0 < len(wide) < len(utterances)
    assert kept <= wide and set(run.train_rows["digest"]) == wide & set(
        utterances.filter(pl.col("split") == "train")["digest"]
    )
    result, messages = trained(home, utterances, targets="native")
    left_out = len(utterances) - len(wide)
    assert (result["targets"], result["targets_left_out"]) == ("native", left_out)
    assert f"targets at 16 kHz are native: {left_out} recordings with less band are left out" in messages


@pytest.mark.parametrize(("share", "count"), [(0.5, 10), (0.65, 10), (0.66, 0), (1.0, 0)])
def test_native_is_measured_by_the_share_of_the_double_rate_s_band(home, share, count):
    utterances = with_bandwidth(home.utterances, 0.65 * DOUBLE / 2 + 1)
    recipe = recipe_of(PHASE12, targets="native", native_bandwidth=share)
    if count:
        assert len(countable(utterances, recipe, DOUBLE)) == count
    else:
        with pytest.raises(PipelineError, match=r"none of the \d+ recordings of the split train .* native_bandwidth"):
            countable(utterances, recipe, DOUBLE)


def test_other_data_in_native_targets_is_another_run(home):
    wide = with_bandwidth(home.utterances, 8_000.0)
    some = with_bandwidth(home.utterances, lambda number: 8_000.0 if number else 1_000.0)
    folders = {home.plan(recipe_of(PHASE12, targets="native"), utterances=rows).folder for rows in (wide, some)}
    folders.add(home.plan(recipe_of(PHASE12), utterances=some).folder)
    assert len(folders) == 3


# ---- what a result says ------------------------------------------------------------------------------------------


def test_resampled_targets_are_named_with_how_many_recordings_have_a_lower_rate(home):
    utterances = home.utterances.with_columns(sample_rate=pl.Series([8_000] * 4 + [22_050] * 6))
    run = home.plan(recipe_of(PHASE12), utterances=utterances)
    used = pl.concat([run.train_rows, run.val_rows])
    below = len(used.filter(pl.col("sample_rate") == 8_000))
    assert run.targets == {"targets": "resampled", "targets_rate": DOUBLE, "targets_below_rate": below}


def test_the_kind_is_in_the_result_file_and_a_run_without_a_double_head_has_none(home):
    result, messages = trained(home, home.utterances)
    assert result["targets"] == "resampled"
    assert any(message.startswith("targets at 16 kHz are resampled: 0 of ") for message in messages)
    file = json.loads((home.plan(recipe_of(QUICK)).folder / "result.json").read_text())
    assert file["targets"] == "resampled"
    assert home.plan(recipe_of(PHASE10)).targets == {}


# ---- the low-pass ------------------------------------------------------------------------------------------------


def tone(share, samples=4000, rate=RATE):
    """A sine at `share` of the rate, (1, 1, T)."""
    return torch.sin(2 * torch.pi * share * torch.arange(samples, dtype=torch.float64)).float()[None, None]


@pytest.mark.parametrize("cutoff", [3_000.0, 8_000.0, 15_000.0, 22_000.0])
def test_what_is_below_the_cut_off_stays_and_what_is_above_goes(cutoff):
    def level(hertz):
        kept = lowpass(tone(hertz / RATE), torch.tensor([cutoff]), RATE)[..., 500:-500]
        return 20 * torch.log10(kept.square().mean().sqrt() * 2**0.5)

    assert abs(level(cutoff - 1.1 * TRANSITION * RATE)) < 0.01
    assert level(cutoff) < -80
    assert level(min(0.499 * RATE, cutoff + 500)) < -80


def test_every_item_has_its_own_cut_off_and_full_band_is_left_alone_bit_for_bit():
    audio = torch.randn(3, 1, 1000)
    cutoffs = torch.tensor([5_000.0, 24_000.0, 0.0])
    together = lowpass(audio, cutoffs, RATE)
    torch.testing.assert_close(together[:1], lowpass(audio[:1], cutoffs[:1], RATE))
    assert torch.equal(together[1], audio[1])
    assert together[2].abs().max() == 0


def test_samples_that_do_not_exist_reach_no_others():
    first, second = torch.randn(2, 1, 1, 1000)
    changed = torch.cat([first[..., :700], second[..., 700:]], dim=-1)
    valid, cutoff = torch.tensor([700]), torch.tensor([9_000.0])
    a, b = (in_band(x, x, valid, cutoff, RATE)[0] for x in (first, changed))
    assert torch.equal(a, b)


def test_without_cut_offs_estimate_and_target_are_the_same_tensors():
    estimate, target = torch.randn(2, 1, 1, 100)
    assert all(a is b for a, b in zip(in_band(estimate, target, torch.tensor([100]), None, RATE), (estimate, target),
                                      strict=True))  # fmt: skip


def test_a_lowpassed_run_learns_nothing_from_above_the_cut_off(home):
    """With the target's upper band replaced the run has the same losses; at full band it has not."""
    from snac_pipeline.codec import double_rate
    from snac_pipeline.training.codebooks import CodebookCare
    from snac_pipeline.training.data import Batch
    from snac_pipeline.training.loop import training_step
    from snac_pipeline.training.model import build_model

    recipe = recipe_of(PHASE12, targets="lowpassed", noise="off")
    model = build_model(recipe, home.start())
    spec, frames = model.spec, 24
    codes = [torch.randint(spec.codebook_size, (1, n)) for n in spec.token_counts(frames)]
    low = double_rate(0.1 * torch.randn(1, 1, spec.samples(frames)))
    high = low + 0.3 * tone(0.45, spec.samples(frames, DOUBLE))
    zero, all_of_it = torch.zeros(1, dtype=torch.int64), torch.tensor([frames])

    def loss(target, cutoffs):
        batch = Batch([0], codes, None, {DOUBLE: target}, None, zero, all_of_it, zero, cutoffs)
        weights = {"native": 0.0, "double": 1.0}
        return training_step(recipe, model, batch, weights, CodebookCare(model, recipe.codebooks), 0).item()

    at_4k = {DOUBLE: torch.tensor([4_000.0])}
    # The tone begins and ends sharply, which is heard at every frequency.
    assert loss(high, at_4k) == pytest.approx(loss(low, at_4k), rel=0.02)
    assert loss(high, {}) > 1.3 * loss(low, {})


def test_cut_offs_reach_the_training_and_the_held_out_loss(home):
    full, cut = (with_bandwidth(home.utterances, hertz) for hertz in (8_000.0, 2_000.0))
    a, _ = trained(home, full, targets="lowpassed")
    b, _ = trained(home, cut, targets="lowpassed")
    c, _ = trained(home, full, targets="resampled")
    assert a["targets_lowpassed"] == 0 and b["targets_lowpassed"] == b["train_utterances"] + b["val_utterances"]
    assert a["baseline"] == c["baseline"] and a["weights_digest"] == c["weights_digest"]
    assert b["baseline"][str(NATIVE)] == c["baseline"][str(NATIVE)]
    assert b["baseline"][str(DOUBLE)] < c["baseline"][str(DOUBLE)]


# ---- recipes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "changes", "words"),
    [
        (PHASE10, {"targets": "native"}, "heads has no `double`"),
        (PHASE12, {"targets": "upsampled"}, "targets"),
        (PHASE10, {"heads": {"native": {"init": "random"}}}, "heads.native: `init` and `upsampler`"),
        (PHASE12, {"heads": {"double": {"init": "copy"}}}, "needs `upsampler: dense`"),
        (PHASE12, {"heads": {"double": {"init": "clever"}}}, "init"),
    ],
)
def test_recipes_that_ask_for_what_cannot_be_are_refused(content, changes, words):
    if "heads" in changes and "stages" in content:
        changes = {**changes, "stages": [{"name": "main", "epochs": 3, "learning_rates": {"trunk": 1e-3}}]}
    with pytest.raises(ValueError, match=words):
        recipe_of(content, **changes)
