"""Slices of real speech: codes, audio and what is decoded from them cover the same time, to the sample."""

from typing import NamedTuple

import numpy as np
import pytest
import torch

from made_training import CODEC, PHASE10, REPOSITORY, make_home, recipe_of  # isort: skip
from geometries import PUBLISHED, build, thin, two_heads  # isort: skip

from snac_pipeline.codec import SNAC, CodecSpec, Noise
from snac_pipeline.codes.fingerprint import encoder_fingerprint
from snac_pipeline.codes.parts import codes_folder
from snac_pipeline.codes.view import CodesView, build_view
from snac_pipeline.corpus import read_audio
from snac_pipeline.errors import PipelineError
from snac_pipeline.training.codebooks import CodebookCare
from snac_pipeline.training.data import SpeechSlices, collate
from snac_pipeline.training.loop import cut, training_step
from snac_pipeline.training.plan import Plan, Speech
from snac_pipeline.training.slices import Slice, plan_epoch

SMALL = CodecSpec.from_dict(CODEC)
WINDOWED = CodecSpec(
    sampling_rate=8000, encoder_dim=8, encoder_rates=(3, 4, 4), decoder_dim=64, decoder_rates=(4, 4, 3),
    attn_window_size=16, vq_strides=(8, 4, 1), codebook_size=61, codebook_dim=4,
)  # fmt: skip
GEOMETRIES = {"plain": SMALL, "windows": WINDOWED, "24khz": thin(PUBLISHED["24khz"], codebook_dim=4)}


class Sliced(NamedTuple):
    """A codec with two heads and the slices of real speech that it would be trained on."""

    model: SNAC
    dataset: SpeechSlices
    view: CodesView
    files: list[str]

    @property
    def frames(self):
        return self.view.frames

    def plan(self, segment, seed=0, context=None):
        spec = self.model.spec
        context = spec.decode_context if context is None else context
        return [s for b in plan_epoch(self.frames, segment, context, 1, spec.alignment, seed, 0) for s in b]

    def codes(self, row):
        return [torch.from_numpy(level.astype(np.int64))[None] for level in self.view.codes(row, 0, self.frames[row])]


@pytest.fixture(scope="module", params=GEOMETRIES.values(), ids=GEOMETRIES)
def sliced(request, tmp_path_factory):
    base = build(request.param)
    home = make_home(tmp_path_factory.mktemp("sliced"), base)
    model = build(two_heads(request.param))
    model.load_state_dict(base.state_dict(), strict=False)
    rows, fingerprint = home.utterances, encoder_fingerprint(base)
    view = build_view(home.work, codes_folder(home.work, fingerprint), rows["digest"].to_list(), base.spec)
    files, digests = rows["file"].to_list(), rows["digest"].to_list()
    dataset = SpeechSlices(files, digests, model.spec, model.spec.output_rates, view)
    return Sliced(model, dataset, CodesView(view), files)


def decode(model, codes, noise, rate):
    with torch.inference_mode():
        return model.synthesize(model.dequantize(codes), noise, (rate,))[rate]


def slices_with_both_edges(sliced, segment):
    """Random slices of every utterance, and its first and its last, that need no padding."""
    context, chosen = sliced.model.spec.decode_context, sliced.plan(segment)
    for row, length in enumerate(sliced.frames):
        for start in (0, length - segment):
            window = segment + 2 * context
            first = max(0, min(start - context, length - window))
            chosen.append(Slice(row, int(first), window, window, int(start - first), segment, segment))
    return [item for item in chosen if item.window <= sliced.frames[item.row]]


@pytest.mark.parametrize("mode", ["off", "seeded"])
def test_what_training_supervises_is_what_decoding_the_whole_utterance_gives(sliced, mode):
    spec, segment = sliced.model.spec, sliced.model.spec.alignment
    items = slices_with_both_edges(sliced, segment)
    assert len(items) >= 4
    rows = sorted({item.row for item in items})[:4]
    for rate in spec.output_rates:
        wholes = {row: decode(sliced.model, sliced.codes(row), Noise(mode, row), rate) for row in rows}
        for item in [item for item in items if item.row in rows][-12:]:
            batch = collate([sliced.dataset[item]])
            noise = Noise(mode, item.row, item.window_start * spec.vq_strides[0])
            window = decode(sliced.model, batch.codes, noise, rate)
            supervised = cut(window, batch.offset_B * spec.samples(1, rate), batch.targets[rate].shape[-1])
            first = spec.samples(item.window_start + item.offset, rate)
            whole = wholes[item.row][..., first : first + supervised.shape[-1]]
            assert whole.shape == supervised.shape
            assert (whole - supervised).abs().max() < 1e-5 * max(1.0, float(whole.abs().max()))


