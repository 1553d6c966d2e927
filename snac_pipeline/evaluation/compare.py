"""Decode the same codes with every contestant and measure each against the same reference.

In: codec folders (base first) and held-out utterances with their codes. Out: one row per utterance, contestant and
metric; and of the codes, which are the same for all, one per utterance and figure, under the base. One utterance is in
memory at a time; the same codes, noise and reference serve every contestant of a rate.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import torch

from snac_pipeline.codec import SNAC, CodecSpec, double_rate
from snac_pipeline.codec.noise import NoiseMode
from snac_pipeline.corpus.audio import read_audio
from snac_pipeline.corpus.decoding import open_stream
from snac_pipeline.errors import PipelineError
from snac_pipeline.evaluation.codebook import code_metric_names, code_metrics, used_codes
from snac_pipeline.evaluation.registry import METRICS, Measurement, Metric, measure, measurement

SCHEMA = {
    "utterance": pl.String,
    "model": pl.String,
    "sample_rate": pl.Int32,
    "metric": pl.String,
    "value": pl.Float64,  # null where the metric is not defined
    "reason": pl.String,  # why the value is null
    "note": pl.String,  # what to know about a value, e.g. RESAMPLED
}
RESAMPLED = "resampled reference"


class Utterance(NamedTuple):
    """A held-out utterance: content digest, its audio file, and its codes, one integer array (n_k,) for each level."""

    digest: str
    path: Path
    codes: Sequence[np.ndarray]


@dataclass(frozen=True)
class Contestant:
    """A decoder as the listener gets it.

    output_rate: Hz of the audio that is measured. resampled_from: Hz that the decoder gives when that is another rate;
    its output is then resampled to output_rate.
    """

    name: str
    folder: Path
    output_rate: int
    resampled_from: int | None = None

    def __post_init__(self) -> None:
        if self.resampled_from is not None and self.output_rate != 2 * self.resampled_from:
            raise PipelineError(
                f"evaluation: {self.name}: outputs are compared at their own rate or at twice it, "
                f"not {self.resampled_from} Hz at {self.output_rate} Hz"
            )

    @property
    def decode_rate(self) -> int:
        """Hz that the decoder itself gives."""
        return self.resampled_from or self.output_rate

    def resampled(self, rate: int) -> "Contestant":
        """The same decoder with its output resampled to `rate` Hz."""
        return replace(self, name=resampled_name(self.name, rate), output_rate=rate, resampled_from=self.decode_rate)


@dataclass(frozen=True)
class Rendition:
    """What one contestant makes of one utterance, beside its reference at the same rate: equal lengths (T,)."""

    contestant: Contestant
    reference_T: np.ndarray
    estimate_T: np.ndarray
    note: str | None

    def measure(self, metric: Metric) -> Measurement:
        """The metric's value or the reason why there is none."""
        return measure(metric, self.reference_T, self.estimate_T, self.contestant.output_rate)


def resampled_name(name: str, rate: int) -> str:
    """How a decoder is called whose output is resampled, e.g. "base resampled to 48 kHz"."""
    return f"{name} resampled to {rate / 1000:g} kHz"


def interpolated(audio_T: np.ndarray) -> np.ndarray:
    """(T,) -> (2T,): the one interpolation to twice the rate, from which 48 kHz heads start too."""
    return double_rate(torch.from_numpy(audio_T)[None, None])[0, 0].numpy()


def with_baselines(contestants: Sequence[Contestant]) -> list[Contestant]:
    """The contestants with the base (the first) resampled to every other rate that is heard, before its first use."""
    base = contestants[0]
    complete: list[Contestant] = []
    for contestant in contestants:
        rate, rates = contestant.output_rate, {known.output_rate for known in complete}
        if rate != base.output_rate and rate not in rates and contestant.name != resampled_name(base.name, rate):
            complete.append(base.resampled(rate))
        complete.append(contestant)
    names = [contestant.name for contestant in complete]
    if len(set(names)) < len(names):
        raise PipelineError(f"evaluation: each model needs a name of its own; given were {', '.join(names)}")
    return complete


