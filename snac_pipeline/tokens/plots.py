"""Plots of the tokens room, as PNG bytes."""

import io

import numpy as np
from matplotlib.figure import Figure


def rank_frequency_png(counts: dict[int, np.ndarray]) -> bytes:
    """Share of tokens against frequency rank, a curve per level, both axes logarithmic; dashed: a uniform codebook."""
    figure = Figure(figsize=(5, 3.4), dpi=100, layout="constrained")
    axes = figure.subplots()
    for level, of_level in counts.items():
        used = np.sort(of_level[of_level > 0])[::-1]
        if used.size:
            marker = "." if used.size == 1 else None  # one point draws no line
            axes.plot(np.arange(1, used.size + 1), used / used.sum(), label=f"level {level}", marker=marker)
    size = max(of_level.size for of_level in counts.values())
    axes.axhline(1 / size, color="grey", linestyle="--", linewidth=0.8, label="uniform")
    axes.set(xscale="log", yscale="log", xlabel="rank", ylabel="share of tokens", title="Rank and frequency")
    axes.legend(fontsize="small")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
