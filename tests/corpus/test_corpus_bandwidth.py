"""The true bandwidth of a recording: closed forms, whatever the blocks it is read in."""

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st
from made_audio import encode, noise

from snac_pipeline.corpus.bandwidth import WINDOW, Bandwidth
from snac_pipeline.corpus.probe import probe

BIN = 48_000 / WINDOW


def estimate(x: np.ndarray, rate: int = 48_000, blocks: int = 1) -> float:
    bandwidth = Bandwidth(rate)
    for block in np.array_split(x if x.ndim == 2 else x[:, None], blocks):
        bandwidth.add(block.astype(np.float32))
    return bandwidth.hertz()


@pytest.mark.parametrize("kilohertz", [4, 8, 11])
def test_noise_that_was_resampled_up_goes_as_far_as_it_did_before(kilohertz):
    """soxr's filter passes 91 % of the band and is below -100 dB at its edge."""
    low = noise(2.0, rate=2000 * kilohertz)
    assert 0.9 * 1000 * kilohertz < estimate(soxr.resample(low, 2000 * kilohertz, 48_000, "VHQ")) < 1000 * kilohertz


def test_noise_over_the_full_band_goes_to_the_nyquist_frequency():
    assert estimate(noise(1.0, rate=48_000)) == 24_000
    assert estimate(noise(1.0, rate=16_000), 16_000) == 8_000


def test_silence_has_no_bandwidth():
    assert estimate(np.zeros(48_000)) == 0
    assert estimate(np.full(48_000, 0.25)) == 0  # an offset is no content either


@pytest.mark.parametrize("hertz", [440, 3000, 15_000])
def test_a_tone_goes_to_its_frequency(hertz):
    x = 0.5 * np.sin(2 * np.pi * hertz * np.arange(48_000) / 48_000)
    assert hertz - BIN < estimate(x) < hertz + 6 * BIN  # the window's side lobes


@pytest.mark.parametrize(("level_db", "counts"), [(-40, True), (-60, False)])
def test_what_counts_is_50_db_below_the_peak(level_db, counts):
    t = np.arange(96_000) / 48_000
    x = 0.5 * np.sin(2 * np.pi * 1000 * t) + 0.5 * 10 ** (level_db / 20) * np.sin(2 * np.pi * 12_000 * t)
    assert (estimate(x) > 11_000) == counts


def test_hum_and_offset_hide_nothing():
    quiet = soxr.resample(noise(2.0, rate=16_000), 16_000, 48_000) * 0.01
    loud_hum = 0.5 + 0.01 * np.sin(2 * np.pi * 50 * np.arange(len(quiet)) / 48_000)
    assert estimate(quiet + loud_hum) == pytest.approx(estimate(quiet), abs=2 * BIN)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 20_000), st.integers(1, 9))
def test_blocks_of_any_size_give_the_same(frames, blocks):
    x = np.cumsum(noise(1.0, rate=20_000))[:frames]
    assert estimate(x, 20_000, blocks) == estimate(x, 20_000)


def test_a_file_shorter_than_a_window_has_one():
    assert estimate(np.array([0.5])) == 24_000  # a click holds all frequencies
    x = np.sin(2 * np.pi * 6000 * np.arange(500) / 48_000)
    assert 5000 < estimate(x) < 10_000


def test_the_manifest_tells_what_a_compressed_file_really_has(tmp_path):
    path = encode(tmp_path / "a.mp3", "libmp3lame", 44_100)
    assert 14_000 < probe(path).bandwidth < 20_500  # at 64 kbit/s the encoder cuts what is above
    soundfile.write(tmp_path / "a.wav", soxr.resample(noise(1.0, 16_000), 16_000, 48_000), 48_000, subtype="FLOAT")
    assert 7200 < probe(tmp_path / "a.wav").bandwidth <= 8000
