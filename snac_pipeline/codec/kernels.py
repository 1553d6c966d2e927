"""The two operations that encoding and training spend their time on, with gradients that keep only their inputs.

Snake and the depthwise convolutions move much memory and compute little. Written as plain functions here, they can be
compiled into one pass each; without a compiler the same functions run eagerly. Results agree to rounding. On a CPU
training compiles both with their gradients (`fuse_kernels`), encoding Snake alone (`fuse_snake`); without either call
nothing depends on a compiler. On a GPU the kernels of triton_kernels.py are used wherever Triton is installed, and
inside torch.compile the plain functions, which it fuses with what is around them.
"""

import functools
import logging
from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

logging.getLogger("torch.utils.cpp_extension").addFilter(  # torch.compile asks for CUDA's compiler on a CPU as well
    lambda record: not record.getMessage().startswith("No CUDA runtime is found")
)

SNAKE_EPSILON = 1e-9
DEPTHWISE_TAPS = 7
DILATIONS = (1, 3, 9)


class GpuKernels(Protocol):
    """What is used of the module triton_kernels."""

    def snake(self, x_BCT: Tensor, alpha_1C1: Tensor, mask_B1T: Tensor | None = None) -> Tensor: ...
    def snake_gradients(self, x_BCT: Tensor, alpha_1C1: Tensor, grad_BCT: Tensor) -> tuple[Tensor, Tensor]: ...
    def depthwise(self, dilation: int, x_BCT: Tensor, weight_C1K: Tensor, bias_C: Tensor) -> Tensor: ...
    def depthwise_gradients(
        self, dilation: int, x_BCT: Tensor, weight_C1K: Tensor, grad_BCT: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]: ...
    def nearest(self, vectors_ND: Tensor, codebook_VD: Tensor) -> Tensor: ...


def gpu_kernels(x: Tensor) -> GpuKernels | None:
    """The module triton_kernels where its kernels are for x: on a GPU, at most float32, not while torch.compile looks
    on, which writes its own."""
    if not x.is_cuda or x.dtype == torch.float64 or torch.compiler.is_compiling():
        return None
    return _triton_kernels()


@functools.cache
def _triton_kernels() -> GpuKernels | None:
    try:
        from snac_pipeline.codec import triton_kernels
    except ImportError:  # torch for other GPUs comes without Triton
        return None
    return triton_kernels


def snake(x_BCT: Tensor, alpha_1C1: Tensor) -> Tensor:
    """x + sin^2(a x) / (a + eps). Ziyin et al., 2020, "Neural networks fail to learn periodic functions".

    The result has x's type; it is computed in the wider one of x and alpha, since a phase a x of a few turns has no
    digits left in bfloat16.
    """
    if gpu := gpu_kernels(x_BCT):
        return gpu.snake(x_BCT, alpha_1C1)
    kind = torch.promote_types(x_BCT.dtype, alpha_1C1.dtype)
    x, alpha = x_BCT.to(kind), alpha_1C1.to(kind)
    return torch.addcmul(x, (alpha + SNAKE_EPSILON).reciprocal(), torch.sin(alpha * x).square_()).to(x_BCT.dtype)


