"""Geometry: every sample <-> token conversion comes from config.json, and the model obeys it."""

import dataclasses
import json
import math

import pytest
import torch
from geometries import DEFAULTS_OF_UPSTREAM, PUBLISHED, build, thin, two_heads, white
from hypothesis import given, settings
from hypothesis import strategies as st

from snac_pipeline.codec import SNAC, CodecSpec, Noise
from snac_pipeline.errors import PipelineError

SPEECH_24 = PUBLISHED["24khz"]
OLD_NOTES = CodecSpec(sampling_rate=24000, **DEFAULTS_OF_UPSTREAM)


@st.composite
def specs(draw, widest_rate=8, most_rates=4, windows=(None, 2, 4, 6, 32)):
    """Any consistent geometry."""
    encoder_rates = draw(st.lists(st.integers(2, widest_rate), min_size=1, max_size=most_rates))
    coarsest = draw(st.integers(1, 8))
    divisors = [n for n in range(1, coarsest + 1) if coarsest % n == 0]
    rate = draw(st.sampled_from([16000, 22050, 24000, 44100]))
    return CodecSpec(
        sampling_rate=rate,
        encoder_dim=64 // 2 ** len(encoder_rates),
        encoder_rates=encoder_rates,
        decoder_dim=64,
        decoder_rates=draw(st.permutations(encoder_rates)),
        attn_window_size=draw(st.sampled_from(windows)),
        vq_strides=(coarsest, *draw(st.lists(st.sampled_from(divisors), max_size=3))),
        codebook_size=draw(st.sampled_from([16, 100, 4096])),
        output_rates=draw(st.sampled_from([(), (rate, 2 * rate), (2 * rate,)])),
        noise=draw(st.booleans()),
        depthwise=draw(st.booleans()),
    )


# ---- the published geometries ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, hop, coarse_frame, pad_unit, per_frame, per_second",
    [
        ("24khz", 512, 2048, 2048, (1, 2, 4), (12, 24, 48)),
        ("32khz", 384, 3072, 12288, (1, 2, 4, 8), None),
        ("44khz", 384, 3072, 12288, (1, 2, 4, 8), None),
    ],
    ids=list(PUBLISHED),
)
def test_the_published_models_have_their_published_geometry(name, hop, coarse_frame, pad_unit, per_frame, per_second):
    spec = PUBLISHED[name]
    assert spec.hop_length == hop
    assert spec.coarse_frame == coarse_frame
    assert spec.padded_length(1) == pad_unit
    assert spec.padded_length(pad_unit) == pad_unit
    assert spec.padded_length(pad_unit + 1) == 2 * pad_unit
    assert spec.tokens_per_frame == per_frame
    if per_second:
        assert spec.token_counts(spec.frames_for(spec.sampling_rate)) == per_second


def test_the_24_khz_codec_is_0_984_kilobits_per_second():
    assert SPEECH_24.latent_dim == 768
    assert SPEECH_24.sampling_rate / SPEECH_24.hop_length == 46.875
    assert SPEECH_24.tokens_per_second == pytest.approx(82.03125)
    assert round(SPEECH_24.bits_per_second) == 984


def test_a_coarse_frame_is_4096_samples_at_48_khz():
    assert two_heads(SPEECH_24).samples(1, 48000) == 4096


@pytest.mark.parametrize("name, millions", [("24khz", 19.84), ("32khz", 54.55), ("44khz", 54.55)])
def test_parameter_counts(name, millions):
    with torch.device("meta"):
        model = SNAC(PUBLISHED[name])
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == millions
    if name == "24khz":
        assert len(model.state_dict()) == 269


# ---- the geometry of old notes ---------------------------------------------------------------------------------

OLD_NOTES_TOKENS = {1: (7, 14, 28, 56), 2: (14, 28, 56, 112), 3: (21, 42, 84, 168), 4: (28, 56, 112, 224)}


@pytest.fixture(scope="module")
def old_notes_codec():
    return build(thin(OLD_NOTES))


@pytest.mark.parametrize("seconds", OLD_NOTES_TOKENS, ids=lambda s: f"{s}s")
def test_rates_3377_give_the_tokens_of_the_padding_rule(seconds, old_notes_codec):
    samples = seconds * 24000
    assert OLD_NOTES.token_counts(OLD_NOTES.frames_for(samples)) == OLD_NOTES_TOKENS[seconds]
    with torch.no_grad():
        codes = old_notes_codec.encode(white(samples))
    assert tuple(level.shape[-1] for level in codes) == OLD_NOTES_TOKENS[seconds]


