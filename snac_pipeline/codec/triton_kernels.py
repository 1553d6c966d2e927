"""Snake, depthwise convolutions and the search for the nearest code as one pass over memory each, for GPUs.

The same operations as in kernels.py and quantizer.py. On a GPU they are bound by memory traffic, so each kernel reads
its inputs and writes its output once; it computes in float32 whatever the type of the activations, and sums over time
without atomics, so that results repeat bit for bit. kernels.py decides when they are used. Triton's interpreter
(TRITON_INTERPRET=1) runs them on a CPU, for tests.

Axes: B batch, C channels, T samples or latents, K taps, N vectors, D dimensions, V codes.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

SNAKE_EPSILON = tl.constexpr(1e-9)
TAPS = tl.constexpr(7)
BLOCK = 1024
"""Samples of one channel that a program handles at most."""
VECTORS, CODES = 64, 128
"""Vectors that a program finds codes for, and codes that it looks at at once."""


def snake(x_BCT: Tensor, alpha_1C1: Tensor, mask_B1T: Tensor | None = None) -> Tensor:
    """As kernels.snake, in x's type; times the mask, where there is one."""
    x = x_BCT.contiguous()
    out = torch.empty_like(x)
    rows, blocks, block = _grid(x)
    alpha, mask = alpha_1C1.contiguous(), x if mask_B1T is None else mask_B1T.contiguous()
    _snake[rows, blocks](x, alpha, mask, out, x.shape[1], x.shape[2], mask_B1T is not None, block)
    return out


def snake_gradients(x_BCT: Tensor, alpha_1C1: Tensor, grad_BCT: Tensor) -> tuple[Tensor, Tensor]:
    """As kernels.snake_gradients: for x in x's type, for alpha in alpha's."""
    x, grad = x_BCT.contiguous(), grad_BCT.contiguous()
    grad_x = torch.empty_like(x)
    rows, blocks, block = _grid(x)
    partial = torch.empty((rows, blocks), dtype=torch.float32, device=x.device)
    _snake_gradients[rows, blocks](x, alpha_1C1.contiguous(), grad, grad_x, partial, x.shape[1], x.shape[2], block)
    grad_alpha = partial.view(x.shape[0], x.shape[1], blocks).sum(dim=(0, 2))
    return grad_x, grad_alpha.view_as(alpha_1C1).to(alpha_1C1.dtype)


def depthwise(dilation: int, x_BCT: Tensor, weight_C1K: Tensor, bias_C: Tensor) -> Tensor:
    """As kernels.depthwise, in x's type."""
    x = x_BCT.contiguous()
    out = torch.empty_like(x)
    rows, blocks, block = _grid(x)
    weight, bias = weight_C1K.contiguous(), bias_C.contiguous()
    _depthwise[rows, blocks](x, weight, bias, out, x.shape[1], x.shape[2], dilation, block)
    return out


