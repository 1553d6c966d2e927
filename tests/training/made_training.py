"""A small home of real speech, thin codecs with their codes, short recipes, and trainings in other processes."""

import copy
import functools
import importlib
import itertools
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import torch
import waiting
import yaml
from ports import free_port

from snac_pipeline.codec import SNAC
from snac_pipeline.codes.fingerprint import encoder_fingerprint
from snac_pipeline.codes.parts import codes_folder
from snac_pipeline.codes.view import build_view
from snac_pipeline.corpus import read_utterances
from snac_pipeline.errors import PipelineError, ProcessLost
from snac_pipeline.settings import load_settings
from snac_pipeline.training import loop
from snac_pipeline.training.ranks import joined
from snac_pipeline.training.recipe import Recipe
from snac_pipeline.training.runs import Inputs, execute_run, plan_run
from snac_pipeline.training.stopping import Interrupted

sys.path.insert(0, str(Path(__file__).parents[1] / "codec"))  # geometries

REPOSITORY = Path(__file__).parents[2]
SPEAKERS = {"spk03": (1, 4), "spk06": (1, 3), "spk10": (1, 3), "spk20": (2, 4), "spk23": (2, 5)}
"""Which examples are used, the shorter ones: ten utterances of 1.3 to 2.3 s at 22.05 kHz."""

NATIVE, DOUBLE = 8_000, 16_000

CODEC: dict[str, Any] = {
    "sampling_rate": NATIVE, "encoder_dim": 4, "encoder_rates": [4, 4, 4], "decoder_dim": 32,
    "decoder_rates": [4, 4, 4], "attn_window_size": None, "codebook_size": 32, "codebook_dim": 4,
    "vq_strides": [4, 2, 1],
}  # fmt: skip
"""A geometry of few samples and little context, so that a step takes some 20 ms."""


@dataclass(frozen=True)
class Home:
    """A folder with pipeline.yaml, scanned and split speech, and the codes of one codec."""

    folder: Path
    codec: Path

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def utterances(self) -> pl.DataFrame:
        return read_utterances(self.work, ["speech"])

    def start(self) -> SNAC:
        return SNAC.from_pretrained(self.codec)

    def inputs(self, recipe: Recipe, **changes: Any) -> Inputs:
        """What `steps.training` gives a recipe."""
        if recipe.codec is not None:
            return Inputs(self.utterances, **changes)
        start = self.start()
        codes = None if recipe.trains_codes else encoder_fingerprint(start)
        return Inputs(**{"utterances": self.utterances, "start": start, "codes_fingerprint": codes, **changes})

    def view(self, recipe: Recipe) -> Path:
        """The view of the codes of all utterances, of the codec that a recipe starts from."""
        codes = codes_folder(self.work, self.inputs(recipe).codes_fingerprint)
        return build_view(self.work, codes, self.utterances["digest"].to_list(), self.start().spec)

    def copy(self, folder: Path) -> "Home":
        """The same data with runs of its own."""
        shutil.copytree(self.work, folder / "work", ignore=shutil.ignore_patterns("runs"))
        shutil.copy(self.folder / "pipeline.yaml", folder)
        return Home(folder, self.codec)

    def plan(self, recipe: Recipe, **changes: Any):
        return plan_run(recipe, self.inputs(recipe, **changes), self.work)

    def train(self, recipe: Recipe, on_event: Callable = lambda event: None, **changes: Any) -> dict[str, Any]:
        """Train in this process."""
        return execute_run(self.plan(recipe, **changes), "cpu", on_event)


def make_home(folder: Path, codec: SNAC) -> Home:
    """Scan, split and encode as the command line does."""
    from snac_pipeline.steps.codes import cache
    from snac_pipeline.steps.corpus import scan_corpus, split_corpora

    for speaker, numbers in SPEAKERS.items():
        for number in numbers:
            name = f"{speaker}/{speaker}_{number}.flac"
            (folder / "speech" / speaker).mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / "examples" / "speech" / name, folder / "speech" / name)
    codec.save_pretrained(folder / "codec")
    settings = {
        "home": "work",
        "corpora": {"speech": {"path": str(folder / "speech"), "speaker": "{speaker}/*"}},
        "split": {"val": 0.3},
        "base_codec": {"source": str(folder / "codec")},
        "devices": ["cpu"],
        "caching": {"processes": 1, "verify": 4},
        "training": {"decoders": {"decoder_24khz": {"recipe": "recipe.yaml"}}},
    }
    (folder / "pipeline.yaml").write_text(yaml.safe_dump(settings))
    loaded = load_settings(folder / "pipeline.yaml")
    scan_corpus(loaded, "speech", None, lambda event: None)
    split_corpora(loaded)
    cache(loaded, ["speech"], True, lambda event: None)
    return Home(folder, folder / "codec")


# ---- recipes -------------------------------------------------------------------------------------------------------

PHASE10: dict[str, Any] = {
    "phase": "phase10",
    "heads": {"native": {"n_ffts": [64, 256]}},
    "stages": [{"name": "main", "epochs": 3, "learning_rates": {"trunk": 1e-3, "native_head": 1e-3}}],
    "curriculum": [{"epochs": 1, "seconds": 0.25, "batch_multiplier": 2}, {"epochs": 2, "seconds": 0.5}],
    "batch_size": 4,
    "losses": {"l1": 1.0, "magnitude": 1.0, "log_magnitude": 0.1},
    "validation": {"utterances": 3, "seconds": 1.0},
    "compile": False,
}

