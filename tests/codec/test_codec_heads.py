"""Output at twice the rate: the interpolator, the untrained head that equals it, and who trains whom."""

import dataclasses
import json
import math

import pytest
import torch
from geometries import PUBLISHED, build, random_codes, relative_error, thin, two_heads, white
from torch.utils.flop_counter import FlopCounterMode

from snac_pipeline.codec import SNAC, CodecSpec, Noise, double_rate
from snac_pipeline.errors import PipelineError

RATE = 24000
EDGE = 100


@pytest.fixture(scope="module")
def base():
    return build(thin(PUBLISHED["24khz"]))


FORMS = [
    {},
    {"double_head_upsampler": "dense"},
    {"double_head_upsampler": "dense", "double_head_interpolated": False},
    {"double_head_interpolated": False},
]
forms = pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(map(str, form.values())) or "default")


def with_head(base, trained=False, **form):
    """The base's weights and a second head; an untrained one unless its branch is to count."""
    model = (build if trained else SNAC)(dataclasses.replace(two_heads(base.spec), **form))
    model.load_state_dict(base.state_dict(), strict=False)
    return model.eval()


@pytest.fixture(scope="module")
def dual(base):
    return with_head(base)


# ---- the interpolator ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 47, 1000])
def test_even_samples_are_the_input_bit_for_bit(length):
    audio = white(length, batch=3)
    assert double_rate(audio).shape == (3, 1, 2 * length)
    assert torch.equal(double_rate(audio)[..., ::2], audio)


@pytest.mark.parametrize("share", [0.001, 0.1, 0.25, 0.35, 0.4], ids=lambda share: f"{share}-of-rate")
def test_a_sine_below_0_4_of_the_rate_is_interpolated_to_less_than_minus_60_db(share):
    times = torch.arange(4000, dtype=torch.float64) / 2
    sine = torch.sin(2 * math.pi * share * times + 0.3)
    error = (double_rate(sine[None, None, ::2].float())[0, 0] - sine)[EDGE:-EDGE]
    assert 20 * math.log10(float(error.square().mean().sqrt() / sine.square().mean().sqrt())) < -60


def test_a_constant_stays_constant():
    error = (double_rate(torch.ones(1, 1, 500)) - 1)[..., EDGE:-EDGE]
    assert error.abs().max() < 1e-6


def test_interpolation_keeps_the_type_and_lets_gradients_through():
    audio = white(50, dtype=torch.float64).requires_grad_()
    assert double_rate(audio).dtype == torch.float64
    assert torch.autograd.gradcheck(double_rate, audio)


# ---- the head --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("upsampler", ["depthwise", "dense"])
def test_an_untrained_head_is_the_interpolated_native_output(base, upsampler):
    dual = with_head(base, double_head_upsampler=upsampler)
    codes = random_codes(base.spec, 4, batch=2)
    with torch.no_grad():
        native = base.decode(codes, noise="seeded", seed=3)
        double = dual.decode(codes, noise="seeded", seed=3, output_rate=2 * RATE)
    assert native.std() > 0.005
    assert relative_error(double, double_rate(native)) < 1e-6


@forms
@pytest.mark.parametrize("noise", ["upstream", "seeded", "off"])
def test_a_trained_head_leaves_the_native_output_as_it_was_bit_for_bit(base, noise, form):
    codes = random_codes(base.spec, 4)
    outputs = []
    with torch.no_grad():
        for model in (base, with_head(base, trained=True, **form)):
            torch.manual_seed(1)
            outputs.append(model.decode(codes, noise=noise))
    assert torch.equal(*outputs)


def test_a_trained_head_adds_to_the_interpolated_output(base):
    codes = random_codes(base.spec, 4)
    with torch.no_grad():
        double = with_head(base, trained=True).decode(codes, noise="off", output_rate=2 * RATE)
        assert relative_error(double, double_rate(base.decode(codes, noise="off"))) > 0.01


