"""Small audio files for the corpus tests, made by the tests themselves."""

from pathlib import Path

import av
import numpy as np
import polars as pl
import soundfile

RATE = 16_000


def noise(seconds: float = 0.25, rate: int = RATE, seed: int = 0, channels: int = 1) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((round(seconds * rate), channels)).astype(np.float32) * 0.1
    return x[:, 0] if channels == 1 else x


def write(path: Path, seed: int = 0, seconds: float = 0.25, rate: int = RATE, channels: int = 1, **options) -> Path:
    """Write seeded noise; the extension chooses the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, noise(seconds, rate, seed, channels), rate, **options)
    return path


def encode(path: Path, codec: str, rate: int, seconds: float = 3.0, **muxer_options: str) -> Path:
    """Write seeded noise through FFmpeg's encoders, for what soundfile cannot write."""
    samples = (noise(seconds, rate) * 32767).astype(np.int16)[None]
    with av.open(str(path), "w", options=muxer_options) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = rate
        to_codec = av.AudioResampler(format=stream.codec_context.format, layout="mono", rate=rate)
        for converted in to_codec.resample(frame):
            container.mux(stream.encode(converted))
        container.mux(stream.encode(None))
    return path


def manifest_of(files: list[tuple], corpus: str = "made") -> pl.DataFrame:
    """The columns of a manifest that splitting reads, from (path, speaker, content, seconds[, corpus])."""
    return pl.DataFrame(
        [
            {
                "digest": f"{content:032x}",
                "path": path,
                "corpus": rest[0] if rest else corpus,
                "speaker": speaker,
                "stratum": rest[0] if rest else corpus,
                "duration": float(seconds),
                "size": 1,
                "mtime_ns": 1,
                "ctime_ns": 1,
            }
            for path, speaker, content, seconds, *rest in files
        ]
    )
