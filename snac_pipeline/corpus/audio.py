"""Audio as the model wants it: float32, mono, at its own rate, whole or any slice of it.

A slice is what the same slice of the whole resampled file would be (to 1e-6), because it is resampled with context on
both sides and starts where the two rates' sampling instants coincide.
"""

import contextlib
import math
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import polars as pl
import soxr

from snac_pipeline.corpus.decoding import Stream, open_stream

# Both belong to the encoder fingerprint: other values mean other codes.
RESAMPLER = f"soxr {soxr.__libsoxr_version__} HQ"
MONO_RULE = "mean of channels"

# Samples of context on each side, at the lower of the two rates. soxr HQ's filter dies out within 128 (measured for
# 12 pairs of rates: 256 gives 3e-7, 64 gives 2e-3).
_CONTEXT = 256

Whole = TypeVar("Whole", int, pl.Expr)
"""Whole numbers: one, or a column of them."""


def resampled_length(num_frames: Whole, source_rate: Whole, target_rate: int) -> Whole:
    """Samples at `target_rate` of `num_frames` at `source_rate`: num_frames * target / source, halves rounded up."""
    return (2 * num_frames * target_rate + source_rate) // (2 * source_rate)


def read_audio(
    path: str | bytes | os.PathLike[str], sample_rate: int, start: int = 0, frames: int | None = None
) -> np.ndarray:
    """Read mono float32 audio x_T at `sample_rate` Hz from a path, a URL, or the `file` of a manifest's row.

    `start` and `frames` are counted in samples at `sample_rate`; `frames=None` reads to the end. A whole read has
    `resampled_length(...)` samples; a slice that reaches past the end is padded with zeros to `frames`.
    Seeks in wav, flac and ogg; mp3, opus and m4a are decoded from their beginning, which alone is exact.
    Raises PipelineError naming the path where the file cannot be decoded.
    """
    assert start >= 0 and (frames is None or frames >= 0), (start, frames)
    with open_stream(path) as stream:
        return _resampled(partial(_read_mono, stream), stream.sample_rate, sample_rate, start, frames)


class InOrder:
    """`read_audio` for stretches of a file that come in order, none beginning before the one that was read last.

    What can only be decoded from its beginning is so once and not for each stretch anew, which for ten hours of mp3 by
    the minute is 300 times the file. That file stays open, and the last stretch in memory.
    """

    def __init__(self) -> None:
        self._path: str | bytes | os.PathLike[str] | None = None
        self._open = contextlib.ExitStack()

    def read(self, path: str | bytes | os.PathLike[str], sample_rate: int, start: int, frames: int) -> np.ndarray:
        """As `read_audio`."""
        if path != self._path:
            self._begin(path)
        first, _ = _source_window(self._stream.sample_rate, sample_rate, start, frames)
        if self._stream.seeks:
            return read_audio(path, sample_rate, start, frames)
        if first < self._first:
            self._begin(path)
        return _resampled(self._forward, self._stream.sample_rate, sample_rate, start, frames)

    def close(self) -> None:
        """Forget the file; raises UnreachableFile where its store failed while it was read."""
        self._path = None
        self._open.close()

    def _begin(self, path: str | bytes | os.PathLike[str]) -> None:
        self.close()
        self._stream = self._open.enter_context(open_stream(path))
        if self._stream.seeks:
            self._open.close()
        self._path, self._blocks = path, self._stream.blocks(0, None)
        self._first, self._kept = 0, np.zeros(0, np.float32)  # source frames from `_first` on

    def _forward(self, first: int, frames: int | None) -> np.ndarray:
        """Source frames [first, first + frames), fewer where the file ends."""
        assert frames is not None, "a stretch has an end"
        pieces, end = [self._kept], self._first + len(self._kept)
        try:
            while end < first + frames and (block := next(self._blocks, None)) is not None:
                mono = _mono(block)
                end += len(mono)
                if end <= first:
                    pieces, self._first = [mono[:0]], end
                else:
                    pieces.append(mono)
            if end < first + frames:
                self._open.close()  # the end of the file, or of its store's patience
        except BaseException:
            self._path = None
            if not self._open.__exit__(*sys.exc_info()):  # which says it in our words
                raise
        kept = np.concatenate(pieces)
        skipped = min(len(kept), first - self._first)
        self._first, self._kept = self._first + skipped, kept[skipped:]
        return self._kept[:frames]


