"""Exact encoding: audio files -> the codes that `SNAC.encode` gives for each of them alone.

Batches hold utterances of one padded length, since padding to the longest would change the last tokens of the others;
or, on a GPU, of lengths in one bucket, with every item's end masked before each convolution, which is as exact and
gives the device few shapes. Long recordings are encoded in chunks with enough context on each side to be exact too.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from torch import Tensor

from snac_pipeline.codec import SNAC, CodecSpec
from snac_pipeline.codec.streaming import Stretch, stretches
from snac_pipeline.codes.graphs import Function, Graphs, Replay, capture_cuda
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


def one_by_one(device: str) -> bool:
    """Whether `device` encodes the rows of a batch one after the other."""
    return torch.device(device).type in ONE_BY_ONE


def bucket(frames: int, spec: CodecSpec) -> int:
    """The length in coarse frames that audio of `frames` is filled up to: eight lengths from one power of two to the
    next, so that at most an eighth is added, and a corpus of 1 to 20 s has 36 lengths."""
    units = -(-frames // spec.alignment)
    step = 1 << max(0, (units - 1).bit_length() - 4)
    return -(-units // step) * step * spec.alignment


def rows_of(frames: int, spec: CodecSpec, batch_seconds: float) -> int:
    """Items of `frames` coarse frames each that are encoded at once."""
    return max(1, int(batch_seconds / (frames * spec.frame_seconds)))


def batches(
    items: Sequence[Recording], spec: CodecSpec, batch_seconds: float, *, buckets: bool = False
) -> Iterator[list[Recording]]:
    """Runs of items of one padded length, or one bucket, at most `batch_seconds` of audio together (but at least one
    item), filling up included."""

    def length(item: Recording) -> int:
        frames = spec.frames_for(item.num_samples)
        return bucket(frames, spec) if buckets else frames

    batch: list[Recording] = []
    for item in sorted(items, key=lambda item: (spec.frames_for(item.num_samples), item.digest)):
        same = batch and length(batch[0]) == length(item)
        if batch and not (same and len(batch) < rows_of(length(item), spec, batch_seconds)):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


class Window(NamedTuple):
    """What is read and encoded at once: recordings of about one length whole, or a stretch of one long recording."""

    items: list[Recording]
    first: int
    """Coarse frame of the recordings that the audio begins with."""
    start: int
    """The codes of coarse frames start..end are kept; the others are context."""
    end: int
    last: int
    frames: list[int]
    """Coarse frames of each recording that there are from `first` on, at most to `last`."""

    def kept(self, tokens: np.ndarray, row: int, tokens_per_frame: int) -> np.ndarray:
        """Of a level's codes (n,) of the window's audio of recording number `row` those that are kept."""
        end = min(self.end, self.first + self.frames[row])
        return tokens[Stretch(self.first, self.start, end, self.last).kept(tokens_per_frame)]

    def shape(self, spec: CodecSpec, batch_seconds: float) -> tuple[int, int]:
        """Rows and samples that a device which wants few shapes gets."""
        frames = bucket(self.last - self.first, spec)
        return rows_of(frames, spec, batch_seconds), spec.samples(frames)


def plan_windows(
    items: Sequence[Recording], spec: CodecSpec, batch_seconds: float, *, buckets: bool = False
) -> Iterator[Window]:
    """How `items` are encoded, in the order of `batches`; a long recording's windows follow one another."""
    chunk = spec.segment_frames(batch_seconds)
    for batch in batches(items, spec, batch_seconds, buckets=buckets):
        lengths = [spec.frames_for(item.num_samples) for item in batch]
        longest = max(lengths)
        if longest > chunk and len(batch) == 1:
            for stretch in stretches(longest, chunk, spec.encode_context):
                yield Window(batch, *stretch, [stretch.last - stretch.first])
        else:
            yield Window(batch, 0, 0, longest, longest, lengths)


def window_samples(spec: CodecSpec, batch_seconds: float) -> int:
    """Samples of the largest window, all its recordings together."""
    longest = spec.segment_frames(batch_seconds) + 2 * spec.encode_context
    return max(spec.samples(longest), round(batch_seconds * spec.sampling_rate))


Codes = Callable[[], list[np.ndarray]]
"""Waits for what a device encodes and gives its codes per level, (B, n_k) uint16."""


def encode_array(model: SNAC, audio_BT: np.ndarray, precision: Precision) -> list[np.ndarray]:
    """Codes per level, (B, n_k) uint16, of float32 audio at sampling_rate."""
    return Encoder(model, precision).begin(audio_BT)()


def encode_in_memory(model: SNAC, audio_BT: np.ndarray, precision: Precision) -> list[np.ndarray]:
    """As `encode_array`; what does not fit into the device's memory is encoded half by half, with the same codes."""
    return Encoder(model, precision).begin_in_memory(audio_BT)()


