"""Corpora of speech: scanning folders, lists and stores into manifests, reading audio, splits by speaker."""

from snac_pipeline.corpus.audio import MONO_RULE, RESAMPLER, read_audio, resampled_length
from snac_pipeline.corpus.export import ExportReport, write_folders
from snac_pipeline.corpus.listing import AUDIO_EXTENSIONS, listing_version
from snac_pipeline.corpus.manifest import (
    Corpus,
    audio_path,
    manifest_version,
    read_manifest,
    read_quarantine,
    scan_limit,
)
from snac_pipeline.corpus.scan import ScanReport, scan
from snac_pipeline.corpus.sniffing import UnreadableAudio
from snac_pipeline.corpus.split import SplitReport, read_splits, update_splits
from snac_pipeline.corpus.utterances import read_utterances
from snac_pipeline.corpus.watching import Seen, Walk, can_be_walked, look_at, seen_at_end, walk_on

__all__ = [
    "AUDIO_EXTENSIONS",
    "MONO_RULE",
    "RESAMPLER",
    "Corpus",
    "ExportReport",
    "ScanReport",
    "Seen",
    "SplitReport",
    "UnreadableAudio",
    "Walk",
    "audio_path",
    "can_be_walked",
    "listing_version",
    "look_at",
    "manifest_version",
    "read_audio",
    "read_manifest",
    "read_quarantine",
    "read_splits",
    "read_utterances",
    "resampled_length",
    "scan",
    "scan_limit",
    "seen_at_end",
    "update_splits",
    "walk_on",
    "write_folders",
]
