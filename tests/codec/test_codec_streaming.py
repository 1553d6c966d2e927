"""Streams give what one call gives, whatever blocks they come in, and hold little of it."""

import dataclasses
import itertools

import pytest
import torch
from geometries import PUBLISHED, build, random_codes, relative_error, thin, two_heads, white
from hypothesis import given, settings
from hypothesis import strategies as st

from snac_pipeline.codec import CodecSpec, decode_stream, encode_stream
from snac_pipeline.codec.streaming import Latency, latency, stretches
from snac_pipeline.errors import PipelineError

SMALL = CodecSpec(
    sampling_rate=8000, encoder_dim=4, encoder_rates=(2, 2), decoder_dim=16, decoder_rates=(2, 2),
    attn_window_size=None, codebook_size=61, vq_strides=(4, 2, 1),
)  # fmt: skip
SPECS = {
    "small": two_heads(SMALL),
    "small-windowed": dataclasses.replace(SMALL, encoder_dim=16, latent_dim=None, decoder_dim=64, attn_window_size=6),
    "24khz": two_heads(thin(PUBLISHED["24khz"])),
    "32khz": thin(PUBLISHED["32khz"]),
}
"""The first two are so quick that hypothesis can try many; in the second a window is one and a half coarse frames."""

# In double precision, where rounding is 1e-15 and anything else is context that is missing.
CODECS = {name: build(spec, dtype=torch.float64).requires_grad_(False) for name, spec in SPECS.items()}


def in_blocks(x: torch.Tensor, sizes: list[int]) -> list[torch.Tensor]:
    """x cut along its last axis into blocks of `sizes` (which may be 0) as far as it goes; what is left comes last."""
    return list(x.tensor_split([min(edge, x.shape[-1]) for edge in itertools.accumulate(sizes)], dim=-1))


block_sizes = st.lists(st.integers(0, 700), max_size=6)
chunks = st.sampled_from([0.0, 0.01, 0.05])


@pytest.mark.parametrize("name", ["small", "small-windowed"])
@settings(max_examples=25, deadline=None)
@given(samples=st.integers(0, 1200), sizes=block_sizes, chunk_seconds=chunks, batch=st.integers(1, 2))
def test_codes_of_a_stream_are_those_of_one_call(name, samples, sizes, chunk_seconds, batch):
    codec = CODECS[name]
    audio = white(samples, batch, dtype=torch.float64)
    streamed = list(encode_stream(codec, in_blocks(audio, sizes), chunk_seconds=chunk_seconds))
    for k, level in enumerate(codec.encode(audio)):
        assert torch.equal(torch.cat([codes[k] for codes in streamed], dim=-1), level)


@pytest.mark.parametrize("name", ["small", "small-windowed"])
@pytest.mark.parametrize("noise", ["seeded", "off"])
@settings(max_examples=15, deadline=None)
@given(
    units=st.integers(1, 20),
    sizes=st.lists(block_sizes, min_size=3, max_size=3),
    chunk_seconds=chunks,
    batch=st.integers(1, 2),
    cut=st.integers(0, 900),
)
def test_audio_of_a_stream_is_that_of_one_call_though_levels_arrive_unevenly(
    name, noise, units, sizes, chunk_seconds, batch, cut
):
    codec, options = CODECS[name], {"noise": noise, "seed": 7}
    spec = codec.spec
    codes = random_codes(spec, units * spec.alignment, batch)
    length = max(1, spec.samples(units * spec.alignment) - cut)
    arriving = [in_blocks(level, cuts) for level, cuts in zip(codes, sizes, strict=True)]
    blocks = list(itertools.zip_longest(*arriving, fillvalue=codes[0][:, :0]))
    for rate in spec.output_rates:
        whole = codec.decode(codes, length, output_rate=rate, **options)
        stream = decode_stream(codec, blocks, length=length, output_rate=rate, chunk_seconds=chunk_seconds, **options)
        streamed = torch.cat(list(stream), dim=-1)
        assert streamed.shape == whole.shape
        assert relative_error(streamed, whole) < 1e-12


