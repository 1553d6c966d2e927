"""A thin random codec, a made corpus and its cache, for tests of codes, steps and the command line."""

import sys
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import soundfile
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "codec"))  # geometries

from geometries import PUBLISHED, build, thin

from snac_pipeline.codec import SNAC
from snac_pipeline.codes.cache import cache_codes
from snac_pipeline.codes.parts import cached_digests, part_files
from snac_pipeline.corpus import Corpus, read_audio, read_utterances, scan
from snac_pipeline.settings import CachingSettings

RATE = 16_000
SECONDS = (0.01, 0.08, 0.3, 0.301, 0.302, 0.31, 0.5, 0.7, 0.7, 0.71, 1.1, 1.9)
"""Two shorter than a coarse frame (85 ms at 24 kHz), several of one padded length, all resampled."""


def make_codec(folder: Path, published: str = "24khz", seed: int = 0) -> Path:
    return build(thin(PUBLISHED[published]), seed).save_pretrained(folder)


def write_speech(file: Path, seed: int, seconds: float, rate: int = RATE) -> Path:
    """Noise that swells and fades several times a second; another content for every seed."""
    samples = max(1, round(seconds * rate))
    noise = np.random.default_rng(seed).normal(size=samples)
    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, 0.1 * noise * np.sin(np.arange(samples) * 20 / rate) ** 2, rate)
    return file


def make_corpus(folder: Path, seconds=SECONDS, first_seed: int = 0) -> Path:
    """One wav for each length, three to a speaker."""
    for i, length in enumerate(seconds):
        write_speech(folder / f"speaker{i // 3}" / f"{first_seed + i:03}.wav", first_seed + i, length)
    return folder


def utterances_of(corpus: Path, home: Path) -> pl.DataFrame:
    scan(Corpus("made", corpus), home)
    return read_utterances(home, ["made"], splits=False)


def cache(
    codec: Path,
    utterances: pl.DataFrame,
    home: Path,
    devices=("cpu",),
    on_event=None,
    retry_quarantined=False,
    **options,
) -> dict:
    """In this process unless `engine` says otherwise: a worker takes seconds to load torch."""
    options = CachingSettings(
        **{"engine": "inline", "part_utterances": 4, "batch_seconds": 2.0, "verify": 2, **options}
    )
    on_event = on_event or (lambda event: None)
    return cache_codes(codec, utterances, home, options, list(devices), on_event, retry_quarantined=retry_quarantined)


def all_rows(parts: Path) -> dict[str, list[np.ndarray]]:
    """Codes by digest, as they stand in the files; a digest may be there only once."""
    rows = {}
    for file in part_files(parts):
        for row in pq.read_table(file).to_pylist():
            assert row["digest"] not in rows, f"{row['digest']} is there twice"
            rows[row["digest"]] = [np.array(row[name]) for name in sorted(row) if name.startswith("codes_")]
    return rows


def places(parts: Path) -> dict[str, Path]:
    """The part that each digest is read from."""
    files = part_files(parts)
    return {digest: files[part] for digest, part in cached_digests(parts).select("digest", "part").rows()}


def encoded_alone(codec: Path, utterances: pl.DataFrame) -> dict[str, list[np.ndarray]]:
    """What the model's own `encode` gives for each file, read whole."""
    model = SNAC.from_pretrained(codec)
    rows = {}
    for digest, file in utterances.select("digest", "file").rows():
        audio = torch.from_numpy(read_audio(file, model.spec.sampling_rate))[None, None]
        with torch.inference_mode():
            rows[digest] = [level[0].numpy() for level in model.encode(audio)]
    return rows


def assert_same_codes(a: dict[str, list[np.ndarray]], b: dict[str, list[np.ndarray]]) -> None:
    assert a.keys() == b.keys()
    for digest in a:
        for x, y in zip(a[digest], b[digest], strict=True):
            np.testing.assert_array_equal(x, y)


def leftovers(home: Path) -> list[Path]:
    """Temporary files and folders that somebody forgot."""
    return [path for path in home.rglob("*") if path.name.startswith(".tmp-")]
