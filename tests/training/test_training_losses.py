"""The loss terms against sums done by hand, and against auraloss where the definitions meet."""

import math

import auraloss
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from snac_pipeline.training.losses import POWER_FLOOR, mel_bank, reconstruction_losses, stft_magnitude
from snac_pipeline.training.recipe import Losses

TERM_NAMES = ("l1", "magnitude", "log_magnitude", "mel")
ONLY_L1, ONLY_MAGNITUDE, ONLY_LOG, ONLY_MEL = (
    Losses(**{name: float(name == term) for name in TERM_NAMES}) for term in TERM_NAMES
)
TERMS = pytest.mark.parametrize("weights", [ONLY_L1, ONLY_MAGNITUDE, ONLY_LOG, ONLY_MEL], ids=TERM_NAMES)
N_FFTS = [64, 128]
RATE = 24_000


def sound(samples, batch=1, seed=0):
    return 0.3 * torch.randn(batch, 1, samples, generator=torch.Generator().manual_seed(seed))


def full(audio):
    return torch.full((audio.shape[0],), audio.shape[-1])


def by_hand(audio_T, n_fft):
    """|STFT| frame by frame: reflected at the ends, times a periodic Hann window, real FFT."""
    hop, half = n_fft // 4, n_fft // 2
    padded = torch.cat([audio_T[1 : half + 1].flip(0), audio_T, audio_T[-half - 1 : -1].flip(0)])
    window = torch.tensor([math.sin(math.pi * i / n_fft) ** 2 for i in range(n_fft)])
    frames = [padded[i : i + n_fft] * window for i in range(0, len(padded) - n_fft + 1, hop)]
    return torch.stack([torch.fft.rfft(frame).abs() for frame in frames], dim=1)


