"""What steps came to, read from the device once in a while and not after every step.

In: the figures of each step, some of them tensors that the device has yet to compute. Out: the same as numbers, in
order. Reading makes the host wait for the device, and the device then for the host. Until it has been read, nothing
of a step is kept, so that no checkpoint has weights of a loss that was not finite.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from snac_pipeline.errors import PipelineError
from snac_pipeline.training.checkpoints import checkpoint_folders
from snac_pipeline.training.plan import Speech
from snac_pipeline.training.slices import Slice


class Taken(NamedTuple):
    """A step that was taken."""

    epoch: int
    step: int
    """Counted from 1."""
    batches: list[list[Slice]]
    figures: dict[str, Any]
    """Numbers, and tensors on the device; `loss` and `gradient_norm` are scalars among them."""


class Readings:
    """The steps of a run that have not been read yet."""

    def __init__(self, run: Path, speech: Speech):
        self.run, self.speech = run, speech
        self.taken: list[Taken] = []

    def note(self, taken: Taken) -> None:
        self.taken.append(taken)

    def read(self) -> Iterator[dict[str, Any]]:
        """Figures, epoch and step of every step noted since the last time, in order.

        Raises PipelineError at the first whose loss or gradients are not finite.
        """
        taken, self.taken = self.taken, []
        for step, figures in zip(taken, _on_the_host([step.figures for step in taken]), strict=True):
            if not math.isfinite(figures["loss"]) or not math.isfinite(figures["gradient_norm"]):
                raise self._not_finite(step)
            yield {**figures, "epoch": step.epoch, "step": step.step}

    def _not_finite(self, taken: Taken) -> PipelineError:
        rows = [item.row for batch in taken.batches for item in batch]
        named = ", ".join(f"{self.speech.digests[row]} ({self.speech.dataset.files[row]})" for row in rows[:8])
        saved = checkpoint_folders(self.run)
        last = f"the last good checkpoint is {saved[-1]}" if saved else "there is no checkpoint yet"
        return PipelineError(
            f"the loss is not finite at step {taken.step} (epoch {taken.epoch + 1}) on "
            f"{named}{f' and {len(rows) - 8} others' if len(rows) > 8 else ''}; {last}; lower the learning rates or "
            "look at these files"
        )


def _on_the_host(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same with numbers, or lists of them, for tensors; each name's tensors come from the device together."""
    names = [name for name, value in steps[0].items() if isinstance(value, Tensor)] if steps else []
    columns = {name: torch.stack([step[name] for step in steps]).tolist() for name in names}
    return [{**step, **{name: columns[name][i] for name in names}} for i, step in enumerate(steps)]
