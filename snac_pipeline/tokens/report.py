"""Token statistics as files: the table, small pictures for Dagster, and a page that tells what the figures mean.

In: `Statistics`, and what the page says of where they come from. The page needs nothing but itself.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from snac_pipeline.files import atomic_file, write_parquet, write_text
from snac_pipeline.page import data_uri, render_page
from snac_pipeline.tokens.counting import ALL
from snac_pipeline.tokens.plots import drawing, picture, rank_frequency, run_lengths, transitions_png
from snac_pipeline.tokens.repetition import NGRAMS
from snac_pipeline.tokens.statistics import Statistics

TEMPLATE = "report.html.j2"
REPORT_FILE = "report.html"
SPARSE = 8.0
"""Bigrams for each that is possible below which a reader is warned."""

USE = ("entropy", "perplexity", "dead_codes", "gini", "zipf_slope", "coverage_top_10", "coverage_top_100",
       "coverage_top_1000", "bits_per_second")  # fmt: skip
FOLLOWING = ("conditional_entropy", "mutual_information", "mutual_information_excess", "transition_density",
             "bits_per_second_after_previous", "bigrams_per_cell")  # fmt: skip
REPETITION = ("immediate_repeat_rate", "mean_run_length", "longest_run", "tokens_in_runs",
              *(f"repeated_ngrams_{n}" for n in NGRAMS))  # fmt: skip
ACROSS = ("conditional_entropy", "mutual_information", "mutual_information_excess")


def write_statistics(folder: Path, statistics: Statistics, command: str, made_from: Mapping[str, Any]) -> list[Path]:
    """Write statistics.parquet, rank_frequency.png, run_lengths.png, transitions.png and REPORT_FILE into `folder`;
    their paths. command: what to type to get this again; made_from: versions and paths to name."""
    pictures = {
        "rank_frequency.png": picture(rank_frequency, statistics.counts, "Rank and frequency"),
        "run_lengths.png": picture(run_lengths, statistics.runs, "Runs of one code"),
        "transitions.png": transitions_png(statistics.transitions),
    }
    folder = Path(folder)
    table = folder / "statistics.parquet"
    write_parquet(table, statistics.table.to_arrow(compat_level=pl.CompatLevel.oldest()))
    for name, content in pictures.items():
        with atomic_file(folder / name) as temporary:
            temporary.write_bytes(content)
    write_text(folder / REPORT_FILE, render_statistics(statistics, command, made_from))
    return [table, *(folder / name for name in pictures), folder / REPORT_FILE]


def render_statistics(statistics: Statistics, command: str, made_from: Mapping[str, Any]) -> str:
    """The HTML page."""
    transitions = transitions_png(statistics.transitions)
    return render_page(
        Path(__file__).with_name(TEMPLATE),
        title="Token statistics",
        levels=range(statistics.geometry.levels),
        size=statistics.geometry.codebook_size,
        tokens=int(statistics.value("tokens", None)),
        hours=statistics.value("seconds", 0) / 3600,
        bits=statistics.row("bits_per_second", None),
        notes=_notes(statistics),
        sections=[
            ("How the codes are used", "uniform codebook", _by_level(statistics, USE)),
            ("What the code before tells", "shuffled", _by_level(statistics, FOLLOWING)),
            ("Repetition", "shuffled", _by_level(statistics, REPETITION)),
        ],
        across=_across(statistics),
        groups=_groups(statistics),
        rank_frequency=drawing(rank_frequency, statistics.counts, "Rank and frequency"),
        run_lengths=drawing(run_lengths, statistics.runs, "Runs of one code"),
        transitions=data_uri("image/png", lambda buffer: buffer.write(transitions)),
        command=command,
        made_from=made_from,
        shown=shown_number,
    )


def level_table(statistics: Statistics) -> list[dict[str, Any]]:
    """The figures of the whole corpus, a row for each level: what Dagster shows as a table."""
    names = (*USE, "conditional_entropy", "mutual_information_excess", "immediate_repeat_rate", "tokens_in_runs")
    rows = []
    for level in range(statistics.geometry.levels):
        found = {name: _row(statistics, name, level) for name in ("tokens", *names)}
        rows.append({"level": level, **{name: row and row["value"] for name, row in found.items()}})
    return rows


def shown_number(value: float | None) -> str:
    """For people: whole and large numbers with thousands, others with four digits."""
    if value is None:
        return "-"
    whole = value == round(value) or abs(value) >= 1e4
    return f"{value:,.0f}" if whole else f"{value:.4g}"


def _notes(statistics: Statistics) -> list[str]:
    notes = []
    for level in range(statistics.geometry.levels):
        row = _row(statistics, "bigrams_per_cell", level)
        if row is None:
            notes.append(f"Level {level} has no two successive tokens: nothing can be said of what follows what.")
        elif row["value"] < SPARSE:
            notes.append(
                f"Level {level} has {row['value']:.2g} bigrams for each that is possible: conditional entropies are "
                "far too low and mutual information far too high. Read them only against the shuffled ones beside them."
            )
    return notes


def _by_level(statistics: Statistics, names: tuple[str, ...]) -> list[tuple[str, list[dict[str, Any] | None]]]:
    """(statistic, its row of each level) of those that any level has."""
    levels = range(statistics.geometry.levels)
    found = [(name, [_row(statistics, name, level) for level in levels]) for name in names]
    return [(name, rows) for name, rows in found if any(rows)]


def _across(statistics: Statistics) -> list[dict[str, Any]]:
    wanted = pl.col("given").is_not_null() & pl.col("statistic").is_in(ACROSS)
    return statistics.table.filter(wanted, corpus=ALL, split=ALL).to_dicts()


def _groups(statistics: Statistics) -> list[dict[str, Any]]:
    """Tokens and bits per second of each corpus and split, where there are several."""
    rows = statistics.table.filter(pl.col("level").is_null())
    wide = rows.pivot("statistic", index=["corpus", "split"], values=["value", "null"]).sort("corpus", "split")
    return wide.to_dicts() if len(wide) > 1 else []


def _row(statistics: Statistics, name: str, level: int) -> dict[str, Any] | None:
    try:
        return statistics.row(name, level)
    except KeyError:
        return None
