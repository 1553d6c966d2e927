"""The base codec and the cache of its codes."""

from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from snac_pipeline.codec import SNAC, weights_digest
from snac_pipeline.codec.hub import resolve
from snac_pipeline.codes.cache import cache_codes
from snac_pipeline.codes.fingerprint import encoder_fingerprint
from snac_pipeline.codes.parts import codes_folder, encode_quarantine
from snac_pipeline.codes.verify import check_codes, compare_sample
from snac_pipeline.corpus import read_utterances
from snac_pipeline.engine.devices import find_devices, worker_devices
from snac_pipeline.engine.ray import cluster_devices
from snac_pipeline.settings import Settings
from snac_pipeline.steps.corpus import OnEvent, corpus_of


def base_codec(settings: Settings) -> tuple[SNAC, Path]:
    """The codec that everything starts from, and its folder."""
    folder = resolve(settings.base_codec.source, revision=settings.base_codec.revision)
    return SNAC.from_pretrained(folder), folder


def describe_codec(model: SNAC, source: str) -> dict[str, Any]:
    """A codec's identity and geometry."""
    spec = model.spec
    return {
        "source": source,
        "weights_digest": weights_digest(model.state_dict()),
        "fingerprint": encoder_fingerprint(model),
        "parameters": sum(p.numel() for p in model.parameters()),
        "sampling_rate": spec.sampling_rate,
        "output_rates": list(spec.output_rates),
        "coarse_frame": spec.coarse_frame,
        "levels": spec.levels,
        "codebook_size": spec.codebook_size,
        "tokens_per_second": spec.tokens_per_second,
        "bits_per_second": spec.bits_per_second,
    }


class Cached(NamedTuple):
    """The utterances that steps after caching work on."""

    utterances: pl.DataFrame
    """corpus.read_utterances without those that could not be encoded."""
    left_out: int
    """How many those are."""


def cached_utterances(settings: Settings, fingerprint: str, *, corpora: list[str] | None = None,
                      splits: bool = True) -> Cached:  # fmt: skip
    """The utterances of `corpora` (None: of all) less those in the quarantine of the encoder's codes."""
    utterances = read_utterances(settings.home, corpora or list(settings.corpora), splits=splits)
    aside = encode_quarantine(codes_folder(settings.home, fingerprint))["digest"]
    kept = utterances.filter(~pl.col("digest").is_in(aside.implode()))
    return Cached(kept, len(utterances) - len(kept))


def cache(
    settings: Settings, corpora: list[str], verify: bool, on_event: OnEvent, *, retry_quarantined: bool = False
) -> dict[str, Any]:
    """Encode what is missing of the named corpora; with `verify`, encode a sample of that again and compare.

    retry_quarantined: try again the utterances that could not be encoded before.
    """
    for name in corpora:
        corpus_of(settings, name)
    _, folder = base_codec(settings)
    utterances = read_utterances(settings.home, corpora, splits=False)
    options = settings.caching if verify else settings.caching.model_copy(update={"verify": 0})
    return cache_codes(
        folder, utterances, settings.home, options, _devices(settings), on_event, retry_quarantined=retry_quarantined
    )


def _devices(settings: Settings) -> list[str]:
    """One device for each worker of the settings' engine."""
    options = settings.caching
    if options.engine == "ray":
        return cluster_devices(settings.devices, options.processes, options.ray_address)
    return worker_devices(find_devices(settings.devices), options.processes)


def verify_codes(settings: Settings, corpora: list[str], sample: int | None) -> dict[str, Any]:
    """Check ranges and lengths of all cached codes, and encode `sample` utterances again, each alone, to compare.

    sample: caching.verify of the settings when None. `errors` has a sentence for everything that is wrong.
    """
    for name in corpora:
        corpus_of(settings, name)
    model, _ = base_codec(settings)
    fingerprint = encoder_fingerprint(model)
    parts = codes_folder(settings.home, fingerprint)
    utterances, left_out = cached_utterances(settings, fingerprint, corpora=corpora, splits=False)
    errors = check_codes(parts, utterances, model)
    model = model.to(find_devices(settings.devices)[0])
    figures = compare_sample(
        model,
        parts,
        utterances,
        utterances["digest"].to_list(),
        settings.caching.verify if sample is None else sample,
        batch_seconds=settings.caching.batch_seconds,
    )
    return {
        "utterances": len(utterances),
        "left_out": left_out,
        "errors": errors,
        "compared": figures["utterances"],
        "compared_tokens": figures["tokens"],
        "mismatched_tokens": figures["mismatched"],
        "exact": figures["exact"],
    }
