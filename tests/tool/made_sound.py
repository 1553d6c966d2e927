"""Recordings of any length, rate and format."""

from pathlib import Path

import made_audio
import numpy as np
import soundfile


def sound(samples: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal((samples, channels)).astype(np.float32)


def write(path: Path, samples: int = 5001, rate: int = 24_000, channels: int = 1, seed: int = 0) -> Path:
    """wav, flac and ogg by libsndfile; mp3 and opus by FFmpeg, mono."""
    path.parent.mkdir(parents=True, exist_ok=True)
    x = sound(samples, channels, seed)
    if path.suffix == ".opus":
        return made_audio.encode_samples(path, x[:, 0], "libopus", rate, {})
    if path.suffix == ".mp3":
        return made_audio.encode_samples(path, x[:, 0], "libmp3lame", rate, {})
    options = {"subtype": "FLOAT"} if path.suffix == ".wav" else {}
    soundfile.write(path, x, rate, **options)
    return path


def length(path: Path) -> tuple[int, int, int]:
    """(samples, rate, channels)"""
    info = soundfile.info(path)
    return info.frames, info.samplerate, info.channels