class Encoder:
    """A codec's encoder on its device. capture: records it for each shape that `begin` is asked for; see Graphs."""

    def __init__(self, model: SNAC, precision: Precision, capture: Callable[[Replay], Replay] | None = None):
        self.model, self.precision = model, precision
        self.device = next(model.parameters()).device
        self.run: Function = self._run if capture is None else Graphs(self._run, capture)

    @classmethod
    def on_device(cls, model: SNAC, precision: Precision) -> "Encoder":
        """With CUDA graphs where there are any, in memory that they share."""
        device = next(model.parameters()).device
        if device.type != "cuda" or torch.version.cuda is None:
            return cls(model, precision)
        torch.cuda.set_device(device)
        return cls(model, precision, partial(capture_cuda, pool=torch.cuda.graph_pool_handle()))

    def begin(
        self, audio_BT: np.ndarray, frames: Sequence[int] | None = None, shape: tuple[int, int] | None = None
    ) -> Codes:
        """Begin to encode audio, which may change after the call; a GPU works on while the host goes on.

        frames: coarse frames that each item really has; the codes of those after them mean nothing. None: all have all,
        encoded without masks. shape: rows and samples to fill up with silence to, where frames are given.
        """
        audio = torch.from_numpy(audio_BT)
        if self.device.type in ONE_BY_ONE and frames is None:
            rows = [self._run(row[None, None]) for row in audio]
            return partial(_as_arrays, [torch.cat(level) for level in zip(*rows, strict=True)])
        audio = _sent(audio, self.device)
        if frames is None:
            return _fetched(self._run(audio[:, None]))
        count, samples = audio.shape if shape is None else shape
        filled = audio.new_zeros((count, 1, samples))
        filled[: len(audio), 0, : audio.shape[1]] = audio
        ends = _sent(torch.tensor([*frames, *[0] * (count - len(audio))]), self.device)
        levels = (self._run if shape is None else self.run)(filled, ends)
        return _fetched([level[: len(audio)] for level in levels])

    def begin_in_memory(
        self, audio_BT: np.ndarray, frames: Sequence[int] | None = None, shape: tuple[int, int] | None = None
    ) -> Codes:
        """As `begin`; what does not fit into the device's memory is encoded without what fills it up, and then half by
        half, with the same codes.

        Raises torch.OutOfMemoryError where one recording's stretch that is no longer than its context does not fit.
        """
        halves = None
        try:
            return self.begin(audio_BT, frames, shape)
        except torch.OutOfMemoryError:
            if shape is None and (halves := _halves(self.model.spec, audio_BT, frames)) is None:
                raise
        torch.cuda.empty_cache()  # out here, where the error holds the failed attempt's tensors no longer
        if halves is None:
            return self.begin_in_memory(audio_BT, frames)
        counts, kept = self.model.spec.tokens_per_frame, []
        for half in halves:
            levels = self.begin_in_memory(half.audio_BT, half.frames)()
            kept.append([level[:, half.start * n : half.end * n] for level, n in zip(levels, counts, strict=True)])
        axis = 0 if len(audio_BT) > 1 else 1
        joined = [np.concatenate(levels, axis=axis) for levels in zip(*kept, strict=True)]
        return lambda: joined

    def _run(self, audio_B1T: Tensor, frames_B: Tensor | None = None) -> list[Tensor]:
        return quantize(self.model, audio_B1T, self.precision, frames_B).codes


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on `device`; to a GPU through pinned memory, from which it is copied while the host goes on."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _fetched(levels: list[Tensor]) -> Codes:
    """The codes once the device has them; what it is given after this call is not waited for."""
    if not levels[0].is_cuda:
        return partial(_as_arrays, levels)
    here = [torch.empty(level.shape, dtype=level.dtype, pin_memory=True) for level in levels]
    for there, level in zip(here, levels, strict=True):
        there.copy_(level, non_blocking=True)
    done = torch.cuda.Event()
    done.record()

    def wait() -> list[np.ndarray]:
        done.synchronize()
        return _as_arrays(here)

    return wait


def _as_arrays(levels: list[Tensor]) -> list[np.ndarray]:
    return [level.cpu().numpy().astype(np.uint16) for level in levels]


class _Half(NamedTuple):
    audio_BT: np.ndarray
    frames: Sequence[int] | None
    start: int
    """The codes of coarse frames start..end are kept."""
    end: int


def _halves(spec: CodecSpec, audio_BT: np.ndarray, frames: Sequence[int] | None) -> list[_Half] | None:
    """What to encode in place of an array that does not fit; None where context would make it no smaller."""
    batch, length = len(audio_BT), spec.padded_length(audio_BT.shape[1]) // spec.coarse_frame
    if batch > 1:
        parts = (slice(0, batch // 2), slice(batch // 2, batch))
        return [_Half(audio_BT[rows], frames and frames[rows], 0, length) for rows in parts]
    chunk = -(-length // (2 * spec.alignment)) * spec.alignment
    if chunk + spec.encode_context >= length:
        return None
    return [
        _Half(
            audio_BT[:, spec.samples(first) : spec.samples(last)],
            None if frames is None else [min(max(frames[0] - first, 0), last - first)],
            start - first,
            end - first,
        )
        for first, start, end, last in stretches(length, chunk, spec.encode_context)
    ]
