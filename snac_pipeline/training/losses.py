"""Reconstruction losses on waveforms of shape (B, 1, T), with samples that do not exist masked out."""

import functools
import warnings

import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor

from snac_pipeline.training.recipe import Losses

POWER_FLOOR = 1e-8
"""Least STFT power; a magnitude of 1e-4, 140 dB below a full-scale sine of n_fft 2048 or so. As auraloss 0.4."""

MEL_FLOOR = 1e-4
"""Least magnitude of a mel band, for bands that no bin falls into."""


def stft_magnitude(audio_BT: Tensor, n_fft: int, *, windowed: bool = True) -> Tensor:
    """Magnitudes (B, n_fft / 2 + 1, frames) with a hop of n_fft / 4, mirrored at the ends.

    windowed: with a periodic Hann window; else none at all, as older scripts for this codec had it.
    """
    missing = n_fft // 2 + 1 - audio_BT.shape[-1]
    if missing > 0:
        audio_BT = F.pad(audio_BT, (0, missing))  # the mirror needs more than half a window
    shape = torch.hann_window if windowed else torch.ones
    window = shape(n_fft, device=audio_BT.device, dtype=audio_BT.dtype)
    spectrum = torch.stft(audio_BT, n_fft, hop_length=n_fft // 4, window=window, return_complex=True)
    return (spectrum.real.square() + spectrum.imag.square()).clamp(min=POWER_FLOOR).sqrt()


@functools.lru_cache(maxsize=32)
def mel_bank(n_fft: int, sample_rate: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Triangular mel filters (HTK) up to half the rate, (bands, n_fft / 2 + 1): n_fft / 8 bands, at most 80.

    Kept where they are needed: copying them there at every step would make the host wait for a GPU.
    """
    bands = min(80, n_fft // 8)
    # Kept for steps that need gradients, whoever asks first. Low bands of short windows may hold no bin: their
    # magnitude is MEL_FLOOR in both signals.
    with torch.inference_mode(False), warnings.catch_warnings(action="ignore", category=UserWarning):
        bank: Tensor = torchaudio.functional.melscale_fbanks(n_fft // 2 + 1, 0.0, sample_rate / 2, bands, sample_rate)
        return bank.T.to(device, dtype)


def reconstruction_losses(
    estimate_B1T: Tensor, target_B1T: Tensor, valid_B: Tensor, sample_rate: int, n_ffts: list[int], weights: Losses
) -> Tensor:
    """The weighted loss of each item, shape (B,).

    L1 is the mean of |estimate - target| over an item's first valid_B samples. The spectral terms are means over time
    and frequency, averaged over `n_ffts`: of |S(estimate) - S(target)| for `magnitude`, S being `stft_magnitude`; of
    the natural logarithms of S for `log_magnitude`; of those of mel bands of S for `mel` (Kong et al., 2020,
    "HiFi-GAN", eq. 4). Samples after valid_B are zeroed in both signals, and the means are over the frames centred on
    samples that exist.

    The terms have different sizes: for a small white error `magnitude` is sqrt(3 n_fft / 16) times L1, 20 times at an
    n_fft of 2048, since its STFT is not normalised.
    """
    mask = torch.arange(target_B1T.shape[-1], device=valid_B.device) < valid_B[:, None]
    estimate, target = estimate_B1T[:, 0] * mask, target_B1T[:, 0] * mask
    total = torch.zeros_like(valid_B, dtype=estimate.dtype)
    if weights.l1:
        total = total + weights.l1 * (estimate - target).abs().sum(dim=1) / valid_B
    if weights.magnitude or weights.log_magnitude or weights.mel:
        for n_fft in n_ffts:
            ours, theirs = (stft_magnitude(x, n_fft, windowed=not weights.compat) for x in (estimate, target))
            frames_B = valid_B // (n_fft // 4) + 1
            if weights.magnitude:
                total = total + weights.magnitude / len(n_ffts) * _distance(ours, theirs, frames_B)
            if weights.log_magnitude:
                total = total + weights.log_magnitude / len(n_ffts) * _distance(ours.log(), theirs.log(), frames_B)
            if weights.mel:
                bank = mel_bank(n_fft, sample_rate, estimate.device, estimate.dtype)
                ours, theirs = ((bank @ magnitude).clamp(min=MEL_FLOOR).log() for magnitude in (ours, theirs))
                total = total + weights.mel / len(n_ffts) * _distance(ours, theirs, frames_B)
    return total


def _distance(ours_BFT: Tensor, theirs_BFT: Tensor, frames_B: Tensor) -> Tensor:
    """Mean absolute difference over frequency and each item's first frames."""
    kept = torch.arange(ours_BFT.shape[-1], device=frames_B.device) < frames_B[:, None]
    return ((ours_BFT - theirs_BFT).abs().mean(dim=1) * kept).sum(dim=1) / frames_B
