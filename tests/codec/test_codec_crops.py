"""Crops with the spec's context equal the whole, batches of one padded length equal their items, and what does not."""

import pytest
import torch
from geometries import PUBLISHED, build, random_codes, relative_error, thin, two_heads, white

from snac_pipeline.errors import PipelineError

SPECS = {
    "24khz": thin(PUBLISHED["24khz"]),
    "32khz-windowed": thin(PUBLISHED["32khz"]),
    "24khz-two-heads": two_heads(thin(PUBLISHED["24khz"])),
}


@pytest.fixture(scope="module", params=SPECS, ids=list(SPECS))
def exact(request):
    """In double precision, where rounding is 1e-15 and anything else is context that is missing."""
    return build(SPECS[request.param], dtype=torch.float64).requires_grad_(False)


@pytest.fixture(scope="module", params=SPECS, ids=list(SPECS))
def single(request):
    return build(SPECS[request.param]).requires_grad_(False)


def decoded_crop(codec, codes, start, frames, context, rate):
    """Frames start .. start + frames out of a decode of them with `context` frames on each side."""
    first = start - context
    part = [
        level[:, first * n : (start + frames + context) * n]
        for level, n in zip(codes, codec.spec.tokens_per_frame, strict=True)
    ]
    audio = codec.decode(part, noise="seeded", seed=5, start_frame=first, output_rate=rate)
    return audio[..., codec.spec.samples(context, rate) : codec.spec.samples(context + frames, rate)]


def crop_error(codec, context, rate):
    unit = codec.spec.alignment
    start, frames = codec.spec.decode_context + unit, 2 * unit
    codes = random_codes(codec.spec, start + frames + codec.spec.decode_context + unit)
    whole = codec.decode(codes, noise="seeded", seed=5, output_rate=rate)
    wanted = whole[..., codec.spec.samples(start, rate) : codec.spec.samples(start + frames, rate)]
    return relative_error(decoded_crop(codec, codes, start, frames, context, rate), wanted)


def test_a_crop_decoded_with_its_context_is_the_whole_s_crop_and_with_one_unit_less_is_not(exact):
    rate, context = max(exact.spec.output_rates), exact.spec.decode_context
    assert crop_error(exact, context, rate) < 1e-12
    assert crop_error(exact, context - exact.spec.alignment, rate) > 1e-9


def test_a_crop_decoded_in_single_precision_agrees_to_1e_5(single):
    for rate in single.spec.output_rates:
        assert crop_error(single, single.spec.decode_context, rate) < 1e-5


def test_a_crop_s_noise_needs_its_start_frame(single):
    unit, context = single.spec.alignment, single.spec.decode_context
    codes = random_codes(single.spec, 2 * context + unit)
    tail = [level[:, unit * n :] for level, n in zip(codes, single.spec.tokens_per_frame, strict=True)]
    whole = single.decode(codes, noise="seeded")[..., single.spec.samples(unit + context, single.sampling_rate) :]
    errors = [
        relative_error(single.decode(tail, noise="seeded", start_frame=f)[..., single.spec.samples(context) :], whole)
        for f in (unit, 0)
    ]
    assert errors[0] < 1e-5 and errors[1] > 1e-2


def encoded_crop(codec, audio, start, frames, context):
    spec = codec.spec
    part = audio[..., spec.samples(start - context) : spec.samples(start + frames + context)]
    stride = spec.vq_strides[0]
    return codec.encoder(part)[..., context * stride : (context + frames) * stride]


def test_a_crop_encoded_with_its_context_is_the_whole_s_crop_and_with_one_unit_less_is_not(exact):
    spec, context = exact.spec, exact.spec.encode_context
    start, frames, stride = context + spec.alignment, 2 * spec.alignment, spec.vq_strides[0]
    audio = white(spec.samples(start + frames + context + spec.alignment), dtype=torch.float64)
    whole = exact.encoder(audio)[..., start * stride : (start + frames) * stride]
    assert relative_error(encoded_crop(exact, audio, start, frames, context), whole) < 1e-12
    assert relative_error(encoded_crop(exact, audio, start, frames, context - spec.alignment), whole) > 1e-9


def test_a_crop_s_codes_are_the_whole_s_codes(exact):
    spec, context = exact.spec, exact.spec.encode_context
    frames = 2 * context + 2 * spec.alignment
    audio = white(spec.samples(frames + spec.alignment), dtype=torch.float64)
    whole, crop = exact.encode(audio), exact.encode(audio[..., spec.samples(spec.alignment) :])
    for a, b, n in zip(whole, crop, spec.tokens_per_frame, strict=True):
        assert torch.equal(a[:, (spec.alignment + context) * n :], b[:, context * n :])


# ---- batches ---------------------------------------------------------------------------------------------------


def padded_together(items):
    longest = max(item.shape[-1] for item in items)
    return torch.cat([torch.nn.functional.pad(item, (0, longest - item.shape[-1])) for item in items])


def test_items_of_one_padded_length_have_the_codes_that_they_have_alone(single):
    unit = single.spec.padded_length(1)
    items = [white(3 * unit - cut, seed=cut) for cut in (0, 1, unit // 2, unit - 1)]
    assert len({single.spec.padded_length(item.shape[-1]) for item in items}) == 1
    batch = single.encode(padded_together(items))
    for i, item in enumerate(items):
        for together, alone in zip(batch, single.encode(item), strict=True):
            assert torch.equal(together[i], alone[0])


def test_zero_padding_to_a_longer_item_changes_the_codes_at_the_end_which_is_why_lengths_are_bucketed(single):
    spec = single.spec
    short, long = white(3 * spec.padded_length(1)), white(4 * spec.padded_length(1), seed=1)
    batch, alone = single.encode(padded_together([short, long])), single.encode(short)
    frames = spec.frames_for(short.shape[-1])
    changed = [
        (together[0, : frames * n] != level[0]).nonzero().flatten() // n
        for together, level, n in zip(batch, alone, spec.tokens_per_frame, strict=True)
    ]
    changed = torch.cat(changed)
    assert len(changed) > 0
    assert changed.min() >= frames - spec.encode_context


# ---- codes from outside ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [-1, 61, 4096])
def test_a_code_outside_the_codebook_is_named_with_its_level(single, bad):
    codes = random_codes(single.spec, single.spec.alignment)
    codes[1][0, 0] = bad
    with pytest.raises(PipelineError, match=rf"level 1 span .*{bad}.*0\.\.60"):
        single.decode(codes)


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.uint8], ids=str)
def test_codes_of_any_integer_type_decode_alike(single, dtype):
    codes = random_codes(single.spec, single.spec.alignment)
    narrow = single.decode([level.to(dtype) for level in codes], noise="off")
    assert torch.equal(narrow, single.decode(codes, noise="off"))


def test_no_frames_at_all_is_a_clear_error(single):
    with pytest.raises(PipelineError, match="frame"):
        single.decode([torch.zeros(1, 0, dtype=torch.long)] * single.spec.levels)


def test_levels_of_different_batch_sizes_are_a_clear_error(single):
    codes = random_codes(single.spec, single.spec.alignment, batch=3)
    codes[0] = codes[0][:1]
    with pytest.raises(PipelineError, match="batch"):
        single.decode(codes)
