"""Asset of the group `evaluation`: base and fine-tuned decoders on the same held-out codes."""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from assets.materialized import shown
from resources import PipelineResource

CHECK = "not_worse_than_base"


def evaluation_assets(decoders: Sequence[str]) -> list[dg.AssetsDefinition]:
    """evaluation, of the given decoders."""

    @dg.asset(
        deps=["splits", "code_cache", "base_codec", *decoders],
        group_name="evaluation",
        code_version="1",
        kinds={"torch", "html"},
        description="Which decoder is better, by how much, and how sure one can be: every decoder on the same held-out "
        "utterances, with paired intervals, and a report to read and listen to.",
        check_specs=[
            dg.AssetCheckSpec(
                CHECK,
                asset="evaluation",
                description="No fine-tuned decoder is surely worse than the base codec in the headline metric, where "
                "lower is better: the 95 % interval of the difference does not lie above 0.",
            )
        ],
    )
    def evaluation(context: dg.AssetExecutionContext, pipeline: PipelineResource) -> dg.MaterializeResult:
        result = pipeline.run(context, "evaluate")
        metric = result["headline_metric"]
        compared = {
            row["model"]: row for row in result["table"] if row["metric"] == metric and row["difference"] is not None
        }
        return dg.MaterializeResult(
            data_version=dg.DataVersion(result["version"]),
            metadata={
                **shown(result, paths=["folder", "report"], hide=["table"]),
                **{f"{metric}_change_{model}": row["difference"] for model, row in compared.items()},
                "table": dg.MetadataValue.table([dg.TableRecord(row) for row in result["table"]]),
            },
            check_results=[_not_worse(compared)],
        )

    return [evaluation]


def _not_worse(compared: dict[str, dict[str, Any]]) -> dg.AssetCheckResult:
    worse = [model for model, row in compared.items() if row["low"] > 0]
    return dg.AssetCheckResult(
        check_name=CHECK,
        passed=not worse,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"worse than the base codec: {', '.join(worse)}" if worse else None,
        metadata={
            model: f"{row['difference']:+.3f} dB ({row['low']:+.3f} to {row['high']:+.3f}), {row['n']} utterances"
            for model, row in compared.items()
        },
    )
