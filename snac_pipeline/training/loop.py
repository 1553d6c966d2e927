"""The training loop, read from top to bottom.

In: a recipe, a model, the training and held-out speech, and a run folder. Out: the trained model, with the run's
history beside it. Everything that the next step depends on is a pure function of (recipe, epoch, step) or in the
checkpoint, so that a run that was killed continues bit for bit on a CPU.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from snac_pipeline.codec import SNAC
from snac_pipeline.codec.quantizer import Quantized
from snac_pipeline.files import write_text
from snac_pipeline.training.codebooks import CodebookCare
from snac_pipeline.training.compiling import Synthesis
from snac_pipeline.training.data import Batch, Reader
from snac_pipeline.training.journal import Journal, OnEvent
from snac_pipeline.training.losses import reconstruction_losses
from snac_pipeline.training.measuring import Measuring
from snac_pipeline.training.model import enter_stage, output_rates, trained_parameters
from snac_pipeline.training.noise_branch import noise_of
from snac_pipeline.training.plan import Plan, Speech
from snac_pipeline.training.ranks import ALONE, GradientSum, Ranks
from snac_pipeline.training.readings import Readings, Taken
from snac_pipeline.training.recipe import HeadName, Recipe
from snac_pipeline.training.slices import Slice
from snac_pipeline.training.state import Training
from snac_pipeline.training.stopping import Interrupted, stop_signals
from snac_pipeline.training.targets import in_band
from snac_pipeline.training.tracking import NoTracker, Tracker
from snac_pipeline.training.validation import HeldOut

LOG_SECONDS = 5.0
COMPUTE = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""Type of the latents that training decodes, and so of the decoder's activations and convolutions; see codec/layers.py.
The heads give float32 again."""


def train(
    recipe: Recipe,
    model: SNAC,
    speech: Speech,
    held_out: HeldOut,
    run: Path,
    on_event: OnEvent,
    *,
    ranks: Ranks = ALONE,
    tracker: Tracker | None = None,
    compiled: bool = False,
) -> dict[str, Any]:
    """Train `model` in place, resuming from the newest checkpoint in `run`; returns the run's figures.

    The folder gets baseline_metrics.json (held-out losses before training), history.jsonl (loss and rates over steps),
    checkpoints/, best/ (the codec of the least held-out loss) and what journal.py writes. ranks: the processes that
    train together. compiled: decode through torch.compile. Raises PipelineError when the loss is no longer finite or
    another process is gone, Interrupted on SIGINT or SIGTERM.
    """
    plan, training, readings = Plan(recipe, model, speech), Training(recipe, model, ranks), Readings(run, speech)
    journal = Journal(
        run, on_event, plan, training.device, tracker=tracker or NoTracker(), ranks=ranks, every_seconds=LOG_SECONDS
    )
    measuring = Measuring(training, held_out, plan, run, journal)
    training.resume(run, journal.say)
    progress, synthesis = training.progress, Synthesis(model, compiled)
    reader = Reader(
        speech.dataset, plan.batches_from(progress.epoch, progress.epoch_step), ranks, recipe.loader_workers
    )
    model.train()
    with stop_signals() as stop_requested:
        for epoch in range(progress.epoch, recipe.epochs):
            for taken in steps_of(epoch, plan, training, reader, synthesis):
                readings.note(taken)
                told = journal.is_due(progress) or progress.epoch_step == plan.steps_in(epoch)
                stop, due, told = ranks.any(stop_requested(), training.is_due(), told)
                if stop or due or told:
                    for figures in readings.read():
                        journal.stepped(progress, figures)
                    journal.tell(progress)
                if stop or due:
                    training.save(run)
                if stop:
                    raise Interrupted(f"stopped at step {progress.step} of {plan.steps}; run it again to go on")
            training.save(run)  # before measuring, which takes its time; a run stopped meanwhile measures again
            measuring.after(epoch)
            progress.epoch, progress.epoch_step = epoch + 1, 0
    if ranks.first:
        write_text(run / "history.jsonl", "".join(json.dumps(entry) + "\n" for entry in progress.history))
    return {**measuring.result(), "audio_seconds_per_second": journal.pace, "waited_for_data_seconds": reader.waited}


