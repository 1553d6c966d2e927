"""Codes of a corpus as flat arrays: one per level, plus one array of utterance borders counted in coarse frames.

In: parts of the code cache (parquet) and the utterances to use. Out: `TokenParts`, which reads some at a time, or one
`TokenStream`, whose order and content depend on the selection alone, not on how the codes are spread over parts.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from snac_pipeline.codec import CodecSpec
from snac_pipeline.codes.parts import locate_codes, located_table, part_files
from snac_pipeline.errors import PipelineError
from snac_pipeline.files import read_footer

READ_TOKENS = 1 << 22
"""Tokens read at a time: 8 MB, and what counting them takes beside; a part is read whole."""


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

    def only(self, levels: Sequence[int]) -> "TokenGeometry":
        """That of some levels."""
        return replace(self, tokens_per_frame=tuple(self.tokens_per_frame[level] for level in levels))


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

    @property
    def lengths(self) -> np.ndarray:
        """Coarse frames of each utterance, int64 (U,)."""
        return np.diff(self.offsets)

    def level_offsets(self, level: int) -> np.ndarray:
        """Utterance borders in tokens of `level`."""
        return self.offsets * self.geometry.tokens_per_frame[level]

    def streams(
        self, levels: Sequence[int] | None = None, *, corpus: str | None = None, split: str | None = None
    ) -> Iterator["TokenStream"]:
        """The utterances of a corpus and a split as one stream, as `TokenParts.streams` gives several."""
        part = self.take(_where(self.utterances.with_row_index("at"), corpus, split)["at"].to_numpy())
        levels = range(self.geometry.levels) if levels is None else levels
        codes = tuple(part.codes[level] for level in levels)
        yield TokenStream(self.geometry.only(levels), codes, part.offsets, part.utterances)

    def split(self, name: str) -> "TokenStream":
        """The utterances of one split; a view, not a copy, where they lie together (as `read_tokens` lays them)."""
        return self.take(np.flatnonzero((self.utterances["split"] == name).to_numpy()))

    def take(self, rows: np.ndarray) -> "TokenStream":
        """The utterances `rows` (increasing indices)."""
        lengths = self.lengths[rows]
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


@dataclass(frozen=True)
class TokenParts:
    """Codes that stay in their parts and are read some at a time: memory does not grow with the corpus.

    utterances: (digest, corpus, split) as the parts lie; `part`: index in `parts`, `row`: place in that, `order`: place
    in the selection.
    """

    geometry: TokenGeometry
    parts: list[Path]
    utterances: pl.DataFrame

    def streams(
        self, levels: Sequence[int] | None = None, *, corpus: str | None = None, split: str | None = None
    ) -> Iterator[TokenStream]:
        """The utterances of a corpus and a split (None: of all), some READ_TOKENS tokens at a time, as the parts lie.

        A stream holds whole utterances and only `levels`, which its geometry then has alone. Memory: READ_TOKENS tokens
        and one part. PipelineError: a part that cannot be read, codes outside the codebook, ragged levels.
        """
        levels = range(self.geometry.levels) if levels is None else levels
        waiting: list[TokenStream] = []
        for rows in _where(self.utterances, corpus, split).partition_by("part", maintain_order=True):
            waiting.append(_read_part(self.parts[rows["part"][0]], rows, levels, self.geometry))
            if sum(level.size for stream in waiting for level in stream.codes) >= READ_TOKENS:
                yield join_streams(waiting)
                waiting = []
        if waiting:
            yield join_streams(waiting)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Coarse frames of each of `utterances`, int64 (U,), for which the coarsest level of all is read once."""
        none = np.empty(0, np.int64)
        return np.concatenate([none, *(stream.lengths for stream in self.streams([0]))])

    def take(self, rows: np.ndarray) -> TokenStream:
        """The utterances `rows` (increasing indices) in memory, in the order of the selection.

        Memory: 2 bytes per token of these, and what is read at a time.
        """
        utterances = self.utterances[rows]
        by_order = np.argsort(utterances["order"].to_numpy())
        place = np.argsort(by_order)
        offsets = np.concatenate([[0], np.cumsum(self.lengths[rows][by_order])]).astype(np.int64)
        flat = tuple(np.empty((offsets[-1], width), np.uint16) for width in self.geometry.tokens_per_frame)
        at = 0
        for stream in replace(self, utterances=utterances).streams():
            ahead = offsets[place[at : at + len(stream.utterances)]] - stream.offsets[:-1]
            places = np.arange(stream.frames) + np.repeat(ahead, stream.lengths)
            for level, codes in zip(flat, stream.codes, strict=True):
                level[places] = codes.reshape(-1, level.shape[1])
            at += len(stream.utterances)
        kept = utterances[by_order].select("digest", "corpus", "split")
        return TokenStream(self.geometry, tuple(level.reshape(-1) for level in flat), offsets, kept)


