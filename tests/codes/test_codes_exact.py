"""Cached codes are those of encoding each file alone, however they were batched, chunked or spread over parts."""

import dataclasses
import math
import shutil
import warnings

import made_codes as made
import numpy as np
import pytest
import soundfile
import soxr
import torch
from geometries import PUBLISHED, build, thin
from hypothesis import given
from hypothesis import strategies as st

from snac_pipeline.codec import SNAC, CodecSpec, kernels
from snac_pipeline.codec.streaming import stretches
from snac_pipeline.codes.encode import Recording, batches, encode_array
from snac_pipeline.codes.parts import part_files, part_metadata, read_codes

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import snac


def test_every_cached_row_equals_its_utterance_encoded_alone(cached, codec):
    home, utterances, result = cached
    rows = made.all_rows(home / "codes" / result["fingerprint"])
    assert len(rows) == len(utterances) == result["encoded"]
    assert len(np.unique(np.concatenate([row[-1] for row in rows.values()]))) > 20, (
        "codes that do not vary prove little"
    )
    made.assert_same_codes(rows, made.encoded_alone(codec, utterances))


def test_a_file_shorter_than_a_coarse_frame_has_one_frame(cached, codec):
    home, utterances, result = cached
    spec = SNAC.from_pretrained(codec).spec
    shortest = utterances.sort("duration")["digest"][0]
    levels = made.all_rows(home / "codes" / result["fingerprint"])[shortest]
    assert [len(level) for level in levels] == list(spec.tokens_per_frame)


@pytest.mark.parametrize("published", PUBLISHED)
def test_chunks_and_their_context_are_whole_attention_windows(published):
    spec = PUBLISHED[published]
    unit = math.lcm(spec.vq_strides[0], spec.attn_window_size or 1)  # latents
    chunk = spec.segment_frames(2.0)
    frames = spec.frames_for(spec.samples(5 * chunk) + 1)
    planned = list(stretches(frames, chunk, spec.encode_context))
    assert [frame for _, start, end, _ in planned for frame in range(start, end)] == list(range(frames))
    for window in planned:
        assert all(frame * spec.vq_strides[0] % unit == 0 for frame in window)
    for first, start, end, last in planned:
        assert first == max(0, start - spec.encode_context) and last == min(frames, end + spec.encode_context)


@pytest.mark.parametrize("published", PUBLISHED)
def test_files_longer_than_a_batch_are_cached_in_chunks_and_verified(published, tmp_path):
    """From files to parts, some shorter and some several chunks long."""
    codec = made.make_codec(tmp_path / "codec", published)
    spec = PUBLISHED[published]
    batch_seconds = 1.6 * spec.alignment * spec.frame_seconds
    corpus = made.make_corpus(tmp_path / "long", seconds=(batch_seconds / 2, 3.3 * batch_seconds, 2 * batch_seconds))
    utterances = made.utterances_of(corpus, tmp_path / "home")
    result = made.cache(codec, utterances, tmp_path / "home", batch_seconds=batch_seconds, verify=3)
    assert result["verified"]["utterances"] == 3
    rows = made.all_rows(tmp_path / "home" / "codes" / result["fingerprint"])
    made.assert_same_codes(rows, made.encoded_alone(codec, utterances))
    assert len(np.unique(np.concatenate([row[-1] for row in rows.values()]))) > 20


@pytest.mark.parametrize("published", PUBLISHED)
def test_cached_codes_are_those_of_the_published_package(published, tmp_path):
    """Scanned, cached and read again: what `snac.SNAC.encode` gives for each file, resampled, with the same weights."""
    codec = made.make_codec(tmp_path / "codec", published)
    spec = CodecSpec.from_file(codec / "config.json")
    theirs = snac.SNAC(**spec.to_dict()).eval()
    theirs.load_state_dict(SNAC.from_pretrained(codec).state_dict(), strict=True)
    corpus = made.make_corpus(tmp_path / "speech", seconds=(0.05, 0.4, 0.4, 0.41, 1.3))
    utterances = made.utterances_of(corpus, tmp_path / "home")
    result = made.cache(codec, utterances, tmp_path / "home", batch_seconds=1.0)
    rows = read_codes(tmp_path / "home" / "codes" / result["fingerprint"], utterances["digest"].to_list())
    assert len(np.unique(np.concatenate(rows["codes_2"].to_list()))) > 20
    for i, file in enumerate(utterances["file"]):
        audio, rate = soundfile.read(file, dtype="float32")
        audio = torch.from_numpy(soxr.resample(audio, rate, spec.sampling_rate))[None, None]
        with torch.inference_mode():
            for k, level in enumerate(theirs.encode(audio)):
                np.testing.assert_array_equal(rows[f"codes_{k}"][i].to_numpy(), level[0].numpy())


@given(
    lengths=st.lists(st.integers(1, 200_000), max_size=40),
    batch_seconds=st.sampled_from([0.01, 1.0, 10.0, 60.0]),
    published=st.sampled_from(["24khz", "32khz"]),
)
def test_a_batch_has_one_padded_length_and_is_not_longer_than_asked(lengths, batch_seconds, published):
    spec = PUBLISHED[published]
    items = [Recording(f"{i:032x}", f"{i}.wav", length) for i, length in enumerate(lengths)]
    planned = list(batches(items, spec, batch_seconds))
    assert sorted(item for batch in planned for item in batch) == sorted(items)
    for batch in planned:
        padded = {spec.padded_length(item.num_samples) for item in batch}
        assert len(padded) == 1
        assert len(batch) == 1 or len(batch) * padded.pop() / spec.sampling_rate <= batch_seconds * (1 + 1e-9)


def test_neighbours_share_a_batch_where_there_is_room():
    spec = PUBLISHED["24khz"]
    items = [Recording(f"{i:032x}", f"{i}.wav", 24_000) for i in range(10)]
    assert [len(batch) for batch in batches(items, spec, 4.5)] == [4, 4, 2]  # padded: 1.024 s


def test_encoding_leaves_the_precision_of_training_alone():
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    spec = dataclasses.replace(thin(PUBLISHED["24khz"]))
    encode_array(build(spec), np.zeros((1, spec.coarse_frame), np.float32), "fp32")
    assert (cudnn.allow_tf32, matmul.allow_tf32) == before


@pytest.mark.slow  # 10 s of compiling in each process, 40 s where torch has not done it before
@pytest.mark.skipif(not (shutil.which("c++") or shutil.which("g++")), reason="torch.compile needs a C++ compiler here")
def test_much_audio_is_encoded_with_a_compiled_snake_and_the_same_codes(cached, codec, tmp_path, monkeypatch):
    monkeypatch.setattr("snac_pipeline.codes.cache.FUSE_SECONDS", 0.0)
    home, utterances, eager = cached
    compiled = made.cache(codec, utterances, tmp_path, engine="local")
    assert kernels.snake_without_gradients is kernels.snake
    folder = tmp_path / "codes" / compiled["fingerprint"]
    assert {part_metadata(part)["device"] for part in part_files(folder)} == {"cpu, compiled"}
    assert compiled["verified"]["mismatched"] == 0
    made.assert_same_codes(made.all_rows(folder), made.all_rows(home / "codes" / eager["fingerprint"]))
