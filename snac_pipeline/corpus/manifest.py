"""The manifest: one parquet row per readable audio file of a corpus; and the quarantine: one per file that is not.

Paths are kept in the stored form of `naming`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import xxhash

from snac_pipeline.corpus.lists import is_table
from snac_pipeline.corpus.naming import URL, around, is_url, os_path, stored_path
from snac_pipeline.corpus.speakers import SpeakerRule
from snac_pipeline.errors import PipelineError
from snac_pipeline.files import read_metadata, read_parquet, write_parquet

# Raised when probing finds other facts or faults in the same bytes: everything is then probed again.
PROBE_REVISION = 3

STAT = pl.Schema(
    {
        "size": pl.Int64(),
        "mtime_ns": pl.Int64(),
        "ctime_ns": pl.Int64(),  # 0 in a store, which has none
        "store_key": pl.String(),  # hash of what a store tells about a file (ETag, checksum, times); "" on this machine
    }
)
FACTS = pl.Schema(
    {
        "format": pl.String(),  # wav, flac, ogg, opus, mp3, m4a: by content, whatever the name says
        "num_frames": pl.Int64(),  # decoded, at the file's own rate
        "header_frames": pl.Int64(),  # what the header says; null where it says nothing
        "sample_rate": pl.Int32(),
        "channels": pl.Int32(),
        "duration": pl.Float64(),  # seconds, of the decoded frames
        "peak": pl.Float32(),  # max |x| over all channels, full scale = 1
        "bandwidth": pl.Float32(),  # Hz, highest frequency with real content; see bandwidth.Bandwidth
        "flags": pl.List(pl.String()),
    }
)
MANIFEST = pl.Schema(
    {
        "digest": pl.String(),
        "path": pl.String(),
        "corpus": pl.String(),
        "speaker": pl.String(),
        "stratum": pl.String(),
        **FACTS,
        **STAT,
    }
)
OF_A_FOLDER = "below the root"
"""In a manifest's metadata at `names`: all of its paths are relative ones, without `..`."""
QUARANTINE = pl.Schema(
    {"path": pl.String(), "reason": pl.String(), "stage": pl.String(), "digest": pl.String(), **STAT}
)


@dataclass(frozen=True)
class Corpus:
    """A named collection of speech.

    `name`     letters, digits, `.`, `_`, `-`: it names files and a Dagster partition.
    `path`     a folder; a URL of one that fsspec reaches (s3://bucket/speech); or a list of files in place of a folder:
               CSV, JSON lines or parquet with a column `path` or `audio_filepath`, see lists.read_file_list.
    `speaker`  where the speaker is in a path below `path`, such as "{speaker}/*", "{speaker}/**", "{speaker}-*.flac",
               "wavs/{speaker}_*"; `*` and `{speaker}` stay within one folder, `**` does not. A file that does not match
               is quarantined. None: the list's column `speaker` where there is one, else the first folder below `path`;
               a file directly in `path` is its own speaker.
               "utterance": every file is its own speaker, the explicit way to split by utterance. A file that is its
               own speaker bears its digest as the speaker's name.
    `metadata` in place of `speaker`: a CSV or parquet file with the columns `path` and `speaker`.
    `confined` set aside files outside of `root`: behind links, and in lists at absolute paths, at `..` and URLs.
    `limit`    keep the first N files in the order of a hash of their relative paths: the same files every time,
               spread over the speakers.
    """

    name: str
    path: Path | str  # a Path on this machine, text for a URL
    speaker: str | None = None
    limit: int | None = None
    metadata: Path | str | None = None
    confined: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", _place(self.path))
        if self.metadata is not None:
            object.__setattr__(self, "metadata", _place(self.metadata))
        if not re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", self.name):
            raise PipelineError(
                f"corpus name {self.name!r}: use letters, digits, '_', '-' and single dots; "
                "it names files and a partition"
            )
        if self.limit is not None and self.limit < 1:
            raise PipelineError(f"corpus {self.name}: limit is {self.limit}; give a number of files from 1 up, or none")
        if self.speaker is not None and self.metadata is not None:
            raise PipelineError(f"corpus {self.name}: `speaker` and `metadata` both say who speaks; give one of them")
        SpeakerRule(self.speaker, self.name)  # a pattern that cannot work is an error here, not during the scan

    @property
    def root(self) -> str:
        """What paths count from, in stored form: the folder or URL, or the folder of the list."""
        if isinstance(self.path, str):
            return _parent(self.path) if is_table(self.path) else self.path
        return stored_path(str((self.path.parent if is_table(self.path) else self.path).resolve()))


def _place(path: Path | str) -> Path | str:
    return path if isinstance(path, str) and is_url(path) else Path(path).expanduser()


def _parent(url: str) -> str:
    """The URL of the folder of a file."""
    before, after = around(url)
    return before.rstrip("/").rpartition("/")[0] + "/" + after


