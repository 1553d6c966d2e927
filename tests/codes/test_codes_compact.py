"""Compacting: fewer parts, the same codes for readers, and nothing lost wherever it is interrupted."""

import random
import shutil
import time
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from geometries import PUBLISHED, random_codes, thin
from hypothesis import given, settings
from hypothesis import strategies as st

from snac_pipeline.codes import compact
from snac_pipeline.codes.compact import carry_out, plan_collection, plan_compaction
from snac_pipeline.codes.parts import cached_digests, part_files, part_metadata, read_codes, write_part
from snac_pipeline.errors import PipelineError

SPEC = thin(PUBLISHED["24khz"])


def write(folder: Path, digests: list[str], **metadata: str) -> Path:
    """A part whose codes follow from the digests, as those of a codec do, sorted by length."""
    frames = {digest: 1 + sum(digest.encode()) % 5 for digest in digests}
    ordered = sorted(digests, key=lambda digest: (frames[digest], digest))
    codes = [[level[0].numpy() for level in random_codes(SPEC, frames[d], seed=sum(d.encode()))] for d in ordered]
    folder.mkdir(exist_ok=True)
    lengths = [SPEC.samples(frames[digest]) for digest in ordered]
    return write_part(folder, ordered, lengths, codes, SPEC, {"torch": "1", "device": "cpu", **metadata})


def names(count: int, first: int = 0) -> list[str]:
    return [f"{i:04x}" for i in range(first, first + count)]


def view(folder: Path) -> list[tuple]:
    """What readers see: every digest once."""
    digests = sorted(cached_digests(folder)["digest"])
    rows = read_codes(folder, digests) if digests else None
    return [] if rows is None else [(row[0], row[1], *map(tuple, row[3:])) for row in rows.rows()]


def run(folder: Path, limit: int) -> None:
    carry_out(folder, plan_compaction(folder, limit))


def test_small_parts_become_one_sorted_by_length_with_the_metadata_of_a_part(tmp_path):
    folder = tmp_path / "0123"
    for i in range(6):
        write(folder, names(5, 5 * i), torch=str(1 + i % 2))
    before = view(folder)
    run(folder, 100)
    [part] = part_files(folder)
    rows = pq.read_table(part)
    assert rows["num_samples"].to_pylist() == sorted(rows["num_samples"].to_pylist())
    assert view(folder) == before and len(before) == 30
    assert pq.read_metadata(part).num_row_groups == 1
    facts = part_metadata(part)
    assert (facts["torch"], facts["device"], facts["fingerprint"]) == ("1, 2", "cpu", "0123")
    assert facts.keys() == {"torch", "device", "fingerprint", "codec"}
    assert "BYTE_STREAM_SPLIT" in pq.read_metadata(part).row_group(0).column(3).encodings


def test_parts_stay_below_the_limit_and_large_ones_are_not_touched(tmp_path):
    large = write(tmp_path / "p", names(10))
    for i in range(9):
        write(tmp_path / "p", names(4, 100 + 4 * i))
    run(tmp_path / "p", 10)
    sizes = [pq.read_metadata(part).num_rows for part in part_files(tmp_path / "p")]
    assert large in part_files(tmp_path / "p")
    assert sorted(sizes) == [4, 8, 8, 8, 8, 10], "one of the small ones is left over"
    assert plan_compaction(tmp_path / "p", 10) == []


def test_a_row_is_written_once_and_one_that_a_large_part_holds_is_not_written(tmp_path):
    folder = tmp_path / "p"
    write(folder, names(10))
    write(folder, [*names(3, 8), *names(2, 50)])
    write(folder, [*names(2, 50), *names(2, 60)])
    before = view(folder)
    run(folder, 20)
    rows = [digest for part in part_files(folder) for digest in pq.read_table(part)["digest"].to_pylist()]
    assert len(rows) == len(set(rows)) == 15 and view(folder) == before


def test_a_small_part_that_others_hold_wholly_goes(tmp_path):
    large, small = write(tmp_path / "p", names(10)), write(tmp_path / "p", names(3))
    [plan] = plan_compaction(tmp_path / "p", 20)
    assert (plan.old, plan.written) == ([small], 0)
    run(tmp_path / "p", 20)
    assert part_files(tmp_path / "p") == [large]


def flip(part: Path, column: int) -> None:
    data = bytearray(part.read_bytes())
    chunk = pq.read_metadata(part).row_group(0).column(column)
    data[chunk.data_page_offset + chunk.total_compressed_size - 1] ^= 1
    part.write_bytes(data)


def test_a_part_whose_only_other_copy_is_damaged_stays(tmp_path):
    large, small = write(tmp_path / "p", names(10)), write(tmp_path / "p", names(3))
    flip(large, column=4)
    with pytest.raises(PipelineError, match=f"{large.name} is damaged"):
        run(tmp_path / "p", 20)
    assert small.exists()


def test_a_damaged_small_part_is_named_and_nothing_goes(tmp_path):
    parts = [write(tmp_path / "p", names(3, 10 * i)) for i in range(3)]
    flip(parts[1], column=5)
    with pytest.raises(PipelineError, match=f"{parts[1].name} is damaged"):
        run(tmp_path / "p", 20)
    assert part_files(tmp_path / "p") == sorted(parts)