PHASE12: dict[str, Any] = {
    **PHASE10,
    "phase": "phase12",
    "heads": {"native": {"weight": 0.3, "n_ffts": [64, 256]}, "double": {"n_ffts": [64, 512]}},
    "detach_native": True,
    "stages": [
        {"name": "warm-up", "epochs": 1, "learning_rates": {"double_head": 2e-3}, "schedule": "constant",
         "head_weights": {"native": 0.0, "double": 1.0}},
        {"name": "main", "epochs": 2, "schedule": "onecycle",
         "learning_rates": {"trunk": 1e-3, "double_head": 2e-3, "native_head": 5e-4}},
    ],
}  # fmt: skip

SCRATCH: dict[str, Any] = {
    **PHASE10,
    "phase": "scratch",
    "codec": CODEC,
    "stages": [{"name": "main", "epochs": 3, "warmup_steps": 2, "learning_rates": dict.fromkeys(
        ("encoder", "quantizer", "trunk", "native_head"), 1e-3)}],
    "context_frames": 0,
    "codebooks": {"start_step": 4, "restart_every": 3},
}  # fmt: skip


def recipe_of(content: dict[str, Any], **changes: Any) -> Recipe:
    return Recipe.model_validate({**copy.deepcopy(content), **changes})


# ---- trainings in processes of their own ---------------------------------------------------------------------------

# Children are forked from a server that has imported the library once and has no threads.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["snac_pipeline.training.runs", "snac_pipeline.corpus", "torch._dynamo"])

INTERRUPTED, REFUSED, LOST = 17, 18, 19


@dataclass(frozen=True)
class Child:
    """How a training in a process of its own behaves."""

    hold_at: int | None = None
    """It waits to be killed when this step is done."""
    group: bool = False
    """It leads a process group."""
    dies_in: tuple[str, str, int] | None = None
    """Module, function and number of the call of it whose half is done when the process kills itself."""
    place: dict[str, str] | None = None
    """torchrun's environment, for one of several processes that train together."""


def start_training(home: Home, content: dict[str, Any], **behaviour: Any):
    """Train `content` on `home` in a new process that behaves as a `Child` does."""
    child = processes.Process(target=_train, args=(home, content, Child(**behaviour)))
    child.start()
    return child


def places_of(world: int) -> list[dict[str, str]]:
    """What torchrun tells each of its processes, of one machine, by its environment."""
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    common |= {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]


def start_together(home: Home, content: dict[str, Any], world: int = 2, lost_at: int | None = None) -> list:
    """The same in several processes that train together as torchrun would start them.

    lost_at: the last of them kills itself in this step.
    """
    dies = [None] * (world - 1) + [("torch.nn.utils", "clip_grad_norm_", lost_at) if lost_at else None]
    return [
        start_training(home, content, place=place, dies_in=d) for place, d in zip(places_of(world), dies, strict=True)
    ]


def _train(home: Home, content: dict[str, Any], child: Child) -> None:
    def on_event(event: dict[str, Any]) -> None:
        if "fraction" in event and event["step"] == child.hold_at:
            time.sleep(600)

    loop.LOG_SECONDS = 0.0 if child.dies_in is None else 1e9  # who is killed has steps that were not read yet
    if child.group:
        os.setpgrp()
    if child.dies_in is not None:
        _die_in(*child.dies_in)
    os.environ.update(child.place or {})
    torch.set_num_threads(1)
    try:
        with joined(["cpu"] * int(os.environ.get("WORLD_SIZE", 1))) as (ranks, device):
            execute_run(home.plan(recipe_of(content)), device, on_event, ranks=ranks)
    except Interrupted:
        os._exit(INTERRUPTED)
    except ProcessLost:
        os._exit(LOST)
    except PipelineError as error:
        print(error, file=sys.stderr)
        os._exit(REFUSED)


def _die_in(module: str, name: str, call: int) -> None:
    """Let the process kill itself in the middle of a call: what it writes, or removes, is half there."""
    real, calls = getattr(importlib.import_module(module), name), itertools.count(1)

    def half(*args: Any, **kwargs: Any) -> Any:
        nothing_there = name == "rmtree" and not Path(args[0]).exists()
        if nothing_there or next(calls) < call:
            return real(*args, **kwargs)
        if name == "rmtree":
            next(file for file in Path(args[0]).rglob("*") if file.is_file()).unlink()
        else:
            real(*args, **kwargs)
            for file in (Path(arg) for arg in args if isinstance(arg, str | Path)):
                os.truncate(file, file.stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(importlib.import_module(module), name, half)


wait_for = functools.partial(waiting.wait_for, every=0.001)
"""What a training does is over in milliseconds."""


def steps_saved(run: Path) -> list[int]:
    """Steps of the checkpoints in a run folder."""
    return sorted(int(folder.name.removeprefix("step-")) for folder in run.glob("checkpoints/step-*"))
