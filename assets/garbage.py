"""The job collect_garbage: what nothing needs any more, listed, and deleted when asked to."""

import dagster as dg
from pydantic import Field

from assets.materialized import shown
from resources import PipelineResource


class GarbageConfig(dg.Config):
    """What the Launchpad can change for one run."""

    delete: bool = Field(False, description="Delete what is found; without it the run only lists it.")


@dg.op(description="Leftovers of killed processes, and parts of codes that no recording needs.")
def unneeded_files(context: dg.OpExecutionContext, config: GarbageConfig, pipeline: PipelineResource) -> None:
    result = pipeline.run(context, "codes", "gc", *(["--delete"] if config.delete else []))
    context.log.info(f"{result['bytes'] / 1e6:.1f} MB {'deleted' if result['deleted'] else 'could be deleted'}")
    context.add_output_metadata(shown(result, hide=["paths"]) | {"paths": dg.MetadataValue.json(result["paths"][:100])})


@dg.job(description="List what nothing needs any more, or delete it (see the Launchpad). Runs are never touched.")
def collect_garbage():
    unneeded_files()
