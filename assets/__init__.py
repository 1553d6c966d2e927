"""The asset graph, one module per room of the library; each asset a few lines round a command of the library.

Audio folders -> manifest -> splits, code_cache -> decoders -> evaluation, and -> tokens. What belongs in here: keys,
edges, partitions, descriptions, metadata, data versions and checks. What does not: anything worth importing elsewhere.

The two things that the settings decide about the graph are arguments: the corpora (partitions) and which decoders there
are and what they start from (edges).
"""

import dagster as dg

from assets.codes import code_assets
from assets.corpus import corpus_assets
from assets.decoders import decoder_assets
from assets.evaluation import evaluation_assets
from assets.garbage import collect_garbage
from assets.tokens import token_assets
from snac_pipeline.settings import Settings

Definition = dg.AssetsDefinition | dg.SourceAsset | dg.AssetChecksDefinition


def all_assets(settings: Settings) -> list[Definition]:
    """Every asset and check of the project."""
    corpora = dg.StaticPartitionsDefinition(list(settings.corpora))
    decoders = settings.training.decoders
    return [
        *corpus_assets(corpora),
        *code_assets(corpora),
        *decoder_assets({name: decoder.starts_from for name, decoder in decoders.items()}),
        *evaluation_assets(list(decoders)),
        *token_assets(),
    ]


__all__ = ["Definition", "all_assets", "collect_garbage"]