def audio_path(row: Mapping[str, Any]) -> Path | str:
    """The absolute path of a row of `read_manifest` (its `file`), ready to open whatever its bytes are; or its URL."""
    return row["file"] if is_url(row["file"]) else Path(os_path(row["file"]))


def manifest_file(home: Path, corpus: str) -> Path:
    return Path(home) / "manifest" / f"{corpus}.parquet"


def quarantine_file(home: Path, corpus: str) -> Path:
    return Path(home) / "quarantine" / f"{corpus}.parquet"


def split_quarantine_file(home: Path) -> Path:
    """Files refused by the split stage; apart, so that each stage rewrites only what is its own."""
    return Path(home) / "splits" / "quarantine.parquet"


def read_manifest(home: Path, corpora: Sequence[str]) -> pl.DataFrame:
    """The rows of the named corpora: the manifest's columns and `file`, the absolute path or URL for `read_audio`.

    A digest may appear in several rows (copies of one file). Raises PipelineError naming a corpus without a manifest.
    """
    frames = []
    for corpus in corpora:
        rows, metadata = read_rows(manifest_file(home, corpus), MANIFEST)
        if not metadata:
            raise PipelineError(
                f"corpus {corpus} has no manifest of this version at {manifest_file(home, corpus)}; "
                "run `snac-pipeline scan` or materialize the asset `manifest` for this corpus first"
            )
        if metadata.get("names") == OF_A_FOLDER:
            _refuse_strays(rows, manifest_file(home, corpus))
        frames.append(rows.with_columns(file=file_of(metadata["root"])))
    if not frames:
        raise PipelineError("no corpus is named; name at least one under `corpora` in the settings")
    return pl.concat(frames)


def _refuse_strays(rows: pl.DataFrame, file: Path) -> None:
    """Names that scanning a folder cannot give were put in by somebody else: they could be of any file here."""
    strays = rows.filter(pl.col("path").str.contains(rf"^/|^{URL}|(^|/)\.\.(/|$)"))["path"]
    if len(strays):
        raise PipelineError(
            f"{file} names {strays[0]!r}, which is not in the corpus's folder, as scanning never writes it; delete the "
            "manifest and scan again"
        )


def file_of(root: str) -> pl.Expr:
    """The absolute path or URL, in stored form, of the column `path` of a corpus at `root`."""
    before, after = around(root)
    path = pl.col("path")
    return pl.when(path.str.contains(f"^(/|{URL})")).then(path).otherwise(pl.lit(before) + path + pl.lit(after))


def scan_limit(home: Path, corpus: str) -> int | None:
    """The limit of the scan that wrote a corpus's manifest; None where it had none, or there is no manifest."""
    file = manifest_file(home, corpus)
    limit = read_metadata(file).get("limit") if file.exists() else None
    return int(limit) if limit else None


def read_quarantine(home: Path, corpora: Sequence[str]) -> pl.DataFrame:
    """Everything set aside from the named corpora, by scanning or splitting: `corpus` and the quarantine's columns."""
    frames = [pl.DataFrame(schema={"corpus": pl.String(), **QUARANTINE})]
    for corpus in corpora:
        found, _ = read_rows(quarantine_file(home, corpus), QUARANTINE)
        frames.append(found.select(pl.lit(corpus).alias("corpus"), *QUARANTINE))
    if (file := split_quarantine_file(home)).exists():
        found = _typed(read_parquet(file), {"corpus": pl.String(), **QUARANTINE})
        frames.append(found.filter(pl.col("corpus").is_in(list(corpora))))
    return pl.concat(frames)


def manifest_version(manifest: pl.DataFrame) -> str:
    """Hash of the set of (digest, corpus/speaker, stratum, flags): the same for any order and number of copies."""
    lines = manifest.select(
        pl.concat_str(
            "digest",
            pl.col("corpus") + "/" + pl.col("speaker"),
            "stratum",
            pl.col("flags").list.sort().list.join(","),
            separator="\x1f",
        )
    ).to_series()
    return xxhash.xxh3_128_hexdigest("".join(lines.unique().sort() + "\n").encode())


def write_rows(file: Path, rows: pl.DataFrame, metadata: Mapping[str, str]) -> None:
    """Write a manifest or a quarantine, sorted by path, with `metadata` in the parquet schema."""
    table = rows.sort("path").to_arrow()
    write_parquet(file, table.replace_schema_metadata({**metadata, "probe_revision": str(PROBE_REVISION)}))


def read_rows(file: Path, schema: Mapping[str, Any]) -> tuple[pl.DataFrame, dict[str, str]]:
    """What `write_rows` wrote, and its metadata; nothing where the file is absent or of another PROBE_REVISION."""
    metadata = read_metadata(file) if file.exists() else {}
    if metadata.get("probe_revision") != str(PROBE_REVISION):
        return pl.DataFrame(schema=schema), {}
    return _typed(read_parquet(file), schema), metadata


def _typed(table: pa.Table, schema: Mapping[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(pl.from_arrow(table)).select(*schema).cast(pl.Schema(schema))
