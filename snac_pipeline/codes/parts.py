"""Parts of the code cache: parquet files named by the utterances they hold, the cache's only record.

A part has the columns digest, num_samples, sample_rate and codes_0 .. codes_{K-1} (list<uint16>); its metadata says
what encoded it. Where a digest is in several parts, readers take the lexically first, so that two writers may do the
same work without harm. Beside the parts lies quarantine.parquet, the utterances that could not be encoded.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from snac_pipeline.codec import CodecSpec
from snac_pipeline.errors import PipelineError
from snac_pipeline.files import make_folder, read_metadata, read_parquet, value_digest, write_json, write_parquet

FINGERPRINT_FILE = "fingerprint.json"
QUARANTINE_FILE = "quarantine.parquet"
QUARANTINE = pl.Schema({"digest": pl.String, "file": pl.String, "reason": pl.String, "stage": pl.String})
"""Columns of `encode_quarantine`."""


def codes_folder(home: Path, fingerprint: str) -> Path:
    """Where the parts of an encoder's codes lie."""
    return home / "codes" / fingerprint


def part_files(folder: Path) -> list[Path]:
    """The folder's parts, in the order that decides which part a digest is read from."""
    return sorted(folder.glob("part-*.parquet"))


def part_path(folder: Path, digests: Sequence[str]) -> Path:
    """Where the part that holds just these utterances is, or will be."""
    return folder / f"part-{value_digest(sorted(digests))}.parquet"


def part_schema(levels: int) -> pa.Schema:
    """Arrow schema of a part with `levels` quantizer levels."""
    return pa.schema(
        [
            ("digest", pa.string()),
            ("num_samples", pa.int64()),
            ("sample_rate", pa.int32()),
            *((f"codes_{k}", pa.list_(pa.uint16())) for k in range(levels)),
        ]
    )


# ---- writing -------------------------------------------------------------------------------------------------------


def write_part(
    folder: Path,
    digests: Sequence[str],
    num_samples: Sequence[int],
    codes: Sequence[Sequence[np.ndarray]],
    spec: CodecSpec,
    metadata: Mapping[str, str],
) -> Path:
    """Commit one part atomically and return its path.

    num_samples: length of each utterance at spec.sampling_rate, before padding. codes: for each utterance, one array
    of tokens per level. metadata: text facts kept in the parquet schema (torch version, device), to which the codec's
    config and the fingerprint are added.
    """
    columns = [
        pa.array(digests, pa.string()),
        pa.array(num_samples, pa.int64()),
        pa.array([spec.sampling_rate] * len(digests), pa.int32()),
    ]
    for k in range(spec.levels):
        tokens = [utterance[k].astype(np.uint16) for utterance in codes]
        offsets = np.concatenate([[0], np.cumsum([len(t) for t in tokens])]).astype(np.int32)
        columns.append(pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(tokens), pa.uint16())))
    facts = {**metadata, "codec": json.dumps(spec.to_dict()), "fingerprint": folder.name}
    return write_rows(folder, pa.Table.from_arrays(columns, schema=part_schema(spec.levels)), facts)


def write_rows(folder: Path, rows: pa.Table, metadata: Mapping[str, str]) -> Path:
    """Commit a part with the columns and exactly the metadata given; its path, named by the digests it holds."""
    digests = rows["digest"].to_pylist()
    path = part_path(folder, digests)
    tokens = [f"{name}.list.element" for name in rows.column_names if name.startswith("codes_")]
    # Byte stream split + zstd is the smallest and the fastest of the encodings tried (12.3 bits a token of 12).
    write_parquet(
        path,
        rows.replace_schema_metadata(dict(metadata)),
        row_group_size=len(digests),
        use_dictionary=False,
        column_encoding=dict.fromkeys(tokens, "BYTE_STREAM_SPLIT"),
    )
    return path


def prepare_folder(folder: Path, identity: dict[str, Any]) -> None:
    """Create the folder of an encoder's parts with a file that says what its fingerprint was made of."""
    make_folder(folder)
    if not (folder / FINGERPRINT_FILE).exists():
        write_json(folder / FINGERPRINT_FILE, identity)


# ---- what is there -------------------------------------------------------------------------------------------------


def part_metadata(part: Path) -> dict[str, str]:
    """What `write_part` was told of a part: torch, device, codec (JSON), fingerprint."""
    return read_metadata(part)


