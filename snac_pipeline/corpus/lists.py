"""Tables that name files: a list of recordings in place of a folder, or the speakers of a corpus as metadata.

In: CSV, TSV, JSON lines (the manifests of NeMo and lhotse's exports), parquet; a path or a URL. Out: a polars frame.
"""

import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from snac_pipeline.corpus.naming import around, is_url
from snac_pipeline.corpus.sniffing import UnreachableFile
from snac_pipeline.corpus.stores import open_file
from snac_pipeline.errors import PipelineError

TABLES = frozenset({".csv", ".tsv", ".jsonl", ".json", ".parquet"})
"""Extensions of files that are tables; `.json` holds one JSON object a line, as NeMo's manifests do."""

_PATH_COLUMNS = ("path", "audio_filepath")
_LINE = "line"


def is_table(path: str | Path) -> bool:
    """Whether a path or URL names a table, by its extension; a folder never does."""
    return _extension(path) in TABLES and (is_url(path) or not Path(path).is_dir())


def read_file_list(file: str | Path, root: str) -> pl.DataFrame:
    """The recordings that a list names, each once: path (stored form), speaker and duration in s (null: not given).

    Paths count from `root` (stored form); what lies elsewhere keeps its whole path. A list names whole files: raises
    PipelineError, naming file and line, for an offset, and for a file listed under two speakers.
    """
    table = _read(file, ("speaker", "offset", "duration"))
    for name in ("offset", "duration"):
        numbers = table[name].cast(pl.Float64, strict=False)
        _refuse(file, table.filter(numbers.is_null() & table[name].is_not_null()), f"`{name}` is not a number")
        table = table.with_columns(numbers)
    _refuse(
        file,
        table.filter(pl.col("offset") > 0),
        "`offset` makes this entry a part of a file, and a list names whole files; cut the parts into files of their "
        "own, or list the file once without `offset` and `duration`",
    )
    return _placed(table, root, file).select("path", "speaker", "duration")


def read_speaker_table(file: str | Path, root: str) -> pl.DataFrame:
    """The columns path (stored form, relative to `root` where it is below) and speaker of a table of metadata.

    Raises PipelineError where a column is missing, or a path has two speakers.
    """
    table = _read(file, ("speaker",))
    if table["speaker"].null_count() == len(table):
        raise PipelineError(f"{file}: no column `speaker` with values; add one that names who speaks in each file")
    return _placed(table, root, file).select("path", "speaker")


def _extension(path: str | Path) -> str:
    name = around(str(path))[0].rstrip("/") if is_url(path) else str(path)
    return os.path.splitext(name)[1].lower()


def _placed(table: pl.DataFrame, root: str, file: str | Path) -> pl.DataFrame:
    """Paths in stored form and relative to `root`, each once; null and blank speakers are the same."""
    path = pl.col("path").str.replace_all("\\", "\\\\", literal=True)
    table = table.with_columns(path, speaker=pl.col("speaker").str.strip_chars().replace("", None))
    if not is_url(root):
        crooked = pl.col("path").str.contains(r"(^|/)\.{0,2}/|(^|/)\.\.?$") & ~pl.col("path").str.contains("://")
        straight = pl.col("path").map_elements(lambda name: _straight(root, name), return_dtype=pl.String)
        table = table.with_columns(path=pl.when(crooked).then(straight).otherwise(pl.col("path")))
    table = table.with_columns(pl.col("path").str.strip_prefix(around(root)[0]))
    speakers = table.group_by("path").agg(pl.col("speaker").n_unique().alias("count"), pl.col(_LINE).last())
    _refuse(file, speakers.filter(pl.col("count") > 1).sort(_LINE), "this file was listed before with another speaker")
    return table.unique("path", keep="first", maintain_order=True)


def _straight(root: str, name: str) -> str:
    return os.path.normpath(os.path.join(root, name))


def _refuse(file: str | Path, rows: pl.DataFrame, why: str) -> None:
    if len(rows):
        line, path = rows.select(_LINE, "path").row(0)
        more = f" (and {len(rows) - 1} more lines)" if len(rows) > 1 else ""
        raise PipelineError(f"{file}, line {line}: {path}: {why}{more}")


def _read(file: str | Path, columns: Sequence[str]) -> pl.DataFrame:
    """The columns path and `columns`, as text, and line: 1 for the first row, 2 in CSV."""
    suffix = _extension(file)
    if suffix not in TABLES:
        raise PipelineError(f"{file}: its extension tells no table; give one of {', '.join(sorted(TABLES))}")
    try:
        with open_file(file) as handle:
            content = handle.read()
    except (UnreachableFile, OSError) as error:
        raise PipelineError(f"{error}; give the path or URL of a table") from error
    try:
        if suffix == ".parquet":
            table, first = pl.read_parquet(io.BytesIO(content)), 1
        elif suffix in (".csv", ".tsv"):
            separator = "\t" if suffix == ".tsv" else ","
            table, first = pl.read_csv(io.BytesIO(content), infer_schema=False, separator=separator), 2
        else:
            table, first = _json_lines(file, content, (*_PATH_COLUMNS, *columns)), 1
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        raise PipelineError(f"{file} cannot be read as {suffix[1:]}: {str(error).splitlines()[0]}") from error
    named = [name for name in _PATH_COLUMNS if name in table.columns and table[name].null_count() < len(table)]
    if table.is_empty():
        raise PipelineError(f"{file} names no file: it has no rows")
    if len(named) != 1:
        raise _wrong_columns(file, named or table.columns)
    if _LINE not in table.columns:
        table = table.with_row_index(_LINE, first)
    absent = [pl.lit(None, pl.String).alias(name) for name in columns if name not in table.columns]
    table = table.with_columns(pl.col(named[0]).alias("path"), *absent)
    table = table.select(pl.col("path", *columns).cast(pl.String), _LINE)
    _refuse(file, table.filter(pl.col("path").is_null() | (pl.col("path") == "")), "this line names no file")
    return table


def _wrong_columns(file: str | Path, columns: Sequence[str]) -> PipelineError:
    found = ("both " if set(columns) == set(_PATH_COLUMNS) else "only ") + (", ".join(columns) or "nothing")
    return PipelineError(f"{file}: one column `path` or `audio_filepath` has to name the files; there is {found}")


def _json_lines(file: str | Path, content: bytes, columns: Sequence[str]) -> pl.DataFrame:
    rows: list[dict[str, Any]] = []
    names: dict[str, None] = {}
    for line, text in enumerate(content.decode("utf-8").split("\n"), 1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except ValueError as error:
            raise PipelineError(f"{file}, line {line}: not JSON: {error}; one object a line is read") from error
        if not isinstance(row, dict):
            raise PipelineError(f"{file}, line {line}: not a JSON object; one object a line is read")
        names |= dict.fromkeys(row)
        texts = {name: str(row[name]) for name in columns if row.get(name) is not None}
        rows.append({_LINE: line, **texts})
    if rows and names.keys().isdisjoint(_PATH_COLUMNS):
        raise _wrong_columns(file, list(names))
    return pl.DataFrame(rows, schema={_LINE: pl.UInt32, **dict.fromkeys(columns, pl.String)})
