"""Encoding on one device, a GPU above all: what `encode.py --device` measures.

In: options. Out: a table and JSON. Utterances of 2 to 20 s are made here (shaped noise), the codec is the published
24 kHz geometry with random weights, or a thin one. Every way encodes the same utterances in the same process, once
to warm up (kernels are compiled, CUDA graphs recorded) and then timed: the library as a worker of the code cache runs
it, in each precision; its eager calls utterance by utterance; and the loop over the PyPI package `snac`, where that is
installed. Tokens are compared with those of float32 on the CPU, one utterance at a time. Traffic is what the layers
read and write if each of their tensors is moved once, as a share of what a copy on this device moves.
"""

import argparse
import dataclasses
import datetime
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import bare
import numpy as np
import torch
from torch import Tensor, nn

bare.allow_missing()

from snac_pipeline.codec import SNAC, CodecSpec  # noqa: E402
from snac_pipeline.codec.layers import Conv, Snake, TransposedConv  # noqa: E402
from snac_pipeline.codes.encode import Encoder, Recording, encode_array, plan_windows  # noqa: E402
from snac_pipeline.training.model import initialise  # noqa: E402

PRECISIONS = ("fp32", "tf32", "bf16")
COPIED = 2**28
"""Numbers in the tensor that is copied to measure a device's bandwidth; a CPU copies a 16th of that."""


def made_codec(geometry: dict[str, Any], thin: bool) -> SNAC:
    """A codec that nobody trained; a thin one costs a CPU little."""
    spec = CodecSpec.from_dict(geometry)
    if thin:
        spec = dataclasses.replace(spec, encoder_dim=8, decoder_dim=64, latent_dim=None)
    torch.manual_seed(0)
    model = SNAC(spec).eval()
    initialise(model)
    return model


def measure(options: argparse.Namespace, geometry: dict[str, Any]) -> None:
    """Measure, print, and write JSON where that is asked for."""
    device = torch.device(options.device)
    model = made_codec(geometry, options.thin)
    spec = model.spec
    audio = utterances(options.utterances, spec)
    seconds = sum(map(len, audio)) / spec.sampling_rate
    known = [encode_array(model, one[None], "fp32") for one in padded(audio[: options.compared], spec)]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.to(device)
    ways: dict[str, Callable[[], list[list[np.ndarray]]]] = {}
    for precision in PRECISIONS:
        encoder = Encoder.on_device(model, precision)
        ways[f"batches, {precision}"] = lambda encoder=encoder: in_batches(encoder, audio, options.batch_seconds)
    ways["one by one, fp32"] = lambda: [encode_array(model, one[None], "fp32") for one in padded(audio, spec)]
    if bare.is_there("snac"):
        ways["loop over snac"] = loop_over_snac(spec, state, audio, device)
    bandwidth, traffic = copied_bytes_a_second(device), bytes_per_second(model, device)
    rows = []
    for name, way in ways.items():
        way()
        times = []
        for _ in range(options.rounds):
            wait(device)
            began = time.perf_counter()
            codes = way()
            wait(device)
            times.append(time.perf_counter() - began)
        factor = seconds / min(times)
        rows.append({"way": name, "factor": factor, "times": times, "agreement": agreement(codes, known, spec),
                     "of_copy_bandwidth": factor * traffic / bandwidth})  # fmt: skip
    windows = list(plan_windows(recordings(audio), spec, options.batch_seconds, buckets=True))
    shapes_used = {window.shape(spec, options.batch_seconds) for window in windows}
    facts = {
        **machine(device),
        "utterances": len(audio),
        "audio_seconds": seconds,
        "batch_seconds": options.batch_seconds,
        "shapes": len(shapes_used),
        "copy_bytes_a_second": bandwidth,
        "bytes_per_audio_second": traffic,
        "memory_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        "rows": rows,
    }
    print(
        f"{facts['device']}, torch {facts['torch']}, {seconds:.0f} s of audio, {len(shapes_used)} shapes; a copy moves "
        f"{bandwidth / 1e9:.0f} GB/s, a second of audio {traffic / 1e6:.0f} MB"
    )
    print(f"{'':20}{'times real time':>16}{'of copy bandwidth':>19}{'tokens as fp32 on CPU, per level':>36}")
    for row in rows:
        shares = " ".join(f"{share:.4f}" for share in row["agreement"])
        print(f"{row['way']:20}{row['factor']:>16.1f}{row['of_copy_bandwidth']:>19.3f}{shares:>36}")
    if not bare.is_there("snac"):
        print("the package `snac` is not installed: no loop over it")
    if options.json:
        options.json.write_text(json.dumps(facts, indent=2) + "\n")