def _where(utterances: pl.DataFrame, corpus: str | None, split: str | None) -> pl.DataFrame:
    wanted = {"corpus": corpus, "split": split}
    return utterances.filter(**{name: value for name, value in wanted.items() if value is not None})


def join_streams(streams: list[TokenStream]) -> TokenStream:
    """Streams of one geometry end to end, at least one."""
    if len(streams) == 1:
        return streams[0]
    starts = np.cumsum([0, *(stream.frames for stream in streams)])
    return TokenStream(
        streams[0].geometry,
        tuple(np.concatenate(level) for level in zip(*(stream.codes for stream in streams), strict=True)),
        np.concatenate([[0], *(stream.offsets[1:] + at for stream, at in zip(streams, starts, strict=False))]),
        pl.concat([stream.utterances for stream in streams]),
    )


def locate_tokens(parts_folder: Path, selection: pl.DataFrame, geometry: TokenGeometry) -> TokenParts:
    """Find the codes of `selection` (columns digest, corpus, split) in the parts of `parts_folder`; none is read yet.

    A digest that several parts hold is read from the lexically first. PipelineError: no parts, a digest without codes,
    a digest in two splits, parts of different encoders.
    """
    wanted = _wanted_utterances(selection)
    if not part_files(Path(parts_folder)):
        raise PipelineError(f"no codes in {parts_folder}: materialize `code_cache` first, or run `snac-pipeline cache`")
    located = sorted(locate_codes(Path(parts_folder), wanted["digest"].to_list()), key=lambda item: item[0])
    parts = [part for part, _ in located]
    _check_one_encoder(parts)
    none = np.empty(0, np.int64)
    places = {name: np.concatenate([none, *(rows[name] for _, rows in located)]) for name in ("order", "row")}
    places["part"] = np.repeat(np.arange(len(parts)), [len(rows) for _, rows in located])
    utterances = wanted[places["order"].astype(np.int64)].with_columns(
        **{name: pl.Series(at) for name, at in places.items()}
    )
    return TokenParts(geometry, parts, utterances.sort("part", "row"))


def read_tokens(parts_folder: Path, selection: pl.DataFrame, geometry: TokenGeometry) -> TokenStream:
    """The codes of `selection` in memory, in the order split, corpus, digest; see `locate_tokens`."""
    parts = locate_tokens(parts_folder, selection.sort("split", "corpus", "digest"), geometry)
    return parts.take(np.arange(len(parts.utterances)))


def folder_geometry(parts_folder: Path) -> TokenGeometry:
    """The geometry of the codec whose codes lie in the folder, which its parts name. PipelineError: no parts, parts of
    several encoders, parts that name none."""
    parts = part_files(Path(parts_folder))
    if not parts:
        raise PipelineError(f"{parts_folder} has no parts (part-*.parquet); give a folder below <home>/codes")
    config = _check_one_encoder(parts).get(b"codec")
    if config is None:
        raise PipelineError(
            f"{parts[0]} does not say which codec its codes are of; encode it with `snac-pipeline cache`"
        )
    try:
        return geometry_of(CodecSpec.from_dict(json.loads(config), str(parts[0])))
    except ValueError as error:
        raise PipelineError(f"{parts[0]} does not say which codec its codes are of: {error}") from error


def geometry_of(spec: CodecSpec) -> TokenGeometry:
    return TokenGeometry(spec.tokens_per_frame, spec.codebook_size, spec.frame_seconds)


