"""Base codec and trained decoders on held-out speech, and the report."""

import contextlib
import functools
import importlib.metadata
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
from snac_pipeline.engine.locks import alone
from snac_pipeline.engine.pools import open_pool
from snac_pipeline.errors import PipelineError
from snac_pipeline.files import make_folder, read_json, read_parquet, value_digest, write_json, write_parquet
from snac_pipeline.settings import Settings
from snac_pipeline.steps.codes import base_codec, cached_utterances, codes_of, engine_devices
from snac_pipeline.steps.corpus import OnEvent
from snac_pipeline.steps.training import decoder_results
from snac_pipeline.training.recipe import load_recipe

EVALUATION_REVISION = 3
"""Raised when a change of the evaluation changes its figures."""
REPORT_REVISION = 1
"""Raised when a change of the report is worth making the reports again that are there."""
COMMAND = "snac-pipeline evaluate"
PARTS, METRICS, MEASURED, RESULT, LOCK = "parts", "metrics.parquet", "measured.json", "result.json", "lock"
"""In an evaluation's folder, as they come: what is measured so far, which goes when all is; the figures; what is known
of measuring them; and, when the report is there too, what it says."""
PACKAGES = ("torch", "torchaudio", "torchmetrics", "soxr", "pystoi", "pesq", "pyworld", "onnxruntime", "transformers")
"""Whose versions may show in the last digits of figures."""


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
    report: str
    """Digest of what the report depends on beside the figures."""

    @property
    def trained(self) -> dict[str, dict[str, Any]]:
        """Result of the run of every decoder that is trained."""
        return {name: result for name, result in self.results.items() if result is not None}

    @functools.cached_property
    def with_codes(self) -> list[ev.Utterance]:
        """The utterances with their codes, read once for measuring and for the report."""
        codes = read_codes(self.parts, self.utterances["digest"].to_list())
        return [
            ev.Utterance(digest, file, [codes[f"codes_{k}"][i].to_numpy() for k in range(self.spec.levels)])
            for i, (digest, file) in enumerate(self.utterances.select("digest", "file").rows())
        ]

    def contestants(self) -> list[ev.Contestant]:
        """The base, and every trained decoder at each of its rates."""
        contestants = [ev.Contestant("base", self.base, self.spec.sampling_rate)]
        for name, result in self.trained.items():
            contestants += _contestants(name, Path(result["model"]))
        return contestants


def evaluate(settings: Settings, on_event: OnEvent, command: str = COMMAND) -> dict[str, Any]:
    """Compare the base codec and every trained decoder on the held-out utterances; figures and place of the report.

    What was measured before is not measured again: only the report is made again where it would be another. `command`
    is what the report says to type to get it again. Of several processes that evaluate the same thing one measures, the
    others wait for it and have its result.
    """
    comparison = _plan(settings)
    folder = make_folder(comparison.folder)
    _remove_what_is_done(folder.parent)
    waiting = "it makes the same evaluation, and this one is waiting for its result"
    with alone(folder / LOCK, f"making {folder}", waiting, lambda words: on_event({"message": words})):
        before = read_json(folder / RESULT) if (folder / RESULT).exists() else {}
        reused = before.get("report_digest") == comparison.report and not before["crashed"]
        if not reused:
            measured = _measure(comparison, settings, on_event)
            write_json(folder / RESULT, _report(comparison, settings, measured, command))
        result = read_json(folder / RESULT)
    del result["report_digest"]
    places = {
        "folder": str(folder),
        "report": str(folder / ev.REPORT_FILE),
        "version": _version(folder, result["crashed"]),
        **{name: str(folder / file) for name, file in result.pop("pictures").items()},
    }
    result["sounds"] = [{**sound, "file": str(folder / sound["file"])} for sound in result["sounds"]]
    return {**places, **result, "left_out": comparison.left_out, "reused": reused}


def _version(folder: Path, crashed: Sequence[str]) -> str:
    """The folder's name, which says what is compared; it may have another content where not all could be measured."""
    return value_digest([folder.name, *crashed]) if crashed else folder.name


