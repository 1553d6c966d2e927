"""The evaluation as files: summary.json, report.html, and the page's pictures and sounds by themselves.

In: the tables of `compare` and `summarise`, and what the report says round them. The page needs nothing but itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from snac_pipeline.evaluation import figures
from snac_pipeline.evaluation.codebook import CodeMetric
from snac_pipeline.evaluation.compare import RESAMPLED
from snac_pipeline.evaluation.listening import Clip, Example
from snac_pipeline.evaluation.registry import METRICS, NOT_RUN, Metric
from snac_pipeline.evaluation.summary import (
    HEADLINE_METRIC,
    Headline,
    headlines,
    missing_values,
    worst_utterances,
)
from snac_pipeline.files import atomic_folder, make_folder, write_json, write_text
from snac_pipeline.page import flattened, render_page

TEMPLATE = "report.html.j2"
REPORT_FILE, SUMMARY_FILE, SOUNDS = "report.html", "summary.json", "sounds"
PICTURES = ("differences", "curves", "spectrograms")
"""PNG files for where the page does not go, each under 50 kB for some decoders and a dozen metrics."""
THUMBNAILS = 2


@dataclass(frozen=True)
class ReportContext:
    """What a report says besides the metrics.

    command: what to type to get this report again. versions: data, recipe and code versions, values or nested
    mappings. curves: model -> rows of step, loss, val. codebook: table of `codebook_use`. notes: sentences for the
    reader's attention, beside those that the tables themselves give. paths: digest -> what a reader knows it by.
    hours_an_hour: how fast it was measured. speakers: how many the utterances are by.
    """

    command: str
    versions: Mapping[str, Any] = field(default_factory=dict)
    title: str = "Decoder evaluation"
    baseline: str = "base"
    headline_metric: str = HEADLINE_METRIC
    registry: Sequence[Metric] = METRICS
    curves: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    examples: Sequence[Example] = ()
    codebook: pl.DataFrame | None = None
    code_metrics: Sequence[CodeMetric] = ()
    hours_an_hour: float | None = None
    speakers: int | None = None
    notes: Sequence[str] = ()
    paths: Mapping[str, str] = field(default_factory=dict)

    @property
    def headline(self) -> Metric:
        """The metric that claims go by."""
        return next(metric for metric in self.registry if metric.name == self.headline_metric)


def write_report(folder: Path, metrics: pl.DataFrame, summary: pl.DataFrame, context: ReportContext) -> dict[str, Any]:
    """Write the report into `folder`, each file whole, in place of what was there; what it says, as `summary_facts`.

    Beside SUMMARY_FILE and REPORT_FILE: SOUNDS, a folder of the examples' clips; and those of PICTURES, as <name>.png,
    that there is something to draw for. `sounds` and `pictures` of the facts name them, from `folder`.
    """
    make_folder(folder)
    pictures = _draw(folder, metrics, summary, context)
    with atomic_folder(folder / SOUNDS) as temporary:
        sounds = [_sound(temporary, number, example, clip, context)
                  for number, example in enumerate(context.examples, start=1) for clip in example.clips]  # fmt: skip
    facts = {**summary_facts(metrics, summary, context), "pictures": pictures, "sounds": sounds}
    write_text(folder / REPORT_FILE, render_report(metrics, summary, context))
    write_json(folder / SUMMARY_FILE, facts)
    return facts


def _draw(folder: Path, metrics: pl.DataFrame, summary: pl.DataFrame, context: ReportContext) -> dict[str, str]:
    """File name by name of PICTURES, of those that are drawn; others that were there go."""
    files = {name: folder / f"{name}.png" for name in PICTURES}
    for file in files.values():
        file.unlink(missing_ok=True)
    compared = _compared_models(summary)
    triplets = [_triplet(example, summary, context) for example in context.examples[:THUMBNAILS]]
    if triplets:
        figures.draw_spectrograms(files["spectrograms"], triplets)
    drawn = {
        "differences": figures.draw_spread(
            files["differences"], metrics, summary, compared, context.registry, context.baseline
        ),
        "curves": figures.draw_curves(files["curves"], context.curves),
        "spectrograms": bool(triplets),
    }
    return {name: files[name].name for name in PICTURES if drawn[name]}


def _triplet(example: Example, summary: pl.DataFrame, context: ReportContext) -> list[Clip]:
    """The reference, the base, and the decoder that the example was chosen by, unless that is the base."""
    rows = summary.filter(pl.col("model") == example.model, pl.col("baseline").is_not_null())
    names = [context.baseline] if rows.is_empty() else [rows["baseline"][0], example.model]
    clips = {clip.name: clip for clip in example.clips[1:]}
    return [example.clips[0], *(clips[name] for name in names)]


def _sound(folder: Path, number: int, example: Example, clip: Clip, context: ReportContext) -> dict[str, Any]:
    """Write a clip; what it is, and its place in the report's folder."""
    name = "".join(letter if letter.isalnum() else "-" for letter in clip.name)
    file = folder / f"{number:02}-{name}.flac"
    figures.write_clip(file, clip)
    return {
        "utterance": context.paths.get(example.digest, example.digest),
        "clip": clip.name,
        "sample_rate": clip.sample_rate,
        "caption": clip.caption,
        "file": f"{SOUNDS}/{file.name}",
    }


