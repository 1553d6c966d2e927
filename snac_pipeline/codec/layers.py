"""The building blocks of SNAC. Module names and order are those of the published state dicts.

Every layer computes in the type of its input, whatever its parameters are kept in, so that who calls the decoder
chooses its precision with the type of the latents.

Axes: B batch, C channels, T samples or latents, W windows, H heads, N positions in a window, D dimensions.
"""

import math
from collections.abc import Iterable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from snac_pipeline.codec import kernels
from snac_pipeline.codec.noise import Noise

ATTENTION_HEAD_DIM = 64

Kind = TypeVar("Kind", bound=nn.Module)


def conv(in_channels: int, out_channels: int, *, groups: int = 1, **options: Any) -> nn.Conv1d:
    """Weight-normalised Conv1d, with its options."""
    kind = DepthwiseConv if groups == in_channels == out_channels > 1 else Conv
    normalised: nn.Conv1d = weight_norm(kind(in_channels, out_channels, groups=groups, **options))
    return normalised


def transposed_conv(in_channels: int, out_channels: int, **options: Any) -> nn.ConvTranspose1d:
    """Weight-normalised ConvTranspose1d, with its options; its gain is per input channel, as in the published
    weights."""
    normalised: nn.ConvTranspose1d = weight_norm(TransposedConv(in_channels, out_channels, **options))
    return normalised


class Conv(nn.Conv1d):
    """Conv1d in its input's type."""

    def forward(self, x_BCT: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x_BCT.dtype)
        out: Tensor = self._conv_forward(x_BCT, self.weight.to(x_BCT.dtype), bias)
        return out


class TransposedConv(nn.ConvTranspose1d):
    """ConvTranspose1d in its input's type."""

    def forward(self, x_BCT: Tensor) -> Tensor:  # type: ignore[override]  # nothing here chooses an output size
        bias = None if self.bias is None else self.bias.to(x_BCT.dtype)
        options: tuple[Any, ...] = (self.stride, self.padding, self.output_padding, self.groups, self.dilation)
        return F.conv_transpose1d(x_BCT, self.weight.to(x_BCT.dtype), bias, *options)


class DepthwiseConv(Conv):
    """Conv with one filter per channel, trained through the fused kernel where there is one."""

    def forward(self, x_BCT: Tensor) -> Tensor:
        if kernels.fused and torch.is_grad_enabled() and self.bias is not None:
            weight, bias = self.weight.to(x_BCT.dtype), self.bias.to(x_BCT.dtype)
            out: Tensor = kernels.DepthwiseFunction.apply(x_BCT, weight, bias, self.dilation[0])
            return out
        return super().forward(x_BCT)


class Snake(nn.Module):
    """Periodic activation with one frequency per channel. (B, C, T) -> (B, C, T)."""

    def __init__(self, channels: int):
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x_BCT: Tensor, mask_B1T: Tensor | None = None) -> Tensor:
        """mask_B1T: as for `masked`, of the result."""
        if torch.is_grad_enabled() and (x_BCT.requires_grad or self.alpha.requires_grad):
            out: Tensor = kernels.SnakeFunction.apply(x_BCT, self.alpha)
            return masked(out, mask_B1T)
        if mask_B1T is not None and (gpu := kernels.gpu_kernels(x_BCT)):
            return gpu.snake(x_BCT, self.alpha, mask_B1T)
        return masked(kernels.snake_without_gradients(x_BCT, self.alpha), mask_B1T)


def of_kind(modules: Iterable[nn.Module], kind: type[Kind]) -> list[Kind]:
    """Those of `modules`, in a row, that are of one kind; a row itself does not tell the types of what is in it."""
    return [module for module in modules if isinstance(module, kind)]


def masked(x_BCT: Tensor, mask_B1T: Tensor | None) -> Tensor:
    """x with zeros where the mask is zero: what a convolution would see if the item ended there. None: x itself."""
    return x_BCT if mask_B1T is None else x_BCT * mask_B1T


class ResidualUnit(nn.Module):
    """Snake, dilated conv of kernel 7, Snake, 1x1 conv, plus the input. (B, C, T) -> (B, C, T)."""

    def __init__(self, channels: int, dilation: int, groups: int):
        super().__init__()
        self.block = nn.Sequential(
            Snake(channels),
            conv(channels, channels, kernel_size=7, dilation=dilation, padding=3 * dilation, groups=groups),
            Snake(channels),
            conv(channels, channels, kernel_size=1),
        )

    def forward(self, x_BCT: Tensor, mask_B1T: Tensor | None = None) -> Tensor:
        first, dilated, second, pointwise = self.block
        residual: Tensor = pointwise(second(dilated(first(x_BCT, mask_B1T))))
        return x_BCT + residual


def residual_units(channels: int, depthwise: bool) -> list[ResidualUnit]:
    """The three residual units (dilations 1, 3, 9) of every block."""
    groups = channels if depthwise else 1
    return [ResidualUnit(channels, dilation, groups) for dilation in (1, 3, 9)]


