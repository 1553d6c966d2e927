"""The arithmetic that codes are computed in: which of the encoder's operations may be rounded more than float32 is.

In: a codec, audio and a precision. Out: `SNAC.quantize` in that precision. The quantizer always works in float32,
without TF32: it compares distances that are close to each other. A precision is part of the encoder's fingerprint.

fp32: float32 throughout, TF32 forbidden (torch allows it for convolutions on a GPU unless told otherwise).
tf32: convolutions and matrix products of the encoder may use TF32, inputs of 10 bits; on a CPU nothing changes.
bf16: the encoder's convolutions take and give bfloat16; everything between them stays float32.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from snac_pipeline.codec import SNAC
from snac_pipeline.codec.quantizer import Quantized
from snac_pipeline.settings import Precision


class Tolerance(NamedTuple):
    """How far batched codes on a GPU may be from those of encoding alone; on a CPU they are equal bit for bit."""

    tie: float
    """Relative difference of two codes' distances below which rounding decides between them."""
    share: float
    """Share of tokens that may differ so."""


# fp32 as the project asks. The others were simulated at the published 24 kHz size: sums in another order (2e-7) are
# amplified by the coarser rounding after them, and changed 0.6 % of tokens (gaps up to 4e-3) and 5.5 % (up to 0.17).
TOLERANCES: dict[Precision, Tolerance] = {
    "fp32": Tolerance(1e-5, 1e-4),
    "tf32": Tolerance(1e-2, 2e-2),
    "bf16": Tolerance(3e-1, 1.5e-1),
}


@torch.inference_mode()
def quantize(model: SNAC, audio_B1T: Tensor, precision: Precision, frames_B: Tensor | None = None) -> Quantized:
    """`model.quantize` of float32 audio at sampling_rate, on the model's device, in `precision`.

    frames_B: coarse frames that each item really has; those after them mean nothing. None: all have all.
    """
    audio = model.preprocess(audio_B1T)
    latents_B = None if frames_B is None else frames_B * model.spec.vq_strides[0]
    with _tf32(precision == "tf32"), _BFloat16Convolutions() if precision == "bf16" else contextlib.nullcontext():
        latents = model.encoder(audio, latents_B)
    with _tf32(False):
        quantized: Quantized = model.quantizer(latents)
    return quantized


@contextlib.contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """With or without TF32 on GPUs, whatever the rest of the process (training, say) has chosen."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before


class _BFloat16Convolutions(TorchFunctionMode):
    """Every conv1d called inside is done in bfloat16; its output is float32 again.

    Casting the module instead would round the gains and norms that weights are made of, and autocast goes on in
    bfloat16 after the convolutions: both agree less with float32.
    """

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is torch.conv1d:
            args = tuple(arg.bfloat16() if isinstance(arg, Tensor) else arg for arg in args)
            return function(*args, **(kwargs or {})).float()
        return function(*args, **(kwargs or {}))
