"""Asset of the group `evaluation`: base and fine-tuned decoders on the same held-out codes."""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from assets.materialized import shown
from resources import PipelineResource

CHECK = "not_worse_than_base"
FINITE, ENOUGH = "all_values_finite", "enough_utterances"
LEAST_UTTERANCES = 6
"""With fewer, not even wins on all of them would be significant at 5 %."""


def evaluation_assets(decoders: Sequence[str]) -> list[dg.AssetsDefinition]:
    """evaluation, of the given decoders."""

    @dg.asset(
        deps=["splits", "code_cache", "base_codec", *decoders],
        group_name="evaluation",
        code_version="1",
        kinds={"pytorch", "html"},
        description="Which decoder is better, by how much, and how sure one can be: every decoder on the same held-out "
        "utterances, with paired intervals, and a report to read and listen to.",
        check_specs=[
            dg.AssetCheckSpec(
                CHECK,
                asset="evaluation",
                description="No fine-tuned decoder is surely worse than the base codec in the headline metric, where "
                "lower is better: the 95 % interval of the difference does not lie above 0.",
            ),
            dg.AssetCheckSpec(
                FINITE, asset="evaluation", description="No decoder and no metric gave a number that is not finite."
            ),
            dg.AssetCheckSpec(
                ENOUGH,
                asset="evaluation",
                description=f"On at least {LEAST_UTTERANCES} held-out utterances all decoders could be measured: with "
                "fewer, not even wins on all of them would say anything.",
            ),
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
                **shown(result, paths=["folder", "report"], hide=["table", "not_finite"]),
                **{f"{metric}_change_{model}": row["difference"] for model, row in compared.items()},
                "table": dg.MetadataValue.table([dg.TableRecord(row) for row in result["table"]]),
            },
            check_results=[_not_worse(compared), _finite(result["not_finite"]), _enough(result["measured"])],
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
            model: f"{row['difference']:+.3f} dB ({row['low']:+.3f} to {row['high']:+.3f}), {row['pairs']} utterances"
            for model, row in compared.items()
        },
    )


def _finite(not_finite: list[str]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=FINITE,
        passed=not not_finite,
        severity=dg.AssetCheckSeverity.ERROR,
        description=f"not finite: {', '.join(not_finite)}" if not_finite else None,
        metadata={"not_finite": len(not_finite)},
    )


def _enough(utterances: int) -> dg.AssetCheckResult:
    passed = utterances >= LEAST_UTTERANCES
    return dg.AssetCheckResult(
        check_name=ENOUGH,
        passed=passed,
        severity=dg.AssetCheckSeverity.ERROR,
        description=None if passed else "hold out more speakers (`split.val`), or raise `evaluation.limit`",
        metadata={"utterances": utterances},
    )
