"""Codes of a corpus as flat arrays: one per level, plus one array of utterance borders counted in coarse frames.

In: parts of the code cache (parquet) and the utterances to use. Out: a `TokenStream`, whose order and content depend on
the selection alone, not on how the codes happen to be spread over parts.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from snac_pipeline.errors import PipelineError
from snac_pipeline.files import read_parquet


@dataclass(frozen=True)
class TokenGeometry:
    """Tokens of each level per coarse frame, size of every codebook, seconds of audio per coarse frame."""

    tokens_per_frame: tuple[int, ...]
    codebook_size: int
    frame_seconds: float

    def __post_init__(self) -> None:
        if not self.tokens_per_frame or min(self.tokens_per_frame) < 1:
            raise PipelineError(
                f"tokens_per_frame must be positive numbers, one per level, not {self.tokens_per_frame}"
            )
        if not 1 <= self.codebook_size <= 1 << 16:
            raise PipelineError(f"codebook_size must lie in 1..65536 (codes are uint16), not {self.codebook_size}")
        if not self.frame_seconds > 0:
            raise PipelineError(f"frame_seconds must be above 0, not {self.frame_seconds}")

    @property
    def levels(self) -> int:
        return len(self.tokens_per_frame)


@dataclass(frozen=True)
class TokenStream:
    """Utterances end to end: level k of utterance u is `codes[k][offsets[u] * t : offsets[u + 1] * t]`, t per frame.

    codes: one uint16 array per level (a memory map will do). offsets: int64, U + 1 coarse-frame counts, the first 0.
    utterances: (digest, corpus, split), one row for each of the U utterances, in stream order.
    """

    geometry: TokenGeometry
    codes: tuple[np.ndarray, ...]
    offsets: np.ndarray
    utterances: pl.DataFrame

    @property
    def frames(self) -> int:
        return int(self.offsets[-1])

    @property
    def seconds(self) -> float:
        """Seconds of audio the coarse frames stand for, the codec's own right padding included."""
        return self.frames * self.geometry.frame_seconds

    @cached_property
    def splits(self) -> list[str]:
        return sorted(self.utterances["split"].unique())

    def level_offsets(self, level: int) -> np.ndarray:
        """Utterance borders in tokens of `level`."""
        return self.offsets * self.geometry.tokens_per_frame[level]

    def split(self, name: str) -> "TokenStream":
        """The utterances of one split; a view, not a copy, where they lie together (as `read_tokens` lays them)."""
        return self.take(np.flatnonzero((self.utterances["split"] == name).to_numpy()))

    def take(self, rows: np.ndarray) -> "TokenStream":
        """The utterances `rows` (increasing indices)."""
        lengths = np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        first = int(self.offsets[rows[0]]) if len(rows) else 0
        if len(rows) == 0 or rows[-1] - rows[0] == len(rows) - 1:
            span = slice(first, first + int(offsets[-1]))
            frames = None
        else:
            frames = np.repeat(self.offsets[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
        codes = []
        for flat, per_frame in zip(self.codes, self.geometry.tokens_per_frame, strict=True):
            by_frame = flat.reshape(-1, per_frame)
            codes.append((by_frame[span] if frames is None else by_frame[frames]).reshape(-1))
        return TokenStream(self.geometry, tuple(codes), offsets, self.utterances[rows])


def read_tokens(parts_folder: Path, selection: pl.DataFrame, geometry: TokenGeometry) -> TokenStream:
    """Read the codes of `selection` (columns digest, corpus, split) from `part-*.parquet` in `parts_folder`.

    Utterances come in the order (split, corpus, digest). A digest that several parts hold is read from the lexically
    first. Memory: the result (2 bytes per token) and one part. PipelineError: a digest without codes, a digest in two
    splits, a part that cannot be read, codes outside the codebook, levels whose lengths do not fit the geometry.
    """
    wanted = _wanted_utterances(selection)
    located = _locate(sorted(Path(parts_folder).glob("part-*.parquet")), wanted, parts_folder)
    offsets = np.concatenate([[0], np.cumsum(located["frames"].to_numpy())]).astype(np.int64)
    codes = tuple(np.empty(offsets[-1] * per_frame, np.uint16) for per_frame in geometry.tokens_per_frame)
    placed = located.with_columns(start=offsets[:-1])
    for (part,), rows in placed.group_by("part", maintain_order=True):
        table = _read_part(Path(part), [f"codes_{level}" for level in range(geometry.levels)])
        for level, flat in enumerate(codes):
            _place_level(flat, table.column(f"codes_{level}"), rows, level, geometry)
    return TokenStream(geometry, codes, offsets, wanted)


def _wanted_utterances(selection: pl.DataFrame) -> pl.DataFrame:
    """The selection once per digest, in stream order."""
    wanted = selection.select("digest", "corpus", "split").unique().sort("split", "corpus", "digest")
    torn = wanted.group_by("digest").agg(pl.col("split").n_unique().alias("splits")).filter(pl.col("splits") > 1)
    if len(torn):
        raise PipelineError(
            f"{len(torn)} digests are in more than one split (such as {torn['digest'].min()}): "
            "materialize `splits` again"
        )
    return wanted.unique("digest", keep="first", maintain_order=True)


def _locate(parts: list[Path], wanted: pl.DataFrame, folder: Path) -> pl.DataFrame:
    """Where each wanted digest lies: (digest, part, row, frames), in the order of `wanted`."""
    held = []
    for part in parts:
        table = _read_part(part, ["digest", "codes_0"])
        frames = pc.list_value_length(table.column("codes_0")).cast(pa.int64())
        rows = pl.DataFrame({"digest": pl.from_arrow(table.column("digest")), "frames": pl.from_arrow(frames)})
        rows = rows.with_row_index("row").with_columns(part=pl.lit(str(part)))
        held.append(rows.join(wanted.select("digest"), on="digest", how="semi"))
    if not held:
        raise PipelineError(f"no codes in {folder}: materialize `code_cache` first")
    first = pl.concat(held).unique("digest", keep="first", maintain_order=True)
    located = wanted.select("digest").join(first, on="digest", how="left", maintain_order="left")
    missing = located.filter(pl.col("part").is_null())["digest"]
    if len(missing):
        raise PipelineError(
            f"{len(missing)} of {len(wanted)} utterances have no codes in {folder} (such as {missing[0]}): "
            "materialize `code_cache` for these corpora first"
        )
    return located


def _read_part(part: Path, columns: list[str]) -> pa.Table:
    try:
        return read_parquet(part, columns=columns).select(columns)
    except (PipelineError, KeyError) as error:
        raise PipelineError(
            f"{part} cannot be read as a part with the columns {', '.join(columns)} ({error.__cause__ or error}): "
            "delete it and materialize `code_cache` again"
        ) from error


def _place_level(
    flat: np.ndarray, column: pa.ChunkedArray, rows: pl.DataFrame, level: int, geometry: TokenGeometry
) -> None:
    """Copy one level of the utterances `rows` of a part (row, frames, start, part) to their places in the stream."""
    per_frame = geometry.tokens_per_frame[level]
    lengths = pc.list_value_length(column).to_numpy()
    values = np.concatenate([pc.list_flatten(chunk).to_numpy() for chunk in column.chunks])
    ends = np.cumsum(lengths)
    needed = (rows["frames"] * per_frame).to_numpy()
    ragged = np.flatnonzero(lengths[rows["row"].to_numpy()] != needed)
    if ragged.size:
        raise _foreign_codes(rows, ragged[0], level, f"not the {needed[ragged[0]]} tokens its coarse frames need")
    suspicious = values.size > 0 and values.max() >= geometry.codebook_size  # perhaps in a row that is not wanted
    for place, (row, start, tokens) in enumerate(zip(rows["row"], rows["start"] * per_frame, needed, strict=True)):
        piece = values[ends[row] - tokens : ends[row]]
        if suspicious and (piece >= geometry.codebook_size).any():
            outside = f"code {piece.max()} is outside the codebook of {geometry.codebook_size}"
            raise _foreign_codes(rows, place, level, outside)
        flat[start : start + tokens] = piece


def _foreign_codes(rows: pl.DataFrame, place: int, level: int, what: str) -> PipelineError:
    return PipelineError(
        f"level {level} of utterance {rows['digest'][int(place)]} in {rows['part'][0]}: {what}; "
        "these codes belong to another codec, delete the part and materialize `code_cache` again"
    )
