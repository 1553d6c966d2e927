"""Parts on disk: whole, named by what they hold, checked when read."""

import json
import shutil

import made_codes as made
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from geometries import PUBLISHED, random_codes, thin

from snac_pipeline.codec import CodecSpec
from snac_pipeline.codes.parts import (
    QUARANTINE,
    cached_digests,
    encode_quarantine,
    missing_rows,
    part_files,
    part_metadata,
    read_codes,
    write_part,
)
from snac_pipeline.errors import PipelineError
from snac_pipeline.files import value_digest

SPEC = thin(PUBLISHED["24khz"])


def part(folder, digests, seed=0, frames=3, above=0):
    """A part of random codes; `above` is added to the last code of the last row."""
    codes = [[level[0].numpy() for level in random_codes(SPEC, frames, seed=seed + i)] for i in range(len(digests))]
    codes[-1][-1][-1] += above
    lengths = [SPEC.samples(frames)] * len(digests)
    folder.mkdir(exist_ok=True)
    return write_part(folder, digests, lengths, codes, SPEC, {"torch": "test"}), codes


def test_the_columns_are_those_of_the_interface_and_the_metadata_says_what_encoded_them(cached, codec):
    home, _, result = cached
    for file in part_files(home / "codes" / result["fingerprint"]):
        schema = pq.read_schema(file)
        assert schema.names == ["digest", "num_samples", "sample_rate", "codes_0", "codes_1", "codes_2"]
        assert all(schema.field(f"codes_{k}").type == pa.list_(pa.uint16()) for k in range(3))
        facts = part_metadata(file)
        assert facts["fingerprint"] == result["fingerprint"]
        assert CodecSpec.from_dict(json.loads(facts["codec"])) == CodecSpec.from_file(codec / "config.json")
        assert (facts["torch"], facts["device"]) == (torch.__version__, "cpu")
        assert pq.read_metadata(file).num_row_groups == 1


def test_a_part_is_named_by_its_members_in_any_order(tmp_path):
    file, _ = part(tmp_path, ["b", "a"])
    assert file.name == f"part-{value_digest(['a', 'b'])}.parquet"


def test_what_is_read_is_what_was_written(tmp_path):
    _, codes = part(tmp_path, ["b", "a", "c"])
    rows = read_codes(tmp_path, ["c", "b"])
    assert rows["digest"].to_list() == ["c", "b"]
    for k in range(3):
        assert rows[f"codes_{k}"].to_list() == [codes[2][k].tolist(), codes[0][k].tolist()]


def test_a_digest_in_two_parts_is_read_from_the_lexically_first(tmp_path):
    written = {file.name: codes for file, codes in (part(tmp_path, ["a", "b"]), part(tmp_path, ["a", "c"], seed=9))}
    first = min(written)
    assert made.places(tmp_path)["a"].name == first
    rows = read_codes(tmp_path, ["c", "a", "b"])
    assert rows["digest"].to_list() == ["c", "a", "b"]
    assert rows["codes_2"][1].to_list() == written[first][0][2].tolist()


def test_missing_codes_say_how_many_and_what_to_run(tmp_path):
    part(tmp_path, ["a"])
    with pytest.raises(PipelineError, match=r"2 of 3 utterances have no codes in .*, the first x; run .*cache"):
        read_codes(tmp_path, ["x", "a", "y"])


@pytest.mark.parametrize("column", ["digest", "num_samples", "codes_0.list.element", "codes_2.list.element"])
def test_a_flipped_bit_is_found_and_named(tmp_path, column):
    file, _ = part(tmp_path, [f"{i:032x}" for i in range(20)], frames=20)
    data = bytearray(file.read_bytes())
    group = pq.read_metadata(file).row_group(0)
    [chunk] = [group.column(i) for i in range(group.num_columns) if group.column(i).path_in_schema == column]
    data[chunk.data_page_offset + chunk.total_compressed_size - 1] ^= 1
    file.write_bytes(data)
    with pytest.raises(PipelineError, match=rf"{file.name} is damaged.*delete it"):
        read_codes(tmp_path, [f"{i:032x}" for i in range(20)])


@pytest.mark.parametrize("size", [0, 100, -20])
def test_a_part_cut_short_is_named(tmp_path, size):
    file, _ = part(tmp_path, ["a", "b"])
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(PipelineError, match=rf"{file.name} is damaged"):
        cached_digests(tmp_path)


def test_a_part_that_cannot_be_finished_leaves_nothing(tmp_path):
    uneven = [[np.zeros(1), np.zeros(2), np.zeros(4)], [np.zeros(1), np.zeros(2)]]
    with pytest.raises(IndexError):
        write_part(tmp_path, ["a", "b"], [1, 1], uneven, SPEC, {})
    with pytest.raises(pa.ArrowInvalid):
        write_part(tmp_path, ["a"], [1, 2], uneven[:1], SPEC, {})
    assert list(tmp_path.iterdir()) == []


def test_only_parts_that_hold_what_is_asked_for_are_read(tmp_path):
    wanted, _ = part(tmp_path, ["a", "b"])
    other, _ = part(tmp_path, ["c", "d"])
    data = bytearray(other.read_bytes())
    group = pq.read_metadata(other).row_group(0)
    data[group.column(3).data_page_offset + group.column(3).total_compressed_size - 1] ^= 1
    other.write_bytes(data)
    assert read_codes(tmp_path, ["b", "a"])["digest"].to_list() == ["b", "a"]
    with pytest.raises(PipelineError, match=f"{other.name} is damaged"):
        read_codes(tmp_path, ["a", "c"])
    assert wanted != other


def test_what_is_missing_keeps_its_order_and_columns(tmp_path):
    part(tmp_path, ["a", "b"])
    utterances = pl.DataFrame({"digest": ["d", "b", "c", "a"], "file": ["4", "2", "3", "1"]})
    assert missing_rows(tmp_path, utterances).rows() == [("d", "4"), ("c", "3")]
    assert missing_rows(tmp_path / "nothing here", utterances).equals(utterances)


def test_without_a_quarantine_there_is_an_empty_one(tmp_path):
    assert encode_quarantine(tmp_path).schema == pl.Schema(QUARANTINE) and encode_quarantine(tmp_path).is_empty()


def test_a_home_with_an_odd_name_works(cached, tmp_path):
    home = tmp_path / "año=1 %20 'x'"
    shutil.copytree(cached[0] / "codes", home)
    [parts] = home.iterdir()
    digests = cached[1]["digest"].to_list()
    assert set(made.places(parts)) == set(digests)
    assert read_codes(parts, digests).columns == [
        "digest",
        "num_samples",
        "sample_rate",
        "codes_0",
        "codes_1",
        "codes_2",
    ]
