"""Where a training's figures and sounds can be followed: TensorBoard, Weights & Biases, MLflow or trackio.

One small interface; a package is imported only when its tracker is chosen (`training.tracker` in pipeline.yaml).
"""

import importlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import soundfile

from snac_pipeline.errors import PipelineError
from snac_pipeline.files import write_text
from snac_pipeline.settings import TrackerName

PROJECT = "snac-pipeline"


class Tracker(Protocol):
    """What the loop tells."""

    def log_scalars(self, step: int, figures: dict[str, Any]) -> None:
        """Numbers, or lists of numbers, by name."""

    def log_audio(self, step: int, name: str, audio: np.ndarray, rate: int) -> None:
        """Samples (T,) between -1 and 1 at `rate` Hz."""

    def close(self) -> None:
        """Nothing more will come of this attempt at the run."""


class NoTracker:
    """Follows nothing."""

    def log_scalars(self, step: int, figures: dict[str, Any]) -> None: ...

    def log_audio(self, step: int, name: str, audio: np.ndarray, rate: int) -> None: ...

    def close(self) -> None: ...


def open_tracker(name: TrackerName, run: Path, facts: dict[str, Any]) -> Tracker:
    """The tracker called `name` for a run folder; a run that is resumed goes on in the same place.

    facts: what the run depends on, to be shown beside it. Raises PipelineError when the tracker's package is missing.
    """
    return _TRACKERS[name](run, facts) if name != "none" else NoTracker()


class TensorBoard:
    """Event files in <run>/tensorboard."""

    def __init__(self, run: Path, facts: dict[str, Any]):
        _package("tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(run / "tensorboard"))

    def log_scalars(self, step: int, figures: dict[str, Any]) -> None:
        for name, value in _flat(figures).items():
            self.writer.add_scalar(name, value, step)

    def log_audio(self, step: int, name: str, audio: np.ndarray, rate: int) -> None:
        self.writer.add_audio(name, audio[None], step, rate)

    def close(self) -> None:
        self.writer.close()


class WandB:
    """A run of Weights & Biases, called as the run folder; a login and a server are wandb's own affair."""

    def __init__(self, run: Path, facts: dict[str, Any]):
        self.wandb = _package("wandb")
        self.run = self.wandb.init(
            project=PROJECT, id=run.name, name=run.name, dir=str(run), resume="allow", config=facts
        )

    def log_scalars(self, step: int, figures: dict[str, Any]) -> None:
        self.run.log(_flat(figures), step=step)

    def log_audio(self, step: int, name: str, audio: np.ndarray, rate: int) -> None:
        self.run.log({name: self.wandb.Audio(audio, sample_rate=rate)}, step=step)

    def close(self) -> None:
        self.run.finish()


class MLflow:
    """A run of MLflow; its id is kept in <run>/mlflow_run_id, since names are not unique there."""

    def __init__(self, run: Path, facts: dict[str, Any]):
        self.mlflow = _package("mlflow")
        self.mlflow.set_experiment(PROJECT)
        file = run / "mlflow_run_id"
        known = file.read_text(encoding="utf-8") if file.exists() else None
        active = self.mlflow.start_run(run_id=known, run_name=None if known else run.name)
        if known is None:
            write_text(file, active.info.run_id)
            self.mlflow.log_dict(facts, "inputs.json")

    def log_scalars(self, step: int, figures: dict[str, Any]) -> None:
        self.mlflow.log_metrics(_flat(figures), step=step)

    def log_audio(self, step: int, name: str, audio: np.ndarray, rate: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"step-{step:09d}.wav"
            soundfile.write(file, audio, rate)
            self.mlflow.log_artifact(str(file), artifact_path=name)

    def close(self) -> None:
        self.mlflow.end_run()


class Trackio:
    """A run of trackio, called as the run folder."""

    def __init__(self, run: Path, facts: dict[str, Any]):
        self.trackio = _package("trackio")
        self.trackio.init(project=PROJECT, name=run.name, resume="allow", config=facts)

    def log_scalars(self, step: int, figures: dict[str, Any]) -> None:
        self.trackio.log(_flat(figures), step=step)

    def log_audio(self, step: int, name: str, audio: np.ndarray, rate: int) -> None:
        samples = (np.clip(audio, -1, 1) * 32767).astype(np.int16)
        self.trackio.log({name: self.trackio.Audio(samples, sample_rate=rate)}, step=step)

    def close(self) -> None:
        self.trackio.finish()


_TRACKERS: dict[str, Callable[[Path, dict[str, Any]], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "mlflow": MLflow,
    "trackio": Trackio,
}


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise PipelineError(
            f"`training.tracker` is {name}, but the package {name} is not installed; install it "
            f"(pip install {name}), or set the tracker to none"
        ) from error


def _flat(figures: dict[str, Any]) -> dict[str, float]:
    """Lists become numbered names."""
    flat = {}
    for name, value in figures.items():
        if isinstance(value, list):
            flat.update({f"{name}/{i}": float(item) for i, item in enumerate(value)})
        else:
            flat[name] = float(value)
    return flat
