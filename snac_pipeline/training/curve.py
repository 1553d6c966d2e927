"""The picture of a training: loss over steps, and the held-out loss beside where it started."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from snac_pipeline.files import atomic_file


def draw_curve(path: Path, history: list[dict[str, Any]], baseline: dict[int, float]) -> None:
    """Write a small PNG of the training loss (left) and the held-out loss per output rate (right)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.8), dpi=80, layout="constrained")
    steps = [entry for entry in history if "loss" in entry]
    left.plot([e["step"] for e in steps], [e["loss"] for e in steps], linewidth=0.6, color="#4477aa")
    left.set(title="training loss", xlabel="step")
    for (rate, start), color in zip(sorted(baseline.items()), ("#228833", "#aa3377"), strict=False):
        measured = [(e["step"], e[f"val_{rate}"]) for e in history if f"val_{rate}" in e]
        points = [(0, start), *measured]
        right.plot(*zip(*points, strict=True), marker=".", color=color, label=f"{rate / 1000:g} kHz")
        right.axhline(start, color=color, linestyle=":", linewidth=0.8)
    right.set(title="held-out loss (dotted: before training)", xlabel="step")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png")
    plt.close(figure)
