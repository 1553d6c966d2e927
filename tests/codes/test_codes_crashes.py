"""Whatever happens to a caching run, at whichever rename, fsync or write: one more run makes the cache complete, what
was committed is not encoded again, and readers see every row once.

Calls are counted and made to fail below libc (faults.c), so those of Arrow count too. Not covered: opening, truncating
and unlinking, and what a disk forgets at a power cut.
"""

import contextlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import crash_jobs
import made_codes as made
import pyarrow.parquet as pq
import pytest
import yaml
from made_faults import Call, Ended, Job, Server, compiler, serving, told

from snac_pipeline.codes.parts import cached_digests, part_files, read_codes
from snac_pipeline.files import read_parquet

pytestmark = pytest.mark.skipif(compiler() is None, reason="faults are injected on Linux, by a library made with cc")

SECONDS = (0.1, 0.3)
MANY = tuple(0.1 + i / 100 for i in range(12))


class Scanned(NamedTuple):
    """A scanned corpus without codes; what a run that nothing disturbs makes of it, and the calls of that run."""

    server: Server
    codec: Path
    home: Path
    rows: dict
    calls: list[Call]

    def copy(self, home: Path) -> Path:
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(self.home, home)
        return home

    def run(self, home: Path, faults: str = "none:0", driver: bool = True, **options) -> Ended:
        job = Job("cache_once", [str(self.codec), str(home), options], log_of(home), home, faults, driver)
        [ended] = self.server.run(job)
        return ended

    def assert_one_more_run_completes(self, home: Path) -> None:
        """And that it takes what is there as it is. In this process, which saves a second each time."""
        before = {file: os.stat(file) for file in parts_of(home)}
        held = sum(pq.read_metadata(file).num_rows for file in before)
        again = crash_jobs.cache_once(str(self.codec), str(home), {})
        assert again == {"done": len(self.rows) - held, "error": None, "words": ""}
        for file, status in before.items():
            assert (file.stat().st_ino, file.stat().st_mtime_ns) == (status.st_ino, status.st_mtime_ns), file
        made.assert_same_codes(made.all_rows(folder_of(home)), self.rows)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("faults"), "crash_jobs") as server:
        yield server


def scanned(server, codec, folder, seconds) -> Scanned:
    made.utterances_of(made.make_corpus(folder / "speech", seconds), folder / "scanned")
    empty = Scanned(server, codec, folder / "scanned", {}, [])
    home = empty.copy(folder / "undisturbed")
    ended = empty.run(home)
    assert ended.status == 0 and ended.result == {"done": len(seconds), "error": None, "words": ""}, ended
    return empty._replace(rows=made.all_rows(folder_of(home)), calls=ended.calls)


@pytest.fixture(scope="module")
def few(server, codec, tmp_path_factory) -> Scanned:
    """Two utterances, two parts."""
    return scanned(server, codec, tmp_path_factory.mktemp("few"), SECONDS)


@pytest.fixture(scope="module")
def many(server, codec, tmp_path_factory) -> Scanned:
    """As many parts as utterances, more than a worker has lives."""
    return scanned(server, codec, tmp_path_factory.mktemp("many"), MANY)


def folder_of(home: Path) -> Path:
    [folder] = (home / "codes").iterdir()
    return folder


def log_of(home: Path) -> Path:
    return home.with_suffix(".log")


def parts_of(home: Path) -> list[Path]:
    return [file for folder in (home / "codes").glob("*") for file in part_files(folder)]


def names(calls: list[Call]) -> list[str]:
    return [call.name for call in calls]


def calls_of_a_part(calls: list[Call]) -> list[Call]:
    """Those between the second last rename of a part and the last, with the flush that follows it."""
    renames = [i for i, call in enumerate(calls) if call.name == "rename" and "/part-" in call.path]
    return calls[renames[-2] + 2 : renames[-1] + 2]


# ---- any file ------------------------------------------------------------------------------------------------------


