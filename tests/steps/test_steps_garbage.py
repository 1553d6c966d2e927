"""Collecting garbage: found first, deleted only when asked to, and never what is needed."""

import os
import shutil
import time

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from snac_pipeline.codes.parts import cached_digests, part_files
from snac_pipeline.errors import PipelineError
from snac_pipeline.steps.garbage import collect_garbage


@pytest.fixture
def own(settings, tmp_path):
    """The project with a home of its own."""
    shutil.copytree(settings.home, tmp_path / "home")
    return settings.model_copy(update={"home": tmp_path / "home"})


def parts_of(settings):
    [folder] = (settings.home / "codes").iterdir()
    return folder


def forget(settings, digests):
    """Take recordings out of the manifest, as scanning does when their files are gone."""
    file = settings.home / "manifest" / "made.parquet"
    table = pq.read_table(file)
    pq.write_table(table.filter(pc.invert(pc.is_in(table["digest"], pa.array(digests)))), file)


def test_in_a_home_where_all_is_needed_nothing_is_found(own):
    assert collect_garbage(own, delete=True)["paths"] == []
    assert part_files(parts_of(own))


def test_a_part_goes_when_none_of_its_recordings_is_there_any_more_and_only_when_asked(own):
    folder = parts_of(own)
    before = cached_digests(folder)
    gone = part_files(folder)[0]
    forget(own, [digest for digest, part in before.items() if part == gone])

    listed = collect_garbage(own, delete=False)
    assert (listed["parts"], listed["paths"], listed["deleted"]) == (1, [str(gone.relative_to(own.home))], False)
    assert gone.exists()
    collect_garbage(own, delete=True)
    assert not gone.exists()
    assert cached_digests(folder) == {digest: part for digest, part in before.items() if part != gone}


def test_a_part_with_one_needed_recording_stays_whole(own):
    folder = parts_of(own)
    before = cached_digests(folder)
    part = max(part_files(folder), key=list(before.values()).count)
    rows = [digest for digest, place in before.items() if place == part]
    assert len(rows) > 1
    forget(own, rows[1:])
    assert collect_garbage(own, delete=True)["parts"] == 0
    assert cached_digests(folder) == before


def test_what_a_killed_process_left_goes_after_a_day(own):
    left = own.home / "codes" / ".tmp-left.parquet"
    left.write_bytes(b"half a part")
    assert collect_garbage(own, delete=True)["temporary"] == 0
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(left, (two_days_ago, two_days_ago))
    found = collect_garbage(own, delete=True)
    assert (found["temporary"], found["bytes"]) == (1, len(b"half a part"))
    assert not left.exists()


def test_after_a_scan_with_a_limit_nobody_knows_what_is_needed(own):
    with pytest.raises(PipelineError, match="limit"):
        collect_garbage(own.model_copy(update={"limit": 3}), delete=True)
