"""The codec as two ONNX models, for programs without PyTorch: needs the extra `snac-pipeline[onnx]`.

In: a codec. Out: a folder with encoder.onnx, decoder.onnx and config.json. Lengths are free, in whole units of
spec.alignment coarse frames; the batch is 1. Inputs and outputs by name, K levels, `unit` = alignment coarse frames:

    encoder   audio (1, 1, T), padded with zeros to whole units  ->  codes_0 .. codes_{K-1} (1, n_k) int64,
              latents (1, latent_dim, L), what is quantized
    decoder   codes_0 .. codes_{K-1} int64, noise_0 .. (1, 1, T_i), one for each decoder block (see `decoder_noise`;
              zeros: no noise)  ->  audio_<rate> (1, 1, T) for each of spec.output_rates
"""

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from snac_pipeline.codec.model import SNAC
from snac_pipeline.codec.noise import Noise, NoiseMode
from snac_pipeline.codec.spec import CodecSpec
from snac_pipeline.errors import PipelineError
from snac_pipeline.files import atomic_file, write_json

TOLERANCE = 1e-4
"""How far an exported model's audio and latents may be from this library's."""

CHECKED_UNITS = (1, 2, 5)
"""Lengths at which exported models are compared; they are traced at another one."""

_TRACED_UNITS = 3
_TIES = 0.01
"""Share of codes that may differ: two can be equally near but for rounding."""