class Stage:
    """The contestants' models, loaded once per folder, and the conditions that are the same for all.

    max_seconds: only about the first so many seconds of each utterance are used, in whole coarse frames and decoded
    with enough context to equal the whole; None for whole utterances.
    Raises PipelineError when a folder cannot be loaded, a model does not give the rate asked of it, or the models'
    codes do not mean the same thing.
    """

    def __init__(
        self,
        contestants: Sequence[Contestant],
        *,
        device: str = "cpu",
        noise: NoiseMode = "seeded",
        seed: int = 0,
        max_seconds: float | None = None,
    ):
        if not contestants:
            raise PipelineError("evaluation: there is no model to compare")
        self.contestants = with_baselines(contestants)
        self.device, self.noise, self.seed = device, noise, seed
        self.max_seconds = max_seconds
        folders = {contestant.folder for contestant in self.contestants}
        self.models = {folder: SNAC.from_pretrained(folder).to(device) for folder in sorted(folders)}
        self.spec = self.models[self.contestants[0].folder].spec
        self.context = max(model.spec.decode_context for model in self.models.values())
        for contestant in self.contestants:
            self._check(contestant)

    def _check(self, contestant: Contestant) -> None:
        spec, base = self.models[contestant.folder].spec, self.spec
        if contestant.decode_rate not in spec.output_rates:
            raise PipelineError(
                f"evaluation: {contestant.name} ({contestant.folder}) decodes to {spec.output_rates} Hz, "
                f"not to {contestant.decode_rate} Hz"
            )
        if (spec.frame_seconds, spec.tokens_per_frame, spec.codebook_size) != (
            base.frame_seconds,
            base.tokens_per_frame,
            base.codebook_size,
        ):
            raise PipelineError(
                f"evaluation: {contestant.name} ({contestant.folder}) reads other codes than {self.contestants[0].name}"
            )

    def render(self, utterance: Utterance) -> list[Rendition]:
        """Every contestant's rendition of one utterance, in order. Raises PipelineError for unusable audio or codes."""
        frames = self.spec.frames_of([len(level) for level in utterance.codes])
        kept = self.spec.frames_of([len(level) for level in self.used_codes(utterance)])
        codes = self._codes(utterance, min(frames, kept + self.context))
        file_rate = native_rate(utterance.path)
        references: dict[int, np.ndarray] = {}
        decoded: dict[tuple[Path, int], np.ndarray] = {}
        renditions = []
        for contestant in self.contestants:
            rate, source = contestant.output_rate, (contestant.folder, contestant.decode_rate)
            if rate not in references:
                whole = read_audio(utterance.path, rate)
                self._require_same_span(utterance, frames, len(whole) / rate)
                references[rate] = whole[: self.spec.samples(kept, rate)]
            if source not in decoded:
                decoded[source] = self._decode(codes, *source)
            estimate = decoded[source]
            if contestant.resampled_from is not None:
                estimate = interpolated(estimate)
            length = min(len(estimate), len(references[rate]))
            note = f"{RESAMPLED} ({file_rate} Hz file)" if file_rate < rate else None
            renditions.append(Rendition(contestant, references[rate][:length], estimate[:length], note))
        return renditions

    def _codes(self, utterance: Utterance, frames: int) -> list[torch.Tensor]:
        """The first `frames` coarse frames of codes, one (1, n_k) tensor for each level."""
        counts = self.spec.token_counts(frames)
        return [
            torch.from_numpy(np.asarray(level[:count], dtype=np.int64))[None].to(self.device)
            for level, count in zip(utterance.codes, counts, strict=True)
        ]

    def _require_same_span(self, utterance: Utterance, frames: int, seconds: float) -> None:
        """Codes cover the audio and less than one unit of padding; resampling may round by a sample."""
        coded, rounding = frames * self.spec.frame_seconds, 1e-3
        if not -rounding <= coded - seconds < self.spec.frame_seconds * self.spec.alignment + rounding:
            raise PipelineError(
                f"the codes of {utterance.path} cover {coded:.2f} s and the file has {seconds:.2f} s; "
                "they belong to another file or codec"
            )

    @torch.inference_mode()
    def _decode(self, codes: list[torch.Tensor], folder: Path, rate: int) -> np.ndarray:
        """Samples (T,) of codes at `rate` Hz, one of the model's own rates."""
        audio = self.models[folder].decode(codes, output_rate=rate, noise=self.noise, seed=self.seed)
        return audio[0, 0].float().cpu().numpy()

    def used_codes(self, utterance: Utterance) -> list[np.ndarray]:
        """The codes of what is compared."""
        return used_codes(utterance.codes, self.spec, self.max_seconds)

    def measure(self, utterance: Utterance, metrics: Sequence[Metric] = METRICS) -> "MeasuredUtterance":
        """Rows of SCHEMA of one utterance; an unusable utterance has null values with the reason."""
        try:
            renditions = self.render(utterance)
        except PipelineError as error:
            rows = rows_without_values(utterance.digest, self.contestants, metrics, self.spec, str(error))
            return MeasuredUtterance(rows, 0.0)
        rows = [
            (utterance.digest, r.contestant.name, r.contestant.output_rate, metric.name, *r.measure(metric), r.note)
            for r in renditions
            for metric in metrics
        ]
        base = renditions[0]
        seconds = len(base.reference_T) / base.contestant.output_rate
        codes = self.used_codes(utterance)
        rows += [
            (utterance.digest, base.contestant.name, base.contestant.output_rate, metric.name,
             *measurement(metric.function, codes, seconds), None)
            for metric in code_metrics(self.spec)
        ]  # fmt: skip
        return MeasuredUtterance(rows, seconds)


