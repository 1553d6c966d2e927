"""Exact encoding: audio files -> the codes that `SNAC.encode` gives for each of them alone.

Batches hold utterances of one padded length, since padding to the longest would change the last tokens of the others.
Long recordings are encoded in chunks with enough context on each side to be exact too.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
import torch

from snac_pipeline.codec import SNAC, CodecSpec
from snac_pipeline.codec.streaming import Stretch, stretches
from snac_pipeline.codes.precision import quantize
from snac_pipeline.corpus.audio import resampled_length
from snac_pipeline.settings import Precision

ONE_BY_ONE = ("cpu",)
"""Kinds of device where the rows of a batch are encoded one after the other. Kernels are chosen by shape, and round
differently: latents of a batch were 8e-7 off on a CPU. There a batch is not faster either."""


class Recording(NamedTuple):
    """An utterance to encode."""

    digest: str
    file: str
    num_samples: int
    """Length at the codec's sampling_rate."""


def recordings(utterances: pl.DataFrame, spec: CodecSpec) -> list[Recording]:
    """The rows with digest, file, num_frames and sample_rate as `Recording`s."""
    rows = utterances.select("digest", "file", "num_frames", "sample_rate").rows()
    return [
        Recording(digest, file, resampled_length(frames, rate, spec.sampling_rate))
        for digest, file, frames, rate in rows
    ]


def batches(items: Sequence[Recording], spec: CodecSpec, batch_seconds: float) -> Iterator[list[Recording]]:
    """Runs of items of one padded length, at most `batch_seconds` of audio together (but at least one item)."""
    batch: list[Recording] = []
    for item in sorted(items, key=lambda item: (spec.frames_for(item.num_samples), item.digest)):
        frames = spec.frames_for(item.num_samples)
        same = batch and spec.frames_for(batch[0].num_samples) == frames
        if batch and not (same and (len(batch) + 1) * frames * spec.frame_seconds <= batch_seconds):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


class Window(NamedTuple):
    """What is read and encoded at once: recordings of one padded length whole, or a stretch of one long recording."""

    items: list[Recording]
    first: int
    """Coarse frame of the recordings that the audio begins with."""
    start: int
    """The codes of coarse frames start..end are kept; the others are context."""
    end: int
    last: int

    def kept(self, level: np.ndarray, tokens_per_frame: int) -> np.ndarray:
        """Of a level's codes (B, n) of the window's audio those that are kept."""
        return level[:, Stretch(self.first, self.start, self.end, self.last).kept(tokens_per_frame)]


def plan_windows(items: Sequence[Recording], spec: CodecSpec, batch_seconds: float) -> Iterator[Window]:
    """How `items` are encoded, in the order of `batches`; a long recording's windows follow one another."""
    chunk = spec.segment_frames(batch_seconds)
    for batch in batches(items, spec, batch_seconds):
        frames = spec.frames_for(batch[0].num_samples)
        if frames > chunk and len(batch) == 1:
            yield from (Window(batch, *stretch) for stretch in stretches(frames, chunk, spec.encode_context))
        else:
            yield Window(batch, 0, 0, frames, frames)


def window_samples(spec: CodecSpec, batch_seconds: float) -> int:
    """Samples of the largest window, all its recordings together."""
    longest = spec.segment_frames(batch_seconds) + 2 * spec.encode_context
    return max(spec.samples(longest), round(batch_seconds * spec.sampling_rate))


def encode_array(model: SNAC, audio_BT: np.ndarray, precision: Precision) -> list[np.ndarray]:
    """Codes per level, (B, n_k) uint16, of float32 audio at sampling_rate."""
    device = next(model.parameters()).device
    at_once = 1 if device.type in ONE_BY_ONE else len(audio_BT)
    audio_B1T = torch.from_numpy(audio_BT)[:, None]
    rows = [quantize(model, some.to(device), precision).codes for some in torch.split(audio_B1T, at_once)]
    return [torch.cat(level).cpu().numpy().astype(np.uint16) for level in zip(*rows, strict=True)]


def encode_in_memory(model: SNAC, audio_BT: np.ndarray, precision: Precision) -> list[np.ndarray]:
    """As `encode_array`; what does not fit into the device's memory is encoded half by half, with the same codes.

    Raises torch.OutOfMemoryError where one recording's stretch that is no longer than its context does not fit.
    """
    try:
        return encode_array(model, audio_BT, precision)
    except torch.OutOfMemoryError:
        halves = _halves(model.spec, audio_BT)
        if halves is None:
            raise
    torch.cuda.empty_cache()  # out here, where the error holds the failed attempt's tensors no longer
    counts, kept = model.spec.tokens_per_frame, []
    for audio, start, end in halves:
        levels = encode_in_memory(model, audio, precision)
        kept.append([level[:, start * n : end * n] for level, n in zip(levels, counts, strict=True)])
    axis = 0 if len(audio_BT) > 1 else 1
    return [np.concatenate(levels, axis=axis) for levels in zip(*kept, strict=True)]


def _halves(spec: CodecSpec, audio_BT: np.ndarray) -> list[tuple[np.ndarray, int, int]] | None:
    """Two smaller arrays and the coarse frames of each to keep; None where context would make them no smaller."""
    batch, frames = len(audio_BT), audio_BT.shape[1] // spec.coarse_frame
    if batch > 1:
        return [(rows, 0, frames) for rows in (audio_BT[: batch // 2], audio_BT[batch // 2 :])]
    chunk = -(-frames // (2 * spec.alignment)) * spec.alignment
    if chunk + spec.encode_context >= frames:
        return None
    return [
        (audio_BT[:, spec.samples(first) : spec.samples(last)], start - first, end - first)
        for first, start, end, last in stretches(frames, chunk, spec.encode_context)
    ]
