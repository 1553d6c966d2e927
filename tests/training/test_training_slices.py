"""An epoch's plan, for any lengths, segments, context and alignment; and what is cut by it, for any geometry."""

import tempfile
from pathlib import Path

import numpy as np
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snac_pipeline.codec import SNAC, CodecSpec, Noise
from snac_pipeline.training.data import SpeechSlices, collate
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


# ---- any geometry ------------------------------------------------------------------------------------------------


@st.composite
def geometries(draw):
    """Codecs of one to four levels, of any rates and strides, with and without attention windows; thin."""
    rates = draw(st.lists(st.integers(2, 5), min_size=1, max_size=3))
    strides, stride = [1], 1
    for factor in draw(st.lists(st.integers(1, 3), max_size=3)):
        stride *= factor
        strides.insert(0, stride)
    window = draw(st.sampled_from([None, None, 4, 6, 16]))
    sampling_rate = draw(st.sampled_from([8_000, 11_025, 16_000, 24_000, 44_100]))
    return CodecSpec(
        sampling_rate=sampling_rate, encoder_dim=64 // 2 ** len(rates), encoder_rates=tuple(rates), decoder_dim=64,
        decoder_rates=tuple(draw(st.permutations(rates))), attn_window_size=window, codebook_size=17,
        codebook_dim=2, vq_strides=tuple(strides), output_rates=(sampling_rate, 2 * sampling_rate),
    )  # fmt: skip


def clocked(folder, spec, lengths):
    """Utterances whose every token is its own number and every sample its own time (seconds over 100)."""
    view = folder / "view"
    view.mkdir()
    np.save(view / "offsets.npy", np.concatenate([[0], np.cumsum(lengths)]))
    (view / "digests.txt").write_text("\n".join(f"{row}" for row in range(len(lengths))))
    for k, count in enumerate(spec.tokens_per_frame):
        np.save(view / f"level_{k}.npy", np.concatenate([np.arange(n * count, dtype=np.uint16) for n in lengths]))
    files = []
    for row, length in enumerate(lengths):
        files.append(str(folder / f"{row}.wav"))
        times = np.arange(spec.samples(length)) / spec.sampling_rate
        soundfile.write(files[-1], times / 100, spec.sampling_rate, "FLOAT")
    return SpeechSlices(files, [f"{row}" for row in range(len(lengths))], spec, spec.output_rates, view)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(geometries(), st.data())
def test_tokens_and_samples_of_any_slice_of_any_geometry_cover_the_same_time(spec, data):
    unit = spec.alignment
    lengths = unit * np.array(data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=3)))
    segment, context = (unit * data.draw(st.integers(least, 4)) for least in (1, 0))
    with tempfile.TemporaryDirectory() as folder:
        dataset = clocked(Path(folder), spec, lengths)
        plan = plan_epoch(lengths, segment, context, 1, unit, data.draw(st.integers(0, 99)), 0)
        for [item] in plan[:6]:
            batch = collate([dataset[item]])
            first = item.window_start + item.offset
            for level, count in zip(batch.codes, spec.tokens_per_frame, strict=True):
                supervised = level[0, item.offset * count : (item.offset + item.valid) * count]
                # A token's number is its start in units of the level's own step.
                assert supervised.tolist() == list(range(first * count, (first + item.valid) * count))
            begin, end = first * spec.frame_seconds, (first + item.valid) * spec.frame_seconds
            for rate, target in batch.targets.items():
                heard = target[0, 0, : spec.samples(item.valid, rate)].numpy()
                assert len(heard) == round((end - begin) * rate)
                times = begin + np.arange(len(heard)) / rate
                # A resampler rings where the ramp begins and ends.
                inner = (times > 300 / rate) & (times < lengths[item.row] * spec.frame_seconds - 300 / rate)
                kept = inner if rate != spec.sampling_rate else slice(None)
                assert np.allclose(100 * heard[kept], times[kept], atol=0.1 / rate)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(geometries(), st.integers(0, 99))
def test_a_slice_of_any_geometry_is_decoded_as_in_the_whole_utterance(spec, seed):
    torch.manual_seed(seed)
    model = SNAC(spec).eval().double()
    torch.nn.init.normal_(model.double_rate_head.branch[-1].weight)
    unit, context = spec.alignment, spec.decode_context
    length = 2 * context + 5 * unit
    codes = [torch.randint(spec.codebook_size, (1, n)) for n in spec.token_counts(length)]
    [[item], *_] = plan_epoch(np.array([length]), 2 * unit, context, 1, unit, seed, 0)
    window = [
        level[:, item.window_start * n : (item.window_start + item.window) * n]
        for level, n in zip(codes, spec.tokens_per_frame, strict=True)
    ]
    with torch.inference_mode():
        parts, wholes = (
            model.synthesize(model.dequantize(levels), Noise("off"), spec.output_rates) for levels in (window, codes)
        )
    for rate in spec.output_rates:
        begin = spec.samples(item.offset, rate)
        start = spec.samples(item.window_start, rate) + begin
        count = spec.samples(item.segment, rate)
        error = (parts[rate][..., begin : begin + count] - wholes[rate][..., start : start + count]).abs().max()
        assert error < 1e-9 * max(1.0, float(wholes[rate].abs().max()))
