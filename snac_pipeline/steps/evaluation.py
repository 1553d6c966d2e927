"""Base codec and trained decoders on held-out speech, and the report."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from snac_pipeline import evaluation as ev
from snac_pipeline.codec import CodecSpec, weights_digest
from snac_pipeline.codes.parts import read_codes
from snac_pipeline.engine.devices import find_devices
from snac_pipeline.engine.pools import open_pool
from snac_pipeline.files import read_json, value_digest, write_json
from snac_pipeline.settings import Settings
from snac_pipeline.steps.codes import base_codec, cached_utterances, codes_of, engine_devices
from snac_pipeline.steps.corpus import OnEvent
from snac_pipeline.steps.training import decoder_results

EVALUATION_REVISION = 2
"""Raised when a change of the evaluation changes its figures."""


@dataclass(frozen=True)
class _Comparison:
    """What is compared, on what, and the folder that is named by both."""

    folder: Path
    spec: CodecSpec
    base: Path
    parts: Path
    utterances: pl.DataFrame
    left_out: int
    results: dict[str, dict[str, Any] | None]
    versions: dict[str, str]
    metrics: Sequence[ev.Metric]

    @property
    def parts_measured(self) -> Path:
        """Where the comparison is while it goes on."""
        return self.folder.with_name(f"{self.folder.name}.parts")


def evaluate(settings: Settings, on_event: OnEvent) -> dict[str, Any]:
    """Compare the base codec and every trained decoder on the held-out utterances; figures and place of the report."""
    comparison = _plan(settings)
    file = comparison.folder / "result.json"
    reused = file.exists()
    if not reused:
        write_json(file, _compare(comparison, settings, on_event))
        shutil.rmtree(comparison.parts_measured, ignore_errors=True)
    folder = comparison.folder
    places = {"folder": str(folder), "report": str(folder / ev.REPORT_FILE), "version": folder.name}
    return {**places, **read_json(file), "left_out": comparison.left_out, "reused": reused}


def evaluation_folder(settings: Settings) -> Path:
    """Where `evaluate` puts its result, or finds it. Raises PipelineError where there is nothing to compare yet."""
    return _plan(settings).folder


def _plan(settings: Settings) -> _Comparison:
    model, base = base_codec(settings)
    results = decoder_results(settings)
    parts = codes_of(settings, model)
    utterances, left_out = cached_utterances(settings, model)
    held_out = utterances.filter(pl.col("split") == "val")
    chosen = held_out.sort("digest").head(settings.evaluation.limit or len(held_out))
    versions = {
        "base codec": weights_digest(model.state_dict()),
        "codes": parts.name,
        "held-out utterances": value_digest(chosen["digest"].to_list()),
        **{name: result["weights_digest"] for name, result in results.items() if result is not None},
    }
    metrics = (*ev.METRICS, *ev.own_metrics(settings.evaluation))
    runnable = sorted({metric.name for metric in metrics} - set(ev.not_run(metrics)))
    options = settings.evaluation.model_dump(mode="json")
    identity = [versions, options, ev.models_digest(settings.evaluation), runnable, EVALUATION_REVISION]
    folder = settings.home / "evaluation" / value_digest(identity)[:16]
    return _Comparison(folder, model.spec, base, parts, chosen, left_out, results, versions, metrics)


def _compare(comparison: _Comparison, settings: Settings, on_event: OnEvent) -> dict[str, Any]:
    trained = {name: result for name, result in comparison.results.items() if result is not None}
    contestants = [ev.Contestant("base", comparison.base, comparison.spec.sampling_rate)]
    for name, result in trained.items():
        contestants += _contestants(name, Path(result["model"]))
    utterances = _with_codes(comparison)
    options, max_seconds = settings.caching, settings.evaluation.max_seconds
    devices = engine_devices(settings)
    measured = ev.measure_all(
        contestants,
        utterances,
        comparison.metrics,
        comparison.parts_measured,
        lambda work: open_pool(options.engine, work, devices, options.hang_seconds),
        on_event,
        max_seconds=max_seconds,
    )
    metrics = measured.table
    summary = ev.summarise(metrics, registry=comparison.metrics)
    examples = ev.choose_examples(metrics, contestants[-1].name, count=settings.evaluation.listen)
    untrained = [name for name in comparison.results if name not in trained]
    context = ev.ReportContext(
        command="snac-pipeline evaluate",
        versions={**comparison.versions, "runs": {name: Path(result["run"]).name for name, result in trained.items()}},
        curves={name: _curve(Path(result["run"])) for name, result in trained.items()},
        registry=comparison.metrics,
        examples=ev.listening_examples(
            contestants, utterances, examples, device=find_devices(settings.devices)[0], max_seconds=max_seconds
        ),
        codebook=ev.codebook_use([utterance.codes for utterance in utterances], comparison.spec),
        notes=[f"{name} is not trained yet and not in this report." for name in untrained],
        paths=dict(comparison.utterances.select("digest", "path").rows()),
    )
    facts = ev.summary_facts(metrics, summary, context)
    ev.write_evaluation(comparison.folder, metrics, summary, context)
    return {
        "utterances": len(utterances),
        "headline_metric": ev.HEADLINE_METRIC,
        "headlines": facts["headlines"],
        "not_run": facts["not_run"],
        "measured": _measured(metrics),
        "not_finite": _not_finite(metrics),
        "hours_an_hour": measured.speed,
        "table": summary.to_dicts(),
    }


def _measured(metrics: pl.DataFrame) -> int:
    """Utterances on which every model has the headline metric."""
    headline = metrics.filter(pl.col("metric") == ev.HEADLINE_METRIC)
    return headline.group_by("utterance").agg(pl.col("value").is_not_null().all()).get_column("value").sum()


def _not_finite(metrics: pl.DataFrame) -> list[str]:
    """Metrics and models that gave no finite number where they should have."""
    rows = (
        metrics.filter(pl.col("reason").str.starts_with(ev.NOT_FINITE))
        .select("model", "metric")
        .unique()
        .sort(pl.all())
    )
    return [f"{metric} of {model}" for model, metric in rows.rows()]


def _contestants(name: str, folder: Path) -> list[ev.Contestant]:
    """A decoder at each of its rates; one at the codec's own rate also interpolated, to stand beside 48 kHz heads."""
    spec = CodecSpec.from_file(folder / "config.json")
    native, double = spec.sampling_rate, 2 * spec.sampling_rate
    if spec.output_rates == (native,):
        resampled = ev.Contestant(ev.resampled_name(name, double), folder, double, resampled_from=native)
        return [ev.Contestant(name, folder, native), resampled]
    labels = {rate: f"{name} at {rate / 1000:g} kHz" if len(spec.output_rates) > 1 else name
              for rate in spec.output_rates}  # fmt: skip
    return [ev.Contestant(label, folder, rate) for rate, label in labels.items()]


def _with_codes(comparison: _Comparison) -> list[ev.Utterance]:
    chosen, levels = comparison.utterances, comparison.spec.levels
    codes = read_codes(comparison.parts, chosen["digest"].to_list())
    return [
        ev.Utterance(digest, file, [codes[f"codes_{k}"][i].to_numpy() for k in range(levels)])
        for i, (digest, file) in enumerate(chosen.select("digest", "file").rows())
    ]


def _curve(run: Path) -> list[dict[str, Any]]:
    """A run's history as rows of step, loss, and val: the held-out loss at the highest output rate."""
    rows = []
    for line in (run / "history.jsonl").read_text().splitlines():
        entry = json.loads(line)
        held_out = {int(key.removeprefix("val_")): value for key, value in entry.items() if key.startswith("val_")}
        rows.append({"step": entry["step"], "loss": entry.get("loss"), "val": held_out.get(max(held_out, default=0))})
    return rows
