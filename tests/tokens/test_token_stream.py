"""Reading codes from parts: what is read depends on the selection, and wrong parts are named."""

import numpy as np
import pytest
from made_tokens import SMALL, select, write_part

from snac_pipeline.errors import PipelineError
from snac_pipeline.tokens import read_tokens

A, B, C = "a" * 32, "b" * 32, "c" * 32
CODES = {A: [[1], [2, 3], [4, 5, 6, 7]], B: [[8, 9], [1] * 4, [2] * 8], C: [[], [], []]}
BOTH = [(A, "x", "val"), (B, "x", "train"), (C, "x", "train")]


def test_a_stream_is_ordered_by_split_corpus_digest_however_the_parts_lie(tmp_path):
    write_part(tmp_path / "one", "0", CODES)
    for name, digest in (("0", C), ("1", B), ("2", A)):
        write_part(tmp_path / "three", name, {digest: CODES[digest]})
    one, three = (read_tokens(tmp_path / folder, select(*BOTH), SMALL) for folder in ("one", "three"))
    assert one.utterances["digest"].to_list() == three.utterances["digest"].to_list() == [B, C, A]
    assert one.offsets.tolist() == three.offsets.tolist() == [0, 2, 2, 3]
    assert one.codes[0].tolist() == [8, 9, 1] and one.codes[1].tolist() == [1, 1, 1, 1, 2, 3]
    assert all(
        (left == right).all() and left.dtype == np.uint16 for left, right in zip(one.codes, three.codes, strict=True)
    )
    assert one.split("val").codes[2].tolist() == [4, 5, 6, 7] and one.split("val").seconds == pytest.approx(0.1)
    assert one.take(np.array([0, 2])).codes[1].tolist() == [1, 1, 1, 1, 2, 3]
    assert np.shares_memory(one.split("train").codes[0], one.codes[0]), "a split is a view"


def test_a_digest_in_two_parts_is_read_from_the_lexically_first(tmp_path):
    write_part(tmp_path, "b", {A: [[9], [9, 9], [9] * 4]})
    write_part(tmp_path, "a", {A: CODES[A]})
    assert read_tokens(tmp_path, select((A, "x", "val")), SMALL).codes[0].tolist() == [1]


def test_a_digest_in_two_corpora_is_counted_once_and_in_two_splits_refused(tmp_path):
    write_part(tmp_path, "0", CODES)
    assert read_tokens(tmp_path, select((A, "x", "val"), (A, "y", "val")), SMALL).frames == 1
    with pytest.raises(PipelineError, match="more than one split"):
        read_tokens(tmp_path, select((A, "x", "val"), (A, "y", "train")), SMALL)


def test_an_empty_selection_is_an_empty_stream(tmp_path):
    write_part(tmp_path, "0", CODES)
    empty = read_tokens(tmp_path, select((A, "x", "val")).clear(), SMALL)
    assert empty.frames == 0 and empty.split("val").frames == 0


@pytest.mark.parametrize(
    ("codes", "complaint"),
    [
        pytest.param([[1], [2], [4, 5, 6, 7]], "level 1 .* not the 2 tokens its coarse frames need", id="ragged"),
        pytest.param([[1], [2, 16], [4, 5, 6, 7]], "code 16 is outside the codebook of 16", id="outside codebook"),
        pytest.param([[1], [2, 3]], "columns codes_0, codes_1, codes_2", id="level missing"),
    ],
)
def test_codes_of_another_codec_are_named(tmp_path, codes, complaint):
    write_part(tmp_path, "0", {A: codes})
    with pytest.raises(PipelineError, match=complaint):
        read_tokens(tmp_path, select((A, "x", "val")), SMALL)


def test_missing_codes_and_broken_parts_are_named(tmp_path):
    with pytest.raises(PipelineError, match="no codes in"):
        read_tokens(tmp_path, select(*BOTH), SMALL)
    part = write_part(tmp_path, "0", {A: CODES[A]})
    with pytest.raises(PipelineError, match=f"2 of 3 utterances have no codes .*{B}"):
        read_tokens(tmp_path, select(*BOTH), SMALL)
    part.write_bytes(part.read_bytes()[:-7])
    with pytest.raises(PipelineError, match=str(part)):
        read_tokens(tmp_path, select((A, "x", "val")), SMALL)