def _check_one_encoder(parts: Sequence[Path]) -> dict[bytes, bytes]:
    """The metadata of the first. PipelineError: something else than parts, parts of several encoders."""
    schemas = [_part_schema(part) for part in parts]
    found: dict[bytes | None, Path] = {}
    for part, schema in zip(parts, schemas, strict=True):
        found.setdefault((schema.metadata or {}).get(b"fingerprint"), part)
    if len(found) > 1:
        (one, first), (other, second) = list(found.items())[:2]
        names = ["an unnamed one" if name is None else name.decode() for name in (one, other)]
        raise PipelineError(
            f"codes of different encoders in one folder: {first.name} is of {names[0]}, {second.name} of {names[1]}; "
            f"move those of the other encoder out of {first.parent}"
        )
    return (schemas[0].metadata or {}) if schemas else {}


def _part_schema(part: Path) -> pa.Schema:
    """Columns and metadata of a part. PipelineError: it is none."""
    schema, _ = read_footer(part, mend="delete it, or move it away")
    is_list = [pa.types.is_list(field.type) and pa.types.is_integer(field.type.value_type)
               for field in schema if field.name.startswith("codes_")]  # fmt: skip
    if "digest" not in schema.names or not pa.types.is_string(schema.field("digest").type) or not all(is_list):
        raise PipelineError(
            f"{part} is no part of a code cache: it must have a column digest of text, and codes_0, codes_1, ... of "
            f"lists of whole numbers, and has {', '.join(schema.names)}; move it away"
        )
    return schema


def _wanted_utterances(selection: pl.DataFrame) -> pl.DataFrame:
    """The selection once per digest."""
    wanted = selection.select("digest", "corpus", "split")
    if not wanted["digest"].is_duplicated().any():
        return wanted
    torn = wanted.group_by("digest").agg(pl.col("split").n_unique().alias("splits")).filter(pl.col("splits") > 1)
    if len(torn):
        raise PipelineError(
            f"{len(torn)} digests are in more than one split (such as {min(torn['digest'])}): "
            "materialize `splits` again"
        )
    return wanted.unique("digest", keep="first", maintain_order=True)


def _read_part(part: Path, rows: pl.DataFrame, levels: Sequence[int], geometry: TokenGeometry) -> TokenStream:
    """The utterances `rows` of a part."""
    columns = [f"codes_{level}" for level in levels]
    try:
        table = located_table(part, rows, columns).select(["digest", *columns])
    except (PipelineError, KeyError) as error:
        raise PipelineError(
            f"{part} cannot be read as a part with the columns {', '.join(columns)} ({error.__cause__ or error}): "
            "delete it and materialize `code_cache` again"
        ) from error
    kept = geometry.only(levels)
    frames, codes = _lengths(table[columns[0]]) // kept.tokens_per_frame[0], []
    for level, width in zip(levels, kept.tokens_per_frame, strict=True):
        column = table[f"codes_{level}"]
        lengths = _lengths(column)
        flat = np.concatenate([pc.list_flatten(chunk).to_numpy() for chunk in column.chunks])
        ragged = np.flatnonzero(lengths != frames * width)
        if ragged.size:
            place = int(ragged[0])
            what = f"{lengths[place]} tokens, not the {frames[place] * width} tokens its coarse frames need"
            raise _foreign_codes(part, rows, place, level, what)
        for worst in () if not flat.size else (flat.argmax(), flat.argmin()):
            if not 0 <= flat[worst] < geometry.codebook_size:
                place = int(np.searchsorted(np.cumsum(lengths), int(worst), side="right"))
                what = f"code {flat[worst]} is outside the codebook of {geometry.codebook_size}"
                raise _foreign_codes(part, rows, place, level, what)
        codes.append(flat.astype(np.uint16, copy=False))
    return TokenStream(kept, tuple(codes), np.concatenate([[0], np.cumsum(frames)]).astype(np.int64), rows)


def _lengths(column: pa.ChunkedArray) -> np.ndarray:
    lengths: np.ndarray = pc.list_value_length(column).to_numpy().astype(np.int64)
    return lengths


def _foreign_codes(part: Path, rows: pl.DataFrame, place: int, level: int, what: str) -> PipelineError:
    return PipelineError(
        f"level {level} of utterance {rows['digest'][place]} in {part}: {what}; "
        "these codes belong to another codec, delete the part and materialize `code_cache` again"
    )
