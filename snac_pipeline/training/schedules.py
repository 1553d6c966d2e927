"""Learning rates as pure functions of progress, so that a resumed run cannot have another one."""

import math

from snac_pipeline.training.recipe import Stage

ONECYCLE_RISE, ONECYCLE_START, ONECYCLE_END = 0.3, 1 / 25, 1 / 250_000
"""The defaults of torch.optim.lr_scheduler.OneCycleLR: pct_start, 1 / div_factor, start / final_div_factor."""


def learning_rate_factor(stage: Stage, step: int, steps: int) -> float:
    """What every group's own rate is multiplied with at `step` (from 0) of the stage's `steps`."""
    if stage.schedule == "onecycle":
        return _onecycle(step, steps)
    if step < stage.warmup_steps:
        return (step + 1) / stage.warmup_steps
    if stage.schedule == "constant":
        return 1.0
    progress = (step - stage.warmup_steps) / max(1, steps - 1 - stage.warmup_steps)
    return _cosine(1.0, stage.final_fraction, progress)


def _onecycle(step: int, steps: int) -> float:
    top = ONECYCLE_RISE * steps - 1
    if step <= top:
        return _cosine(ONECYCLE_START, 1.0, step / top)
    return _cosine(1.0, ONECYCLE_END, (step - top) / max(1e-9, steps - 1 - top))


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, max(0.0, progress)))) / 2
