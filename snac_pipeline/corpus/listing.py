"""What a corpus consists of: regular audio files with their stat and speaker, and what cannot be listed or opened.

Nothing is opened here (a fifo would hang); links are followed, loops are not. Columns and not objects: a million files
are listed and compared without work in Python for each beyond its stat.
"""

import os
import stat
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import xxhash

from snac_pipeline.corpus.lists import TABLES, is_table, read_file_list
from snac_pipeline.corpus.manifest import STAT, Corpus, file_of
from snac_pipeline.corpus.naming import is_url, os_path, stored_path
from snac_pipeline.corpus.sniffing import UnreachableFile
from snac_pipeline.corpus.speakers import SpeakerRule, with_speakers
from snac_pipeline.corpus.stores import Stored, list_store, stat_url
from snac_pipeline.errors import PipelineError

AUDIO_EXTENSIONS = frozenset({".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a"})

FILES = {"path": pl.String(), **STAT, "speaker": pl.String(), "listed_duration": pl.Float64()}

_NOT_REGULAR = "not a regular file (folder, fifo, socket or device)"
_STORE_REQUESTS = 16  # at a time, where each file of a list is in a store


class Entry(NamedTuple):
    """A file as listed: `path` relative to the corpus's root in stored form, and the stat that recognises it later."""

    path: str
    size: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    store_key: str = ""


class Fault(NamedTuple):
    entry: Entry
    reason: str
    stage: str
    digest: str | None = None


@dataclass
class Listing:
    """`files` has the columns FILES: `speaker` is a name or speakers.BY_CONTENT, `listed_duration` what a list says of
    a file's length in s. What is listed and cannot be used is a fault; `ignored` files have no audio extension."""

    files: pl.DataFrame
    faults: list[Fault] = field(default_factory=list)
    ignored: int = 0


def list_corpus(corpus: Corpus, home: Path) -> Listing:
    """List a corpus, leaving out `home` if it lies inside. Raises PipelineError for a folder, list or store that is not
    there or has no audio; a folder or file below it that cannot be read is a fault of the listing."""
    if is_table(corpus.path):
        listing = _list_named(corpus)
    elif isinstance(corpus.path, str):
        listing = _list_store(corpus.path)
    else:
        listing = _list_folder(corpus, home)
    if listing.files.is_empty() and not listing.faults:
        others = f"none of its {listing.ignored} files is" if listing.ignored else "it is empty; put some there,"
        raise PipelineError(
            f"corpus {corpus.name}: no audio in {corpus.path}: {others} wav, flac, mp3, ogg, opus or m4a; "
            "or correct `path` in the settings"
        )
    if corpus.confined:
        _set_strays_aside(listing, corpus.root)
    if corpus.limit is not None:
        _keep_first(listing, corpus.limit)
    named, why = with_speakers(listing.files, SpeakerRule(corpus.speaker, corpus.name), corpus.metadata, corpus.root)
    nameless = named.filter(pl.col("speaker").is_null())
    listing.faults += [Fault(Entry(*row), why, "speaker") for row in nameless.select(Entry._fields).iter_rows()]
    listing.files = named.filter(pl.col("speaker").is_not_null()).select(*FILES).sort("path")
    return listing


def listing_version(corpus: Corpus, home: Path) -> str:
    """Hash of the listing: another with any file that is new, gone, renamed or edited, or whose speaker changed.
    Raises what `list_corpus` raises."""
    listing = list_corpus(corpus, home)
    hasher = xxhash.xxh3_128(repr((corpus.root, corpus.speaker, corpus.limit, corpus.confined)).encode())
    for name, column in listing.files.to_dict().items():
        hasher.update(f"\0{name}\0".encode())
        hasher.update("\0".join(column).encode() if column.dtype == pl.String else column.to_numpy().tobytes())
    for fault in sorted(listing.faults):
        hasher.update(repr((fault.entry, fault.reason)).encode())
    return hasher.hexdigest()


def _set_strays_aside(listing: Listing, root: str) -> None:
    """Make faults of files that are, links followed, outside of the corpus's folder; in a store, of other URLs."""
    named = listing.files.with_columns(file=file_of(root))
    strays = {path for path, file in named.select("path", "file").iter_rows() if not _is_inside(root, path, file)}
    reason = "lies outside of the corpus's folder, and the corpus is `confined`"
    rows = listing.files.filter(pl.col("path").is_in(strays))
    listing.faults += [Fault(Entry(*row), reason, "list") for row in rows.select(Entry._fields).iter_rows()]
    listing.files = listing.files.filter(~pl.col("path").is_in(strays))


def _is_inside(root: str, path: str, file: str) -> bool:
    if is_url(root) or is_url(file):
        return not (is_url(path) or path.startswith("/") or ".." in path.split("/"))
    return os.path.realpath(os_path(file)).startswith(os.path.realpath(os_path(root)).rstrip("/") + "/")


class _Columns:
    """The files found so far, as columns."""

    def __init__(self) -> None:
        self._columns: tuple[list[Any], ...] = ([], [], [], [], [])
        self._add = tuple(column.append for column in self._columns)

    def add(self, path: str, size: int, mtime_ns: int, ctime_ns: int, store_key: str = "") -> None:
        for append, value in zip(self._add, (path, size, mtime_ns, ctime_ns, store_key), strict=True):
            append(value)

    def frame(self) -> pl.DataFrame:
        found = pl.DataFrame(dict(zip(Entry._fields, self._columns, strict=True)), schema={"path": pl.String(), **STAT})
        nothing = {name: pl.lit(None, FILES[name]) for name in ("speaker", "listed_duration")}
        return found.with_columns(**nothing)


