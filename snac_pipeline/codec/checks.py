"""What callers of the codec can give wrongly, each told in one sentence before torch stumbles over it.

In: arguments of the public functions. Out: nothing, or a PipelineError that names the argument, what it is and what it
has to be. Shapes and types only: nothing here waits for a GPU.
"""

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from snac_pipeline.codec.spec import CodecSpec
from snac_pipeline.errors import PipelineError


def check_audio(audio_B1T: Any, dtype: torch.dtype | None = None) -> None:
    """Audio is a floating-point tensor (B, 1, T), of `dtype` where that is given and autocast does not choose."""
    if not isinstance(audio_B1T, Tensor):
        raise PipelineError(f"audio is a torch tensor (batch, 1, samples), not {_kind(audio_B1T)}")
    shape = tuple(audio_B1T.shape)
    if len(shape) != 3 or shape[1] != 1 or shape[0] == 0:
        raise PipelineError(f"audio is of shape (batch, 1, samples), one channel, not {shape}")
    if not audio_B1T.is_floating_point():
        raise PipelineError(
            f"audio is floating point with full scale at 1, not {_name(audio_B1T.dtype)}; divide by full scale first"
        )
    if dtype in (None, audio_B1T.dtype) or torch.is_autocast_enabled(audio_B1T.device.type):
        return
    raise PipelineError(
        f"the audio is {_name(audio_B1T.dtype)}, the codec {_name(dtype)}; give audio.to(torch.{_name(dtype)})"
    )


def check_levels(codes: Any, spec: CodecSpec) -> None:
    """Codes are one integer tensor (B, n_k) for each level; how many tokens each has is `spec.frames_of`'s to check."""
    if not isinstance(codes, Sequence):
        raise PipelineError(f"codes are a list of one tensor (batch, tokens) for each level, not {_kind(codes)}")
    if len(codes) != spec.levels:
        raise PipelineError(f"{len(codes)} levels of codes were given; this codec has {spec.levels}")
    for k, level in enumerate(codes):
        if not isinstance(level, Tensor):
            raise PipelineError(f"the codes of level {k} are a torch tensor (batch, tokens), not {_kind(level)}")
        if level.ndim != 2:
            raise PipelineError(f"the codes of level {k} are of shape (batch, tokens), not {tuple(level.shape)}")
        if level.is_floating_point() or level.is_complex() or level.dtype == torch.bool:
            raise PipelineError(f"the codes of level {k} are whole numbers, not {_name(level.dtype)}")
    if len({len(level) for level in codes}) > 1:
        raise PipelineError(f"the levels' batch sizes differ: {[len(level) for level in codes]}")


def check_length(length: Any, held: int | None = None) -> None:
    """A length is a whole number of samples from 0, at most the `held` ones (None: not known yet), or None."""
    if length is None:
        return
    if not _is_whole(length) or length < 0:
        raise PipelineError(f"length is a whole number of samples from 0, not {length!r}")
    if held is not None and length > held:
        raise PipelineError(f"length is {length} samples; the codes have only {held}, so they are of another recording")


def check_counter(value: Any, what: str, batch: int | None = None) -> None:
    """What seeded noise counts from is a whole number of 64 bits, or an integer tensor with one for each item of the
    batch (None: not known yet)."""
    if isinstance(value, Tensor):
        fits = value.ndim == 0 or (value.ndim == 1 and (batch is None or len(value) in (1, batch)))
        if not fits or value.is_floating_point() or value.is_complex():
            items = "each item" if batch is None else f"each of {batch} items"
            raise PipelineError(f"{what} is a whole number, or a tensor with one for {items}, not {_kind(value)}")
    elif not _is_whole(value) or not -(2**63) <= value < 2**63:
        raise PipelineError(f"{what} is a whole number of 64 bits, not {value!r}")


def _is_whole(value: Any) -> bool:
    try:
        operator.index(value)
    except TypeError:
        return False
    return True


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and type {_name(value.dtype)}"
    return f"{type(value).__module__}.{type(value).__name__}".removeprefix("builtins.")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
