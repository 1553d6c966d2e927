"""The held-out measurement of training: the recipe's own loss, per utterance, always on the same audio and noise."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from snac_pipeline.codec import SNAC, Noise
from snac_pipeline.training.data import Batch, SpeechSlices, collate
from snac_pipeline.training.losses import reconstruction_losses
from snac_pipeline.training.model import output_rates
from snac_pipeline.training.noise_branch import NoiseGain
from snac_pipeline.training.ranks import ALONE, Ranks
from snac_pipeline.training.recipe import Recipe
from snac_pipeline.training.slices import whole
from snac_pipeline.training.targets import in_band

BOOTSTRAP = 2000

UtteranceLosses = dict[int, np.ndarray]
"""Loss of every held-out utterance (N,), per output rate in Hz."""


@dataclass(frozen=True)
class HeldOut:
    """The held-out utterances that a run measures itself on, and how much of each (coarse frames).

    Several processes share the utterances out, and all get all figures.
    """

    dataset: SpeechSlices
    frames: np.ndarray
    ranks: Ranks = ALONE

    def measure(self, model: SNAC, recipe: Recipe, longest: int | None = None) -> UtteranceLosses:
        """Losses over at most `longest` coarse frames of each utterance; noise seeded by the row, one at a time.

        Always in the parameters' own precision, whatever training computes in.
        """
        rates = output_rates(recipe, model.spec)
        losses = {rate: np.zeros(len(self.frames)) for rate in rates.values()}
        device = next(model.parameters()).device
        was_training = model.training
        model.eval()
        with torch.inference_mode():
            for row in range(self.ranks.rank, len(self.frames), self.ranks.world):
                item = whole(int(self.frames[row]), longest)._replace(row=row)
                batch = collate([self.dataset[item]]).to(device)
                outputs = self._decode(model, recipe, batch, row)
                for name, rate in rates.items():
                    valid = torch.tensor([outputs[rate].shape[-1]], device=device)
                    pair = in_band(outputs[rate], batch.targets[rate], valid, batch.cutoffs.get(rate), rate)
                    losses[rate][row] = reconstruction_losses(
                        *pair, valid, rate, recipe.heads[name].n_ffts, recipe.losses
                    ).item()
        model.train(was_training)
        return {rate: self.ranks.add_up_rows(rows) for rate, rows in losses.items()}

    def measure_with_noise(self, model: SNAC, recipe: Recipe) -> tuple[UtteranceLosses, list[float]]:
        """Losses over all of each utterance, and how loud the decoder's noise was there; see NoiseGain.values."""
        with NoiseGain(model) as gain:
            losses = self.measure(model, recipe)
        return losses, gain.values(self.ranks)

    def listen(self, model: SNAC, recipe: Recipe, row: int) -> dict[int, np.ndarray]:
        """One utterance decoded as it is measured, samples (T,) per output rate in Hz."""
        device = next(model.parameters()).device
        with torch.inference_mode():
            batch = collate([self.dataset[whole(int(self.frames[row]))._replace(row=row)]]).to(device)
            outputs = self._decode(model, recipe, batch, row)
        return {rate: audio[0, 0].cpu().numpy() for rate, audio in outputs.items()}

    def _decode(self, model: SNAC, recipe: Recipe, batch: Batch, row: int) -> dict[int, torch.Tensor]:
        if batch.codes is not None:
            latents = model.dequantize(batch.codes)
        else:
            assert batch.audio_B1T is not None, "a batch has codes or audio"
            latents = model.quantize(batch.audio_B1T).latents_BCL
        rates = output_rates(recipe, model.spec)
        return model.synthesize(latents, Noise("seeded", seed=row), list(rates.values()))


def means(losses: UtteranceLosses) -> dict[int, float]:
    """Mean loss per output rate."""
    return {rate: float(values.mean()) for rate, values in losses.items()}


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
