"""The published geometries, thin models of the same shape for fast tests, and weights of which all count."""

import dataclasses

import torch
from torch import nn

from snac_pipeline.codec import SNAC, CodecSpec

PUBLISHED = {
    "24khz": CodecSpec(
        sampling_rate=24000, encoder_dim=48, encoder_rates=(2, 4, 8, 8), decoder_dim=1024, decoder_rates=(8, 8, 4, 2),
        attn_window_size=None, vq_strides=(4, 2, 1),
    ),
    "32khz": CodecSpec(
        sampling_rate=32000, encoder_dim=64, encoder_rates=(2, 3, 8, 8), decoder_dim=1536, decoder_rates=(8, 8, 3, 2),
        attn_window_size=32, vq_strides=(8, 4, 2, 1),
    ),
    "44khz": CodecSpec(
        sampling_rate=44100, encoder_dim=64, encoder_rates=(2, 3, 8, 8), decoder_dim=1536, decoder_rates=(8, 8, 3, 2),
        attn_window_size=32, vq_strides=(8, 4, 2, 1),
    ),
}  # fmt: skip

DEFAULTS_OF_UPSTREAM = dict(
    encoder_rates=(3, 3, 7, 7), decoder_rates=(7, 7, 3, 3), vq_strides=(8, 4, 2, 1), attn_window_size=None,
)  # fmt: skip
"""The geometry of old notes, at 24 kHz: no released model has it, other codecs of this architecture may."""


def thin(spec: CodecSpec, **changes) -> CodecSpec:
    """The same strides, windows and rates, a few channels wide: 64 is the least that attention takes."""
    widths = {"encoder_dim": 64 // 2 ** len(spec.encoder_rates), "latent_dim": None, "decoder_dim": 64}
    return dataclasses.replace(spec, **widths, codebook_size=61, **changes)


def two_heads(spec: CodecSpec) -> CodecSpec:
    return dataclasses.replace(spec, output_rates=(spec.sampling_rate, 2 * spec.sampling_rate))


@torch.no_grad()
def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Snake frequencies of both signs and several sizes, gains away from the norms, a codebook of uneven lengths.

    Works on our model and on upstream's: what a fresh model has at a constant would hide mistakes.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("alpha"):
            parameter.copy_(noise.exp() * torch.where(torch.rand(noise.shape, generator=generator) < 0.2, -1.0, 1.0))
        elif name.endswith("original0"):
            parameter.mul_((1.5 if name.startswith("encoder") else 1.0) + 0.2 * noise.clamp(-2, 2))
        elif name.endswith("bias") and "norm" not in name:
            parameter.mul_(0.03)  # at their default the biases drown the sound, and codes hardly vary
        elif name.endswith("codebook.weight"):
            parameter.copy_(noise * (0.5 + torch.rand(len(noise), 1, generator=generator)))
        elif name.endswith("norm.weight"):
            parameter.copy_(1 + 0.2 * noise)
        elif name.endswith("norm.bias"):
            parameter.copy_(0.2 * noise)
        elif "double_rate_head.branch" in name and parameter.eq(0).all():
            parameter.copy_(0.1 * noise)
    return model


def build(spec: CodecSpec, seed: int = 0, dtype: torch.dtype = torch.float32) -> SNAC:
    """A codec in eval mode with random weights, all of which count."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return randomise(SNAC(spec), seed).eval().to(dtype)


def random_codes(spec: CodecSpec, frames: int, batch: int = 1, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(spec.codebook_size, (batch, n), generator=generator) for n in spec.token_counts(frames)]


def white(samples: int, batch: int = 1, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """White noise (B, 1, T) at -20 dB."""
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(batch, 1, samples, generator=generator).to(dtype)


def relative_error(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference over the largest value of b."""
    return float((a - b).detach().abs().max() / b.detach().abs().max())
