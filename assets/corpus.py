"""Assets of the group `corpus`: audio folders -> manifest and quarantine, by corpus -> splits over all of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions.external_asset import create_external_asset_from_source_asset
from pydantic import Field

from assets.launch_config import LaunchConfig
from assets.looking import observe
from assets.materialized import Outcome, materialize_partitions, shown
from assets.presentation import Definition
from resources import PipelineResource
from snac_pipeline.files import read_parquet, value_digest
from snac_pipeline.settings import Section

GROUP = "corpus"
SHOWN_ROWS = 20


class ScanConfig(Section):
    """What the Launchpad can change for one run."""

    limit: int | None = Field(None, ge=1)
    """Use at most this many files of each corpus, for a quick try; null: as `limit` in pipeline.yaml."""


def corpus_assets(corpora: dg.StaticPartitionsDefinition) -> list[Definition]:
    """audio, manifest, quarantine and splits, with the check of the splits."""

    @dg.observable_source_asset(
        partitions_def=corpora,
        group_name=GROUP,
        description="The recordings themselves, by corpus. Observing lists files without opening them; "
        "its version changes with any file that is new, gone, renamed or edited.",
        tags={"dagster/kind/file": ""},
    )
    def audio(context: dg.OpExecutionContext, pipeline: PipelineResource) -> dg.DataVersionsByPartition:
        return dg.DataVersionsByPartition(observe(pipeline.settings(), context.instance, context.run.tags, context.log))

    @dg.multi_asset(
        name="manifest",
        specs=[
            dg.AssetSpec(
                "manifest",
                deps=["audio"],
                group_name=GROUP,
                code_version="2",
                kinds={"parquet", "polars"},
                description="Every usable recording: content digest, speaker, duration, sampling rate, bandwidth, "
                "level. A file is opened only when its size or date changed.",
            ),
            dg.AssetSpec(
                "quarantine",
                deps=["audio"],
                group_name=GROUP,
                code_version="1",
                kinds={"parquet", "polars"},
                description="Files that cannot be used, each with the reason: truncated, silent header, unreadable, "
                "no speaker in its path. Nothing is left out without a row here.",
            ),
        ],
        partitions_def=corpora,
        backfill_policy=dg.BackfillPolicy.single_run(),
        config_schema=LaunchConfig("manifest", ScanConfig()),
    )
    def manifest(
        context: dg.AssetExecutionContext, pipeline: PipelineResource
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetMaterialization]:
        number = context.op_execution_context.op_config["limit"]
        limit = [] if number is None else ["--limit", str(number)]
        good, bad = {}, {}
        for corpus in context.partition_keys:
            result = pipeline.run(context, "scan", "--corpus", corpus, *limit)
            good[corpus] = Outcome(result["version"], shown(result, pictures=["durations"], hide=["corpus"]))
            bad[corpus] = _quarantined(pipeline.settings().home, corpus)
        yield from materialize_partitions(context, "manifest", good)
        yield from materialize_partitions(context, "quarantine", bad)

    @dg.asset(
        deps=["manifest"],
        group_name=GROUP,
        code_version="1",
        kinds={"parquet", "polars"},
        description="Who is trained on and who is held out: whole speakers, who never change sides when files are "
        "added. Speakers that share a recording are kept together. A corpus whose `split` is set is taken as it is.",
    )
    def splits(context: dg.AssetExecutionContext, pipeline: PipelineResource) -> dg.MaterializeResult[None]:
        result = pipeline.run(context, "split")
        return dg.MaterializeResult(
            data_version=dg.DataVersion(result["version"]), metadata=shown(result, pictures=["sides"])
        )

    @dg.asset_check(
        asset=splits, blocking=True, description="No speaker and no recording is both trained on and held out."
    )
    def speakers_in_one_split(pipeline: PipelineResource) -> dg.AssetCheckResult:
        return _check_speakers(pipeline.settings().home)

    return [_one_run_for_all(audio), manifest, splits, speakers_in_one_split]


def _one_run_for_all(source: dg.SourceAsset) -> dg.AssetsDefinition:
    """The observable asset with a backfill policy, which its decorator has no parameter for. Without one, every job
    that holds it would start one run per corpus when the UI runs it over several."""
    return create_external_asset_from_source_asset(source).with_attributes(
        backfill_policy=dg.BackfillPolicy.single_run()
    )


def _quarantined(home: Path, corpus: str) -> Outcome:
    import polars as pl

    from snac_pipeline.corpus import read_quarantine

    rows = read_quarantine(home, [corpus]).filter(pl.col("stage") != "split").sort("path")
    columns = rows.select("path", "stage", "reason")
    reasons = rows.group_by("reason").len().sort("len", "reason", descending=[True, False])
    return Outcome(
        value_digest(columns.rows()),
        {
            "files": len(rows),
            "reasons": _table(reasons.rename({"len": "files"}).head(SHOWN_ROWS).to_dicts()),
            "first_files": _table(columns.head(SHOWN_ROWS).to_dicts()),
        }
        if len(rows)
        else {"files": 0},
    )


def _table(rows: list[dict[str, Any]]) -> dg.TableMetadataValue:
    return dg.MetadataValue.table([dg.TableRecord(row) for row in rows])


def _check_speakers(home: Path) -> dg.AssetCheckResult:
    """Over the files as written, and not over what the splitting code has in memory."""
    import polars as pl

    splits = pl.DataFrame(pl.from_arrow(read_parquet(home / "splits" / "splits.parquet")))
    speakers = splits.group_by("corpus", "speaker").agg(pl.col("split").n_unique())
    contents = splits.group_by("digest").agg(pl.col("split").n_unique())
    in_two = speakers.filter(pl.col("split") > 1).sort("corpus", "speaker").select("corpus", "speaker").rows()
    twice = contents.filter(pl.col("split") > 1)
    return dg.AssetCheckResult(
        passed=not in_two and twice.is_empty(),
        metadata={
            "speakers": len(speakers),
            "utterances": len(contents),
            "speakers_in_two_splits": ", ".join(map("/".join, in_two)) or "none",
            "recordings_in_two_splits": len(twice),
        },
    )
