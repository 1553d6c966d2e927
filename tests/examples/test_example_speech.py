"""The committed example corpus is what examples/README.md says, and examples/make_speech.py still makes it."""

import csv
import importlib.util
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SPEECH = EXAMPLES / "speech"


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    with open(SPEECH / "metadata.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def audio(rows) -> dict[str, np.ndarray]:
    return {row["path"]: sf.read(SPEECH / row["path"])[0] for row in rows}


def test_metadata_lists_exactly_the_files_on_disk(rows):
    on_disk = {path.relative_to(SPEECH).as_posix() for path in SPEECH.rglob("*") if path.is_file()}
    assert {row["path"] for row in rows} == on_disk - {"metadata.csv"}
    assert all(row["path"].split("/")[0] == row["speaker"] for row in rows)


def test_24_speakers_say_5_sentences_each_and_no_sentence_twice(rows):
    assert Counter(row["speaker"] for row in rows) == {f"spk{i:02d}": 5 for i in range(1, 25)}
    assert len({row["text"] for row in rows}) == 120
    assert Counter(row["language"] for row in rows) == {"ar": 90, "en": 30}
    assert len({row["voice"].split("+")[1] for row in rows}) == 24


def test_every_file_is_mono_16_bit_flac_at_22050_hz_of_1_to_8_seconds(rows):
    infos = [sf.info(SPEECH / row["path"]) for row in rows]
    assert {(i.format, i.subtype, i.samplerate, i.channels) for i in infos} == {("FLAC", "PCM_16", 22050, 1)}
    durations = [i.duration for i in infos]
    assert min(durations) >= 1 and max(durations) <= 8
    assert 280 < sum(durations) < 310


def test_the_folder_is_at_most_6_mb():
    assert sum(path.stat().st_size for path in SPEECH.rglob("*")) <= 6_000_000


def test_no_file_is_silent_or_clipped(audio):
    for path, samples in audio.items():
        assert -40 < 20 * np.log10(np.sqrt(np.mean(samples**2))) < -25, path
        assert np.abs(samples).max() < 0.7, path


def _mean_spectrum(samples: np.ndarray, size: int = 1024) -> np.ndarray:
    """(T,) -> (64,) log power of the audible frames in 64 bands of equal width, level removed."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, size)[::256] * np.hanning(size)
    frames = frames[np.sqrt(np.mean(frames**2, axis=1)) > 3e-3]
    power = np.mean(np.abs(np.fft.rfft(frames)) ** 2, axis=0)
    bands = np.array([band.mean() for band in np.array_split(np.log(power[2:]), 64)])
    return bands - bands.mean()


def test_speakers_differ_in_their_long_term_spectrum(rows, audio):
    """A speaker's odd sentences sound more like that speaker's even ones than like anybody else's."""
    halves: dict[str, list[np.ndarray]] = {}
    for name in sorted({row["speaker"] for row in rows}):
        takes = [audio[row["path"]] for row in rows if row["speaker"] == name]
        halves[name] = [_mean_spectrum(np.concatenate(takes[::2])), _mean_spectrum(np.concatenate(takes[1::2]))]
    first, second = (np.stack([h[i] for h in halves.values()]) for i in (0, 1))
    nearest = np.linalg.norm(first[:, None] - second[None], axis=-1).argmin(axis=1)
    assert nearest.tolist() == list(range(24))


@pytest.fixture(scope="module")
def make_speech():
    if shutil.which("espeak-ng") is None:
        pytest.skip("espeak-ng is not installed, so the example speech cannot be made again")
    version = subprocess.run(["espeak-ng", "--version"], capture_output=True, text=True, check=True).stdout
    if "1.51" not in version:
        pytest.skip(f"the example speech was made with espeak-ng 1.51, and here is {version.strip().split('  ')[0]}")
    spec = importlib.util.spec_from_file_location("make_speech", EXAMPLES / "make_speech.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_making_it_again_gives_the_same_samples_and_bytes(make_speech, rows, audio, tmp_path):
    some = {"spk03", "spk10", "spk14", "spk19"}  # both languages; formant, klatt and named voices
    for out in ("once", "twice"):
        make_speech.make(tmp_path / out, only=some)
    with open(tmp_path / "once" / "metadata.csv", encoding="utf-8") as file:
        made = list(csv.DictReader(file))
    assert made == [row for row in rows if row["speaker"] in some]
    for path in (row["path"] for row in made):
        # Committed files are compared by samples: another libsndfile may pack the same samples into other bytes.
        assert np.array_equal(sf.read(tmp_path / "once" / path)[0], audio[path]), path
        assert (tmp_path / "once" / path).read_bytes() == (tmp_path / "twice" / path).read_bytes(), path


def test_the_base_codec_is_small_and_has_the_published_24_khz_geometry():
    from snac_pipeline.codec import SNAC

    folder = Path(__file__).parents[2] / "examples" / "base_codec"
    model = SNAC.from_pretrained(folder)
    assert sum(parameter.numel() for parameter in model.parameters()) <= 1_500_000
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 6_000_000
    assert (model.spec.coarse_frame, model.spec.tokens_per_frame) == (2048, (1, 2, 4))