class EncoderBlock(nn.Module):
    """Residual units, then a strided conv that doubles the channels. (B, C, T) -> (B, 2C, T // stride)."""

    def __init__(self, channels: int, stride: int, depthwise: bool):
        super().__init__()
        self.stride = stride
        self.block = nn.Sequential(
            *residual_units(channels, depthwise),
            Snake(channels),
            conv(channels, 2 * channels, kernel_size=2 * stride, stride=stride, padding=math.ceil(stride / 2)),
        )

    def forward(self, x_BCT: Tensor, mask_B1T: Tensor | None = None) -> Tensor:
        *units, snake, down = self.block
        for unit in units:
            x_BCT = unit(x_BCT, mask_B1T)
        out: Tensor = down(snake(x_BCT, mask_B1T))
        return out


class NoiseBlock(nn.Module):
    """x + n * (W x) with one noise sample n per time step, shared by the channels. (B, C, T) -> (B, C, T)."""

    def __init__(self, channels: int):
        super().__init__()
        self.linear = conv(channels, channels, kernel_size=1, bias=False)

    def forward(self, x_BCT: Tensor, noise_B1T: Tensor | None) -> Tensor:
        return x_BCT if noise_B1T is None else torch.addcmul(x_BCT, noise_B1T, self.linear(x_BCT))


class DecoderBlock(nn.Module):
    """Snake, upsampling that halves the channels, noise, residual units. (B, C, T) -> (B, C // 2, T * stride)."""

    def __init__(self, channels: int, stride: int, noise: bool, depthwise: bool):
        super().__init__()
        self.stride = stride
        upsample = transposed_conv(
            channels,
            channels // 2,
            kernel_size=2 * stride,
            stride=stride,
            padding=math.ceil(stride / 2),
            output_padding=stride % 2,
        )
        noise_block = [NoiseBlock(channels // 2)] if noise else []
        self.block = nn.Sequential(Snake(channels), upsample, *noise_block, *residual_units(channels // 2, depthwise))

    def forward(
        self,
        x_BCT: Tensor,
        noise: Noise,
        index: int,
        samples_per_latent: int,
        masks: tuple[Tensor | None, Tensor | None] = (None, None),
    ) -> Tensor:
        """`masks`: of the input and of the output, for batches with items that end early; see `masked`."""
        before, after = masks
        for module in self.block:
            if isinstance(module, NoiseBlock):
                x_BCT = module(x_BCT, noise.draw(x_BCT, index, samples_per_latent))
            elif isinstance(module, ResidualUnit):
                x_BCT = module(x_BCT, after)
            elif isinstance(module, nn.ConvTranspose1d):
                x_BCT = module(masked(x_BCT, before))
            else:
                x_BCT = module(x_BCT)
        return x_BCT


class RotaryPositions(nn.Module):
    """Angles of rotary position embedding inside one window (Su et al., 2021)."""

    inv_freq: Tensor

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("inv_freq", 10000.0 ** (-torch.arange(0, dim, 2).float() / dim))

    def forward(self, x_ND: Tensor) -> Tensor:
        """Rotate the halves of the last axis of (..., N, D) by their positions along N."""
        positions = torch.arange(x_ND.shape[-2], device=x_ND.device, dtype=self.inv_freq.dtype)
        angles = torch.outer(positions, self.inv_freq).repeat(1, 2)
        first, second = x_ND.chunk(2, dim=-1)
        cosine, sine = angles.cos().to(x_ND.dtype), angles.sin().to(x_ND.dtype)
        return x_ND * cosine + torch.cat((-second, first), dim=-1) * sine


class LocalAttention(nn.Module):
    """Self-attention inside non-overlapping windows, plus the input. (B, C, T) -> (B, C, T), T whole windows."""

    def __init__(self, dim: int, window: int):
        super().__init__()
        self.window = window
        self.heads = dim // ATTENTION_HEAD_DIM
        self.norm = nn.LayerNorm(dim)
        self.to_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.rel_pos = RotaryPositions(ATTENTION_HEAD_DIM)
        self.to_out = nn.Linear(dim, dim, bias=False)

    def forward(self, x_BCT: Tensor) -> Tensor:
        normed = self.norm(x_BCT.transpose(1, 2).to(self.norm.weight.dtype)).to(x_BCT.dtype)
        qkv = F.linear(normed, self.to_qkv.weight.to(x_BCT.dtype))
        q, k, v = rearrange(qkv, "b (w n) (three h d) -> three (b w) h n d", three=3, h=self.heads, n=self.window)
        mixed = F.scaled_dot_product_attention(self.rel_pos(q), self.rel_pos(k), v)
        joined = rearrange(mixed, "(b w) h n d -> b (w n) (h d)", b=len(x_BCT))
        return x_BCT + F.linear(joined, self.to_out.weight.to(x_BCT.dtype)).transpose(1, 2)
