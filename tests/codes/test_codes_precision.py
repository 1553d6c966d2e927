"""Precision: codes of their own, a quantizer that stays in float32, and the agreement told."""

import made_codes as made
import numpy as np
import pytest
import torch
from geometries import PUBLISHED, build, thin, white
from torch.overrides import TorchFunctionMode

from snac_pipeline.codec import SNAC
from snac_pipeline.codes.encode import encode_array
from snac_pipeline.codes.fingerprint import encoder_fingerprint, encoder_identity
from snac_pipeline.codes.parts import read_codes
from snac_pipeline.codes.precision import quantize

SPEC = thin(PUBLISHED["24khz"])


class Watch(TorchFunctionMode):
    """What convolutions see: the types of their inputs and whether TF32 was allowed, in order."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.conv1d:
            kinds = {arg.dtype for arg in args if isinstance(arg, torch.Tensor)}
            allowed = {torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32}
            self.seen.append((*kinds, *allowed))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "precision, encoder, tf32",
    [("fp32", torch.float32, False), ("tf32", torch.float32, True), ("bf16", torch.bfloat16, False)],
)
@pytest.mark.parametrize("published", ["24khz", "44khz"])
def test_every_convolution_of_the_encoder_is_in_its_precision_and_the_quantizer_in_float32(
    published, precision, encoder, tf32
):
    model = build(thin(PUBLISHED[published]))
    with Watch() as watch:
        quantized = quantize(model, white(model.spec.samples(model.spec.alignment)), precision)
    of_quantizer = 2 * model.spec.levels
    assert set(watch.seen[:-of_quantizer]) == {(encoder, tf32)} and len(watch.seen) > of_quantizer
    assert watch.seen[-of_quantizer:] == [(torch.float32, False)] * of_quantizer
    assert quantized.latents_BCL.dtype == torch.float32
    assert all(vectors.dtype == torch.float32 for vectors in quantized.projected)


def test_float32_is_the_models_own_encode_and_tf32_on_a_cpu_too():
    model, audio = build(SPEC), white(SPEC.samples(9), batch=3)
    with torch.inference_mode():
        own = model.encode(audio)
    for precision in ("fp32", "tf32"):
        codes = quantize(model, audio, precision).codes
        assert all(torch.equal(a, b) for a, b in zip(codes, own, strict=True))


def test_bfloat16_gives_other_codes_but_not_many():
    model, audio = build(SPEC), white(SPEC.samples(60))[:, 0].numpy()
    exact, rounded = (np.concatenate(encode_array(model, audio, p), axis=1) for p in ("fp32", "bf16"))
    assert 0.6 < (exact == rounded).mean() < 1


@pytest.mark.parametrize("chosen", [True, False])
def test_what_the_rest_of_the_process_has_chosen_is_left_alone(chosen):
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    try:
        cudnn.allow_tf32 = matmul.allow_tf32 = chosen
        for precision in ("fp32", "tf32", "bf16"):
            quantize(build(SPEC), white(SPEC.coarse_frame), precision)
            assert (cudnn.allow_tf32, matmul.allow_tf32) == (chosen, chosen)
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before


def test_each_precision_is_another_fingerprint_and_named_in_it():
    model = build(SPEC)
    assert len({encoder_fingerprint(model, precision) for precision in ("fp32", "tf32", "bf16")}) == 3
    assert encoder_identity(model, "bf16")["precision"] == "bf16"
    assert encoder_fingerprint(model) == encoder_fingerprint(model, "fp32")


@pytest.mark.parametrize("published", PUBLISHED)
def test_cached_bfloat16_codes_are_those_of_encoding_alone_in_bfloat16(published, tmp_path):
    """In batches, in chunks and through a cache, bit for bit on a CPU; and none of it lands among float32 codes."""
    codec = made.make_codec(tmp_path / "codec", published)
    unit = PUBLISHED[published].alignment * PUBLISHED[published].frame_seconds
    corpus = made.make_corpus(tmp_path / "speech", seconds=(0.4, 0.4, 0.41, 4.5 * unit))
    utterances = made.utterances_of(corpus, tmp_path / "home")
    results = {
        precision: made.cache(
            codec, utterances, tmp_path / "home", batch_seconds=1.6 * unit, precision=precision, verify=4
        )
        for precision in ("fp32", "bf16")
    }
    assert results["bf16"]["verified"]["exact"] and results["bf16"]["verified"]["utterances"] == 4
    model = SNAC.from_pretrained(codec)
    rows = {
        precision: read_codes(tmp_path / "home" / "codes" / result["fingerprint"], utterances["digest"].to_list())
        for precision, result in results.items()
    }
    for i, file in enumerate(utterances["file"]):
        audio = made.read_audio(file, model.spec.sampling_rate)[None]
        for precision in rows:
            for k, level in enumerate(encode_array(model, audio, precision)):
                np.testing.assert_array_equal(rows[precision][f"codes_{k}"][i].to_numpy(), level[0])
    finest = f"codes_{model.spec.levels - 1}"
    assert rows["fp32"][finest].to_list() != rows["bf16"][finest].to_list()