def test_unpadded_ceilings_are_rejected_with_what_was_expected():
    with pytest.raises(PipelineError, match=r"\(41, 55, 82, 109\).*41 coarse frames.*\(41, 82, 164, 328\)"):
        OLD_NOTES.frames_of((41, 55, 82, 109))


def test_decode_rejects_ragged_levels_too(old_notes_codec):
    codes = [torch.zeros(1, n, dtype=torch.long) for n in (7, 14, 28, 55)]
    with pytest.raises(PipelineError, match="do not cover one span of time"):
        old_notes_codec.decode(codes)


def test_a_missing_level_is_named():
    with pytest.raises(PipelineError, match="2 levels of codes were given; this codec has 3"):
        SPEECH_24.frames_of((3, 6))


def test_frames_that_do_not_fill_an_attention_window_are_rejected():
    with pytest.raises(PipelineError, match="multiple of 4"):
        PUBLISHED["32khz"].frames_of(PUBLISHED["32khz"].token_counts(6))


# ---- the arithmetic, for any geometry --------------------------------------------------------------------------


@given(specs(), st.integers(0, 10_000_000))
def test_padding_is_the_least_that_fills_whole_units(spec, samples):
    unit = math.prod(spec.encoder_rates) * math.lcm(spec.vq_strides[0], spec.attn_window_size or 1)
    padded = spec.padded_length(samples)
    assert padded % unit == 0
    assert max(samples, 1) <= padded < max(samples, 1) + unit


@given(specs(), st.integers(0, 10_000_000))
def test_samples_frames_and_tokens_invert_one_another(spec, samples):
    frames = spec.frames_for(samples)
    assert spec.samples(frames) == spec.padded_length(samples)
    assert spec.frames_of(spec.token_counts(frames)) == frames
    assert spec.frames_for(spec.samples(frames)) == frames
    assert spec.frames_for(spec.samples(frames) + 1) == frames + spec.alignment
    assert spec.samples(frames, 2 * spec.sampling_rate) == 2 * spec.samples(frames)
    for stride, tokens in zip(spec.vq_strides, spec.token_counts(frames), strict=True):
        assert tokens * stride * spec.hop_length == spec.padded_length(samples)


@given(specs(), st.integers(1, 500), st.data())
def test_one_token_more_or_less_in_any_level_is_rejected(spec, units, data):
    counts = list(spec.token_counts(units * spec.alignment))
    counts[data.draw(st.integers(0, spec.levels - 1))] += data.draw(st.sampled_from([-1, 1]))
    if spec.levels > 1:
        with pytest.raises(PipelineError, match="do not cover one span of time"):
            spec.frames_of(counts)
    elif spec.alignment > 1:
        with pytest.raises(PipelineError, match="whole attention windows"):
            spec.frames_of(counts)


@given(specs(), st.floats(0, 100))
def test_a_segment_is_whole_units_within_half_a_unit_of_the_seconds_asked_for(spec, seconds):
    frames, unit = spec.segment_frames(seconds), spec.alignment * spec.frame_seconds
    assert frames >= spec.alignment and frames % spec.alignment == 0
    assert abs(frames * spec.frame_seconds - max(seconds, unit)) <= unit / 2 * (1 + 1e-9)


@settings(max_examples=25, deadline=None)
@given(specs(widest_rate=5, most_rates=3), st.integers(1, 700))
def test_the_model_of_any_geometry_gives_the_lengths_that_its_spec_says(spec, samples):
    model = SNAC(spec).eval()
    with torch.no_grad():
        codes = model.encode(white(samples, batch=2))
        frames = spec.frames_for(samples)
        assert [tuple(level.shape) for level in codes] == [(2, n) for n in spec.token_counts(frames)]
        for rate in spec.output_rates:
            assert model.decode(codes, output_rate=rate).shape == (2, 1, spec.samples(frames, rate))
            assert model.decode(codes, samples, output_rate=rate).shape[-1] == samples * rate // spec.sampling_rate


# ---- config.json -----------------------------------------------------------------------------------------------


