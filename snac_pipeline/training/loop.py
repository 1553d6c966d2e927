"""The training loop, read from top to bottom.

In: a recipe, a model, the training and held-out speech, and a run folder. Out: the trained model, with the run's
history beside it. Everything that the next step depends on is a pure function of (recipe, epoch, step) or in the
checkpoint, so that a run that was killed continues bit for bit on a CPU.
"""

import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snac_pipeline.codec import SNAC
from snac_pipeline.codec.quantizer import Quantized
from snac_pipeline.errors import PipelineError
from snac_pipeline.files import read_json, write_json, write_text
from snac_pipeline.training.checkpoints import checkpoint_folders, load_newest, save_checkpoint
from snac_pipeline.training.codebooks import CodebookCare
from snac_pipeline.training.data import Batch, SpeechSlices, read_batches
from snac_pipeline.training.losses import reconstruction_losses
from snac_pipeline.training.model import build_optimizer, enter_stage, output_rates, trained_parameters
from snac_pipeline.training.noise_branch import NoiseGain, noise_of
from snac_pipeline.training.recipe import Recipe
from snac_pipeline.training.schedules import learning_rate_factor
from snac_pipeline.training.slices import batches_per_epoch, plan_epoch
from snac_pipeline.training.targets import in_band
from snac_pipeline.training.validation import HeldOut, improvement

OnEvent = Callable[[dict[str, Any]], None]
LOG_SECONDS = 5.0
HISTORY_POINTS = 2000
"""Training losses that a run's history keeps at most, or twice that; it travels in every checkpoint."""


class Interrupted(BaseException):
    """SIGINT or SIGTERM came; the checkpoint is written and the run can be continued."""


@dataclass
class Speech:
    """What a run trains on: a dataset and the coarse frames of each of its utterances."""

    dataset: SpeechSlices
    frames: np.ndarray


@dataclass
class Progress:
    """Where the loop stands. Everything here is in the checkpoint."""

    epoch: int = 0
    batch: int = 0
    """Batches of the epoch that are done."""
    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


def train(
    recipe: Recipe, model: SNAC, speech: Speech, held_out: HeldOut, run: Path, on_event: OnEvent
) -> dict[str, Any]:
    """Train `model` in place, resuming from the newest checkpoint in `run`; returns the run's figures.

    The folder gets baseline_metrics.json (held-out loss before training), history.jsonl (loss and rates over steps) and
    checkpoints/. Raises PipelineError when the loss is no longer finite, Interrupted on SIGINT or SIGTERM.
    """
    device = next(model.parameters()).device
    optimizer = build_optimizer(recipe, model)
    plan = Plan(recipe, model, speech)
    care = CodebookCare(model, recipe.codebooks)
    progress = _resume(run, model, optimizer, care, on_event) or Progress()
    baseline = _baseline(recipe, model, held_out, run, progress, on_event)
    started, audio_seconds, logged, saved = time.monotonic(), 0.0, 0.0, time.monotonic()
    model.train()

    def save() -> None:
        state = {
            "codebooks": care.state(),
            "progress": vars(progress),
            "optimizer": optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all(),
        }
        save_checkpoint(run, progress.step, model, state, recipe.checkpoints.keep)

    if progress.step == 0:
        torch.manual_seed(recipe.seed)
    with _signals() as stop_requested:
        for epoch in range(progress.epoch, recipe.epochs):
            stage, stage_start = recipe.stage_at(epoch)
            enter_stage(stage, model, trains_noise=recipe.trains_noise)
            batches = plan.epoch(epoch)
            stage_steps = sum(plan.batches(e) for e in range(stage_start, stage_start + stage.epochs))
            stage_done = sum(plan.batches(e) for e in range(stage_start, epoch))
            weights = {name: stage.head_weights.get(name, head.weight) for name, head in recipe.heads.items()}
            for batch in read_batches(speech.dataset, batches[progress.batch :], recipe.loader_workers):
                factor = learning_rate_factor(stage, stage_done + progress.batch, stage_steps)
                for group in optimizer.param_groups:
                    group["lr"] = stage.learning_rates.get(group["name"], 0.0) * factor
                if "quantizer" in stage.learning_rates:
                    care.tend(progress.step, plan.steps)
                loss = training_step(recipe, model, batch.to(device), weights, care, progress.step)
                loss.backward()
                norm = torch.nn.utils.clip_grad_norm_(trained_parameters(model), recipe.optimizer.grad_clip)
                if not math.isfinite(loss.item()) or not math.isfinite(norm.item()):
                    raise _not_finite(run, progress, batch, speech)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)

                progress.batch += 1
                progress.step += 1
                length = plan.segment(epoch) * len(batch.rows) * model.spec.frame_seconds
                audio_seconds += length
                now = time.monotonic()
                if progress.step % plan.history_every == 0 or progress.step == plan.steps:
                    entry = {"step": progress.step, "epoch": epoch, "loss": loss.item(), "rate": factor}
                    progress.history.append(entry)
                if now - logged > LOG_SECONDS or progress.step == plan.steps:
                    logged = now
                    use = {"codebook_perplexity": care.perplexity()} if recipe.trains_codes else {}
                    on_event({**_report(progress, plan, loss.item(), audio_seconds, now - started), **use})
                if _checkpoint_due(recipe, progress.step, now - saved):
                    save()
                    saved = now
                if stop_requested():
                    save()
                    raise Interrupted(f"stopped at step {progress.step} of {plan.steps}; run it again to go on")
            save()  # before measuring, which takes its time; a run stopped meanwhile measures again
            if (epoch + 1) % recipe.validation.every_epochs == 0 or epoch + 1 == recipe.epochs:
                _, entry = _measure(recipe, model, held_out)
                progress.history.append({"step": progress.step, "epoch": epoch, **entry})
                on_event({"message": f"epoch {epoch + 1} of {recipe.epochs} done, held-out {_words(entry)}", **entry})
            progress.epoch, progress.batch = epoch + 1, 0
    write_text(run / "history.jsonl", "".join(json.dumps(entry) + "\n" for entry in progress.history))
    final = held_out.measure(model, recipe)
    changes = {rate: improvement(baseline[rate], final[rate]) for rate in final}
    return {
        "steps": progress.step,
        "baseline": {rate: float(values.mean()) for rate, values in baseline.items()},
        "final": {rate: float(values.mean()) for rate, values in final.items()},
        "improvement": {rate: change.mean for rate, change in changes.items()},
        "improvement_interval": {rate: [change.low, change.high] for rate, change in changes.items()},
        "audio_seconds_per_second": audio_seconds / max(1e-9, time.monotonic() - started),
    }