def snake_gradients(x_BCT: Tensor, alpha_1C1: Tensor, grad_BCT: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of `snake` for x and alpha, from x alone.

    d/dx = 1 + a sin(2ax) / (a+e);  d/da = x sin(2ax) / (a+e) - sin^2(ax) / (a+e)^2;  sin(2p) = 2 sin(p) cos(p).
    """
    if gpu := gpu_kernels(x_BCT):
        return gpu.snake_gradients(x_BCT, alpha_1C1, grad_BCT)
    kind = torch.promote_types(x_BCT.dtype, alpha_1C1.dtype)
    x, alpha, grad = x_BCT.to(kind), alpha_1C1.to(kind), grad_BCT.to(kind)
    inverse = (alpha + SNAKE_EPSILON).reciprocal()
    phase = alpha * x
    sine = torch.sin(phase)
    double_sine = 2.0 * sine * torch.cos(phase)
    grad_x = grad + grad * double_sine * (alpha * inverse)
    slope = x * double_sine - sine * sine * inverse
    grad_alpha = (grad * slope).sum(dim=(0, 2), keepdim=True) * inverse
    return grad_x.to(x_BCT.dtype), grad_alpha.to(alpha_1C1.dtype)


class SnakeFunction(torch.autograd.Function):
    """`snake` that keeps only x and alpha for the backward pass; autograd would keep a x and sin(a x) as well."""

    @staticmethod
    def forward(x_BCT: Tensor, alpha_1C1: Tensor) -> Tensor:
        # Detached, since torch.compile specialises on the shapes of parameters.
        out: Tensor = kernels["snake"](x_BCT, alpha_1C1.detach())
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad_BCT: Tensor) -> tuple[Tensor, Tensor]:
        x, alpha = ctx.saved_tensors
        gradients: tuple[Tensor, Tensor] = kernels["snake_gradients"](x, alpha.detach(), grad_BCT)
        return gradients


def depthwise(dilation: int, x_BCT: Tensor, weight_C1K: Tensor, bias_C: Tensor) -> Tensor:
    """conv1d with one filter of 7 taps per channel and "same" zero padding, as a sum of shifted copies."""
    if gpu := gpu_kernels(x_BCT):
        return gpu.depthwise(dilation, x_BCT, weight_C1K, bias_C)
    padded, length = F.pad(x_BCT, (3 * dilation, 3 * dilation)), x_BCT.shape[-1]
    total = bias_C[None, :, None]
    for k in range(DEPTHWISE_TAPS):
        total = total + padded[..., k * dilation : k * dilation + length] * weight_C1K[:, 0, k][None, :, None]
    return total


def depthwise_gradients(
    dilation: int, x_BCT: Tensor, weight_C1K: Tensor, grad_BCT: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `depthwise` for x, weight and bias."""
    if gpu := gpu_kernels(x_BCT):
        return gpu.depthwise_gradients(dilation, x_BCT, weight_C1K, grad_BCT)
    length, reach = x_BCT.shape[-1], 3 * dilation
    x_padded, grad_padded = F.pad(x_BCT, (reach, reach)), F.pad(grad_BCT, (reach, reach))
    grad_x, grad_taps = torch.zeros_like(x_BCT), []
    for k in range(DEPTHWISE_TAPS):
        back = (DEPTHWISE_TAPS - 1 - k) * dilation
        grad_x = grad_x + grad_padded[..., back : back + length] * weight_C1K[:, 0, k][None, :, None]
        grad_taps.append((x_padded[..., k * dilation : k * dilation + length] * grad_BCT).sum(dim=(0, 2)))
    return grad_x, torch.stack(grad_taps, dim=-1)[:, None], grad_BCT.sum(dim=(0, 2))


class DepthwiseFunction(torch.autograd.Function):
    """`depthwise` with the fused kernels of its dilation."""

    @staticmethod
    def forward(x_BCT: Tensor, weight_C1K: Tensor, bias_C: Tensor, dilation: int) -> Tensor:
        out: Tensor = kernels[f"depthwise_{dilation}"](x_BCT, weight_C1K.detach(), bias_C.detach())
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        x, weight, _, ctx.dilation = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, grad_BCT: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        return *kernels[f"depthwise_{ctx.dilation}_gradients"](x, weight.detach(), grad_BCT.contiguous()), None


def _eager() -> dict[str, Callable[..., Any]]:
    table: dict[str, Callable[..., Any]] = {"snake": snake, "snake_gradients": snake_gradients}
    for dilation in DILATIONS:
        table[f"depthwise_{dilation}"] = functools.partial(depthwise, dilation)
        table[f"depthwise_{dilation}_gradients"] = functools.partial(depthwise_gradients, dilation)
    return table


kernels = _eager()
"""What the autograd functions call; replaced as a whole by `fuse_kernels` and `eager_kernels`."""

snake_without_gradients: Callable[[Tensor, Tensor], Tensor] = snake
"""What calls that record no gradients use; replaced by `fuse_snake`."""

fused = False
"""Whether training uses `kernels` for depthwise convolutions too. Eagerly on a CPU torch's own are faster."""


def fuse_kernels() -> None:
    """Compile the kernels for this process, once, for any shape; later processes find them in torch's cache.

    On one CPU core a decoder training step of a small model takes less than half the time with them. Needs a C++
    compiler on a CPU; raises what torch.compile raises where there is none.
    """
    global kernels, fused
    kernels, fused = _compiled(), True


def fuse_on_gpu() -> None:
    """As `fuse_kernels` where a GPU trains: through Triton's kernels, or torch.compile's inside what that compiles."""
    global kernels, fused
    kernels, fused = _eager(), True


def eager_kernels() -> None:
    """Undo `fuse_kernels` and `fuse_on_gpu`: training in this process goes through torch's own operations."""
    global kernels, fused
    kernels, fused = _eager(), False


@functools.cache
def _compiled() -> dict[str, Callable[..., Any]]:
    compiled = {name: torch.compile(kernel, dynamic=True) for name, kernel in _eager().items()}
    x, alpha, weight, bias = torch.zeros(2, 3, 65), torch.ones(1, 3, 1), torch.zeros(3, 1, 7), torch.zeros(3)
    for name, kernel in compiled.items():
        if name.startswith("snake"):
            kernel(x, alpha, *([x + 1] if name.endswith("gradients") else []))
        else:
            kernel(x, weight, *([x + 1] if name.endswith("gradients") else [bias]))
    return compiled


def compile_snake() -> Callable[[Tensor, Tensor], Tensor]:
    """`snake` compiled for calls that record no gradients; later processes find it in torch's cache.

    One pass over memory and another sine than torch's own, equal to rounding. Raises what torch.compile raises where
    there is no C++ compiler.
    """
    compiled = torch.compile(snake, dynamic=True)
    with torch.inference_mode():
        compiled(torch.zeros(2, 3, 65), torch.ones(1, 3, 1))
    return lambda x_BCT, alpha_1C1: compiled(x_BCT, alpha_1C1.detach())


def fuse_snake() -> None:
    """Use the compiled Snake in this process: a CPU encodes 1.4 times as fast, and codes were equal, token by token
    (benchmarks/encode.py)."""
    global snake_without_gradients
    if snake_without_gradients is snake:
        snake_without_gradients = compile_snake()
