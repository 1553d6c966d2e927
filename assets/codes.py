"""Assets of the group `codes`: the base codec, and the codes it gives to every recording, by corpus."""

from collections.abc import Iterator

import dagster as dg

from assets.materialized import Outcome, materialize_partitions, shown
from assets.presentation import Definition
from resources import PipelineResource

GROUP = "codes"


def code_assets(corpora: dg.StaticPartitionsDefinition) -> list[Definition]:
    """base_codec and code_cache, with the checks of the codes."""

    @dg.asset(
        group_name=GROUP,
        code_version="1",
        kinds={"pytorch"},
        description="The pretrained codec that everything starts from: a folder or a Hugging Face model.",
    )
    def base_codec(context: dg.AssetExecutionContext, pipeline: PipelineResource) -> dg.MaterializeResult[None]:
        result = pipeline.run(context, "info")
        return dg.MaterializeResult(
            data_version=dg.DataVersion(result["weights_digest"]), metadata=shown(result, paths=["folder"])
        )

    @dg.asset(
        deps=["manifest", "base_codec"],
        partitions_def=corpora,
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name=GROUP,
        code_version="1",
        kinds={"parquet", "pytorch"},
        description="The codes of every recording, encoded once and kept. Only what is new is encoded; a renamed or "
        "copied file costs nothing. Batched codes equal those of encoding each file alone.",
    )
    def code_cache(
        context: dg.AssetExecutionContext, pipeline: PipelineResource
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetMaterialization]:
        corpora = list(context.partition_keys)
        result = pipeline.run(context, "cache", "--no-verify", *_corpus_arguments(corpora))  # the check does it
        speeds = [] if result["encoded"] else ["real_time_factor", "wait_share"]  # of nothing
        run = shown(result, paths=["folder"], hide=["corpora", "utterances", "encoded", "hours", "verified", *speeds])
        outcomes = {
            corpus: Outcome(result["corpora"][corpus]["version"], {**shown(result["corpora"][corpus]), **run})
            for corpus in corpora
        }
        yield from materialize_partitions(context, "code_cache", outcomes)

    @dg.multi_asset_check(
        specs=[
            dg.AssetCheckSpec(
                "codes_in_range",
                asset=code_cache,
                blocking=True,
                description="Every code lies in its codebook and every level is as long as the recording asks for.",
            ),
            dg.AssetCheckSpec(
                "sampled_codes_are_exact",
                asset=code_cache,
                blocking=True,
                description="A sample of recordings, encoded again one by one, gives the cached codes.",
            ),
        ]
    )
    def codes_are_right(
        context: dg.AssetCheckExecutionContext, pipeline: PipelineResource
    ) -> Iterator[dg.AssetCheckResult]:
        corpora = _cached_corpora(context, pipeline)
        result = pipeline.run(context, "codes", "verify", "--exit-zero", *_corpus_arguments(corpora))
        errors = result["errors"]
        yield dg.AssetCheckResult(
            check_name="codes_in_range",
            asset_key="code_cache",
            passed=not errors,
            description=errors[0] if errors else None,
            metadata={"utterances": result["utterances"], "errors": errors[:20]},
        )
        yield dg.AssetCheckResult(
            check_name="sampled_codes_are_exact",
            asset_key="code_cache",
            passed=result["exact"],
            metadata={name: result[name] for name in ("compared", "compared_tokens", "mismatched_tokens", "ties")},
        )

    return [base_codec, code_cache, codes_are_right]


def _corpus_arguments(corpora: list[str]) -> list[str]:
    return [argument for corpus in corpora for argument in ("--corpus", corpus)]


def _cached_corpora(context: dg.AssetCheckExecutionContext, pipeline: PipelineResource) -> list[str]:
    """Those that have been cached: a check has no partitions of its own."""
    cached = context.instance.get_materialized_partitions(dg.AssetKey("code_cache"))
    return [corpus for corpus in pipeline.settings().corpora if corpus in cached]
