"""An epoch's plan, for any lengths, segments, context and alignment."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from snac_pipeline.training.slices import batches_per_epoch, plan_epoch, whole


@st.composite
def plans(draw):
    """Arguments of plan_epoch; lengths, segment and context are whole units, as the codec's spec gives them."""
    unit = draw(st.sampled_from([1, 2, 4, 5]))
    return {
        "frames": unit * np.array(draw(st.lists(st.integers(1, 40), min_size=1, max_size=12))),
        "segment": unit * draw(st.integers(1, 12)),
        "context": unit * draw(st.integers(0, 5)),
        "batch_size": draw(st.integers(1, 9)),
        "alignment": unit,
        "seed": draw(st.integers(0, 2**31)),
        "epoch": draw(st.integers(0, 30)),
    }


def slices_of(plan):
    return [item for batch in plan_epoch(**plan) for item in batch]


@given(plans())
def test_a_segment_lies_in_its_window_and_both_in_their_utterance(plan):
    for item in slices_of(plan):
        length = plan["frames"][item.row]
        assert item.window_start >= 0
        assert item.window == plan["segment"] + 2 * plan["context"]
        assert item.window_start + item.window <= max(length, item.window)
        assert item.offset >= 0
        assert item.offset + item.segment <= item.window
        assert item.segment == plan["segment"]
        assert item.valid == min(length, item.segment)
        assert item.window_start + item.offset + item.valid <= length


@given(plans())
def test_a_segment_has_its_context_except_where_the_utterance_ends(plan):
    for item in slices_of(plan):
        length = plan["frames"][item.row]
        assert item.offset >= plan["context"] or item.window_start == 0
        after = item.window - item.offset - item.segment
        assert after >= plan["context"] or item.window_start + item.window >= length


@given(plans())
def test_windows_and_segments_start_on_whole_units(plan):
    for item in slices_of(plan):
        assert item.window_start % plan["alignment"] == item.offset % plan["alignment"] == 0


@given(plans())
def test_every_utterance_is_heard_as_often_as_segments_fit_and_at_least_once(plan):
    heard = np.bincount([item.row for item in slices_of(plan)], minlength=len(plan["frames"]))
    assert heard.tolist() == [max(1, length // plan["segment"]) for length in plan["frames"]]


@given(plans())
def test_batches_are_full_except_the_last_and_as_many_as_foretold(plan):
    batches = plan_epoch(**plan)
    assert len(batches) == batches_per_epoch(plan["frames"], plan["segment"], plan["batch_size"])
    assert all(len(batch) == plan["batch_size"] for batch in batches[:-1])
    assert 1 <= len(batches[-1]) <= plan["batch_size"]


@given(plans())
def test_a_plan_is_a_function_of_seed_and_epoch(plan):
    assert plan_epoch(**plan) == plan_epoch(**plan)


def test_every_epoch_and_every_seed_has_other_slices_in_another_order():
    plan = {"frames": np.full(20, 50), "segment": 4, "context": 3, "batch_size": 5, "alignment": 1}
    drawn = [slices_of({**plan, "seed": seed, "epoch": epoch}) for seed in range(3) for epoch in range(3)]
    for i, one in enumerate(drawn):
        for other in drawn[:i]:
            assert len(set(one) & set(other)) < 0.25 * len(one)
            assert [item.row for item in one] != [item.row for item in other]


def test_starts_are_uniform_over_the_utterance_both_edges_included():
    plan = {"frames": np.array([4000]), "segment": 2, "context": 3, "batch_size": 1, "alignment": 2, "seed": 0}
    starts = [s.window_start + s.offset for epoch in range(20) for s in slices_of({**plan, "epoch": epoch})]
    assert min(starts) == 0
    assert max(starts) == 3998
    counts, _ = np.histogram(starts, bins=10, range=(0, 4000))
    assert abs(counts / 4000 - 1).max() < 0.07  # 4 sigma


def test_a_whole_utterance_is_a_slice_of_all_of_it_or_of_its_beginning():
    assert whole(7) == (0, 0, 7, 7, 0, 7, 7)
    assert whole(7, limit=3) == (0, 0, 3, 3, 0, 3, 3)
