"""Parts that cannot be what they should be are told, and poor ones give stated figures; see also the report's tests."""

import json

import numpy as np
import polars as pl
import pytest
from made_tokens import SMALL, mark, select, write_part

from snac_pipeline.codec import CodecSpec
from snac_pipeline.errors import PipelineError
from snac_pipeline.tokens import folder_geometry, locate_tokens, token_statistics

A, B = "a" * 32, "b" * 32
CODES = [[1, 2], [3] * 4, [4] * 8]


def figures(folder, *digests):
    return token_statistics(locate_tokens(folder, select(*((digest, "x", "train") for digest in digests)), SMALL))


def test_an_empty_cache(tmp_path):
    with pytest.raises(PipelineError, match=r"no codes in .*materialize `code_cache` first"):
        figures(tmp_path, A)
    write_part(tmp_path, "0", {A: CODES})
    with pytest.raises(PipelineError, match="no tokens to count"):
        figures(tmp_path)
    write_part(tmp_path, "1", {B: [[], [], []]})
    with pytest.raises(PipelineError, match="no tokens to count"):
        figures(tmp_path, B)


def test_one_coarse_frame(tmp_path):
    write_part(tmp_path, "0", {A: [[5], [6, 6], [7, 7, 7, 8]], B: [[], [], []]})
    found = figures(tmp_path, A, B)
    assert found.value("tokens", None) == 7 and found.value("entropy", 0) == 0 and found.value("bigrams", 0) == 0
    assert found.value("longest_run", 2) == 3
    assert found.table["value"].is_finite().all()


def test_all_codes_equal(tmp_path):
    write_part(tmp_path, "0", {A: [[9] * 50, [9] * 100, [9] * 200]})
    found = figures(tmp_path, A)
    for level in range(3):
        assert found.value("entropy", level) == found.value("conditional_entropy", level) == 0
        assert found.value("gini", level) == pytest.approx(15 / 16) and found.value("dead_codes", level) == 15
        assert found.value("immediate_repeat_rate", level) == 1
        excess = found.row("mutual_information_excess", level)
        assert excess["low"] == excess["value"] == excess["high"] == 0
    assert found.table["value"].is_finite().all()


def test_codes_outside_the_codebook(tmp_path):
    part = write_part(tmp_path, "0", {A: CODES, B: [[1], [2, 16], [3] * 4]})
    with pytest.raises(
        PipelineError, match=f"level 1 of utterance {B} in {part}: code 16 is outside the codebook of 16"
    ):
        figures(tmp_path, A, B)
    assert figures(tmp_path, A).value("tokens", 0) == 2, "the others can be used"


def test_parts_of_two_encoders(tmp_path):
    one, other = (write_part(tmp_path, name, {digest: CODES}) for name, digest in (("0", A), ("1", B)))
    mark(one, fingerprint="1234")
    mark(other, fingerprint="5678")
    with pytest.raises(PipelineError, match=r"different encoders.*part-0.parquet is of 1234, part-1.parquet of 5678"):
        figures(tmp_path, A, B)
    with pytest.raises(PipelineError, match="different encoders"):
        folder_geometry(tmp_path)


def test_a_folder_of_parts_tells_its_geometry_or_that_it_cannot(tmp_path):
    with pytest.raises(PipelineError, match="has no parts"):
        folder_geometry(tmp_path)
    part = write_part(tmp_path, "0", {A: CODES})
    with pytest.raises(PipelineError, match="does not say which codec"):
        folder_geometry(tmp_path)
    spec = CodecSpec(vq_strides=(4, 2, 1), codebook_size=512)
    mark(part, codec=json.dumps(spec.to_dict()))
    found = folder_geometry(tmp_path)
    assert (found.tokens_per_frame, found.codebook_size, found.frame_seconds) == ((1, 2, 4), 512, spec.frame_seconds)


def test_a_part_that_is_written_again_in_another_order_meanwhile(tmp_path):
    write_part(tmp_path, "0", {A: CODES, B: CODES})
    parts = locate_tokens(tmp_path, select((A, "x", "train"), (B, "x", "train")), SMALL)
    write_part(tmp_path, "0", {B: CODES, A: CODES})
    with pytest.raises(PipelineError, match="written again while it was read"):
        token_statistics(parts)


def test_streams_are_whole_utterances_of_one_group(tmp_path):
    write_part(tmp_path, "0", {A: CODES, B: [[1], [2, 3], [3] * 4]})
    parts = locate_tokens(tmp_path, select((B, "y", "val"), (A, "x", "train")), SMALL)
    [stream] = parts.streams([1, 2], corpus="y")
    assert stream.geometry.tokens_per_frame == (2, 4) and stream.codes[0].tolist() == [2, 3]
    assert stream.utterances["digest"].to_list() == [B] and list(parts.streams(split="test")) == []
    assert isinstance(stream.utterances, pl.DataFrame) and stream.codes[0].dtype == np.uint16
