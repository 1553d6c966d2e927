"""Which utterances a report lets one hear, and their audio: the reference and every contestant's rendition."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from snac_pipeline.evaluation.compare import Contestant, Rendition, Stage, Utterance
from snac_pipeline.evaluation.registry import METRICS, Metric
from snac_pipeline.evaluation.summary import HEADLINE_METRIC, paired_differences


@dataclass(frozen=True)
class Clip:
    """Mono audio (T,) at sample_rate Hz, with what is said under it."""

    name: str
    sample_rate: int
    audio_T: np.ndarray
    caption: str = ""


@dataclass(frozen=True)
class Example:
    """One utterance to hear: the reference first, then the contestants. `why` says how it was chosen, by `model`."""

    digest: str
    model: str
    why: str
    clips: tuple[Clip, ...]


def choose_examples(
    metrics: pl.DataFrame,
    model: str,
    *,
    count: int = 4,
    metric: str = HEADLINE_METRIC,
    baseline: str = "base",
    registry: Sequence[Metric] = METRICS,
) -> dict[str, str]:
    """Digests spread evenly from the model's largest gain over its baseline to its largest loss, with the rank of each;
    where it has no baseline, as the base itself, from its best value to its worst.

    Not a choice of the best ones: the last is the worst case there is.
    """
    chosen = next(entry for entry in registry if entry.name == metric)
    values = paired_differences(metrics, model, metric, baseline).select("utterance", value="difference")
    ordered_by = f"{model}'s gain in {chosen.label_in_text}"
    if values.is_empty():
        values = metrics.filter(pl.col("model") == model, pl.col("metric") == metric).drop_nulls("value")
        ordered_by = f"{chosen.label_in_text} of {model}"
    order = values.sort("value", "utterance", descending=[chosen.higher_is_better, False])["utterance"]
    ranks = sorted({round(rank) for rank in np.linspace(0, len(order) - 1, min(count, len(order)))})
    return {order[rank]: f"rank {rank + 1} of {len(order)} by {ordered_by}" for rank in ranks}


def listening_examples(
    contestants: Sequence[Contestant],
    utterances: Iterable[Utterance],
    chosen: dict[str, str],
    model: str,
    *,
    metric: str = HEADLINE_METRIC,
    registry: Sequence[Metric] = METRICS,
    **conditions: Any,
) -> list[Example]:
    """Render the utterances whose digest is in `chosen`, what `choose_examples` gives for `model`, in that order.

    conditions: as in `Stage` (device, noise, seed, max_seconds); give those of the comparison, so that what
    is heard is what was measured.
    """
    if not chosen:
        return []
    stage = Stage(contestants, **conditions)
    shown = next(entry for entry in registry if entry.name == metric)
    found = {
        utterance.digest: _example(utterance, model, chosen[utterance.digest], stage.render(utterance), shown)
        for utterance in utterances
        if utterance.digest in chosen
    }
    return [found[digest] for digest in chosen if digest in found]


def _example(utterance: Utterance, model: str, why: str, renditions: list[Rendition], metric: Metric) -> Example:
    finest = max(renditions, key=lambda rendition: rendition.contestant.output_rate)
    reference = Clip("reference", finest.contestant.output_rate, finest.reference_T, finest.note or "")
    return Example(utterance.digest, model, why, (reference, *(_clip(rendition, metric) for rendition in renditions)))


def _clip(rendition: Rendition, metric: Metric) -> Clip:
    contestant, result = rendition.contestant, rendition.measure(metric)
    value = result.reason if result.value is None else f"{metric.format(result.value)}{metric.spaced_unit}"
    return Clip(contestant.name, contestant.output_rate, rendition.estimate_T, f"{metric.label} {value}")
