"""Statistics, flat sequences and byte-pair encoding of the cached codes, or of codes and audio from anywhere."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from snac_pipeline.codes.parts import cached_digests, part_files, part_metadata
from snac_pipeline.errors import PipelineError
from snac_pipeline.files import atomic_folder, read_json, value_digest, write_json
from snac_pipeline.settings import BaseCodecSettings, CorpusSettings, Settings, TokenResult
from snac_pipeline.steps.codes import base_codec, cache, cached_utterances, codes_of
from snac_pipeline.steps.corpus import OnEvent, scan_corpus, split_corpora
from snac_pipeline.tokens import (
    TokenGeometry,
    TokenParts,
    folder_geometry,
    geometry_of,
    level_table,
    locate_tokens,
    make_layout,
    sweep_layouts,
    sweep_rows,
    token_statistics,
    write_bpe,
    write_sequences,
    write_statistics,
)

REVISIONS: dict[TokenResult, int] = {"statistics": 3, "sequences": 3, "bpe": 3}
"""Raised when a change of the tokens room changes what a result holds, files included: a part of its identity, and the
code version of its asset. A test holds figures of fixed codes to the revision."""

COMMANDS: dict[str, TokenResult] = {"stats": "statistics", "layout": "sequences", "bpe": "bpe"}
"""What the command line calls them."""

TRENDS = ("entropy", "perplexity", "dead_codes", "mutual_information_excess", "immediate_repeat_rate")


@dataclass(frozen=True)
class _Codes:
    """The utterances (digest, corpus, split) whose codes lie in the folder `parts`, all of one encoder."""

    parts: Path
    fingerprint: str
    geometry: TokenGeometry
    utterances: pl.DataFrame
    left_out: int

    def locate(self) -> TokenParts:
        return locate_tokens(self.parts, self.utterances, self.geometry)


def analyze(settings: Settings, what: TokenResult, on_event: OnEvent, parts: Path | None = None) -> dict[str, Any]:
    """The codes of all corpora, or, with `parts`, all that lie in a folder of parts; made again only for other codes.

    A folder of parts knows of no corpora and speakers: it is one corpus, called as the folder, of which `split.val` of
    the utterances count as held out.
    """
    codes = _project_codes(settings) if parts is None else _folder_codes(parts, settings.split.val)
    folder = _folder_of(codes, settings, what)
    if (folder / "result.json").exists():
        return {**_result(folder), "left_out": codes.left_out, "reused": True}
    on_event({"message": f"{what} of the codes of {len(codes.utterances)} utterances"})
    with atomic_folder(folder) as temporary:
        figures = _STEPS[what](codes, settings, temporary)
        files = [str(Path(path).relative_to(temporary)) for path in figures.pop("files")]
        write_json(temporary / "result.json", {"version": folder.name.rpartition("-")[2], **figures, "files": files})
    return {**_result(folder), "left_out": codes.left_out, "reused": False}


def tokens_folder(settings: Settings, what: TokenResult) -> Path:
    """Where `analyze` puts a result of all corpora, or finds it. Raises PipelineError where there are no codes yet."""
    return _folder_of(_project_codes(settings), settings, what)


def _folder_of(codes: _Codes, settings: Settings, what: TokenResult) -> Path:
    selection = value_digest(codes.utterances.select("digest", "corpus", "split").sort("digest").rows())
    version = value_digest([what, codes.fingerprint, selection, settings.tokens.used_by(what), REVISIONS[what]])[:16]
    return settings.home / "tokens" / f"{what}-{version}"


def from_audio(settings: Settings, audio: Path, codec: str, limit: int | None, on_event: OnEvent) -> dict[str, Any]:
    """Audio of a folder outside the pipeline to tokens of a codec, and all analyses of them.

    The folder gets a home of its own below that of the settings, with manifest, codes and results; what is there is
    done only once. Every file counts as a speaker of its own. Byte-pair encoding is left out where there are too few
    files to hold any out.
    """
    if not audio.is_dir():
        raise PipelineError(f"{audio} is not a folder; give one with audio files somewhere below it")
    where = str(audio.resolve())
    own = settings.model_copy(
        update={
            "home": settings.home / "from-audio" / value_digest([where, codec, limit])[:16],
            "corpora": {"audio": CorpusSettings(path=where, speaker="utterance")},
            "base_codec": BaseCodecSettings(source=codec),
            "limit": limit,
        }
    )
    scanned = scan_corpus(own, "audio", None, on_event)
    split = split_corpora(own)
    cached = cache(own, ["audio"], True, on_event)
    names: list[TokenResult] = ["statistics", "sequences"]
    if split["train"] and split["val"]:
        names.append("bpe")
    return {
        "home": str(own.home),
        "parts": str(codes_of(own, base_codec(own)[0])),
        "utterances": cached["corpora"]["audio"]["utterances"],
        "hours": cached["corpora"]["audio"]["hours"],
        "quarantined": scanned["quarantined"],
        **{name: analyze(own, name, on_event) for name in names},
    }


def _project_codes(settings: Settings) -> _Codes:
    model, _ = base_codec(settings)
    parts = codes_of(settings, model)
    utterances, left_out = cached_utterances(settings, model)
    return _Codes(parts, parts.name, geometry_of(model.spec), utterances, left_out)


def _folder_codes(parts: Path, held_out: float) -> _Codes:
    geometry = folder_geometry(parts)
    digests = cached_digests(parts)["digest"].sort()
    utterances = pl.DataFrame({"digest": digests, "corpus": parts.resolve().name}).with_row_index()
    # Digests are as good as random: the first so many are a fair sample, and stay so when others are added.
    utterances = utterances.with_columns(
        split=pl.when(pl.col("index") < round(held_out * len(digests))).then(pl.lit("val")).otherwise(pl.lit("train"))
    )
    fingerprint = part_metadata(part_files(parts)[0]).get("fingerprint", str(parts.resolve()))
    return _Codes(parts, fingerprint, geometry, utterances.drop("index"), 0)


def _result(folder: Path) -> dict[str, Any]:
    """The figures in result.json, the folder, the report where there is one, and each picture by its name."""
    result = read_json(folder / "result.json")
    shown = [Path(name) for name in result["files"] if name.endswith((".png", ".html"))]
    return {"folder": str(folder), **{name.stem: str(folder / name) for name in shown}, **result}


def _statistics(codes: _Codes, settings: Settings, folder: Path) -> dict[str, Any]:
    statistics = token_statistics(codes.locate())
    table = level_table(statistics)
    made_from = {"codes": codes.parts, "encoder": codes.fingerprint, "utterances": len(codes.utterances)}
    return {
        "tokens": int(statistics.value("tokens", None)),
        "hours": statistics.value("seconds", 0) / 3600,
        "bits_per_second": statistics.value("bits_per_second", None),
        **{f"{name}_level_{row['level']}": row[name] for row in table for name in TRENDS if row[name] is not None},
        "table": table,
        "files": write_statistics(folder, statistics, f"snac-pipeline tokens stats {codes.parts}", made_from),
    }


def _sequences(codes: _Codes, settings: Settings, folder: Path) -> dict[str, Any]:
    options, geometry = settings.tokens, codes.geometry
    layout = make_layout(options.layout, geometry, options.offset)
    seconds = options.segment_seconds
    segment = max(1, int(seconds / geometry.frame_seconds)) if seconds else None
    data = folder / "data"
    written = write_sequences(data, codes.locate(), layout, deduplicate=options.deduplicate, segment_frames=segment)
    return {
        "layout": options.layout,
        "ids": sum(written.ids.values()),
        "sequences": sum(written.sequences.values()),
        **{f"{split}_ids": ids for split, ids in written.ids.items()},
        "deduplicate": options.deduplicate,
        "removed_frames": written.removed_frames,
        "removed_seconds": written.removed_frames * geometry.frame_seconds,
        "removed_share": written.removed_share,
        "files": sorted(data.iterdir()),
    }


def _bpe(codes: _Codes, settings: Settings, folder: Path) -> dict[str, Any]:
    """Figures of the layout that is recommended, at the merges with the fewest held-out bits per second, whether these
    are recommended or not; of every layout those that trends are drawn of; `sweep` has all."""
    options = settings.tokens
    sweep = sweep_layouts(
        codes.locate(),
        layouts=options.used_by("bpe")["layouts"],
        merges=options.merges,
        sample_tokens=options.sample_tokens,
        engine=options.engine,
        within=options.merge_within,
        run_length=options.run_length,
    )
    report, advice = sweep.best, sweep.recommendation
    return {
        "layout": advice.layout,
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
        **{
            f"{name}_{one.layout.name}": one.value(name, one.recommendation.best)
            for one in sweep.reports
            for name in ("compression_ratio", "bits_per_second", "bits_per_second_bigram")
        },
        "seconds": sum(one.training.seconds for one in sweep.reports),
        "training_megabytes": _most([one.training.megabytes for one in sweep.reports]),
        "encoded_ids_per_second": report.encoded_ids_per_second(),
        "sweep": sweep_rows(sweep),
        "files": write_bpe(folder, sweep),
    }


def _most(values: list[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


_STEPS = {"statistics": _statistics, "sequences": _sequences, "bpe": _bpe}
