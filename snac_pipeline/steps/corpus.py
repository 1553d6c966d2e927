"""Scan and split."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from snac_pipeline.corpus import (
    Corpus,
    manifest_version,
    read_manifest,
    read_splits,
    read_utterances,
    scan,
    update_splits,
    write_folders,
)
from snac_pipeline.corpus.manifest import manifest_file, quarantine_file
from snac_pipeline.corpus.plots import draw_durations, draw_sides
from snac_pipeline.errors import PipelineError
from snac_pipeline.files import read_parquet
from snac_pipeline.settings import Settings

OnEvent = Callable[[dict[str, Any]], None]


def corpus_of(settings: Settings, name: str, limit: int | None = None) -> Corpus:
    """The named corpus of the settings; PipelineError lists the names there are."""
    if name not in settings.corpora:
        raise PipelineError(f"no corpus is called {name!r}; the settings name {', '.join(settings.corpora)}")
    options = settings.corpora[name]
    assert options.path is not None, "settings have a corpus for each ready-made folder"
    return Corpus(
        name,
        options.path,
        speaker=options.speaker,
        metadata=options.metadata,
        confined=options.confined,
        limit=limit or settings.limit,
    )


def scan_corpus(settings: Settings, name: str, limit: int | None, on_event: OnEvent) -> dict[str, Any]:
    """Bring one corpus's manifest and quarantine up to date."""

    def progress(done: int, total: int) -> None:
        if done % max(1, total // 100) == 0:
            on_event({"message": f"{done}/{total} files read", "fraction": done / total})

    report = asdict(scan(corpus_of(settings, name, limit), settings.home, progress=progress))
    picture = settings.home / "manifest" / f"{name}.png"
    draw_durations(picture, read_parquet(manifest_file(settings.home, name), columns=["duration", "bandwidth"]))
    return {**report, "durations": str(picture)}


def first_set_aside(settings: Settings, name: str, at_most: int = 5) -> dict[str, Any]:
    """For people: the first files in one corpus's quarantine with their reasons, and where all of them are."""
    rows = read_parquet(quarantine_file(settings.home, name), columns=["path", "reason"])
    if not len(rows):
        return {}
    first = rows.slice(0, at_most).to_pylist()
    return {
        "why_quarantined": {row["path"]: row["reason"] for row in first},
        "all_quarantined": str(quarantine_file(settings.home, name)),
    }


def split_corpora(settings: Settings) -> dict[str, Any]:
    """Give every speaker of every corpus a side; those that have one keep it."""
    manifest = read_manifest(settings.home, list(settings.corpora))
    shares = {"val": settings.split.val, "test": settings.split.test}
    sides = {name: corpus.split for name, corpus in settings.corpora.items() if corpus.split is not None}
    figures = asdict(update_splits(manifest, settings.home, shares, sides))
    counts, hours = figures.pop("utterances"), figures.pop("hours")
    picture = settings.home / "splits" / "splits.png"
    durations = manifest.select("digest", "duration").unique("digest")
    draw_sides(picture, read_splits(settings.home).join(durations, on="digest"))
    names = ["train", "val", *(["test"] if settings.split.test or "test" in counts else [])]
    return {
        **{name: counts.get(name, 0) for name in names},
        **{f"{name}_hours": hours.get(name, 0.0) for name in names},
        "manifest": manifest_version(manifest),
        "sides": str(picture),
        **figures,
    }


def export_splits(settings: Settings, folder: Path, copy: bool, on_event: OnEvent) -> dict[str, Any]:
    """Write the splits as folders `train/`, `val/` and, where there is one, `test/`."""

    def progress(done: int, total: int) -> None:
        if done % max(1, total // 100) == 0:
            on_event({"message": f"{done}/{total} files written", "fraction": done / total})

    utterances = read_utterances(settings.home, list(settings.corpora))
    report = asdict(write_folders(utterances, folder, copy=copy, progress=progress))
    return {"folder": str(report.pop("folder")), **report}
