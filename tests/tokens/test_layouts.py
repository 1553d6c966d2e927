"""Layouts are lossless for any geometry, put ids where they say, and refuse what is not theirs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tokens import FOUR_LEVELS, SMALL, SPEECH

from snac_pipeline.errors import PipelineError
from snac_pipeline.tokens import LAYOUTS, ORPHEUS_OFFSET, TokenGeometry, make_layout

C0, C1, C2 = np.array([10]), np.array([20, 21]), np.array([30, 31, 32, 33])


@st.composite
def geometries_and_frames(draw):
    ratios = draw(st.lists(st.integers(1, 4), min_size=0, max_size=3))
    widths = tuple(int(width) for width in np.cumprod([1, *ratios]))
    geometry = TokenGeometry(widths, draw(st.sampled_from([1, 2, 1024, 4096, 65536])), 0.1)
    return geometry, draw(st.integers(0, 9)), draw(st.integers(0, 2**32 - 1))


@settings(max_examples=60, deadline=None)
@given(case=geometries_and_frames(), name=st.sampled_from(sorted(LAYOUTS)), offset=st.integers(0, 200_000))
def test_any_codes_come_back(case, name, offset):
    geometry, frames, seed = case
    rng = np.random.default_rng(seed)
    codes = [rng.integers(0, geometry.codebook_size, frames * width) for width in geometry.tokens_per_frame]
    layout = make_layout(name, geometry, offset)
    ids = layout.flatten(codes)
    assert ids.dtype == np.int32 and ids.size == frames * len(layout.slots)
    assert not ids.size or offset <= ids.min() <= ids.max() < offset + layout.alphabet_size
    back = layout.unflatten(ids)
    assert len(back) == layout.levels
    assert all((left == right).all() for left, right in zip(back, codes, strict=False))


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_code_value_in_every_slot_comes_back(name):
    layout = make_layout(name, SPEECH)
    codes = [np.repeat(np.arange(4096), width) for width in SPEECH.tokens_per_frame]
    ids = layout.flatten(codes)
    assert np.unique(ids).size == layout.alphabet_size, "each id stands for one code of one block"
    assert all((left == right).all() for left, right in zip(layout.unflatten(ids), codes, strict=False))


def test_frame_is_the_order_and_the_numbers_of_orpheus():
    layout = make_layout("frame", SPEECH)
    order = [10, 20, 30, 31, 21, 32, 33]
    assert layout.flatten([C0, C1, C2]).tolist() == [128266 + 4096 * slot + code for slot, code in enumerate(order)]
    assert layout.alphabet_size == 28_672


def test_the_other_layouts_stand_as_documented():
    flat = {name: make_layout(name, SPEECH, 0).flatten([C0, C1, C2]) for name in LAYOUTS}
    assert (flat["level_offsets"] % 4096).tolist() == [10, 20, 21, 30, 31, 32, 33]
    assert (flat["level_offsets"] // 4096).tolist() == [0, 1, 1, 2, 2, 2, 2]
    assert flat["coarse_only"].tolist() == [10]
    assert (flat["parallel"].reshape(-1, 3) % 4096).T.tolist() == [[10] * 4, [20, 20, 21, 21], [30, 31, 32, 33]]


def test_four_levels_are_depth_first_too():
    layout = make_layout("frame", FOUR_LEVELS)
    assert len(layout.slots) == 15
    assert [slot.level for slot in layout.slots] == [0, 1, 2, 3, 3, 2, 3, 3, 1, 2, 3, 3, 2, 3, 3]


@pytest.mark.parametrize("name", ["frame", "level_offsets", "parallel"])
def test_ragged_tails_and_foreign_ids_are_refused(name):
    layout = make_layout(name, SPEECH)
    ids = layout.flatten([C0, C1, C2])
    with pytest.raises(PipelineError, match=f"{ids.size - 1} ids are not whole coarse frames.*cut the sequence to 0"):
        layout.unflatten(ids[:-1])
    for foreign in (-1, 0, ORPHEUS_OFFSET - 1, ORPHEUS_OFFSET + layout.alphabet_size):
        wrong = ids.copy()
        wrong[1] = foreign
        with pytest.raises(PipelineError, match=f"id {foreign} at position 1 is foreign"):
            layout.unflatten(wrong)
    with pytest.raises(PipelineError, match="position 0 is foreign"):
        layout.unflatten(np.roll(ids, 1))


def test_held_codes_that_change_are_refused():
    layout = make_layout("parallel", SPEECH)
    ids = layout.flatten([C0, C1, C2])
    ids[3] += 1
    with pytest.raises(PipelineError, match="repeats each token of level 0"):
        layout.unflatten(ids)


def test_wrong_codes_and_names_are_refused():
    layout = make_layout("frame", SMALL)
    with pytest.raises(PipelineError, match=r"\[1, 2, 3\] tokens are not whole coarse frames"):
        layout.flatten([np.zeros(1), np.zeros(2), np.zeros(3)])
    with pytest.raises(PipelineError, match="level 2 holds codes outside the codebook of 16"):
        layout.flatten([np.zeros(1), np.zeros(2), np.array([0, 0, 0, 16])])
    with pytest.raises(PipelineError, match="choose one of frame, level_offsets, coarse_only, parallel"):
        make_layout("orpheus", SMALL)
    with pytest.raises(PipelineError, match="nest"):
        make_layout("frame", TokenGeometry((2, 3), 16, 0.1))
    with pytest.raises(PipelineError, match="int32"):
        make_layout("frame", SPEECH, 2**31 - 28_671)
    assert (
        make_layout("frame", SPEECH, 2**31 - 28_672).flatten([C0 * 0 + 4095] + [w * 0 + 4095 for w in (C1, C2)])[-1] > 0
    )
