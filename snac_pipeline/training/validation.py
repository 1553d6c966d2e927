"""The held-out measurement of training: the recipe's own loss, per utterance, always on the same audio and noise."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from snac_pipeline.codec import SNAC, Noise
from snac_pipeline.training.data import SpeechSlices, collate
from snac_pipeline.training.losses import reconstruction_losses
from snac_pipeline.training.model import output_rates
from snac_pipeline.training.recipe import Recipe
from snac_pipeline.training.slices import whole
from snac_pipeline.training.targets import in_band

BOOTSTRAP = 2000


@dataclass(frozen=True)
class HeldOut:
    """The held-out utterances that a run measures itself on, and how much of each (coarse frames)."""

    dataset: SpeechSlices
    frames: np.ndarray

    def measure(self, model: SNAC, recipe: Recipe) -> dict[int, np.ndarray]:
        """Loss of every utterance (N,), per output rate in Hz; noise seeded by the row, one utterance at a time."""
        rates = output_rates(recipe, model.spec)
        losses = {rate: np.empty(len(self.frames)) for rate in rates.values()}
        device = next(model.parameters()).device
        was_training = model.training
        model.eval()
        with torch.inference_mode():
            for row, frames in enumerate(self.frames):
                item = whole(int(frames))._replace(row=row)
                batch = collate([self.dataset[item]]).to(device)
                latents = (
                    model.quantize(batch.audio_B1T).latents_BCL
                    if batch.codes is None
                    else model.dequantize(batch.codes)
                )
                outputs = model.synthesize(latents, Noise("seeded", seed=row), list(rates.values()))
                for name, rate in rates.items():
                    valid = torch.tensor([outputs[rate].shape[-1]], device=device)
                    pair = in_band(outputs[rate], batch.targets[rate], valid, batch.cutoffs.get(rate), rate)
                    losses[rate][row] = reconstruction_losses(
                        *pair, valid, rate, recipe.heads[name].n_ffts, recipe.losses
                    ).item()
        model.train(was_training)
        return losses


class Improvement(NamedTuple):
    """A change as a fraction of where it started (positive: better), and its 95 % interval."""

    mean: float
    low: float
    high: float


def improvement(before: np.ndarray, after: np.ndarray, seed: int = 0) -> Improvement:
    """Paired change of the mean loss of the same utterances.

    The interval is the percentile bootstrap over utterances (Efron, 1979), 2,000 resamples.
    """
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(before), size=(BOOTSTRAP, len(before)))
    resampled = 1 - after[picks].mean(axis=1) / before[picks].mean(axis=1)
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Improvement(float(1 - after.mean() / before.mean()), float(low), float(high))
