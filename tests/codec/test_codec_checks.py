"""What callers give wrongly is one sentence of ours, never torch's; nothing wrong is taken for something right."""

import numpy as np
import pytest
import torch
from geometries import PUBLISHED, build, random_codes, thin, two_heads, white

from snac_pipeline.codec import SNAC, decode_stream, encode_stream
from snac_pipeline.errors import PipelineError

SPEC = two_heads(thin(PUBLISHED["24khz"]))
CODES = random_codes(SPEC, 2)
BATCH_OF_NONE = torch.zeros(0, 1, 100)


@pytest.fixture(scope="module")
def codec() -> SNAC:
    return build(SPEC).requires_grad_(False)


@pytest.mark.parametrize(
    ("audio", "words"),
    [
        (white(5000)[0, 0], r"of shape \(batch, 1, samples\), one channel, not \(5000,\)"),
        (white(5000)[0], r"not \(1, 5000\)"),
        (white(5000)[None], r"not \(1, 1, 1, 5000\)"),
        (torch.zeros(1, 2, 5000), r"not \(1, 2, 5000\)"),
        (BATCH_OF_NONE, r"not \(0, 1, 100\)"),
        (white(5000).double(), r"the audio is float64, the codec float32; give audio\.to\(torch\.float32\)"),
        (white(5000).half(), "the audio is float16"),
        ((20_000 * white(5000)).short(), "not int16; divide by full scale"),
        (white(5000).numpy(), r"a torch tensor \(batch, 1, samples\), not numpy\.ndarray"),
        ([0.0, 0.1], "not list"),
        (None, "not NoneType"),
    ],
    ids=["1d", "2d", "4d", "stereo", "no item", "float64", "float16", "int16", "numpy", "list", "None"],
)
def test_what_is_no_audio_is_told_by_all_that_take_audio(codec, audio, words):
    for take in (codec.encode, codec, lambda audio: list(encode_stream(codec, [audio]))):
        with pytest.raises(PipelineError, match=words):
            take(audio)


def test_audio_of_the_codec_s_own_type_is_taken_whatever_it_is():
    audio = white(5000, batch=2)
    for dtype in (torch.float64, torch.bfloat16):
        levels = build(SPEC, dtype=dtype).encode(audio.to(dtype))
        assert [level.shape for level in levels] == [(2, 3), (2, 6), (2, 12)]


def test_under_autocast_audio_may_have_another_type(codec):
    with torch.autocast("cpu", torch.bfloat16):
        assert codec.encode(white(5000).bfloat16())[0].shape == (1, 3)


@pytest.mark.parametrize(
    ("codes", "words"),
    [
        (None, r"a list of one tensor \(batch, tokens\) for each level, not NoneType"),
        (CODES[0], r"not a tensor of shape \(1, 2\) and type int64"),
        (CODES[:2], "2 levels of codes were given; this codec has 3"),
        ([level[0] for level in CODES], r"level 0 are of shape \(batch, tokens\), not \(2,\)"),
        ([level[None] for level in CODES], r"not \(1, 1, 2\)"),
        ([level.float() for level in CODES], "level 0 are whole numbers, not float32"),
        ([*CODES[:2], CODES[2] > 5], "level 2 are whole numbers, not bool"),
        ([level.numpy() for level in CODES], r"level 0 are a torch tensor \(batch, tokens\), not numpy"),
        ([level.tolist() for level in CODES], "not list"),
        ([CODES[0], CODES[1].repeat(2, 1), CODES[2]], r"batch sizes differ: \[1, 2, 1\]"),
    ],
    ids=["None", "tensor", "two levels", "1d", "3d", "float", "bool", "numpy", "lists", "batches"],
)
def test_what_are_no_codes_is_told_by_all_that_take_codes(codec, codes, words):
    for take in (codec.decode, codec.dequantize, lambda codes: list(decode_stream(codec, [codes]))):
        with pytest.raises(PipelineError, match=words):
            take(codes)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"length": -5}, "length is a whole number of samples from 0, not -5"),
        ({"length": 100.0}, "length is a whole number of samples from 0, not 100.0"),
        ({"length": float("nan")}, "length is .* not nan"),
        ({"length": "all"}, "length is .* not 'all'"),
        ({"length": 4097}, "length is 4097 samples; the codes have only 4096"),
        ({"noise": "foo"}, "noise mode 'foo' is none of upstream, seeded, off"),
        ({"noise": None}, "noise mode None is none of"),
        ({"noise": "seeded", "seed": 1.5}, "seed is a whole number of 64 bits, not 1.5"),
        ({"noise": "seeded", "seed": "a"}, "seed is .* not 'a'"),
        ({"noise": "seeded", "seed": 2**63}, "seed is a whole number of 64 bits"),
        ({"noise": "seeded", "seed": torch.arange(3)}, r"one for each of 1 items, not a tensor of shape \(3,\)"),
        ({"noise": "seeded", "seed": torch.ones(1)}, "type float32"),
        ({"output_rate": 44_100}, "decodes to 24000 and 48000 Hz, not to 44100 Hz"),
        ({"output_rate": 0}, "not to 0 Hz"),
    ],
    ids=str,
)
def test_options_of_another_kind_are_told_by_decode_and_by_its_stream(codec, options, words):
    for take in (lambda **o: codec.decode(CODES, **o), lambda **o: list(decode_stream(codec, [CODES], **o))):
        with pytest.raises(PipelineError, match=words):
            take(**options)


def test_a_crop_starts_at_a_whole_frame(codec):
    with pytest.raises(PipelineError, match=r"start_frame is a whole number of 64 bits, not 1\.5"):
        codec.decode(CODES, noise="seeded", start_frame=1.5)


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1, "x", None], ids=str)
def test_chunks_of_no_length_are_told_at_once_and_not_with_the_first_block(codec, seconds):
    for stream in (encode_stream, decode_stream):
        with pytest.raises(PipelineError, match="a duration is a number of seconds from 0, not"):
            stream(codec, [], chunk_seconds=seconds)


def test_numbers_of_numpy_are_numbers(codec):
    whole = codec.decode(CODES, 4000, noise="seeded", seed=3, output_rate=48_000)
    options = {"length": np.int64(4000), "seed": np.int32(3), "output_rate": np.float64(48_000)}
    assert torch.equal(codec.decode(CODES, noise="seeded", **options), whole)
    streamed = torch.cat(list(decode_stream(codec, [CODES], chunk_seconds=np.float32(1), **options)), dim=-1)
    assert streamed.shape == whole.shape == (1, 1, 8000)
    assert codec.decode(CODES, 0).shape == (1, 1, 0)
