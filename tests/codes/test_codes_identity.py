"""The fingerprint names what codes depend on, and nothing else."""

import dataclasses

import pytest
import torch
from geometries import PUBLISHED, build, thin

from snac_pipeline.codec import SNAC
from snac_pipeline.codes.fingerprint import encoder_fingerprint

SPEC = thin(PUBLISHED["24khz"])


@torch.no_grad()
def changed(part: str) -> SNAC:
    model = build(SPEC)
    next(getattr(model, part).parameters()).add_(1e-3)
    return model


def test_the_same_weights_in_either_file_format_are_one_encoder(tmp_path):
    model = build(SPEC)
    safe, pickled = model.save_pretrained(tmp_path / "safe"), tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_bytes((safe / "config.json").read_bytes())
    torch.save(model.state_dict(), pickled / "pytorch_model.bin")
    prints = {encoder_fingerprint(m) for m in (model, SNAC.from_pretrained(safe), SNAC.from_pretrained(pickled))}
    assert len(prints) == 1


def test_a_fine_tuned_decoder_has_the_same_encoder():
    assert encoder_fingerprint(changed("decoder")) == encoder_fingerprint(build(SPEC))


@pytest.mark.parametrize("part", ["encoder", "quantizer"])
def test_other_weights_before_the_codes_are_another_encoder(part):
    assert encoder_fingerprint(changed(part)) != encoder_fingerprint(build(SPEC))


def test_settings_count_even_where_no_weight_shows_them():
    model = build(SPEC)
    other = SNAC(dataclasses.replace(SPEC, sampling_rate=16_000, output_rates=()))
    other.load_state_dict(model.state_dict())
    assert encoder_fingerprint(other) != encoder_fingerprint(model)


def test_a_decoder_setting_does_not_count():
    model = build(SPEC)
    other = SNAC(dataclasses.replace(SPEC, output_rates=(24_000, 48_000)))
    other.load_state_dict(model.state_dict(), strict=False)
    assert encoder_fingerprint(other) == encoder_fingerprint(model)