def _resampled(
    read: Callable[[int, int | None], np.ndarray], source_rate: int, sample_rate: int, start: int, frames: int | None
) -> np.ndarray:
    """The samples that `read_audio` promises, of source frames that read(first, frames) gives."""
    first, last = _source_window(source_rate, sample_rate, start, frames)
    x = read(first, None if last is None else last - first)
    if source_rate != sample_rate and len(x):
        x = soxr.resample(x, source_rate, sample_rate, "HQ")
    offset = start - first * sample_rate // source_rate
    x = x[offset:] if frames is None else x[offset : offset + frames]
    if frames is not None and len(x) < frames:
        x = np.pad(x, (0, frames - len(x)))
    return x


@dataclass
class Audio:
    """A file that is read in blocks (n, channels) at the rate asked for; joined they are what `read_audio` gives."""

    source_rate: int
    channels: int
    """Of the file, whatever the blocks have."""
    header_frames: int | None
    """What its header says; None where it says nothing."""
    blocks: Iterator[np.ndarray]
    source_samples: int = 0
    """Frames of the file that were read."""


@contextlib.contextmanager
def open_audio(path: str | bytes | os.PathLike[str], sample_rate: int, *, mix: bool = True) -> Iterator[Audio]:
    """Open a file to be read once, in the memory of a block. mix: the mean of its channels, in place of all of them.

    Raises PipelineError naming the path where the file cannot be decoded, when its blocks are read too.
    """
    with open_stream(path) as stream:
        audio = Audio(stream.sample_rate, stream.channels, stream.header_frames, iter(()))
        audio.blocks = _resampled_blocks(stream, audio, sample_rate, mix)
        yield audio


def _resampled_blocks(stream: Stream, audio: Audio, sample_rate: int, mix: bool) -> Iterator[np.ndarray]:
    channels = 1 if mix else stream.channels
    resample = None
    if stream.sample_rate != sample_rate:
        resample = soxr.ResampleStream(stream.sample_rate, sample_rate, channels, dtype="float32", quality="HQ")
    for block in stream.blocks(0, None):
        audio.source_samples += len(block)
        x = _mono(block)[:, None] if mix else block
        yield resample.resample_chunk(np.ascontiguousarray(x)) if resample else x
    if resample:
        yield resample.resample_chunk(np.zeros((0, channels), np.float32), last=True)


def _mono(block: np.ndarray) -> np.ndarray:
    """(n, channels) -> (n,)"""
    return block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32)


def _source_window(source: int, target: int, start: int, frames: int | None) -> tuple[int, int | None]:
    """Source frames [first, last) that the slice needs; `first` is an instant that both rates sample."""
    context = 0 if source == target else math.ceil(_CONTEXT * max(1.0, source / target))
    period = source // math.gcd(source, target)
    first = max(0, start * source // target - context) // period * period
    last = None if frames is None else -(-(start + frames) * source // target) + context
    return first, last


def _read_mono(stream: Stream, first: int, frames: int | None) -> np.ndarray:
    """Source frames [first, first + frames) as the mean of the channels, shorter where the file ends."""
    blocks, missing = [], frames
    for block in stream.blocks(first, frames):
        blocks.append(_mono(block)[:missing])
        if missing is not None:
            missing -= len(blocks[-1])
            if missing == 0:
                break
    return np.ascontiguousarray(np.concatenate(blocks)) if blocks else np.zeros(0, np.float32)