def utterances(count: int, spec: CodecSpec) -> list[np.ndarray]:
    """Noise with the slope of speech, 2 to 20 s, float32 (T,)."""
    drawn = np.random.default_rng(0)
    lengths = drawn.uniform(2.0, 20.0, count)
    noise = [drawn.normal(size=round(length * spec.sampling_rate)).astype(np.float32) for length in lengths]
    return [0.1 * (one + np.concatenate([[0.0], one[:-1]]).astype(np.float32)) for one in noise]


def padded(audio: list[np.ndarray], spec: CodecSpec) -> list[np.ndarray]:
    return [np.pad(one, (0, spec.padded_length(len(one)) - len(one))) for one in audio]


def recordings(audio: list[np.ndarray]) -> list[Recording]:
    return [Recording(f"{i:032x}", "", len(one)) for i, one in enumerate(audio)]


def in_batches(encoder: Encoder, audio: list[np.ndarray], batch_seconds: float) -> list[list[np.ndarray]]:
    """As a worker of the code cache encodes on a GPU, reading and writing left out."""
    spec, rows = encoder.model.spec, recordings(audio)
    number = {row.digest: i for i, row in enumerate(rows)}
    codes: list[list[list[np.ndarray]]] = [[[] for _ in range(spec.levels)] for _ in audio]

    def begun() -> Iterator[tuple[Any, Any]]:
        for window in plan_windows(rows, spec, batch_seconds, buckets=True):
            first, samples = spec.samples(window.first), spec.samples(window.last - window.first)
            read = np.zeros((len(window.items), samples), np.float32)
            for row, item in zip(read, window.items, strict=True):
                piece = audio[number[item.digest]][first : first + samples]
                row[: len(piece)] = piece
            yield window, encoder.begin_in_memory(read, window.frames, window.shape(spec, batch_seconds))

    def keep(window: Any, levels: Any) -> None:
        for k, (level, count) in enumerate(zip(levels(), spec.tokens_per_frame, strict=True)):
            for row, item in enumerate(window.items):
                codes[number[item.digest]][k].append(window.kept(level[row], row, count))

    before = None
    for now in begun():
        if before is not None:
            keep(*before)
        before = now
    if before is not None:
        keep(*before)
    return [[np.concatenate(level)[None] for level in levels] for levels in codes]


def loop_over_snac(
    spec: CodecSpec, state: dict[str, Tensor], audio: list[np.ndarray], device: torch.device
) -> Callable[[], list[list[np.ndarray]]]:
    """The straightforward way, with torch's defaults."""
    import snac

    model = snac.SNAC(**spec.to_dict()).eval()
    model.load_state_dict(state)
    model.to(device)

    def encode() -> list[list[np.ndarray]]:
        with torch.inference_mode():
            return [
                [level.cpu().numpy() for level in model.encode(torch.from_numpy(one)[None, None].to(device))]
                for one in audio
            ]

    return encode


def agreement(codes: list[list[np.ndarray]], known: list[list[np.ndarray]], spec: CodecSpec) -> list[float]:
    """Per level, the share of tokens that are those of float32 on the CPU."""
    pairs = list(zip(codes, known, strict=False))
    return [float(np.mean(np.concatenate([(a[k] == b[k]).ravel() for a, b in pairs]))) for k in range(spec.levels)]


def copied_bytes_a_second(device: torch.device) -> float:
    """Read and written by a copy inside the device's memory, the best of five."""
    source = torch.zeros(COPIED if device.type == "cuda" else COPIED // 16, device=device)
    target, best = torch.empty_like(source), float("inf")
    for _ in range(5):
        wait(device)
        began = time.perf_counter()
        target.copy_(source)
        wait(device)
        best = min(best, time.perf_counter() - began)
    return 2 * source.numel() * source.element_size() / best


def bytes_per_second(model: SNAC, device: torch.device) -> float:
    """What the encoder's layers read and write for a second of float32 audio, each of their tensors once."""
    moved = 0

    def note(module: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> None:
        nonlocal moved
        moved += 4 * (given[0].numel() + result.numel())

    kinds = (Snake, Conv, TransposedConv)
    hooks = [one.register_forward_hook(note) for one in model.encoder.modules() if isinstance(one, kinds)]
    frames = 16
    with torch.inference_mode():
        model.encoder(torch.zeros(1, 1, model.spec.samples(frames), device=device))
    for hook in hooks:
        hook.remove()
    return moved / (frames * model.spec.frame_seconds)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def machine(device: torch.device) -> dict[str, Any]:
    """What figures belong to."""
    facts = {"torch": torch.__version__, "date": datetime.date.today().isoformat()}
    if device.type != "cuda":
        return {**facts, "device": "CPU", "driver": None}
    import subprocess

    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(query, stdout=subprocess.PIPE, text=True, check=False).stdout.split("\n")[0]
    return {**facts, "device": torch.cuda.get_device_name(device), "driver": driver, "cuda": torch.version.cuda}
