"""Assets of the group `decoders`: fine-tuned decoders for the codes that are there already."""

from collections.abc import Collection, Mapping

import dagster as dg

from assets.materialized import shown
from resources import PipelineResource

GROUP = "decoders"

DESCRIPTIONS = {
    "decoder_24khz": "The decoder fine-tuned on the corpora, at the codec's own rate. The codes stay valid.",
    "decoder_48khz": "A decoder with twice the sampling rate from the same codes: one more upsampling head.",
    "decoder_dual_head": "One decoder with two heads, for the codec's own rate and for twice that.",
}


def decoder_assets(starts_from: Mapping[str, str], restoring: Collection[str]) -> list[dg.AssetsDefinition]:
    """One asset per decoder; `starts_from` says for each what it starts from: another of them, or base_codec.

    restoring: those whose targets are restored audio.
    """
    return [_decoder(name, start, name in restoring) for name, start in starts_from.items()]


def _decoder(name: str, start: str, restoring: bool) -> dg.AssetsDefinition:
    @dg.asset(
        name=name,
        deps=["splits", "code_cache", start, *(["restored_audio"] if restoring else [])],
        group_name=GROUP,
        code_version="1",
        kinds={"torch"},
        description=f"{DESCRIPTIONS[name]} Starts from `{start}`; its held-out loss is measured before the first step.",
    )
    def decoder(context: dg.AssetExecutionContext, pipeline: PipelineResource) -> dg.MaterializeResult:
        result = pipeline.run(context, "train", name)
        by_rate = {
            f"{label}_{rate}": value
            for label, field in (("loss_before", "baseline"), ("loss", "final"), ("improvement", "improvement"))
            for rate, value in result[field].items()
        }
        rest = shown(result, paths=["run", "model"], pictures=["curve"], hide=["baseline", "final", "improvement"])
        return dg.MaterializeResult(data_version=dg.DataVersion(result["weights_digest"]), metadata={**by_rate, **rest})

    return decoder
