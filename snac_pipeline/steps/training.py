"""From the settings' decoders to runs."""

from pathlib import Path
from typing import Any

from snac_pipeline.codec import SNAC
from snac_pipeline.corpus import read_utterances
from snac_pipeline.engine.devices import find_devices
from snac_pipeline.errors import PipelineError
from snac_pipeline.settings import Settings
from snac_pipeline.steps.codes import base_codec, cached_utterances, codes_fingerprint
from snac_pipeline.steps.corpus import OnEvent
from snac_pipeline.steps.restoring import restored_folder
from snac_pipeline.training.recipe import load_recipe
from snac_pipeline.training.runs import Inputs, Run, execute_run, plan_run


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


def train(settings: Settings, what: str, on_event: OnEvent) -> dict[str, Any]:
    """Train a decoder of the settings by its name, or a recipe by its path."""
    is_file = what.endswith((".yaml", ".yml"))
    run = recipe_run(settings, Path(what)) if is_file else decoder_run(settings, what)
    left_out = len(read_utterances(settings.home, list(settings.corpora))) - len(run.inputs.utterances)
    return {**execute_run(run, find_devices(settings.devices)[0], on_event), "left_out": left_out}


def decoder_results(settings: Settings) -> dict[str, dict[str, Any] | None]:
    """Result of every decoder of the settings, None where it is not trained yet."""
    results: dict[str, dict[str, Any] | None] = {}
    for name, options in settings.training.decoders.items():
        starts_untrained = options.starts_from != "base_codec" and (
            decoder_run(settings, options.starts_from).result() is None
        )
        results[name] = None if starts_untrained else decoder_run(settings, name).result()
    return results
