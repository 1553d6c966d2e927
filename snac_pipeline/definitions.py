"""The composition root: settings -> assets, resources, jobs and schedules. The only module here that knows Dagster.

`defs` is what Dagster loads, from $SNAC_PIPELINE_SETTINGS or ./pipeline.yaml. Importing it imports no torch.
"""

import functools
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

warnings.filterwarnings("ignore", category=dg.BetaWarning)  # partitioned observation and backfill policies are "beta"

from assets import all_assets, collect_garbage, failure_notices, looking, policies  # noqa: E402
from resources import PipelineResource, console_logger, one_process_executor  # noqa: E402
from snac_pipeline.errors import PipelineError  # noqa: E402
from snac_pipeline.settings import Settings, load_settings, settings_path  # noqa: E402
from snac_pipeline.training.recipe import Recipe, load_recipe  # noqa: E402

CORPUS = ["manifest", "quarantine", "splits"]
CODES = ["base_codec", "code_cache"]
TOKENS = ["token_statistics", "token_sequences", "bpe_tokenizer"]
TRAINING = {"train_phase10": "decoder_24khz", "train_phase11": "decoder_48khz", "train_phase12": "decoder_dual_head"}

Job = dg.JobDefinition | UnresolvedAssetJobDefinition

RESTORING = "Make 48 kHz audio of the recordings that have none yet."


def build_defs(
    settings_file: str | Path | None = None, resource_overrides: Mapping[str, Any] | None = None
) -> dg.Definitions:
    """Everything, for one settings file. Raises PipelineError for settings that cannot be used."""
    file = settings_path(settings_file).resolve()
    settings = load_settings(file)
    recipes: dict[str, Recipe] = {  # wrong ones are refused now, not hours later
        name: load_recipe(decoder.recipe, settings.training.overlay)
        for name, decoder in settings.training.decoders.items()
    }
    for name, recipe in recipes.items():
        if recipe.targets == "restored" and settings.restorer.source is None:
            raise PipelineError(f"{file}: the targets of {name} are `restored`; name a restorer in `restorer.source`")
    options = settings.automation
    return dg.Definitions(
        assets=all_assets(settings, recipes),
        jobs=_jobs(settings),
        schedules=[looking.schedule(options.schedule, options)] if options.schedule is not None else [],
        sensors=[
            *([looking.sensor(options)] if options.watch else []),
            policies.sensor(options),
            *failure_notices(settings.notifications),
        ],
        resources={"pipeline": _without_config(PipelineResource(str(file))), **(resource_overrides or {})},
        loggers={"console": console_logger},
        executor=one_process_executor,
    )


def _without_config(resource: PipelineResource) -> dg.ResourceDefinition:
    """A resource that the Launchpad has nothing to say about: another settings file is not the one of the graph."""
    return dg.ResourceDefinition(lambda _: resource, config_schema={}, description=type(resource).__doc__)


def _jobs(settings: Settings) -> list[Job]:
    decoders = settings.training.decoders
    by_corpus = functools.partial(_job, corpora=list(settings.corpora))
    return [
        by_corpus(
            "pipeline", _EVERYTHING, "Everything, from the folders of audio to the report; nothing is done twice."
        ),
        _job("observe_audio", _assets("audio"), "See whether recordings changed, without opening any."),
        by_corpus("prepare_corpus", _assets("audio", *CORPUS), "Scan the corpora and split their speakers."),
        by_corpus("cache_codes", _assets(*CODES), "Encode the recordings that have no codes yet."),
        by_corpus("refresh_codes", _assets("audio", *CORPUS, *CODES), "See what changed, scan it, encode what is new."),
        *(
            _job(name, _assets(decoder), f"Train {decoder} with {decoders[decoder].recipe.name}.")
            for name, decoder in TRAINING.items()
            if decoder in decoders
        ),
        *([_job("restore_audio", _assets("restored_audio"), RESTORING)] if settings.restorer.source else []),
        _job("evaluate", _assets("evaluation"), "Compare all decoders on the held-out speakers."),
        _job("analyze_tokens", _assets(*TOKENS), "Token statistics, flat sequences and byte-pair encoding."),
        collect_garbage,
    ]


_EVERYTHING = dg.AssetSelection.all(include_sources=True) - dg.AssetSelection.tag(policies.POLICY_TAG, "never")


def _assets(*keys: str) -> dg.AssetSelection:
    return dg.AssetSelection.assets(*keys)


def _job(
    name: str, selection: dg.AssetSelection, description: str, corpora: Sequence[str] = ()
) -> UnresolvedAssetJobDefinition:
    """A job. With `corpora` it covers all of these unless told otherwise, so that `dagster job execute` needs no
    partition. That range is in `run_tags`, because `tags` would also join those of a run for which the UI names its own
    corpora, and Dagster refuses that."""
    ends = {"start": corpora[0], "end": corpora[-1]} if corpora else {}
    whole_range = {f"dagster/asset_partition_range_{end}": corpus for end, corpus in ends.items()}
    return dg.define_asset_job(name, selection=selection, description=description, run_tags=whole_range)


def _as_sentences(otherwise: Callable[..., Any]) -> Callable[..., Any]:
    """An excepthook: what is wrong with settings or a run's config ends `dagster job execute` as words."""

    def hook(kind: type[BaseException], value: BaseException, traceback: TracebackType | None) -> None:
        if isinstance(value, PipelineError | dg.DagsterInvalidConfigError):
            print(f"Error: {value}", file=sys.stderr)
        else:
            otherwise(kind, value, traceback)

    return hook


sys.excepthook = _as_sentences(sys.excepthook)
try:
    defs = build_defs()
except PipelineError as error:
    raise error.with_traceback(None) from None  # a code server shows it as it stands
