"""Ours is the PyPI package `snac` 1.2.1: keys, codes and audio, for every published geometry, on noise and speech."""

import json
import warnings
from importlib.metadata import version
from pathlib import Path

import pytest
import soundfile
import soxr
import torch
from geometries import DEFAULTS_OF_UPSTREAM, PUBLISHED, build, random_codes, randomise, relative_error, thin, white

from snac_pipeline.codec import SNAC, CodecSpec

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import snac as upstream_package

ROOT = Path(__file__).resolve().parents[2]
SPEECH = {
    "example": ROOT / "examples" / "speech" / "spk01" / "spk01_1.flac",
    "librispeech": ROOT.parent / "shared" / "speech" / "librispeech" / "103" / "103-1240-0000.flac",
}
SOUNDS = ["noise", "silence", *SPEECH]


def sound(name: str, spec: CodecSpec) -> torch.Tensor:
    """Three coarse frames of 24 kHz, or one padded unit of 32/44 kHz, less a bit so that padding counts."""
    samples = max(3 * spec.coarse_frame, spec.padded_length(1)) - 100
    if name == "noise":
        return white(samples)
    if name == "silence":
        return torch.zeros(1, 1, samples)
    if not SPEECH[name].exists():
        pytest.skip(f"{SPEECH[name]} is not here; it is not part of the repository")
    audio, rate = soundfile.read(SPEECH[name], dtype="float32")
    audio = torch.from_numpy(soxr.resample(audio, rate, spec.sampling_rate))
    start = int(audio.abs().argmax()) - samples // 2
    return audio[max(start, 0) :][:samples][None, None]


def upstream_of(spec: CodecSpec) -> upstream_package.SNAC:
    return upstream_package.SNAC(**spec.single_head().to_dict())


@pytest.fixture(scope="module", params=PUBLISHED, ids=list(PUBLISHED))
def pair(request):
    """Upstream's model and ours, at the published size, with upstream's random weights loaded into ours."""
    spec = PUBLISHED[request.param]
    torch.manual_seed(0)
    theirs = randomise(upstream_of(spec)).eval().requires_grad_(False)
    ours = SNAC(spec).eval().requires_grad_(False)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def both(pair, call):
    """What `call` gives for each model from the same generator state, and that both leave the generator alike."""
    results = []
    for model in pair:
        torch.manual_seed(7)
        results.append((call(model), torch.get_rng_state()))
    (theirs, their_state), (ours, our_state) = results
    assert torch.equal(their_state, our_state)
    return theirs, ours


def test_the_package_is_the_version_that_the_facts_are_about():
    assert version("snac") == "1.2.1"


def test_keys_shapes_and_types_are_equal_in_order(pair):
    described = [[(k, v.shape, v.dtype) for k, v in model.state_dict().items()] for model in pair]
    assert described[0] == described[1]


