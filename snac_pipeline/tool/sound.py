"""Writing audio: blocks of samples -> wav, flac or ogg, by the extension.

wav holds 32-bit floats: what the decoder gave, to the bit, and never clipped (a 48 kHz head may pass 1). flac rounds to
24 bits, ogg is Vorbis at its usual quality; both clip at 1.
"""

import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from snac_pipeline.files import atomic_file

AUDIO_OUT = (".wav", ".flac", ".ogg")
"""Extensions that can be written."""

_SUBTYPES = {".flac": "PCM_24", ".ogg": "VORBIS"}

_WAV_BYTES = (1 << 32) - 1
"""The largest size that a wav file can state; RF64 is wav with larger ones (EBU Tech 3306)."""

_AT_ONCE = 1 << 15
"""Frames: libsndfile's Vorbis encoder overflows its stack on long blocks."""


def write_audio(path: Path, blocks: Iterable[np.ndarray], rate: int, channels: int, samples: int) -> None:
    """Write blocks (n, channels) float32, `samples` samples together, atomically."""
    with atomic_file(path) as temporary:
        if path.suffix.lower() == ".wav":
            with temporary.open("wb") as handle:
                _write_wav(handle, blocks, rate, channels, samples)
            return
        subtype, kind = _SUBTYPES[path.suffix.lower()], path.suffix[1:].upper()
        with soundfile.SoundFile(os.fsencode(temporary), "w", rate, channels, subtype, format=kind) as file:
            for block in blocks:
                for start in range(0, len(block), _AT_ONCE):
                    file.write(block[start : start + _AT_ONCE])


def _write_wav(handle: BinaryIO, blocks: Iterable[np.ndarray], rate: int, channels: int, samples: int) -> None:
    """Float samples, in wav or RF64 by their number. Our own writer, since libsndfile puts the time of day into float
    files: the same codes are to give the same bytes."""
    frame = 4 * channels
    size = samples * frame
    chunks = b"fmt " + struct.pack("<IHHIIHHH", 18, 3, channels, rate, rate * frame, frame, 32, 0)
    chunks += b"fact" + struct.pack("<II", 4, min(samples, _WAV_BYTES))
    whole = 4 + len(chunks) + 8 + size
    if whole <= _WAV_BYTES:
        handle.write(b"RIFF" + struct.pack("<I", whole) + b"WAVE" + chunks + b"data" + struct.pack("<I", size))
    else:
        sizes = b"ds64" + struct.pack("<IQQQI", 28, whole + 36, size, samples, 0)
        unknown = struct.pack("<I", 0xFFFFFFFF)
        handle.write(b"RF64" + unknown + b"WAVE" + sizes + chunks + b"data" + unknown)
    for block in blocks:
        handle.write(block.astype("<f4", copy=False).tobytes())


def exactly(blocks: Iterable[np.ndarray], samples: int, channels: int) -> Iterator[np.ndarray]:
    """The first `samples` of all blocks together.

    Where there are fewer, zeros follow: a length that is rounded at the codec's rate and again at a higher one may ask
    for one sample more than the codes have.
    """
    left = samples
    for block in blocks:
        yield block[:left]
        left -= len(block[:left])
        if not left:
            return
    yield np.zeros((left, channels), np.float32)
