"""Pictures and sound for the report, as text that is put into the page: SVG in the page's colours, and data URIs."""

import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import polars as pl
import soundfile
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from snac_pipeline.evaluation.listening import Clip
from snac_pipeline.evaluation.registry import Metric
from snac_pipeline.evaluation.summary import paired_differences
from snac_pipeline.files import atomic_file
from snac_pipeline.page import GOOD, INK, LINE, MUTED, SERIES, STYLE, data_uri, svg

MAX_DOTS = 150
MAX_CURVE_POINTS = 400
SPECTROGRAM_WIDTH, SPECTROGRAM_HEIGHT, DYNAMIC_RANGE = 520, 180, 80.0


class Palette(NamedTuple):
    """Colours of a drawing."""

    ink: str
    muted: str
    line: str
    good: str
    series: Sequence[str]

    def style(self) -> dict[Any, Any]:
        """Matplotlib's settings."""
        theirs = dict(zip((INK, MUTED, LINE), (self.ink, self.muted, self.line), strict=True))
        return {key: theirs.get(value, value) for key, value in STYLE.items()}


OF_THE_PAGE = Palette(INK, MUTED, LINE, GOOD, SERIES)
PLAIN = Palette(
    "#1d1f21", "#63676c", "#b0b3b0", "#0b6e63", ("#1f6fb2", "#b8581a", "#7a4fa3", "#2f7d4f", "#a33a5e", "#6b6f1d")
)
"""As the light page's."""


def spread_svg(
    metrics: pl.DataFrame, summary: pl.DataFrame, models: Sequence[str], registry: Sequence[Metric], baseline: str
) -> str:
    """Small multiples: for each metric the paired differences to the baseline, one box per model.

    Box: quartiles, whiskers 5 to 95 %; dots: utterances, 150 at most, evenly by rank; diamond and bar: the mean and its
    95 % interval. The better side of zero is shaded. Empty string when nothing can be drawn.
    """
    with matplotlib.rc_context(OF_THE_PAGE.style() | {"svg.hashsalt": "spread"}):
        figure = _spread(metrics, summary, models, registry, baseline, OF_THE_PAGE)
        return "" if figure is None else svg(figure, "Paired differences to the base, by metric")


def draw_spread(
    path: Path,
    metrics: pl.DataFrame,
    summary: pl.DataFrame,
    models: Sequence[str],
    registry: Sequence[Metric],
    baseline: str,
) -> bool:
    """The same as a small PNG, with the models' names; whether there was anything to draw."""
    with matplotlib.rc_context(PLAIN.style()):
        figure = _spread(metrics, summary, models, registry, baseline, PLAIN)
        if figure is None:
            return False
        handles = [Patch(color=colour) for _, colour in zip(models, itertools.cycle(PLAIN.series), strict=False)]
        figure.legend(handles, models, loc="outside upper left", ncols=3, frameon=False)
        _save_small(figure, path)
    return True


