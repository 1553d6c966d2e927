"""On a GPU few shapes reach the codec, whatever the lengths are, and codes stay those of encoding alone.

What a GPU does is done here on the CPU: many lengths in a batch, filled up and masked, and recordings of calls.
"""

import collections

import made_codes as made
import numpy as np
import pytest
import torch
from geometries import PUBLISHED, build, thin, white
from hypothesis import given
from hypothesis import strategies as st

from snac_pipeline.codes import cache as cache_module
from snac_pipeline.codes.encode import Encoder, Recording, bucket, encode_array, plan_windows, rows_of
from snac_pipeline.codes.graphs import Graphs


@given(frames=st.integers(1, 100_000), published=st.sampled_from(["24khz", "32khz"]))
def test_a_bucket_adds_an_eighth_at_most_and_is_whole_attention_windows(frames, published):
    spec = PUBLISHED[published]
    whole = -(-frames // spec.alignment) * spec.alignment
    filled = bucket(frames, spec)
    assert whole <= filled <= whole * 9 / 8 and filled % spec.alignment == 0
    assert bucket(filled, spec) == filled


def test_a_corpus_of_a_second_to_twenty_has_36_lengths():
    spec = PUBLISHED["24khz"]
    frames = range(spec.frames_for(24_000), spec.frames_for(20 * 24_000) + 1)
    assert len(frames) > 200 and len({bucket(one, spec) for one in frames}) == 36


@given(
    lengths=st.lists(st.integers(1, 3_000_000), max_size=60),
    batch_seconds=st.sampled_from([1.0, 10.0, 60.0]),
    published=st.sampled_from(["24khz", "32khz"]),
)
def test_windows_fit_their_shapes_and_shapes_are_few_and_within_the_memory_asked_for(lengths, batch_seconds, published):
    spec = PUBLISHED[published]
    items = [Recording(f"{i:032x}", f"{i}.wav", length) for i, length in enumerate(lengths)]
    windows = list(plan_windows(items, spec, batch_seconds, buckets=True))
    covered = collections.Counter()
    for window in windows:
        rows, samples = window.shape(spec, batch_seconds)
        assert len(window.items) == len(window.frames) <= rows
        assert max(window.frames) <= window.last - window.first <= samples // spec.coarse_frame
        assert rows == 1 or rows * samples / spec.sampling_rate <= batch_seconds * (1 + 1e-9)
        for row, item in enumerate(window.items):
            covered[item] += len(window.kept(np.empty(samples // spec.coarse_frame), row, 1))
    assert covered == {item: spec.frames_for(item.num_samples) for item in items}
    longest = bucket(spec.segment_frames(batch_seconds) + 2 * spec.encode_context, spec)
    assert {window.shape(spec, batch_seconds) for window in windows} <= {
        (rows_of(frames, spec, batch_seconds), spec.samples(frames))
        for frames in {bucket(one, spec) for one in range(1, longest + 1)}
    }


@pytest.mark.parametrize("published", PUBLISHED)
def test_a_batch_of_many_lengths_has_the_codes_of_each_alone(published):
    spec = thin(PUBLISHED[published])
    model = build(spec)
    frames = [spec.alignment * units for units in (1, 2, 5, 9)]
    audio = np.zeros((4, spec.samples(frames[-1])), np.float32)
    for row, count in enumerate(frames):
        audio[row, : spec.samples(count) - 100] = white(spec.samples(count) - 100, seed=row)[0, 0].numpy()
    filled = Encoder(model, "fp32").begin(audio, frames, (6, spec.samples(bucket(frames[-1], spec))))()
    for row, count in enumerate(frames):
        alone = encode_array(model, audio[row : row + 1, : spec.samples(count)], "fp32")
        for level, expected, per_frame in zip(filled, alone, spec.tokens_per_frame, strict=True):
            assert len(level) == 4
            np.testing.assert_array_equal(level[row, : count * per_frame], expected[0])
            assert len(np.unique(expected)) > 1 or count == frames[0]


@torch.inference_mode()
def test_without_masks_the_latents_before_an_item_s_end_are_others():
    spec = thin(PUBLISHED["24khz"])
    model = build(spec)
    audio, kept = white(spec.samples(5)), 5 * spec.vq_strides[0]
    filled = torch.nn.functional.pad(audio, (0, spec.samples(4)))
    alone = model.encoder(audio)
    masked, plain = (model.encoder(filled, ends)[..., :kept] for ends in (torch.tensor([kept]), None))
    scale = float(alone.abs().max())
    assert float((masked - alone).abs().max()) < 1e-5 * scale < 1e-3 * scale < float((plain - alone).abs().max())


def test_a_cache_made_in_few_shapes_is_that_of_one_utterance_at_a_time(codec, tmp_path, monkeypatch):
    """From files to parts and the check of a sample, with recordings several chunks long; as a GPU's worker does it."""
    corpus = made.make_corpus(tmp_path / "speech", seconds=[0.05, *np.linspace(1.0, 1.6, 21), 4.1])
    utterances = made.utterances_of(corpus, tmp_path / "home")
    shapes = collections.Counter()

    def capture(call):
        shapes["recorded"] += 1
        return call

    def on_device(model, precision):
        encoder = Encoder(model, precision, capture)
        run = encoder.run.function
        encoder.run.function = lambda audio, frames: (shapes.update([tuple(audio.shape)]), run(audio, frames))[1]
        return encoder

    monkeypatch.setattr("snac_pipeline.codes.encode.ONE_BY_ONE", ())
    monkeypatch.setattr(cache_module.Encoder, "on_device", on_device)
    monkeypatch.setattr(cache_module, "_encoders", {})
    result = made.cache(codec, utterances, tmp_path / "home", batch_seconds=3.0, engine="inline")
    monkeypatch.undo()
    rows = made.all_rows(tmp_path / "home" / "codes" / result["fingerprint"])
    made.assert_same_codes(rows, made.encoded_alone(codec, utterances))
    recorded, lengths = shapes.pop("recorded"), {len(row[0]) for row in rows.values()}
    assert recorded == len(shapes) < len(lengths) == 10


class LittleMemory(Encoder):
    """With room for so many samples at once, and a note of what was asked for."""

    room = 0

    def _run(self, audio_B1T, frames_B=None):
        self.asked.append(tuple(audio_B1T.shape))
        if audio_B1T.numel() > self.room:
            raise torch.OutOfMemoryError(f"{audio_B1T.numel()} samples do not fit")
        return super()._run(audio_B1T, frames_B)


@pytest.mark.parametrize("published", ["24khz", "44khz"])
def test_what_does_not_fit_is_encoded_without_its_filling_and_then_by_halves(published):
    spec = thin(PUBLISHED[published])
    model = build(spec)
    units = spec.encode_context + spec.alignment
    for frames in ([units], [units, 3 * units, 2 * units], [9 * units]):
        audio = np.zeros((len(frames), spec.samples(max(frames))), np.float32)
        for row, count in enumerate(frames):
            audio[row, : spec.samples(count)] = white(spec.samples(count), seed=row)[0, 0].numpy()
        encoder = LittleMemory(model, "fp32")
        encoder.room, encoder.asked = max(audio[:1].size * 2 // 3, spec.samples(units)), []
        shape = (20, spec.samples(bucket(max(frames), spec)))
        levels = encoder.begin_in_memory(audio, frames, shape)()
        assert encoder.asked[:2] == [(20, 1, shape[1]), (len(frames), 1, audio.shape[1])]
        for row, count in enumerate(frames):
            alone = encode_array(model, audio[row : row + 1, : spec.samples(count)], "fp32")
            for level, expected, per_frame in zip(levels, alone, spec.tokens_per_frame, strict=True):
                np.testing.assert_array_equal(level[row, : count * per_frame], expected[0])
    encoder.room = spec.samples(units) - 1
    with pytest.raises(torch.OutOfMemoryError):
        encoder.begin_in_memory(audio[:, : spec.samples(units)], [units], (1, spec.samples(units)))


def test_an_odd_length_loses_nothing_by_halving():
    spec = thin(PUBLISHED["24khz"])
    model = build(spec)
    audio = white(spec.samples(40) + 17)[0].numpy()
    encoder = LittleMemory(model, "fp32")
    encoder.room, encoder.asked = audio.size, []
    encoder.begin(audio)
    whole = encode_array(model, audio, "fp32")
    encoder.room = audio.size * 2 // 3
    for level, expected in zip(encoder.begin_in_memory(audio)(), whole, strict=True):
        np.testing.assert_array_equal(level, expected)
    assert len(encoder.asked) > 2


# ---- recordings of calls -------------------------------------------------------------------------------------------


def recorder(calls):
    """A recording as CUDA makes it: replays write into the outputs of the recorded call."""

    def capture(call):
        outputs = call()
        calls.append("recorded")

        def replay():
            for there, here in zip(outputs, call(), strict=True):
                there.copy_(here)
            return outputs

        return replay

    return capture


def test_every_shape_is_recorded_once_and_replays_take_their_inputs():
    calls = []
    doubled = Graphs(lambda x, y: [x * 2 + y, x + y], recorder(calls))
    results = [doubled(torch.full((n,), float(n + i)), torch.ones(1)) for i in range(3) for n in (2, 3)]
    assert calls == ["recorded"] * 2
    for (i, n), (first, second) in zip(((i, n) for i in range(3) for n in (2, 3)), results, strict=True):
        assert first.tolist() == [2.0 * (n + i) + 1] * n and second.tolist() == [n + i + 1.0] * n


def test_what_cannot_be_recorded_is_called_as_it_is_and_that_is_said_once(capfd):
    def refuse(call):
        raise RuntimeError("operation not permitted when stream is capturing\nand so on")

    plain = Graphs(lambda x: [x + 1], refuse)
    assert [plain(torch.zeros(n))[0].tolist() for n in (1, 2, 1)] == [[1.0], [1.0, 1.0], [1.0]]
    said = capfd.readouterr().err
    assert said == "encoding without CUDA graphs, more slowly: operation not permitted when stream is capturing\n"


@pytest.mark.parametrize("ends_badly", [False, True])
def test_a_recording_that_does_not_fit_into_memory_is_an_error_of_memory_once(ends_badly):
    calls = []

    def full(call):
        calls.append("recorded")
        try:
            raise torch.OutOfMemoryError("no room")
        finally:
            if ends_badly:  # as the end of a recording that failed
                raise RuntimeError("no recording is under way")

    graphs = Graphs(lambda x: [x + 1], full)
    with pytest.raises(torch.OutOfMemoryError):
        graphs(torch.zeros(1))
    assert graphs.works and graphs(torch.zeros(1))[0].tolist() == [1.0] and calls == ["recorded"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
def test_a_gpu_s_graphs_give_the_codes_of_its_plain_calls():
    spec = thin(PUBLISHED["24khz"])
    model = build(spec).to("cuda")
    encoder, plain = Encoder.on_device(model, "fp32"), Encoder(model, "fp32")
    for seed, frames in enumerate(([3, 5], [2, 2], [5, 1])):
        audio = np.concatenate([white(spec.samples(5), seed=seed + row)[0].numpy() for row in range(2)])
        ours, theirs = (one.begin(audio, frames, (2, spec.samples(5)))() for one in (encoder, plain))
        for level, expected in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(level, expected)
    assert encoder.run.works and len(encoder.run.recorded) == 1
