"""Parts on disk: whole, named by what they hold, checked when read."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from geometries import PUBLISHED, random_codes, thin

from snac_pipeline.codec import SNAC
from snac_pipeline.codes.parts import cached_digests, part_files, read_codes, write_part
from snac_pipeline.codes.verify import check_codes, compare_sample
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


def test_the_columns_are_those_of_the_interface(cached):
    home, _, result = cached
    for file in part_files(home / "codes" / result["fingerprint"]):
        schema = pq.read_schema(file)
        assert schema.names == ["digest", "num_samples", "sample_rate", "codes_0", "codes_1", "codes_2"]
        assert all(schema.field(f"codes_{k}").type == pa.list_(pa.uint16()) for k in range(3))
        assert schema.metadata[b"fingerprint"].decode() == result["fingerprint"]
        assert {b"torch", b"device"} <= set(schema.metadata)
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
    assert cached_digests(tmp_path)["a"].name == first
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


def rewritten(parts, digest, change) -> None:
    """The part that holds `digest`, with `change` made to the row's codes: whole and readable, but wrong."""
    file = cached_digests(parts)[digest]
    rows = pq.read_table(file).to_pylist()
    change(next(row for row in rows if row["digest"] == digest))
    pq.write_table(pa.Table.from_pylist(rows, schema=pq.read_schema(file)), file, write_page_checksum=True)


def test_verifying_finds_one_changed_token(own, cached, codec):
    _, _, parts = own
    digests = cached[1]["digest"].to_list()
    model = SNAC.from_pretrained(codec)
    assert compare_sample(model, parts, cached[1], digests, 99)["exact"]

    def change(row):
        row["codes_2"][1] = (row["codes_2"][1] + 1) % SPEC.codebook_size

    rewritten(parts, digests[3], change)
    found = compare_sample(model, parts, cached[1], digests, 99)
    assert (found["mismatched"], found["exact"]) == (1, False)


def test_verifying_finds_codes_of_another_length(own, cached, codec):
    digest = cached[1]["digest"][5]
    rewritten(own[2], digest, lambda row: row["codes_1"].pop())
    assert not compare_sample(SNAC.from_pretrained(codec), own[2], cached[1], [digest], 1)["exact"]


def test_the_check_finds_ranges_and_lengths_and_nothing_else(own, cached, codec):
    _, utterances, _ = cached
    model = SNAC.from_pretrained(codec)
    assert check_codes(own[2], utterances, model) == []
    high, short = utterances["digest"][0], utterances["digest"][-1]
    rewritten(own[2], high, lambda row: row["codes_1"].__setitem__(0, SPEC.codebook_size))
    rewritten(own[2], short, lambda row: row["codes_0"].append(0))
    assert check_codes(own[2], utterances, model) == [
        f"{short}: level 0 has not the tokens of its duration",
        f"{high}: level 1 has a code above {SPEC.codebook_size - 1}",
    ]


def test_a_home_with_an_odd_name_works(cached, tmp_path):
    home = tmp_path / "año=1 %20 'x'"
    shutil.copytree(cached[0] / "codes", home)
    [parts] = home.iterdir()
    digests = cached[1]["digest"].to_list()
    assert set(cached_digests(parts)) == set(digests)
    assert read_codes(parts, digests).columns == [
        "digest",
        "num_samples",
        "sample_rate",
        "codes_0",
        "codes_1",
        "codes_2",
    ]
