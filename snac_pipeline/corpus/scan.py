"""Scanning: a corpus folder in, its manifest and its quarantine out; every candidate file ends in exactly one of them.

A file whose path, size, mtime and ctime are those of the last scan is not opened. Any other is hashed, and decoded only
if its content is new: so touching, copying or renaming costs one hash. Files are read in threads, as hashing and
decoding release the interpreter's lock: 280 files/s (12 s flac each) on two busy cores, two spawned processes 140-180.
"""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from snac_pipeline.corpus.listing import Entry, Fault, Listing, list_corpus
from snac_pipeline.corpus.manifest import (
    FACTS,
    MANIFEST,
    QUARANTINE,
    Corpus,
    manifest_file,
    manifest_version,
    quarantine_file,
    read_rows,
    write_rows,
)
from snac_pipeline.corpus.naming import os_path, stored_path
from snac_pipeline.corpus.probe import Facts, digest_of, probe
from snac_pipeline.corpus.sniffing import EXTENSIONS, UnreachableFile, UnreadableAudio
from snac_pipeline.corpus.speakers import SpeakerRule
from snac_pipeline.errors import PipelineError

# A clock of 4 ms, or of 2 s on some file systems, cannot tell a write just before the scan from one just after: what
# changed this recently is not recognised by its stat next time, but hashed again.
SETTLE_SECONDS = 2.0

Progress = Callable[[int, int], None]  # files done, files to do
STAT_KEY = ("path", "size", "mtime_ns", "ctime_ns")


@dataclass(frozen=True)
class ScanReport:
    """What a scan found. files = utterances + quarantined; `ignored` files have no audio extension; hours of audio."""

    corpus: str
    files: int
    utterances: int
    speakers: int
    hours: float
    quarantined: int
    ignored: int
    read: int  # opened and hashed
    decoded: int  # of those, content not seen before
    unchanged: int  # recognised by stat, not opened
    version: str
    seconds: float


@dataclass(frozen=True)
class _Known:
    """The last scan: rows that may be trusted by stat, and facts by content."""

    good: pl.DataFrame
    bad: pl.DataFrame
    settled: pl.Expr


@dataclass(frozen=True)
class _Reading:
    entry: Entry
    digest: str | None
    facts: Facts | None
    reason: str | None


def scan(corpus: Corpus, home: Path, *, workers: int | None = None, progress: Progress | None = None) -> ScanReport:
    """Bring `<home>/manifest/<corpus>.parquet` and `<home>/quarantine/<corpus>.parquet` up to date.

    `workers` threads read (None: one per usable core); `progress(done, total)` counts files to be read. Raises
    PipelineError where the folder is missing, holds no audio, or every file of it is quarantined.
    """
    began, started = time.perf_counter(), time.time()
    listing = list_corpus(corpus, Path(home))
    window = f"{started:.6f} {time.time():.6f}"
    known = _last_scan(corpus, Path(home))
    _refuse_without_speaker(corpus, listing)
    listed = pl.DataFrame(listing.files, schema={"path": pl.String, **_stat_schema()}, orient="row")
    good = _recognised(known.good, listed, known.settled)
    bad = _recognised(known.bad.filter(pl.col("digest").is_not_null()), listed, known.settled)
    to_read = listed.join(pl.concat([good.select("path"), bad.select("path")]), on="path", how="anti")
    readings = _read_all(corpus, to_read, known, workers, progress)
    good = _with_names(corpus, pl.concat([good, _read_well(readings, known)]))
    bad = pl.concat([bad, _read_badly(readings, known), _faults(listing.faults)])
    _write(corpus, Path(home), good, bad, window)
    return ScanReport(
        corpus=corpus.name,
        files=len(good) + len(bad),
        utterances=len(good),
        speakers=good["speaker"].n_unique(),
        hours=good["duration"].sum() / 3600,
        quarantined=len(bad),
        ignored=listing.ignored,
        read=len(to_read),
        decoded=sum(reading.facts is not None for reading in readings),
        unchanged=len(listed) - len(to_read),
        version=manifest_version(good),
        seconds=time.perf_counter() - began,
    )


def _stat_schema() -> dict:
    return {name: MANIFEST[name] for name in ("size", "mtime_ns", "ctime_ns")}


def _last_scan(corpus: Corpus, home: Path) -> _Known:
    """Stat is not trusted for what changed around the last scan, nor in another folder."""
    good, metadata = read_rows(manifest_file(home, corpus.name), MANIFEST)
    bad, _ = read_rows(quarantine_file(home, corpus.name), QUARANTINE)
    if metadata.get("root") != stored_path(str(corpus.path.resolve())):  # the same relative path is another file
        return _Known(good, bad, pl.lit(False))
    began, listed = (float(moment) for moment in metadata["listed_between"].split())
    low, high = int((began - SETTLE_SECONDS) * 1e9), int((listed + SETTLE_SECONDS) * 1e9)
    settled = ~pl.col("mtime_ns").is_between(low, high) & ~pl.col("ctime_ns").is_between(low, high)
    return _Known(good, bad, settled)


def _recognised(rows: pl.DataFrame, listed: pl.DataFrame, settled: pl.Expr) -> pl.DataFrame:
    return rows.filter(settled).join(listed.select(STAT_KEY), on=STAT_KEY, how="semi")


def _refuse_without_speaker(corpus: Corpus, listing: Listing) -> None:
    """Move files that the speaker pattern does not match to the listing's faults, unread."""
    rule = SpeakerRule(corpus.speaker, corpus.name)
    unmatched = {entry for entry in listing.files if rule(entry.path, "") is None}
    reason = f"the speaker pattern {corpus.speaker!r} does not match this path"
    listing.faults += [Fault(entry, reason, "speaker") for entry in sorted(unmatched)]
    listing.files = [entry for entry in listing.files if entry not in unmatched]


