"""The exported ONNX models give, in onnxruntime, what the library gives: any length, noise from outside."""

import dataclasses
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from geometries import PUBLISHED, build, random_codes, thin, two_heads, white

from snac_pipeline.codec import SNAC, CodecSpec
from snac_pipeline.codec.onnx import _encoder_difference, decoder_noise, export_onnx
from snac_pipeline.errors import PipelineError

SMALL = CodecSpec(
    sampling_rate=8000, encoder_dim=16, encoder_rates=(2, 2), decoder_dim=64, decoder_rates=(2, 2),
    attn_window_size=6, codebook_size=61, vq_strides=(4, 2, 1), output_rates=(8000, 16000),
)  # fmt: skip
"""Windows, noise and two heads: all that there is to export."""


def models(folder):
    return [onnxruntime.InferenceSession(folder / f"{name}.onnx") for name in ("encoder", "decoder")]


def assert_agrees(codec: SNAC, folder) -> None:
    """At lengths that the exporter has not compared, and to the end of both models."""
    spec = codec.spec
    encoder, decoder = models(folder)
    for frames in (4 * spec.alignment, 7 * spec.alignment):
        audio = white(spec.samples(frames), seed=frames)
        *codes, latents = encoder.run(None, {"audio": audio.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(latents, codec.encoder(audio).numpy(), atol=1e-4)
            for level, ours in zip(codes, codec.encode(audio), strict=True):
                np.testing.assert_array_equal(level, ours.numpy())
            for mode in ("seeded", "off"):
                noise = decoder_noise(spec, frames, mode, seed=9)
                given = {f"codes_{k}": level for k, level in enumerate(codes)} | noise
                for rate in spec.output_rates:
                    [there] = decoder.run([f"audio_{rate}"], given)
                    ours = codec.decode([torch.from_numpy(c) for c in codes], output_rate=rate, noise=mode, seed=9)
                    assert there.shape == tuple(ours.shape)
                    np.testing.assert_allclose(there, ours.numpy(), atol=1e-4)


def test_encoder_and_decoder_agree_in_onnxruntime_at_any_length(tmp_path):
    codec = build(SMALL)
    figures = export_onnx(codec, tmp_path / "onnx")
    assert figures["encoder_difference"] < 1e-4 and figures["decoder_difference"] < 1e-4
    assert sorted(file.name for file in (tmp_path / "onnx").iterdir()) == [
        "config.json",
        "decoder.onnx",
        "encoder.onnx",
    ]
    assert CodecSpec.from_file(tmp_path / "onnx" / "config.json") == SMALL
    assert_agrees(codec, tmp_path / "onnx")
    # The model that was exported is whole: weight norm and all.
    assert all(
        torch.equal(a, b) for a, b in zip(*(c.state_dict().values() for c in (codec, build(SMALL))), strict=True)
    )
    # Another noise is another sound, so that the input is no ornament.
    decoder, codes = models(tmp_path / "onnx")[1], random_codes(SMALL, SMALL.alignment)
    given = {f"codes_{k}": level.numpy() for k, level in enumerate(codes)}
    first, second = (decoder.run(None, given | decoder_noise(SMALL, SMALL.alignment, seed=s))[0] for s in (1, 2))
    assert np.abs(first - second).max() > 1e-3


@pytest.mark.slow  # half a minute of tracing each
@pytest.mark.parametrize(
    "spec",
    [two_heads(thin(PUBLISHED["24khz"])), thin(PUBLISHED["32khz"]), thin(PUBLISHED["24khz"], noise=False)],
    ids=["24khz-two-heads", "32khz-windowed", "24khz-without-noise"],
)
def test_published_geometries_agree_in_onnxruntime(spec, tmp_path):
    codec = build(spec)
    export_onnx(codec, tmp_path)
    assert_agrees(codec, tmp_path)


def test_an_export_that_disagrees_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr("snac_pipeline.codec.onnx.TOLERANCE", -1.0)
    spec = dataclasses.replace(SMALL, encoder_dim=4, latent_dim=None, attn_window_size=None)
    with pytest.raises(PipelineError, match=r"encoder\.onnx was not written.*differ by"):
        export_onnx(build(spec), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(PipelineError, match=r"onnxscript.*snac-pipeline\[onnx\]"):
        export_onnx(build(SMALL), tmp_path)


def test_an_encoder_whose_codes_are_others_is_not_taken_for_right():
    codec = build(SMALL)

    class Other:
        """Right latents, codes that are one too high."""

        def run(self, names, given):
            latents = codec.encoder(torch.from_numpy(given["audio"]))
            codes = codec.quantizer(latents).codes
            return [*(((level + 1) % SMALL.codebook_size).numpy() for level in codes), latents.numpy()]

    with torch.no_grad():
        assert _encoder_difference(Other(), codec, 2) == float("inf")
