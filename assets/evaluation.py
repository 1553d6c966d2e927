"""Asset of the group `evaluation`: base and fine-tuned decoders on the same held-out codes."""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from assets.materialized import shown
from resources import PipelineResource

CHECK = "not_worse_than_base"
FINITE, ENOUGH = "all_values_finite", "enough_utterances"
LEAST_UTTERANCES = 6
"""With fewer, not even wins on all of them would be significant at 5 %."""
PICTURES = ("differences", "curves", "spectrograms")
TABLES = ("table", "missing", "codebook", "sounds")


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
                description="No fine-tuned decoder is surely worse than the base codec in the headline metric "
                "(`evaluation.headline`): the 95 % interval of the difference does not lie on the worse side of 0. It "
                f"does not pass where that cannot be judged, with fewer than {LEAST_UTTERANCES} utterances to compare.",
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
    def evaluation(context: dg.AssetExecutionContext, pipeline: PipelineResource) -> dg.MaterializeResult:  # type: ignore[type-arg]  # of an asset with checks Dagster takes it without only
        result = pipeline.run(context, "evaluate")
        return dg.MaterializeResult(
            data_version=dg.DataVersion(result["version"]),
            metadata=metadata_of(result),
            check_results=[not_worse(result), _finite(result["not_finite"]), _enough(result["measured"])],
        )

    return [evaluation]


def metadata_of(result: Mapping[str, Any]) -> dict[str, dg.MetadataValue]:
    """All that the report says, as what the UI shows: the result in short, which it shows at once; then sentences,
    tables, pictures, and sounds by their place."""
    rewritten = ("headlines", "notes", "not_run", "worst", "versions", "command", "not_finite", "crashed")
    of_the_headline = ("headline_label", "headline_unit", "headline_higher_is_better")  # the sentences have them
    in_short = [f"{row['model']}: {_in_short(row, result['headline_unit'])}" for row in _compared(result)]
    changes = {
        f"{row['metric']}_change_{row['model']}": dg.MetadataValue.float(row["difference"])
        for row in _compared(result)
        if row["difference"] is not None
    }
    return {
        result["headline_label"]: _bullets(in_short),
        "headlines": _bullets(result["headlines"]),
        **shown(
            {name: value for name, value in result.items() if name not in TABLES or value},
            paths=["folder", "report"],
            pictures=PICTURES,
            tables=TABLES,
            hide=(*rewritten, *of_the_headline),
        ),
        "notes": _bullets(result["notes"]),
        **changes,
        **{f"worst {model}": _table(rows) for model, rows in result["worst"].items() if rows},
        "not_run": _named("metric", result["not_run"]),
        "versions": _named("of", result["versions"]),
        "command": dg.MetadataValue.md(f"```\n{result['command']}\n```"),
    }


def _compared(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of the headline metric that compare a decoder with the base."""
    metric = result["headline_metric"]
    return [row for row in result["table"] if row["metric"] == metric and row["baseline"] is not None]


def _bullets(sentences: Sequence[str]) -> dg.MetadataValue:
    return dg.MetadataValue.md("\n".join(f"- {sentence}" for sentence in sentences) or "none")


def _table(rows: Sequence[Mapping[str, Any]]) -> dg.MetadataValue:
    return dg.MetadataValue.table([dg.TableRecord(dict(row)) for row in rows])


def _named(column: str, values: Mapping[str, str]) -> dg.MetadataValue:
    """Two columns; the word "none" where there is nothing."""
    rows = [{column: name, "value": value} for name, value in values.items()]
    return _table(rows) if rows else dg.MetadataValue.text("none")


def not_worse(result: Mapping[str, Any]) -> dg.AssetCheckResult:
    """Whether no decoder is worse than the base, by the verdicts; what was not judged does not pass either."""
    compared = _compared(result)
    worse = [row["model"] for row in compared if row["verdict"] == "worse"]
    unjudged = [f"{row['model']} ({row['pairs']} utterances)" for row in compared if row["verdict"] == "too few"]
    words = [f"worse than the base codec: {', '.join(worse)}"] if worse else []
    if unjudged:
        words.append(f"could not be judged, which takes {LEAST_UTTERANCES} utterances: {', '.join(unjudged)}")
    if not compared:
        words.append("could not be judged: no decoder is trained")
    return dg.AssetCheckResult(
        check_name=CHECK,
        passed=not words,
        severity=dg.AssetCheckSeverity.WARN,
        description="; ".join(words) or None,
        metadata={row["model"]: _difference(row, result["headline_unit"]) for row in compared},
    )


def _in_short(row: Mapping[str, Any], unit: str) -> str:
    moved = "" if row["difference"] is None else f"{row['difference']:+.2f} {unit}".rstrip() + ", "
    return f"{moved}{row['verdict']}"


def _difference(row: Mapping[str, Any], unit: str) -> str:
    if row["difference"] is None:
        return "no utterance has values of both"
    interval = f"{row['difference']:+.3f} {unit}".rstrip() + f" ({row['low']:+.3f} to {row['high']:+.3f})"
    return f"{interval}, {row['pairs']} utterances: {row['verdict']}"


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
