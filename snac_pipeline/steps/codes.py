"""The base codec and the cache of its codes."""

import contextlib
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from snac_pipeline.codec import SNAC, weights_digest
from snac_pipeline.codec.hub import resolve
from snac_pipeline.codec.streaming import latency
from snac_pipeline.codes.cache import cache_codes, codes_version
from snac_pipeline.codes.compact import carry_out, plan_compaction
from snac_pipeline.codes.fingerprint import encoder_fingerprint
from snac_pipeline.codes.parts import cached_digests, codes_folder, encode_quarantine, part_files
from snac_pipeline.codes.verify import check_codes, compare_sample, token_agreement
from snac_pipeline.corpus import read_utterances
from snac_pipeline.engine.devices import find_devices
from snac_pipeline.engine.locks import alone
from snac_pipeline.engine.pools import devices_of
from snac_pipeline.files import read_json, value_digest, write_json
from snac_pipeline.settings import Precision, Settings
from snac_pipeline.steps.corpus import OnEvent, corpus_of


def base_codec(settings: Settings) -> tuple[SNAC, Path]:
    """The codec that everything starts from, and its folder."""
    folder = resolve(settings.base_codec.source, revision=settings.base_codec.revision)
    return SNAC.from_pretrained(folder), folder


def codes_fingerprint(settings: Settings, model: SNAC) -> str:
    """The fingerprint of the codes that this codec gives with these settings."""
    return encoder_fingerprint(model, settings.caching.precision)


def codes_of(settings: Settings, model: SNAC) -> Path:
    """The folder of those codes."""
    return codes_folder(settings.home, codes_fingerprint(settings, model))


def describe_codec(model: SNAC, source: str, precision: Precision = "fp32") -> dict[str, Any]:
    """A codec's identity and geometry; the fingerprint is that of the codes it gives in this precision."""
    spec = model.spec
    shortest = latency(spec, 0)
    return {
        "source": source,
        "weights_digest": weights_digest(model.state_dict()),
        "fingerprint": encoder_fingerprint(model, precision),
        "parameters": sum(p.numel() for p in model.parameters()),
        "sampling_rate": spec.sampling_rate,
        "output_rates": list(spec.output_rates),
        "coarse_frame": spec.coarse_frame,
        "levels": spec.levels,
        "codebook_size": spec.codebook_size,
        "tokens_per_second": spec.tokens_per_second,
        "bits_per_second": spec.bits_per_second,
        "encode_stream_latency_ms": 1000 * shortest.encode * spec.frame_seconds,
        "decode_stream_latency_ms": 1000 * shortest.decode * spec.frame_seconds,
    }


class Cached(NamedTuple):
    """The utterances that steps after caching work on."""

    utterances: pl.DataFrame
    """corpus.read_utterances without those that could not be encoded."""
    left_out: int
    """How many those are."""


def cached_utterances(
    settings: Settings, model: SNAC, *, corpora: list[str] | None = None, splits: bool = True
) -> Cached:
    """The utterances of `corpora` (None: of all) less those in the quarantine of the codec's codes."""
    utterances = read_utterances(settings.home, corpora or list(settings.corpora), splits=splits)
    aside = encode_quarantine(codes_of(settings, model))["digest"]
    kept = utterances.filter(~pl.col("digest").is_in(aside.implode()))
    return Cached(kept, len(utterances) - len(kept))


def cache(
    settings: Settings, corpora: list[str], verify: bool, on_event: OnEvent, *, retry_quarantined: bool = False
) -> dict[str, Any]:
    """Encode what is missing of the named corpora; with `verify`, encode a sample of that again and compare.

    retry_quarantined: try again the utterances that could not be encoded before. Another command that encodes one of
    these corpora is waited for, so that nothing is encoded twice.
    At another precision than float32 the result also tells, verified or not, how many tokens float32 would have given
    too: fp32_agreement_level_<k>.
    """
    for name in corpora:
        corpus_of(settings, name)
    with contextlib.ExitStack() as held:
        for name in sorted(set(corpora)):  # in one order everywhere: nobody waits for one that waits for it
            held.enter_context(_caching_alone(settings, name, on_event))
        return _cache(settings, corpora, verify, on_event, retry_quarantined)


def _caching_alone(settings: Settings, corpus: str, on_event: OnEvent) -> contextlib.AbstractContextManager[None]:
    """One command at a time encodes a corpus into a home, on whatever machine; others may encode other corpora."""
    file = settings.home / "locks" / f"cache-{corpus}.lock"
    waiting = "then only what it leaves is done"
    return alone(file, f"caching {corpus}", waiting, lambda words: on_event({"message": words}))


