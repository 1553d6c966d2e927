"""From the settings' decoders to runs."""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from snac_pipeline.codec import SNAC
from snac_pipeline.corpus import read_utterances
from snac_pipeline.engine.child import ChildFailed, run_child
from snac_pipeline.engine.devices import find_devices
from snac_pipeline.errors import PipelineError
from snac_pipeline.settings import Settings
from snac_pipeline.steps.codes import base_codec, cached_utterances, codes_fingerprint
from snac_pipeline.steps.corpus import OnEvent
from snac_pipeline.steps.restoring import restored_folder
from snac_pipeline.training.ranks import joined, started_by_torchrun
from snac_pipeline.training.recipe import load_recipe
from snac_pipeline.training.runs import Inputs, Run, check_resumable, execute_run, plan_run


def decoder_run(settings: Settings, name: str) -> Run:
    """The run of one decoder of the settings.

    Raises PipelineError when there is no such decoder, or when the one it starts from is not trained yet.
    """
    if name not in settings.training.decoders:
        raise PipelineError(f"no decoder is called {name!r}; pipeline.yaml has {', '.join(settings.training.decoders)}")
    options = settings.training.decoders[name]
    start = None
    if options.starts_from != "base_codec":
        before = decoder_run(settings, options.starts_from).result()
        if before is None:
            raise PipelineError(f"{name} starts from {options.starts_from}, which is not trained yet; train it first")
        start = SNAC.from_pretrained(before["model"])
    return recipe_run(settings, options.recipe, start)


def recipe_run(settings: Settings, recipe_file: Path, start: SNAC | None = None) -> Run:
    """The run of a recipe, from `start` or else the base codec; a recipe with a codec of its own starts from none."""
    recipe = load_recipe(recipe_file, settings.training.overlay)
    if recipe.codec is not None:
        utterances, codes = read_utterances(settings.home, list(settings.corpora)), None
    else:
        base, _ = base_codec(settings)
        start = start or base
        utterances = cached_utterances(settings, base).utterances
        codes = None if recipe.trains_codes else codes_fingerprint(settings, base)
    inputs = Inputs(
        utterances,
        start,
        codes,
        codes_precision=settings.caching.precision,
        limit=settings.training.limit,
        restored=restored_folder(settings) if recipe.targets == "restored" else None,
    )
    return plan_run(recipe, inputs, settings.home)


def planned_run(settings: Settings, what: str) -> Run:
    """The run of a decoder of the settings by its name, or of a recipe by its path."""
    is_file = what.endswith((".yaml", ".yml"))
    return recipe_run(settings, Path(what)) if is_file else decoder_run(settings, what)


def train(settings: Settings, what: str, on_event: OnEvent, *, resume: bool = False) -> dict[str, Any]:
    """Train a decoder of the settings by its name, or a recipe by its path, on all of the settings' devices.

    Several devices are several processes of torch.distributed.run; a process that it started, from here or on one of
    many machines, takes its device and trains with the others. A run that was begun is gone on with; `resume` demands
    that there is one.
    """
    devices = find_devices(settings.devices)
    if len(devices) > 1 and not started_by_torchrun():
        if resume:
            check_resumable(planned_run(settings, what))
        return _train_in_processes(settings, what, devices, on_event)
    with joined(devices) as (ranks, device):
        run = planned_run(settings, what)
        if resume:
            check_resumable(run)
        left_out = len(read_utterances(settings.home, list(settings.corpora))) - len(run.inputs.utterances)
        result = execute_run(run, device, on_event, tracker=settings.training.tracker, ranks=ranks)
        return {**result, "left_out": left_out}


def _train_in_processes(settings: Settings, what: str, devices: Sequence[str], on_event: OnEvent) -> dict[str, Any]:
    """`train` in one process per device; the first one's events and result."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pipeline.yaml"
        file.write_text(yaml.safe_dump(settings.model_dump(mode="json")), encoding="utf-8")
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={len(devices)}"]
        command = ["-m", "snac_pipeline.cli", "train", what, "--settings", str(file), "--json"]
        try:
            return run_child([*launcher, *command], on_event)
        except ChildFailed as failed:
            if not str(failed).startswith("`"):  # a sentence of one of the processes
                raise
            raise ChildFailed(
                f"one of the {len(devices)} processes of this training was lost ({failed}); its last lines may say "
                "why; run it again to go on from the last checkpoint",
                failed.tail,
            ) from None


def decoder_results(settings: Settings) -> dict[str, dict[str, Any] | None]:
    """Result of every decoder of the settings, None where it is not trained yet."""
    results: dict[str, dict[str, Any] | None] = {}
    for name, options in settings.training.decoders.items():
        starts_untrained = options.starts_from != "base_codec" and (
            decoder_run(settings, options.starts_from).result() is None
        )
        results[name] = None if starts_untrained else decoder_run(settings, name).result()
    return results
