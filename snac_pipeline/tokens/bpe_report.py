"""What is kept of a `BpeReport`: tokenizers, the table, a plot and a page to read.

In: a `BpeReport`. Out: files in a folder, see `write_bpe`.
"""

import io
from pathlib import Path
from typing import Any

import polars as pl
from matplotlib.figure import Figure

from snac_pipeline.files import atomic_file, write_parquet, write_text
from snac_pipeline.page import data_uri, render_page
from snac_pipeline.tokens.bpe import BpeReport

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


def write_bpe(folder: Path, report: BpeReport) -> list[Path]:
    """Write

    tokenizer.json, tokenizer_config.json, tokenizer.model, alphabet.json   with the number of merges recommended; with
                                        none, every id is a token of its own (see `BpeTokenizer.save`)
    merges-<n>/                         the same of each number of merges in the sweep
    bpe.parquet, bpe.png, report.html, recommendation.txt                   the table, a plot, a page, the advice

    and return the paths, those of the sweep excepted."""
    folder, bpe, advice = Path(folder), report.tokenizer, report.recommendation
    for merges in report.sweep:
        bpe.first(merges).save(folder / f"merges-{merges}")
    advised = type(bpe)(bpe.layout, advice.run_length, bpe.entries[: advice.merges])
    paths = advised.save(folder)
    table, plot, page, text = (
        folder / name for name in ("bpe.parquet", "bpe.png", "report.html", "recommendation.txt")
    )
    write_parquet(table, report.table.to_arrow(compat_level=pl.CompatLevel.oldest()))
    picture = compression_png(report)
    with atomic_file(plot) as temporary:
        temporary.write_bytes(picture)
    write_text(page, render_bpe(report, picture))
    write_text(text, advice.text + "\n")
    return [*paths, table, plot, page, text]


def sweep_rows(report: BpeReport) -> list[dict[str, Any]]:
    """One row for each number of merges: merges, run_length, then `SWEEP`; without merges first."""
    wide = report.table.filter(pl.col("statistic").is_in(SWEEP)).pivot(
        on="statistic", index=["merges", "run_length"], values="value"
    )
    counts = pl.col("vocabulary_size", "vocabulary_used").cast(pl.Int64)
    return wide.sort("run_length", "merges").select("merges", "run_length", *SWEEP).with_columns(counts).to_dicts()


def compression_png(report: BpeReport) -> bytes:
    """Against the size of the vocabulary: how much shorter sequences get, and what happens to bits per second under
    both models, with 95 % intervals; the number of merges recommended is marked."""
    figure = Figure(figsize=(7.2, 3.2), dpi=80, layout="constrained")
    shorter, cost = figure.subplots(1, 2)
    table, advice = report.table, report.recommendation
    _curve(shorter, table, "compression_ratio", 1.0, "C0", None)
    for statistic, colour, label in (
        ("bits_per_second", "C0", "unigram model"),
        ("bits_per_second_bigram", "C1", "bigram model"),
    ):
        before = table.filter(pl.col("statistic") == statistic)["value"][0]
        if before:
            _curve(cost, table, f"{statistic}_change", before / 100, colour, label)
    cost.axhline(0, color="grey", linestyle="--", linewidth=0.8)
    shorter.set(title="Sequences get shorter by a factor of", xlabel="vocabulary", ylabel="ids / tokens")
    cost.set(title="Held-out bits per second change by", xlabel="vocabulary", ylabel="%")
    if cost.lines[1:]:
        cost.legend(fontsize="small")
    if advice.merges:
        for axes in (shorter, cost):
            axes.axvline(report.tokenizer.alphabet.size + advice.merges, color="C2", linewidth=0.8)
        figure.suptitle(f"use BPE, with {advice.merges} merges (green)", fontsize="medium")
    else:
        figure.suptitle("do not use BPE", fontsize="medium")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _curve(axes: Any, table: pl.DataFrame, statistic: str, unit: float, colour: str, label: str | None) -> None:
    sizes = table.filter(pl.col("statistic") == "vocabulary_size").select("run_length", "merges", size="value")
    rows = table.filter(pl.col("statistic") == statistic).join(sizes, on=["run_length", "merges"]).sort("size")
    axes.plot(rows["size"], rows["value"] / unit, marker=".", color=colour, label=label)
    if rows["low"].null_count() == 0:
        axes.fill_between(rows["size"], rows["low"] / unit, rows["high"] / unit, color=colour, alpha=0.2, linewidth=0)


def render_bpe(report: BpeReport, picture: bytes) -> str:
    """One HTML page that loads nothing. picture: of `compression_png`."""
    table, bpe = report.table, report.tokenizer
    names = ("train_tokens", "held_out_seconds", "merges_asked")
    facts = {name: table.filter(pl.col("statistic") == name)["value"][0] for name in names}
    return render_page(
        Path(__file__).with_name("bpe.html.j2"),
        title="Byte-pair encoding of codec tokens",
        advice=report.recommendation,
        plot=data_uri("image/png", lambda buffer: buffer.write(picture)),
        layout=bpe.layout.name,
        alphabet=bpe.layout.alphabet_size,
        held_out=report.held_out,
        engine=table["engine"][0],
        within=table["within"][0],
        run_length=bpe.run_length,
        rows=[
            {name: dict(row) for name, row in zip(of["statistic"], of.iter_rows(named=True), strict=True)}
            | {"merges": merges, "run_length": run_length}
            for (run_length, merges), of in table.group_by("run_length", "merges", maintain_order=True)
        ],
        training=report.training,
        encoding=report.encoding,
        speed=report.encoded_ids_per_second(),
        **facts,
    )