def evaluation_folder(settings: Settings) -> Path:
    """Where `evaluate` puts its result, or finds it. Raises PipelineError where there is nothing to compare yet."""
    return _plan(settings).folder


def _plan(settings: Settings) -> _Comparison:
    options = settings.evaluation
    metrics = (*ev.METRICS, *ev.own_metrics(options))
    not_run = ev.not_run(metrics)
    if options.headline in not_run:
        raise PipelineError(
            f"evaluation.headline: {options.headline} is {not_run[options.headline]}; name another metric"
        )
    model, base = base_codec(settings)
    results = decoder_results(settings)
    parts = codes_of(settings, model)
    utterances, left_out = cached_utterances(settings, model)
    held_out = utterances.filter(pl.col("split") == "val")
    chosen = held_out.sort("digest").head(options.limit or len(held_out))
    if chosen.is_empty():
        raise PipelineError(
            "evaluation: no utterance is held out and has codes; see `split.val`, and run `snac-pipeline cache`"
        )
    trained = {name: result for name, result in results.items() if result is not None}
    versions = {
        "base codec": weights_digest(model.state_dict()),
        "codes": parts.name,
        "held-out utterances": value_digest(chosen["digest"].to_list()),
        **{name: result["weights_digest"] for name, result in trained.items()},
    }
    runnable = sorted({metric.name for metric in metrics} - set(not_run))
    figures = [versions, options.max_seconds, ev.own_metrics_identity(options), runnable, EVALUATION_REVISION]
    report = {
        "metrics": [(metric.name, metric.label, metric.unit, metric.higher_is_better) for metric in metrics],
        "not run": not_run,
        "runs": {name: result and Path(result["run"]).name for name, result in results.items()},
        "paths": chosen.select("digest", "path").rows(),
        "shown": [options.headline, options.listen, REPORT_REVISION],
    }
    folder = settings.home / "evaluation" / value_digest(figures)[:16]
    return _Comparison(
        folder, model.spec, base, parts, chosen, left_out, results, versions, metrics, value_digest(report)
    )


def _remove_what_is_done(evaluations: Path) -> None:
    """Parts of comparisons that are whole: what a process leaves that is killed before it removes them itself."""
    for file in evaluations.glob(f"*/{MEASURED}"):
        if not read_json(file)["crashed"]:
            shutil.rmtree(file.with_name(PARTS), ignore_errors=True)


def _measure(comparison: _Comparison, settings: Settings, on_event: OnEvent) -> dict[str, Any]:
    """What is known of the measuring; METRICS is then there. All is measured once, but for utterances that no worker
    survived: these are tried again."""
    folder = comparison.folder
    file, parts = folder / MEASURED, folder / PARTS
    if file.exists():
        before: dict[str, Any] = read_json(file)
        if not before["crashed"]:
            return before
    ev.try_own_metrics(comparison.metrics)
    options, devices = settings.caching, engine_devices(settings)
    measured = ev.measure_all(
        comparison.contestants(),
        comparison.with_codes,
        comparison.metrics,
        parts,
        lambda work: open_pool(options.engine, work, devices, options.hang_seconds),
        on_event,
        max_seconds=settings.evaluation.max_seconds,
    )
    write_parquet(folder / METRICS, measured.table.to_arrow())
    facts = {
        "crashed": measured.crashed,
        "hours_an_hour": measured.speed,
        "devices": sorted(set(devices)),
        "packages": _packages(),
    }
    write_json(file, facts)
    if not measured.crashed:
        shutil.rmtree(parts, ignore_errors=True)
    return facts