def training_step(
    recipe: Recipe,
    model: SNAC,
    batch: Batch,
    weights: dict[str, float],
    care: CodebookCare,
    step: int,
) -> Tensor:
    """The loss of one batch, a scalar: decode the windows, compare the segments with their targets."""
    quantized = None
    if batch.codes is None:
        quantized = model.quantize(batch.audio_B1T, rounded=care.rounds(step))
        latents = quantized.latents_BCL
    else:
        with torch.no_grad():
            latents = model.quantizer.from_codes(batch.codes)
    rates = {name: rate for name, rate in output_rates(recipe, model.spec).items() if weights[name] > 0}
    noise = noise_of(recipe.noise, batch, model.spec)
    outputs = model.synthesize(
        latents, noise, list(rates.values()), detach_native=recipe.detach_native, frames_B=batch.frames_B
    )
    loss = torch.zeros((), device=latents.device)
    for name, rate in rates.items():
        target = batch.targets[rate]
        per_frame = model.spec.samples(1, rate)
        estimate = cut(outputs[rate], batch.offset_B * per_frame, target.shape[-1])
        valid = batch.valid_B * per_frame
        n_ffts = recipe.heads[name].n_ffts
        estimate, target = in_band(estimate, target, valid, batch.cutoffs.get(rate), rate)
        items = reconstruction_losses(estimate, target, valid, rate, n_ffts, recipe.losses)
        loss = loss + weights[name] * items.mean()
    if quantized is not None:
        care.observe(quantized)
        if care.rounds(step):
            loss = loss + commitment_loss(recipe, quantized)
    return loss


def commitment_loss(recipe: Recipe, quantized: Quantized) -> Tensor:
    """Pull of vectors towards their codes and of codes towards their vectors (van den Oord et al., 2017)."""
    loss = torch.zeros((), device=quantized.latents_BCL.device)
    for projected, chosen in zip(quantized.projected, quantized.chosen, strict=True):
        loss = loss + recipe.losses.commitment * (projected - chosen.detach()).square().mean()
        loss = loss + recipe.losses.codebook * (chosen - projected.detach()).square().mean()
    return loss


def cut(audio_B1T: Tensor, start_B: Tensor, length: int) -> Tensor:
    """(B, 1, T) -> (B, 1, length), each item from its own start."""
    positions = start_B[:, None, None] + torch.arange(length, device=audio_B1T.device)
    return audio_B1T.gather(2, positions)


