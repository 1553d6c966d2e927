"""What a run says while it works: to who called it, to its own folder, and to a tracker.

The folder gets log.txt, every sentence with its time, and progress.json, where the run stands, which
`snac-pipeline status` reads. Of several processes only the first says anything.
"""

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from snac_pipeline.files import write_json
from snac_pipeline.training.plan import Plan
from snac_pipeline.training.ranks import Ranks
from snac_pipeline.training.state import Progress
from snac_pipeline.training.tracking import Tracker

OnEvent = Callable[[dict[str, Any]], None]
HISTORY_POINTS = 2000
"""Training losses that a run's history keeps at most, or twice that; it travels in every checkpoint."""
LOG = "log.txt"
PROGRESS = "progress.json"


class Journal:
    """Of one attempt at a run, from its start or from where it was resumed."""

    def __init__(
        self,
        run: Path,
        on_event: OnEvent,
        plan: Plan,
        device: torch.device,
        *,
        tracker: Tracker,
        ranks: Ranks,
        every_seconds: float,
    ):
        self.run, self.on_event, self.plan, self.device = run, on_event, plan, device
        self.tracker, self.ranks, self.every_seconds = tracker, ranks, every_seconds
        self.history_every = max(1, plan.steps // HISTORY_POINTS)
        self.began, self.audio_seconds, self.told = time.monotonic(), 0.0, float("-inf")
        self.began_at = time.time()
        self.first: tuple[float, float] | None = None
        self.latest: dict[str, Any] = {}

    def say(self, message: str, **figures: Any) -> None:
        """A sentence, and figures for programs."""
        if not self.ranks.first:
            return
        with (self.run / LOG).open("a", encoding="utf-8") as log:
            log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {message}\n")
        self.on_event({"message": message, **figures})

    def is_due(self, progress: Progress) -> bool:
        """Whether it is time for words; told by the first process, whose clock counts."""
        late = time.monotonic() - self.told > self.every_seconds
        return self.ranks.first and (late or progress.step == self.plan.steps)

    def stepped(self, progress: Progress, figures: dict[str, Any]) -> None:
        """A step's figures, as Readings.read gives them: into the history."""
        self.audio_seconds += figures["audio_seconds"]
        self.first = self.first or (time.monotonic(), self.audio_seconds)
        self.latest = figures
        step = figures["step"]
        if self.ranks.first and (step % self.history_every == 0 or step == self.plan.steps):
            progress.history.append({name: figures[name] for name in ("step", "epoch", "loss", "rate")})
            self.tracker.log_scalars(step, _followed(figures))

    def tell(self, progress: Progress) -> None:
        """Where the run stands, when that is due; the figures of the last step are the newest that there are."""
        if self.is_due(progress):
            self.told = time.monotonic()
            self._tell(progress, self.latest)

    def measured(self, progress: Progress, figures: dict[str, Any]) -> None:
        """An epoch's held-out losses, by name (val_<rate>), and noise_gain, a list, where the decoder has noise."""
        if not self.ranks.first:
            return
        progress.history.append({"step": progress.step, "epoch": progress.epoch, **figures})
        self.tracker.log_scalars(progress.step, figures)
        words = f"epoch {progress.epoch + 1} of {self.plan.recipe.epochs} done, held-out {in_words(figures)}"
        self.say(words, **figures)

    @property
    def pace(self) -> float:
        """Seconds of audio a second, of this attempt; without its first step, which compiles, once there is another."""
        began, before = self.first if self.first and self.audio_seconds > self.first[1] else (self.began, 0.0)
        return (self.audio_seconds - before) / max(1e-9, time.monotonic() - began)

    def _tell(self, progress: Progress, figures: dict[str, Any]) -> None:
        left = self.plan.audio_seconds_left(progress.epoch, progress.epoch_step) / self.pace
        state = {
            "step": progress.step,
            "steps": self.plan.steps,
            "epoch": progress.epoch + 1,
            "epochs": self.plan.recipe.epochs,
            "loss": figures["loss"],
            "audio_seconds_per_second": self.pace,
            "seconds_left": left,
        }
        memory = torch.cuda.memory_reserved(self.device) if self.device.type == "cuda" else None
        place = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "device": str(self.device),
            "gpu_memory_bytes": memory,
        }
        write_json(self.run / PROGRESS, {**state, **place, "began": self.began_at, "updated": time.time()})
        use = {name: value for name, value in figures.items() if name == "codebook_perplexity"}
        self.say(
            f"step {progress.step}/{self.plan.steps} loss {figures['loss']:.4f}, {self.pace:.1f} s of audio a second, "
            f"{_duration(left)} left",
            **state,
            fraction=progress.step / self.plan.steps,
            **use,
        )


def in_words(figures: dict[str, Any]) -> str:
    """val_24000: 1.0, noise_gain: [0.1, 0.2] -> "24000 Hz: 1.0000, noise gain 0.100 0.200"."""
    words = [f"{name[4:]} Hz: {value:.4f}" for name, value in figures.items() if name.startswith("val_")]
    if gains := figures.get("noise_gain"):
        words.append("noise gain " + " ".join(f"{gain:.3f}" for gain in gains))
    return ", ".join(words)


def _followed(figures: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in figures.items() if name not in ("rate", "audio_seconds", "epoch", "step")}


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