def test_a_file_is_the_old_or_the_new_one_whichever_write_its_process_is_killed_at(tmp_path):
    """The one way in which the pipeline writes files, at every call that it makes."""
    file, log = tmp_path / "home" / "file.parquet", tmp_path / "log"
    with serving(tmp_path, "file_jobs") as server:

        def write(rows: int, faults: str = "none:0") -> Ended:
            [ended] = server.run(Job("write", [str(file), rows], log, file.parent, faults))
            return ended

        calls = names(write(100).calls)
        assert calls[-3:] == ["fsync", "rename", "fsync"] and calls[:-3] == ["write"] * (len(calls) - 3) != []
        for number in range(1, len(calls) + 1):
            for fault in ("kill", "EIO", "ENOSPC"):
                write(100)
                ended = write(200, f"{fault}:{number}")
                assert ended.status == (-9 if fault == "kill" else 1)
                assert read_parquet(file).num_rows == (200 if number == len(calls) else 100)
                left = [path for path in file.parent.iterdir() if path != file]
                assert len(left) == (fault == "kill" and number < len(calls)), left
                for path in left:
                    assert path.name.startswith(".tmp-")
                    path.unlink()


# ---- the run's own process -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_writes_what_is_counted(few):
    """The injection is where the bytes go: each part and the fingerprint is written, flushed, renamed, flushed."""
    assert names(few.calls).count("rename") == len(SECONDS) + 1
    assert names(few.calls).count("fsync") == 2 * (len(SECONDS) + 1)
    part = names(calls_of_a_part(few.calls))
    assert part[:-3] == ["write"] * (len(part) - 3) != [] and part[-3:] == ["fsync", "rename", "fsync"]


@pytest.mark.slow
def test_a_run_killed_at_any_rename_fsync_or_write_is_completed_by_one_more(few, tmp_path):
    for number in range(1, len(few.calls) + 1):
        home = few.copy(tmp_path / "home")
        ended = few.run(home, f"kill:{number}")
        assert ended.status == -9 and (len(ended.calls), ended.calls[-1].name) == (number + 1, "kill")
        assert len(made.leftovers(home)) <= 1
        few.assert_one_more_run_completes(home)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["EIO", "ENOSPC"])
def test_a_run_whose_disk_fails_at_any_rename_fsync_or_write_is_completed_by_one_more(few, tmp_path, fault):
    homes = [few.copy(tmp_path / f"home{number}") for number in range(1, len(few.calls) + 1)]
    faults = [(f"{fault}:{number}", str(home), str(log_of(home))) for number, home in enumerate(homes, 1)]
    [ended] = few.server.run(Job("cache_each", [str(few.codec), faults], tmp_path / "log", tmp_path / "unused"))
    assert ended.status == 0
    before_parts = names(few.calls[: next(i for i, call in enumerate(few.calls) if call.name == "rename") + 2])
    for number, (home, result) in enumerate(zip(homes, ended.result, strict=True), 1):
        assert names(told(log_of(home))).count(fault) == 1, number
        if fault == "ENOSPC":
            assert result["error"] == "PipelineError" and "make room there" in result["words"], (number, result)
        else:  # a part is tried again, the folder's own file is not
            assert result["error"] == ("OSError" if number <= len(before_parts) else None), (number, result)
        assert made.leftovers(home) == []
        few.assert_one_more_run_completes(home)


@pytest.mark.slow
def test_a_run_on_a_full_disk_says_so_and_is_completed_when_there_is_room(few, tmp_path):
    """A file system in memory, really full but for some pages; a part takes one or two."""
    failed = []
    with mounted(tmp_path / "disk", "4m") as disk:
        for room in range(9):
            home = few.copy(disk / "home")
            fill(disk, room)
            result = crash_jobs.cache_once(str(few.codec), str(home), {})
            assert result["error"] in (None, "PipelineError"), result
            assert result["error"] is None or "make room" in result["words"] or "cannot create" in result["words"]
            failed.append(result["error"] is not None)
            (disk / "filler").unlink()
            assert made.leftovers(home) == []
            few.assert_one_more_run_completes(home)
    assert failed[0] and not failed[-1] and sum(failed) > 1, failed