class MeasuredUtterance(NamedTuple):
    """Rows of SCHEMA, and the seconds of the recording that they are of: 0 for what could not be used."""

    rows: list[tuple[object, ...]]
    seconds: float


def kinds_of_rows(
    contestants: Sequence[Contestant], metrics: Sequence[Metric], spec: CodecSpec
) -> list[tuple[str, int, str]]:
    """Model, its output rate and metric of every row that one utterance has, in order. Figures of the codes, which are
    the same for all decoders of a codec, stand once, under the first contestant, the base."""
    contestants = with_baselines(contestants)
    return [
        *((contestant.name, contestant.output_rate, metric.name) for contestant in contestants for metric in metrics),
        *((contestants[0].name, contestants[0].output_rate, name) for name in code_metric_names(spec)),
    ]


def rows_without_values(
    digest: str, contestants: Sequence[Contestant], metrics: Sequence[Metric], spec: CodecSpec, reason: str
) -> list[tuple[object, ...]]:
    """Rows of SCHEMA of an utterance that cannot be measured."""
    return [(digest, *kind, None, reason, None) for kind in kinds_of_rows(contestants, metrics, spec)]


def compare(
    contestants: Sequence[Contestant],
    utterances: Iterable[Utterance],
    *,
    metrics: Sequence[Metric] = METRICS,
    device: str = "cpu",
    noise: NoiseMode = "seeded",
    seed: int = 0,
    limit: int | None = None,
    max_seconds: float | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> pl.DataFrame:
    """Measure every contestant on every utterance; the base codec is the first contestant.

    Where a contestant is heard at another rate than the base, the base resampled to that rate joins. limit: at most
    so many utterances. progress(done) is called after each. Returns a table of `SCHEMA`: one row per utterance,
    model and metric, `value` null with a `reason` where there is none. The same numbers on every run on a CPU.
    """
    stage = Stage(contestants, device=device, noise=noise, seed=seed, max_seconds=max_seconds)
    rows: list[tuple[object, ...]] = []
    for done, utterance in enumerate(islice(utterances, limit), start=1):
        rows += stage.measure(utterance, metrics).rows
        progress(done)
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def native_rate(path: Path) -> int:
    """Sample rate of an audio file in Hz. Raises PipelineError naming a file that cannot be read."""
    with open_stream(path) as stream:
        return stream.sample_rate