class Plan:
    """The recipe's curriculum on this model and speech: segments, batches, steps."""

    def __init__(self, recipe: Recipe, model: SNAC, speech: Speech):
        self.recipe, self.spec, self.frames = recipe, model.spec, speech.frames
        exact, unit = self.spec.decode_context, self.spec.alignment
        self.context = exact if recipe.context_frames is None else recipe.context_frames
        if self.context % unit:
            raise PipelineError(
                f"context_frames {self.context} does not fill whole attention windows; give a multiple of {unit}"
            )
        self.steps = sum(self.batches(epoch) for epoch in range(recipe.epochs))
        self.history_every = max(1, self.steps // HISTORY_POINTS)

    def segment(self, epoch: int) -> int:
        """Supervised coarse frames of a slice."""
        return self.spec.segment_frames(self.recipe.lesson_at(epoch)[0].seconds)

    def batch_size(self, epoch: int) -> int:
        """Slices in a batch."""
        return self.recipe.lesson_at(epoch)[0].batch_of(self.recipe.batch_size)

    def batches(self, epoch: int) -> int:
        """Steps in the epoch."""
        return batches_per_epoch(self.frames, self.segment(epoch), self.batch_size(epoch))

    def epoch(self, epoch: int) -> list:
        """The epoch's batches of slices."""
        return plan_epoch(
            self.frames,
            self.segment(epoch),
            self.context,
            self.batch_size(epoch),
            self.spec.alignment,
            self.recipe.seed,
            epoch,
        )


def _resume(
    run: Path, model: SNAC, optimizer: torch.optim.Optimizer, care: CodebookCare, on_event: OnEvent
) -> Progress | None:
    state = load_newest(run, model, lambda message: on_event({"message": message}))
    if state is None:
        return None
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["random"])
    if state["random_cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["random_cuda"])
    progress = Progress(**state["progress"])
    care.load_state(state["codebooks"])
    on_event({"message": f"resuming at step {progress.step}", "step": progress.step})
    return progress


def _baseline(
    recipe: Recipe, model: SNAC, held_out: HeldOut, run: Path, progress: Progress, on_event: OnEvent
) -> dict[int, np.ndarray]:
    """The held-out losses before the first step, measured once and kept in the run folder."""
    file = run / "baseline_metrics.json"
    if progress.step == 0 or not file.exists():
        losses, entry = _measure(recipe, model, held_out)
        write_json(file, {str(rate): values.tolist() for rate, values in losses.items()})
        on_event({"message": f"before training: held-out {_words(entry)}", **entry})
        if progress.step == 0 and "noise_gain" in entry:
            progress.history.append({"step": 0, "noise_gain": entry["noise_gain"]})
    return {int(rate): np.array(values) for rate, values in read_json(file).items()}


def _measure(recipe: Recipe, model: SNAC, held_out: HeldOut) -> tuple[dict[int, np.ndarray], dict[str, Any]]:
    """The held-out losses, and what is told of them: their means, and how loud the decoder's noise is."""
    with NoiseGain(model) as gain:
        losses = held_out.measure(model, recipe)
    entry = {f"val_{rate}": float(values.mean()) for rate, values in losses.items()}
    return losses, {**entry, "noise_gain": gain.values()} if gain.blocks else entry


def _checkpoint_due(recipe: Recipe, step: int, seconds: float) -> bool:
    cadence = recipe.checkpoints
    return seconds > 60 * cadence.every_minutes or bool(cadence.every_steps and step % cadence.every_steps == 0)


def _report(progress: Progress, plan: Plan, loss: float, audio_seconds: float, seconds: float) -> dict[str, Any]:
    done = progress.step / plan.steps
    rate = audio_seconds / max(1e-9, seconds)
    return {
        "message": f"step {progress.step}/{plan.steps} loss {loss:.4f}, {rate:.1f} s of audio a second",
        "step": progress.step,
        "steps": plan.steps,
        "loss": loss,
        "audio_seconds_per_second": rate,
        "fraction": done,
    }


def _words(entry: dict[str, Any]) -> str:
    losses = [f"{key.removeprefix('val_')} Hz: {value:.4f}" for key, value in entry.items() if key.startswith("val_")]
    gains = " ".join(f"{gain:.3f}" for gain in entry.get("noise_gain", []))
    return ", ".join([*losses, *([f"noise gain {gains}"] if gains else [])])


def _not_finite(run: Path, progress: Progress, batch: Batch, speech: Speech) -> PipelineError:
    files = ", ".join(str(speech.dataset.files[row]) for row in batch.rows[:8])
    saved = checkpoint_folders(run)
    last = f"the last good checkpoint is {saved[-1]}" if saved else "there is no checkpoint yet"
    return PipelineError(
        f"the loss is not finite at step {progress.step + 1} (epoch {progress.epoch + 1}) on {files}"
        f"{' and others' if len(batch.rows) > 8 else ''}; {last}; lower the learning rates or look at these files"
    )


@contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """While entered, SIGINT and SIGTERM only set a flag, told by the yielded function; a second one ends at once."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    requested = threading.Event()

    def note(number: int, frame: Any) -> None:
        if requested.is_set():
            os._exit(128 + number)
        requested.set()

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield requested.is_set
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
