"""Parts of the code cache: parquet files named by the utterances they hold, the cache's only record.

A part has the columns digest, num_samples, sample_rate and codes_0 .. codes_{K-1} (list<uint16>). Where a digest is in
several parts, readers take the lexically first, so that two writers may do the same work without harm.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from snac_pipeline.codec import CodecSpec
from snac_pipeline.errors import PipelineError
from snac_pipeline.files import make_folder, read_parquet, value_digest, write_json, write_parquet

FINGERPRINT_FILE = "fingerprint.json"
QUARANTINE_FILE = "quarantine.parquet"
QUARANTINE = {"digest": pl.String, "file": pl.String, "reason": pl.String, "stage": pl.String}
"""Columns of `encode_quarantine`."""


def codes_folder(home: Path, fingerprint: str) -> Path:
    """Where the parts of an encoder's codes lie."""
    return home / "codes" / fingerprint


def part_files(folder: Path) -> list[Path]:
    """The folder's parts, in the order that decides which part a digest is read from."""
    return sorted(folder.glob("part-*.parquet"))


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


def write_part(
    folder: Path,
    digests: Sequence[str],
    num_samples: Sequence[int],
    codes: Sequence[Sequence[np.ndarray]],
    spec: CodecSpec,
    metadata: dict[str, str],
) -> Path:
    """Commit one part atomically and return its path.

    num_samples: length of each utterance at spec.sampling_rate, before padding. codes: for each utterance, one array
    of tokens per level. metadata: text facts kept in the parquet schema (torch version, device, ...).
    """
    schema = part_schema(spec.levels)
    columns = [
        pa.array(digests, pa.string()),
        pa.array(num_samples, pa.int64()),
        pa.array([spec.sampling_rate] * len(digests), pa.int32()),
    ]
    for k in range(spec.levels):
        tokens = [utterance[k].astype(np.uint16) for utterance in codes]
        offsets = np.concatenate([[0], np.cumsum([len(t) for t in tokens])]).astype(np.int32)
        columns.append(pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(tokens), pa.uint16())))
    table = pa.Table.from_arrays(columns, schema=schema).replace_schema_metadata(metadata)
    path = folder / f"part-{value_digest(sorted(digests))}.parquet"
    tokens_only = [f"codes_{k}.list.element" for k in range(spec.levels)]
    # Byte stream split + zstd is the smallest and the fastest of the encodings tried (12.3 bits a token of 12).
    write_parquet(
        path,
        table,
        row_group_size=len(digests),
        use_dictionary=False,
        column_encoding=dict.fromkeys(tokens_only, "BYTE_STREAM_SPLIT"),
    )
    return path


def prepare_folder(folder: Path, identity: dict) -> None:
    """Create the folder of an encoder's parts with a file that says what its fingerprint was made of."""
    make_folder(folder)
    if not (folder / FINGERPRINT_FILE).exists():
        write_json(folder / FINGERPRINT_FILE, identity)


def cached_digests(folder: Path) -> dict[str, Path]:
    """Every digest in the parts, with the part it is read from."""
    place: dict[str, Path] = {}
    for file in part_files(folder):
        for digest in read_parquet(file, columns=["digest"])["digest"].to_pylist():
            place.setdefault(digest, file)
    return place


def encode_quarantine(folder: Path) -> pl.DataFrame:
    """The utterances that could not be encoded: digest, file, reason, stage. Empty where there are none."""
    file = folder / QUARANTINE_FILE
    if not file.exists():
        return pl.DataFrame(schema=QUARANTINE)
    return pl.DataFrame(pl.from_arrow(read_parquet(file))).select(*QUARANTINE).cast(QUARANTINE)


def write_encode_quarantine(folder: Path, rows: pl.DataFrame) -> None:
    """Replace the folder's quarantine, atomically."""
    write_parquet(folder / QUARANTINE_FILE, rows.select(*QUARANTINE).sort("digest").to_arrow())


def read_codes(folder: Path, digests: Sequence[str]) -> pl.DataFrame:
    """The rows of `digests`, in that order: digest, num_samples, sample_rate, codes_0 .. codes_{K-1}.

    Page checksums are verified. Raises PipelineError when codes are missing, with their number and the mend.
    """
    wanted = pl.DataFrame({"digest": list(digests)}, schema={"digest": pl.String}).with_row_index("order")
    frames, left = [], wanted
    for file in part_files(folder):
        if left.is_empty():
            break
        rows = pl.DataFrame(pl.from_arrow(read_parquet(file)))
        frames.append(left.join(rows, on="digest", how="inner"))
        left = left.join(rows, on="digest", how="anti")
    if not left.is_empty():
        raise PipelineError(
            f"{len(left)} of {len(wanted)} utterances have no codes in {folder}, the first {left['digest'][0]}; "
            "run `snac-pipeline cache` or materialize code_cache"
        )
    return pl.concat(frames).sort("order").drop("order")