def _packages() -> dict[str, str]:
    """Versions of those of PACKAGES that are installed."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _report(comparison: _Comparison, settings: Settings, measured: dict[str, Any], command: str) -> dict[str, Any]:
    """Write the report of the figures that are there; the command's result."""
    options, contestants, utterances = settings.evaluation, comparison.contestants(), comparison.with_codes
    metrics = pl.DataFrame(pl.from_arrow(read_parquet(comparison.folder / METRICS)))
    summary = ev.summarise(metrics, registry=comparison.metrics)
    model = contestants[-1].name
    chosen = ev.choose_examples(
        metrics, model, count=options.listen, metric=options.headline, registry=comparison.metrics
    )
    paths = dict(comparison.utterances.select("digest", "path").rows())
    untrained = [name for name, result in comparison.results.items() if result is None]
    notes = [f"{name} is not trained yet and not in this report." for name in untrained]
    notes += [f"{paths[digest]}: {why}. It is tried again next time." for digest, why in measured["crashed"].items()]
    context = ev.ReportContext(
        command=command,
        versions=_versions(comparison, settings, measured),
        headline_metric=options.headline,
        curves={name: _curve(Path(result["run"]), result["baseline"]) for name, result in comparison.trained.items()},
        registry=comparison.metrics,
        examples=ev.listening_examples(
            contestants,
            utterances,
            chosen,
            model,
            metric=options.headline,
            registry=comparison.metrics,
            device=find_devices(settings.devices)[0],
            max_seconds=options.max_seconds,
        ),
        codebook=_codebook(comparison.spec, utterances, metrics, options.max_seconds),
        code_metrics=ev.code_metrics(comparison.spec),
        hours_an_hour=measured["hours_an_hour"],
        speakers=comparison.utterances.n_unique(["corpus", "speaker"]),
        notes=notes,
        paths=paths,
    )
    facts = ev.write_report(comparison.folder, metrics, summary, context)
    return {
        **{name: value for name, value in facts.items() if name != "metrics"},
        "table": facts["metrics"],
        "measured": _measured(metrics, options.headline),
        "not_finite": _not_finite(metrics),
        "crashed": sorted(measured["crashed"]),
        "report_digest": comparison.report,
    }


def _codebook(
    spec: CodecSpec, utterances: Sequence[ev.Utterance], metrics: pl.DataFrame, max_seconds: float
) -> pl.DataFrame:
    """Of the codes of what was measured."""
    coded = set(metrics.filter(pl.col("metric") == "bitrate").drop_nulls("value")["utterance"])
    return ev.codebook_use(
        (ev.used_codes(one.codes, spec, max_seconds) for one in utterances if one.digest in coded), spec
    )


def _versions(comparison: _Comparison, settings: Settings, measured: dict[str, Any]) -> dict[str, Any]:
    """All that the figures depend on, for the reader."""
    trained = comparison.trained
    return {
        **comparison.versions,
        "runs": {name: Path(result["run"]).name for name, result in trained.items()},
        "recipes": {name: _recipe_digest(result) for name, result in trained.items()},
        "trained on": {name: result["data"]["train"] for name, result in trained.items()},
        "conditions": {
            "first of each utterance": f"{settings.evaluation.max_seconds:g} s",
            "noise of the decoders": "seeded, the same for all",
            "measured on": ", ".join(measured["devices"]),
            "revision": EVALUATION_REVISION,
        },
        "models of one's own": ev.own_metrics_identity(settings.evaluation),
        "packages": measured["packages"],
    }


def _recipe_digest(result: dict[str, Any]) -> str:
    return value_digest(load_recipe(Path(result["run"]) / "recipe.yaml").identity())


def _measured(metrics: pl.DataFrame, headline: str) -> int:
    """Utterances on which every model has the headline metric, of those that have it at all: a metric may be of one
    output rate only."""
    rows = metrics.filter(pl.col("metric") == headline)
    rows = rows.filter(pl.col("value").is_not_null().any().over("model"))
    return int(rows.group_by("utterance").agg(pl.col("value").is_not_null().all()).get_column("value").sum())


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


def _curve(run: Path, baseline: dict[str, float]) -> list[dict[str, Any]]:
    """A run's history as rows of step, loss, and val: the held-out loss at the highest output rate, `baseline` being
    that before the first step, by rate."""
    rows = [{"step": 0, "loss": None, "val": baseline[max(baseline, key=int)]}]
    for line in (run / "history.jsonl").read_text().splitlines():
        entry = json.loads(line)
        held_out = {int(key.removeprefix("val_")): value for key, value in entry.items() if key.startswith("val_")}
        rows.append({"step": entry["step"], "loss": entry.get("loss"), "val": held_out.get(max(held_out, default=0))})
    return rows
