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
    return encode_samples(path, noise(seconds, rate), codec, rate, muxer_options)


def variable_rate_mp3(path: Path, seconds: float = 6.0) -> Path:
    """Silence, then noise, at a variable bit rate and without the header that counts the frames."""
    x = noise(seconds, 44_100)
    x[: len(x) // 2] = 0
    quality = {"flags": "+qscale", "global_quality": "236"}
    return encode_samples(path, x, "libmp3lame", 44_100, {"write_xing": "0"}, quality)


def encode_samples(
    path: Path, x: np.ndarray, codec: str, rate: int, muxer_options: dict, codec_options: dict | None = None
) -> Path:
    samples = (x * 32767).astype(np.int16)[None]
    with av.open(str(path), "w", options=muxer_options) as container:
        stream = container.add_stream(codec, rate=rate, options=codec_options or {})
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
                "store_key": "",
            }
            for path, speaker, content, seconds, *rest in files
        ]
    )