def test_targets_are_slices_of_the_whole_resampled_file_at_every_rate(sliced):
    spec = sliced.model.spec
    for item in sliced.plan(3 * spec.alignment)[:12]:
        batch = collate([sliced.dataset[item]])
        for rate, target in batch.targets.items():
            whole = read_audio(sliced.files[item.row], rate)
            whole = np.pad(whole, (0, spec.samples(int(sliced.frames[item.row]) + item.segment, rate) - len(whole)))
            first, count = spec.samples(item.window_start + item.offset, rate), spec.samples(item.segment, rate)
            assert target.shape == (1, 1, count)
            assert np.abs(target[0, 0].numpy() - whole[first : first + count]).max() < 1e-5


def test_tokens_and_samples_of_a_slice_cover_the_same_time(sliced):
    """By every level's count, and since the tokens are those that encoding the whole file gives at that place."""
    spec = sliced.model.spec
    for item in sliced.plan(2 * spec.alignment)[:8]:
        batch = collate([sliced.dataset[item]])
        counts = [level.shape[-1] for level in batch.codes]
        assert tuple(counts) == spec.token_counts(item.window)
        kept = int(min(item.window, sliced.frames[item.row] - item.window_start))
        audio = torch.from_numpy(read_audio(sliced.files[item.row], spec.sampling_rate))[None, None]
        with torch.inference_mode():
            encoded = sliced.model.encode(audio)
        for level, whole, n in zip(batch.codes, encoded, spec.tokens_per_frame, strict=True):
            there = whole[:, item.window_start * n : (item.window_start + kept) * n]
            assert torch.equal(level[:, : kept * n], there)


def test_a_target_correlates_best_with_the_audio_at_its_own_place(sliced):
    """The old notes' hop of 441 would be 62 ms off after one token; one sample is told apart here."""
    spec, reach = sliced.model.spec, 200
    for item in sliced.plan(4 * spec.alignment)[:8]:
        for rate, target in collate([sliced.dataset[item]]).targets.items():
            x = target[0, 0].numpy()
            if np.abs(x).max() < 0.01:
                continue
            whole = np.pad(read_audio(sliced.files[item.row], rate), (reach, len(x) + reach))
            first = spec.samples(item.window_start + item.offset, rate)
            around = whole[first : first + len(x) + 2 * reach]
            spans = np.lib.stride_tricks.sliding_window_view(around, len(x))
            likeness = spans @ x / (np.linalg.norm(spans, axis=1) + 1e-3)
            assert likeness.argmax() == reach


