"""The splits as folders: DIR/train, DIR/val and, where there is one, DIR/test, with one entry for every utterance.

In: rows of `read_utterances`. Out: DIR/<split>/<corpus>/<speaker>/<file>, links or copies, and an index of what was
written, DIR/.snac-pipeline-export/index.parquet. The index is written before and after the entries, so that what a
killed export left is known as ours, and nothing that is not ours is ever overwritten or removed.
"""

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import xxhash

from snac_pipeline.corpus.ledger import SIDES
from snac_pipeline.corpus.naming import os_path, stored_path
from snac_pipeline.corpus.sniffing import UnreachableFile
from snac_pipeline.corpus.stores import open_file
from snac_pipeline.errors import PipelineError
from snac_pipeline.files import read_parquet, write_parquet

OURS = ".snac-pipeline-export"  # a folder: the index, and entries that are moved to their place when they are whole
INDEX = "index.parquet"

# `entry` is relative to the folder; a link has the stored form of its `target`, a copy the size and date of its file.
_ENTRY = pl.Schema(
    {"entry": pl.String, "digest": pl.String, "target": pl.String, "size": pl.Int64, "mtime_ns": pl.Int64}
)
_DATE_NS = 2_000_000_000  # the finest date that some file systems keep

# Equal for names that are one name where case, or the way accents are written, does not count.
_KEY = pl.col("entry").str.to_uppercase().str.to_lowercase().str.normalize("NFKC").alias("key")

# What some file systems cannot have in a name; the stored form writes bytes that are not UTF-8 with a backslash.
_ODD = r'[\x00-\x1f\x7f/\\:*?"<>|]'
_LONGEST = 200  # bytes of the 255 that a name may take; the rest is for what makes it distinct, and the ending

Progress = Callable[[int, int], None]  # files done, files to do


@dataclass(frozen=True)
class ExportReport:
    """`entries` by split; how many were `added` (or replaced), `removed`, and were there already (`unchanged`)."""

    folder: Path
    copies: bool
    entries: dict[str, int]
    added: int
    removed: int
    unchanged: int


def write_folders(
    utterances: pl.DataFrame, folder: Path, *, copy: bool = False, progress: Progress | None = None
) -> ExportReport:
    """Make `folder` show `utterances` (rows of `read_utterances`): as symbolic links, or with `copy` as copies.

    Entries of an earlier export that do not belong any more are removed, links are replaced by copies or copies by
    links when the other is asked for. Copies are compared with the content's digest as they are made. Raises
    PipelineError, before anything is written, where something that this did not write is in the way, where `folder` and
    a corpus lie in each other, and for links to files that are not on this machine.
    """
    folder = Path(folder).expanduser().absolute()
    rows = utterances.with_columns(pl.col("mtime_ns").fill_null(0), entry_names(utterances))
    _refuse_places(rows, folder, copy)
    target = pl.lit(None, pl.String) if copy else pl.col("file")
    wanted = rows.select("entry", "digest", target=target, size="size", mtime_ns="mtime_ns").cast(_ENTRY)
    with _locked(_made(folder)):
        _remove_unfinished(folder)
        known = _read_index(folder)
        there = _look(folder, pl.concat([known["entry"], wanted["entry"]]).unique())
        ours = there.join(known.with_columns(_KEY), on="key", suffix="_known").filter(_as_written("_known"))
        _refuse_foreign(there.join(ours, on="entry", how="anti"), folder)
        gone = ours.unique("entry").join(wanted, on="entry", how="anti")
        done = ours.join(wanted, on="entry", suffix="_wanted").filter(_as_written("_wanted"))
        done = done.group_by("entry", "key").agg(same=(pl.col("digest") == pl.col("digest_wanted")).all())
        done = done.filter("same").join(gone, on="key", how="anti")  # two names may be one file
        to_write = rows.join(done, on="entry", how="anti")
        _write_index(folder, pl.concat([known, wanted]).unique())
        _remove(folder, gone["entry"])
        _write(folder, to_write, copy, progress)
        _write_index(folder, wanted)
    counts = rows.group_by("split").len().sort("split")
    return ExportReport(folder, copy, dict(counts.iter_rows()), len(to_write), len(gone), len(rows) - len(to_write))


