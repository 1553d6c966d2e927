"""Output at twice the rate: the interpolator, the untrained head that equals it, and who trains whom."""

import math

import pytest
import torch
from geometries import PUBLISHED, build, random_codes, relative_error, thin, two_heads, white

from snac_pipeline.codec import SNAC, Noise, double_rate
from snac_pipeline.errors import PipelineError

RATE = 24000
EDGE = 100


@pytest.fixture(scope="module")
def base():
    return build(thin(PUBLISHED["24khz"]))


def with_head(base, trained=False):
    """The base's weights and a second head; an untrained one unless its branch is to count."""
    model = (build if trained else SNAC)(two_heads(base.spec))
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


def test_an_untrained_head_is_the_interpolated_native_output(base, dual):
    codes = random_codes(base.spec, 4, batch=2)
    with torch.no_grad():
        native = base.decode(codes, noise="seeded", seed=3)
        double = dual.decode(codes, noise="seeded", seed=3, output_rate=2 * RATE)
    assert native.std() > 0.005
    assert relative_error(double, double_rate(native)) < 1e-6


@pytest.mark.parametrize("noise", ["upstream", "seeded", "off"])
def test_a_trained_head_leaves_the_native_output_as_it_was_bit_for_bit(base, noise):
    codes = random_codes(base.spec, 4)
    outputs = []
    with torch.no_grad():
        for model in (base, with_head(base, trained=True)):
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
    with pytest.raises(PipelineError, match=rf"decodes to \(24000,\) Hz, not to {rate} Hz"):
        base.decode(random_codes(base.spec, 1), output_rate=rate)


def test_a_codec_with_two_heads_survives_its_folder(base, tmp_path):
    model = with_head(base, trained=True)
    again = SNAC.from_pretrained(model.save_pretrained(tmp_path / "codec"))
    codes = random_codes(base.spec, 2)
    with torch.no_grad():
        for rate in (RATE, 2 * RATE):
            outputs = (m.decode(codes, noise="seeded", output_rate=rate) for m in (model, again))
            assert torch.equal(*outputs)