@contextlib.contextmanager
def mounted(folder: Path, size: str):
    """A tmpfs of that size; the test is skipped where this user may not mount one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    if shutil.which("mount") is None or (done := subprocess.run(command, capture_output=True, text=True)).returncode:
        pytest.skip(f"cannot mount a tmpfs here: {done.stderr.strip() if shutil.which('mount') else 'no mount'}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(disk: Path, pages: int) -> None:
    """Leave so many pages."""
    size = os.sysconf("SC_PAGE_SIZE")
    with open(disk / "filler", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(size))
    os.truncate(disk / "filler", (disk / "filler").stat().st_size // size * size - pages * size)


# ---- workers -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_workers_killed_hung_or_failing_while_they_write_cost_no_row(many, tmp_path):
    """One run with places for two workers: each process that comes to work there has another call at which it is
    killed, stopped, or told that the disk is broken. A worker takes seconds to start, so not every write has its turn:
    what a kill at each leaves on the disk is tested above."""
    home, count = many.copy(tmp_path / "home"), len(calls_of_a_part(many.calls))
    first, middle, last, flush, rename, flush_folder = 1, (count - 3) // 2, count - 3, count - 2, count - 1, count
    kills = [f"kill:{number}" for number in (first, middle, last, flush, rename, flush_folder)]
    faults = [*kills, f"stop:{middle}", f"stop:{rename}", f"EIO:{flush}"]
    ended = many.run(home, ",".join(faults), driver=False, engine="local", devices=["cpu", "cpu"], hang_seconds=20.0)
    assert ended.result == {"done": len(MANY), "error": None, "words": ""}, ended.result
    happened = [call for call in ended.calls if not call.path]
    assert sorted(f"{call.name}:{call.number}" for call in happened) == sorted(faults)
    made.assert_same_codes(made.all_rows(folder_of(home)), many.rows)
    assert len(made.leftovers(home)) == len(faults) - 2, "all but what was renamed, and what unwound"
    undone = {(call.process, call.number) for call in happened}
    renamed = [c.path for c in ended.calls if c.name == "rename" and (c.process, c.number) not in undone]
    assert len(renamed) == len(set(renamed)) == len(MANY), "a part that was in its place was written again"
    many.assert_one_more_run_completes(home)


@pytest.mark.slow
@pytest.mark.parametrize("call", ["write", "rename"])
def test_a_driver_killed_while_its_worker_writes_takes_the_worker_with_it(few, tmp_path, call):
    part = names(calls_of_a_part(few.calls))
    home = few.copy(tmp_path / "home")
    ended = few.run(home, f"parent:{part.index(call) + 1}", driver=False, engine="local")
    assert ended.status == -9 and names(ended.calls)[-1] == "parent"
    assert parts_of(home) == []
    few.assert_one_more_run_completes(home)


# ---- several at once -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_three_commands_at_once_on_one_home_make_one_whole_cache(many, tmp_path):
    home = many.copy(tmp_path / "home")
    settings = tmp_path / "pipeline.yaml"
    settings.write_text(
        yaml.safe_dump(
            {
                "home": str(home),
                "corpora": {"made": {"path": str(many.home.parent / "speech")}},
                "base_codec": {"source": str(many.codec)},
                "devices": ["cpu"],
                "caching": {"engine": "inline", "part_utterances": 1, "verify": 0},
            }
        )
    )

    def command(name: str, *words: str) -> Job:
        return Job("command_line", [*words, "--settings", str(settings), "--json"], tmp_path / f"{name}.log", home)

    ended = many.server.run(*(command(f"writer{i}", "cache") for i in range(3)))
    assert [(end.status, end.result) for end in ended] == [(0, 0)] * 3
    view = cached_digests(folder_of(home))
    assert sorted(view["digest"]) == sorted(many.rows)
    rows = read_codes(folder_of(home), list(many.rows)).drop("digest", "num_samples", "sample_rate").rows()
    for row, codes in zip(rows, many.rows.values(), strict=True):
        assert [list(level) for level in row] == [level.tolist() for level in codes]
    assert made.leftovers(home) == []
    many.assert_one_more_run_completes(home)
    [verified] = many.server.run(command("verify", "codes", "verify"))
    assert (verified.status, verified.result) == (0, 0)
