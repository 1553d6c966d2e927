"""Collecting garbage: found first, deleted only when asked to, and never what is needed."""

import os
import shutil
import time
from pathlib import Path

import made_codes as made
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from snac_pipeline.codes.parts import part_files
from snac_pipeline.errors import PipelineError
from snac_pipeline.settings import CachingSettings
from snac_pipeline.steps.codes import compact_codes
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
    before = made.places(folder)
    gone = part_files(folder)[0]
    forget(own, [digest for digest, part in before.items() if part == gone])

    listed = collect_garbage(own, delete=False)
    assert (listed["parts"], listed["paths"], listed["deleted"]) == (1, [str(gone.relative_to(own.home))], False)
    assert gone.exists()
    collect_garbage(own, delete=True)
    assert not gone.exists()
    assert made.places(folder) == {digest: part for digest, part in before.items() if part != gone}


def fullest(settings):
    """The part with most rows, and its digests."""
    places = made.places(parts_of(settings))
    part = max(part_files(parts_of(settings)), key=list(places.values()).count)
    digests = [digest for digest, place in places.items() if place == part]
    assert len(digests) > 1
    return part, digests


def test_a_part_of_which_half_is_needed_by_nobody_is_written_again_without_it(own):
    folder = parts_of(own)
    before = made.all_rows(folder)
    part, digests = fullest(own)
    gone = digests[: -(-len(digests) // 2)]
    forget(own, gone)
    listed = collect_garbage(own, delete=False)
    assert (listed["parts"], listed["parts_rewritten"], listed["rows"]) == (0, 1, len(gone))
    assert 0 < listed["bytes"] < part.stat().st_size and listed["paths"] == [str(part.relative_to(own.home))]
    assert made.all_rows(folder).keys() == before.keys()
    collect_garbage(own, delete=True)
    assert not part.exists()
    for digest in gone:
        del before[digest]
    made.assert_same_codes(made.all_rows(folder), before)
    assert collect_garbage(own, delete=True)["rows"] == 0


def test_a_part_of_which_most_is_needed_stays_as_it_is(own):
    compact_codes(own.model_copy(update={"caching": CachingSettings(part_utterances=100)}), dry_run=False)
    part, digests = fullest(own)
    forget(own, digests[: (len(digests) - 1) // 2])
    assert collect_garbage(own, delete=True)["parts_rewritten"] == 0
    assert part.exists()


def test_what_a_killed_process_left_goes_after_a_day(own):
    left = own.home / "codes" / ".tmp-left.parquet"
    left.write_bytes(b"half a part")
    assert collect_garbage(own, delete=True)["temporary"] == 0
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(left, (two_days_ago, two_days_ago))
    found = collect_garbage(own, delete=True)
    assert (found["temporary"], found["bytes"]) == (1, len(b"half a part"))
    assert not left.exists()


def test_what_a_scan_could_not_look_into_is_counted(own):
    assert collect_garbage(own, delete=False)["unseen"] == 0
    file = own.home / "quarantine" / "made.parquet"
    table = pq.read_table(file)
    row = {name: None for name in table.column_names} | {"path": "locked", "reason": "no permission", "stage": "list"}
    pq.write_table(pa.concat_tables([table, pa.Table.from_pylist([row], schema=table.schema)]), file)
    assert collect_garbage(own, delete=False)["unseen"] == 1


def test_temporary_files_that_go_while_they_are_looked_for_are_nobodys_trouble(own, monkeypatch):
    monkeypatch.setattr(Path, "rglob", lambda home, pattern: [home / ".tmp-finished"])
    assert collect_garbage(own, delete=False)["temporary"] == 0


def test_after_a_scan_with_a_limit_nobody_knows_what_is_needed(own):
    with pytest.raises(PipelineError, match="limit"):
        collect_garbage(own.model_copy(update={"limit": 3}), delete=True)
