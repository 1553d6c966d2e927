"""The split ledger: which group and split every speaker and every content ever seen belongs to. Rows are only added.

A member is of kind "speaker" ("corpus/name") or "digest" (32 hex digits). A group is named by the hash of its first
speakers' names, so that the same corpus gives the same groups in any home and in any order.
"""

import contextlib
import fcntl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from snac_pipeline.errors import PipelineError
from snac_pipeline.files import make_folder, read_parquet, write_parquet

TRAIN = "train"
SIDES = (TRAIN, "val", "test")

SCHEMA = pl.Schema(
    {"kind": pl.Enum(["speaker", "digest"]), "member": pl.String(), "group": pl.String(), "split": pl.Enum(SIDES)}
)

MEND = (
    "restore it from a copy: it alone knows which speakers decoders were trained on. Without it all are placed anew, "
    "perhaps on another side: delete it only together with `decoders/` and `runs/` beside it"
)


@dataclass
class Ledger:
    """`rows` of all members; those from `saved` on are not on the disk yet."""

    file: Path
    rows: pl.DataFrame
    saved: int

    def places(self, kind: str) -> pl.DataFrame:
        """member, group, split of all speakers or of all digests."""
        return self.rows.filter(pl.col("kind") == kind).select("member", "group", "split")

    def add(self, kind: str, places: pl.DataFrame) -> None:
        """Append `places` (member, group, split) of members that have none yet."""
        new = places.select(pl.lit(kind).alias("kind"), "member", "group", "split").cast(SCHEMA)
        self.rows = pl.concat([self.rows, new])

    def added_groups(self) -> int:
        """The number of groups that are not on the disk yet."""
        old, new = (rows["group"].unique() for rows in (self.rows[: self.saved], self.rows[self.saved :]))
        return len(new) - int(new.is_in(old.implode()).sum())

    def save(self) -> None:
        """Append what was added; nothing is written when nothing was added."""
        if len(self.rows) == self.saved:
            return
        assert not self.rows.select(pl.struct("kind", "member").is_duplicated().any()).item(), "a member has two places"
        texts = pl.Schema({name: pl.String for name in SCHEMA})
        write_parquet(self.file, self.rows.cast(texts).to_arrow())
        self.saved = len(self.rows)


def ledger_file(home: Path) -> Path:
    return Path(home) / "splits" / "ledger.parquet"


def load_ledger(home: Path) -> Ledger:
    file = ledger_file(home)
    rows = pl.DataFrame(schema=SCHEMA)
    if file.exists():
        rows = pl.DataFrame(pl.from_arrow(read_parquet(file, mend=MEND))).select(*SCHEMA).cast(SCHEMA)
    return Ledger(file, rows, len(rows))


@contextlib.contextmanager
def locked(home: Path) -> Iterator[None]:
    """One writer of the ledger at a time: two that append to the same old rows would lose one's additions."""
    file = make_folder(ledger_file(home).parent) / ".lock"
    try:
        handle = file.open("w")
    except OSError as error:
        raise PipelineError(
            f"cannot write {file}: {error.strerror}; choose another `home` in the settings or give this user access"
        ) from error
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
