"""The decoder's noise, made explicit.

SNAC's decoder multiplies activations by white noise, in evaluation too, so that decoding twice gives two results.
Here the source of that noise is an argument: `upstream` draws like the `snac` package, `seeded` is a pure function of
(seed, block, sample position), so that crops, streams and batches of any size agree, and `off` leaves it out.
"""

import dataclasses
import math
from typing import Literal

import torch
from torch import Tensor

from snac_pipeline.errors import PipelineError

NoiseMode = Literal["upstream", "seeded", "off"]


@dataclasses.dataclass
class Noise:
    """Where the decoder's blocks get their noise from.

    `seed` and `start` (latents between the utterance's first and this input's first) are one value, or a tensor of
    shape (B,) with one for each item; they matter in mode `seeded` only.
    """

    mode: NoiseMode = "upstream"
    seed: int | Tensor = 0
    start: int | Tensor = 0

    def __post_init__(self) -> None:
        if self.mode not in ("upstream", "seeded", "off"):
            raise PipelineError(f"noise mode {self.mode!r} is none of upstream, seeded, off")

    def draw(self, x_BCT: Tensor, block: int, samples_per_latent: int) -> Tensor | None:
        """Noise of shape (B, 1, T) for block number `block`, or None in mode `off`."""
        batch, _, length = x_BCT.shape
        if self.mode == "off":
            return None
        if self.mode == "upstream":
            return torch.randn((batch, 1, length), device=x_BCT.device, dtype=x_BCT.dtype)
        start = torch.as_tensor(self.start, device=x_BCT.device).reshape(-1, 1) * samples_per_latent
        position = start + torch.arange(length, device=x_BCT.device)
        seed = torch.as_tensor(self.seed, device=x_BCT.device).reshape(-1, 1)
        noise = counter_normal(seed * 64 + block, position).expand(batch, length)
        return noise[:, None].to(x_BCT.dtype)


def counter_normal(stream: Tensor, position: Tensor) -> Tensor:
    """Standard normal float32 numbers that depend on (stream, position) alone.

    Two 24-bit uniforms from a 64-bit mix of the counter (the finaliser of splitmix64, Steele et al. 2014), then
    Box-Muller. `stream` and `position` are integer tensors that broadcast.
    """
    bits = _mix(_mix(stream.long() + 1) + position.long())
    mask = (1 << 24) - 1
    u1 = ((bits & mask).float() + 1.0) / (1 << 24)
    u2 = ((bits >> 24) & mask).float() / (1 << 24)
    return torch.sqrt(-2.0 * torch.log(u1)) * torch.cos(2.0 * math.pi * u2)


def _mix(x: Tensor) -> Tensor:
    """splitmix64's finaliser on int64 (wrapping), with the sign bits of its right shifts masked away."""
    x = x * -7046029254386353131
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * -4658895280553007687
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * -7723592293110705685
    return x ^ ((x >> 31) & ((1 << 33) - 1))