def _keep_first(listing: Listing, limit: int) -> None:
    """Cut files and faults together to the first `limit` in the order of a hash of the path."""
    paths = [*listing.files["path"], *(fault.entry.path for fault in listing.faults)]
    kept = set(sorted(paths, key=lambda path: (xxhash.xxh3_64_intdigest(path.encode()), path))[:limit])
    listing.files = listing.files.filter(pl.col("path").is_in(kept))
    listing.faults = [fault for fault in listing.faults if fault.entry.path in kept]


# A folder ------------------------------------------------------------------------------------------------------------


def _list_folder(corpus: Corpus, home: Path) -> Listing:
    faults: list[Fault] = []
    found, ignored = _Columns(), 0
    for path, entry in walk_folder(corpus, home, faults):
        if is_audio(entry.name):
            _sort_into(path, entry, found, faults, "cannot be reached (broken or circular link?)")
        else:
            ignored += 1
    return Listing(found.frame(), faults, ignored)


def walk_folder(
    corpus: Corpus, home: Path, faults: list[Fault], after: str | None = None
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield (relative path, entry) of everything in a corpus's folder that is not a folder, in an order that stays;
    `after` a path: what follows it. Folders that cannot be walked are `faults`, and `home` is left out.

    Raises PipelineError where the corpus's folder is not there.
    """
    root = Path(corpus.path).resolve()
    if not root.is_dir():
        what = (
            f"is not a folder, nor a list of files ({', '.join(sorted(TABLES))})" if root.exists() else "does not exist"
        )
        raise PipelineError(f"corpus {corpus.name}: {corpus.path} {what}; correct `path` in the settings")
    try:
        os.listdir(root)
    except OSError as error:
        raise PipelineError(
            f"corpus {corpus.name}: cannot list {root}: {error.strerror}; give this user access"
        ) from error
    passed = after.split("/") if after else []
    yield from _walk(str(root), "", {_identity(os.stat(root))}, _identity_or_none(home), faults, passed)


def is_audio(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in AUDIO_EXTENSIONS


def _walk(
    folder: str,
    relative: str,
    ancestors: set[tuple[int, int]],
    home: tuple[int, int] | None,
    faults: list[Fault],
    passed: list[str],
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """`passed`: the last path passed before, below `folder`, in its parts; empty: begin at the beginning."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        faults.append(_fault(relative, f"cannot list the folder: {error.strerror}"))
        return
    for entry in entries:
        if passed and (entry.name < passed[0] or passed == [entry.name]):
            continue
        path = f"{relative}{entry.name}"
        if not _is_folder(entry):
            yield path, entry
            continue
        identity = _identity(entry.stat())
        if identity in ancestors:
            faults.append(_fault(path, "symbolic link to a folder that contains it"))
        elif identity != home:
            below = passed[1:] if passed and entry.name == passed[0] else []
            yield from _walk(entry.path, path + "/", ancestors | {identity}, home, faults, below)


def _sort_into(path: str, file: os.DirEntry[str] | str, found: _Columns, faults: list[Fault], unreachable: str) -> None:
    """Stat a file; a fault where that fails (`unreachable` says how) or it is not a file."""
    try:
        status = os.stat(file)
    except OSError as error:
        faults.append(_fault(path, f"{unreachable}: {error.strerror}"))
        return
    listed = (stored_path(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    if stat.S_ISREG(status.st_mode):
        found.add(*listed)
    else:
        faults.append(Fault(Entry(*listed), _NOT_REGULAR, "list"))


def _fault(path: str, reason: str) -> Fault:
    return Fault(Entry(stored_path(path)), reason, "list")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a circular link
        return False


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _identity_or_none(path: Path) -> tuple[int, int] | None:
    return _identity(os.stat(path)) if Path(path).is_dir() else None


# A store, a list -----------------------------------------------------------------------------------------------------


def _list_store(url: str) -> Listing:
    faults: list[Fault] = []
    found, ignored = _Columns(), 0
    for file in list_store(url):
        if not is_audio(file.name):
            ignored += 1
        elif "::" in file.name:
            faults.append(_fault(file.name, "a name with '::' in it, which no URL can hold; rename it"))
        else:
            _sort_stored(stored_path(file.name), file, found, faults)
    return Listing(found.frame(), faults, ignored)


def _sort_stored(path: str, file: Stored, found: _Columns, faults: list[Fault]) -> None:
    if file.regular:
        found.add(path, file.size, file.mtime_ns, 0, file.key)
    else:
        faults.append(Fault(Entry(path), _NOT_REGULAR, "list"))


def _list_named(corpus: Corpus) -> Listing:
    """The files of a list, whatever their extensions: to name a file is to say that it is audio."""
    missing = "named in the list and not there"
    named = read_file_list(corpus.path, corpus.root).with_columns(file=file_of(corpus.root))
    faults: list[Fault] = []
    remote: dict[str, Future[Stored]] = {}
    found = _Columns()
    with ThreadPoolExecutor(_STORE_REQUESTS, thread_name_prefix="stat") as pool:
        for path, file in named.select("path", "file").iter_rows():
            if is_url(file):
                remote[path] = pool.submit(stat_url, file)
            else:
                _sort_into(os_path(path), os_path(file), found, faults, missing)
        for path, answer in remote.items():
            try:
                _sort_stored(path, answer.result(), found, faults)
            except UnreachableFile as error:
                faults.append(Fault(Entry(path), f"{missing}: {error.reason}", "list"))
    told = named.select("path", "speaker", listed_duration="duration")
    return Listing(found.frame().drop("speaker", "listed_duration").join(told, on="path", how="left"), faults)