def steps_of(
    epoch: int, plan: Plan, training: Training, reader: Iterator[Batch], synthesis: Synthesis
) -> Iterator[Taken]:
    """Take the steps of an epoch that are not done yet. The host waits for nothing that the device computes.

    Figures: loss, rate (the schedule's factor), gradient_norm, audio_seconds, learning rates and use of codebooks.
    """
    recipe, model, optimizer, progress = training.recipe, training.model, training.optimizer, training.progress
    stage, _ = recipe.stage_at(epoch)
    enter_stage(stage, model, trains_noise=recipe.trains_noise)
    synthesis.begin(plan.span_at(epoch), len(training.ranks.share(range(plan.batch_size(epoch)))))
    stage_steps, stage_done = plan.stage_steps(epoch)
    for batches in plan.epoch(epoch)[progress.epoch_step :]:
        factor = training.set_rates(stage, stage_done + progress.epoch_step, stage_steps)
        if "quantizer" in stage.learning_rates:
            training.tend_codebooks(plan.steps)
        loss = gradients(training, batches, reader, synthesis)
        norm = torch.nn.utils.clip_grad_norm_(trained_parameters(model), recipe.optimizer.grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        training.average.update(progress.step)
        progress.epoch_step += 1
        progress.step += 1
        seconds = sum(map(len, batches)) * plan.slice_seconds(epoch)
        figures = {"loss": loss, "rate": factor, "gradient_norm": norm, "audio_seconds": seconds}
        yield Taken(epoch, progress.step, batches, {**figures, **training.figures()})


def gradients(training: Training, batches: list[list[Slice]], reader: Iterator[Batch], synthesis: Synthesis) -> Tensor:
    """Leave in the model the gradients of one batch of all of a step's items; that batch's loss, a scalar.

    Every batch's loss, a mean over its items, counts by how many of the step's items are its own; so do the shares of
    several processes.
    """
    recipe, model, ranks, step = training.recipe, training.model, training.ranks, training.progress.step
    weights = recipe.head_weights(training.progress.epoch)
    items = sum(map(len, batches))
    total = torch.zeros((), device=training.device)
    added = GradientSum(trained_parameters(model), ranks)
    shares = [share for slices in batches if (share := ranks.share(slices))]
    for share in shares:
        batch = next(reader).to(training.device)
        loss = training_step(recipe, model, batch, weights, training.care, step, synthesis.of(batch))
        loss = loss * (len(share) / items)
        with added.last_backward() if share is shares[-1] else contextlib.nullcontext():
            loss.backward()
        total = total + loss.detach()
    added.send_rest()
    training.care.settle(ranks)
    return added.finish(total)


def training_step(
    recipe: Recipe,
    model: SNAC,
    batch: Batch,
    weights: Mapping[HeadName, float],
    care: CodebookCare,
    step: int,
    synthesize: Callable[..., dict[int, Tensor]] | None = None,
) -> Tensor:
    """The loss of one batch, a scalar: decode the windows, compare the segments with their targets.

    synthesize: in place of model.synthesize, when that is compiled.
    """
    quantized = None
    if batch.codes is None:
        assert batch.audio_B1T is not None, "a batch has codes or audio"
        quantized = model.quantize(batch.audio_B1T, rounded=care.rounds(step))
        latents = quantized.latents_BCL
    else:
        with torch.no_grad():
            latents = model.quantizer.from_codes(batch.codes)
    rates = {name: rate for name, rate in output_rates(recipe, model.spec).items() if weights[name] > 0}
    noise = noise_of(recipe.noise, batch, model.spec)
    outputs = (synthesize or model.synthesize)(
        latents.to(COMPUTE[recipe.precision]),
        noise,
        list(rates.values()),
        detach_native=recipe.detach_native,
        frames_B=batch.frames_B,
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
