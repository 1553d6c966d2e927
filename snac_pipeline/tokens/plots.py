"""Pictures of token statistics: as small PNG files for Dagster, and as drawings that take the report's colours."""

import io
from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from snac_pipeline.page import MUTED, SERIES, STYLE, svg

PLAIN = ("#1f6fb2", "#b8581a", "#7a4fa3", "#2f7d4f", "#a33a5e", "#6b6f1d")
MOST_POINTS = 300
Draw = Callable[[Axes, Sequence[np.ndarray], Sequence[str], str], None]
"""Axes, an array for each level, their colours, the colour of what is beside them."""


def rank_frequency(axes: Axes, counts: Sequence[np.ndarray], colours: Sequence[str], beside: str) -> None:
    """Share of tokens against frequency rank, both logarithmic; dashed: a uniform codebook."""
    for level, of_level in enumerate(counts):
        used = np.sort(of_level[of_level > 0])[::-1]
        if used.size:
            rank = np.unique(np.geomspace(1, used.size, MOST_POINTS).round().astype(int))
            marker = "." if used.size == 1 else None  # one point draws no line
            share = used[rank - 1] / used.sum()
            axes.plot(rank, share, label=f"level {level}", marker=marker, color=colours[level % len(colours)])
    size = max(of_level.size for of_level in counts)
    axes.axhline(1 / size, color=beside, linestyle="--", linewidth=0.8, label="uniform")
    axes.set(xscale="log", yscale="log", xlabel="rank", ylabel="share of tokens")
    axes.legend(fontsize="small", frameon=False)


def run_lengths(axes: Axes, runs: Sequence[np.ndarray], colours: Sequence[str], beside: str) -> None:
    """Share of tokens in runs of one code that are so long or longer, both logarithmic."""
    for level, of_level in enumerate(runs):
        tokens = of_level * np.arange(of_level.size)
        longer = np.cumsum(tokens[::-1])[::-1][1:]
        used = np.flatnonzero(tokens[1:])
        if used.size:
            share = longer[used] / max(1, longer[0])
            axes.plot(used + 1, share, label=f"level {level}", marker=".", color=colours[level % len(colours)])
    axes.set(xscale="log", yscale="log", xlabel="length of run, tokens", ylabel="share of tokens in such or longer")
    axes.legend(fontsize="small", frameon=False)


def drawing(draw: Draw, values: Sequence[np.ndarray], title: str) -> str:
    """For the report: an SVG element."""
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": title}):
        figure = Figure(figsize=(5.2, 3.2), layout="constrained")
        draw(figure.subplots(), values, SERIES, MUTED)
        return svg(figure, title)


def picture(draw: Draw, values: Sequence[np.ndarray], title: str) -> bytes:
    """For Dagster: a PNG of some 20 kB."""
    figure = Figure(figsize=(5, 3.4), dpi=90, layout="constrained")
    axes = figure.subplots()
    draw(axes, values, PLAIN, "grey")
    axes.set_title(title)
    return _png(figure)


def transitions_png(transitions: Sequence[np.ndarray]) -> bytes:
    """Bigrams by frequency rank, a square for each level: the code before downwards, the code after to the right.

    Colour: how much more often (red) or less often (blue) than if codes followed each other at random, in powers of 2,
    at most 8 times; grey: no such bigram.
    """
    figure = Figure(figsize=(2.1 * len(transitions) + 0.8, 2.4), dpi=90, layout="constrained")
    squares = figure.subplots(1, len(transitions), squeeze=False)[0]
    colours = matplotlib.colormaps["RdBu_r"].with_extremes(bad="#d0d0d0")
    for level, (axes, pairs) in enumerate(zip(squares, transitions, strict=True)):
        expected = pairs.sum(1, keepdims=True) * pairs.sum(0, keepdims=True) / max(1.0, pairs.sum())
        ratio = np.divide(pairs, expected, out=np.zeros_like(pairs), where=pairs > 0)
        times = np.ma.log2(np.ma.masked_equal(ratio, 0))
        image = axes.imshow(times, cmap=colours, vmin=-3, vmax=3, interpolation="nearest")
        axes.set_title(f"level {level}", fontsize=9)
        axes.set(xticks=[], yticks=[])
    figure.colorbar(image, ax=list(squares), ticks=[-3, 0, 3]).ax.set_yticklabels(["1/8", "1", "8"])
    return _png(figure)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
