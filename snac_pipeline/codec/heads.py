"""Output at twice the sampling rate: one interpolation filter, and the head that learns what the filter cannot know."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snac_pipeline.codec.layers import (
    DecoderBlock,
    ResidualUnit,
    Snake,
    masked,
    of_kind,
    residual_units,
    transposed_conv,
)
from snac_pipeline.codec.spec import Upsampler
from snac_pipeline.errors import PipelineError

HALF_TAPS = 24

Convolution = nn.Conv1d | nn.ConvTranspose1d


def _halfband_taps() -> Tensor:
    offsets = torch.arange(-HALF_TAPS, HALF_TAPS, dtype=torch.float64) + 0.5
    window = torch.special.i0(9.0 * torch.sqrt(1 - (offsets / HALF_TAPS) ** 2))
    taps: Tensor = torch.sinc(offsets) * window
    return (taps / taps.sum())[None, None]


# Made once: a constant to what exports the model, which may know no Bessel functions.
_HALFBAND = _halfband_taps()


def halfband_kernel(dtype: torch.dtype = torch.float32) -> Tensor:
    """The odd phase of a half-band interpolator, (1, 1, 2 * HALF_TAPS): a Kaiser-windowed sinc (beta 9) of sum 1."""
    return _HALFBAND.to(dtype)


def double_rate(audio_B1T: Tensor, kernel: Tensor | None = None) -> Tensor:
    """Interpolate to twice the rate, (B, 1, T) -> (B, 1, 2T); even samples are the input, bit for bit.

    kernel: `halfband_kernel` where it is on the audio's device already; a GPU would have the host wait for its copy.
    The project's one definition of "resampled": the double-rate head starts from it, and reports compare with it.
    """
    kernel = (halfband_kernel() if kernel is None else kernel).to(audio_B1T)
    between = F.conv1d(F.pad(audio_B1T, (HALF_TAPS - 1, HALF_TAPS)), kernel)
    return torch.stack((audio_B1T, between), dim=-1).flatten(-2)


class DoubleRateHead(nn.Module):
    """The output at twice the sampling rate, from the decoder's features (B, C, T) and its native output (B, 1, T).

    A learned branch: Snake, upsampling by 2, residual units, Snake, conv. In the `depthwise` form it is C / 2 channels
    wide, in the `dense` form C, with every conv over all channels. With `interpolated` the branch is added to
    `double_rate` of the native output, and its last conv is zero at first, so that an untrained head equals that.
    Without, tanh of the branch is the output, as the published head gives it.
    """

    def __init__(self, channels: int, depthwise: bool, upsampler: Upsampler = "depthwise", interpolated: bool = True):
        super().__init__()
        self.interpolated = interpolated
        self.kernel: Tensor
        self.register_buffer("kernel", halfband_kernel(), persistent=False)
        width = channels if upsampler == "dense" else channels // 2
        grouped = depthwise and upsampler == "depthwise"
        # Without weight norm, which cannot represent a zero weight.
        last = nn.Conv1d(width, 1, kernel_size=7, padding=3)
        if interpolated:
            for parameter in last.parameters():
                nn.init.zeros_(parameter)
        self.branch = nn.Sequential(
            Snake(channels),
            transposed_conv(channels, width, kernel_size=4, stride=2, padding=1, groups=width if grouped else 1),
            *residual_units(width, grouped),
            Snake(width),
            last,
        )

    def forward(self, features_BCT: Tensor, native_B1T: Tensor, mask_B1T: Tensor | None = None) -> Tensor:
        """(B, 1, 2T). `mask_B1T`: 1 where an item has samples, at the native rate; see `layers.masked`."""
        twice = None if mask_B1T is None else mask_B1T.repeat_interleave(2, dim=-1)
        first, upsample, *units, second, last = self.branch
        x = upsample(masked(first(features_BCT), mask_B1T))
        for unit in units:
            x = unit(x, twice)
        x = last(masked(second(x), twice).to(next(last.parameters()).dtype))
        return double_rate(native_B1T, self.kernel) + x if self.interpolated else torch.tanh(x)

    @torch.no_grad()
    def copy_decoder(self, block: DecoderBlock, snake: Snake, conv: nn.Conv1d) -> None:
        """Take the weights of the decoder's last block and of its published head (Snake and conv), as they act.

        The block has 2C input channels and this head C: its first C are taken. A depthwise conv becomes a dense one
        whose other weights are zero. Only for a `dense` head; raises PipelineError where the block's upsampling has
        another shape than the head's.
        """
        (first, second), [upsample] = of_kind(self.branch, Snake), of_kind(self.branch, nn.ConvTranspose1d)
        [block_snake], [block_upsample] = of_kind(block.block, Snake), of_kind(block.block, nn.ConvTranspose1d)
        if block_upsample.kernel_size != upsample.kernel_size:
            raise PipelineError(
                f"a 48 kHz head cannot be copied from this codec: its last decoder block upsamples by "
                f"{block_upsample.stride[0]}, the head by 2; set heads.double.init to interpolate or random"
            )
        channels = upsample.in_channels
        first.alpha.copy_(block_snake.alpha[:, :channels])
        # Assigned, since a copy into the weight of a weight-normed conv is lost with the next look at it.
        upsample.weight = block_upsample.weight[:channels].clone()
        _copy_bias(upsample, block_upsample)
        for unit, source in zip(of_kind(self.branch, ResidualUnit), of_kind(block.block, ResidualUnit), strict=True):
            for ours, theirs in zip(of_kind(unit.block, Snake), of_kind(source.block, Snake), strict=True):
                ours.alpha.copy_(theirs.alpha)
            for taken, given in zip(of_kind(unit.block, nn.Conv1d), of_kind(source.block, nn.Conv1d), strict=True):
                taken.weight = _ungrouped(given)
                _copy_bias(taken, given)
        second.alpha.copy_(snake.alpha)
        [last] = of_kind(self.branch, nn.Conv1d)
        last.weight.copy_(conv.weight)
        _copy_bias(last, conv)


def _copy_bias(ours: Convolution, theirs: Convolution) -> None:
    if ours.bias is not None and theirs.bias is not None:
        ours.bias.copy_(theirs.bias)


def _ungrouped(conv: nn.Conv1d) -> Tensor:
    """The weight (out, in, kernel) without groups that acts as that of `conv`, which is depthwise or has none."""
    if conv.groups == 1:
        return conv.weight.clone()
    return torch.diag_embed(conv.weight[:, 0].T).permute(1, 2, 0).contiguous()  # checkpoints take no other
