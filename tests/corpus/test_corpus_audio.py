"""Reading audio: any slice is the slice of the whole, and every file is read whole whatever its header says."""

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given
from hypothesis import strategies as st
from made_audio import encode, noise, write

from snac_pipeline.corpus import RESAMPLER, decoding, read_audio, resampled_length
from snac_pipeline.corpus.audio import InOrder, _source_window
from snac_pipeline.errors import PipelineError

RATES = [(16_000, 24_000), (22_050, 24_000), (48_000, 24_000), (16_000, 48_000), (44_100, 24_000), (24_000, 24_000)]


@pytest.fixture(scope="module", params=RATES, ids=lambda pair: f"{pair[0]}-{pair[1]}")
def resampled(request, tmp_path_factory):
    source, target = request.param
    path = write(tmp_path_factory.mktemp("rates") / "a.wav", seconds=2.137, rate=source, subtype="FLOAT")
    return path, source, target, read_audio(path, target)


def test_a_whole_read_is_soxr_of_the_whole_file_and_has_the_promised_length(resampled):
    path, source, target, whole = resampled
    x, _ = soundfile.read(path, dtype="float32")
    expected = x if source == target else soxr.resample(x, source, target, "HQ")
    assert len(whole) == resampled_length(len(x), source, target)
    assert whole.dtype == np.float32 and whole.ndim == 1
    np.testing.assert_array_equal(whole, expected)


@pytest.mark.parametrize("start", [0, 1, 2, 499, 500, 7919, 24_000, 10**9])
@pytest.mark.parametrize("frames", [0, 1, 480, 24_000, 10**6])
def test_a_slice_is_the_slice_of_the_whole_padded_with_zeros(resampled, start, frames):
    path, _, target, whole = resampled
    expected = np.zeros(frames, np.float32)
    expected[: len(whole[start : start + frames])] = whole[start : start + frames]
    np.testing.assert_allclose(read_audio(path, target, start, frames), expected, atol=1e-6, rtol=0)


def test_a_slice_from_the_middle_to_the_end_is_not_padded(resampled):
    path, _, target, whole = resampled
    np.testing.assert_allclose(read_audio(path, target, 12_345), whole[12_345:], atol=1e-6, rtol=0)


def test_a_slice_deep_in_a_long_file_does_not_drift(tmp_path):
    path = write(tmp_path / "long.flac", seconds=600, rate=22_050)
    whole = read_audio(path, 24_000)
    for start in (1_000_003, len(whole) - 30_000):
        np.testing.assert_allclose(
            read_audio(path, 24_000, start, 24_000), whole[start : start + 24_000], atol=1e-6, rtol=0
        )


@given(
    st.sampled_from([8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000]),
    st.sampled_from([16_000, 24_000, 44_100, 48_000]),
    st.integers(0, 10**9),
    st.integers(0, 10**6),
)
def test_the_source_window_begins_where_both_rates_sample_and_covers_the_slice(source, target, start, frames):
    first, last = _source_window(source, target, start, frames)
    assert first * target % source == 0
    assert first * target <= start * source
    assert last * target >= (start + frames) * source


@given(st.integers(0, 3000), st.sampled_from(RATES))
def test_the_promised_length_is_what_soxr_gives(num_frames, rates):
    source, target = rates
    if source != target:
        assert resampled_length(num_frames, source, target) == len(
            soxr.resample(np.zeros(num_frames, np.float32), source, target, "HQ")
        )


def test_channels_are_averaged(tmp_path):
    path = write(tmp_path / "stereo.wav", channels=2, subtype="FLOAT")
    np.testing.assert_array_equal(read_audio(path, 16_000), noise(channels=2).mean(axis=1))


@pytest.mark.parametrize(
    ("name", "codec", "rate", "options"),
    [
        ("a.opus", "libopus", 48_000, {}),
        ("a.m4a", "aac", 44_100, {}),
        ("a.mp3", "libmp3lame", 44_100, {}),
        ("no_xing.mp3", "libmp3lame", 44_100, {"write_xing": "0"}),
    ],
    ids=["opus", "m4a", "mp3", "mp3 without Xing"],
)
def test_compressed_files_are_read_whole_and_their_slices_agree(tmp_path, name, codec, rate, options):
    path = encode(tmp_path / name, codec, rate, **options)
    whole = read_audio(path, 24_000)
    assert 3.0 <= len(whole) / 24_000 < 3.1  # codecs pad to whole frames, and only some tell it
    np.testing.assert_allclose(read_audio(path, 24_000, 31_234, 24_000), whole[31_234:55_234], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["a.opus", "a.m4a", "a.mp3", "a.flac"])