def test_the_state_dict_loads_strictly_both_ways(pair):
    theirs, ours = pair
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    for (name, a), b in zip(theirs.state_dict().items(), ours.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("name", SOUNDS)
def test_reconstruction_has_equal_codes_and_equal_audio(pair, name):
    audio = sound(name, pair[1].spec)
    (their_audio, their_codes), (our_audio, our_codes) = both(pair, lambda model: model(audio))
    assert all(torch.equal(a, b) for a, b in zip(their_codes, our_codes, strict=True))
    assert our_audio.shape == audio.shape
    assert relative_error(our_audio, their_audio) < 1e-5
    if name != "silence":
        assert len(our_codes[-1].unique()) > our_codes[-1].numel() / 4, "codes that hardly vary prove little"


def test_encode_then_decode_is_equal_for_a_batch(pair):
    audio = torch.cat((white(5000, seed=1), white(5000, seed=2)))
    their_codes, our_codes = both(pair, lambda model: model.encode(audio))
    assert all(torch.equal(a, b) for a, b in zip(their_codes, our_codes, strict=True))
    their_audio, our_audio = both(pair, lambda model: model.decode(our_codes))
    assert relative_error(our_audio, their_audio) < 1e-5


def test_the_attributes_that_callers_of_the_package_read_are_equal(pair):
    for name in (
        *("sampling_rate", "encoder_dim", "encoder_rates", "latent_dim", "decoder_dim", "decoder_rates", "hop_length"),
        *("attn_window_size", "codebook_size", "codebook_dim", "vq_strides", "n_codebooks"),
    ):
        assert getattr(pair[1], name) == getattr(pair[0], name), name


def test_the_parts_can_be_called_as_the_packages_own_can(pair):
    codes = random_codes(pair[1].spec, pair[1].spec.alignment)
    theirs, ours = both(pair, lambda model: model.decoder(model.quantizer.from_codes(codes)))
    assert relative_error(ours, theirs) < 1e-5


# ---- what thin models can show ---------------------------------------------------------------------------------

OTHERS = {
    "rates-3377": CodecSpec(sampling_rate=24000, **DEFAULTS_OF_UPSTREAM),
    "no-depthwise": CodecSpec(sampling_rate=24000, **DEFAULTS_OF_UPSTREAM, depthwise=False),
    "no-noise-windowed": CodecSpec(**{**DEFAULTS_OF_UPSTREAM, "attn_window_size": 4}, noise=False),
    "one-level": CodecSpec(**{**DEFAULTS_OF_UPSTREAM, "vq_strides": (2,)}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_unpublished_geometries_agree_too(name):
    ours = build(thin(OTHERS[name]))
    theirs = upstream_of(ours.spec).eval()
    theirs.load_state_dict(ours.state_dict())
    audio = white(30_000, batch=2)
    with torch.no_grad():
        (their_audio, their_codes), (our_audio, our_codes) = both((theirs, ours), lambda model: model(audio))
    assert all(torch.equal(a, b) for a, b in zip(their_codes, our_codes, strict=True))
    assert relative_error(our_audio, their_audio) < 1e-5


def test_the_gradients_of_a_reconstruction_loss_are_equal():
    ours = build(thin(PUBLISHED["32khz"]))
    theirs = upstream_of(ours.spec)
    theirs.load_state_dict(ours.state_dict())
    audio = white(13_000, batch=2)
    both((theirs, ours), lambda model: (model(audio)[0] - audio).abs().mean().backward())
    for (name, a), b in zip(theirs.named_parameters(), ours.parameters(), strict=True):
        if a.grad is None:
            assert b.grad is None or not b.grad.any(), name
        else:
            torch.testing.assert_close(b.grad, a.grad, rtol=1e-3, atol=1e-5 * float(a.grad.abs().max()), msg=name)


def test_equally_near_codes_fall_to_the_same_one():
    ours = build(thin(PUBLISHED["24khz"]))
    with torch.no_grad():
        for quantizer in ours.quantizer.quantizers:
            quantizer.codebook.weight[30:60] = quantizer.codebook.weight[:30]
    theirs = upstream_of(ours.spec)
    theirs.load_state_dict(ours.state_dict())
    with torch.no_grad():
        codes, expected = ours.encode(white(50_000)), theirs.encode(white(50_000))
    assert all(torch.equal(a, b) for a, b in zip(codes, expected, strict=True))
    chosen = torch.cat([level.flatten() for level in codes])
    assert (chosen < 30).sum() > 50, "no tie was met"
    assert not ((chosen >= 30) & (chosen < 60)).any()


# ---- files -----------------------------------------------------------------------------------------------------


def legacy(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The keys that torch.nn.utils.weight_norm wrote before parametrizations."""
    names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    renamed = {}
    for key, value in state.items():
        for new, old in names.items():
            key = key.replace(new, old)
        renamed[key] = value
    return renamed


@pytest.fixture(scope="module", params=PUBLISHED, ids=list(PUBLISHED))
def thin_upstream(request):
    torch.manual_seed(3)
    return randomise(upstream_of(thin(PUBLISHED[request.param])), seed=3).eval(), thin(PUBLISHED[request.param])


def write_upstream_folder(folder, spec, state):
    folder.mkdir()
    config = spec.to_dict()
    del config["latent_dim"]  # the published configs hold null or nothing here
    (folder / "config.json").write_text(json.dumps(config))
    torch.save(state, folder / "pytorch_model.bin")
    return folder


def assert_same_codec(ours, theirs):
    audio = white(20_000)
    with torch.no_grad():
        (their_audio, their_codes), (our_audio, our_codes) = both((theirs, ours), lambda model: model(audio))
    assert not ours.training
    assert all(torch.equal(a, b) for a, b in zip(their_codes, our_codes, strict=True))
    assert relative_error(our_audio, their_audio) < 1e-5


@pytest.mark.parametrize("keys", ["parametrized", "legacy"])
def test_a_folder_saved_by_the_package_loads(thin_upstream, tmp_path, keys):
    theirs, spec = thin_upstream
    state = theirs.state_dict() if keys == "parametrized" else legacy(theirs.state_dict())
    assert any(key.endswith("weight_g") for key in state) == (keys == "legacy")
    assert_same_codec(SNAC.from_pretrained(write_upstream_folder(tmp_path / "codec", spec, state)), theirs)


def test_what_we_save_loads_again_here_and_in_the_package(thin_upstream, tmp_path):
    theirs, spec = thin_upstream
    ours = SNAC(spec)
    ours.load_state_dict(theirs.state_dict())
    folder = ours.save_pretrained(tmp_path / "codec")
    again = SNAC.from_pretrained(str(folder))
    assert_same_codec(again, theirs)
    torch.save(again.state_dict(), folder / "pytorch_model.bin")
    assert_same_codec(again, upstream_package.SNAC.from_pretrained(str(folder)))


def test_a_model_made_from_keywords_is_the_package_s_model_of_those_keywords():
    config = thin(PUBLISHED["24khz"]).to_dict()
    assert SNAC(**config).spec == CodecSpec.from_dict(config)
    assert list(SNAC(**config).state_dict()) == list(upstream_package.SNAC(**config).state_dict())
