"""Files that are either whole or absent.

Everything the pipeline keeps is written here: under a temporary name beside the target, flushed to the disk, renamed,
and the folder flushed too, so that a crash at any instant leaves the old file or the new one.
"""

import contextlib
import errno
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from snac_pipeline.errors import PipelineError, is_full

TEMPORARY_PREFIX = ".tmp-"
NEARLY_FULL_BYTES = 1 << 16
"""Free on a disk where a write that failed can only have failed for want of room."""


def make_folder(path: Path) -> Path:
    """Create `path` and its parents, or raise a PipelineError that names the folder that cannot be written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PipelineError(
            f"cannot create the folder {path}: {error.strerror}; choose another `home` in the settings, or `--to`, "
            "or give this user write permission there"
        ) from error
    return path


def flush_folder(folder: Path) -> None:
    """fsync a folder, which makes the renames and unlinks inside it durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _named_if_full(path: Path) -> Iterator[None]:
    """A disk or a quota that is full is something to tell, with the place.

    Not every library says so (torch.save: "unexpected pos"): then it is what the disk says.
    """
    try:
        yield
    except PipelineError:
        raise
    except Exception as error:
        if not is_full(error) and shutil.disk_usage(path.parent).free >= NEARLY_FULL_BYTES:
            raise
        why = os.strerror(error.errno if isinstance(error, OSError) and error.errno else errno.ENOSPC)
        raise PipelineError(
            f"cannot write {path}: {why}; make room there, or choose another `home` in the settings, or `--to`, and "
            "run again"
        ) from error


@contextlib.contextmanager
def _named_if_refused(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PipelineError(
            f"cannot write in {folder}: {error.strerror}; choose another `home` in the settings, or `--to`, "
            "or give this user write permission there"
        ) from error


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; on success it becomes `path`, on any failure it is removed."""
    make_folder(path.parent)
    # Named before it is there: a signal that comes between the two would leave a file that nobody removes.
    temporary = path.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{path.suffix}"
    try:
        with _named_if_refused(path.parent):
            temporary.touch(mode=0o600, exist_ok=False)
        with _named_if_full(path):
            yield temporary
            with temporary.open("rb+") as handle:
                os.fsync(handle.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
            flush_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it takes the place of `path`, on failure it is removed.

    A folder that was at `path` is moved aside first and removed last; a crash between the two renames leaves both under
    temporary names, so nothing is lost, but `path` has to be written again.
    """
    make_folder(path.parent)
    with _named_if_refused(path.parent):
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=TEMPORARY_PREFIX))
    replaced = path.with_name(f"{temporary.name}-replaced")
    try:
        with _named_if_full(path):
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    with file.open("rb+") as handle:
                        os.fsync(handle.fileno())
                    file.chmod(0o644)  # safetensors writes for its owner alone
            flush_folder(temporary)
            temporary.chmod(0o755)
            if path.exists():
                path.rename(replaced)
            temporary.rename(path)
            flush_folder(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        if replaced.exists() and not path.exists():  # an interrupt between the two renames
            replaced.rename(path)
        raise
    finally:
        shutil.rmtree(replaced, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """What write_json wrote; PipelineError names a file that is damaged or cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise PipelineError(
            f"{path} is damaged or cannot be read ({error}); delete it and run the step that writes it again"
        ) from error


def write_parquet(path: Path, table: pa.Table, **options: Any) -> None:
    """Write an Arrow table as zstd parquet with page checksums, atomically. `options` go to pyarrow."""
    with atomic_file(path) as temporary:
        pq.write_table(table, temporary, **{"compression": "zstd", "write_page_checksum": True, **options})


WRITE_AGAIN = "restore it from a copy, or delete it and run the step that writes it again"


def read_parquet(path: Path, columns: Sequence[str] | None = None, *, mend: str = WRITE_AGAIN) -> pa.Table:
    """Read a parquet file, verifying the checksum of every page; PipelineError names a file that is damaged, and says
    how to `mend` it."""
    with _reading(path, mend), pq.ParquetFile(path, page_checksum_verification=True) as file:
        return file.read(columns=columns)


def read_footer(path: Path, *, mend: str = WRITE_AGAIN) -> tuple[pa.Schema, pq.FileMetaData]:
    """Columns with the file's own metadata, and counts and statistics; errors as those of `read_parquet`."""
    with _reading(path, mend), pq.ParquetFile(path) as file:
        return file.schema_arrow, file.metadata


def read_metadata(path: Path) -> dict[str, str]:
    """The texts by name that a parquet file's writer put into its schema; errors as those of `read_parquet`."""
    schema, _ = read_footer(path)
    return {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}


@contextlib.contextmanager
def _reading(path: Path, mend: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        why = str(error).strip().splitlines()[0]
        raise PipelineError(f"{path} is damaged or cannot be read ({why}); {mend}") from error


def content_digest(path: str | bytes | os.PathLike[str]) -> str:
    """xxh3_128 of a file's bytes, 32 hexadecimal digits."""
    with open(path, "rb") as handle:
        return stream_digest(handle)


def stream_digest(handle: BinaryIO) -> str:
    """`content_digest` of what an open file still has to give."""
    hasher = xxhash.xxh3_128()
    while chunk := handle.read(1 << 20):
        hasher.update(chunk)
    return hasher.hexdigest()


def value_digest(value: Any) -> str:
    """xxh3_128 of a JSON-like value in canonical form; equal values have equal digests."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return xxhash.xxh3_128_hexdigest(canonical.encode())
