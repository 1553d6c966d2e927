"""The loss terms against sums done by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from snac_pipeline.training.losses import POWER_FLOOR, reconstruction_losses, stft_magnitude
from snac_pipeline.training.recipe import Losses

ONLY_L1, ONLY_STFT, ONLY_LOG = Losses(l1=1, stft=0), Losses(l1=0, stft=1), Losses(l1=0, stft=0, log_stft=1)
TERMS = pytest.mark.parametrize("weights", [ONLY_L1, ONLY_STFT, ONLY_LOG], ids=["l1", "stft", "log_stft"])
N_FFTS = [64, 128]


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


@TERMS
def test_equal_signals_have_no_loss(weights):
    audio = sound(600, batch=3)
    assert reconstruction_losses(audio, audio.clone(), full(audio), N_FFTS, weights).tolist() == [0.0] * 3


def test_l1_is_the_mean_absolute_difference_of_each_item():
    target = sound(600, batch=2)
    shift = torch.tensor([0.25, -0.5]).reshape(2, 1, 1)
    losses = reconstruction_losses(target + shift, target, full(target), N_FFTS, ONLY_L1)
    torch.testing.assert_close(losses, torch.tensor([0.25, 0.5]))


def test_the_stft_terms_are_means_over_scales_time_and_frequency():
    ours, theirs = sound(600, seed=1), sound(600, seed=2)
    pairs = [(by_hand(ours[0, 0], n), by_hand(theirs[0, 0], n)) for n in N_FFTS]
    linear = torch.stack([(a - b).abs().mean() for a, b in pairs]).mean()
    logarithmic = torch.stack([(a.log() - b.log()).abs().mean() for a, b in pairs]).mean()
    torch.testing.assert_close(reconstruction_losses(ours, theirs, full(ours), N_FFTS, ONLY_STFT)[0], linear)
    found = reconstruction_losses(ours, theirs, full(ours), N_FFTS, ONLY_LOG)[0]
    torch.testing.assert_close(found, logarithmic, rtol=1e-3, atol=0)


def test_the_log_of_a_doubled_signal_differs_by_log_2_everywhere():
    audio = sound(600)
    assert reconstruction_losses(2 * audio, audio, full(audio), N_FFTS, ONLY_LOG).item() == pytest.approx(math.log(2))


def test_terms_add_up_with_their_weights():
    ours, theirs = sound(600, seed=1), sound(600, seed=2)
    l1, stft, log = (
        reconstruction_losses(ours, theirs, full(ours), N_FFTS, weights) for weights in (ONLY_L1, ONLY_STFT, ONLY_LOG)
    )
    together = reconstruction_losses(ours, theirs, full(ours), N_FFTS, Losses(l1=2, stft=3, log_stft=0.5))
    torch.testing.assert_close(together, 2 * l1 + 3 * stft + 0.5 * log)


@TERMS
@settings(max_examples=20, deadline=None)
@given(valid=st.integers(40, 600), seed=st.integers(0, 99))
def test_what_lies_behind_the_valid_samples_does_not_matter(weights, valid, seed):
    ours, theirs = sound(600, seed=seed), sound(600, seed=seed + 100)
    dirty = ours.clone()
    dirty[..., valid:] = 7.0
    clean = [reconstruction_losses(x, theirs, torch.tensor([valid]), N_FFTS, weights) for x in (ours, dirty)]
    assert torch.equal(*clean)


@TERMS
@settings(max_examples=20, deadline=None)
@given(valid=st.integers(40, 600), padding=st.integers(0, 2000))
def test_how_far_a_short_item_is_padded_does_not_matter(weights, valid, padding):
    """Beyond half a window of zeros, where the edge is that of silence and no longer a mirror."""
    enough = max(N_FFTS) // 2

    def loss(total):
        ours, theirs = (torch.nn.functional.pad(sound(valid, seed=s), (0, total - valid)) for s in (1, 2))
        return reconstruction_losses(ours, theirs, torch.tensor([valid]), N_FFTS, weights).item()

    assert loss(valid + enough + padding) == pytest.approx(loss(valid + enough), rel=1e-4)


@TERMS
def test_a_padded_item_weighs_about_what_it_does_alone(weights):
    ours, theirs = sound(640, seed=1), sound(640, seed=2)
    alone = reconstruction_losses(ours, theirs, full(ours), N_FFTS, weights).item()
    padded = (torch.nn.functional.pad(x, (0, 4000)) for x in (ours, theirs))
    together = reconstruction_losses(*padded, torch.tensor([640]), N_FFTS, weights).item()
    assert together == pytest.approx(alone, rel=0.07)


@TERMS
@pytest.mark.parametrize("samples", [1, 31, 32, 33])
def test_a_sound_shorter_than_half_a_window_has_a_loss(weights, samples):
    """One coarse frame at 24 kHz has 2,048 samples; the largest n_fft of phase 10 is 4,096."""
    ours, theirs = sound(samples, seed=1), sound(samples, seed=2)
    loss = reconstruction_losses(ours, theirs, full(ours), [64], weights)
    assert torch.isfinite(loss).all()
    assert loss.item() > 0


@TERMS
def test_silence_has_finite_gradients(weights):
    estimate = torch.zeros(1, 1, 600, requires_grad=True)
    reconstruction_losses(estimate, sound(600), full(estimate), N_FFTS, weights).sum().backward()
    assert torch.isfinite(estimate.grad).all()
    assert POWER_FLOOR == 1e-8  # as auraloss 0.4.0
