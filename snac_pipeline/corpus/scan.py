"""Scanning: a corpus in, its manifest and its quarantine out; every candidate file ends in exactly one of them.

A file whose path, size, mtime and ctime (in a store: the store's key) are those of the last scan is not opened. Any
other is hashed, and decoded only if its content is new: so touching, copying or renaming costs one hash. Files are read
in threads, as hashing and decoding release the interpreter's lock: 280 files/s (12 s flac each) on two busy cores, two
spawned processes 140-180. What is unchanged is told by joins over columns: 94,000 files per cpu-s, most of it for
listing them (benchmarks/scan.py).
"""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from snac_pipeline.corpus.listing import Entry, Fault, list_corpus
from snac_pipeline.corpus.lists import is_table
from snac_pipeline.corpus.manifest import (
    FACTS,
    MANIFEST,
    OF_A_FOLDER,
    QUARANTINE,
    STAT,
    Corpus,
    file_of,
    manifest_file,
    manifest_version,
    quarantine_file,
    read_rows,
    write_rows,
)
from snac_pipeline.corpus.naming import is_url, os_path
from snac_pipeline.corpus.probe import Facts, digest_of, probe
from snac_pipeline.corpus.sniffing import EXTENSIONS, UnreachableFile, UnreadableAudio
from snac_pipeline.corpus.speakers import BY_CONTENT
from snac_pipeline.corpus.stores import local_copy
from snac_pipeline.errors import PipelineError
from snac_pipeline.files import make_folder

# A clock of 4 ms, or of 2 s on some file systems, cannot tell a write just before the scan from one just after: what
# changed this recently is not recognised by its stat next time, but hashed again.
SETTLE_SECONDS = 2.0

Progress = Callable[[int, int], None]  # files done, files to do
STAT_KEY = ("path", *STAT)

_FILES_AT_ONCE = 4096  # a future per file of a large corpus takes gigabytes
_LISTED_TOLERANCE_SECONDS = 0.1  # lists give rounded durations


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
    for file in (manifest_file(home, corpus.name), quarantine_file(home, corpus.name)):
        make_folder(file.parent)  # now, and not when all has been read
    window = f"{started:.6f} {time.time():.6f}"
    known = _last_scan(corpus, Path(home))
    listed = listing.files
    good = _recognised(known.good, listed, known.settled)
    bad = _recognised(known.bad.filter(pl.col("digest").is_not_null()), listed, known.settled)
    to_read = listed.join(pl.concat([good.select("path"), bad.select("path")]), on="path", how="anti")
    read_well, read_badly, decoded = _read_all(corpus, to_read, known, workers, progress)
    good = _with_names(corpus, pl.concat([good, read_well]), listed)
    good, parts = _as_listed(good, listed)
    bad = pl.concat([bad, read_badly, parts, _faults(listing.faults)])
    _write(corpus, Path(home), good, bad, window)
    return ScanReport(
        corpus=corpus.name,
        files=len(good) + len(bad),
        utterances=len(good),
        speakers=good["speaker"].n_unique(),
        hours=float(good["duration"].sum()) / 3600,
        quarantined=len(bad),
        ignored=listing.ignored,
        read=len(to_read),
        decoded=decoded,
        unchanged=len(listed) - len(to_read),
        version=manifest_version(good),
        seconds=time.perf_counter() - began,
    )


def _last_scan(corpus: Corpus, home: Path) -> _Known:
    """Stat is not trusted for what changed around the last scan, nor in another folder."""
    good, metadata = read_rows(manifest_file(home, corpus.name), MANIFEST)
    bad, _ = read_rows(quarantine_file(home, corpus.name), QUARANTINE)
    if metadata.get("root") != corpus.root:  # the same relative path is another file
        return _Known(good, bad, pl.lit(False))
    began, listed = (float(moment) for moment in metadata["listed_between"].split())
    low, high = int((began - SETTLE_SECONDS) * 1e9), int((listed + SETTLE_SECONDS) * 1e9)
    settled = ~pl.col("mtime_ns").is_between(low, high) & ~pl.col("ctime_ns").is_between(low, high)
    return _Known(good, bad, settled)


def _recognised(rows: pl.DataFrame, listed: pl.DataFrame, settled: pl.Expr) -> pl.DataFrame:
    return rows.filter(settled).join(listed.select(STAT_KEY), on=STAT_KEY, how="semi")


def _read_all(
    corpus: Corpus, to_read: pl.DataFrame, known: _Known, workers: int | None, progress: Progress | None
) -> tuple[pl.DataFrame, pl.DataFrame, int]:
    """Hash and probe in threads, in order of path: rows of the manifest (`_read_well`) and of the quarantine, and how
    many files were decoded."""
    good, bad, decoded, done = [known.good.clear()], [known.bad.clear()], 0, 0
    if to_read.is_empty():
        return good[0], bad[0], 0
    seen = set(known.good["digest"]) | set(known.bad["digest"].drop_nulls())
    named = to_read.with_columns(file=file_of(corpus.root)).select("file", *Entry._fields)
    pool = ThreadPoolExecutor(workers or len(os.sched_getaffinity(0)), thread_name_prefix="scan")
    try:
        for rows in named.iter_slices(_FILES_AT_ONCE):
            readings = []
            for reading in pool.map(lambda row: _read(row[0], Entry(*row[1:]), seen), rows.iter_rows()):
                readings.append(reading)
                if progress:
                    progress(done + len(readings), len(named))
            done += len(readings)
            decoded += sum(reading.facts is not None for reading in readings)
            good.append(_read_well(readings, known))
            bad.append(_read_badly(readings, known))
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C waits for the files in hand only
    return pl.concat(good), pl.concat(bad), decoded


