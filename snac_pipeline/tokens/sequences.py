"""Flat sequences of ids on disk, one parquet file for each split, as language models are trained on them.

In: `TokenParts` (or a `TokenStream`) and a layout. Out: train.parquet, val.parquet, ... with a column input_ids:
`datasets.load_dataset("parquet", data_dir=...)`, TRL and any parquet reader take them as they are.
"""

import contextlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from snac_pipeline.errors import PipelineError
from snac_pipeline.files import atomic_file
from snac_pipeline.settings import Deduplicate
from snac_pipeline.tokens.layouts import Layout
from snac_pipeline.tokens.stream import TokenParts, TokenStream

LAYOUT_KEY = "snac_pipeline.layout"
"""Metadata of the files: `Layout.describe()` as JSON, what one needs to turn ids into codes again."""

ROWS_PER_GROUP = 2000


@dataclass
class Written:
    """What was written: ids and sequences of each split; coarse frames that there were, and that were removed."""

    ids: dict[str, int] = field(default_factory=dict)
    sequences: dict[str, int] = field(default_factory=dict)
    frames: int = 0
    removed_frames: int = 0

    @property
    def removed_share(self) -> float:
        return self.removed_frames / self.frames if self.frames else 0.0


def write_sequences(
    folder: Path,
    source: TokenParts | TokenStream,
    layout: Layout,
    *,
    deduplicate: Deduplicate = "none",
    segment_frames: int | None = None,
) -> Written:
    """Write <split>.parquet for each split: digest, corpus, start_frame int32, input_ids list<int32>.

    A row is an utterance, or, with `segment_frames`, each stretch of so many coarse frames of it (the last is shorter);
    start_frame is where it begins in what was kept. Utterances without codes have no row. deduplicate: see
    `repeated_frames`; what is removed cannot be brought back, so the metadata say that it was. Rows come as the parts
    lie. Memory: what is read at a time. PipelineError: no utterance has codes.
    """
    if segment_frames is not None and segment_frames < 1:
        raise PipelineError(f"a segment has one coarse frame at least, not {segment_frames}")
    described = {**layout.describe(), "deduplicate": deduplicate}
    schema = pa.schema(
        [
            ("digest", pa.string()),
            ("corpus", pa.string()),
            ("start_frame", pa.int32()),
            ("input_ids", pa.list_(pa.int32())),
        ],
        metadata={LAYOUT_KEY: json.dumps(described)},
    )
    written = Written()
    splits = source.utterances["split"].unique().sort().to_list()
    if not splits:
        raise _nothing_to_write()
    for split in splits:
        with contextlib.ExitStack() as stack:
            temporary = stack.enter_context(atomic_file(Path(folder) / f"{split}.parquet"))
            options = {"compression": "zstd", "write_page_checksum": True}
            writer = stack.enter_context(pq.ParquetWriter(temporary, schema, **options))
            ids = sequences = 0
            for stream in source.streams(split=split):
                kept = _without(stream, deduplicate)
                written.frames += stream.frames
                written.removed_frames += stream.frames - kept.frames
                table = _rows(kept, layout, segment_frames).cast(schema)
                writer.write_table(table, row_group_size=ROWS_PER_GROUP)
                sequences += table.num_rows
                ids += kept.frames * len(layout.slots)
            written.ids[split], written.sequences[split] = ids, sequences
    if written.frames == 0:
        raise _nothing_to_write()
    return written


def _nothing_to_write() -> PipelineError:
    return PipelineError("there are no sequences to write: no utterance has codes; run `snac-pipeline cache` first")


def repeated_frames(stream: TokenStream, deduplicate: Deduplicate) -> np.ndarray:
    """Which coarse frames repeat the one before in the same utterance, bool (frames,).

    none: none. identical: those of which all tokens do, of every level. coarse: those whose coarsest tokens do, as
    Orpheus-TTS prepares its data; their finer tokens, which may differ, are lost too.
    """
    repeated = np.zeros(stream.frames, bool)
    if deduplicate == "none" or stream.frames < 2:
        return repeated
    levels = stream.codes if deduplicate == "identical" else stream.codes[:1]
    repeated[1:] = True
    for codes, width in zip(levels, stream.geometry.tokens_per_frame, strict=False):
        by_frame = codes.reshape(-1, width)
        repeated[1:] &= (by_frame[1:] == by_frame[:-1]).all(1)
    starts = stream.offsets[:-1]
    repeated[starts[starts < stream.frames]] = False
    return repeated


def _without(stream: TokenStream, deduplicate: Deduplicate) -> TokenStream:
    removed = repeated_frames(stream, deduplicate)
    if not removed.any():
        return stream
    codes = tuple(
        level.reshape(-1, width)[~removed].reshape(-1)
        for level, width in zip(stream.codes, stream.geometry.tokens_per_frame, strict=True)
    )
    before = np.concatenate([[0], np.cumsum(~removed)])
    return TokenStream(stream.geometry, codes, before[stream.offsets], stream.utterances)


def _rows(stream: TokenStream, layout: Layout, segment_frames: int | None) -> pa.Table:
    frames = np.diff(stream.offsets)
    length = segment_frames or max(1, int(frames.max(initial=0)))
    rows = -(-frames // length)  # none for an utterance without codes
    utterance = np.repeat(np.arange(frames.size), rows)
    start = (np.arange(utterance.size) - np.repeat(np.cumsum(rows) - rows, rows)) * length
    borders = np.append(stream.offsets[utterance] + start, stream.frames) * len(layout.slots)
    names = stream.utterances.select("digest", "corpus")[utterance].to_arrow(compat_level=pl.CompatLevel.oldest())
    lists = pa.ListArray.from_arrays(borders.astype(np.int32), layout.flatten(stream.codes))
    return names.append_column("start_frame", pa.array(start.astype(np.int32))).append_column("input_ids", lists)
