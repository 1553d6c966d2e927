"""Where a training started, by the same measure as where it got to: for the whole of it and for each of its stages.

A span of the curriculum (plan.Span) looks at segments of one length and weighs the heads in one way. Its baseline is
the held-out loss of the starting model over just so much of every held-out utterance, and its outcome that of the model
at the span's end, so that lessons with long segments are not compared with ones with short segments.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from snac_pipeline.codec import SNAC
from snac_pipeline.files import read_json, write_json
from snac_pipeline.training.plan import Span
from snac_pipeline.training.recipe import Recipe
from snac_pipeline.training.validation import HeldOut, UtteranceLosses, improvement, means


@dataclass(frozen=True)
class Baselines:
    """Held-out losses of the starting model, per utterance, and its noise."""

    whole: UtteranceLosses
    """Over all of what is measured, the figures of every epoch."""
    spans: list[UtteranceLosses]
    """For each span of the plan, over its segment length."""
    noise_gain: list[float]
    """Of each noise block of its decoder; see NoiseGain.values."""

    @classmethod
    def measured(cls, model: SNAC, recipe: Recipe, held_out: HeldOut, spans: list[Span]) -> "Baselines":
        """Of `model`, which is the starting one."""
        known = {segment: held_out.measure(model, recipe, segment) for segment in {span.segment for span in spans}}
        whole, noise_gain = held_out.measure_with_noise(model, recipe)
        return cls(whole, [known[span.segment] for span in spans], noise_gain)

    def write(self, file: Path, spans: list[Span]) -> None:
        """As baseline_metrics.json."""
        stages = [{**_named(span), "losses": _listed(losses)} for span, losses in zip(spans, self.spans, strict=True)]
        write_json(file, {"whole": _listed(self.whole), "stages": stages, "noise_gain": self.noise_gain})

    @classmethod
    def read(cls, file: Path) -> "Baselines":
        """What `write` wrote."""
        content = read_json(file)
        spans = [_arrays(stage["losses"]) for stage in content["stages"]]
        return cls(_arrays(content["whole"]), spans, content["noise_gain"])


def outcome(span: Span, before: UtteranceLosses, after: UtteranceLosses) -> dict[str, Any]:
    """What a span of training, with all that was before it, has gained over the starting model.

    baseline, final: mean held-out loss per rate. improvement: the change as a fraction of the baseline. loss: the same
    three of the sum that the span's head weights make.
    """
    first, last = (
        sum(weight * losses[rate].mean() for rate, weight in span.weights.items()) for losses in (before, after)
    )
    return {
        **_named(span),
        "baseline": means(before),
        "final": means(after),
        "improvement": {rate: improvement(before[rate], after[rate]).mean for rate in after},
        "loss": {"baseline": float(first), "final": float(last), "improvement": float(1 - last / first)},
    }


def _named(span: Span) -> dict[str, Any]:
    return {
        "stage": span.stage,
        "epochs": [span.first + 1, span.last + 1],
        "seconds": span.seconds,
        "weights": span.weights,
    }


def _listed(losses: UtteranceLosses) -> dict[str, list[float]]:
    return {str(rate): values.tolist() for rate, values in losses.items()}


def _arrays(losses: dict[str, list[float]]) -> UtteranceLosses:
    return {int(rate): np.array(values) for rate, values in losses.items()}