def _read_all(
    corpus: Corpus,
    to_read: pl.DataFrame,
    known: _Known,
    workers: int | None,
    progress: Callable[[int, int], None] | None,
) -> list[_Reading]:
    """Hash and probe in threads, in order of path."""
    if to_read.is_empty():
        return []
    root = corpus.path.resolve()
    seen = set(known.good["digest"]) | set(known.bad["digest"].drop_nulls())
    readings = []
    pool = ThreadPoolExecutor(workers or len(os.sched_getaffinity(0)), thread_name_prefix="scan")
    try:
        for rows in to_read.select(Entry._fields).iter_slices(
            4096
        ):  # a future per file of a large corpus takes gigabytes
            for reading in pool.map(lambda row: _read(root, Entry(*row), seen), rows.iter_rows()):
                readings.append(reading)
                if progress:
                    progress(len(readings), len(to_read))
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C waits for the files in hand only
    return readings


def _read(root: Path, entry: Entry, seen: set[str]) -> _Reading:
    path = root / os_path(entry.path)
    digest = None
    try:
        digest = digest_of(path)
        return _Reading(entry, digest, None if digest in seen else probe(path), None)
    except UnreachableFile as error:
        return _Reading(entry, None, None, error.reason)
    except UnreadableAudio as error:
        return _Reading(entry, digest, None, error.reason)


def _read_well(readings: list[_Reading], known: _Known) -> pl.DataFrame:
    """Rows of the manifest (corpus, speaker and stratum still null): new facts, and known facts of known content."""
    schema = {"digest": pl.String, "path": pl.String, **_stat_schema()}
    probed = pl.DataFrame(
        [{"digest": one.digest, **one.entry._asdict(), **one.facts.columns()} for one in readings if one.facts],
        schema={**schema, **FACTS},
    )
    recalled = pl.DataFrame(
        [{"digest": one.digest, **one.entry._asdict()} for one in readings if one.facts is None and one.digest],
        schema=schema,
    ).join(known.good.select("digest", *FACTS).unique("digest"), on="digest")
    names = [pl.lit(None, pl.String).alias(name) for name in ("corpus", "speaker", "stratum")]
    return pl.concat([probed, recalled.select(probed.columns)]).with_columns(names).select(*MANIFEST)


def _read_badly(readings: list[_Reading], known: _Known) -> pl.DataFrame:
    """Rows of the quarantine: new faults, and the known fault of known content."""
    faults = [Fault(one.entry, one.reason, "read", one.digest) for one in readings if one.reason]
    recalled = pl.DataFrame(
        [{**one.entry._asdict(), "digest": one.digest} for one in readings if not (one.facts or one.reason)],
        schema={"path": pl.String, **_stat_schema(), "digest": pl.String},
    )
    reasons = known.bad.drop_nulls("digest").unique("digest").select("digest", "reason", "stage")
    return pl.concat([_faults(faults), recalled.join(reasons, on="digest").select(*QUARANTINE)])


def _faults(faults: list[Fault]) -> pl.DataFrame:
    rows = [
        {**fault.entry._asdict(), "reason": fault.reason, "stage": fault.stage, "digest": fault.digest}
        for fault in faults
    ]
    return pl.DataFrame(rows, schema=QUARANTINE)


def _with_names(corpus: Corpus, rows: pl.DataFrame) -> pl.DataFrame:
    """Fill in what follows from the names: corpus, stratum, speaker and the flag "wrong_extension"."""
    rule = SpeakerRule(corpus.speaker, corpus.name)
    speakers = [rule(path, digest) for path, digest in rows.select("path", "digest").iter_rows()]
    flags = [
        sorted(({*flags} - {"wrong_extension"}) | _misnamed(path, audio_format))
        for path, audio_format, flags in rows.select("path", "format", "flags").iter_rows()
    ]
    return rows.with_columns(
        corpus=pl.lit(corpus.name),
        stratum=pl.lit(corpus.name),
        speaker=pl.Series(speakers, dtype=pl.String),
        flags=pl.Series(flags, dtype=FACTS["flags"]),
    ).select(*MANIFEST)


def _misnamed(path: str, audio_format: str) -> set[str]:
    return set() if os.path.splitext(path)[1].lower() in EXTENSIONS[audio_format] else {"wrong_extension"}


def _write(corpus: Corpus, home: Path, good: pl.DataFrame, bad: pl.DataFrame, window: str) -> None:
    """Write the quarantine, then the manifest. Where nothing is good the manifest stays as it is and this raises."""
    metadata = {
        "corpus": corpus.name,
        "root": stored_path(str(corpus.path.resolve())),
        "speaker": corpus.speaker or "",
        "limit": str(corpus.limit or ""),
        "listed_between": window,
    }
    file = quarantine_file(home, corpus.name)
    write_rows(file, bad, metadata)
    if good.is_empty():
        reasons = bad.sort("path").head(3).select("path", "reason").iter_rows()
        first = "".join(f"\n  {path}: {reason}" for path, reason in reasons)
        raise PipelineError(
            f"corpus {corpus.name}: none of the {len(bad)} files in {corpus.path} can be used; the first reasons "
            f"(all are in {file}):{first}\nmend the files, or `path` and `speaker` in pipeline.yaml"
        )
    write_rows(manifest_file(home, corpus.name), good, metadata)
