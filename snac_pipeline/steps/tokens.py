"""Statistics, flat sequences and byte-pair encoding of the cached codes."""

from pathlib import Path
from typing import Any

from snac_pipeline.files import atomic_folder, read_json, value_digest, write_json
from snac_pipeline.settings import Settings
from snac_pipeline.steps.codes import base_codec, cached_utterances, codes_of
from snac_pipeline.steps.corpus import OnEvent
from snac_pipeline.tokens import (
    TokenGeometry,
    TokenStream,
    make_layout,
    read_tokens,
    sweep_rows,
    token_statistics,
    train_bpe,
    write_bpe,
    write_sequences,
    write_statistics,
)

TOKENS_REVISION = 2
"""Raised when a change of the tokens room changes its outputs."""


def analyze(settings: Settings, what: str, on_event: OnEvent) -> dict[str, Any]:
    """`what`: statistics, sequences or bpe, of the codes of all corpora."""
    model, _ = base_codec(settings)
    spec, parts = model.spec, codes_of(settings, model)
    utterances, left_out = cached_utterances(settings, model)
    options = {} if what == "statistics" else settings.tokens.model_dump(mode="json")
    selection = value_digest(utterances.select("digest", "corpus", "split").rows())
    version = value_digest([what, parts.name, selection, options, TOKENS_REVISION])[:16]
    folder = settings.home / "tokens" / f"{what}-{version}"
    if (folder / "result.json").exists():
        return {**_result(folder), "left_out": left_out, "reused": True}
    geometry = TokenGeometry(spec.tokens_per_frame, spec.codebook_size, spec.frame_seconds)
    stream = read_tokens(parts, utterances, geometry)
    on_event({"message": f"{stream.frames} coarse frames read"})
    with atomic_folder(folder) as temporary:
        figures = _STEPS[what](stream, settings, temporary)
        files = [Path(path).name for path in figures.pop("files")]
        write_json(temporary / "result.json", {"version": version, **figures, "files": files})
    return {**_result(folder), "left_out": left_out, "reused": False}


def _result(folder: Path) -> dict[str, Any]:
    """The figures in result.json, the folder, and its picture and its page where there are any."""
    result = read_json(folder / "result.json")
    shown = {
        kind: next((str(folder / name) for name in result["files"] if name.endswith(end)), None)
        for kind, end in (("plot", ".png"), ("report", ".html"))
    }
    return {"folder": str(folder), **shown, **result}


def _statistics(stream: TokenStream, settings: Settings, folder: Path) -> dict[str, Any]:
    statistics = token_statistics(stream)
    per_level = {
        f"{name}_level_{k}": statistics.value(name, k)
        for k in range(stream.geometry.levels)
        for name in ("perplexity", "dead_codes")
    }
    tokens = sum(len(level) for level in stream.codes)
    return {
        "tokens": tokens,
        "hours": stream.seconds / 3600,
        **per_level,
        "files": write_statistics(folder, statistics),
    }


def _sequences(stream: TokenStream, settings: Settings, folder: Path) -> dict[str, Any]:
    layout, file = make_layout(settings.tokens.layout, stream.geometry), folder / "sequences.parquet"
    return {"layout": settings.tokens.layout, "ids": write_sequences(file, stream, layout), "files": [file]}


def _bpe(stream: TokenStream, settings: Settings, folder: Path) -> dict[str, Any]:
    """Figures at the merges with the fewest held-out bits per second, recommended or not; `sweep` has all."""
    options = settings.tokens
    report = train_bpe(
        stream,
        layout=options.layout,
        merges=options.merges,
        sample_tokens=options.sample_tokens,
        engine=options.engine,
        within=options.merge_within,
        run_length=options.run_length,
    )
    advice = report.recommendation
    return {
        "layout": options.layout,
        "engine": options.engine,
        "held_out": report.held_out,
        "recommendation": advice.text,
        "merges_recommended": advice.merges,
        "merges": advice.best,
        "merges_learned": report.tokenizer.merges,
        "merges_asked": max(options.merges),
        "compression_ratio": report.value("compression_ratio", advice.best),
        "tokens_per_second": report.value("tokens_per_second", advice.best),
        "vocabulary_used": int(report.value("vocabulary_used", advice.best)),
        "bits_per_second": report.value("bits_per_second", advice.best),
        "bits_per_second_without": report.value("bits_per_second", 0),
        "bits_per_second_bigram": report.value("bits_per_second_bigram", advice.best),
        "bits_per_second_bigram_without": report.value("bits_per_second_bigram", 0),
        "seconds": report.training.seconds,
        "training_megabytes": report.training.megabytes,
        "encoded_ids_per_second": report.encoded_ids_per_second(),
        "sweep": sweep_rows(report),
        "files": write_bpe(folder, report),
    }


_STEPS = {"statistics": _statistics, "sequences": _sequences, "bpe": _bpe}
