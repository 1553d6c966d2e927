"""Decoding audio files in blocks, with the decoder chosen by content.

soundfile reads wav, flac and ogg vorbis: fast, seeks to the sample, refuses damaged flac. PyAV reads what soundfile
cannot (m4a) or reads wrong without saying so: mp3 without a Xing header (74,119 of 286,848 frames), a slice of an opus
file, wav whose data size was never filled in (0 frames), flac whose sample count was not (an error).
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import av
import numpy as np
import soundfile

from snac_pipeline.corpus.naming import is_url, openable
from snac_pipeline.corpus.sniffing import Kind, UnreadableAudio, sniff
from snac_pipeline.corpus.stores import open_file

BLOCK_FRAMES = 1 << 17  # 5 s at 24 kHz: memory stays bounded for a file of any length

# PyAV raises plain ValueErrors too, for instance where rate or channels change inside a file.
_DECODER_ERRORS = (soundfile.SoundFileError, av.FFmpegError, ValueError)


@dataclass
class Stream:
    """An open audio file.

    `blocks(start, frames)` yields, once, float32 arrays (frames, channels) from frame `start` (of the file's own rate)
    for `frames` frames or, with None, to the end; the last block may overrun. It raises UnreadableAudio at damage;
    where it `seeks`, by the header (wav, flac, ogg), fewer frames than promised are damage: slices would be misplaced.
    What does not is decoded from its beginning.
    """

    format: str  # a key of sniffing.EXTENSIONS
    sample_rate: int
    channels: int
    header_frames: int | None  # what the header says, None where it says nothing
    blocks: Callable[[int, int | None], Iterator[np.ndarray]]
    seeks: bool
    flags: list[str] = field(default_factory=list)


@contextlib.contextmanager
def open_stream(path: str | bytes | os.PathLike[str]) -> Iterator[Stream]:
    """Open an audio file by its path, the stored form of it, or a URL. Raises UnreadableAudio naming it."""
    path = openable(path)
    with open_file(path) as handle:
        try:
            kind = sniff(handle)
            handle.seek(0)
            if kind.demuxer is None:
                with _Straight(handle if is_url(path) else path) as file:  # by path libsndfile reads without Python
                    yield _soundfile_stream(file, path, kind)
            else:  # an open file and a named demuxer: FFmpeg would take some names for protocols and playlists
                with av.open(handle, mode="r", format=kind.demuxer, metadata_errors="replace") as container:
                    yield _av_stream(container, path, kind)
        except UnreadableAudio:
            raise
        except _DECODER_ERRORS as error:
            raise UnreadableAudio(path, _decoder_message(error)) from error


class _Straight(soundfile.SoundFile):  # type: ignore[misc]  # soundfile has no types
    """Reads on without the seek that soundfile makes after every read: it would hide a hole in ogg by going back."""

    def seekable(self) -> bool:
        return False


def _soundfile_stream(file: soundfile.SoundFile, path: bytes, kind: Kind) -> Stream:
    def blocks(start: int, frames: int | None) -> Iterator[np.ndarray]:
        stop = file.frames if frames is None else min(file.frames, start + frames)
        position = min(start, file.frames)
        try:
            if position:
                file.seek(position)
            while position < stop:
                wanted = min(BLOCK_FRAMES, stop - position)
                block = file.read(wanted, dtype="float32", always_2d=True)
                position += len(block)
                yield block
                if len(block) < wanted:
                    raise UnreadableAudio(path, f"damaged: {position} of {file.frames} frames can be decoded")
        except UnreadableAudio:
            raise
        except _DECODER_ERRORS as error:
            raise _broken(path, position, file.frames, error) from error

    return Stream(kind.format, file.samplerate, file.channels, file.frames, blocks, True, list(kind.flags))


def _av_stream(container: av.container.InputContainer, path: bytes, kind: Kind) -> Stream:
    if not container.streams.audio:
        raise UnreadableAudio(path, "no audio stream inside")
    stream = container.streams.audio[0]
    if stream.codec_context is None:
        raise UnreadableAudio(path, "the audio inside is protected, damaged, or of a codec that FFmpeg does not know")
    header = None
    if stream.duration and stream.time_base and "no_xing" not in kind.flags:  # else guessed from the first bit rate
        header = round(stream.duration * stream.time_base * stream.rate)

    def blocks(start: int, frames: int | None) -> Iterator[np.ndarray]:  # from the beginning: seeking is not exact
        position = 0
        try:
            for block in _float_blocks(container, stream):
                if position + len(block) > start:
                    yield block[max(0, start - position) :]
                position += len(block)
                if frames is not None and position >= start + frames:
                    return
        except _DECODER_ERRORS as error:
            raise _broken(path, position, header, error) from error

    channels = stream.codec_context.channels
    return Stream(kind.format, stream.rate, channels, header, blocks, False, list(kind.flags))


def _float_blocks(container: av.container.InputContainer, stream: av.AudioStream) -> Iterator[np.ndarray]:
    """Decoded frames as float32 (frames, channels), about BLOCK_FRAMES at a time; PyAV's own are 20 ms long."""
    to_float = av.AudioResampler(format="fltp")
    pending: list[np.ndarray] = []
    count = 0
    for frame in container.decode(stream):
        for converted in to_float.resample(frame):
            pending.append(converted.to_ndarray().T)
            count += len(pending[-1])
        if count >= BLOCK_FRAMES:
            yield np.concatenate(pending)
            pending, count = [], 0
    if pending:
        yield np.concatenate(pending)


def _broken(path: bytes, position: int, total: int | None, error: Exception) -> UnreadableAudio:
    of_total = f" of {total}" if total else ""
    return UnreadableAudio(path, f"decoding fails after {position}{of_total} frames: {_decoder_message(error)}")


def _decoder_message(error: Exception) -> str:
    if isinstance(error, soundfile.LibsndfileError):
        return f"libsndfile error {error.code}: {error.error_string}".rstrip(": ")
    return f"{'FFmpeg: ' if isinstance(error, av.FFmpegError) else ''}{getattr(error, 'strerror', None) or error}"
