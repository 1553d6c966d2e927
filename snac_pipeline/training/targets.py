"""What the head at twice the codec's rate is compared with, as the recipe's `targets` asks.

In: rows of utterances (read_utterances). Out: the rows that count, the files and cut-offs of their targets, figures and
a sentence that name the kind, and the low-pass that keeps what was never recorded out of the loss.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import torch
import torch.nn.functional as F
from torch import Tensor

from snac_pipeline.errors import PipelineError
from snac_pipeline.files import value_digest
from snac_pipeline.training.recipe import Recipe
from snac_pipeline.training.restoring import restored_file

HALF_TAPS = 128
TRANSITION = 0.0226
"""Width of the low-pass's slope as a share of the sampling rate: 1.1 kHz at 48 kHz (Kaiser window, beta 9, -90 dB)."""


@dataclass(frozen=True)
class Targets:
    """Where targets differ from the recordings as they are, by output rate in Hz; one entry for each row."""

    files: Mapping[int, Sequence[str]] = field(default_factory=dict)
    """Audio that is read in place of the recording."""
    cutoffs: Mapping[int, Sequence[float]] = field(default_factory=dict)
    """Hz above which neither target nor output is looked at."""


def countable(rows: pl.DataFrame, recipe: Recipe, rate: int) -> pl.DataFrame:
    """The rows that may be trained and measured on with targets at `rate` Hz.

    Raises PipelineError when none of a split is left.
    """
    if recipe.targets != "native":
        return rows
    least = recipe.native_bandwidth * rate / 2
    kept = rows.filter(pl.col("bandwidth") >= least)
    for split in ("train", "val"):
        before, after = (len(part.filter(pl.col("split") == split)) for part in (rows, kept))
        if before and not after:
            raise PipelineError(
                f"targets `native`: none of the {before} recordings of the split {split} has content up to {least:.0f} "
                f"Hz, which {rate} Hz audio needs; choose lowpassed, restored or resampled, or lower native_bandwidth"
            )
    return kept


def targets_of(rows: pl.DataFrame, recipe: Recipe, rate: int, restored: Path | None) -> Targets:
    """Files and cut-offs of the targets at `rate` Hz. `restored`: the restorer's folder, see restoring."""
    if recipe.targets == "restored":
        assert restored is not None
        return Targets(files={rate: [str(restored_file(restored, digest)) for digest in rows["digest"]]})
    if recipe.targets == "lowpassed":
        return Targets(cutoffs={rate: rows["bandwidth"].to_list()})
    return Targets()


def require_restored(rows: pl.DataFrame, folder: Path | None) -> None:
    """Raise PipelineError unless every row's restored audio is there."""
    if folder is None:
        raise PipelineError("the recipe's targets are `restored`, but no restorer is named; set restorer.source")
    missing = [digest for digest in rows["digest"] if not restored_file(folder, digest).exists()]
    if missing:
        raise PipelineError(
            f"{len(missing)} of {len(rows)} recordings have no restored audio in {folder}; run `snac-pipeline restore`"
        )


def identity(used: pl.DataFrame, recipe: Recipe, restored: Path | None) -> str | None:
    """A digest of what targets depend on besides recipe and recordings; None where that is nothing."""
    if recipe.targets == "restored":
        assert restored is not None
        return restored.name
    return value_digest(used["bandwidth"].to_list()) if recipe.targets == "lowpassed" else None


def figures(all_rows: pl.DataFrame, used: pl.DataFrame, recipe: Recipe, rate: int) -> dict[str, Any]:
    """For the run's result: the kind of targets at `rate` Hz and how many recordings that kind says something about.

    all_rows: all utterances there are. used: those that are trained and measured on.
    """
    facts: dict[str, Any] = {"targets": recipe.targets, "targets_rate": rate}
    if recipe.targets == "resampled":
        facts["targets_below_rate"] = len(used.filter(pl.col("sample_rate") < rate))
    elif recipe.targets == "native":
        facts["targets_left_out"] = len(all_rows) - len(countable(all_rows, recipe, rate))
    elif recipe.targets == "lowpassed":
        facts["targets_lowpassed"] = len(used.filter(pl.col("bandwidth") < rate / 2))
    return facts


def sentence(facts: dict[str, Any], used: int) -> str:
    """What `figures` says, for people. used: recordings that are trained and measured on."""
    start = f"targets at {facts['targets_rate'] / 1000:g} kHz"
    match facts["targets"]:
        case "resampled":
            below = facts["targets_below_rate"]
            return f"{start} are resampled: {below} of {used} recordings have a lower rate and nothing above their band"
        case "native":
            return f"{start} are native: {facts['targets_left_out']} recordings with less band are left out"
        case "lowpassed":
            lowpassed = facts["targets_lowpassed"]
            return f"{start} are lowpassed: of {lowpassed} of {used} recordings only what is below their cut-off counts"
        case _:
            return f"{start} are restored: made by a model, not recorded"


def in_band(
    estimate_B1T: Tensor, target_B1T: Tensor, valid_B: Tensor, cutoff_B: Tensor | None, rate: int
) -> tuple[Tensor, Tensor]:
    """Estimate and target with nothing above each item's cut-off (Hz); as they are where there is none.

    Samples after valid_B do not exist and are zeroed first, or the filter would spread them.
    """
    if cutoff_B is None:
        return estimate_B1T, target_B1T
    mask_B1T = (torch.arange(target_B1T.shape[-1], device=valid_B.device) < valid_B[:, None])[:, None]
    return lowpass(estimate_B1T * mask_B1T, cutoff_B, rate), lowpass(target_B1T * mask_B1T, cutoff_B, rate)


def lowpass(audio_B1T: Tensor, cutoff_B: Tensor, rate: int) -> Tensor:
    """Each item (1, T) without what is above its own cut-off in Hz; unchanged where that is half the rate or more.

    A windowed sinc of 257 taps and linear phase, whose slope ends at the cut-off. Zeros are assumed outside.
    """
    share_B1 = (cutoff_B.to(audio_B1T)[:, None] / rate - TRANSITION / 2).clamp(min=0)
    taps_N = torch.arange(-HALF_TAPS, HALF_TAPS + 1, device=audio_B1T.device, dtype=audio_B1T.dtype)
    window_N = torch.kaiser_window(len(taps_N), periodic=False, beta=9.0, device=taps_N.device, dtype=taps_N.dtype)
    kernels_BN = 2 * share_B1 * torch.sinc(2 * share_B1 * taps_N) * window_N
    filtered = F.conv1d(audio_B1T.transpose(0, 1), kernels_BN[:, None], padding=HALF_TAPS, groups=len(cutoff_B))
    return torch.where(cutoff_B[:, None, None] < rate / 2, filtered.transpose(0, 1), audio_B1T)