def depthwise_gradients(
    dilation: int, x_BCT: Tensor, weight_C1K: Tensor, grad_BCT: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """As kernels.depthwise_gradients: for x in x's type, for weight and bias in weight's."""
    x, grad, weight = x_BCT.contiguous(), grad_BCT.contiguous(), weight_C1K.contiguous()
    grad_x = torch.empty_like(x)
    rows, blocks, block = _grid(x)
    partial = torch.empty((rows, blocks, TAPS.value + 1), dtype=torch.float32, device=x.device)
    _depthwise_gradients[rows, blocks](x, weight, grad, grad_x, partial, x.shape[1], x.shape[2], dilation, block)
    sums = partial.view(x.shape[0], x.shape[1], blocks, TAPS.value + 1).sum(dim=(0, 2)).to(weight.dtype)
    return grad_x, sums[:, None, :-1], sums[:, -1]


def nearest(vectors_ND: Tensor, codebook_VD: Tensor) -> Tensor:
    """Index (N,) int64 of the row of the codebook at the least squared distance; of equal ones the first. float32."""
    vectors, codebook = vectors_ND.contiguous(), codebook_VD.contiguous()
    (count, dim), size = vectors.shape, len(codebook)
    indices = torch.empty(count, dtype=torch.int64, device=vectors.device)
    _nearest[(triton.cdiv(count, VECTORS),)](vectors, codebook, indices, count, size, dim, VECTORS, CODES)
    return indices


def _grid(x_BCT: Tensor) -> tuple[int, int, int]:
    """Rows (one for each item and channel), blocks of a row, and samples in a block."""
    batch, channels, length = x_BCT.shape
    block = min(BLOCK, triton.next_power_of_2(length))
    return batch * channels, triton.cdiv(length, block), block


@triton.jit
def _snake(x_ptr, alpha_ptr, mask_ptr, out_ptr, channels, length, masked: tl.constexpr, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * block + tl.arange(0, block)
    alpha = tl.load(alpha_ptr + row % channels).to(tl.float32)
    x = tl.load(x_ptr + row * length + at, mask=at < length, other=0.0).to(tl.float32)
    sine = tl.sin(alpha * x)
    out = x + sine * sine / (alpha + SNAKE_EPSILON)
    if masked:
        kept = tl.load(mask_ptr + row // channels * length + at, mask=at < length, other=0.0)
        out *= kept.to(tl.float32)
    tl.store(out_ptr + row * length + at, out.to(out_ptr.dtype.element_ty), mask=at < length)


@triton.jit
def _snake_gradients(x_ptr, alpha_ptr, grad_ptr, grad_x_ptr, partial_ptr, channels, length, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * block + tl.arange(0, block)
    inside = at < length
    alpha = tl.load(alpha_ptr + row % channels).to(tl.float32)
    inverse = 1.0 / (alpha + SNAKE_EPSILON)
    x = tl.load(x_ptr + row * length + at, mask=inside, other=0.0).to(tl.float32)
    grad = tl.load(grad_ptr + row * length + at, mask=inside, other=0.0).to(tl.float32)
    sine = tl.sin(alpha * x)
    double_sine = 2.0 * sine * tl.cos(alpha * x)
    grad_x = grad + grad * double_sine * (alpha * inverse)
    tl.store(grad_x_ptr + row * length + at, grad_x.to(grad_x_ptr.dtype.element_ty), mask=inside)
    slope = (x * double_sine - sine * sine * inverse) * inverse
    tl.store(partial_ptr + row * tl.num_programs(1) + tl.program_id(1), tl.sum(grad * slope))


@triton.jit
def _depthwise(x_ptr, weight_ptr, bias_ptr, out_ptr, channels, length, dilation, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    channel = row % channels
    at = tl.program_id(1) * block + tl.arange(0, block)
    total = tl.zeros([block], tl.float32) + tl.load(bias_ptr + channel).to(tl.float32)
    for k in tl.static_range(TAPS):
        there = at + (k - TAPS // 2) * dilation
        x = tl.load(x_ptr + row * length + there, mask=(there >= 0) & (there < length), other=0.0)
        total += x.to(tl.float32) * tl.load(weight_ptr + channel * TAPS + k).to(tl.float32)
    tl.store(out_ptr + row * length + at, total.to(out_ptr.dtype.element_ty), mask=at < length)


@triton.jit
def _depthwise_gradients(
    x_ptr, weight_ptr, grad_ptr, grad_x_ptr, partial_ptr, channels, length, dilation, block: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    channel = row % channels
    at = tl.program_id(1) * block + tl.arange(0, block)
    partial_ptr += (row * tl.num_programs(1) + tl.program_id(1)) * (TAPS + 1)
    grad_x = tl.zeros([block], tl.float32)
    grad = tl.load(grad_ptr + row * length + at, mask=at < length, other=0.0).to(tl.float32)
    tl.store(partial_ptr + TAPS, tl.sum(grad))
    for k in tl.static_range(TAPS):
        there = at + (k - TAPS // 2) * dilation
        x = tl.load(x_ptr + row * length + there, mask=(there >= 0) & (there < length), other=0.0).to(tl.float32)
        tl.store(partial_ptr + k, tl.sum(x * grad))
        back = at - (k - TAPS // 2) * dilation
        later = tl.load(grad_ptr + row * length + back, mask=(back >= 0) & (back < length), other=0.0).to(tl.float32)
        grad_x += later * tl.load(weight_ptr + channel * TAPS + k).to(tl.float32)
    tl.store(grad_x_ptr + row * length + at, grad_x.to(grad_x_ptr.dtype.element_ty), mask=at < length)


@triton.jit
def _nearest(vectors_ptr, codebook_ptr, indices_ptr, count, size, dim, vectors: tl.constexpr, codes: tl.constexpr):
    row = tl.program_id(0) * vectors + tl.arange(0, vectors)
    best = tl.full([vectors], float("inf"), tl.float32)
    index = tl.zeros([vectors], tl.int64)
    for first in range(0, size, codes):
        code = first + tl.arange(0, codes)
        squared = tl.zeros([vectors], tl.float32)
        product = tl.zeros([vectors, codes], tl.float32)
        norm = tl.zeros([codes], tl.float32)
        for d in range(dim):
            vector = tl.load(vectors_ptr + row * dim + d, mask=row < count, other=0.0)
            entry = tl.load(codebook_ptr + code * dim + d, mask=code < size, other=0.0)
            squared += vector * vector
            norm += entry * entry
            product += vector[:, None] * entry[None, :]
        # Term by term as in VectorQuantizer.nearest.
        distance = squared[:, None] - 2.0 * product + norm[None, :]
        distance = tl.where((code < size)[None, :], distance, float("inf"))
        least, place = tl.min(distance, axis=1, return_indices=True, return_indices_tie_break_left=True)
        index = tl.where(least < best, (first + place).to(tl.int64), index)
        best = tl.minimum(best, least)
    tl.store(indices_ptr + row, index, mask=row < count)
