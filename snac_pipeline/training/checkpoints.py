"""Checkpoints of a run: a folder per saved step, whole or absent, the newest few kept."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from snac_pipeline.codec import SNAC
from snac_pipeline.errors import PipelineError
from snac_pipeline.files import TEMPORARY_PREFIX, atomic_folder


def save_checkpoint(run: Path, step: int, model: SNAC, state: dict[str, Any], keep: int) -> Path:
    """Write weights (safetensors) and `state` (anything torch.save takes) of `step`; drop all but the newest `keep`."""
    folder = run / "checkpoints" / f"step-{step:09d}"
    with atomic_folder(folder) as temporary:  # in the place of one of this step that was damaged
        safetensors.torch.save_file(model.state_dict(), temporary / "model.safetensors")
        torch.save(state, temporary / "state.pt")
    # Only one process saves, so what has a temporary name is what a killed one left.
    for old in [*checkpoint_folders(run)[:-keep], *folder.parent.glob(f"{TEMPORARY_PREFIX}*")]:
        shutil.rmtree(old)
    return folder


def checkpoint_folders(run: Path) -> list[Path]:
    """The run's checkpoints, oldest first."""
    return sorted((run / "checkpoints").glob("step-*"))


def load_newest(run: Path, model: SNAC, on_damaged: Callable[[str], None]) -> dict[str, Any] | None:
    """Load the newest whole checkpoint's weights into `model` and return its state; None where there is no checkpoint.

    What is wrong with a newer one that cannot be read is told to `on_damaged`. Raises PipelineError when none can be.
    """
    folders = checkpoint_folders(run)
    for folder in reversed(folders):
        try:
            weights = safetensors.torch.load_file(folder / "model.safetensors")
            state: dict[str, Any] = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
        except (OSError, EOFError, RuntimeError, pickle.UnpicklingError, safetensors.SafetensorError) as error:
            on_damaged(f"the checkpoint {folder} is damaged ({error}); going back to the one before")
        else:
            model.load_state_dict(weights)
            return state
    if folders:
        raise PipelineError(
            f"no checkpoint of {run} can be read; restore one from a copy, or delete the folder to start again"
        )
    return None
