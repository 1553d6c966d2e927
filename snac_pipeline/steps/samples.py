"""Held-out utterances before and after a run, as spectrograms beside the recording."""

from pathlib import Path

import torch

from snac_pipeline.codec import SNAC
from snac_pipeline.corpus import read_audio
from snac_pipeline.evaluation import Clip
from snac_pipeline.evaluation.figures import draw_spectrograms
from snac_pipeline.training.model import build_model
from snac_pipeline.training.runs import Run

SAMPLES, SECONDS = 2, 3.0


def draw_samples(run: Run, file: Path) -> None:
    """Write a PNG of a finished run: for two held-out utterances the recording, and what its model made of it before
    training and after, at its highest rate and with the same noise."""
    models = {
        "before training": build_model(run.recipe, run.inputs.start).eval(),
        "after training": SNAC.from_pretrained(run.folder / "model"),
    }
    rows = []
    for path, frames, rate in run.val_rows.head(SAMPLES).select("file", "num_frames", "sample_rate").rows():
        seconds = min(SECONDS, frames / rate)
        rows.append(_clips(models, path, seconds))
    draw_spectrograms(file, rows)


@torch.inference_mode()
def _clips(models: dict[str, SNAC], path: str, seconds: float) -> list[Clip]:
    spec = models["after training"].spec
    rate, length = max(spec.output_rates), int(seconds * spec.sampling_rate)
    audio = torch.from_numpy(read_audio(path, spec.sampling_rate, 0, length))[None, None]
    clips = [Clip("recording", rate, read_audio(path, rate, 0, length * rate // spec.sampling_rate))]
    for name, model in models.items():
        decoded = model.decode(model.encode(audio), length, output_rate=rate, noise="seeded")
        clips.append(Clip(name, rate, decoded[0, 0].numpy()))
    return clips
