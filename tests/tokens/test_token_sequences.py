"""Sequences on disk hold all that is needed to get the codes back, and say what was left out."""

import json

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_tokens import SMALL, random_stream, select, stream_of, write_part

from snac_pipeline.errors import PipelineError
from snac_pipeline.tokens import LAYOUTS, ORPHEUS_OFFSET, TokenStream, locate_tokens, make_layout, write_sequences

FRAME = make_layout("frame", SMALL)


def ids_of(table: pa.Table) -> np.ndarray:
    return table["input_ids"].combine_chunks().flatten().to_numpy()


def test_sequences_are_parquet_with_all_that_is_needed_to_invert_them(tmp_path):
    stream = random_stream(SMALL, 30, 5)
    written = write_sequences(tmp_path, stream, FRAME)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["train.parquet", "val.parquet"]
    for split in ("train", "val"):
        part, table = stream.split(split), pq.read_table(tmp_path / f"{split}.parquet")
        assert table.column_names == ["digest", "corpus", "start_frame", "input_ids"]
        assert table.schema.field("input_ids").type == pa.list_(pa.int32())
        lengths = [len(row) for row in table["input_ids"].to_pylist()]
        assert lengths == [7 * frames for frames in np.diff(part.offsets) if frames], "no row for no codes"
        assert (written.ids[split], written.sequences[split]) == (sum(lengths), len(lengths))
        back = FRAME.unflatten(ids_of(table))
        assert all((left == right).all() for left, right in zip(back, part.codes, strict=True))
    described = json.loads(table.schema.metadata[b"snac_pipeline.layout"])
    assert described["layout"] == "frame" and described["offset"] == ORPHEUS_OFFSET and len(described["slots"]) == 7
    assert described["deduplicate"] == "none" and written.removed_frames == 0


@pytest.mark.parametrize("name", LAYOUTS)
def test_segments_put_together_are_the_utterances(tmp_path, name):
    stream, layout = random_stream(SMALL, 20, 9), make_layout(name, SMALL)
    write_sequences(tmp_path / "whole", stream, layout)
    written = write_sequences(tmp_path / "cut", stream, layout, segment_frames=4)
    whole, cut = (pl.read_parquet(tmp_path / kind / "train.parquet") for kind in ("whole", "cut"))
    assert cut["input_ids"].list.len().max() == 4 * len(layout.slots) and len(cut) == written.sequences["train"]
    together = cut.group_by("digest", maintain_order=True).agg(pl.col("input_ids").explode(), pl.col("start_frame"))
    assert together["digest"].equals(whole["digest"]) and together["input_ids"].equals(whole["input_ids"])
    assert all(starts.to_list() == list(range(0, 4 * len(starts), 4)) for starts in together["start_frame"])


def test_sequences_of_parts_are_those_of_memory(tmp_path):
    codes = {"a" * 32: [[1], [2, 3], [4, 5, 6, 7]], "b" * 32: [[8, 9], [1] * 4, [2] * 8]}
    for digest, levels in codes.items():
        write_part(tmp_path / "parts", digest[0], {digest: levels})
    rows = select(("b" * 32, "x", "train"), ("a" * 32, "x", "train"))
    write_sequences(tmp_path, locate_tokens(tmp_path / "parts", rows, SMALL), FRAME)
    table = pq.read_table(tmp_path / "train.parquet")
    assert table["digest"].to_pylist() == ["a" * 32, "b" * 32]
    expected = [FRAME.flatten([np.array(level) for level in levels]).tolist() for levels in codes.values()]
    assert table["input_ids"].to_pylist() == expected


@pytest.mark.parametrize(("deduplicate", "kept"), [("none", [0, 1, 2, 3, 4, 5]), ("identical", [0, 2, 3, 4, 5]),
                                                   ("coarse", [0, 3, 4, 5])])  # fmt: skip
def test_repeated_frames_are_removed_only_when_asked_for_and_told(tmp_path, deduplicate, kept):
    """Frames 0 and 1 are identical, 2 has their coarse token alone, 3 begins another utterance, 5 differs."""
    codes = [np.array([7, 7, 7, 7, 3, 7]), np.array([1] * 12), np.array([2] * 8 + [5] * 4 + [2] * 12)]
    stream = stream_of(SMALL, codes, [3, 3], ["train"] * 2)
    written = write_sequences(tmp_path, stream, FRAME, deduplicate=deduplicate)
    back = FRAME.unflatten(ids_of(table := pq.read_table(tmp_path / "train.parquet")))
    for level, width, found in zip(codes, (1, 2, 4), back, strict=True):
        assert found.tolist() == level.reshape(-1, width)[kept].reshape(-1).tolist()
    assert (written.frames, written.removed_frames) == (6, 6 - len(kept))
    assert written.removed_share == pytest.approx(1 - len(kept) / 6)
    assert json.loads(table.schema.metadata[b"snac_pipeline.layout"])["deduplicate"] == deduplicate


def test_nothing_to_write_and_no_length_are_refused(tmp_path):
    stream = random_stream(SMALL, 8, 3)
    nothing = TokenStream(
        SMALL, tuple(level[:0] for level in stream.codes), np.zeros(1, int), stream.utterances.clear()
    )
    with pytest.raises(PipelineError, match="no sequences to write"):
        write_sequences(tmp_path, nothing, FRAME)
    with pytest.raises(PipelineError, match="one coarse frame at least"):
        write_sequences(tmp_path, stream, FRAME, segment_frames=0)


def test_datasets_takes_the_folder_as_it_is(tmp_path):
    import datasets

    stream = random_stream(SMALL, 30, 5)
    written = write_sequences(tmp_path / "data", stream, FRAME)
    loaded = datasets.load_dataset("parquet", data_dir=str(tmp_path / "data"), cache_dir=str(tmp_path / "cache"))
    assert set(loaded) == {"train", "validation"}, "val is what it calls validation"
    for name, split in (("train", "train"), ("validation", "val")):
        assert loaded[name].num_rows == written.sequences[split]
        assert loaded[name].features["input_ids"] == datasets.List(datasets.Value("int32"))
        flat = [i for row in loaded[name]["input_ids"] for i in row]
        assert flat == FRAME.flatten(stream.split(split).codes).tolist()
