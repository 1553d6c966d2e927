"""The codec over signals longer than memory, or not yet at their end: audio and codes in blocks of any size.

In: an iterator of blocks. Out: an iterator of chunks that, joined, are what `SNAC.encode` and `SNAC.decode` give for
everything at once: each chunk is worked on with the context that the spec asks for, on whole attention windows. Held at
a time: one chunk and its context, whatever the length. Axes: B batch, T samples, K levels.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from snac_pipeline.codec.checks import check_audio, check_counter, check_length, check_levels
from snac_pipeline.codec.model import SNAC
from snac_pipeline.codec.noise import Noise, NoiseMode
from snac_pipeline.codec.spec import CodecSpec
from snac_pipeline.errors import PipelineError

CHUNK_SECONDS = 1.0
"""Of a stream, unless told otherwise: the published 24 kHz model then computes 1.5 times what one call would."""


class Stretch(NamedTuple):
    """A chunk, coarse frames start..end, and with its context first..last."""

    first: int
    start: int
    end: int
    last: int

    def kept(self, per_frame: int) -> slice:
        """Where the chunk is in first..last, in units of which a coarse frame has `per_frame`."""
        return slice((self.start - self.first) * per_frame, (self.end - self.first) * per_frame)


def stretches(frames: int | None, chunk: int, context: int) -> Iterator[Stretch]:
    """A signal of `frames` coarse frames, chunk by chunk; None: it goes on for ever.

    All are whole units of spec.alignment where `frames`, `chunk` and `context` are.
    """
    for start in itertools.count(0, chunk) if frames is None else range(0, frames, chunk):
        whole = Stretch(max(0, start - context), start, start + chunk, start + chunk + context)
        yield whole if frames is None else whole._replace(end=min(frames, whole.end), last=min(frames, whole.last))


class Latency(NamedTuple):
    """How long a stream holds back what it is given, at most, in coarse frames: a chunk and the context after it."""

    encode: int
    decode: int


def latency(spec: CodecSpec, chunk_seconds: float = CHUNK_SECONDS) -> Latency:
    """Latency of streams with these chunks; 0 s: with the shortest there are, one coarse frame or whole windows."""
    chunk = spec.segment_frames(chunk_seconds)
    return Latency(chunk + spec.encode_context, chunk + spec.decode_context)


def encode_stream(
    model: SNAC,
    blocks: Iterable[Tensor],
    *,
    chunk_seconds: float = CHUNK_SECONDS,
    encode: Callable[[Tensor], list[Tensor]] | None = None,
) -> Iterator[list[Tensor]]:
    """Codes of audio that arrives in blocks (B, 1, n) at sampling_rate, n of any size and another every time.

    Yields lists of one (B, n_k) tensor for each level, whole coarse frames; joined they are `model.encode` of all
    blocks joined, token by token (but for ties that float32 rounds otherwise in convolutions of another length).
    chunk_seconds: rounded to whole coarse frames or attention windows, at least one. Codes come when the chunk and
    `spec.encode_context` frames after it have arrived (see `latency`): with the published 24 kHz model after 1.28 s,
    15 frames; after 0.34 s, 4 frames, with chunk_seconds=0, at seven times the work.
    encode: what takes the place of `model.encode`, for another precision.
    Raises PipelineError where `encode` does, and for blocks that cannot be joined.
    """
    device = next(model.parameters()).device
    encode = encode or (lambda audio: model.encode(audio.to(device)))
    return _encoded(model.spec, blocks, encode, model.spec.segment_frames(chunk_seconds))


def _encoded(
    spec: CodecSpec, blocks: Iterable[Tensor], encode: Callable[[Tensor], list[Tensor]], chunk: int
) -> Iterator[list[Tensor]]:
    audio, context = _Arriving(), spec.encode_context

    def encoded(stretch: Stretch) -> list[Tensor]:
        taken = audio.take(spec.samples(stretch.first), spec.samples(stretch.last))
        with torch.no_grad():
            levels = encode(taken)
        return [level[:, stretch.kept(count)] for level, count in zip(levels, spec.tokens_per_frame, strict=True)]

    plan = stretches(None, chunk, context)
    stretch = next(plan)
    for block in blocks:
        check_audio(block)
        audio.append(block)
        while audio.end >= spec.samples(stretch.last):
            yield encoded(stretch)
            stretch = next(plan)
    frames = spec.frames_for(audio.end)
    audio.append_zeros(spec.samples(frames) - audio.end)
    yield from (encoded(left) for left in stretches(frames, chunk, context) if left.start >= stretch.start)


def decode_stream(
    model: SNAC,
    codes: Iterable[Sequence[Tensor]],
    *,
    length: int | None = None,
    output_rate: int | None = None,
    noise: NoiseMode = "seeded",
    seed: int | Tensor = 0,
    chunk_seconds: float = CHUNK_SECONDS,
) -> Iterator[Tensor]:
    """Audio (B, 1, n) of codes that arrive in blocks, each one (B, n_k) tensor for each level, n_k of any size.

    Joined, the audio is `model.decode` of all blocks joined, up to the rounding of float32; only in the end do the
    levels have to cover one span of time. length, output_rate, noise, seed: as in `SNAC.decode`; noise `upstream` is
    drawn for the whole at once and cannot be streamed. Audio comes when the codes of the chunk and of
    `spec.decode_context` frames after it have arrived (see `latency`): with the published 24 kHz model after 1.28 s,
    15 frames; after 0.34 s, 4 frames, with chunk_seconds=0. Raises PipelineError where `decode` does.
    """
    if noise == "upstream":
        raise PipelineError("noise `upstream` is drawn for a whole at once; a stream takes `seeded` or `off`")
    spec = model.spec
    rate = spec.output_rate(output_rate)
    check_length(length)
    check_counter(seed, "seed")
    limit = None if length is None else length * rate // spec.sampling_rate
    chunks = _decoded(model, codes, length, rate, Noise(noise, seed), spec.segment_frames(chunk_seconds))
    return _cut(chunks, limit)


def _decoded(
    model: SNAC, codes: Iterable[Sequence[Tensor]], length: int | None, rate: int, noise: Noise, chunk: int
) -> Iterator[Tensor]:
    spec, context = model.spec, model.spec.decode_context
    device = next(model.parameters()).device
    levels = [_Arriving() for _ in range(spec.levels)]

    def decoded(stretch: Stretch) -> Tensor:
        spans = [(stretch.first * n, stretch.last * n) for n in spec.tokens_per_frame]
        taken = [level.take(*span).to(device) for level, span in zip(levels, spans, strict=True)]
        with torch.no_grad():
            audio = model.decode(taken, output_rate=rate, noise=noise.mode, seed=noise.seed, start_frame=stretch.first)
        return audio[..., stretch.kept(spec.samples(1, rate))]

    plan = stretches(None, chunk, context)
    stretch = next(plan)
    for block in codes:
        check_levels(block, spec)
        for level, tokens in zip(levels, block, strict=True):
            level.append(tokens)
        while all(level.end >= stretch.last * n for level, n in zip(levels, spec.tokens_per_frame, strict=True)):
            yield decoded(stretch)
            stretch = next(plan)
    frames = spec.frames_of([level.end for level in levels])
    if frames == 0:
        raise PipelineError("there are no codes to decode: every level has 0 frames")
    check_length(length, held=spec.samples(frames))
    yield from (decoded(left) for left in stretches(frames, chunk, context) if left.start >= stretch.start)


def _cut(blocks: Iterable[Tensor], limit: int | None) -> Iterator[Tensor]:
    """The first `limit` samples of all blocks together."""
    for block in blocks:
        if limit is not None:
            block = block[..., :limit]
            limit -= block.shape[-1]
        yield block
        if limit == 0:
            return


class _Arriving:
    """A signal, along the last axis, of which the beginning is forgotten while the end still comes."""

    def __init__(self) -> None:
        self.blocks: list[Tensor] = []
        self.start = self.end = 0

    def append(self, block: Tensor) -> None:
        """Raises PipelineError for a block of another batch size than the one before it."""
        if self.blocks and block.shape[:-1] != self.blocks[-1].shape[:-1]:
            raise PipelineError(
                f"a block of shape {tuple(block.shape)} cannot follow one of shape {tuple(self.blocks[-1].shape)}"
            )
        self.blocks.append(block)
        self.end += block.shape[-1]

    def append_zeros(self, count: int) -> None:
        """Silence, of one item where nothing came before."""
        last = self.blocks[-1] if self.blocks else torch.zeros(1, 1, 0)
        self.append(last.new_zeros(*last.shape[:-1], count))

    def take(self, first: int, last: int) -> Tensor:
        """From `first` to `last`; what is before `first` is forgotten."""
        whole = self.blocks[0] if len(self.blocks) == 1 else torch.cat(self.blocks, dim=-1)
        self.blocks = [whole[..., first - self.start :]]
        self.start = first
        return self.blocks[0][..., : last - first]
