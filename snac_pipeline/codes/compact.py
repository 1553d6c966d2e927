"""Rewriting parts: small ones become few, and rows that nobody needs are left behind.

In: a folder of parts. Out: other parts that give readers the same rows. A new part is committed before old ones go, and
those go only when each of their digests has been read from a part that stays. So a crash at any point loses nothing,
and the same call again ends where it would have. The codes of one new part are in memory at a time. Not to be run while
another process reads codes of the folder: it may have listed a part that goes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from snac_pipeline.codes.parts import first_held, held_digests, part_files, part_metadata, write_rows
from snac_pipeline.files import flush_folder, read_footer, read_parquet


@dataclass(frozen=True)
class Rewrite:
    """Parts that go, and what of them is written into one new part first."""

    old: list[Path]
    kept: list[pl.Series]
    """For each of `old` the digests that are written."""
    dropped: pl.Series
    """Digests of `old` that are needed but not written, because readers find them in one of `elsewhere`."""
    elsewhere: list[Path]
    rows: int
    """Rows of `old`."""

    @property
    def written(self) -> int:
        """Rows of the new part."""
        return sum(len(digests) for digests in self.kept)

    @property
    def bytes(self) -> int:
        """Size of `old`."""
        return sum(part.stat().st_size for part in self.old)


def plan_compaction(folder: Path, part_utterances: int) -> list[Rewrite]:
    """Which small parts, of less than half of `part_utterances` rows, become one of at most `part_utterances`.

    Neighbours in length are merged, as they share a part when they are encoded; at most one small part is left. A row
    that is in a large part too is not written again.
    """
    parts = part_files(folder)
    held = held_digests(parts)
    sizes = held.group_by("part").len().filter(2 * pl.col("len") < part_utterances)
    large = held.join(sizes, on="part", how="anti")
    kept = first_held(held.join(sizes, on="part", how="semi", maintain_order="left"))
    kept = kept.join(large, on="digest", how="anti", maintain_order="left")
    counts = dict(kept.group_by("part").len().iter_rows())
    by_length = sorted(sizes["part"], key=lambda part: (_shortest(parts[part]), part))
    groups = _groups([(part, counts.get(part, 0)) for part in by_length], part_utterances)
    merged = [group for group in groups if len(group) > 1 or counts.get(group[0], 0) == 0]
    return list(_rewrites(parts, merged, held, kept, needed=held))


def plan_collection(folder: Path, needed: pl.DataFrame) -> list[Rewrite]:
    """Which parts have rows of which at least half are not read: their digest is not in `needed` (column digest), or
    is read from another part."""
    parts = part_files(folder)
    held = held_digests(parts)
    read = first_held(held).join(needed, on="digest", how="semi", maintain_order="left")
    counts = dict(read.group_by("part").len().iter_rows())
    sizes = held.group_by("part").len().sort("part").iter_rows()
    unread = [[part] for part, rows in sizes if 2 * counts.get(part, 0) <= rows]
    return list(_rewrites(parts, unread, held, read, needed))


def carry_out(folder: Path, plans: Sequence[Rewrite]) -> None:
    """Do what was planned, part by part.

    A part of which a needed digest is not found in a part that stays (somebody else has changed the folder) stays too.
    Raises PipelineError naming a damaged part; nothing that relies on it has gone then.
    """
    new: list[Path] = []
    for plan in plans:
        if plan.written:
            new.append(_write(folder, plan))
        going = [part for part in plan.old if part not in new]
        staying = [part for part in plan.elsewhere if part.exists()] if len(plan.dropped) else []
        # What a plan relies on may have been rewritten by one before it.
        staying += [part for part in new if part.exists()] if len(plan.dropped) else new[-1:]
        if _can_be_read(pl.concat([*plan.kept, plan.dropped]), staying):
            for part in going:
                part.unlink(missing_ok=True)
            flush_folder(folder)


def _rewrites(
    parts: Sequence[Path],
    groups: Sequence[Sequence[int]],
    held: pl.DataFrame,
    kept: pl.DataFrame,
    needed: pl.DataFrame,
) -> Iterator[Rewrite]:
    """The rewriting of each group of parts. kept: the rows (digest, part) that are written, of all groups."""
    # Rows are given to their parts once: looked up for each group they would take minutes for millions.
    rows, written = dict(held.group_by("part").len().iter_rows()), _by_part(kept)
    wanted = _by_part(held.join(needed, on="digest", how="semi", maintain_order="left"))
    shared = held.filter(pl.col("digest").is_duplicated())
    for group in groups:
        own = [written.get(part, _NOTHING) for part in group]
        inside = pl.concat([wanted.get(part, _NOTHING) for part in group]).unique()
        dropped = inside.filter(~inside.is_in(pl.concat(own).implode()))
        elsewhere = []
        if len(dropped):
            outside = shared.filter(~pl.col("part").is_in(group))
            first = first_held(outside.join(dropped.to_frame(), on="digest", how="semi", maintain_order="left"))
            elsewhere = [parts[part] for part in first["part"].unique().sort()]
        yield Rewrite([parts[part] for part in group], own, dropped, elsewhere, sum(rows[part] for part in group))


_NOTHING = pl.Series("digest", [], pl.String)


def _by_part(rows: pl.DataFrame) -> dict[int, pl.Series]:
    return {part: own["digest"] for (part,), own in rows.partition_by("part", as_dict=True).items()}


def _groups(counted: Sequence[tuple[int, int]], limit: int) -> Iterator[list[int]]:
    """Runs of parts with at most `limit` rows together; counted: (part, rows to write) of fewer than limit / 2 each."""
    group: list[int] = []
    total = 0
    for part, rows in counted:
        if total + rows > limit:
            yield group
            group, total = [], 0
        group.append(part)
        total += rows
    if group:
        yield group


def _shortest(part: Path) -> int:
    """Samples of the part's shortest utterance, from the statistics in its footer."""
    _, metadata = read_footer(part)
    column = metadata.schema.names.index("num_samples")
    return int(metadata.row_group(0).column(column).statistics.min)


def _write(folder: Path, plan: Rewrite) -> Path:
    """Commit the new part: the kept rows, shortest first."""
    tables: list[pa.Table] = []
    facts: dict[str, set[str]] = {}
    for part, digests in zip(plan.old, plan.kept, strict=True):
        if len(digests):
            table = read_parquet(part)
            tables.append(table.filter(pc.is_in(table["digest"], digests.to_arrow().cast(pa.string()))))
            for name, value in part_metadata(part).items():
                facts.setdefault(name, set()).add(value)
    rows = pa.concat_tables([table.replace_schema_metadata(None) for table in tables])
    rows = rows.sort_by([("num_samples", "ascending"), ("digest", "ascending")])
    return write_rows(folder, rows, {name: ", ".join(sorted(values)) for name, values in facts.items()})


def _can_be_read(digests: pl.Series, parts: Sequence[Path]) -> bool:
    """Whether all of `digests` are in `parts`, of which those that hold one are read whole, checksums and all."""
    held = first_held(held_digests(parts)).join(digests.to_frame("digest"), on="digest", how="semi")
    for part in held["part"].unique():
        read_parquet(parts[part])
    return len(held) == digests.n_unique()
