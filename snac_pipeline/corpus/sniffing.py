"""What kind of audio a file is, by its first bytes (names lie), and what they say about the rest of it."""

import os
from dataclasses import dataclass
from typing import BinaryIO

from snac_pipeline.errors import PipelineError

# The formats we read, and the extensions that name them truly.
EXTENSIONS = {
    "wav": (".wav",),
    "flac": (".flac",),
    "ogg": (".ogg",),
    "opus": (".opus", ".ogg"),
    "mp3": (".mp3",),
    "m4a": (".m4a",),
}
_UNKNOWN_SIZE = 0xFFFFFFFF


class UnreadableAudio(PipelineError):
    """A file that cannot be used: `reason` is what quarantine records, the message has the path before it."""

    def __init__(self, path: str | bytes | os.PathLike, reason: str) -> None:
        super().__init__(path, reason)
        self.reason = reason

    def __str__(self) -> str:
        path, reason = self.args
        return f"{os.fsencode(path).decode('utf-8', 'backslashreplace')}: {reason}"


class UnreachableFile(UnreadableAudio):
    """The bytes could not be read (permission, disk): says nothing about the content, so it is tried again."""


@dataclass(frozen=True)
class Kind:
    """`format` is a key of EXTENSIONS; `demuxer` is PyAV's name for it, None where soundfile reads it."""

    format: str
    demuxer: str | None = None
    flags: tuple[str, ...] = ()


def sniff(handle: BinaryIO) -> Kind:
    """The kind of an open file, whose position is moved. Raises UnreadableAudio where it is empty or not audio."""
    head = handle.read(4096)
    if not head:
        raise UnreadableAudio(handle.name, "the file is empty (0 bytes)")
    if head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:12] == b"WAVE":
        return _wav(handle, head)
    if head[:4] == b"OggS":
        return Kind("opus", "ogg") if b"OpusHead" in head[:128] else Kind("ogg")
    if head[4:8] == b"ftyp":
        return Kind("m4a", "mov")
    tag = _id3_size(head)
    handle.seek(tag)
    first = handle.read(4096)
    if first[:4] == b"fLaC":
        return _flac(first)
    if tag or _is_mpeg_frame(first):
        counted = any(name in first for name in (b"Xing", b"Info", b"VBRI"))
        return Kind("mp3", "mp3", () if counted else ("no_xing",))
    raise UnreadableAudio(handle.name, f"not audio: the first bytes are {head[:12]!r}")


def _wav(handle: BinaryIO, head: bytes) -> Kind:
    """Compare the data chunk's size with the file's: 0 or all ones is a stream never closed, too large a file cut."""
    file_size = handle.seek(0, os.SEEK_END)
    order = "big" if head[:4] == b"RIFX" else "little"
    offset = 12
    while offset + 8 <= file_size:
        handle.seek(offset)
        name, size = handle.read(4), int.from_bytes(handle.read(4), order)
        if name == b"data":
            if head[:4] == b"RF64" and size == _UNKNOWN_SIZE:  # by design: the real size is in another chunk
                return Kind("wav")
            if size == 0 and file_size > offset + 8:
                return Kind("wav", "wav", ("unclosed",))  # soundfile reads 0 frames
            if size == _UNKNOWN_SIZE:
                return Kind("wav", None, ("unclosed",))
            return Kind("wav", None, ("truncated",) if offset + 8 + size > file_size else ())
        offset += 8 + size + size % 2
    return Kind("wav")


def _flac(first: bytes) -> Kind:
    """STREAMINFO comes first; its 36-bit sample count is 0 where the encoder could not seek back: soundfile fails."""
    streamed = int.from_bytes(first[21:26], "big") & 0xFFFFFFFFF == 0
    return Kind("flac", "flac", ("unclosed",)) if streamed else Kind("flac")


def _id3_size(head: bytes) -> int:
    """Bytes of an ID3v2 tag (7 bits a byte), 0 where there is none."""
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    return 10 + ((head[6] << 21) | (head[7] << 14) | (head[8] << 7) | head[9])


def _is_mpeg_frame(first: bytes) -> bool:
    return len(first) > 2 and first[0] == 0xFF and first[1] & 0xE0 == 0xE0 and bool(first[1] & 0x06)
