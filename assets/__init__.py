"""The asset graph, one module per room of the library; each asset a few lines round a command of the library.

Audio folders -> manifest -> splits, code_cache -> decoders -> evaluation, and -> tokens. What belongs in here: keys,
edges, partitions, descriptions, metadata, data versions and checks. What does not: anything worth importing elsewhere.

What the settings decide about the graph are arguments: the corpora (partitions), which decoders there are, what they
start from and whether they learn from restored audio (edges), which is an asset only where a restorer is named, and
their recipes (config).
"""

from collections.abc import Mapping

import dagster as dg

from assets.codes import code_assets
from assets.corpus import corpus_assets
from assets.decoders import Decoder, decoder_assets
from assets.evaluation import evaluation_assets
from assets.garbage import collect_garbage
from assets.hooks import failure_notices
from assets.policies import governed
from assets.presentation import Definition, presented
from assets.restored import restored_assets
from assets.tokens import token_assets
from snac_pipeline.settings import Settings
from snac_pipeline.training.recipe import Recipe


def all_assets(settings: Settings, recipes: Mapping[str, Recipe]) -> list[Definition]:
    """Every asset and check of the project; `recipes` are those of the settings' decoders, overlay included."""
    corpora = dg.StaticPartitionsDefinition(list(settings.corpora))
    decoders: dict[str, Decoder] = {
        name: Decoder(decoder.starts_from, recipes[name]) for name, decoder in settings.training.decoders.items()
    }
    made = [
        *corpus_assets(corpora),
        *code_assets(corpora),
        *(restored_assets() if settings.restorer.source else []),
        *decoder_assets(decoders),
        *evaluation_assets(list(decoders)),
        *token_assets(settings.tokens),
    ]
    return governed(presented(made, settings.ui), settings)


__all__ = ["Definition", "all_assets", "collect_garbage", "failure_notices"]