def _cache(
    settings: Settings, corpora: list[str], verify: bool, on_event: OnEvent, retry_quarantined: bool
) -> dict[str, Any]:
    model, folder = base_codec(settings)
    utterances = read_utterances(settings.home, corpora, splits=False)
    options = settings.caching if verify else settings.caching.model_copy(update={"verify": 0})
    result = cache_codes(
        folder,
        utterances,
        settings.home,
        options,
        engine_devices(settings),
        on_event,
        retry_quarantined=retry_quarantined,
    )
    # A corpus of which all is in another one too, or nothing can be read, has codes of nothing.
    nothing = {"version": codes_version([], result["fingerprint"]), "utterances": 0, "encoded": 0, "quarantined": 0}
    return {
        **result,
        "corpora": {name: result["corpora"].get(name, {**nothing, "hours": 0.0}) for name in corpora},
        "precision": settings.caching.precision,
        **_float32_agreement(settings, model, utterances),
    }


def engine_devices(settings: Settings) -> list[str]:
    """One device for each worker of the settings' engine."""
    options = settings.caching
    return devices_of(options.engine, settings.devices, options.processes, options.ray_address)


def _float32_agreement(settings: Settings, model: SNAC, utterances: pl.DataFrame) -> dict[str, float]:
    """Per level, the share of cached tokens that float32 gives too; measured once for a sample, nothing at fp32."""
    options = settings.caching
    cached = utterances.join(cached_digests(folder := codes_of(settings, model)), on="digest", how="semi")
    sample = cached.sort("digest").head(options.verify)
    if options.precision == "fp32" or sample.is_empty():
        return {}
    file, of = folder / "agreement.json", value_digest(sample["digest"].to_list())
    if not file.exists() or read_json(file)["sample"] != of:
        shares = token_agreement(model.to(find_devices(settings.devices)[0]), folder, sample, options.batch_seconds)
        write_json(file, {"sample": of, "shares": shares})
    return {f"fp32_agreement_level_{k}": share for k, share in enumerate(read_json(file)["shares"])}


def verify_codes(settings: Settings, corpora: list[str], sample: int | None) -> dict[str, Any]:
    """Check all parts of the codec's codes, and encode `sample` utterances again, each alone, to compare.

    sample: caching.verify of the settings when None. `errors` has a sentence for everything that is wrong. Where parts
    are wrong in themselves, nothing is compared and the codes are not `exact`.
    """
    for name in corpora:
        corpus_of(settings, name)
    model, _ = base_codec(settings)
    folder = codes_of(settings, model)
    utterances = read_utterances(settings.home, corpora, splits=False)
    errors = check_codes(folder, utterances, model.spec)
    figures = {"utterances": 0, "tokens": 0, "mismatched": 0, "ties": 0, "exact": False}
    if not errors:
        figures = compare_sample(
            model.to(find_devices(settings.devices)[0]),
            folder,
            utterances,
            cached_digests(folder)["digest"],
            settings.caching.verify if sample is None else sample,
            settings.caching.batch_seconds,
            settings.caching.precision,
        )
    if figures["mismatched"] and not figures["exact"]:
        errors.append(
            f"{figures['mismatched']} of {figures['tokens']} sampled tokens in {folder} differ from encoding their "
            "utterances alone; move the folder away and run `snac-pipeline cache`"
        )
    return {
        "utterances": len(utterances),
        "parts": len(part_files(folder)),
        "quarantined": len(encode_quarantine(folder)),
        "errors": errors,
        "compared": figures["utterances"],
        "compared_tokens": figures["tokens"],
        "mismatched_tokens": figures["mismatched"],
        "ties": figures["ties"],
        "exact": figures["exact"],
    }


def compact_codes(settings: Settings, dry_run: bool) -> dict[str, Any]:
    """Merge small parts, of less than half of caching.part_utterances, in every folder of codes; how much that is."""
    folders = sorted((settings.home / "codes").glob("[!.]*"))
    plans = {folder: plan_compaction(folder, settings.caching.part_utterances) for folder in folders}
    merges = [plan for of_folder in plans.values() for plan in of_folder]
    figures = {
        "parts": sum(len(part_files(folder)) for folder in folders),
        "merged": sum(len(plan.old) for plan in merges),
        "into": sum(plan.written > 0 for plan in merges),
        "rows": sum(plan.written for plan in merges),
        "bytes": sum(plan.bytes for plan in merges),
        "done": not dry_run,
    }
    if not dry_run:
        for folder, of_folder in plans.items():
            carry_out(folder, of_folder)
    return figures
