"""Assets of the group `tokens`: what the codes look like to a language model."""

from collections.abc import Sequence

import dagster as dg

from assets.materialized import shown
from resources import PipelineResource
from snac_pipeline.files import value_digest
from snac_pipeline.settings import TokenResult, TokenSettings

CODE_VERSIONS: dict[TokenResult, str] = {"statistics": "3", "sequences": "3", "bpe": "3"}
"""`steps.tokens.REVISIONS`, written again here because importing them imports torch; a test holds them together."""


def token_assets(settings: TokenSettings) -> list[dg.AssetsDefinition]:
    """token_statistics, token_sequences and bpe_tokenizer, each stale when settings that it depends on change."""

    def code_version(what: TokenResult) -> str:
        return f"{CODE_VERSIONS[what]}-{value_digest(settings.used_by(what))[:12]}"

    return [
        _asset(
            "token_statistics",
            "stats",
            code_version("statistics"),
            ["splits", "code_cache"],
            {"numpy"},
            "How the codes are used: entropy, unused codes, bigrams and repetition of every level, and what levels "
            "tell of each other, beside a shuffled null and the bound that the sample allows.",
        ),
        _asset(
            "token_sequences",
            "layout",
            code_version("sequences"),
            ["splits", "code_cache", "token_statistics"],
            {"parquet"},
            "Flat sequences of ids for language models, in the layout of `tokens` in pipeline.yaml: parquet with the "
            "column input_ids.",
        ),
        _asset(
            "bpe_tokenizer",
            "bpe",
            code_version("bpe"),
            ["token_sequences"],
            {"huggingface"},
            "Byte-pair encodings of the codes in several layouts, and what they save on held-out speech in bits per "
            "second of audio.",
        ),
    ]


def _asset(
    name: str, command: str, version: str, deps: Sequence[str], kinds: set[str], description: str
) -> dg.AssetsDefinition:
    @dg.asset(
        name=name, deps=list(deps), group_name="tokens", code_version=version, kinds=kinds, description=description
    )
    def tokens(context: dg.AssetExecutionContext, pipeline: PipelineResource) -> dg.MaterializeResult[None]:
        result = pipeline.run(context, "tokens", command)
        pictures = [key for key, value in result.items() if isinstance(value, str) and value.endswith(".png")]
        metadata = shown(result, paths=["folder", "report"], pictures=pictures, tables=["sweep", "table"])
        return dg.MaterializeResult(data_version=dg.DataVersion(result["version"]), metadata=metadata)

    return tokens
