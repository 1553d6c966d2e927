"""Whether a corpus changed, told by stat alone and, as a corpus may have millions of files, in pieces.

In: a corpus and how far a walk has come. Out: a walk that has come further; at its end the version of the corpus, which
is another with any file that is new, gone, renamed or edited. Nothing is opened but a list of files.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import polars as pl
import xxhash

from snac_pipeline.corpus.listing import Fault, is_audio, listing_version, walk_folder
from snac_pipeline.corpus.lists import is_table, read_file_list
from snac_pipeline.corpus.manifest import Corpus, file_of
from snac_pipeline.corpus.naming import is_url, os_path, stored_path
from snac_pipeline.files import value_digest

_FILES_PER_LOOK_AT_THE_CLOCK = 256


class Walk(NamedTuple):
    """How far a walk has come; values of JSON.

    `total` is the sum of the hashes of the files passed, modulo 2^128: it does not matter in which pieces they were.
    """

    after: str | None = None
    """The last path passed; None: before the first."""
    total: str = "0"
    newest: float = 0.0
    """When a file passed was last written, renamed or otherwise changed (ctime, which copying cannot set back), in
    seconds since 1970."""
    seconds: float = 0.0
    """How long it has taken."""
    until: float = 0.0
    """When its last step ended, in seconds since 1970."""
    ended: bool = False


class Seen(NamedTuple):
    """A corpus as it is now."""

    version: str
    newest: float
    """As in `Walk`; 0.0 for a store, whose objects appear whole."""


def can_be_walked(corpus: Corpus) -> bool:
    """Whether stat on this machine tells all about a corpus, and not a store."""
    places = [corpus.path, *([corpus.metadata] if corpus.metadata is not None else [])]
    if any(map(is_url, places)):
        return False
    return not is_table(corpus.path) or not any(map(is_url, _listed(corpus)["file"]))


def walk_on(corpus: Corpus, home: Path, walk: Walk, seconds: float) -> Walk:
    """Go on with a walk for so many seconds at most, but one step at least.

    The corpus `can_be_walked`. Raises PipelineError where its folder or list is not there.
    """
    began = time.monotonic()
    now = time.time()
    total, newest, after = int(walk.total, 16), walk.newest, walk.after
    faults: list[Fault] = []
    ended = True
    for number, (path, file) in enumerate(_files(corpus, home, after, faults), 1):
        line, changed = _told(path, file)
        total, after = total + _hash(line), path
        if newest < changed < now + 3600:  # what a clock that is wrong puts far ahead would never be old
            newest = changed
        if number % _FILES_PER_LOOK_AT_THE_CLOCK == 0 and time.monotonic() - began > seconds:
            ended = False
            break
    total += sum(_hash(f"{fault.entry.path}\0{fault.reason}") for fault in faults)
    took = walk.seconds + time.monotonic() - began
    return Walk(after, f"{total % 2**128:x}", newest, took, time.time(), ended)


def seen_at_end(corpus: Corpus, walk: Walk) -> Seen:
    """The corpus that a walk has seen to its end."""
    assert walk.ended
    tables = [_told(str(file), file) for file in (corpus.path, corpus.metadata) if file is not None and is_table(file)]
    settings = [corpus.root, stored_path(str(corpus.path)), corpus.speaker, corpus.limit]
    version = value_digest([settings, walk.total, *(f"{_hash(line):x}" for line, _ in tables)])
    return Seen(version, max([walk.newest, *(changed for _, changed in tables)]))


def look_at(corpus: Corpus, home: Path) -> Seen:
    """A corpus as it is now. Raises PipelineError where its folder, list or store is not there."""
    if not can_be_walked(corpus):
        return Seen(listing_version(corpus, home), 0.0)
    return seen_at_end(corpus, walk_on(corpus, home, Walk(), float("inf")))


def _files(
    corpus: Corpus, home: Path, after: str | None, faults: list[Fault]
) -> Iterator[tuple[str, os.DirEntry[str] | str]]:
    """(path, what to stat) of the audio files that follow `after`, in an order that stays."""
    if not is_table(corpus.path):
        found = walk_folder(corpus, home, faults, after)
        yield from ((path, entry) for path, entry in found if is_audio(entry.name))
        return
    listed = _listed(corpus).sort("path")
    left = listed if after is None else listed.filter(pl.col("path") > after)
    yield from ((path, os_path(file)) for path, file in left.select("path", "file").iter_rows())


def _listed(corpus: Corpus) -> pl.DataFrame:
    return read_file_list(corpus.path, corpus.root).with_columns(file=file_of(corpus.root))


def _told(path: str, file: os.DirEntry[str] | os.PathLike[str] | str) -> tuple[str, float]:
    """What stat says of a file, as a line, and when it last changed, in seconds."""
    try:
        status = file.stat() if isinstance(file, os.DirEntry) else os.stat(file)
    except OSError as error:
        return f"{path}\0{error.strerror}", 0.0
    line = f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ctime_ns}\0{status.st_mode}"
    return line, status.st_ctime_ns / 1e9


def _hash(line: str) -> int:
    return xxhash.xxh3_128_intdigest(os.fsencode(line))
