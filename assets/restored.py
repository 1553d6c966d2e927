"""Asset of the group `corpus`: what a restorer makes of the recordings, for decoders to learn from."""

import dagster as dg

from assets.materialized import shown
from resources import PipelineResource


def restored_assets() -> list[dg.AssetsDefinition]:
    """restored_audio, for settings that ask for it."""

    @dg.asset(
        deps=["splits"],
        group_name="corpus",
        code_version="1",
        kinds={"pytorch", "flac"},
        description="What the settings' restorer makes of every recording, at 48 kHz: targets for a decoder where the "
        "recordings have no band of their own up there. Only what is new is restored.",
    )
    def restored_audio(context: dg.AssetExecutionContext, pipeline: PipelineResource) -> dg.MaterializeResult[None]:
        result = pipeline.run(context, "restore")
        return dg.MaterializeResult(
            data_version=dg.DataVersion(result["version"]), metadata=shown(result, paths=["folder"])
        )

    return [restored_audio]
