"""Splitting: manifests in; the ledger grown, `<home>/splits/splits.parquet` written. No group is ever moved.

Speakers and contents that the ledger knows keep their place. What is new and connected to a known group joins it. The
rest are new groups: in the order of their hash they go to the split whose share of their stratum, by duration, is not
yet reached, else to "train".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import xxhash

from snac_pipeline.corpus.ledger import Ledger, load_ledger, locked
from snac_pipeline.corpus.manifest import QUARANTINE, split_quarantine_file
from snac_pipeline.corpus.placing import TRAIN, assign, distinct, find_new_groups, join_known, known_durations
from snac_pipeline.errors import PipelineError
from snac_pipeline.files import read_parquet, write_parquet

DEFAULT_SHARES = {"val": 0.05}

SPLITS = {"digest": pl.String, "corpus": pl.String, "speaker": pl.String, "group": pl.String, "split": pl.String}


@dataclass(frozen=True)
class SplitReport:
    """Counts per split: utterances (distinct contents), hours, speakers. `version` is the hash of (digest, split)."""

    utterances: dict[str, int]
    hours: dict[str, float]
    speakers: dict[str, int]
    groups: int
    new_groups: int
    quarantined: int
    version: str


def update_splits(manifest: pl.DataFrame, home: Path, shares: Mapping[str, float] = DEFAULT_SHARES) -> SplitReport:
    """Place every utterance of `manifest` (from `read_manifest`, all corpora together) and write the splits.

    `shares` are the parts of each stratum's duration that go to "val" and, when asked, "test"; the rest is "train".
    Every stratum that has a group to spare gets at least one group per split. Files that connect groups of different
    splits are quarantined (stage "split"). Raises PipelineError for impossible shares, and where a split would be
    empty; then nothing is written.
    """
    _check_shares(shares)
    with locked(home):
        ledger = load_ledger(home)
        files = manifest.with_columns(name=pl.col("corpus") + "/" + pl.col("speaker")).sort("corpus", "path")
        linking = join_known(files, ledger)
        kept = files.filter(
            ~pl.Series([row in linking for row in files.select("name", "digest").iter_rows()], dtype=pl.Boolean)
        )
        new_groups = find_new_groups(kept, ledger)
        assign(new_groups, known_durations(kept, ledger), shares, ledger)
        splits = _split_rows(kept, ledger)
        _require_all_splits(splits, manifest, shares)
        ledger.save()
    write_parquet(splits_file(home), splits.to_arrow())
    _write_quarantine(files, linking, home)
    return _report(splits, kept, len(new_groups), len(files) - len(kept))


def read_splits(home: Path) -> pl.DataFrame:
    """One row per distinct content: digest, corpus, speaker (of its first file), group, split."""
    file = splits_file(home)
    if not file.exists():
        raise PipelineError(f"no splits at {file}; run `snac-pipeline split` or materialize the asset `splits` first")
    return pl.DataFrame(pl.from_arrow(read_parquet(file)))


def splits_file(home: Path) -> Path:
    return Path(home) / "splits" / "splits.parquet"


def _check_shares(shares: Mapping[str, float]) -> None:
    wrong = TRAIN in shares or any(not 0 <= share < 1 for share in shares.values()) or sum(shares.values()) >= 1
    if wrong:
        raise PipelineError(
            f"split shares {dict(shares)}: each must be from 0 to below 1, their sum below 1; {TRAIN!r} is what is left"
        )


def _split_rows(files: pl.DataFrame, ledger: Ledger) -> pl.DataFrame:
    first = distinct(files).sort("digest")
    places = [ledger.places["digest", digest] for digest in first["digest"]]
    return first.with_columns(
        group=pl.Series([place.group for place in places], dtype=pl.String),
        split=pl.Series([place.split for place in places], dtype=pl.String),
    ).select(*SPLITS)


def _require_all_splits(splits: pl.DataFrame, manifest: pl.DataFrame, shares: Mapping[str, float]) -> None:
    filled = set(splits["split"])
    empty = [name for name in (*(name for name, share in shares.items() if share > 0), TRAIN) if name not in filled]
    if not empty:
        return
    groups, utterances = splits["group"].n_unique(), len(splits)
    corpora = ", ".join(sorted(set(manifest["corpus"])))
    found = f"{utterances} utterance{'s' * (utterances != 1)} in {groups} group{'s' * (groups != 1)} of speakers"
    if groups > len(empty):
        mend = "earlier runs placed all of these groups elsewhere and groups never move: add speakers or raise `limit`"
    elif utterances > groups:
        mend = (
            "add speakers, tell them apart with a pattern (`speaker:` of the corpus in pipeline.yaml), or, if one "
            "speaker is all there is, split by utterance with `speaker: utterance`"
        )
    else:
        mend = "add more utterances, of other speakers if there are any"
    raise PipelineError(f"nothing is left for {' and '.join(empty)}: corpora {corpora} hold {found}; {mend}")


def _write_quarantine(files: pl.DataFrame, linking: Mapping[tuple[str, str], str], home: Path) -> None:
    rows = [
        {**row, "reason": linking[row["name"], row["digest"]], "stage": "split"}
        for row in files.iter_rows(named=True)
        if (row["name"], row["digest"]) in linking
    ]
    table = pl.DataFrame(rows, schema={"corpus": pl.String, **QUARANTINE}).to_arrow()
    write_parquet(split_quarantine_file(home), table)


def _report(splits: pl.DataFrame, files: pl.DataFrame, new_groups: int, quarantined: int) -> SplitReport:
    durations = splits.join(distinct(files).select("digest", "duration"), on="digest")
    counts = durations.group_by("split").agg(
        pl.len().alias("utterances"),
        (pl.col("duration").sum() / 3600).alias("hours"),
        pl.struct("corpus", "speaker").n_unique().alias("speakers"),
    )
    by_split = {row["split"]: row for row in counts.sort("split").iter_rows(named=True)}
    lines = splits.sort("digest").select(pl.concat_str("digest", "split", separator=" ")).to_series()
    return SplitReport(
        utterances={name: row["utterances"] for name, row in by_split.items()},
        hours={name: row["hours"] for name, row in by_split.items()},
        speakers={name: row["speakers"] for name, row in by_split.items()},
        groups=splits["group"].n_unique(),
        new_groups=new_groups,
        quarantined=quarantined,
        version=xxhash.xxh3_128_hexdigest("\n".join(lines).encode()),
    )