@pytest.mark.parametrize(
    "starts", [range(0, 36_000, 4_800), [2_400, 30_000, 31_000, 1_000, 90_000]], ids=["all", "some"]
)
def test_stretches_read_in_order_are_the_slices_and_each_file_is_decoded_once(tmp_path, monkeypatch, name, starts):
    codec, rate = {"a.opus": ("libopus", 48_000), "a.m4a": ("aac", 44_100)}.get(name, ("libmp3lame", 44_100))
    path = write(tmp_path / name, seconds=3) if name == "a.flac" else encode(tmp_path / name, codec, rate)
    monkeypatch.setattr(decoding, "BLOCK_FRAMES", 1000)
    slices = [read_audio(path, 24_000, start, 6_000) for start in starts]
    frames, straight = [], decoding._float_blocks
    monkeypatch.setattr(decoding, "_float_blocks", lambda *a: (frames.append(len(b)) or b for b in straight(*a)))
    reader = InOrder()
    for start, expected in zip(starts, slices, strict=True):
        np.testing.assert_array_equal(reader.read(path, 24_000, start, 6_000), expected)
    reader.close()
    if isinstance(starts, range) and name != "a.flac":
        assert 39_600 * rate // 24_000 <= sum(frames) < 45_000 * rate // 24_000


def test_a_file_that_fails_in_the_middle_of_its_stretches_is_named_and_another_is_read(tmp_path):
    path = encode(tmp_path / "cut.mp3", "libmp3lame", 44_100, seconds=10)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 3000] = bytes(3000)
    path.write_bytes(content)
    reader, other = InOrder(), encode(tmp_path / "other.mp3", "libmp3lame", 44_100)
    reader.read(path, 24_000, 0, 6_000)
    for _ in range(2):
        with pytest.raises(PipelineError, match="decoding fails after"):
            reader.read(path, 24_000, 120_000, 6_000)
    expected = read_audio(other, 24_000, 24_000, 6_000)
    np.testing.assert_array_equal(reader.read(other, 24_000, 24_000, 6_000), expected)


def test_ogg_vorbis_slices_agree(tmp_path):
    path = write(tmp_path / "a.ogg", seconds=3)
    whole = read_audio(path, 24_000)
    assert len(whole) == 72_000
    np.testing.assert_allclose(read_audio(path, 24_000, 31_234, 24_000), whole[31_234:55_234], atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [b"\x00\x00\x00\x00", b"\xff\xff\xff\xff"], ids=["0", "all ones"])
def test_a_wav_whose_sizes_were_never_filled_in_is_read_whole(tmp_path, size):
    path = write(tmp_path / "a.wav", seconds=1)
    whole = read_audio(path, 16_000)
    content = bytearray(path.read_bytes())
    data = content.index(b"data")
    content[4:8] = content[data + 4 : data + 8] = size
    path.write_bytes(content)
    np.testing.assert_array_equal(read_audio(path, 16_000), whole)


def test_a_flac_whose_sample_count_was_never_filled_in_is_read_whole(tmp_path):
    path = write(tmp_path / "a.flac", seconds=9)
    whole = read_audio(path, 16_000)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    path.write_bytes(content)
    np.testing.assert_array_equal(read_audio(path, 16_000), whole)
    np.testing.assert_array_equal(read_audio(path, 16_000, 100_000, 5_000), whole[100_000:105_000])


def test_a_file_that_cannot_be_decoded_is_named(tmp_path):
    path = tmp_path / "broken.flac"
    path.write_bytes(b"fLaC" + bytes(1000))
    with pytest.raises(PipelineError, match=r"broken\.flac"):
        read_audio(path, 24_000)
    with pytest.raises(PipelineError, match=r"absent\.flac.*No such file"):
        read_audio(tmp_path / "absent.flac", 24_000)


def test_the_resampler_is_named_with_its_version():
    assert soxr.__libsoxr_version__ in RESAMPLER
