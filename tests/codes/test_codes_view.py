"""The training view gives any slice of the parts' codes."""

import made_codes as made
import numpy as np
import pytest

from snac_pipeline.codec import SNAC
from snac_pipeline.codes.view import CodesView, build_view
from snac_pipeline.errors import PipelineError


@pytest.fixture
def view(cached, codec, tmp_path):
    home, utterances, result = cached
    parts, digests = home / "codes" / result["fingerprint"], utterances["digest"].to_list()[::-1]
    spec = SNAC.from_pretrained(codec).spec
    return build_view(tmp_path, parts, digests, spec), parts, digests, spec


def test_every_slice_is_that_of_the_parts(view):
    folder, parts, digests, spec = view
    rows, opened = made.all_rows(parts), CodesView(folder)
    assert opened.rows(digests).tolist() == list(range(len(digests)))
    for row, digest in enumerate(digests):
        frames = spec.frames_of([len(level) for level in rows[digest]])
        assert opened.frames[row] == frames
        for first, count in {(0, frames), (0, 1), (frames - 1, 1), (frames // 2, frames - frames // 2)}:
            for k, level in enumerate(opened.codes(row, first, count)):
                n = spec.tokens_per_frame[k]
                np.testing.assert_array_equal(level, rows[digest][k][first * n : (first + count) * n])


def test_past_the_end_the_last_frame_repeats(view):
    folder, parts, digests, spec = view
    rows, opened = made.all_rows(parts), CodesView(folder)
    for row in (0, len(digests) - 1):
        frames = int(opened.frames[row])
        for k, level in enumerate(opened.codes(row, frames - 1, 4)):
            last = rows[digests[row]][k][-spec.tokens_per_frame[k] :]
            np.testing.assert_array_equal(level, np.tile(last, 4))


def test_the_same_view_is_not_built_again_and_another_order_is_another_view(view, tmp_path):
    folder, parts, digests, spec = view
    before = (folder / "offsets.npy").stat().st_ino
    assert build_view(tmp_path, parts, digests, spec) == folder
    assert (folder / "offsets.npy").stat().st_ino == before
    assert build_view(tmp_path, parts, digests[::-1], spec) != folder


def test_a_digest_that_is_not_in_the_view_is_an_error(view):
    with pytest.raises(PipelineError, match="no codes of 1 utterances, the first abc"):
        CodesView(view[0]).rows(["abc"])


def test_missing_codes_leave_no_view(view, tmp_path):
    _, parts, digests, spec = view
    with pytest.raises(PipelineError, match="have no codes"):
        build_view(tmp_path / "other", parts, [*digests, "0" * 32], spec)
    assert not (tmp_path / "other").exists()