def loudness(audio_T, rate):
    """The envelope of speech: mean of |x| over 8 ms, every millisecond, less its mean."""
    step = rate // 1000
    blocks = np.abs(audio_T[: len(audio_T) // step * step]).reshape(-1, step).mean(axis=1)
    smooth = np.convolve(blocks, np.ones(8) / 8, mode="valid")
    return smooth - smooth.mean()


def lag_of_decoded_slices(late_frames):
    """Milliseconds between decoded slices and their targets, by the correlation of all together, at both rates.

    With the examples' trained codec, which follows the loudness of speech and not its waveform. late_frames: how much
    too late the codes are cut.
    """
    base = SNAC.from_pretrained(REPOSITORY / "examples" / "base_codec")
    model = SNAC(two_heads(base.spec)).eval()
    model.load_state_dict(base.state_dict(), strict=False)
    spec, segment, reach = model.spec, 10, 120
    together = {rate: np.zeros(2 * reach + 1) for rate in spec.output_rates}
    for number, file in enumerate(sorted((REPOSITORY / "examples" / "speech").rglob("*.flac"))[::12]):
        with torch.inference_mode():
            codes = model.encode(torch.from_numpy(read_audio(file, spec.sampling_rate))[None, None])
        plan = plan_epoch(np.array([codes[0].shape[-1]]), segment, spec.decode_context, 1, 1, number, 0)
        for [item] in [batch for batch in plan if batch[0].window_start + batch[0].offset >= 2][:2]:
            begin, end = item.window_start + late_frames, item.window_start + late_frames + item.window
            window = [level[:, begin * n : end * n] for level, n in zip(codes, spec.tokens_per_frame, strict=True)]
            for rate in spec.output_rates:
                audio = decode(model, window, Noise("off"), rate)
                offset = torch.tensor([spec.samples(item.offset, rate)])
                length = min(spec.samples(item.segment, rate), audio.shape[-1] - int(offset))
                heard = loudness(cut(audio, offset, length)[0, 0].numpy(), rate)
                start, margin = spec.samples(item.window_start + item.offset, rate), reach * rate // 1000
                around = loudness(read_audio(file, rate, start - margin, length + 2 * margin), rate)
                spans = np.lib.stride_tricks.sliding_window_view(around, len(heard))[: 2 * reach + 1]
                together[rate] += spans @ heard / (np.linalg.norm(spans, axis=1) * np.linalg.norm(heard) + 1e-9)
    return {rate: int(likeness.argmax()) - reach for rate, likeness in together.items()}


def test_decoded_slices_correlate_best_with_their_targets_at_their_own_place():
    assert all(abs(lag) <= 3 for lag in lag_of_decoded_slices(0).values())


def test_codes_cut_one_frame_late_are_told_by_that_correlation():
    """A frame is 85 ms; what is decoded comes that much too early."""
    assert all(lag == pytest.approx(85, abs=5) for lag in lag_of_decoded_slices(1).values())


def gradient_of_the_outputs(sliced, item, recipe):
    """|d loss / d output| of one training step on one slice, at the native rate: (T,)."""
    model, seen = sliced.model, []

    def keep(module, inputs, output):
        output.retain_grad()
        seen.append(output)

    handle = model.decoder.model[-1].register_forward_hook(keep)
    try:
        batch = collate([sliced.dataset[item]])
        training_step(recipe, model, batch, {"native": 1.0}, CodebookCare(model, recipe.codebooks), 0).backward()
    finally:
        handle.remove()
        model.zero_grad(set_to_none=True)
    return seen[0].grad[0, 0].abs()


@pytest.mark.parametrize(
    "losses", [{"l1": 1.0, "magnitude": 0.0}, {"l1": 0.0, "magnitude": 1.0}], ids=["l1", "magnitude"]
)
def test_every_sample_of_the_segment_is_supervised_and_no_other(sliced, losses):
    spec, recipe = sliced.model.spec, recipe_of(PHASE10, noise="off", losses=losses)
    segment = max(1, 2 // spec.alignment) * spec.alignment
    for item in sliced.plan(segment)[:4]:
        gradient = gradient_of_the_outputs(sliced, item, recipe)
        assert len(gradient) == spec.samples(item.window)
        first, last = spec.samples(item.offset), spec.samples(item.offset + item.valid)
        assert (gradient[first:last] > 0).float().mean() > 0.999
        assert gradient[:first].eq(0).all()
        assert gradient[last:].eq(0).all()


def test_of_a_short_utterance_all_is_supervised_and_what_pads_it_is_not(sliced):
    spec, row = sliced.model.spec, int(sliced.frames.argmin())
    length = int(sliced.frames[row])
    [item] = [item for item in sliced.plan(length + 2 * spec.alignment) if item.row == row]
    assert (item.window_start, item.offset, item.valid) == (0, 0, length)
    batch = collate([sliced.dataset[item]])
    for level, whole, n in zip(batch.codes, sliced.codes(row), spec.tokens_per_frame, strict=True):
        assert torch.equal(level[:, : length * n], whole)
        last = whole[:, -n:]
        assert torch.equal(level[:, length * n :], last.repeat(1, item.window - length))
    gradient = gradient_of_the_outputs(sliced, item, recipe_of(PHASE10, noise="off"))
    assert (gradient[: spec.samples(length)] > 0).float().mean() > 0.999
    assert gradient[spec.samples(length) :].eq(0).all()


def test_all_of_a_short_utterance_is_what_decoding_it_whole_gives_beside_longer_ones_too(sliced):
    spec, row = sliced.model.spec, int(sliced.frames.argmin())
    length = int(sliced.frames[row])
    items = sliced.plan(length)
    [short] = [item for item in items if item.row == row]
    longer = next(item for item in items if item.present > length)
    batch = collate([sliced.dataset[short], sliced.dataset[longer]])
    assert batch.frames_B.tolist() == [length, longer.present]
    latents = sliced.model.dequantize(batch.codes)
    for rate in spec.output_rates:
        both = sliced.model.synthesize(latents, Noise("seeded"), (rate,), frames_B=batch.frames_B)[rate]
        whole = decode(sliced.model, sliced.codes(row), Noise("seeded"), rate)
        assert (both[:1, :, : whole.shape[-1]] - whole).abs().max() < 1e-5


def test_without_telling_where_it_ends_the_end_of_a_short_utterance_is_wrong(sliced):
    spec, row = sliced.model.spec, int(sliced.frames.argmin())
    [item] = [item for item in sliced.plan(int(sliced.frames[row])) if item.row == row]
    window = decode(sliced.model, collate([sliced.dataset[item]]).codes, Noise("off"), spec.sampling_rate)
    whole = decode(sliced.model, sliced.codes(row), Noise("off"), spec.sampling_rate)
    assert (window[..., : whole.shape[-1]] - whole).abs().max() > 1e-3


def test_context_that_is_no_whole_window_is_refused(sliced):
    spec = sliced.model.spec
    recipe = recipe_of(PHASE10, context_frames=spec.alignment + 1)
    if spec.alignment == 1:
        assert Plan(recipe, sliced.model, Speech(sliced.dataset, sliced.frames, [])).context == 2
    else:
        with pytest.raises(PipelineError, match=f"context_frames.*multiple of {spec.alignment}"):
            Plan(recipe, sliced.model, Speech(sliced.dataset, sliced.frames, []))