@pytest.mark.parametrize("n_fft", [64, 256])
def test_the_stft_is_the_windowed_one_with_a_hop_of_a_quarter(n_fft):
    audio = sound(1000)[0]
    ours = stft_magnitude(audio, n_fft)[0]
    torch.testing.assert_close(ours, by_hand(audio[0], n_fft), rtol=1e-4, atol=2e-4)
    unwindowed = torch.stft(audio[0], n_fft, n_fft // 4, window=torch.ones(n_fft), return_complex=True).abs()
    assert (ours - unwindowed).abs().mean() > 0.1 * ours.mean()
    torch.testing.assert_close(stft_magnitude(audio, n_fft, windowed=False)[0], unwindowed, rtol=1e-5, atol=1e-4)


def test_compat_is_the_older_magnitude_loss_without_a_window():
    ours, theirs = sound(9000, batch=2, seed=1), sound(9000, batch=2, seed=2)

    def older(n_fft, item):
        a, b = (torch.stft(x[item, 0], n_fft, n_fft // 4, window=torch.ones(n_fft), return_complex=True).abs()
                for x in (ours, theirs))  # fmt: skip
        return (a - b).abs().mean()

    scales = [1024, 2048, 4096]
    expected = torch.stack([torch.stack([older(n, item) for n in scales]).mean() for item in (0, 1)])
    compat = ONLY_MAGNITUDE.model_copy(update={"compat": True})
    found = reconstruction_losses(ours, theirs, full(ours), RATE, scales, compat)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    windowed = reconstruction_losses(ours, theirs, full(ours), RATE, scales, ONLY_MAGNITUDE)
    assert (windowed / found - math.sqrt(3 / 8)).abs().max() < 0.02  # what the window leaves of white noise


@TERMS
def test_equal_signals_have_no_loss(weights):
    audio = sound(600, batch=3)
    assert reconstruction_losses(audio, audio.clone(), full(audio), RATE, N_FFTS, weights).tolist() == [0.0] * 3


def test_l1_is_the_mean_absolute_difference_of_each_item():
    target = sound(600, batch=2)
    shift = torch.tensor([0.25, -0.5]).reshape(2, 1, 1)
    losses = reconstruction_losses(target + shift, target, full(target), RATE, N_FFTS, ONLY_L1)
    torch.testing.assert_close(losses, torch.tensor([0.25, 0.5]))


def test_the_stft_terms_are_means_over_scales_time_and_frequency():
    ours, theirs = sound(600, seed=1), sound(600, seed=2)
    pairs = [(by_hand(ours[0, 0], n), by_hand(theirs[0, 0], n)) for n in N_FFTS]
    linear = torch.stack([(a - b).abs().mean() for a, b in pairs]).mean()
    logarithmic = torch.stack([(a.log() - b.log()).abs().mean() for a, b in pairs]).mean()
    torch.testing.assert_close(reconstruction_losses(ours, theirs, full(ours), RATE, N_FFTS, ONLY_MAGNITUDE)[0], linear)
    found = reconstruction_losses(ours, theirs, full(ours), RATE, N_FFTS, ONLY_LOG)[0]
    torch.testing.assert_close(found, logarithmic, rtol=1e-3, atol=0)


def test_the_mel_term_is_the_mean_over_scales_time_and_bands_of_log_magnitudes():
    ours, theirs = sound(600, seed=1), sound(600, seed=2)
    distances = []
    for n_fft, bands in ((64, 8), (128, 16)):
        bank = triangles(bands, n_fft)
        a, b = ((bank @ by_hand(x[0, 0], n_fft)).clamp(min=1e-4).log() for x in (ours, theirs))
        distances.append((a - b).abs().mean())
    found = reconstruction_losses(ours, theirs, full(ours), RATE, N_FFTS, ONLY_MEL)[0]
    torch.testing.assert_close(found, torch.stack(distances).mean(), rtol=1e-3, atol=0)


def triangles(bands, n_fft):
    """Mel filters by their definition: triangles of height 1 between points evenly spaced in HTK mel."""
    points = [700 * (10 ** (mel / 2595) - 1)
              for mel in torch.linspace(0, 2595 * math.log10(1 + RATE / 2 / 700), bands + 2).tolist()]  # fmt: skip
    bank = torch.zeros(bands, n_fft // 2 + 1)
    for band, (low, middle, high) in enumerate(zip(points, points[1:], points[2:], strict=False)):
        for bin in range(n_fft // 2 + 1):
            hertz = bin * RATE / n_fft
            bank[band, bin] = max(0.0, min((hertz - low) / (middle - low), (high - hertz) / (high - middle)))
    return bank


def aura(n_ffts, **terms):
    """auraloss's loss of one item at our scales, averaged over them."""
    return auraloss.freq.MultiResolutionSTFTLoss(
        fft_sizes=n_ffts, hop_sizes=[n // 4 for n in n_ffts], win_lengths=n_ffts, w_sc=0.0, **terms
    )


@pytest.mark.parametrize("name, theirs", [("magnitude", "w_lin_mag"), ("log_magnitude", "w_log_mag")])
@pytest.mark.parametrize("window", ["hann_window", "ones"])
@pytest.mark.parametrize("silent", [False, True], ids=["noise", "beside_silence"])
def test_the_stft_terms_are_those_of_auraloss(name, theirs, window, silent):
    estimate, target = sound(30_000, seed=1), sound(30_000, seed=2)
    if silent:
        estimate[..., 10_000:] = 0.0
    terms = {"w_lin_mag": 0.0, "w_log_mag": 0.0, theirs: 1.0, "window": window}
    weights = Losses(**{term: float(term == name) for term in TERM_NAMES}, compat=window == "ones")
    found = reconstruction_losses(estimate, target, full(target), RATE, [1024, 2048, 4096], weights)[0]
    torch.testing.assert_close(found, aura([1024, 2048, 4096], **terms)(estimate, target), rtol=1e-5, atol=0)


def test_the_mel_term_is_that_of_auraloss_with_our_filters():
    """Its own filters are librosa's (Slaney's scale, of area 1), with no floor under the bands: there they part."""
    estimate, target = sound(30_000, seed=1), sound(30_000, seed=2)
    theirs = auraloss.freq.STFTLoss(2048, 512, 2048, w_sc=0.0)
    theirs.fb, theirs.scale = mel_bank(2048, RATE, torch.device("cpu"), torch.float32), "mel"
    found = reconstruction_losses(estimate, target, full(target), RATE, [2048], ONLY_MEL)[0]
    torch.testing.assert_close(found, theirs(estimate, target), rtol=1e-5, atol=0)


@pytest.mark.parametrize("n_fft", [512, 2048])
def test_the_magnitude_term_is_no_l1_of_real_and_imaginary_parts_and_outweighs_the_waveform_less(n_fft):
    """Of a small white error those are sqrt(2 n_fft) times L1, 64 times at 2048, when the STFT has no window."""
    target = sound(60_000, seed=1)
    estimate = target + 0.001 * torch.randn(target.shape, generator=torch.Generator().manual_seed(2))
    l1, magnitude = (
        reconstruction_losses(estimate, target, full(target), RATE, [n_fft], only).item()
        for only in (ONLY_L1, ONLY_MAGNITUDE)
    )
    error = torch.stft((estimate - target)[0], n_fft, n_fft // 4, window=torch.ones(n_fft), return_complex=True)
    assert (error.real.abs().mean() + error.imag.abs().mean()).item() / l1 == pytest.approx(
        math.sqrt(2 * n_fft), rel=0.03
    )
    assert magnitude / l1 == pytest.approx(math.sqrt(3 * n_fft / 16), rel=0.03)
    assert reconstruction_losses(-target, target, full(target), RATE, [n_fft], ONLY_MAGNITUDE).item() < 1e-5


def test_noise_in_the_place_of_noise_has_a_smaller_mel_loss_than_silence_has():
    """What L1 gets wrong: where the phase cannot be known, it likes silence best."""
    audio, other = sound(24_000, seed=1), sound(24_000, seed=2)
    silence = torch.zeros_like(audio)
    l1, mel = (
        [reconstruction_losses(x, audio, full(audio), RATE, N_FFTS, only).item() for x in (other, silence)]
        for only in (ONLY_L1, ONLY_MEL)
    )
    assert l1[1] < l1[0]
    assert mel[0] < 0.1 * mel[1]


@pytest.mark.parametrize("weights", [ONLY_LOG, ONLY_MEL], ids=["log_magnitude", "mel"])
def test_the_log_of_a_doubled_signal_differs_by_log_2_everywhere(weights):
    audio = sound(600)
    found = reconstruction_losses(2 * audio, audio, full(audio), RATE, [256], weights).item()
    assert found == pytest.approx(math.log(2))


def test_terms_add_up_with_their_weights():
    ours, theirs = sound(600, seed=1), sound(600, seed=2)
    l1, magnitude, log, mel = (
        reconstruction_losses(ours, theirs, full(ours), RATE, N_FFTS, weights)
        for weights in (ONLY_L1, ONLY_MAGNITUDE, ONLY_LOG, ONLY_MEL)
    )
    weights = Losses(l1=2, magnitude=3, log_magnitude=0.5, mel=4)
    together = reconstruction_losses(ours, theirs, full(ours), RATE, N_FFTS, weights)
    torch.testing.assert_close(together, 2 * l1 + 3 * magnitude + 0.5 * log + 4 * mel)


def test_the_mel_bank_that_a_measurement_made_serves_training_too():
    mel_bank.cache_clear()
    ours, theirs = sound(600, seed=1).requires_grad_(), sound(600, seed=2)
    with torch.inference_mode():
        reconstruction_losses(ours, theirs, full(ours), RATE, N_FFTS, ONLY_MEL)
    reconstruction_losses(ours, theirs, full(ours), RATE, N_FFTS, ONLY_MEL).sum().backward()
    assert ours.grad.abs().sum() > 0


@TERMS
@settings(max_examples=20, deadline=None)
@given(valid=st.integers(40, 600), seed=st.integers(0, 99))
def test_what_lies_behind_the_valid_samples_does_not_matter(weights, valid, seed):
    ours, theirs = sound(600, seed=seed), sound(600, seed=seed + 100)
    dirty = ours.clone()
    dirty[..., valid:] = 7.0
    clean = [reconstruction_losses(x, theirs, torch.tensor([valid]), RATE, N_FFTS, weights) for x in (ours, dirty)]
    assert torch.equal(*clean)


@TERMS
@settings(max_examples=20, deadline=None)
@given(valid=st.integers(40, 600), padding=st.integers(0, 2000))
def test_how_far_a_short_item_is_padded_does_not_matter(weights, valid, padding):
    """Beyond half a window of zeros, where the edge is that of silence and no longer a mirror."""
    enough = max(N_FFTS) // 2

    def loss(total):
        ours, theirs = (torch.nn.functional.pad(sound(valid, seed=s), (0, total - valid)) for s in (1, 2))
        return reconstruction_losses(ours, theirs, torch.tensor([valid]), RATE, N_FFTS, weights).item()

    assert loss(valid + enough + padding) == pytest.approx(loss(valid + enough), rel=1e-4)


@TERMS
def test_a_padded_item_weighs_about_what_it_does_alone(weights):
    ours, theirs = sound(640, seed=1), sound(640, seed=2)
    alone = reconstruction_losses(ours, theirs, full(ours), RATE, N_FFTS, weights).item()
    padded = (torch.nn.functional.pad(x, (0, 4000)) for x in (ours, theirs))
    together = reconstruction_losses(*padded, torch.tensor([640]), RATE, N_FFTS, weights).item()
    assert together == pytest.approx(alone, rel=0.07)


@TERMS
@pytest.mark.parametrize("samples", [1, 31, 32, 33])
def test_a_sound_shorter_than_half_a_window_has_a_loss(weights, samples):
    """One coarse frame at 24 kHz has 2,048 samples; the largest n_fft of phase 10 is 4,096."""
    ours, theirs = sound(samples, seed=1), sound(samples, seed=2)
    loss = reconstruction_losses(ours, theirs, full(ours), RATE, [64], weights)
    assert torch.isfinite(loss).all()
    assert loss.item() > 0


@TERMS
def test_silence_has_finite_gradients(weights):
    estimate = torch.zeros(1, 1, 600, requires_grad=True)
    reconstruction_losses(estimate, sound(600), full(estimate), RATE, N_FFTS, weights).sum().backward()
    assert torch.isfinite(estimate.grad).all()
    assert POWER_FLOOR == 1e-8  # as auraloss 0.4.0