class Crash(BaseException):
    pass


@pytest.mark.parametrize("what", ["compaction", "collection"])
def test_interrupted_anywhere_nothing_is_lost_and_the_next_call_ends_the_same(tmp_path, monkeypatch, what):
    """Every write and every unlink is, once each, the last thing that happens; then it is run again."""

    write(tmp_path / "filled", names(12))
    for i in range(5):
        write(tmp_path / "filled", [*names(4, 20 + 4 * i), *names(1, i), *names(1, 21 + 4 * ((i + 1) % 5))])

    def fill(folder: Path) -> None:
        shutil.copytree(tmp_path / "filled", folder)

    needed = set(names(9)) | {name for i in range(5) for name in names(3, 20 + 4 * i)[i % 3 :]}

    def plans(folder: Path) -> list:
        if what == "compaction":
            return plan_compaction(folder, 14)
        return plan_collection(folder, pl.DataFrame({"digest": sorted(needed)}))

    def seen(folder: Path) -> list[tuple]:
        return [row for row in view(folder) if what == "compaction" or row[0] in needed]

    fill(tmp_path / "whole")
    before = seen(tmp_path / "whole")
    carry_out(tmp_path / "whole", plans(tmp_path / "whole"))
    assert seen(tmp_path / "whole") == before and len(before) > 12
    write_rows, unlink = compact.write_rows, Path.unlink

    for step in range(100):
        folder = tmp_path / f"crash{step}"
        fill(folder)
        left = [step]

        def counted(call, left=left):
            def counting(*arguments, **options):
                if left[0] == 0:
                    raise Crash
                left[0] -= 1
                return call(*arguments, **options)

            return counting

        with monkeypatch.context() as patched:
            patched.setattr(compact, "write_rows", counted(write_rows))
            patched.setattr(Path, "unlink", counted(unlink))
            try:
                carry_out(folder, plans(folder))
                finished = True
            except Crash:
                finished = False
        assert seen(folder) == before
        carry_out(folder, plans(folder))
        assert seen(folder) == before
        assert plans(folder) == []
        if finished:
            break
    assert step > 5


@settings(max_examples=15, deadline=None)
@given(
    parts=st.lists(st.sets(st.integers(0, 40), min_size=1, max_size=12), min_size=1, max_size=10),
    limit=st.integers(1, 30),
    needed=st.sets(st.integers(0, 40)),
)
def test_whatever_the_parts_readers_see_the_same(tmp_path_factory, parts, limit, needed):
    folder = tmp_path_factory.mktemp("any")
    for members in parts:
        write(folder, [f"{i:04x}" for i in members])
    before, stayed = view(folder), [part for part in part_files(folder) if 2 * pq.read_metadata(part).num_rows >= limit]
    run(folder, limit)
    assert view(folder) == before
    assert set(stayed) <= set(part_files(folder))
    sizes = [pq.read_metadata(part).num_rows for part in part_files(folder)]
    assert sum(2 * size < limit for size in sizes) <= 1
    wanted = pl.DataFrame({"digest": [f"{i:04x}" for i in needed]}, schema={"digest": pl.String})
    carry_out(folder, plan_collection(folder, wanted))
    kept = {row[0] for row in view(folder)}
    assert [row for row in view(folder) if row[0] in wanted["digest"]] == [
        row for row in before if row[0] in wanted["digest"]
    ]
    for part in part_files(folder):
        digests = set(pq.read_table(part)["digest"].to_pylist())
        assert 2 * len(digests & set(wanted["digest"])) > len(digests) and digests <= kept


def test_a_part_stays_when_somebody_took_the_one_that_its_rows_are_read_from(tmp_path):
    folder = tmp_path / "p"
    first, second = sorted([write(folder, names(4)), write(folder, names(3))])
    [plan] = plan_collection(folder, pl.DataFrame({"digest": names(3)}))
    assert (plan.old, plan.elsewhere) == ([second], [first])
    first.unlink()
    carry_out(folder, [plan])
    assert part_files(folder) == [second]


def test_groups_do_not_depend_on_the_order_of_files(tmp_path):
    parts = [names(4, 10 * i) for i in range(8)]
    written = []
    for seed in range(2):
        folder = tmp_path / str(seed)
        for members in random.Random(seed).sample(parts, len(parts)):
            write(folder, members)
        run(folder, 12)
        written.append([part.name for part in part_files(folder)])
    assert written[0] == written[1] and len(np.unique(written[0])) == 3


def test_twenty_times_the_parts_take_about_as_many_times_as_long_to_plan_and_not_the_square_of_it(
    tmp_path, monkeypatch
):
    def seconds(parts: int) -> float:
        digests = pl.Series("digest", range(200 * parts)).cast(pl.String)
        held = pl.DataFrame({"digest": digests, "part": pl.Series(np.repeat(np.arange(parts, dtype=np.uint32), 200))})
        monkeypatch.setattr(compact, "part_files", lambda folder: [folder / str(part) for part in range(parts)])
        monkeypatch.setattr(compact, "held_digests", lambda files: held)
        began = time.process_time()
        assert len(plan_collection(tmp_path, held.gather_every(4))) == parts
        return time.process_time() - began

    few = max(0.01, min(seconds(100) for _ in range(3)))
    assert seconds(2000) < 100 * few
