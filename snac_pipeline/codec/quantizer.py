"""The multi-scale residual vector quantizer: latents -> codes and back.

Every level sees the residual of the coarser ones, averaged over its stride; the nearest code is searched between
l2-normalised vectors in a small space and given back un-normalised.
"""

import functools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from snac_pipeline.codec.kernels import gpu_kernels
from snac_pipeline.codec.layers import conv, of_kind
from snac_pipeline.codec.spec import CodecSpec


class Quantized(NamedTuple):
    """What quantizing latents of shape (B, C, L) gives, and what training a codec from scratch needs of it."""

    latents_BCL: Tensor
    """The quantized latents; gradients pass straight through to the encoder."""
    codes: list[Tensor]
    """Per level, (B, L / stride), int64."""
    projected: list[Tensor]
    """Per level, the encoder's vectors in code space, (B, codebook_dim, L / stride)."""
    chosen: list[Tensor]
    """Per level, the codebook's vectors nearest to them, same shape."""


class VectorQuantizer(nn.Module):
    """One level: 1x1 conv to code space, nearest code, 1x1 conv back."""

    def __init__(self, latent_dim: int, codebook_size: int, codebook_dim: int, stride: int):
        super().__init__()
        self.stride = stride
        self.in_proj = conv(latent_dim, codebook_dim, kernel_size=1)
        self.out_proj = conv(codebook_dim, latent_dim, kernel_size=1)
        self.codebook = nn.Embedding(codebook_size, codebook_dim)

    def project(self, residual_BCL: Tensor) -> Tensor:
        """(B, C, L) -> (B, codebook_dim, L / stride)."""
        if self.stride > 1:
            residual_BCL = F.avg_pool1d(residual_BCL, self.stride, self.stride)
        projected: Tensor = self.in_proj(residual_BCL)
        return projected

    def nearest(self, projected_BDT: Tensor) -> Tensor:
        """Codes (B, T) of the codebook rows nearest in angle to each vector."""
        vectors = F.normalize(rearrange(projected_BDT, "b d t -> (b t) d"))
        codebook = F.normalize(self.codebook.weight)
        if vectors.dtype == torch.float32 and (gpu := gpu_kernels(vectors)):
            return rearrange(gpu.nearest(vectors, codebook), "(b t) -> b t", b=projected_BDT.shape[0])
        # Written as the squared Euclidean distance, term by term as in the published model, so that ties and
        # rounding fall the same way and codes stay equal to its codes.
        squared = vectors.pow(2).sum(1, keepdim=True)
        distance = squared - 2 * vectors @ codebook.t() + codebook.pow(2).sum(1, keepdim=True).t()
        return rearrange(distance.argmin(dim=1), "(b t) -> b t", b=projected_BDT.shape[0])

    def lookup(self, codes_BT: Tensor) -> Tensor:
        """Codebook vectors (B, codebook_dim, T) of codes (B, T)."""
        vectors: Tensor = self.codebook(codes_BT)
        return vectors.transpose(1, 2)

    def expand(self, vectors_BDT: Tensor) -> Tensor:
        """Code-space vectors back to latents: (B, codebook_dim, T) -> (B, C, T * stride)."""
        latents: Tensor = self.out_proj(vectors_BDT)
        return latents.repeat_interleave(self.stride, dim=-1) if self.stride > 1 else latents


class ResidualQuantizer(nn.Module):
    """All levels, coarsest first."""

    def __init__(self, spec: CodecSpec):
        super().__init__()
        self.quantizers = nn.ModuleList(
            VectorQuantizer(spec.latent_width, spec.codebook_size, spec.codebook_dim, stride)
            for stride in spec.vq_strides
        )

    @property
    def levels(self) -> list[VectorQuantizer]:
        """One quantizer for each level."""
        return of_kind(self.quantizers, VectorQuantizer)

    def forward(self, latents_BCL: Tensor, rounded: bool = True) -> Quantized:
        """Quantize latents (B, C, L). With `rounded` False they pass the code spaces unrounded, as at the beginning of
        training from scratch; `codes` and `chosen` are then what rounding would have taken."""
        residual, total = latents_BCL, torch.zeros_like(latents_BCL)
        codes, projected, chosen = [], [], []
        for quantizer in self.levels:
            vectors = quantizer.project(residual)
            indices = quantizer.nearest(vectors)
            nearest = quantizer.lookup(indices)
            # Straight-through: the value is the code's (to rounding, which the residuals of the published model
            # carry too), the gradient the encoder's.
            step = quantizer.expand(vectors + (nearest - vectors).detach() if rounded else vectors)
            total, residual = total + step, residual - step
            codes.append(indices)
            projected.append(vectors)
            chosen.append(nearest)
        return Quantized(total, codes, projected, chosen)

    def from_codes(self, codes: list[Tensor]) -> Tensor:
        """Latents (B, C, L) of codes, one (B, L / stride) tensor per level."""
        latents = (q.expand(q.lookup(level)) for q, level in zip(self.levels, codes, strict=True))
        return functools.reduce(torch.add, latents)