def _spread(
    metrics: pl.DataFrame,
    summary: pl.DataFrame,
    models: Sequence[str],
    registry: Sequence[Metric],
    baseline: str,
    palette: Palette,
) -> Figure | None:
    pairs = {
        (metric.name, model): paired_differences(metrics, model, metric.name, baseline)["difference"].to_numpy()
        for metric in registry
        for model in models
    }
    drawn = [metric for metric in registry if any(len(pairs[metric.name, model]) > 1 for model in models)]
    if not drawn:
        return None
    columns = 3
    rows = -(-len(drawn) // columns)
    figure = Figure(figsize=(10.4, rows * (0.95 + 0.36 * len(models))), dpi=64, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, metric in zip(grid, drawn, strict=False):
        _spread_panel(axes, metric, [pairs[metric.name, model] for model in models], models, summary, palette)
    for axes in grid[len(drawn) :]:
        axes.set_visible(False)
    return figure


def _spread_panel(
    axes: Axes,
    metric: Metric,
    values: list[np.ndarray],
    models: Sequence[str],
    summary: pl.DataFrame,
    palette: Palette,
) -> None:
    axes.set_title(
        metric.label + (f", {metric.unit}" if metric.unit else ""), fontsize=9, loc="left", color=palette.ink
    )
    for place, (model, differences) in enumerate(zip(models, values, strict=True)):
        if len(differences) < 2:
            continue
        colour, y = palette.series[place % len(palette.series)], -place
        axes.boxplot(
            differences, positions=[y], orientation="horizontal", widths=0.5, whis=(5, 95), showfliers=False,
            patch_artist=True, boxprops={"facecolor": colour, "edgecolor": colour, "alpha": 0.28},
            medianprops={"color": colour, "linewidth": 1.4}, whiskerprops={"color": colour}, capprops={"color": colour},
        )  # fmt: skip
        ranked = np.sort(differences)
        dots = ranked[np.linspace(0, len(ranked) - 1, min(len(ranked), MAX_DOTS)).round().astype(int)]
        spread = 0.18 * np.sin(np.arange(len(dots)) * 2.4)
        axes.scatter(dots, y + spread, s=4, color=colour, alpha=0.55, linewidths=0)
        row = summary.row(by_predicate=(pl.col("model") == model) & (pl.col("metric") == metric.name), named=True)
        axes.plot([row["low"], row["high"]], [y, y], color=palette.ink, linewidth=2, solid_capstyle="butt")
        axes.plot([row["difference"]], [y], marker="D", markersize=4.5, color=palette.ink)
    axes.set_ylim(-len(models) + 0.45, 0.55)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    left, right = axes.get_xlim()
    left, right = min(left, -0.05 * right), max(right, -0.05 * left)
    axes.set_xlim(left, right)
    better = (0, right) if metric.higher_is_better else (left, 0)
    axes.axvspan(*better, color=palette.good, alpha=0.07, linewidth=0)
    axes.axvline(0, color=palette.ink, linewidth=0.8)
    axes.locator_params(axis="x", nbins=5)


Curves = Mapping[str, Sequence[Mapping[str, Any]]]
"""Model -> rows with step and any of loss (training) and val (held out)."""


def curves_svg(curves: Curves) -> str:
    """Training curves, one panel per model; empty string where there are none."""
    with matplotlib.rc_context(OF_THE_PAGE.style() | {"svg.hashsalt": "curves"}):
        figure = _curves(curves, OF_THE_PAGE)
        return "" if figure is None else svg(figure, "Training curves")


def draw_curves(path: Path, curves: Curves) -> bool:
    """The same as a small PNG; whether there was anything to draw."""
    with matplotlib.rc_context(PLAIN.style()):
        figure = _curves(curves, PLAIN)
        if figure is None:
            return False
        _save_small(figure, path)
    return True


def _curves(curves: Curves, palette: Palette) -> Figure | None:
    curves = {model: rows for model, rows in curves.items() if rows}
    if not curves:
        return None
    figure = Figure(figsize=(10.4, 2.9), dpi=64, layout="constrained")
    panels = figure.subplots(1, len(curves), squeeze=False).ravel()
    for place, (axes, (model, rows)) in enumerate(zip(panels, curves.items(), strict=True)):
        colour = palette.series[place % len(palette.series)]
        step, loss = _series(rows, "loss")
        axes.plot(step, loss, color=colour, linewidth=1, alpha=0.55, label="training")
        step, held_out = _series(rows, "val")
        axes.plot(step, held_out, color=palette.ink, linewidth=1.4, marker="o", markersize=3, label="held out")
        axes.set_title(model, fontsize=9, loc="left", color=palette.ink, parse_math=False)
        axes.set_xlabel("step")
        axes.set_ylabel("loss")
        axes.grid(axis="y", color=palette.line, linewidth=0.6)
        axes.legend(frameon=False, fontsize=8, labelcolor=palette.muted)
    return figure


def _series(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[list[Any], list[Any]]:
    """(steps, values) of the rows that have `key`, thinned to what a screen can show."""
    points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
    keep = np.linspace(0, len(points) - 1, min(len(points), MAX_CURVE_POINTS)).round().astype(int)
    return [points[i][0] for i in keep], [points[i][1] for i in keep]


def spectrogram_uris(clips: Sequence[Clip]) -> list[str]:
    """PNG data URIs of the clips' spectrograms on one frequency axis (0 Hz at the bottom, half the highest rate on
    top) and one colour scale (80 dB down from the first clip's peak)."""
    top = max(clip.sample_rate for clip in clips)
    pictures = [_spectrogram(clip, top) for clip in clips]
    peak = pictures[0].max()
    return [_png(np.clip((picture - peak) / DYNAMIC_RANGE + 1, 0, 1)) for picture in pictures]


def draw_spectrograms(path: Path, rows: Sequence[Sequence[Clip]]) -> None:
    """Write one small PNG (some 40 kB): a row of spectrograms for each list of clips, on axes and scale as above."""
    height, width = len(rows), len(rows[0])
    with matplotlib.rc_context({"font.size": 7}):
        figure = Figure(figsize=(2.6 * width, 0.3 + 1.3 * height), dpi=80, layout="constrained")
        for line, clips in zip(figure.subplots(height, width, squeeze=False), rows, strict=True):
            top = max(clip.sample_rate for clip in clips)
            pictures = [_spectrogram(clip, top) for clip in clips]
            peak = pictures[0].max()
            for axes, clip, picture in zip(line, clips, pictures, strict=True):
                extent = (0, len(clip.audio_T) / clip.sample_rate, 0, top / 2000)
                axes.imshow(picture, cmap="magma", vmin=peak - DYNAMIC_RANGE, vmax=peak, extent=extent, aspect="auto")
                axes.set_title(clip.name, fontsize=7)
                axes.set(ylabel="kHz" if axes is line[0] else "")
        _save_small(figure, path, colours=32)


def _save_small(figure: Figure, path: Path, colours: int = 128) -> None:
    """As a PNG of so many colours."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor="white")
    with atomic_file(path) as temporary:
        Image.open(buffer).convert("RGB").quantize(colours).save(temporary, "PNG", optimize=True)


def _spectrogram(clip: Clip, top_rate: int) -> np.ndarray:
    """Decibels (SPECTROGRAM_HEIGHT, columns), highest frequency first, -200 above half the clip's rate."""
    n_fft = 2 ** round(np.log2(1024 * clip.sample_rate / 24_000))
    hop = max(1, len(clip.audio_T) // SPECTROGRAM_WIDTH)
    window = torch.hann_window(n_fft)
    samples = torch.nn.functional.pad(torch.from_numpy(clip.audio_T.astype(np.float32)), (n_fft // 2, n_fft // 2))
    spectrum = torch.stft(samples, n_fft, hop, window=window, center=False, return_complex=True)
    power = spectrum.abs().square() / window.sum() ** 2
    rows = round(SPECTROGRAM_HEIGHT * clip.sample_rate / top_rate)
    pooled = torch.nn.functional.adaptive_avg_pool1d(power.T[None], rows)[0].T.flip(0)
    picture = np.full((SPECTROGRAM_HEIGHT, pooled.shape[1]), -200.0)
    picture[SPECTROGRAM_HEIGHT - rows :] = 10 * np.log10(pooled.numpy() + 1e-20)
    return picture


def _png(levels: np.ndarray) -> str:
    """A picture of levels 0..1 in the magma colour map, as a palette PNG data URI."""
    image = Image.fromarray((255 * levels).round().astype(np.uint8), mode="P")
    palette = matplotlib.colormaps["magma"](np.arange(256), bytes=True)[:, :3]
    image.putpalette(palette.tobytes())
    return data_uri("image/png", lambda buffer: image.save(buffer, "PNG", optimize=True))


def audio_uri(clip: Clip) -> str:
    """16-bit FLAC data URI."""
    return data_uri("audio/flac", lambda buffer: write_clip(buffer, clip))


def write_clip(target: Path | io.BytesIO, clip: Clip) -> None:
    """As 16-bit FLAC."""
    soundfile.write(target, np.clip(clip.audio_T, -1, 1), clip.sample_rate, format="FLAC", subtype="PCM_16")