@given(specs())
def test_a_spec_survives_its_config_file(spec):
    assert CodecSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert "output_rates" not in spec.single_head().to_dict()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"hop_size": 441}, "unknown key hop_size"),
        ({"decoder_rates": [7, 7, 3, 3]}, "decoder_rates multiply to 441, encoder_rates to 512"),
        ({"latent_dim": 512}, "latent_dim must be 768"),
        ({"vq_strides": [4, 3, 1]}, "must divide the first"),
        ({"vq_strides": [1, 2, 4]}, "must divide the first"),
        ({"decoder_dim": 1000}, "divisible"),
        ({"output_rates": [24000, 44100]}, "output_rates"),
        ({"attn_window_size": 32, "decoder_dim": 1040}, "multiples of 64"),
        ({"encoder_rates": 8}, "wrong type"),
        ({"encoder_rates": [2, 4, 8, "8"]}, "encoder_rates"),
        ({"encoder_rates": [1, 512], "decoder_rates": [512, 1], "encoder_dim": 192}, "encoder_rates"),
        ({"encoder_rates": [0, 512], "decoder_rates": [512, 0], "encoder_dim": 192}, "encoder_rates"),
        ({"encoder_rates": [], "decoder_rates": [], "encoder_dim": 768}, "encoder_rates"),
        ({"vq_strides": []}, "vq_strides"),
        ({"vq_strides": [4, 0]}, "vq_strides"),
        ({"sampling_rate": "24000"}, "sampling_rate"),
        ({"sampling_rate": 0}, "sampling_rate"),
        ({"codebook_size": 0}, "codebook_size"),
        ({"codebook_dim": 8.5}, "codebook_dim"),
        ({"attn_window_size": 0}, "attn_window_size"),
        ({"noise": "false"}, "noise"),
        ({"encoder_dim": None}, "encoder_dim"),
        ({"output_rates": [24000, 48000], "encoder_rates": [2, 256], "decoder_rates": [2, 256], "encoder_dim": 192,
          "decoder_dim": 4}, "decoder_dim"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else None,
)  # fmt: skip
def test_a_config_that_contradicts_itself_is_one_clear_error(change, message):
    with pytest.raises(PipelineError, match=message) as caught:
        CodecSpec.from_dict({**SPEECH_24.to_dict(), **change}, source="folder/config.json")
    assert "folder/config.json" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "[1]", "null", "3", b"\xff\xfe"], ids=repr)
def test_a_config_file_that_is_no_json_object_is_one_clear_error(text, tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(PipelineError, match=r"config\.json"):
        CodecSpec.from_file(path)


# ---- receptive fields ------------------------------------------------------------------------------------------


def test_the_24_khz_encoder_reaches_4757_samples_back_and_5268_ahead():
    assert SPEECH_24.encoder_reach == (-4757, 5268)


def first_and_last_nonzero(gradient):
    nonzero = gradient.flatten().nonzero().flatten()
    return int(nonzero[0]), int(nonzero[-1])


@pytest.mark.parametrize(
    "spec",
    [SPEECH_24, OLD_NOTES, dataclasses.replace(PUBLISHED["32khz"], attn_window_size=None)],
    ids=["24khz", "rates-3377", "rates-2388"],
)
def test_encoder_reach_is_the_support_of_the_gradient(spec):
    model = build(thin(spec), dtype=torch.float64)
    latents = 2 * max(-spec.encoder_reach[0], spec.encoder_reach[1]) // spec.hop_length + 3
    middle = latents // 2
    audio = white(latents * spec.hop_length, dtype=torch.float64).requires_grad_()
    model.encoder(audio)[0, :, middle].square().sum().backward()
    low, high = first_and_last_nonzero(audio.grad)
    assert (low - middle * spec.hop_length, high - middle * spec.hop_length) == spec.encoder_reach


@settings(max_examples=12, deadline=None)
@given(specs(widest_rate=4, most_rates=3, windows=(None, 2, 3)))
def test_context_is_exactly_what_the_gradient_needs(spec):
    """For any geometry: nothing beyond the context counts, and (the head's rounded bound aside) all of it does."""
    model = build(dataclasses.replace(spec, noise=False), dtype=torch.float64)
    unit = spec.alignment
    for context, decoding in ((spec.encode_context, False), (spec.decode_context, True)):
        frames = 2 * context + 3 * unit
        latents = frames * spec.vq_strides[0]
        start = (context + unit) * spec.vq_strides[0]
        stop = start + unit * spec.vq_strides[0]
        if decoding:
            given_ = torch.randn(1, spec.latent_dim, latents, dtype=torch.float64, requires_grad=True)
            rate = max(spec.output_rates)
            audio = model.synthesize(given_, Noise("off"), (rate,))[rate]
            step = spec.hop_length * rate // spec.sampling_rate
            wanted = audio[..., start * step : stop * step]
        else:
            given_ = white(latents * spec.hop_length, dtype=torch.float64).requires_grad_()
            wanted = model.encoder(given_)[..., start:stop]
        wanted.square().sum().backward()
        step = 1 if decoding else spec.hop_length
        low, high = first_and_last_nonzero(given_.grad.abs().amax(dim=1))
        frame = spec.vq_strides[0] * step
        before, after = start * step - low, high + 1 - stop * step
        assert max(before, after) <= context * frame
        if not (decoding and max(spec.output_rates) > spec.sampling_rate):
            assert max(before, after) > (context - unit) * frame
