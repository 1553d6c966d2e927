"""Splitting: manifests in; the ledger grown, `<home>/splits/splits.parquet` written. No group is ever moved.

Speakers and contents that the ledger knows keep their place. What is new and connected to a known group joins it. The
rest are new groups: in the order of their hash they go to the split whose share of their stratum, by duration, is not
yet reached, else to "train". Corpora that are given a side as a whole are placed before all others.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import xxhash

from snac_pipeline.corpus.ledger import SIDES, TRAIN, Ledger, load_ledger, locked
from snac_pipeline.corpus.manifest import QUARANTINE, split_quarantine_file
from snac_pipeline.corpus.placing import (
    add_groups,
    choose_splits,
    distinct,
    edges_of,
    join_known,
    new_groups,
    place_given,
)
from snac_pipeline.errors import PipelineError
from snac_pipeline.files import read_parquet, write_parquet

DEFAULT_SHARES = {"val": 0.05}

_NAME = pl.col("corpus") + "/" + pl.col("speaker")

# As numbers the digests of 3.4 M contents are sorted in 1 s of CPU, as texts in 9.
_BY_DIGEST = [
    half.str.to_integer(base=16, dtype=pl.UInt64)
    for half in (pl.col("digest").str.head(16), pl.col("digest").str.tail(16))
]

SPLITS = pl.Schema(dict.fromkeys(("digest", "corpus", "speaker", "group", "split"), pl.String))


@dataclass(frozen=True)
class SplitReport:
    """Counts per split: utterances (distinct contents), hours, speakers. `version` is the hash of (digest, split).

    `nothing_left_for`: by split that was asked for, the strata that have no group in it.
    `speakers_on_both_sides`: names of speakers in several of the corpora "<name>-<split>" of one name whose sides were
    given: these are taken as they are, and only equal content is seen to.
    """

    utterances: dict[str, int]
    hours: dict[str, float]
    speakers: dict[str, int]
    groups: int
    new_groups: int
    quarantined: int
    nothing_left_for: dict[str, list[str]]
    speakers_on_both_sides: int
    version: str


def update_splits(
    manifest: pl.DataFrame,
    home: Path,
    shares: Mapping[str, float] = DEFAULT_SHARES,
    sides: Mapping[str, str] | None = None,
) -> SplitReport:
    """Place every utterance of `manifest` (from `read_manifest`, all corpora together) and write the splits.

    `shares` are the parts of each stratum's duration that go to "val" and, when asked, "test"; the rest is "train".
    Every stratum that has a group to spare gets at least one group per split. `sides` (corpus -> split) places all of a
    corpus. Files that connect groups of different splits are quarantined (stage "split"). Raises PipelineError for
    impossible shares, for a side that contradicts the ledger, and where a split would be empty; then nothing is
    written.
    """
    _check_shares(shares)
    sides = sides or {}
    with locked(home):
        ledger = load_ledger(home)
        files = manifest.with_columns(name=_NAME).sort("corpus", "path")
        given = place_given(files, sides, ledger)
        known, fresh = join_known(edges_of(_without(files, given), ledger), ledger)
        links = pl.concat([given, known])
        kept = _without(files, links)
        contents = distinct(kept).select("digest", "corpus", "speaker", "name", "stratum", "duration")
        groups = choose_splits(new_groups(contents, fresh), contents, shares, ledger)
        add_groups(fresh, groups, ledger)
        splits = _split_rows(contents, ledger)
        _require_all_splits(splits, manifest, shares, sides)
        added = ledger.added_groups()
        ledger.save()
    write_parquet(splits_file(home), splits.to_arrow())
    _write_quarantine(files, links, home)
    return _report(splits, contents, shares, sides, new_groups=added, quarantined=len(files) - len(kept))


def _without(files: pl.DataFrame, links: pl.DataFrame) -> pl.DataFrame:
    return files.join(links, on=["name", "digest"], how="anti", maintain_order="left")


def read_splits(home: Path) -> pl.DataFrame:
    """One row per distinct content: digest, corpus, speaker (of its first file), group, split."""
    file = splits_file(home)
    if not file.exists():
        raise PipelineError(f"no splits at {file}; run `snac-pipeline split` or materialize the asset `splits` first")
    return pl.DataFrame(pl.from_arrow(read_parquet(file)))


def splits_file(home: Path) -> Path:
    return Path(home) / "splits" / "splits.parquet"


def _check_shares(shares: Mapping[str, float]) -> None:
    unknown, values = set(shares) - (set(SIDES) - {TRAIN}), shares.values()
    if unknown or any(not 0 <= share < 1 for share in values) or sum(values) >= 1:
        raise PipelineError(
            f"split shares {dict(shares)}: they are for val and test, each from 0 to below 1, their sum below 1; "
            f"{TRAIN!r} is what is left"
        )


def _asked(shares: Mapping[str, float]) -> list[str]:
    return [*(name for name, share in shares.items() if share > 0), TRAIN]


def _split_rows(contents: pl.DataFrame, ledger: Ledger) -> pl.DataFrame:
    placed = contents.join(ledger.places("digest"), left_on="digest", right_on="member", how="left").select(*SPLITS)
    assert not placed["split"].has_nulls(), "a content has no place"
    return placed.cast(SPLITS).sort(_BY_DIGEST)


def _require_all_splits(
    splits: pl.DataFrame, manifest: pl.DataFrame, shares: Mapping[str, float], sides: Mapping[str, str]
) -> None:
    filled = set(splits["split"].unique())
    empty = [name for name in _asked(shares) if name not in filled]
    if not empty:
        return
    groups, utterances = splits["group"].n_unique(), len(splits)
    corpora = set(manifest["corpus"].unique())
    found = f"{utterances} utterance{'s' * (utterances != 1)} in {groups} group{'s' * (groups != 1)} of speakers"
    if corpora <= set(sides):
        mend = (
            "every corpus has a side of its own: set `split` of one of them to what is missing, leave `split` out "
            "where speakers may be divided, or do not ask for that share"
        )
    elif groups > len(empty):
        mend = (
            "earlier runs placed all of these groups elsewhere and groups never move: add speakers, raise `limit`, or "
            "do not ask for that share"
        )
    elif utterances > groups:
        mend = (
            "add speakers, tell them apart with a pattern (`speaker:` of the corpus in the settings), or, if one "
            "speaker is all there is, split by utterance with `speaker: utterance`"
        )
    else:
        mend = "add more utterances, of other speakers if there are any"
    raise PipelineError(
        f"nothing is left for {' and '.join(empty)}: corpora {', '.join(sorted(corpora))} hold {found}; {mend}"
    )


def _write_quarantine(files: pl.DataFrame, links: pl.DataFrame, home: Path) -> None:
    refused = files.join(links, on=["name", "digest"], maintain_order="left").with_columns(stage=pl.lit("split"))
    schema = pl.Schema({"corpus": pl.String(), **QUARANTINE})
    write_parquet(split_quarantine_file(home), refused.select(*schema).cast(schema).to_arrow())


def _report(
    splits: pl.DataFrame, contents: pl.DataFrame, shares: Mapping[str, float], sides: Mapping[str, str], **counts: int
) -> SplitReport:
    placed = contents.join(splits.select("digest", "split"), on="digest")
    by_split = placed.group_by("split").agg(
        pl.len().alias("utterances"), pl.col("duration").sum() / 3600, pl.col("name").n_unique()
    )
    figures = {split: row for split, *row in by_split.sort("split").iter_rows()}
    return SplitReport(
        utterances={split: row[0] for split, row in figures.items()},
        hours={split: row[1] for split, row in figures.items()},
        speakers={split: row[2] for split, row in figures.items()},
        groups=splits["group"].n_unique(),
        nothing_left_for=_nothing_left(placed.filter(~pl.col("corpus").is_in(list(sides))), _asked(shares)),
        speakers_on_both_sides=_speakers_on_both_sides(contents, sides),
        version=_version(splits),
        **counts,
    )


def _nothing_left(splits: pl.DataFrame, asked: list[str]) -> dict[str, list[str]]:
    strata = splits.group_by("stratum").agg(pl.col("split").unique()).sort("stratum").rows()
    found = {name: [stratum for stratum, filled in strata if name not in filled] for name in asked}
    return {name: without for name, without in found.items() if without}


def _speakers_on_both_sides(contents: pl.DataFrame, sides: Mapping[str, str]) -> int:
    given = pl.DataFrame(
        [(corpus, corpus.removesuffix(f"-{side}"), side) for corpus, side in sides.items()],
        schema=["corpus", "family", "side"],
        schema_overrides=dict.fromkeys(("corpus", "family", "side"), pl.String),
        orient="row",
    )
    speakers = contents.select("corpus", "speaker").unique().join(given, on="corpus").group_by("family", "speaker")
    return speakers.agg(pl.col("side").n_unique()).filter(pl.col("side") > 1).height


def _version(splits: pl.DataFrame) -> str:
    hasher = xxhash.xxh3_128()
    lines = splits.select(line=pl.concat_str("digest", "split", separator=" "))
    for number, piece in enumerate(lines.iter_slices(100_000)):  # as one text, 3.4 M lines take half a gigabyte
        hasher.update(("\n" * (number > 0) + "\n".join(piece["line"])).encode())
    return hasher.hexdigest()