def summary_facts(metrics: pl.DataFrame, summary: pl.DataFrame, context: ReportContext) -> dict[str, Any]:
    """The report's content as JSON-like values, for asset metadata and other tools."""
    headline = context.headline
    return {
        "headline_metric": headline.name,
        "headline_label": headline.label,
        "headline_unit": headline.unit,
        "headline_higher_is_better": headline.higher_is_better,
        "headlines": [str(headline) for headline in _headlines(summary, context)],
        "utterances": metrics["utterance"].n_unique(),
        "speakers": context.speakers,
        "metrics": summary.to_dicts(),
        "missing": missing_values(metrics).to_dicts(),
        "not_run": _not_run(metrics),
        "notes": _notes(metrics, context),
        "worst": {model: _worst(metrics, model, context).to_dicts() for model in _compared_models(summary)},
        "codebook": [] if context.codebook is None else context.codebook.to_dicts(),
        "hours_an_hour": context.hours_an_hour,
        "versions": _versions(context),
        "command": context.command,
    }


def render_report(metrics: pl.DataFrame, summary: pl.DataFrame, context: ReportContext) -> str:
    """The HTML page."""
    compared = _compared_models(summary)
    known: Sequence[Metric | CodeMetric] = (*context.registry, *context.code_metrics)
    labels = {metric.name: metric.label for metric in known}
    return render_page(
        Path(__file__).with_name(TEMPLATE),
        title=context.title,
        context=context,
        headlines=_headlines(summary, context),
        utterances=metrics["utterance"].n_unique(),
        notes=_notes(metrics, context),
        tables=[_rate_table(summary, rate, metrics, context) for rate in summary["sample_rate"].unique().sort()],
        intervals=summary["low"].is_not_null().sum(),
        missing=_missing(metrics, labels),
        models=compared,
        spread=figures.spread_svg(metrics, summary, compared, context.registry, context.baseline),
        curves=figures.curves_svg(context.curves),
        examples=[_playable(example) for example in context.examples],
        worst={model: _worst(metrics, model, context).to_dicts() for model in compared},
        headline_metric=context.headline,
        codebook=[] if context.codebook is None else context.codebook.to_dicts(),
        by_utterance=_by_utterance(metrics, context.code_metrics),
        versions=_versions(context),
        definitions={metric.label: metric.description for metric in context.registry if metric.description}
        | {metric.label.split(",")[0]: metric.description for metric in context.code_metrics},
    )


def _by_utterance(metrics: pl.DataFrame, code_metrics: Sequence[CodeMetric]) -> list[dict[str, Any]]:
    """How the figures of the codes are spread over utterances."""
    rows = []
    for metric in code_metrics:
        of_metric = metrics.filter(pl.col("metric") == metric.name)["value"]
        values = of_metric.drop_nulls()
        if len(values):
            figures_of = {"mean": values.mean(), "least": values.min(), "most": values.max()}
            rows.append({"metric": metric, "n": len(values), "missing": of_metric.null_count(), **figures_of})
    return rows


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


def _missing(metrics: pl.DataFrame, labels: Mapping[str, str]) -> list[dict[str, Any]]:
    """Values that single utterances lack, by metric, model and reason; metrics that lack all are told elsewhere."""
    partly = metrics.filter(pl.col("value").is_not_null().any().over("model", "metric"))
    return [row | {"label": labels[row["metric"]]} for row in missing_values(partly).to_dicts()]


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
    return {"digest": example.digest, "model": example.model, "why": example.why, "clips": clips, "top_khz": top}


def _versions(context: ReportContext) -> dict[str, str]:
    """Nested mappings as "data · manifest" -> value."""
    return {name: str(value) for name, value in flattened(context.versions, " · ").items()}