def held_digests(parts: Sequence[Path]) -> pl.DataFrame:
    """Every row of `parts` as (digest, part, row): `part` is the index in `parts`, `row` the place in that; in their
    order, none left out."""
    columns = [read_parquet(file, columns=["digest"])["digest"] for file in parts]
    lengths = np.array([len(column) for column in columns], np.int64)
    index = np.repeat(np.arange(len(parts), dtype=np.uint32), lengths)
    row = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    chunks = [chunk for column in columns for chunk in column.chunks]
    return pl.DataFrame({"digest": pl.from_arrow(pa.chunked_array(chunks, pa.string())), "part": index, "row": row})


def first_held(held: pl.DataFrame) -> pl.DataFrame:
    """Of rows in the order of `held_digests` those that readers take: the first of each digest."""
    return held.unique("digest", keep="first", maintain_order=True)


def cached_digests(folder: Path) -> pl.DataFrame:
    """Every digest in the folder's parts once, with the index in `part_files` of the part that it is read from."""
    return first_held(held_digests(part_files(folder)))


def missing_rows(folder: Path, utterances: pl.DataFrame) -> pl.DataFrame:
    """The rows of `utterances` (with a column digest) that have no codes in the folder, in their order."""
    held = held_digests(part_files(folder))
    return utterances.join(held, on="digest", how="anti", maintain_order="left")


def encode_quarantine(folder: Path) -> pl.DataFrame:
    """The utterances that could not be encoded: digest, file, reason, stage. Empty where there are none."""
    file = folder / QUARANTINE_FILE
    if not file.exists():
        return pl.DataFrame(schema=QUARANTINE)
    return pl.DataFrame(pl.from_arrow(read_parquet(file))).select(*QUARANTINE).cast(QUARANTINE)


def write_encode_quarantine(folder: Path, rows: pl.DataFrame) -> None:
    """Replace the folder's quarantine, atomically."""
    write_parquet(folder / QUARANTINE_FILE, rows.select(*QUARANTINE).sort("digest").to_arrow())


# ---- reading -------------------------------------------------------------------------------------------------------


def read_codes(folder: Path, digests: Sequence[str]) -> pl.DataFrame:
    """The rows of `digests`, in that order: digest, num_samples, sample_rate, codes_0 .. codes_{K-1}.

    Only parts that hold some of them are read, and their page checksums verified. Raises PipelineError when codes are
    missing, with their number and the mend.
    """
    located = locate_codes(folder, digests)
    return pl.concat(read_located(part, rows) for part, rows in located).sort("order").drop("order", "row")


def locate_codes(folder: Path, digests: Sequence[str]) -> list[tuple[Path, pl.DataFrame]]:
    """The parts that `digests` are read from, each with those in it: digest, `order` (the place in `digests`) and `row`
    (the place in the part).

    Raises PipelineError when codes are missing.
    """
    wanted = pl.DataFrame({"digest": list(digests)}, schema={"digest": pl.String}).with_row_index("order")
    parts = part_files(folder)
    located = wanted.join(first_held(held_digests(parts)), on="digest", how="left", maintain_order="left")
    missing = located.filter(pl.col("part").is_null())["digest"]
    if len(missing):
        raise PipelineError(
            f"{len(missing)} of {len(wanted)} utterances have no codes in {folder}, the first {missing[0]}; "
            "run `snac-pipeline cache` or materialize code_cache"
        )
    by_part = located.partition_by("part", maintain_order=True, include_key=False, as_dict=True)
    return [(parts[part], rows) for (part,), rows in by_part.items()]


def read_located(part: Path, rows: pl.DataFrame, columns: Sequence[str] = ()) -> pl.DataFrame:
    """The codes of `rows` (of locate_codes) beside their columns; columns: those of the part wanted, none: all."""
    found = pl.DataFrame(pl.from_arrow(located_table(part, rows, columns)))
    return rows.hstack(found.drop("digest"))


def located_table(part: Path, rows: pl.DataFrame, columns: Sequence[str] = ()) -> pa.Table:
    """The same rows in their order, digest and `columns` (none: all). A part of which all is wanted as it lies is not
    copied: twice as fast."""
    table = read_parquet(part, columns=["digest", *columns] if columns else None)
    places = rows["row"].to_numpy()
    if not np.array_equal(places, np.arange(table.num_rows)):
        table = table.take(places)
    if not rows["digest"].equals(pl.Series(pl.from_arrow(table["digest"]))):
        raise PipelineError(f"{part} was written again while it was read; run this again")
    return table
