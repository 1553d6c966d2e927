"""The decoder's noise in training: on, off or seeded; trained or frozen; and what a loss leaves of it."""

import json

import numpy as np
import pytest
import torch
from made_training import CODEC, NATIVE, PHASE10, recipe_of

from snac_pipeline.codec import SNAC, CodecSpec, Noise
from snac_pipeline.codes.fingerprint import encoder_fingerprint
from snac_pipeline.codes.parts import codes_folder
from snac_pipeline.codes.view import CodesView, build_view
from snac_pipeline.training.codebooks import CodebookCare
from snac_pipeline.training.data import Batch, SpeechSlices, collate
from snac_pipeline.training.loop import training_step
from snac_pipeline.training.losses import reconstruction_losses
from snac_pipeline.training.model import build_model, build_optimizer, enter_stage, initialise
from snac_pipeline.training.noise_branch import NoiseGain, noise_blocks
from snac_pipeline.training.slices import plan_epoch

from geometries import build, random_codes  # isort: skip

SPEC = CodecSpec.from_dict(CODEC)


@pytest.fixture(scope="module")
def base():
    return build(SPEC)


def batch_of(targets, codes, rows=(0, 1), start=0):
    items, frames = len(rows), SPEC.frames_of([level.shape[-1] for level in codes])
    return Batch(
        list(rows), codes, None, {NATIVE: targets}, None, torch.zeros(items, dtype=torch.int64),
        torch.full((items,), frames), torch.full((items,), start),
    )  # fmt: skip


def loss_of(recipe, model, batch):
    return training_step(recipe, model, batch, {"native": 1.0}, CodebookCare(model, recipe.codebooks), 0)


@pytest.mark.parametrize("noise, different", [("on", 3), ("off", 1), ("seeded", 1)])
def test_noise_is_drawn_at_every_step_or_never_or_always_the_same(base, noise, different):
    recipe = recipe_of(PHASE10, noise=noise)
    batch = batch_of(0.1 * torch.randn(2, 1, SPEC.samples(8)), random_codes(SPEC, 8, batch=2))
    model = build_model(recipe, base)
    assert len({loss_of(recipe, model, batch).item() for _ in range(3)}) == different


def test_seeded_noise_is_another_for_another_utterance_and_another_place(base):
    recipe, codes = recipe_of(PHASE10, noise="seeded"), random_codes(SPEC, 8)
    model, target = build_model(recipe, base), torch.zeros(1, 1, SPEC.samples(8))
    places = [((0,), 0), ((1,), 0), ((0,), 3)]
    losses = [loss_of(recipe, model, batch_of(target, codes, *place)).item() for place in places]
    assert len(set(losses)) == 3


