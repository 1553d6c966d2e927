"""Everything that the next step of a training depends on, and how it gets into a checkpoint and back."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from snac_pipeline.codec import SNAC
from snac_pipeline.training.averaging import Average
from snac_pipeline.training.checkpoints import load_newest, save_checkpoint
from snac_pipeline.training.codebooks import CodebookCare
from snac_pipeline.training.model import build_optimizer, group_of
from snac_pipeline.training.ranks import Ranks
from snac_pipeline.training.recipe import Recipe, Stage
from snac_pipeline.training.schedules import learning_rate_factor


@dataclass
class Progress:
    """Where the loop stands."""

    epoch: int = 0
    epoch_step: int = 0
    """Steps of the epoch that are done."""
    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    stages: list[dict[str, Any]] = field(default_factory=list)
    """What the spans of the curriculum that are done have gained; see baselines.py."""
    best: dict[str, Any] | None = None
    """Epoch, step and held-out loss of the best model so far, which is in best/."""


class Training:
    """A model with its optimizer, averages and codebooks, and the training's progress."""

    def __init__(self, recipe: Recipe, model: SNAC, ranks: Ranks):
        self.recipe, self.model, self.ranks = recipe, model, ranks
        self.device = next(model.parameters()).device
        self.optimizer = build_optimizer(recipe, model)
        self.care = CodebookCare(model, recipe.codebooks)
        trained = {group["name"] for group in self.optimizer.param_groups}
        averaged = {name: p for name, p in model.named_parameters() if group_of(name, model) in trained}
        self.average = Average(averaged, recipe.ema)
        self.progress = Progress()
        self.saved = time.monotonic()

    def set_rates(self, stage: Stage, step: int, steps: int) -> float:
        """Set every group's learning rate for `step` of the stage's `steps`; the schedule's factor."""
        factor = learning_rate_factor(stage, step, steps)
        for group in self.optimizer.param_groups:
            group["lr"] = stage.learning_rates.get(group["name"], 0.0) * factor
        return factor

    def tend_codebooks(self, steps: int) -> None:
        """Start codebooks or move codes when it is time; the same in every process."""
        if self.care.tend(self.progress.step, steps):
            self.ranks.copy_from_first(self.model.quantizer.parameters())
            self.average.restart("quantizer.")

    def figures(self) -> dict[str, Any]:
        """What else of a step is worth a curve: numbers, and tensors that are still on the device."""
        rates = {f"learning_rate_{group['name']}": group["lr"] for group in self.optimizer.param_groups}
        return {**rates, "codebook_perplexity": self.care.perplexity()} if self.recipe.trains_codes else rates

    def is_due(self) -> bool:
        """Whether the recipe's cadence asks for a checkpoint; told by the first process, whose clock counts."""
        cadence, minutes = self.recipe.checkpoints, (time.monotonic() - self.saved) / 60
        by_steps = cadence.every_steps is not None and self.progress.step % cadence.every_steps == 0
        return self.ranks.first and (by_steps or minutes > cadence.every_minutes)

    def save(self, run: Path) -> None:
        """Write a checkpoint; every process takes part."""
        cuda = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        state = {
            "codebooks": self.care.state(),
            "progress": vars(self.progress),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state(),
            "random": self.ranks.gather((torch.get_rng_state(), cuda)),
        }
        keep = self.recipe.checkpoints.keep
        self.ranks.first_does(lambda: save_checkpoint(run, self.progress.step, self.model, state, keep))
        self.saved = time.monotonic()

    def resume(self, run: Path, say: Callable[..., None]) -> None:
        """Go back to the newest whole checkpoint, or begin: seed the random numbers."""
        state = load_newest(run, self.model, say)
        if state is None:
            torch.manual_seed(self.recipe.seed + self.ranks.rank)
            return
        self.progress = Progress(**state["progress"])
        for saved, here in zip(state["optimizer"]["param_groups"], self.optimizer.param_groups, strict=True):
            saved["fused"] = here["fused"]  # as this device has it, not the one that the checkpoint is from
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.load_state(state["average"])
        self.care.load_state(state["codebooks"])
        if self.ranks.rank < len(state["random"]):
            random, cuda = state["random"][self.ranks.rank]
            torch.set_rng_state(random)
            if cuda is not None and self.device.type == "cuda":
                torch.cuda.set_rng_state(cuda, self.device)
        else:  # one process more than before
            torch.manual_seed(hash((self.recipe.seed, self.ranks.rank, self.progress.step)))
        say(f"resuming at step {self.progress.step}", step=self.progress.step)
