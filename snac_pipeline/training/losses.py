"""Reconstruction losses on waveforms of shape (B, 1, T), with samples that do not exist masked out."""

import torch
from torch import Tensor

from snac_pipeline.training.recipe import Losses

POWER_FLOOR = 1e-8
"""Least STFT power; a magnitude of 1e-4, 140 dB below a full-scale sine of n_fft 2048 or so. As auraloss 0.4."""


def stft_magnitude(audio_BT: Tensor, n_fft: int) -> Tensor:
    """Magnitudes (B, n_fft / 2 + 1, frames) with a Hann window and a hop of n_fft / 4."""
    window = torch.hann_window(n_fft, device=audio_BT.device, dtype=audio_BT.dtype)
    spectrum = torch.stft(audio_BT, n_fft, hop_length=n_fft // 4, window=window, return_complex=True)
    return (spectrum.real.square() + spectrum.imag.square()).clamp(min=POWER_FLOOR).sqrt()


def reconstruction_losses(
    estimate_B1T: Tensor, target_B1T: Tensor, valid_B: Tensor, n_ffts: list[int], weights: Losses
) -> Tensor:
    """The weighted loss of each item, shape (B,).

    L1 is the mean of |estimate - target| over an item's first valid_B samples. The STFT terms are the mean over time
    and frequency of |S(estimate) - S(target)| (or of the logarithms), averaged over `n_ffts`; samples after valid_B
    are zeroed in both signals and the mean is taken over the valid share of time.
    """
    length = target_B1T.shape[-1]
    mask = torch.arange(length, device=valid_B.device) < valid_B[:, None]
    estimate, target = estimate_B1T[:, 0] * mask, target_B1T[:, 0] * mask
    share = valid_B.to(estimate.dtype) / length
    total = torch.zeros_like(share)
    if weights.l1:
        total = total + weights.l1 * (estimate - target).abs().mean(dim=1)
    if weights.stft or weights.log_stft:
        for n_fft in n_ffts:
            ours, theirs = stft_magnitude(estimate, n_fft), stft_magnitude(target, n_fft)
            if weights.stft:
                total = total + weights.stft / len(n_ffts) * (ours - theirs).abs().mean(dim=(1, 2))
            if weights.log_stft:
                total = total + weights.log_stft / len(n_ffts) * (ours.log() - theirs.log()).abs().mean(dim=(1, 2))
    return total / share