def _read(file: str, entry: Entry, seen: set[str]) -> _Reading:
    digest = None
    try:
        with local_copy(file if is_url(file) else os_path(file), entry.size) as path:
            digest = digest_of(path)
            return _Reading(entry, digest, None if digest in seen else probe(path), None)
    except UnreachableFile as error:
        return _Reading(entry, None, None, error.reason)
    except UnreadableAudio as error:
        return _Reading(entry, digest, None, error.reason)


def _read_well(readings: list[_Reading], known: _Known) -> pl.DataFrame:
    """Rows of the manifest (corpus, speaker and stratum still null): new facts, and known facts of known content."""
    schema = {"digest": pl.String(), "path": pl.String(), **STAT}
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
        schema={"path": pl.String(), **STAT, "digest": pl.String()},
    )
    reasons = known.bad.drop_nulls("digest").unique("digest").select("digest", "reason", "stage")
    return pl.concat([_faults(faults), recalled.join(reasons, on="digest").select(*QUARANTINE)])


def _faults(faults: list[Fault]) -> pl.DataFrame:
    rows = [
        {**fault.entry._asdict(), "reason": fault.reason, "stage": fault.stage, "digest": fault.digest}
        for fault in faults
    ]
    return pl.DataFrame(rows, schema=QUARANTINE)


def _with_names(corpus: Corpus, rows: pl.DataFrame, listed: pl.DataFrame) -> pl.DataFrame:
    """Fill in what follows from the names: corpus, stratum, speaker and the flag "wrong_extension"."""
    extension = pl.col("path").str.to_lowercase().str.extract(r"(\.[^./]*)$")
    true_name = pl.any_horizontal(
        (pl.col("format") == audio_format) & extension.is_in(names) for audio_format, names in EXTENSIONS.items()
    )
    misnamed = pl.when(true_name.fill_null(False)).then(pl.lit([])).otherwise(pl.lit(["wrong_extension"]))
    told = pl.col("flags").list.set_difference(["wrong_extension"])
    return (
        rows.drop("speaker")
        .join(listed.select("path", "speaker"), on="path", how="left")
        .with_columns(
            corpus=pl.lit(corpus.name),
            stratum=pl.lit(corpus.name),
            speaker=pl.when(pl.col("speaker") == BY_CONTENT).then(pl.col("digest")).otherwise(pl.col("speaker")),
            flags=pl.concat_list(told, misnamed.cast(FACTS["flags"])).list.sort(),
        )
        .select(*MANIFEST)
    )


def _as_listed(good: pl.DataFrame, listed: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Set aside files of which a list names only the beginning, and those of which it knows more than is there. Their
    digest is left out: a corrected list has to bring them back, and what has a digest is bad for good."""
    lengths = good.select("path", "duration").join(
        listed.select("path", "listed_duration").drop_nulls(), on="path", how="inner"
    )
    apart = pl.col("listed_duration") - pl.col("duration")
    others = lengths.filter(~(apart.abs() <= _LISTED_TOLERANCE_SECONDS))  # where a list says NaN too
    why = (
        pl.when(apart < 0)
        .then(pl.lit("and a list names whole files; cut this part into a file of its own"))
        .otherwise(pl.lit("so that some of it is missing; bring the whole file, or correct the list"))
    )
    reason = pl.format(
        "the list gives {} s of a file of {} s, {}, or leave out `duration`",
        pl.col("listed_duration").round(3),
        pl.col("duration").round(3),
        why,
    )
    rows = good.join(others.select("path", reason=reason), on="path", how="inner")
    aside = rows.with_columns(stage=pl.lit("list"), digest=pl.lit(None, pl.String)).select(*QUARANTINE)
    return good.join(others, on="path", how="anti"), aside


def _write(corpus: Corpus, home: Path, good: pl.DataFrame, bad: pl.DataFrame, window: str) -> None:
    """Write the quarantine, then the manifest. Where nothing is good the manifest stays as it is and this raises."""
    metadata = {
        "corpus": corpus.name,
        "root": corpus.root,
        "speaker": corpus.speaker or "",
        "limit": str(corpus.limit or ""),
        "names": "" if is_table(corpus.path) else OF_A_FOLDER,
        "listed_between": window,
    }
    file = quarantine_file(home, corpus.name)
    write_rows(file, bad, metadata)
    if good.is_empty():
        reasons = bad.sort("path").head(3).select("path", "reason").iter_rows()
        first = "".join(f"\n  {path}: {reason}" for path, reason in reasons)
        raise PipelineError(
            f"corpus {corpus.name}: none of the {len(bad)} files in {corpus.path} can be used; the first reasons "
            f"(all are in {file}):{first}\nmend the files, or `path`, `speaker` and `metadata` in the settings"
        )
    write_rows(manifest_file(home, corpus.name), good, metadata)
