"""One file's facts: the digest of its bytes, and what decoding every frame of it shows."""

import os
from dataclasses import asdict, dataclass

import numpy as np

from snac_pipeline.corpus.bandwidth import Bandwidth
from snac_pipeline.corpus.decoding import Stream, open_stream
from snac_pipeline.corpus.sniffing import UnreadableAudio, refuse_joined_flac
from snac_pipeline.corpus.stores import open_file
from snac_pipeline.files import stream_digest

# A duration in the header of a compressed file counts whole codec frames and encoder delay; more is a real difference.
_ROUNDED_HEADER_SECONDS = 0.1

# A damaged rate makes hours of a second, or nothing of an hour, and weighs so in the split.
_RATES = (1_000, 1_000_000)


@dataclass(frozen=True)
class Facts:
    """Columns of the manifest that follow from the bytes alone; units as in manifest.FACTS.

    Flags: "header_mismatch" (header and decoded frames differ), "truncated" (RIFF size over file size), "unclosed"
    (RIFF size never filled in), "no_xing" (mp3 without a frame count), "over_full_scale" (peak > 1), "silent" (peak 0).
    """

    format: str
    num_frames: int
    header_frames: int | None
    sample_rate: int
    channels: int
    duration: float
    peak: float
    bandwidth: float
    flags: list[str]

    columns = asdict


def digest_of(path: str | bytes | os.PathLike[str]) -> str:
    """Content digest of a path, or of the `file` of a manifest's row (stored form or URL).

    Raises UnreachableFile where the bytes cannot be read.
    """
    with open_file(path) as handle:
        return stream_digest(handle)


def probe(path: str | bytes | os.PathLike[str]) -> Facts:
    """Decode the whole file in blocks (memory independent of its length).

    Raises UnreadableAudio with the reason: damage, no frames, samples that are not finite, an impossible rate.
    """
    num_frames, peak = 0, 0.0
    with open_stream(path) as stream:
        if not _RATES[0] <= stream.sample_rate <= _RATES[1]:
            raise UnreadableAudio(path, f"its header says {stream.sample_rate} Hz, which no recording of speech has")
        bandwidth = Bandwidth(stream.sample_rate)
        for block in stream.blocks(0, None):
            block_peak = float(max(block.max(), -block.min()))
            if not np.isfinite(block_peak) or not np.isfinite(block).all():
                raise UnreadableAudio(path, "samples that are not finite (NaN or infinity)")
            peak = max(peak, block_peak)
            num_frames += len(block)
            bandwidth.add(block)
        if stream.format == "flac":
            with open_file(path) as handle:
                refuse_joined_flac(handle)
        if num_frames == 0:
            raise UnreadableAudio(path, "no audio inside: 0 frames are decoded")
        flags = sorted({*stream.flags, *_findings(num_frames, peak, stream)})
    return Facts(
        format=stream.format,
        num_frames=num_frames,
        header_frames=stream.header_frames,
        sample_rate=stream.sample_rate,
        channels=stream.channels,
        duration=num_frames / stream.sample_rate,
        peak=peak,
        bandwidth=bandwidth.hertz(),
        flags=flags,
    )


def _findings(num_frames: int, peak: float, stream: Stream) -> list[str]:
    tolerance = _ROUNDED_HEADER_SECONDS * stream.sample_rate
    mismatch = stream.header_frames is not None and abs(stream.header_frames - num_frames) > tolerance
    found = {"header_mismatch": mismatch, "over_full_scale": peak > 1.0, "silent": peak == 0.0}
    return [flag for flag, present in found.items() if present]
