"""Exact encoding: audio files -> the codes that `SNAC.encode` gives for each of them alone.

Batches hold utterances of one padded length, since padding to the longest would change the last tokens of the others.
Long recordings are encoded in chunks with enough context on each side to be exact too.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from snac_pipeline.codec import SNAC, CodecSpec
from snac_pipeline.codes.precision import Precision, quantize
from snac_pipeline.corpus.audio import read_audio, resampled_length
from snac_pipeline.corpus.naming import openable
from snac_pipeline.corpus.probe import digest_of
from snac_pipeline.corpus.sniffing import UnreadableAudio


class Recording(NamedTuple):
    """An utterance to encode."""

    digest: str
    file: str
    num_samples: int
    """Length at the codec's sampling_rate."""


def recordings(utterances, spec: CodecSpec) -> list[Recording]:
    """The rows of a polars frame with digest, file, num_frames and sample_rate as `Recording`s."""
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


def encode_recordings(
    model: SNAC, batch: Sequence[Recording], chunk_seconds: float, precision: Precision
) -> list[list[np.ndarray]]:
    """`encode_batch` of files that still are what was scanned; raises UnreadableAudio naming the first that is not.

    A file edited after the scan would give its new codes to the old content's digest, for good. Hashing costs what
    reading costs, and the decoder then reads from memory.
    """
    for item in batch:
        if digest_of(openable(item.file)) != item.digest:
            raise UnreadableAudio(item.file, "changed since the scan")
    return encode_batch(model, batch, chunk_seconds, precision)


def encode_batch(
    model: SNAC, batch: Sequence[Recording], chunk_seconds: float, precision: Precision
) -> list[list[np.ndarray]]:
    """For each recording one uint16 array per level. All must have one padded length."""
    spec = model.spec
    frames = spec.frames_for(batch[0].num_samples)
    chunk = spec.segment_frames(chunk_seconds)
    if frames > chunk and len(batch) == 1:
        item = batch[0]
        return [encode_chunks(model, lambda start, count: read_audio(item.file, spec.sampling_rate, start, count),
                              frames, chunk, precision)]  # fmt: skip
    length = spec.samples(frames)
    audio = np.stack([read_audio(item.file, spec.sampling_rate, 0, length) for item in batch])
    # Kernels are chosen by shape, and round differently: latents of a batch were 8e-7 off on a CPU. There a batch is
    # not faster either, and one by one codes are equal bit for bit.
    at_once = 1 if next(model.parameters()).device.type == "cpu" else len(batch)
    codes: list[list[np.ndarray]] = []
    for i in range(0, len(batch), at_once):
        levels = encode_array(model, audio[i : i + at_once], precision)
        codes += [list(utterance) for utterance in zip(*levels, strict=True)]
    return codes


def encode_array(model: SNAC, audio_BT: np.ndarray, precision: Precision) -> list[np.ndarray]:
    """Codes per level, (B, n_k) uint16, of float32 audio at sampling_rate."""
    device = next(model.parameters()).device
    codes = quantize(model, torch.from_numpy(audio_BT)[:, None].to(device), precision).codes
    return [level.cpu().numpy().astype(np.uint16) for level in codes]


def encode_chunks(
    model: SNAC, read: Callable[[int, int], np.ndarray], frames: int, chunk: int, precision: Precision
) -> list[np.ndarray]:
    """Codes of a long recording in bounded memory, equal to encoding it whole.

    read(start, count) gives float32 audio from sample `start`, zeros after the end. frames: coarse frames of the whole
    recording. chunk: coarse frames at a time, whole units of spec.alignment.
    """
    spec = model.spec
    pieces: list[list[np.ndarray]] = [[] for _ in range(spec.levels)]
    for first, start, end, last in windows(spec, frames, chunk):
        audio = read(spec.samples(first), spec.samples(last - first))
        for k, level in enumerate(encode_array(model, audio[None], precision)):
            count = spec.tokens_per_frame[k]
            pieces[k].append(level[0, (start - first) * count : (end - first) * count])
    return [np.concatenate(level) for level in pieces]


def windows(spec: CodecSpec, frames: int, chunk: int) -> Iterator[tuple[int, int, int, int]]:
    """(first, start, end, last) in coarse frames, chunk by chunk: encode first..last, keep start..end.

    All are whole units of spec.alignment where `frames` and `chunk` are.
    """
    context = spec.encode_context
    for start in range(0, frames, chunk):
        end = min(frames, start + chunk)
        yield max(0, start - context), start, end, min(frames, end + context)
