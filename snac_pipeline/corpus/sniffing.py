"""What kind of audio a file is, by its first bytes (names lie), and what they say about the rest of it."""

import os
import struct
from dataclasses import dataclass
from typing import BinaryIO, Literal

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
_CHUNK = 1 << 20

_OGG_PAGE = struct.Struct("<4sx B 8x I 8x B")  # OggS, flags, serial number of the stream, segments
_OGG_FIRST_PAGE = 2
_OGG_LARGEST_PAGE = 27 + 255 + 255 * 255


class UnreadableAudio(PipelineError):
    """A file that cannot be used: `reason` is what quarantine records, the message has the path before it."""

    def __init__(self, path: str | bytes | os.PathLike[str], reason: str) -> None:
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
        _refuse_chained(handle, head)
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


def _refuse_chained(handle: BinaryIO, head: bytes) -> None:
    """Streams one after the other (two files joined, a radio's recording): libsndfile reads the first alone, FFmpeg
    decodes the second one's headers as audio, and neither says so. The last page then is of a stream that no page at
    the beginning has announced."""
    announced, offset = set(), 0
    while (page := head[offset : offset + _OGG_PAGE.size]).startswith(b"OggS") and len(page) == _OGG_PAGE.size:
        _, flags, serial, segments = _OGG_PAGE.unpack(page)
        if not flags & _OGG_FIRST_PAGE:
            break
        announced.add(serial)
        lacing = offset + _OGG_PAGE.size
        offset = lacing + segments + sum(head[lacing : lacing + segments])
    size = handle.seek(0, os.SEEK_END)
    handle.seek(max(0, size - _OGG_LARGEST_PAGE))
    end = handle.read(_OGG_LARGEST_PAGE)
    last = end[max(0, end.rfind(b"OggS\0")) :][: _OGG_PAGE.size]
    if len(last) == _OGG_PAGE.size and last.startswith(b"OggS") and _OGG_PAGE.unpack(last)[2] not in announced:
        raise UnreadableAudio(
            handle.name, "streams one after the other (chained Ogg), which decoders read wrong; cut it into files"
        )


def refuse_joined_flac(handle: BinaryIO) -> None:
    """Two flac files joined: libsndfile reads the first alone and does not say so.

    Every byte is looked at, so this is for a scan, not for each reading. What is sought are eight bytes that only the
    beginning of a file has: its mark, and the header of the block STREAMINFO, always 34 bytes long.
    """
    beginnings = [b"fLaC" + first + b"\x00\x00\x22" for first in (b"\x00", b"\x80")]
    handle.seek(len(beginnings[0]))
    before = b""
    while chunk := handle.read(_CHUNK):
        if any(beginning in before + chunk for beginning in beginnings):
            raise UnreadableAudio(handle.name, "flac files one after the other, of which the first is read; cut it")
        before = chunk[-len(beginnings[0]) + 1 :]


def _wav(handle: BinaryIO, head: bytes) -> Kind:
    """Compare the data chunk's size with the file's: 0 or all ones is a stream never closed, too large a file cut."""
    file_size = handle.seek(0, os.SEEK_END)
    order: Literal["little", "big"] = "big" if head[:4] == b"RIFX" else "little"
    offset = 12
    while offset + 8 <= file_size:
        handle.seek(offset)
        name, size = handle.read(4), int.from_bytes(handle.read(4), order)
        if name == b"data":
            if head[:4] == b"RF64" and head[12:16] == b"ds64" and size == _UNKNOWN_SIZE:  # the real size is there
                size = int.from_bytes(head[28:36], order)
            if size == 0 and not _chunks_until_the_end(handle, offset + 8, file_size, order):
                return Kind("wav", "wav", ("unclosed",))  # soundfile reads 0 frames
            if size == _UNKNOWN_SIZE:
                return Kind("wav", None, ("unclosed",))
            return Kind("wav", None, ("truncated",) if offset + 8 + size > file_size else ())
        offset += 8 + size + size % 2
    return Kind("wav")


def _chunks_until_the_end(handle: BinaryIO, offset: int, file_size: int, order: Literal["little", "big"]) -> bool:
    """Whether only other chunks (names, a date) follow an empty one, or nothing: then there is no audio to be found."""
    while offset + 8 <= file_size:
        handle.seek(offset)
        name, size = handle.read(4), int.from_bytes(handle.read(4), order)
        if not all(0x20 <= letter < 0x7F for letter in name):
            return False
        offset += 8 + size + size % 2
    return offset in (file_size, file_size + 1)  # the last one's padding may be left out


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
