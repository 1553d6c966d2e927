"""From the settings' decoders to runs.

A decoder is a name; which run it is now is kept in <home>/decoders/<name>.json, written when a training of it is done.
"""

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
from snac_pipeline.files import read_json, value_digest, write_json
from snac_pipeline.settings import DEVICES_VARIABLE, DecoderSettings, Settings
from snac_pipeline.steps.codes import base_codec, cached_utterances, codes_fingerprint
from snac_pipeline.steps.corpus import OnEvent
from snac_pipeline.steps.restoring import restored_folder
from snac_pipeline.training.ranks import joined, started_by_torchrun
from snac_pipeline.training.recipe import Recipe, load_recipe
from snac_pipeline.training.runs import Inputs, Run, check_resumable, execute_run, plan_run


def decoder_run(settings: Settings, name: str) -> Run:
    """The run that a decoder of the settings is now.

    That is the one last trained under its name, with whatever recipe, while the speech and the codec that it would
    start from are still the same; else that of the settings' recipe.
    Raises PipelineError when there is no such decoder, or when the one it starts from is not trained yet.
    """
    recipe, last = decoder_recipe(settings, name), _last_run(settings, name)
    if last is not None:
        try:
            trained_by = load_recipe(last / "recipe.yaml")
        except PipelineError as error:
            raise PipelineError(
                f"{name} was trained by a recipe of another version; train it again ({error})"
            ) from error
        if trained_by.identity() != recipe.identity():
            run = _run_by(settings, name, trained_by)
            if run.folder == last:
                return run
    return _run_by(settings, name, recipe)


def decoder_recipe(settings: Settings, name: str) -> Recipe:
    """The settings' recipe of a decoder, with their overlay; PipelineError when no decoder has the name."""
    return load_recipe(_options_of(settings, name).recipe, settings.training.overlay)


def _options_of(settings: Settings, name: str) -> DecoderSettings:
    if name not in settings.training.decoders:
        raise PipelineError(f"no decoder is called {name!r}; the settings have {', '.join(settings.training.decoders)}")
    return settings.training.decoders[name]


def _run_by(settings: Settings, name: str, recipe: Recipe) -> Run:
    """The run of a decoder with `recipe`, from what the settings say it starts from."""
    options = _options_of(settings, name)
    start = None
    if options.starts_from != "base_codec":
        before = decoder_run(settings, options.starts_from).result()
        if before is None:
            raise PipelineError(f"{name} starts from {options.starts_from}, which is not trained yet; train it first")
        start = SNAC.from_pretrained(before["model"])
    return recipe_run(settings, recipe, start)


def recipe_run(settings: Settings, recipe: Recipe, start: SNAC | None = None) -> Run:
    """The run of a recipe, from `start` or else the base codec; a recipe with a codec of its own starts from none."""
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


def planned_run(settings: Settings, what: str, recipe_file: Path | None = None) -> Run:
    """What `train` would train."""
    if _is_recipe(what):
        if recipe_file is not None:
            raise PipelineError(f"--recipe is for a decoder of the settings, but {what} is a recipe itself")
        return recipe_run(settings, load_recipe(what, settings.training.overlay))
    recipe = decoder_recipe(settings, what)
    return _run_by(settings, what, recipe if recipe_file is None else load_recipe(recipe_file))


def train(
    settings: Settings, what: str, on_event: OnEvent, recipe_file: Path | None = None, *, resume: bool = False
) -> dict[str, Any]:
    """Train a decoder of the settings by its name, or a recipe by its path, on all of the settings' devices.

    Several devices are several processes of torch.distributed.run; a process that it started, from here or on one of
    many machines, takes its device and trains with the others. A run that was begun is gone on with; `resume` demands
    that there is one. recipe_file: a whole recipe to train the decoder by, this time, in place of that of the settings
    and their overlay.
    The result also has left_out, how many utterances have no codes, recipe_digest, the picture `samples`, and for a
    decoder changed_since_last: what differs from the run that it was before, as "recipe.batch_size"; None where there
    was none.
    """
    devices = find_devices(settings.devices)
    if len(devices) > 1 and not started_by_torchrun():
        if resume:
            check_resumable(planned_run(settings, what, recipe_file))
        return _train_in_processes(settings, what, recipe_file, devices, on_event)
    with joined(devices) as (ranks, device):
        run = planned_run(settings, what, recipe_file)
        if resume:
            check_resumable(run)
        trained = execute_run(run, device, on_event, tracker=settings.training.tracker, ranks=ranks)
        noted = ranks.first_does(lambda: _note(settings, what, run))
        left_out = len(read_utterances(settings.home, list(settings.corpora))) - len(run.inputs.utterances)
        return {**trained, **noted, "recipe_digest": value_digest(run.recipe.identity()), "left_out": left_out}


def _note(settings: Settings, what: str, run: Run) -> dict[str, Any]:
    """Draw the samples of a finished run, and let it be the decoder from now on; what that adds to the result."""
    samples = run.folder / "samples.png"
    if not samples.exists():
        from snac_pipeline.steps.samples import draw_samples  # a second that a finished run need not wait

        draw_samples(run, samples)
    if _is_recipe(what):
        return {"samples": str(samples)}
    last = _last_run(settings, what)
    write_json(_record(settings, what), {"run": run.folder.name})
    changed = None if last is None else _differences(read_json(last / "inputs.json"), run.facts)
    return {"samples": str(samples), "changed_since_last": changed}


def _train_in_processes(
    settings: Settings, what: str, recipe_file: Path | None, devices: Sequence[str], on_event: OnEvent
) -> dict[str, Any]:
    """`train` in one process per device; the first one's events and result."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pipeline.yaml"
        file.write_text(yaml.safe_dump(settings.model_dump(mode="json")), encoding="utf-8")
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={len(devices)}"]
        command = ["-m", "snac_pipeline.cli", "train", what, "--settings", str(file), "--json"]
        if recipe_file is not None:
            command += ["--recipe", str(recipe_file)]
        try:
            return run_child([*launcher, *command], on_event, env={DEVICES_VARIABLE: ""})  # they are in the file
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


def _is_recipe(what: str) -> bool:
    return what.endswith((".yaml", ".yml"))


def _record(settings: Settings, name: str) -> Path:
    return settings.home / "decoders" / f"{name}.json"


def _last_run(settings: Settings, name: str) -> Path | None:
    """Folder of the run that was last trained as the decoder, if it is still there."""
    if not _record(settings, name).exists():
        return None
    folder = settings.home / "runs" / read_json(_record(settings, name))["run"]
    return folder if (folder / "result.json").exists() else None


def _differences(before: Any, now: Any, place: str = "") -> list[str]:
    """Where two nested mappings differ, as "recipe.batch_size"."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return [] if before == now else [place.removeprefix(".")]
    keys = [*before, *(key for key in now if key not in before)]
    return [found for key in keys for found in _differences(before.get(key), now.get(key), f"{place}.{key}")]
