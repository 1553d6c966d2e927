"""The split ledger: which group and split every speaker and every content ever seen belongs to. Rows are only added.

A member is ("speaker", "corpus/name") or ("digest", 32 hex digits). A group is named by the hash of its first speakers'
names, so that the same corpus gives the same groups in any home and in any order.
"""

import contextlib
import fcntl
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import xxhash

from snac_pipeline.errors import PipelineError
from snac_pipeline.files import make_folder, read_parquet, write_parquet

SCHEMA = {"kind": pl.String, "member": pl.String, "group": pl.String, "split": pl.String}

Member = tuple[str, str]


@dataclass(frozen=True)
class Place:
    group: str
    split: str


@dataclass
class Ledger:
    """`places` of all members; `added` are those that are not on the disk yet."""

    file: Path
    places: dict[Member, Place] = field(default_factory=dict)
    added: dict[Member, Place] = field(default_factory=dict)

    def place(self, member: Member) -> Place | None:
        return self.places.get(member)

    def add(self, member: Member, place: Place) -> None:
        assert member not in self.places, f"{member} has its place already"
        self.places[member] = self.added[member] = place

    def save(self) -> None:
        """Append what was added, in the order of its addition; nothing is written when nothing was added."""
        if not self.added:
            return
        rows = [(kind, member, place.group, place.split) for (kind, member), place in self.added.items()]
        new = pl.DataFrame(rows, schema=SCHEMA, orient="row")
        write_parquet(self.file, pl.concat([_read(self.file), new]).to_arrow())
        self.added = {}


def ledger_file(home: Path) -> Path:
    return Path(home) / "splits" / "ledger.parquet"


def load_ledger(home: Path) -> Ledger:
    file = ledger_file(home)
    places: dict[tuple[str, str], Place] = {}  # one object per group, not per member
    return Ledger(
        file,
        {
            (kind, member): places.setdefault((group, split), Place(group, split))
            for kind, member, group, split in _read(file).iter_rows()
        },
    )


@contextlib.contextmanager
def locked(home: Path) -> Iterator[None]:
    """One writer of the ledger at a time: two that append to the same old rows would lose one's additions."""
    file = make_folder(ledger_file(home).parent) / ".lock"
    try:
        handle = file.open("w")
    except OSError as error:
        raise PipelineError(
            f"cannot write {file}: {error.strerror}; choose another `home` in pipeline.yaml or give this user access"
        ) from error
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def group_name(members: list[Member]) -> str:
    """Smallest xxh3_128 of the speakers' names: unchanged by new files and, mostly, by new members; also the order in
    which groups are offered to the splits."""
    return min(xxhash.xxh3_128_hexdigest(name.encode()) for kind, name in members if kind == "speaker")


def _read(file: Path) -> pl.DataFrame:
    if not file.exists():
        return pl.DataFrame(schema=SCHEMA)
    return pl.DataFrame(pl.from_arrow(read_parquet(file))).cast(SCHEMA)
