"""Training steps on one device, a GPU above all: what `training_step.py --device` measures.

In: options. Out: a table and JSON. Codes and targets are made here, the codec is the published 24 kHz geometry with
random weights, or a thin one. For slices of 1, 2, 3 and 4 s, batches of equally much audio: the library's step in
bfloat16 and in float32, and the straightforward one (the decoder of the PyPI package `snac` where that is installed,
else ours with plain operations; float32, eager, the loss read at every step), all in this process. First steps, which
compile, are left out. From the rates follow hours of phase 10 on --corpus utterances, data taken to be always ahead.
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bare
import torch
from torch import Tensor, nn

bare.allow_missing()

from encode import GEOMETRY  # noqa: E402
from encode_on_device import copied_bytes_a_second, machine, made_codec, wait  # noqa: E402

from snac_pipeline.codec import SNAC, CodecSpec  # noqa: E402
from snac_pipeline.codec.kernels import eager_kernels  # noqa: E402
from snac_pipeline.codec.layers import Conv, Snake, TransposedConv  # noqa: E402
from snac_pipeline.training.compiling import Synthesis, choose_kernels  # noqa: E402
from snac_pipeline.training.data import Batch  # noqa: E402
from snac_pipeline.training.loop import gradients  # noqa: E402
from snac_pipeline.training.model import build_model, enter_stage, trained_parameters  # noqa: E402
from snac_pipeline.training.plan import Span  # noqa: E402
from snac_pipeline.training.ranks import ALONE  # noqa: E402
from snac_pipeline.training.recipe import Recipe  # noqa: E402
from snac_pipeline.training.slices import Slice  # noqa: E402
from snac_pipeline.training.state import Training  # noqa: E402

LENGTHS = (1.0, 2.0, 3.0, 4.0)
N_FFTS = [1024, 2048, 4096]
PHASE10 = Path(__file__).parents[1] / "recipes" / "phase10.yaml"
WARM_UP = 3


def measure(options: argparse.Namespace) -> None:
    """Measure, print, and write JSON where that is asked for."""
    device = torch.device(options.device)
    codec = made_codec(GEOMETRY, options.thin)
    spec = codec.spec
    bandwidth, rows = copied_bytes_a_second(device), []
    for seconds in options.lengths:
        segment = spec.segment_frames(seconds)
        items = max(1, int(options.batch_seconds / seconds))
        batch = made_batch(spec, items, segment).to(device)
        plain = plain_snac if bare.is_there("snac") else plain_ours
        ways: dict[str, Callable[[], Callable[[], Tensor]]] = {
            "ours bf16": lambda batch=batch: our_step(codec, batch, "bf16", options.compile),
            "ours fp32": lambda batch=batch: our_step(codec, batch, "fp32", options.compile),
            "plain fp32": lambda batch=batch, plain=plain: plain(codec, batch),
        }
        for name, made in ways.items():
            audio = items * segment * spec.frame_seconds
            times, memory = timed(made(), device, options.steps)
            row = {"seconds": seconds, "items": items, "way": name, "factor": audio / times, "step_seconds": times,
                   "memory_bytes_per_second": None if memory is None else memory / audio}  # fmt: skip
            if name != "plain fp32":
                traffic = bytes_per_second(codec, 2 if name.endswith("bf16") else 4)
                row["of_copy_bandwidth"] = row["factor"] * traffic / bandwidth
            rows.append(row)
    facts: dict[str, Any] = {**machine(device), "copy_bytes_a_second": bandwidth, "rows": rows}
    for name in ("ours bf16", "ours fp32", "plain fp32"):
        rates = {row["seconds"]: row["factor"] for row in rows if row["way"] == name}
        facts.setdefault("phase10_hours", {})[name] = phase10_hours(rates, options.corpus * options.mean_seconds)
    print(f"{facts['device']}, torch {facts['torch']}, {options.batch_seconds:g} s of audio in a step")
    print(f"{'':16}{'slices':>10}{'times real time':>17}{'of copy bandwidth':>19}{'MB per audio s':>16}")
    for row in rows:
        memory, share = row["memory_bytes_per_second"], row.get("of_copy_bandwidth")
        print(
            f"{row['way']:16}{row['items']:>4} x {row['seconds']:g} s{row['factor']:>17.1f}"
            f"{'-' if share is None else f'{share:.3f}':>19}{'-' if memory is None else f'{memory / 1e6:.0f}':>16}"
        )
    for name, hours in facts["phase10_hours"].items():
        if hours is not None:
            print(f"phase 10 on {options.corpus} utterances of {options.mean_seconds:g} s, {name}: {hours:.1f} h")
    if options.json:
        options.json.write_text(json.dumps(facts, indent=2) + "\n")


def made_batch(spec: CodecSpec, items: int, segment: int) -> Batch:
    """Random codes, and noise for targets."""
    drawn = torch.Generator().manual_seed(0)
    tokens = [(items, segment * count) for count in spec.tokens_per_frame]
    return Batch(
        row_B=torch.arange(items),
        codes=[torch.randint(spec.codebook_size, shape, generator=drawn) for shape in tokens],
        audio_B1T=None,
        targets={spec.sampling_rate: 0.1 * torch.randn(items, 1, spec.samples(segment), generator=drawn)},
        frames_B=None,
        offset_B=torch.zeros(items, dtype=torch.int64),
        valid_B=torch.full((items,), segment),
        start_B=torch.zeros(items, dtype=torch.int64),
    )


def our_step(codec: SNAC, batch: Batch, precision: str, compiled: bool) -> Callable[[], Tensor]:
    """The step of the library's loop."""
    items, device = len(batch.row_B), batch.row_B.device
    recipe = Recipe.model_validate(
        {
            "phase": "phase10",
            "heads": {"native": {"n_ffts": N_FFTS}},
            "stages": [{"name": "main", "epochs": 1, "learning_rates": {"trunk": 15e-6, "native_head": 15e-6}}],
            "curriculum": [{"epochs": 1, "seconds": 1.0}],
            "batch_size": items,
            "losses": {"l1": 1.0, "magnitude": 1.0},
            "precision": precision,
            "compile": compiled,
        }
    )
    whole = choose_kernels(recipe, device, lambda event: print(event["message"]))
    model = build_model(recipe, codec).to(device).train()
    training, synthesis = Training(recipe, model, ALONE), Synthesis(model, whole)
    enter_stage(recipe.stages[0], model)
    synthesis.begin(Span("main", 0, 1, 1.0, int(batch.valid_B[0]), {}), items)
    slices = [Slice(row, 0, 1, 1, 0, 1, 1) for row in range(items)]

    def step() -> Tensor:
        loss = gradients(training, [slices], itertools.repeat(batch), synthesis)
        torch.nn.utils.clip_grad_norm_(trained_parameters(model), recipe.optimizer.grad_clip)
        training.optimizer.step()
        training.optimizer.zero_grad(set_to_none=True)
        return loss

    return step


