"""What is kept of a `BpeSweep`: tokenizers, the table, a plot and a page to read.

In: a `BpeSweep`. Out: files in a folder, see `write_bpe`.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from snac_pipeline.files import atomic_file, write_parquet, write_text
from snac_pipeline.page import data_uri, render_page
from snac_pipeline.tokens.bpe import BpeReport, BpeSweep
from snac_pipeline.tokens.plots import PLAIN

SWEEP = (
    "vocabulary_size",
    "vocabulary_used",
    "tokens_per_second",
    "compression_ratio",
    "bits_per_second",
    "bits_per_second_bigram",
    "bits_per_second_plain",
)
"""Statistics of `sweep_rows`, in this order."""


def write_bpe(folder: Path, sweep: BpeSweep) -> list[Path]:
    """Write

    tokenizer.json, tokenizer_config.json, tokenizer.model, alphabet.json   in the layout and with the number of merges
                                        recommended; with none, every id is a token of its own (see `BpeTokenizer.save`)
    <layout>/merges-<n>/                the same of each number of merges in the sweep
    bpe.parquet, bpe.png, report.html, recommendation.txt                   the table, a plot, a page, the advice

    and return the paths, those of the sweep excepted."""
    folder, advice = Path(folder), sweep.recommendation
    for report in sweep.reports:
        for merges in report.sweep:
            report.tokenizer.first(merges).save(folder / report.layout.name / f"merges-{merges}")
    learned = sweep.best.tokenizer
    advised = type(learned)(learned.layout, advice.run_length, learned.entries[: advice.merges])
    paths = advised.save(folder)
    table, plot, page, text = (
        folder / name for name in ("bpe.parquet", "bpe.png", "report.html", "recommendation.txt")
    )
    write_parquet(table, sweep.table.to_arrow(compat_level=pl.CompatLevel.oldest()))
    picture = compression_png(sweep)
    with atomic_file(plot) as temporary:
        temporary.write_bytes(picture)
    write_text(page, render_bpe(sweep, picture))
    write_text(text, advice.text + "\n")
    return [*paths, table, plot, page, text]


def sweep_rows(sweep: BpeSweep) -> list[dict[str, Any]]:
    """A row for each number of merges in each layout, none first: layout, merges, run_length, then `SWEEP`."""
    wide = sweep.table.filter(pl.col("statistic").is_in(SWEEP)).pivot(
        on="statistic", index=["layout", "merges", "run_length"], values="value", maintain_order=True
    )
    counts = pl.col("vocabulary_size", "vocabulary_used").cast(pl.Int64)
    return wide.select("layout", "merges", "run_length", *SWEEP).with_columns(counts).to_dicts()


def compression_png(sweep: BpeSweep) -> bytes:
    """For each layout, against what BPE adds to the vocabulary: how much shorter sequences get, and what happens to
    bits per second under both models, against the same layout without merges, with 95 % intervals."""
    figure = Figure(figsize=(9.6, 3.2), dpi=80, layout="constrained")
    panels = figure.subplots(1, 3)
    told = (
        ("Sequences get shorter by", "compression_ratio", "ids / tokens"),
        ("Held-out bits/s, unigram model", "bits_per_second_change", "%"),
        ("Held-out bits/s, bigram model", "bits_per_second_bigram_change", "%"),
    )
    for axes, (title, statistic, unit) in zip(panels, told, strict=True):
        for report, colour in zip(sweep.reports, PLAIN, strict=False):
            _curve(axes, report, statistic, colour)
        axes.axhline(1 if unit != "%" else 0, color="grey", linestyle="--", linewidth=0.8)
        axes.set(title=title, xlabel="merges", ylabel=unit)
    panels[0].legend(fontsize="small")
    advice = sweep.recommendation
    use = f"use BPE, with {advice.merges} merges" if advice.merges else "do not use BPE"
    figure.suptitle(use + (f"; layout {advice.layout}" if len(sweep.reports) > 1 else ""), fontsize="medium")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _curve(axes: Axes, report: BpeReport, statistic: str, colour: str) -> None:
    """Changes in percent of the layout's bits without merges."""
    rows = report.table.filter(statistic=statistic, run_length=report.tokenizer.run_length).sort("merges")
    unit = 1.0
    if statistic.endswith("_change"):
        before = report.table.filter(statistic=statistic.removesuffix("_change"))["value"][0]
        if not before:
            return
        unit = before / 100
    axes.plot(rows["merges"], rows["value"] / unit, marker=".", color=colour, label=report.layout.name)
    if rows["low"].null_count() == 0:
        axes.fill_between(rows["merges"], rows["low"] / unit, rows["high"] / unit, color=colour, alpha=0.2, linewidth=0)


def render_bpe(sweep: BpeSweep, picture: bytes) -> str:
    """One HTML page that loads nothing. picture: of `compression_png`."""
    table, first = sweep.table, sweep.reports[0]
    names = ("train_tokens", "held_out_seconds", "merges_asked")
    facts = {name: table.filter(pl.col("statistic") == name)["value"][0] for name in names}
    return render_page(
        Path(__file__).with_name("bpe.html.j2"),
        title="Byte-pair encoding of codec tokens",
        advice=sweep.recommendation,
        plot=data_uri("image/png", lambda buffer: buffer.write(picture)),
        held_out=first.held_out,
        engine=table["engine"][0],
        within=table["within"][0],
        run_length=first.tokenizer.run_length,
        layouts=[{"report": report, "rows": list(_page_rows(report))} for report in sweep.reports],
        **facts,
    )


def _page_rows(report: BpeReport) -> Iterator[dict[str, Any]]:
    for (run_length, merges), of in report.table.group_by("run_length", "merges", maintain_order=True):
        figures = {name: dict(row) for name, row in zip(of["statistic"], of.iter_rows(named=True), strict=True)}
        yield figures | {"merges": merges, "run_length": run_length}
