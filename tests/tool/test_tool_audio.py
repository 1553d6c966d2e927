"""Audio goes in whatever it is, and comes out as long as it was, to the sample."""

import numpy as np
import pytest
import soundfile
import torch
from made_sound import length, sound, write

from snac_pipeline.codec import SNAC
from snac_pipeline.corpus.audio import open_audio, read_audio, resampled_length
from snac_pipeline.tool.codes_files import read_codes
from snac_pipeline.tool.sound import exactly, write_audio

RATES = (16_000, 22_050, 24_000, 44_100, 48_000)
ODD_LENGTHS = (1, 1882, 4097)
"""1882 at 22.05 kHz are 2048.4 samples at 24 kHz and 4096.9 at 48 kHz: one more than one coarse frame decodes to."""


@pytest.mark.parametrize("rate", RATES)
def test_output_is_as_long_as_input_to_the_sample_at_any_rate(run, here, rate):
    for samples in ODD_LENGTHS:
        write(here / "in" / f"{samples}.wav", samples, rate)
    for output in (24_000, 48_000):
        assert run("reconstruct", "in", "--to", f"out{output}", "--rate", output).status == 0
        for samples in ODD_LENGTHS:
            expected = samples if rate == output else resampled_length(samples, rate, output)
            assert length(here / f"out{output}" / f"{samples}.wav") == (expected, output, 1)


def test_a_reconstruction_is_decode_of_encode(run, here, model):
    file = write(here / "a.wav", 9001)
    assert run("reconstruct", "a.wav", "--to", "b.wav", "--seed", 4).status == 0
    audio = torch.from_numpy(read_audio(file, 24_000))[None, None]
    with torch.no_grad():
        wanted = model.decode(model.encode(audio), length=9001, noise="seeded", seed=4)[0, 0]
    np.testing.assert_array_equal(soundfile.read(here / "b.wav", dtype="float32")[0], wanted.numpy())


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg", "mp3", "opus"])
def test_every_format_goes_in(run, here, extension):
    rate = 48_000 if extension == "opus" else 44_100
    file = write(here / f"a.{extension}", 30_000, rate)
    with open_audio(file, 24_000) as audio:
        joined = np.concatenate(list(audio.blocks))[:, 0]
        read = audio.source_samples
    np.testing.assert_array_equal(joined, read_audio(file, 24_000))
    assert run("reconstruct", file, "--to", "out.wav").status == 0
    assert length(here / "out.wav") == (resampled_length(read, rate, 24_000), 24_000, 1)
    assert abs(read - 30_000) < (3000 if extension in ("mp3", "opus") else 1)


@pytest.mark.parametrize(("extension", "tolerance"), [("wav", 0.0), ("flac", 2e-7), ("ogg", None)])
def test_every_format_comes_out(run, here, extension, tolerance):
    write(here / "a.wav", 7777, channels=2)
    for name in ("out.wav", f"out.{extension}"):
        assert run("reconstruct", "a.wav", "--to", name, "--stereo", "channels", "--overwrite").status == 0
    reference, there = (soundfile.read(here / name)[0] for name in ("out.wav", f"out.{extension}"))
    assert there.shape == reference.shape == (7777, 2)
    if tolerance is not None:
        assert np.abs(there - reference).max() <= tolerance
    assert np.corrcoef(there[:, 0], reference[:, 0])[0, 1] > 0.5  # noise is what Vorbis keeps least of


def test_stereo_is_mixed_aloud_or_kept_by_channel(run, here):
    left, right = write(here / "left.wav", 6001, seed=1), write(here / "right.wav", 6001, seed=2)
    both = np.concatenate([sound(6001, seed=1), sound(6001, seed=2)], axis=1)
    soundfile.write(here / "both.wav", both, 24_000, subtype="FLOAT")
    soundfile.write(here / "mean.wav", both.mean(axis=1), 24_000, subtype="FLOAT")
    mixed = run("encode", "both.wav", "--to", "mixed.npz")
    assert "both.wav: 2 channels are mixed to one" in mixed.err and "--stereo channels" in mixed.err
    assert "mixed" not in run("encode", "both.wav", "--to", "apart.npz", "--stereo", "channels").err
    for name in ("left", "right", "mean"):
        assert run("encode", f"{name}.wav", "--to", f"{name}.npz").status == 0
    codes = {name: read_codes(f"{name}.npz", "")[0].levels for name in ("mixed", "apart", "left", "right", "mean")}
    for k in range(3):
        np.testing.assert_array_equal(codes["apart"][k], np.concatenate([codes["left"][k], codes["right"][k]]))
        np.testing.assert_array_equal(codes["mixed"][k], codes["mean"][k])
    assert run("decode", "apart.npz", "--to", "apart.wav").status == 0
    assert run("decode", "left.npz", "--to", "left.ogg").status == 0
    assert length(here / "apart.wav") == (6001, 24_000, 2)
    assert (left, right) == (here / "left.wav", here / "right.wav")


def test_the_same_seed_is_the_same_sound_and_no_noise_is_another(run, here):
    write(here / "a.wav")
    options = {"one": ("--seed", 1), "again": ("--seed", 1), "two": ("--seed", 2), "off": ("--noise", "off")}
    for name, chosen in options.items():
        assert run("reconstruct", "a.wav", "--to", f"{name}.wav", *chosen).status == 0
    heard = {name: soundfile.read(here / f"{name}.wav")[0] for name in options}
    assert np.array_equal(heard["one"], heard["again"])
    assert not np.array_equal(heard["one"], heard["two"]) and not np.array_equal(heard["one"], heard["off"])


def test_a_wav_too_large_for_its_header_is_rf64(tmp_path, monkeypatch):
    monkeypatch.setattr("snac_pipeline.tool.sound._WAV_BYTES", 20_000)
    for samples, head in ((3000, b"RIFF"), (5000, b"RF64")):
        write_audio(tmp_path / "a.wav", [sound(samples)], 24_000, 1, samples)
        assert (tmp_path / "a.wav").read_bytes()[:4] == head
        np.testing.assert_array_equal(read_audio(tmp_path / "a.wav", 24_000), sound(samples)[:, 0])


def test_blocks_are_cut_or_filled_with_zeros():
    for samples in (0, 3, 5, 8, 11):
        blocks = list(exactly([np.ones((5, 2), np.float32), np.ones((3, 2), np.float32)], samples, 2))
        joined = np.concatenate(blocks)
        assert joined.shape == (samples, 2) and joined.sum() == 2 * min(samples, 8)


def test_a_run_folder_stands_for_its_model(run, here, model):
    write(here / "a.wav")
    model.save_pretrained(here / "runs" / "phase10-x" / "model")
    (here / "runs" / "phase10-x" / "result.json").write_text("{}")
    assert run("reconstruct", "a.wav", "--to", "b.wav", model=here / "runs" / "phase10-x").status == 0
    assert run("info", model="runs/phase10-x").status == 0
    assert SNAC.from_pretrained("runs/phase10-x").spec == model.spec


def test_info_needs_no_settings_and_states_the_latency_of_streams(run, codec):
    said = run("info")
    assert said.status == 0
    assert (
        "encode_stream_latency_ms:    341.3" in said.out and "output_rates:                [24000, 48000]" in said.out
    )
