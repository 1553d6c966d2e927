"""Checkpoints of a run: a folder per saved step, whole or absent, the newest few kept."""

import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from snac_pipeline.codec import SNAC
from snac_pipeline.files import TEMPORARY_PREFIX, atomic_folder


def save_checkpoint(run: Path, step: int, model: SNAC, state: dict[str, Any], keep: int) -> Path:
    """Write weights (safetensors) and `state` (anything torch.save takes) of `step`; drop all but the newest `keep`."""
    folder = run / "checkpoints" / f"step-{step:09d}"
    if not folder.exists():
        with atomic_folder(folder) as temporary:
            safetensors.torch.save_file(model.state_dict(), temporary / "model.safetensors")
            torch.save(state, temporary / "state.pt")
    # Only one process saves, so what has a temporary name is what a killed one left.
    for old in [*checkpoint_folders(run)[:-keep], *folder.parent.glob(f"{TEMPORARY_PREFIX}*")]:
        shutil.rmtree(old)
    return folder


def checkpoint_folders(run: Path) -> list[Path]:
    """The run's checkpoints, oldest first."""
    return sorted((run / "checkpoints").glob("step-*"))


def load_newest(run: Path, model: SNAC) -> dict[str, Any] | None:
    """Load the newest checkpoint's weights into `model` and return its state; None where there is no checkpoint."""
    folders = checkpoint_folders(run)
    if not folders:
        return None
    model.load_state_dict(safetensors.torch.load_file(folders[-1] / "model.safetensors"))
    return torch.load(folders[-1] / "state.pt", map_location="cpu", weights_only=True)
