"""What lies in a corpus folder: regular audio files with their stat, and what cannot be listed or opened.

Nothing is opened here (a fifo would hang); links are followed, loops are not.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import xxhash

from snac_pipeline.corpus.manifest import Corpus
from snac_pipeline.corpus.naming import stored_path
from snac_pipeline.errors import PipelineError

AUDIO_EXTENSIONS = frozenset({".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a"})


class Entry(NamedTuple):
    """A file as listed: `path` relative to the corpus folder in stored form, and the stat that recognises it later."""

    path: str
    size: int
    mtime_ns: int
    ctime_ns: int


class Fault(NamedTuple):
    entry: Entry
    reason: str
    stage: str
    digest: str | None = None


@dataclass
class Listing:
    files: list[Entry] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    ignored: int = 0  # files without an audio extension


def list_corpus(corpus: Corpus, home: Path) -> Listing:
    """Walk the corpus folder, leaving out `home` if it lies inside. Raises PipelineError for a folder that is not there
    or has no audio; a folder or file below it that cannot be read is a fault of the listing."""
    root = corpus.path.resolve()
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise PipelineError(f"corpus {corpus.name}: {corpus.path} {what}; correct `path` in pipeline.yaml")
    try:
        os.listdir(root)
    except OSError as error:
        raise PipelineError(
            f"corpus {corpus.name}: cannot list {root}: {error.strerror}; give this user access"
        ) from error
    listing = Listing()
    for entry in _walk(str(root), "", {_identity(os.stat(root))}, _identity_or_none(home), listing):
        _sort_into(entry, listing)
    if not listing.files and not listing.faults:
        others = f"none of its {listing.ignored} files is" if listing.ignored else "it is empty; put some there,"
        raise PipelineError(
            f"corpus {corpus.name}: no audio in {root}: {others} wav, flac, mp3, ogg, opus or m4a; "
            "or correct `path` in pipeline.yaml"
        )
    listing.files.sort()
    if corpus.limit is not None:
        _keep_first(listing, corpus.limit)
    return listing


def _keep_first(listing: Listing, limit: int) -> None:
    """Cut files and faults together to the first `limit` in the order of a hash of the path."""
    paths = [entry.path for entry in listing.files] + [fault.entry.path for fault in listing.faults]
    kept = set(sorted(paths, key=lambda path: (xxhash.xxh3_64_intdigest(path.encode()), path))[:limit])
    listing.files = [entry for entry in listing.files if entry.path in kept]
    listing.faults = [fault for fault in listing.faults if fault.entry.path in kept]


def _walk(
    folder: str, relative: str, ancestors: set, home: tuple | None, listing: Listing
) -> Iterator[tuple[str, os.DirEntry]]:
    """Yield (relative path, entry) of everything that is not a folder; faults of folders go to the listing."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        listing.faults.append(_fault(relative, f"cannot list the folder: {error.strerror}"))
        return
    for entry in entries:
        path = f"{relative}{entry.name}"
        if not _is_folder(entry):
            yield path, entry
            continue
        identity = _identity(entry.stat())
        if identity in ancestors:
            listing.faults.append(_fault(path, "symbolic link to a folder that contains it"))
        elif identity != home:
            yield from _walk(entry.path, path + "/", ancestors | {identity}, home, listing)


def _sort_into(found: tuple[str, os.DirEntry], listing: Listing) -> None:
    path, entry = found
    if os.path.splitext(entry.name)[1].lower() not in AUDIO_EXTENSIONS:
        listing.ignored += 1
        return
    try:
        status = entry.stat()
    except OSError as error:
        listing.faults.append(_fault(path, f"cannot be reached (broken or circular link?): {error.strerror}"))
        return
    listed = Entry(stored_path(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    if stat.S_ISREG(status.st_mode):
        listing.files.append(listed)
    else:
        listing.faults.append(Fault(listed, "not a regular file (fifo, socket or device)", "list"))


def _fault(path: str, reason: str) -> Fault:
    return Fault(Entry(stored_path(path), 0, 0, 0), reason, "list")


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a circular link
        return False


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _identity_or_none(path: Path) -> tuple[int, int] | None:
    return _identity(os.stat(path)) if Path(path).is_dir() else None
