"""The evaluation as files: metrics.parquet, summary.json and report.html, one folder that appears whole.

In: the tables of `compare` and `summarise`, and what the report says round them. The page needs nothing but itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from snac_pipeline.evaluation import figures
from snac_pipeline.evaluation.compare import RESAMPLED
from snac_pipeline.evaluation.listening import Example
from snac_pipeline.evaluation.registry import METRICS, NOT_RUN, Metric
from snac_pipeline.evaluation.summary import (
    HEADLINE_METRIC,
    Headline,
    headlines,
    missing_values,
    worst_utterances,
)
from snac_pipeline.files import atomic_folder, write_json, write_parquet, write_text
from snac_pipeline.page import flattened, render_page

TEMPLATE = "report.html.j2"
REPORT_FILE = "report.html"


@dataclass(frozen=True)
class ReportContext:
    """What a report says besides the metrics.

    command: what to type to get this report again. versions: data, recipe and code versions, values or nested
    mappings. curves: model -> rows of step, loss, val. codebook: table of `codebook_use`. notes: sentences for the
    reader's attention, beside those that the tables themselves give. paths: digest -> what a reader knows it by.
    """

    command: str
    versions: Mapping[str, Any] = field(default_factory=dict)
    title: str = "Decoder evaluation"
    baseline: str = "base"
    headline_metric: str = HEADLINE_METRIC
    registry: Sequence[Metric] = METRICS
    curves: Mapping[str, Sequence[Mapping]] = field(default_factory=dict)
    examples: Sequence[Example] = ()
    codebook: pl.DataFrame | None = None
    notes: Sequence[str] = ()
    paths: Mapping[str, str] = field(default_factory=dict)


def write_evaluation(folder: Path, metrics: pl.DataFrame, summary: pl.DataFrame, context: ReportContext) -> Path:
    """Write metrics.parquet, summary.json and REPORT_FILE as one folder, in the place of what was there.

    Returns the path of the report.
    """
    facts = summary_facts(metrics, summary, context)
    page = render_report(metrics, summary, context)
    with atomic_folder(folder) as temporary:
        write_parquet(temporary / "metrics.parquet", metrics.to_arrow())
        write_json(temporary / "summary.json", facts)
        write_text(temporary / REPORT_FILE, page)
    return folder / REPORT_FILE


def summary_facts(metrics: pl.DataFrame, summary: pl.DataFrame, context: ReportContext) -> dict[str, Any]:
    """The report's content as JSON-like values, for asset metadata and other tools."""
    compared = _compared_models(summary)
    return {
        "headlines": [str(headline) for headline in _headlines(summary, context)],
        "utterances": metrics["utterance"].n_unique(),
        "metrics": summary.to_dicts(),
        "missing": missing_values(metrics).to_dicts(),
        "not_run": _not_run(metrics),
        "notes": _notes(metrics, context),
        "worst": {model: _worst(metrics, model, context).to_dicts() for model in compared},
        "codebook": [] if context.codebook is None else context.codebook.to_dicts(),
        "versions": _versions(context),
        "command": context.command,
    }


def render_report(metrics: pl.DataFrame, summary: pl.DataFrame, context: ReportContext) -> str:
    """The HTML page."""
    compared = _compared_models(summary)
    by_name = {metric.name: metric for metric in context.registry}
    return render_page(
        Path(__file__).with_name(TEMPLATE),
        title=context.title,
        context=context,
        headlines=_headlines(summary, context),
        utterances=metrics["utterance"].n_unique(),
        notes=_notes(metrics, context),
        tables=[_rate_table(summary, rate, metrics, context) for rate in summary["sample_rate"].unique().sort()],
        missing=_missing(metrics, by_name),
        models=compared,
        spread=figures.spread_svg(metrics, summary, compared, context.registry, context.baseline),
        curves=figures.curves_svg(context.curves),
        examples=[_playable(example) for example in context.examples],
        worst={model: _worst(metrics, model, context).to_dicts() for model in compared},
        headline_metric=by_name[context.headline_metric],
        codebook=[] if context.codebook is None else context.codebook.to_dicts(),
        versions=_versions(context),
        registry=context.registry,
    )


