"""The job collect_garbage: what nothing needs any more, listed, and deleted when asked to."""

import os

import dagster as dg

from assets.launch_config import LaunchConfig
from assets.materialized import shown
from resources import PipelineResource
from snac_pipeline.settings import Section

SHOWN_ROWS = 100


class GarbageConfig(Section):
    """What the Launchpad can change for one run."""

    delete: bool = False
    """Delete what is found; without it the run only lists it."""


@dg.op(
    config_schema=LaunchConfig("unneeded_files", GarbageConfig()),
    description="Leftovers of killed processes, parts of codes that no recording needs, and runs, evaluations, token "
    "results and views that no decoder, no asset as it is shown here and no setting needs.",
)
def unneeded_files(context: dg.OpExecutionContext, pipeline: PipelineResource) -> None:
    keep = [argument for name in _shown_here(context.instance) for argument in ("--keep", name)]
    result = pipeline.run(context, "gc", *keep, *(["--delete"] if context.op_config["delete"] else []))
    context.log.info(f"{result['bytes'] / 1e6:.1f} MB {'deleted' if result['deleted'] else 'could be deleted'}")
    metadata = shown({**result, "old": result["old"][:SHOWN_ROWS]}, tables=["old"], hide=["paths"])
    context.add_output_metadata(metadata | {"paths": dg.MetadataValue.json(result["paths"][:SHOWN_ROWS])})


def _shown_here(instance: dg.DagsterInstance) -> list[str]:
    """Names of the runs and folders that assets were last materialized as."""
    names: set[str] = set()
    for key in instance.get_asset_keys():
        event = instance.get_latest_materialization_event(key)
        metadata = event.asset_materialization.metadata if event and event.asset_materialization else {}
        names |= {os.path.basename(str(metadata[name].value)) for name in ("run", "folder") if name in metadata}
    return sorted(names)


@dg.job(description="List what nothing needs any more, or delete it (see the Launchpad). Nothing that is needed goes.")
def collect_garbage() -> None:
    unneeded_files()