def plain_snac(codec: SNAC, batch: Batch) -> Callable[[], Tensor]:
    """As one writes it down over the package."""
    import snac

    model = snac.SNAC(**codec.spec.to_dict())
    model.load_state_dict(codec.state_dict())
    return plain_step(model.to(batch.row_B.device), batch)


def plain_ours(codec: SNAC, batch: Batch) -> Callable[[], Tensor]:
    """The same over our decoder with operations that autograd knows, where the package is not installed."""
    eager_kernels()
    model = SNAC(codec.spec)
    model.load_state_dict(codec.state_dict())
    for module in model.modules():
        if isinstance(module, Snake):
            module.forward = lambda x, mask=None, snake=module: (
                x + torch.sin(snake.alpha * x) ** 2 / (snake.alpha + 1e-9)
            )
    return plain_step(model.to(batch.row_B.device), batch)


def plain_step(model: nn.Module, batch: Batch) -> Callable[[], Tensor]:
    optimizer = torch.optim.AdamW(model.decoder.parameters(), lr=15e-6, weight_decay=1e-4)
    [target] = batch.targets.values()
    with torch.no_grad():
        latents = model.quantizer.from_codes(batch.codes)

    def step() -> Tensor:
        estimate = model.decoder(latents)[..., : target.shape[-1]]
        loss = (estimate - target).abs().mean()
        for n_fft in N_FFTS:
            window = torch.hann_window(n_fft, device=target.device)
            ours, theirs = (
                torch.stft(audio[:, 0], n_fft, n_fft // 4, window=window, return_complex=True).abs()
                for audio in (estimate, target)
            )
            loss = loss + (ours - theirs).abs().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.decoder.parameters(), 1.0).item()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        return loss

    return step


def timed(step: Callable[[], Tensor], device: torch.device, steps: int) -> tuple[float, int | None]:
    """Seconds of a step, and the most memory that torch had allocated in one, weights included."""
    for _ in range(WARM_UP):
        step()
    wait(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    began = time.perf_counter()
    for _ in range(steps):
        step()
    wait(device)
    spent = (time.perf_counter() - began) / steps
    return spent, torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def bytes_per_second(codec: SNAC, width: int) -> float:
    """What a step moves for a second of audio if each layer reads its input and writes its output once forward, and
    backward reads both its input and its output's gradient and writes its input's. width: bytes of a number."""
    moved = 0

    def note(module: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> None:
        nonlocal moved
        moved += width * (3 * given[0].numel() + 2 * result.numel())

    kinds = (Snake, Conv, TransposedConv)
    hooks = [one.register_forward_hook(note) for one in codec.decoder.modules() if isinstance(one, kinds)]
    frames = 4
    with torch.inference_mode():
        codec.decoder(torch.zeros(1, codec.spec.latent_dim, frames * codec.spec.vq_strides[0]))
    for hook in hooks:
        hook.remove()
    return moved / (frames * codec.spec.frame_seconds)


def phase10_hours(rates: dict[float, float], corpus_seconds: float) -> float | None:
    """Hours of recipes/phase10.yaml; rates: speech seconds in a second, by the length of slices in seconds, None
    where one of the recipe's is not there."""
    import yaml

    lessons = yaml.safe_load(PHASE10.read_text())["curriculum"]
    if any(lesson["seconds"] not in rates for lesson in lessons):
        return None
    return sum(lesson["epochs"] * corpus_seconds / rates[lesson["seconds"]] for lesson in lessons) / 3600