def _headlines(summary: pl.DataFrame, context: ReportContext) -> list[Headline]:
    return headlines(summary, context.headline_metric, registry=context.registry)


def _compared_models(summary: pl.DataFrame) -> list[str]:
    return summary.filter(pl.col("baseline").is_not_null())["model"].unique(maintain_order=True).to_list()


def _worst(metrics: pl.DataFrame, model: str, context: ReportContext) -> pl.DataFrame:
    return worst_utterances(
        metrics, model, context.headline_metric, baseline=context.baseline, registry=context.registry
    ).with_columns(name=pl.col("utterance").replace(dict(context.paths)))


def _rate_table(summary: pl.DataFrame, rate: int, metrics: pl.DataFrame, context: ReportContext) -> dict[str, Any]:
    """One sample rate's table: models in columns, a row per metric that has values, and why others have none."""
    here = summary.filter(pl.col("sample_rate") == rate)
    cells = {(row["model"], row["metric"]): row for row in here.to_dicts()}
    models = here["model"].unique(maintain_order=True).to_list()
    present = [metric for metric in context.registry if (models[0], metric.name) in cells]
    defined = [metric for metric in present if any(cells[model, metric.name]["n"] for model in models)]
    return {
        "rate": rate,
        "models": models,
        "rows": [(metric, [cells[model, metric.name] for model in models]) for metric in defined],
        "absent": [(metric, _reasons(metrics, rate, metric)) for metric in present if metric not in defined],
    }


def _reasons(metrics: pl.DataFrame, rate: int, metric: Metric) -> str:
    absent = metrics.filter(pl.col("sample_rate") == rate, pl.col("metric") == metric.name, pl.col("value").is_null())
    return "; ".join(absent["reason"].unique(maintain_order=True))


def _missing(metrics: pl.DataFrame, by_name: Mapping[str, Metric]) -> list[dict[str, Any]]:
    """Values that single utterances lack, by metric, model and reason; metrics that lack all are told elsewhere."""
    partly = metrics.filter(pl.col("value").is_not_null().any().over("model", "metric"))
    return [row | {"label": by_name[row["metric"]].label} for row in missing_values(partly).to_dicts()]


def _not_run(metrics: pl.DataFrame) -> dict[str, str]:
    rows = metrics.filter(pl.col("reason").str.starts_with(NOT_RUN)).unique("metric", maintain_order=True)
    return dict(rows.select("metric", "reason").iter_rows())


def _notes(metrics: pl.DataFrame, context: ReportContext) -> list[str]:
    """What a reader must know before believing a figure."""
    labels = {metric.name: metric.label for metric in context.registry}
    notes = [f"{labels[name]}: {reason}." for name, reason in _not_run(metrics).items()]
    noted = metrics.filter(pl.col("note").str.starts_with(RESAMPLED))
    for (note,), rows in sorted(noted.group_by("note")):
        rates = " and ".join(f"{rate / 1000:g}" for rate in rows["sample_rate"].unique().sort())
        share = f"{rows['utterance'].n_unique()} of {metrics['utterance'].n_unique()} utterances"
        notes.append(
            f"Targets at {rates} kHz are resampled for {share}: {note}, nothing is recorded above the file's band."
        )
    return [*notes, *context.notes]


def _playable(example: Example) -> dict[str, Any]:
    pictures = figures.spectrogram_uris(example.clips)
    top = max(clip.sample_rate for clip in example.clips) / 2000
    clips = [
        {
            "clip": clip,
            "seconds": len(clip.audio_T) / clip.sample_rate,
            "picture": picture,
            "audio": figures.audio_uri(clip),
        }
        for clip, picture in zip(example.clips, pictures, strict=True)
    ]
    return {"digest": example.digest, "why": example.why, "clips": clips, "top_khz": top}


def _versions(context: ReportContext) -> dict[str, str]:
    """Nested mappings as "data · manifest" -> value."""
    return {name: str(value) for name, value in flattened(context.versions, " · ").items()}