@pytest.mark.parametrize("name", ["24khz", "32khz"])
def test_published_geometries_stream_exactly_in_their_shortest_chunks(name):
    codec = CODECS[name]
    spec = codec.spec
    frames = 2 * (spec.encode_context + spec.decode_context) + 3 * spec.alignment
    audio = white(spec.samples(frames) - 77, dtype=torch.float64)
    codes = codec.encode(audio)
    streamed = list(encode_stream(codec, audio.split(1999, dim=-1), chunk_seconds=0))
    assert len(streamed) == frames // spec.alignment
    for k, level in enumerate(codes):
        assert torch.equal(torch.cat([some[k] for some in streamed], dim=-1), level)
    whole = codec.decode(codes, audio.shape[-1], noise="seeded", seed=3)
    pieces = list(decode_stream(codec, streamed, length=audio.shape[-1], seed=3, chunk_seconds=0))
    assert relative_error(torch.cat(pieces, dim=-1), whole) < 1e-12


def test_float32_streams_agree_to_rounding():
    codec = build(SPECS["24khz"])
    codes = random_codes(codec.spec, 40)
    streamed = torch.cat(list(decode_stream(codec, [codes], chunk_seconds=0.5)), dim=-1)
    assert relative_error(streamed, codec.decode(codes, noise="seeded")) < 1e-5


@pytest.mark.parametrize("name", SPECS)
def test_nothing_is_held_back_longer_than_the_latency_says(name):
    codec = CODECS[name]
    spec, (to_encode, to_decode) = codec.spec, latency(SPECS[name], 0)
    given_frames, got_frames, worst = 0, 0, 0

    def audio():
        nonlocal given_frames, worst
        for block in white(spec.samples(3 * to_encode), dtype=torch.float64).split(spec.coarse_frame, dim=-1):
            given_frames += 1
            yield block
            worst = max(worst, given_frames - got_frames)  # after all chunks that the block completed

    for codes in encode_stream(codec, audio(), chunk_seconds=0):
        got_frames += codes[0].shape[-1]
    assert worst <= to_encode and got_frames == given_frames
    assert to_decode == spec.alignment + spec.decode_context


def test_the_latency_of_the_published_speech_model_is_what_the_docstrings_say():
    spec = PUBLISHED["24khz"]
    assert latency(spec) == Latency(15, 15) and latency(spec, 0) == Latency(4, 4)
    assert round(15 * spec.frame_seconds, 2) == 1.28 and round(4 * spec.frame_seconds, 2) == 0.34


def test_a_stream_holds_a_chunk_and_its_context_however_long_it_is():
    codec = CODECS["small"]
    spec, longest = codec.spec, 0
    bound = spec.samples(2 * spec.encode_context + spec.segment_frames(0.01) + 1)

    def encode(audio):
        nonlocal longest
        longest = max(longest, audio.shape[-1])
        assert audio.untyped_storage().nbytes() <= 2 * bound * audio.element_size()
        return codec.encode(audio)

    blocks = (white(37, dtype=torch.float64, seed=i) for i in range(500))
    for _ in encode_stream(codec, blocks, chunk_seconds=0.01, encode=encode):
        pass
    assert 0 < longest <= bound


def test_stretches_of_an_endless_signal_are_those_of_a_long_one():
    endless = stretches(None, 5, 3)
    for stretch in stretches(1000, 5, 3):
        if stretch.last < 1000:
            assert stretch == next(endless)


def test_the_noise_of_upstream_cannot_be_streamed():
    with pytest.raises(PipelineError, match=r"seeded.*off"):
        decode_stream(CODECS["small"], [], noise="upstream")


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        ([], "no codes to decode"),
        ([[torch.zeros(1, 4, dtype=torch.long)] * 2], "2 levels of codes were given; this codec has 3"),
        ([[torch.zeros(1, 4, dtype=torch.long)] * 3], "do not cover one span of time"),
        ([[torch.zeros(1, n, dtype=torch.long) for n in (1, 2, 3)]], "do not cover one span of time"),
        ([[torch.full((1, n), 61) for n in (1, 2, 4)]], r"level 0 span 61\.\.61"),
        ([[torch.zeros(b, n, dtype=torch.long) for n in (1, 2, 4)] for b in (1, 2)], "cannot follow"),
    ],
)
def test_codes_that_cannot_be_decoded_are_told_as_by_one_call(blocks, words):
    with pytest.raises(PipelineError, match=words):
        list(decode_stream(CODECS["small"], blocks))


def test_audio_of_another_shape_is_told():
    with pytest.raises(PipelineError, match=r"\(batch, 1, samples\)"):
        list(encode_stream(CODECS["small"], [torch.zeros(4, 2, 100)]))
    with pytest.raises(PipelineError, match="cannot follow"):
        list(encode_stream(CODECS["small"], [torch.zeros(1, 1, 8), torch.zeros(2, 1, 8)]))
