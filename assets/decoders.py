"""Assets of the group `decoders`: fine-tuned decoders for the codes that are there already.

Their config is the recipe: the Launchpad opens with that of the settings, and a run with another one is a run of its
own, which everything after it then uses.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import dagster as dg
import yaml

from assets.launch_config import LaunchConfig
from assets.materialized import shown
from resources import PipelineResource
from snac_pipeline.files import value_digest
from snac_pipeline.training.recipe import Recipe

GROUP = "decoders"
TRAINING_POOL = "training"
"""One training at a time, unless the pool's limit is raised for runs on devices of their own (run tag `devices`)."""

DESCRIPTIONS = {
    "decoder_24khz": "The decoder fine-tuned on the corpora, at the codec's own rate. The codes stay valid.",
    "decoder_48khz": "A decoder with twice the sampling rate from the same codes: one more upsampling head.",
    "decoder_dual_head": "One decoder with two heads, for the codec's own rate and for twice that.",
}


class Decoder(NamedTuple):
    """What the settings say of a decoder: base_codec or the decoder it starts from, and the recipe with the overlay."""

    starts_from: str
    recipe: Recipe


def decoder_assets(decoders: Mapping[str, Decoder]) -> list[dg.AssetsDefinition]:
    """One asset per decoder."""
    return [_decoder(name, *decoder) for name, decoder in decoders.items()]


def _decoder(name: str, start: str, recipe: Recipe) -> dg.AssetsDefinition:
    @dg.asset(
        name=name,
        deps=["splits", "code_cache", start, *(["restored_audio"] if recipe.targets == "restored" else [])],
        group_name=GROUP,
        code_version=f"1-{value_digest(recipe.identity())[:12]}",  # a recipe that changed makes the asset stale
        kinds={"pytorch"},
        pool=TRAINING_POOL,
        description=f"{DESCRIPTIONS[name]} Starts from `{start}`; its held-out loss is measured before the first step. "
        "Its config is the recipe: change it in the Launchpad for a run with another one.",
        config_schema=LaunchConfig(name, recipe),
    )
    def decoder(context: dg.AssetExecutionContext, pipeline: PipelineResource) -> dg.MaterializeResult[None]:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "recipe.yaml"
            file.write_text(yaml.safe_dump(context.op_execution_context.op_config, sort_keys=False))
            result = pipeline.run(context, "train", name, "--recipe", str(file))
        losses = {"loss_before": result["baseline"], "loss": result["final"]}  # each by rate
        metadata = shown(
            {**losses, **result},
            paths=["run", "model"],
            pictures=["curve", "samples"],
            hide=["baseline", "final"],
        )
        return dg.MaterializeResult(data_version=dg.DataVersion(result["weights_digest"]), metadata=metadata)

    return decoder
