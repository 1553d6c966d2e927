"""Output at twice the sampling rate: one interpolation filter, and the head that learns what the filter cannot know."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snac_pipeline.codec.layers import Snake, masked, residual_units, transposed_conv

HALF_TAPS = 24


def halfband_kernel(dtype: torch.dtype = torch.float32) -> Tensor:
    """The odd phase of a half-band interpolator, (1, 1, 2 * HALF_TAPS): a Kaiser-windowed sinc (beta 9) of sum 1."""
    offsets = torch.arange(-HALF_TAPS, HALF_TAPS, dtype=torch.float64) + 0.5
    window = torch.special.i0(9.0 * torch.sqrt(1 - (offsets / HALF_TAPS) ** 2))
    taps = torch.sinc(offsets) * window
    return (taps / taps.sum()).to(dtype)[None, None]


def double_rate(audio_B1T: Tensor) -> Tensor:
    """Interpolate to twice the rate, (B, 1, T) -> (B, 1, 2T); even samples are the input, bit for bit.

    The project's one definition of "resampled": the double-rate head starts from it, and reports compare with it.
    """
    kernel = halfband_kernel().to(audio_B1T)
    between = F.conv1d(F.pad(audio_B1T, (HALF_TAPS - 1, HALF_TAPS)), kernel)
    return torch.stack((audio_B1T, between), dim=-1).flatten(-2)


class DoubleRateHead(nn.Module):
    """The interpolated sampling_rate output plus a learned branch from the decoder's features.

    The branch's last conv is zero at first, so that an untrained head equals `double_rate` of the pretrained output.
    Inputs: features (B, C, T) and native output (B, 1, T); output (B, 1, 2T).
    """

    def __init__(self, channels: int, depthwise: bool):
        super().__init__()
        half = channels // 2
        last = nn.Conv1d(half, 1, kernel_size=7, padding=3)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        groups = half if depthwise else 1
        self.branch = nn.Sequential(
            Snake(channels),
            transposed_conv(channels, half, kernel_size=4, stride=2, padding=1, groups=groups),
            *residual_units(half, depthwise),
            Snake(half),
            # Without weight norm, which cannot represent a zero weight.
            last,
        )

    def forward(self, features_BCT: Tensor, native_B1T: Tensor, mask_B1T: Tensor | None = None) -> Tensor:
        """`mask_B1T`: 1 where an item has samples, at the native rate; see `layers.masked`."""
        twice = None if mask_B1T is None else mask_B1T.repeat_interleave(2, dim=-1)
        first, upsample, *units, second, last = self.branch
        x = upsample(masked(first(features_BCT), mask_B1T))
        for unit in units:
            x = unit(x, twice)
        return double_rate(native_B1T) + last(masked(second(x), twice))