def export_onnx(model: SNAC, folder: Path) -> dict[str, Any]:
    """Write the codec's ONNX models into `folder`, each once onnxruntime gives with it what this library gives.

    Returns the files and the largest differences found. Raises PipelineError where the extra is not installed, and
    where an exported model differs by more than TOLERANCE.
    """
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise PipelineError(
            f"exporting needs the package {error.name}; install it with: pip install 'snac-pipeline[onnx]'"
        ) from error
    plain, spec = _without_weight_norm(model), model.spec
    unit = torch.export.Dim("units", min=1, max=1 << 20)
    codes, noise = _decoder_inputs(spec, _TRACED_UNITS, seed=0)
    codes_names = [f"codes_{k}" for k in range(spec.levels)]
    encoder_error = _export(
        _Encoder(plain),
        (_audio(spec, _TRACED_UNITS, seed=0),),
        {"audio": {2: unit * spec.samples(spec.alignment)}},
        (["audio"], [*codes_names, "latents"]),
        folder / "encoder.onnx",
        lambda session: max(_encoder_difference(session, plain, units) for units in CHECKED_UNITS),
    )
    decoder_error = _export(
        _Decoder(plain),
        (codes, noise),
        {
            "codes": [{1: unit * (level.shape[-1] // _TRACED_UNITS)} for level in codes],
            "noise": [{2: unit * (block.shape[-1] // _TRACED_UNITS)} for block in noise],
        },
        (
            [*codes_names, *(_noise_name(i) for i in range(len(noise)))],
            [_audio_name(rate) for rate in spec.output_rates],
        ),
        folder / "decoder.onnx",
        lambda session: max(_decoder_difference(session, plain, units) for units in CHECKED_UNITS),
    )
    write_json(folder / "config.json", spec.to_dict())
    files = [str(folder / name) for name in ("encoder.onnx", "decoder.onnx", "config.json")]
    return {"files": files, "encoder_difference": encoder_error, "decoder_difference": decoder_error}


def decoder_noise(spec: CodecSpec, frames: int, mode: NoiseMode = "seeded", seed: int = 0) -> dict[str, np.ndarray]:
    """The decoder's noise inputs for `frames` coarse frames, as `SNAC.decode` draws them; none without noise blocks."""
    draws = Noise(mode, seed)
    inputs = {}
    for block, samples in enumerate(spec.decoder_samples if spec.noise else ()):
        like = torch.zeros(1, 1, frames * spec.vq_strides[0] * samples)
        drawn = draws.draw(like, block, samples)
        inputs[_noise_name(block)] = (like if drawn is None else drawn).numpy()
    return inputs


def _noise_name(block: int) -> str:
    return f"noise_{block}"


def _audio_name(rate: int) -> str:
    return f"audio_{rate}"


# ---- what is exported ----------------------------------------------------------------------------------------------


class _Encoder(nn.Module):
    def __init__(self, model: SNAC):
        super().__init__()
        self.model = model

    def forward(self, audio: Tensor) -> tuple[Tensor, ...]:
        latents = self.model.encoder(audio)
        return *self.model.quantizer(latents).codes, latents


class _Decoder(nn.Module):
    def __init__(self, model: SNAC):
        super().__init__()
        self.model = model

    def forward(self, codes: list[Tensor], noise: list[Tensor]) -> tuple[Tensor, ...]:
        rates = self.model.spec.output_rates
        audio = self.model.synthesize(self.model.quantizer.from_codes(codes), _GivenNoise(noise), rates)
        return tuple(audio[rate] for rate in rates)


class _GivenNoise(Noise):
    """Noise that comes from outside, one tensor for each block."""

    def __init__(self, blocks: Sequence[Tensor]):
        super().__init__("seeded")
        self.blocks = blocks

    def draw(self, x_BCT: Tensor, block: int, samples_per_latent: int) -> Tensor:
        return self.blocks[block]


def _without_weight_norm(model: SNAC) -> SNAC:
    """The same codec on the CPU with plain weights. Built anew: folding a copy would break the original."""
    plain = SNAC(model.spec).eval()
    plain.load_state_dict(model.state_dict())
    for module in plain.modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")
    return plain.requires_grad_(False)


def _export(
    module: nn.Module,
    inputs: tuple[Any, ...],
    shapes: dict[str, Any],
    names: tuple[list[str], list[str]],
    file: Path,
    difference: Callable[[Any], float],
) -> float:
    """Write one model, if it agrees; returns the difference."""
    import onnxruntime

    with _quietly():
        program = torch.onnx.export(
            module.eval(), inputs, dynamo=True, dynamic_shapes=shapes, input_names=names[0], output_names=names[1],
            verbose=False,
        )  # fmt: skip
    assert program is not None  # with `dynamo` there always is one
    with atomic_file(file) as temporary:
        program.save(temporary)
        found = difference(onnxruntime.InferenceSession(temporary, providers=["CPUExecutionProvider"]))
        if not found <= TOLERANCE:
            raise PipelineError(
                f"{file.name} was not written: its results in onnxruntime {onnxruntime.__version__} differ by "
                f"{found:.2g} from this library's; try other versions of onnxruntime and torch"
            )
    return found


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without the exporter's warnings about packages that nobody here needs."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


# ---- what it is compared with --------------------------------------------------------------------------------------


def _audio(spec: CodecSpec, units: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(1, 1, spec.samples(units * spec.alignment), generator=generator)


def _decoder_inputs(spec: CodecSpec, units: int, seed: int) -> tuple[list[Tensor], list[Tensor]]:
    generator, frames = torch.Generator().manual_seed(seed), units * spec.alignment
    codes = [torch.randint(spec.codebook_size, (1, n), generator=generator) for n in spec.token_counts(frames)]
    return codes, [torch.from_numpy(noise) for noise in decoder_noise(spec, frames, seed=seed).values()]


def _encoder_difference(session: Any, model: SNAC, units: int) -> float:
    """The largest difference of the latents; infinite where its codes are not those that this library has for them."""
    audio = _audio(model.spec, units, seed=units)
    *codes, latents = session.run(None, {"audio": audio.numpy()})
    wanted = model.quantizer(torch.from_numpy(latents)).codes
    for level, tokens in zip(codes, wanted, strict=True):
        if np.mean(level != tokens.numpy()) > _TIES:
            return math.inf
    return float(np.abs(latents - model.encoder(audio).numpy()).max())


def _decoder_difference(session: Any, model: SNAC, units: int) -> float:
    """The largest difference of the audio, at any rate."""
    codes, _ = _decoder_inputs(model.spec, units, seed=units)
    noise = decoder_noise(model.spec, units * model.spec.alignment, seed=units)
    given = {f"codes_{k}": level.numpy() for k, level in enumerate(codes)} | noise
    outputs = session.run([_audio_name(rate) for rate in model.spec.output_rates], given)
    wanted = [model.decode(codes, output_rate=rate, noise="seeded", seed=units) for rate in model.spec.output_rates]
    return max(float(np.abs(a - b.numpy()).max()) for a, b in zip(outputs, wanted, strict=True))
