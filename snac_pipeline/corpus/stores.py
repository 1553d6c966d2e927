"""Where the bytes are: in files of this machine, or in a store that fsspec reaches by a URL (s3://, zip://, ...).

In: a path or a URL in stored form. Out: an open file, a listing, a local copy. What a store says when it fails is told
without what signs or authorizes a request.
"""

import contextlib
import functools
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any, BinaryIO, NamedTuple, cast

import fsspec
import xxhash
from fsspec.core import url_to_fs

from snac_pipeline.corpus.naming import is_url, openable, os_path
from snac_pipeline.corpus.sniffing import UnreachableFile
from snac_pipeline.errors import PipelineError

# What a store tells about a file. A checksum or tag changes with the content; a time may be as coarse as 2 s.
_CHECKSUMS = ("ETag", "etag", "md5Hash", "CRC")
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "modified", "created")
_SAYS_NOTHING = frozenset({"name", "Key", "type", "size", "Size", "url", "partial"})


class Stored(NamedTuple):
    """A file in a store: `mtime_ns` is 0 where `key` holds a checksum or tag, and now where the store tells nothing."""

    name: str
    size: int
    mtime_ns: int
    key: str
    regular: bool


@contextlib.contextmanager
def open_file(path: str | bytes | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file open for reading and seeking, by path (as the system gives it, or in stored form) or URL.

    Raises UnreachableFile where it cannot be opened, or where the disk or its store failed while it was read.
    """
    name = openable(path)
    if is_url(name):
        with contextlib.closing(_RemoteFile(os.fsdecode(name))) as handle:
            try:
                yield cast(BinaryIO, handle)  # what readers of a file use of one
            finally:
                if handle.failure is not None:
                    raise UnreachableFile(path, f"cannot be read: {told(handle.failure)}") from None
        return
    try:
        with open(name, "rb") as handle:
            yield handle
    except OSError as error:
        raise UnreachableFile(path, f"cannot be read: {error.strerror or error}") from error


@contextlib.contextmanager
def local_copy(path: str, size: int) -> Iterator[str]:
    """The path itself, or for a URL that of a temporary copy, so that hashing and decoding download it once."""
    if not is_url(path):
        yield path
        return
    with tempfile.NamedTemporaryFile(prefix="snac-pipeline-") as copy:
        with open_file(path) as handle:
            shutil.copyfileobj(handle, copy, 1 << 20)
        copy.flush()
        copied = os.path.getsize(copy.name)
        if size and copied != size:
            raise UnreachableFile(path, f"the store gave {copied} of {size} bytes; it may have changed just now")
        yield copy.name


def list_store(url: str) -> list[Stored]:
    """Every file below `url`, with names relative to it. Raises PipelineError where the store cannot be listed."""
    try:
        for link in url.split("::"):  # stores keep what they listed or copied before
            if (protocol := link.split("://")[0]) in fsspec.available_protocols():
                fsspec.get_filesystem_class(protocol).clear_instance_cache()
        store, root = url_to_fs(os_path(url))
        store.invalidate_cache()
        found = store.find(root, detail=True)
    except Exception as error:  # whatever the store's own package raises
        raise PipelineError(f"{url}: {told_with_mend(error)}") from None  # the original may hold signed requests
    return [_stored(name.removeprefix(root).lstrip("/"), info) for name, info in sorted(found.items())]


def stat_url(url: str) -> Stored:
    """One file of a store. Raises UnreachableFile."""
    try:
        store, name = url_to_fs(os_path(url))
        return _stored(url, store.info(name))
    except Exception as error:
        raise UnreachableFile(url, told_with_mend(error)) from None


def told(error: Exception) -> str:
    """The first line of what a store says, without user:password@ and without the query of a signed URL."""
    kind = type(error).__name__
    text = (isinstance(error, OSError) and error.strerror) or str(error).strip()
    line = f"{kind}: {text.splitlines()[0]}" if text else kind
    return re.sub(r"//[^/\s@]+@", "//", re.sub(r"\?\S+", "?...", line))


def told_with_mend(error: Exception) -> str:
    """`told`, and what to do where a package is missing or the protocol is none."""
    if isinstance(error, ImportError):
        return (
            f"the package for this kind of URL is not installed ({told(error)}); for s3:// run "
            "`pip install 'snac-pipeline[s3]'`, for others install the package that it names"
        )
    if isinstance(error, ValueError) and "rotocol" in str(error):
        return f"no store is known for this kind of URL ({told(error)}); correct it"
    return told(error)


_threads = threading.local()  # stores may not be shared by threads


def _store_of(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The store of a URL and the path in it. fsspec keeps stores, but would open an archive anew for every file."""
    first, _, chain = url.partition("::")
    if not chain or "://" not in first:
        whole: tuple[fsspec.AbstractFileSystem, str] = url_to_fs(url)
        return whole
    if not hasattr(_threads, "archives"):
        _threads.archives = functools.lru_cache(maxsize=8)(lambda root: url_to_fs(root)[0])
    archive = _threads.archives(f"{first.partition('://')[0]}://::{chain}")
    return archive, archive._strip_protocol(first)


def _stored(name: str, info: dict[str, Any]) -> Stored:
    facts = sorted((key, repr(value)) for key, value in info.items() if key not in _SAYS_NOTHING)
    key = xxhash.xxh3_128_hexdigest(repr(facts).encode()) if facts else ""
    return Stored(name, info.get("size") or 0, _moment(info), key, info.get("type", "file") == "file")


def _moment(info: dict[str, Any]) -> int:
    if any(info.get(name) for name in _CHECKSUMS):
        return 0
    for name in _TIMES:
        value = info.get(name)
        if isinstance(value, datetime):
            return int(value.timestamp() * 1e9)
        if isinstance(value, int | float):
            return int(value * 1e9)
    return time.time_ns()


class _RemoteFile:
    """A store's file that remembers a failure and then reads as ended.

    libsndfile reads through callbacks, which cannot raise: a lost connection would be taken for the end of the file.
    """

    def __init__(self, url: str) -> None:
        self.name = url
        self.failure: Exception | None = None
        try:
            self._store, path = _store_of(os_path(url))  # an archive closes when nothing refers to it
            self._file = self._store.open(path, "rb")
        except Exception as error:  # whatever the store's own package raises
            raise UnreachableFile(url, f"cannot be read: {told_with_mend(error)}") from None

    def read(self, size: int = -1) -> bytes:
        if self.failure is not None:
            return b""
        try:
            block: bytes = self._file.read(size)
        except Exception as error:
            self.failure = error
            return b""
        return block

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