def entry_names(utterances: pl.DataFrame) -> pl.Series:
    """`entry` of each row: "<split>/<corpus>/<speaker>/<file>", distinct even where case does not count.

    Names are as they were where that is possible anywhere; what is changed or would be there twice ends in "-" and the
    content's digest. Where every file is its own speaker, the folder is the first two digits of the digest.
    """
    file = pl.col("path").str.extract(r"([^/]*)$")
    ending = file.str.extract(r"(\.[A-Za-z0-9]{1,4})$").fill_null("")
    names = utterances.select(
        "digest", "split", "corpus", "speaker", ending=ending, stem=file.str.strip_suffix(ending)
    ).with_columns(plain=_plain("stem"))
    changed = pl.col("plain") != pl.col("stem")
    names = names.join(_speaker_folders(utterances), on="speaker", how="left", maintain_order="left").with_columns(
        folder=pl.when(pl.col("speaker") == pl.col("digest")).then(pl.col("digest").str.head(2)).otherwise("folder"),
        stem=pl.when(changed).then(pl.format("{}-{}", "plain", pl.col("digest").str.head(12))).otherwise("stem"),
    )
    entry = pl.concat_str("corpus", pl.lit("/"), "folder", pl.lit("/"), "stem", "ending").alias("entry")
    digits = 12
    while (twice := names.select(entry).select(_KEY.is_duplicated())["key"]).any():
        tag = pl.col("digest").str.head(digits)
        names = names.with_columns(stem=pl.when(twice).then(pl.format("{}-{}", "stem", tag)).otherwise("stem"))
        digits = 32
    return names.select(pl.concat_str("split", pl.lit("/"), entry).alias("entry"))["entry"]


def _speaker_folders(utterances: pl.DataFrame) -> pl.DataFrame:
    speakers = utterances.select("speaker").unique().with_columns(folder=_plain("speaker"))
    folders = [
        plain if plain == speaker else f"{plain}-{xxhash.xxh3_64_hexdigest(speaker.encode())[:12]}"
        for speaker, plain in speakers.iter_rows()
    ]
    return speakers.with_columns(folder=pl.Series(folders, dtype=pl.String))


