"""Pictures of the corpora, as PNG files: how long recordings are, and how speech is divided."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from matplotlib.figure import Figure

from snac_pipeline.files import atomic_file

SIZE: dict[str, Any] = {"figsize": (6.0, 2.8), "dpi": 80, "layout": "constrained"}


def draw_durations(path: Path, manifest: pa.Table) -> None:
    """Hours of audio by the length of recordings in seconds (left) and by their true bandwidth in kHz (right).

    `manifest` has the columns duration, s, and bandwidth, Hz.
    """
    figure = Figure(**SIZE)
    seconds, bandwidth = manifest["duration"].to_numpy(), manifest["bandwidth"].to_numpy()
    lengths, bands = ("length of recordings, s", seconds), ("true bandwidth, kHz", bandwidth / 1000)
    for axes, (name, values) in zip(figure.subplots(1, 2, sharey=True), (lengths, bands), strict=True):
        bins = np.linspace(0, max(1.0, float(values.max())), 31)
        axes.hist(values, bins=bins, weights=seconds / 3600, color="#4477aa")
        axes.set(xlabel=name)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set(ylabel="hours")
    _save(figure, path)


def draw_sides(path: Path, utterances: pl.DataFrame) -> None:
    """Share of each corpus's hours on each side; `utterances` has corpus, split and duration."""
    hours = utterances.group_by("corpus", "split").agg(pl.col("duration").sum() / 3600)
    hours = hours.with_columns(share=pl.col("duration") / pl.col("duration").sum().over("corpus"))
    corpora = hours["corpus"].unique().sort().to_list()
    figure = Figure(**SIZE)
    axes, left = figure.subplots(), np.zeros(len(corpora))
    for split, color in (("train", "#4477aa"), ("val", "#ee6677"), ("test", "#ccbb44")):
        rows = {row["corpus"]: row for row in hours.filter(pl.col("split") == split).to_dicts()}
        if not rows:
            continue
        shares = np.array([rows[corpus]["share"] if corpus in rows else 0.0 for corpus in corpora])
        total = sum(row["duration"] for row in rows.values())
        axes.barh(corpora, shares, left=left, color=color, label=f"{split}, {total:.3g} h")
        left += shares
    axes.set(xlabel="share of hours", xlim=(0, 1))
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper right", ncols=3, frameon=False)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png")