def test_both_rates_of_one_pass_share_one_draw_of_noise(dual):
    with torch.no_grad():
        latents = dual.dequantize(random_codes(dual.spec, 2))
        outputs = dual.synthesize(latents, Noise("upstream"), (RATE, 2 * RATE))
    assert torch.equal(outputs[2 * RATE][..., ::2], outputs[RATE])


def test_the_untrained_branch_learns():
    dual = SNAC(two_heads(thin(PUBLISHED["24khz"])))
    outputs = dual.synthesize(dual.dequantize(random_codes(dual.spec, 2)), Noise("off"), (2 * RATE,))
    outputs[2 * RATE].square().sum().backward()
    assert dual.double_rate_head.branch[-1].weight.grad.abs().max() > 0


@pytest.mark.parametrize("detach", [True, False], ids=["detached", "attached"])
def test_detaching_keeps_the_double_rate_loss_from_the_native_head_and_from_it_alone(base, detach):
    model = with_head(base, trained=True)
    latents = model.dequantize(random_codes(model.spec, 2))
    native_head, trunk = model.decoder.model[-2], model.decoder.model[0]

    def gradients(*rates):
        model.zero_grad(set_to_none=True)
        outputs = model.synthesize(latents.detach(), Noise("off"), (RATE, 2 * RATE), detach_native=detach)
        sum(outputs[rate].square().sum() for rate in rates).backward()
        return [m.parametrizations.weight.original1.grad for m in (native_head, trunk)]

    from_double, trunk_from_double = gradients(2 * RATE)
    from_native, _ = gradients(RATE)
    from_both, _ = gradients(RATE, 2 * RATE)
    assert from_native.abs().max() > 0 and trunk_from_double.abs().max() > 0
    if detach:
        assert from_double is None
        torch.testing.assert_close(from_both, from_native)
    else:
        torch.testing.assert_close(from_both, from_native + from_double)
        assert from_double.abs().max() > 0


# ---- a head that begins as a copy ------------------------------------------------------------------------------


def copied(base):
    """A codec with a dense head, before and after taking over the decoder's last block and published head."""
    model = with_head(base, double_head_upsampler="dense", double_head_interpolated=False)
    before = {name: value.clone() for name, value in model.double_rate_head.state_dict().items()}
    snake, last, _ = model.decoder.model[-3:]
    model.double_rate_head.copy_decoder(model.decoder.trunk[-1], snake, last)
    return model, before


def test_copying_changes_every_weight_of_the_head(base):
    model, before = copied(base)
    after = model.double_rate_head.state_dict()
    same = [name for name, value in after.items() if torch.equal(value, before[name])]
    assert same == []
    assert all(value.is_contiguous() for value in after.values())  # or no checkpoint can be written


def test_a_copied_head_acts_with_the_effective_weights_of_its_source(base):
    model, _ = copied(base)
    first, upsample, *units, second, last = model.double_rate_head.branch
    block, (snake, conv, _) = model.decoder.trunk[-1].block, model.decoder.model[-3:]
    width = upsample.in_channels
    torch.testing.assert_close(upsample.weight, block[1].weight[:width])
    x = torch.randn(2, width, 50)
    with torch.no_grad():
        for ours, theirs in zip(units, block[-3:], strict=True):
            torch.testing.assert_close(ours(x), theirs(x))
        torch.testing.assert_close(
            first(x), x + torch.sin(block[0].alpha[:, :width] * x) ** 2 / block[0].alpha[:, :width]
        )
        torch.testing.assert_close(last(second(x)), conv(snake(x)))