def _plain(name: str) -> pl.Expr:
    """A column's names as any file system takes them; these need not be distinct."""
    clean = pl.col(name).str.replace_all(_ODD, "_").str.strip_chars_end(" .")
    short = pl.when(clean.str.len_bytes() > _LONGEST).then(clean.str.head(_LONGEST // 4)).otherwise(clean)
    return pl.when(short == "").then(pl.lit("_")).otherwise(short)


def _refuse_places(rows: pl.DataFrame, folder: Path, copy: bool) -> None:
    remote = pl.col("file").str.contains("://", literal=True)
    if not copy and (corpora := sorted(rows.filter(remote)["corpus"].unique())):
        raise PipelineError(
            f"the files of {', '.join(corpora)} are not on this machine and links cannot lead to them; "
            "export copies: `--copy`"
        )
    roots = rows.filter(~remote).select("corpus", root=pl.col("file").str.strip_suffix(pl.col("path"))).unique()
    for corpus, root in roots.sort("corpus").iter_rows():
        speech = Path(os_path(root)).resolve()
        for split in SIDES:
            place = (folder / split).resolve()
            if place.is_relative_to(speech) or speech.is_relative_to(place):
                raise PipelineError(
                    f"{place} and the folder of corpus {corpus}, {speech}, lie in each other: the export would be "
                    "scanned as speech; export to another folder"
                )


def _refuse_foreign(foreign: pl.DataFrame, folder: Path) -> None:
    if foreign.is_empty():
        return
    first = folder / str(foreign["entry"].min())
    more = f" and {len(foreign) - 1} more" * (len(foreign) > 1)
    raise PipelineError(
        f"{first}{more} is in the way: the export did not write it, or it was changed since; move it away, or export "
        "to another folder"
    )


def _as_written(suffix: str) -> pl.Expr:
    """What is there is the link or the copy of the columns with `suffix`."""
    target, size, date = (pl.col(f"{name}{suffix}") for name in ("target", "size", "mtime_ns"))
    same_file = (pl.col("size") == size) & ((pl.col("mtime_ns") - date).abs() <= _DATE_NS)
    return pl.col("target").eq_missing(target) & (target.is_not_null() | same_file)


def _look(folder: Path, entries: pl.Series) -> pl.DataFrame:
    """Those of `entries` that are there: entry, target, size, mtime_ns and `key`; size is -1 for what is neither a file
    nor a link."""
    found = []
    for entry in entries:
        place = folder / entry
        try:
            status = place.lstat()
            link = stat.S_ISLNK(status.st_mode)
            size = status.st_size if link or stat.S_ISREG(status.st_mode) else -1
            found.append((entry, stored_path(os.readlink(place)) if link else None, size, status.st_mtime_ns))
        except FileNotFoundError:
            continue
        except OSError as error:  # a file where a folder should be
            raise PipelineError(f"{place} cannot be written: {error.strerror}; move away what is there") from error
    schema = {name: kind for name, kind in _ENTRY.items() if name != "digest"}
    return pl.DataFrame(found, schema=schema, orient="row").with_columns(_KEY)


def _remove(folder: Path, entries: pl.Series) -> None:
    """Unlink entries, and then folders that they leave empty."""
    folders: set[Path] = set()
    for entry in entries:
        (folder / entry).unlink(missing_ok=True)
        folders.update(Path(entry).parents[:-1])
    for emptied in sorted(folders, key=lambda path: -len(path.parts)):
        with contextlib.suppress(OSError):  # not empty
            (folder / emptied).rmdir()


def _write(folder: Path, rows: pl.DataFrame, copy: bool, progress: Progress | None) -> None:
    unfinished = folder / OURS
    put = _put_copy if copy else _put_link

    def write(row: tuple[str, str, str, int]) -> None:
        digest, file, entry, mtime_ns = row
        place = folder / entry
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            put(file, unfinished / digest, digest, mtime_ns)
            (unfinished / digest).replace(place)
        except OSError as error:
            raise PipelineError(
                f"cannot write {place}: {error.strerror or error}; export to another folder"
                f"{'' if copy else ', or copies (`--copy`) where there can be no links'}"
            ) from error

    done = 0
    pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="export")
    try:
        for piece in rows.select("digest", "file", "entry", "mtime_ns").iter_slices(4096):
            for _ in pool.map(write, piece.iter_rows()):
                done += 1
                if progress:
                    progress(done, len(rows))
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C waits for the files in hand only


def _put_link(file: str, place: Path, digest: str, mtime_ns: int) -> None:
    place.symlink_to(os_path(file))


def _put_copy(file: str, place: Path, digest: str, mtime_ns: int) -> None:
    """Copy a file, whose content has to be what its digest says, and give the copy its date."""
    hasher = xxhash.xxh3_128()
    try:
        with open_file(file) as source, place.open("wb") as copy:
            while chunk := source.read(1 << 20):
                hasher.update(chunk)
                copy.write(chunk)
    except UnreachableFile as error:
        raise PipelineError(f"{error}; if it is gone, run `snac-pipeline scan` and export again") from error
    if hasher.hexdigest() != digest:
        place.unlink()
        raise PipelineError(f"{file} has changed since it was scanned; run `snac-pipeline scan` and export again")
    os.utime(place, ns=(mtime_ns, mtime_ns))


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise PipelineError(f"cannot write in {folder}: {error.strerror}; export to another folder") from error
    return folder


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One export into a folder at a time."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _remove_unfinished(folder: Path) -> None:
    """What a killed export has left beside the index."""
    (folder / OURS).mkdir(exist_ok=True)
    for left in (folder / OURS).iterdir():
        if left.name != INDEX:
            left.unlink()


def _read_index(folder: Path) -> pl.DataFrame:
    file = folder / OURS / INDEX
    if not file.exists():
        return pl.DataFrame(schema=_ENTRY)
    return pl.DataFrame(pl.from_arrow(read_parquet(file))).select(*_ENTRY).cast(_ENTRY)


def _write_index(folder: Path, entries: pl.DataFrame) -> None:
    write_parquet(folder / OURS / INDEX, entries.to_arrow())
