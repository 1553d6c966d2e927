"""The picture of a training: loss, held-out loss beside where it started, and learning rates, over steps."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from snac_pipeline.files import atomic_file
from snac_pipeline.training.recipe import Recipe


def draw_curve(path: Path, history: list[dict[str, Any]], baseline: dict[int, float], recipe: Recipe) -> None:
    """Write a small PNG of the training loss, the held-out loss per output rate and the learning rate per group."""
    figure, (left, right, rates) = plt.subplots(1, 3, figsize=(11, 2.8), dpi=80, layout="constrained")
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
    for group, points in learning_rates(history, recipe).items():
        rates.plot(*zip(*points, strict=True), linewidth=0.9, label=group)
    rates.set(title="learning rates", xlabel="step", yscale="log")
    rates.legend(frameon=False)
    for axes in (left, right, rates):
        axes.spines[["top", "right"]].set_visible(False)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png")
    plt.close(figure)


def learning_rates(history: list[dict[str, Any]], recipe: Recipe) -> dict[str, list[tuple[int, float]]]:
    """Group -> (step, rate) of the steps that trained it."""
    points: dict[str, list[tuple[int, float]]] = {}
    for entry in (entry for entry in history if "rate" in entry):
        for group, peak in recipe.stage_at(entry["epoch"])[0].learning_rates.items():
            points.setdefault(group, []).append((entry["step"], peak * entry["rate"]))
    return points