def test_a_copied_head_stays_a_copy_in_its_folder_and_can_be_trained(base, tmp_path):
    model, _ = copied(base)
    again = SNAC.from_pretrained(model.save_pretrained(tmp_path / "codec"))
    upsample = again.double_rate_head.branch[1]
    torch.testing.assert_close(upsample.weight, base.decoder.trunk[-1].block[1].weight[: upsample.in_channels])
    codes = random_codes(base.spec, 2)
    again.synthesize(again.dequantize(codes), Noise("off"), (2 * RATE,))[2 * RATE].square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in again.double_rate_head.parameters())


def test_a_block_that_upsamples_by_more_than_2_cannot_be_copied():
    spec = thin(PUBLISHED["24khz"], decoder_rates=(8, 8, 2, 4))
    with pytest.raises(PipelineError, match="upsamples by 4, the head by 2"):
        copied(build(spec))


# ---- its interface ---------------------------------------------------------------------------------------------


def test_the_first_output_rate_is_the_default_and_length_counts_native_samples(dual):
    codes = random_codes(dual.spec, 2)
    with torch.no_grad():
        assert dual.decode(codes, 1001).shape[-1] == 1001
        assert dual.decode(codes, 1001, output_rate=2 * RATE).shape[-1] == 2002
        only_double = SNAC(thin(PUBLISHED["24khz"], output_rates=(2 * RATE,)))
        assert only_double.decode(codes, 1001).shape[-1] == 2002
        assert only_double(white(1001))[0].shape[-1] == 2002


@pytest.mark.parametrize("rate", [48000, 44100])
def test_a_rate_that_the_codec_does_not_have_is_a_clear_error(base, rate):
    with pytest.raises(PipelineError, match=rf"decodes to 24000 Hz, not to {rate} Hz"):
        base.decode(random_codes(base.spec, 1), output_rate=rate)


@forms
def test_a_codec_with_two_heads_survives_its_folder(base, tmp_path, form):
    model = with_head(base, trained=True, **form)
    again = SNAC.from_pretrained(model.save_pretrained(tmp_path / "codec"))
    assert again.spec == model.spec
    codes = random_codes(base.spec, 2)
    with torch.no_grad():
        for rate in (RATE, 2 * RATE):
            outputs = (m.decode(codes, noise="seeded", output_rate=rate) for m in (model, again))
            assert torch.equal(*outputs)


def test_a_folder_from_before_heads_had_forms_has_the_depthwise_interpolating_one(base, tmp_path):
    model = with_head(base, trained=True)
    file = model.save_pretrained(tmp_path / "codec") / "config.json"
    config = json.loads(file.read_text())
    assert (config.pop("double_head_upsampler"), config.pop("double_head_interpolated")) == ("depthwise", True)
    file.write_text(json.dumps(config))
    again = SNAC.from_pretrained(tmp_path / "codec")
    assert again.spec == model.spec
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


def test_a_codec_without_a_second_head_says_nothing_of_one(base):
    spec = dataclasses.replace(base.spec, double_head_upsampler="dense", double_head_interpolated=False)
    assert spec == base.spec
    assert not [name for name in spec.to_dict() if "double" in name]


@pytest.mark.parametrize("change", [{"double_head_upsampler": "sparse"}, {"double_head_interpolated": 1}])
def test_a_head_of_no_known_form_is_a_clear_error(base, change):
    with pytest.raises(PipelineError, match=next(iter(change))):
        CodecSpec.from_dict({**two_heads(base.spec).to_dict(), **change})


def test_the_default_head_costs_a_few_percent_and_the_dense_one_as_much_again_as_the_decoder():
    def flops(spec):
        with torch.device("meta"):
            model = SNAC(spec)
            latents = torch.empty(1, spec.latent_dim, 94)
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                model.synthesize(latents, Noise("upstream"), (max(spec.output_rates),))
        return counter.get_total_flops()

    spec = PUBLISHED["24khz"]
    base = flops(spec)
    assert 1.03 < flops(two_heads(spec)) / base < 1.08
    assert 2.0 < flops(dataclasses.replace(two_heads(spec), double_head_upsampler="dense")) / base < 2.1