def test_a_slice_of_speech_sees_the_noise_that_decoding_its_whole_utterance_would(shared):
    """Of every utterance in one batch: the loss of the slices is that of the same span of the wholes."""
    model, rows, recipe = shared.start(), shared.utterances, recipe_of(PHASE10, noise="seeded")
    digests = rows["digest"].to_list()
    view = build_view(shared.work, codes_folder(shared.work, encoder_fingerprint(model)), digests, SPEC)
    dataset = SpeechSlices(rows["file"].to_list(), digests, SPEC, (NATIVE,), view)
    frames = CodesView(view).frames
    [slices] = plan_epoch(frames, 4, SPEC.decode_context, 10_000, SPEC.alignment, 0, 0)
    assert len({item.row for item in slices}) == len(frames) and max(item.window_start for item in slices) > 0
    with torch.inference_mode():
        losses = []
        for item in slices:
            codes = [torch.from_numpy(level.astype(np.int64))[None]
                     for level in CodesView(view).codes(item.row, 0, frames[item.row])]  # fmt: skip
            whole = model.decode(codes, noise="seeded", seed=item.row)
            start = SPEC.samples(item.window_start + item.offset)
            target = dataset[item]["targets"][NATIVE][None]
            span = whole[..., start : start + target.shape[-1]]
            valid = torch.tensor([target.shape[-1]])
            losses.append(reconstruction_losses(span, target, valid, NATIVE, [64, 256], recipe.losses))
        found = loss_of(recipe, model, collate([dataset[item] for item in slices]))
    torch.testing.assert_close(found, torch.cat(losses).mean(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("changes", [{"noise_branch": "frozen"}, {"noise": "off"}], ids=["frozen", "off"])
def test_a_frozen_noise_branch_stays_as_it_starts_while_the_trunk_learns(home, changes):
    before = {name: value.clone() for name, value in home.start().state_dict().items()}
    after = SNAC.from_pretrained(home.train(recipe_of(PHASE10, **changes))["model"]).state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("decoder.") for name in changed)
    assert not any(".linear." in name for name in changed)


def test_the_gain_is_in_the_history_and_in_what_is_told_and_a_trained_branch_changes_it(home):
    recipe, events = recipe_of(PHASE10), []
    home.train(recipe, events.append)
    lines = (home.plan(recipe).folder / "history.jsonl").read_text().splitlines()
    gains = {entry["step"]: entry["noise_gain"] for entry in map(json.loads, lines) if "noise_gain" in entry}
    assert len(gains) == 1 + recipe.epochs and min(gains) == 0
    assert all(len(values) == len(CODEC["decoder_rates"]) for values in gains.values())
    assert gains[0] != gains[max(gains)]
    assert [event["noise_gain"] for event in events if "noise_gain" in event] == list(gains.values())
    assert all("noise gain 0." in event["message"] for event in events if "noise_gain" in event)


def test_the_gain_is_how_loud_the_noise_is_beside_the_signal(base):
    """Measured another way: by the difference that the noise makes behind each block."""
    seen = []
    hooks = [
        block.register_forward_hook(lambda _, inputs, output: seen.append((output - inputs[0], inputs[0])))
        for block in noise_blocks(base)
    ]
    with NoiseGain(base) as gain, torch.inference_mode():
        base.decode(random_codes(SPEC, 200), noise="seeded")
    for hook in hooks:
        hook.remove()
    found = [float(noise.square().mean().sqrt() / signal.square().mean().sqrt()) for noise, signal in seen]
    assert gain.values() == pytest.approx(found, rel=0.1)
    assert min(found) > 0.01
    base.decode(random_codes(SPEC, 4))
    assert [len(squares) for squares in gain.squares] == [1] * len(seen), "it listens only while entered"


def test_a_codec_without_noise_has_no_gain():
    model = build(CodecSpec.from_dict({**CODEC, "noise": False}))
    with NoiseGain(model) as gain, torch.inference_mode():
        model.decode(random_codes(model.spec, 4))
    assert gain.values() == []


def test_l1_trains_the_noise_away_magnitudes_do_in_part_and_log_magnitudes_keep_it():
    """A decoder learns from its own output with other noise: what cannot be foretold is what L1 leaves out."""
    torch.manual_seed(0)
    teacher = SNAC(SPEC)
    initialise(teacher)
    with torch.no_grad():
        for block in noise_blocks(teacher):
            block.linear.parametrizations.weight.original0.mul_(3.0)
    kept = {}
    for term in ("l1", "magnitude", "log_magnitude"):
        recipe = recipe_of(PHASE10, losses={"l1": 0.0, "magnitude": 0.0, term: 1.0})
        model = build_model(recipe, teacher)
        enter_stage(recipe.stages[0], model)
        optimizer = build_optimizer(recipe, model)
        for group in optimizer.param_groups:
            group["lr"] = 3e-3
        before = gain_of(model)
        for step in range(40):
            codes = random_codes(SPEC, 4, batch=2, seed=step)
            with torch.no_grad():
                target = teacher.synthesize(teacher.dequantize(codes), Noise("seeded", step), (NATIVE,))[NATIVE]
            loss_of(recipe, model, batch_of(target, codes)).backward()
            optimizer.step()
            optimizer.zero_grad()
        kept[term] = gain_of(model) / before
    assert kept["l1"] < kept["magnitude"] - 0.02 < kept["log_magnitude"] - 0.04
    assert kept["l1"] < 0.92
    assert kept["log_magnitude"] > 0.99


def gain_of(model):
    """Mean over the blocks."""
    with NoiseGain(model) as gain, torch.inference_mode():
        model.decode(random_codes(SPEC, 16, seed=99), noise="seeded")
    return sum(gain.values()) / len(gain.blocks)
