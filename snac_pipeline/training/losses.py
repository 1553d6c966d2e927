"""Reconstruction losses on waveforms of shape (B, 1, T), with samples that do not exist masked out."""

import functools

import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor

from snac_pipeline.training.recipe import Losses

POWER_FLOOR = 1e-8
"""Least STFT power; a magnitude of 1e-4, 140 dB below a full-scale sine of n_fft 2048 or so. As auraloss 0.4."""

MEL_FLOOR = 1e-4
"""Least magnitude of a mel band, for bands that no bin falls into."""


def stft_magnitude(audio_BT: Tensor, n_fft: int) -> Tensor:
    """Magnitudes (B, n_fft / 2 + 1, frames) with a Hann window and a hop of n_fft / 4, mirrored at the ends."""
    missing = n_fft // 2 + 1 - audio_BT.shape[-1]
    if missing > 0:
        audio_BT = F.pad(audio_BT, (0, missing))  # the mirror needs more than half a window
    window = torch.hann_window(n_fft, device=audio_BT.device, dtype=audio_BT.dtype)
    spectrum = torch.stft(audio_BT, n_fft, hop_length=n_fft // 4, window=window, return_complex=True)
    return (spectrum.real.square() + spectrum.imag.square()).clamp(min=POWER_FLOOR).sqrt()


@functools.lru_cache(maxsize=32)
def mel_bank(n_fft: int, sample_rate: int) -> Tensor:
    """Triangular mel filters (HTK) up to half the rate, (bands, n_fft / 2 + 1): n_fft / 8 bands, at most 80."""
    bands = min(80, n_fft // 8)
    with torch.inference_mode(False):  # kept for steps that need gradients, whoever asks first
        return torchaudio.functional.melscale_fbanks(n_fft // 2 + 1, 0.0, sample_rate / 2, bands, sample_rate).T


def reconstruction_losses(
    estimate_B1T: Tensor, target_B1T: Tensor, valid_B: Tensor, sample_rate: int, n_ffts: list[int], weights: Losses
) -> Tensor:
    """The weighted loss of each item, shape (B,).

    L1 is the mean of |estimate - target| over an item's first valid_B samples. The STFT terms are the mean over time
    and frequency of |S(estimate) - S(target)| (or of the natural logarithms), averaged over `n_ffts`, and the mel term
    is that of the logarithms of mel-band magnitudes (Kong et al., 2020, "HiFi-GAN", eq. 4); samples after valid_B are
    zeroed in both signals, and the mean is over the frames centred on samples that exist.
    """
    mask = torch.arange(target_B1T.shape[-1], device=valid_B.device) < valid_B[:, None]
    estimate, target = estimate_B1T[:, 0] * mask, target_B1T[:, 0] * mask
    total = torch.zeros_like(valid_B, dtype=estimate.dtype)
    if weights.l1:
        total = total + weights.l1 * (estimate - target).abs().sum(dim=1) / valid_B
    if weights.stft or weights.log_stft or weights.mel:
        for n_fft in n_ffts:
            ours, theirs = stft_magnitude(estimate, n_fft), stft_magnitude(target, n_fft)
            frames_B = valid_B // (n_fft // 4) + 1
            if weights.stft:
                total = total + weights.stft / len(n_ffts) * _mean((ours - theirs).abs(), frames_B)
            if weights.log_stft:
                total = total + weights.log_stft / len(n_ffts) * _mean((ours.log() - theirs.log()).abs(), frames_B)
            if weights.mel:
                bank = mel_bank(n_fft, sample_rate).to(ours)
                ours, theirs = ((bank @ magnitude).clamp(min=MEL_FLOOR).log() for magnitude in (ours, theirs))
                total = total + weights.mel / len(n_ffts) * _mean((ours - theirs).abs(), frames_B)
    return total


def _mean(difference_BFT: Tensor, frames_B: Tensor) -> Tensor:
    """Mean over frequency and each item's first frames."""
    kept = torch.arange(difference_BFT.shape[-1], device=frames_B.device) < frames_B[:, None]
    return (difference_BFT.mean(dim=1) * kept).sum(dim=1) / frames_B
