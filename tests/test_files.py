"""Files are whole or absent: after an exception, an interrupt, a full disk, and a SIGKILL at any point."""

import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snac_pipeline import files
from snac_pipeline.errors import PipelineError
from snac_pipeline.files import (
    atomic_file,
    atomic_folder,
    content_digest,
    read_parquet,
    value_digest,
    write_json,
    write_parquet,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class Stop(BaseException):
    """As KeyboardInterrupt: not an Exception."""


@pytest.mark.parametrize("old", [None, "old"])
@pytest.mark.parametrize("error", [ValueError, Stop, OSError])
def test_a_failed_write_leaves_what_was_there(tmp_path, old, error):
    target = tmp_path / "file.txt"
    if old:
        target.write_text(old)
    with pytest.raises(error), atomic_file(target) as temporary:
        temporary.write_text("half")
        raise error("stop")
    assert names(tmp_path) == (["file.txt"] if old else [])
    assert not old or target.read_text() == old


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("error", [ValueError, Stop])
def test_a_failed_folder_leaves_what_was_there(tmp_path, old, error):
    target = tmp_path / "folder"
    if old:
        with atomic_folder(target) as temporary:
            (temporary / "a").write_text("old")
    with pytest.raises(error), atomic_folder(target) as temporary:
        (temporary / "a").write_text("half")
        raise error("stop")
    assert names(tmp_path) == (["folder"] if old else [])
    assert not old or (target / "a").read_text() == "old"


def test_an_interrupt_between_the_two_renames_of_a_folder_puts_the_old_one_back(tmp_path, monkeypatch):
    target = tmp_path / "folder"
    with atomic_folder(target) as temporary:
        (temporary / "a").write_text("old")
    rename = Path.rename

    def interrupted(self, to):
        if Path(to) == target and not self.name.endswith("-replaced"):
            raise KeyboardInterrupt
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), atomic_folder(target) as temporary:
        (temporary / "a").write_text("new")
    assert names(tmp_path) == ["folder"]
    assert (target / "a").read_text() == "old"


def test_a_folder_takes_the_place_of_the_old_one_whole(tmp_path):
    for name in ("a", "b"):
        with atomic_folder(tmp_path / "folder") as temporary:
            (temporary / "below").mkdir()
            (temporary / "below" / name).write_text(name)
    assert names(tmp_path) == ["folder"]
    assert names(tmp_path / "folder" / "below") == ["b"]


def test_others_may_read_what_is_written(tmp_path):
    write_text(tmp_path / "new" / "file", "x")
    with atomic_folder(tmp_path / "folder") as temporary:
        (temporary / "a").touch(mode=0o600)
    for file in (tmp_path / "new" / "file", tmp_path / "folder" / "a"):
        assert file.stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o755


# Killed at every system call that changes a file ----------------------------------------------------------------------

WRITER = """
import os, signal, sys
from pathlib import Path
from snac_pipeline import files

target, kill_at = Path(sys.argv[1]), int(sys.argv[2])
CHANGES = {"open", "os.rename", "os.replace", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "shutil.rmtree",
           "tempfile.mkstemp", "tempfile.mkdtemp"}
count = 0

def watch(event, arguments):
    global count
    if event in CHANGES and str(arguments[0]).startswith(str(target.parent)):
        count += 1
        if count == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(watch)
"""
FILE = "files.write_text(target, 'new' * 9000)"
FOLDER = """
with files.atomic_folder(target) as temporary:
    (temporary / "a").write_text("new")
    (temporary / "b").write_text("new")
"""


def killed_at(point: int, body: str, target: Path) -> bool:
    """Run the writer, killed before its change number `point`; False when it had no so many."""
    done = subprocess.run([sys.executable, "-c", WRITER + body, target, str(point)], check=False)
    assert done.returncode in (0, -signal.SIGKILL)
    return done.returncode != 0


def test_a_file_killed_at_any_point_is_the_old_or_the_new(tmp_path):
    target, seen = tmp_path / "file", []
    for point in itertools.count(1):
        target.write_text("old")
        killed = killed_at(point, FILE, target)
        seen.append(target.read_text())
        assert seen[-1] in ("old", "new" * 9000)
        if not killed:
            break
    assert point >= 4 and seen[0] == "old" and seen[-1] != "old"


def test_a_folder_killed_at_any_point_is_the_old_or_the_new_or_both_aside(tmp_path):
    """Between the two renames neither is in its place; both are beside it, whole."""
    aside = 0
    for point in itertools.count(1):
        target = tmp_path / str(point) / "folder"
        target.mkdir(parents=True)
        for name in ("a", "b"):
            (target / name).write_text("old")
        killed = killed_at(point, FOLDER, target)
        if not target.exists():
            aside += 1
            [old] = target.parent.glob("*-replaced")
            [new] = set(target.parent.iterdir()) - {old}
            assert [(f / n).read_text() for f in (old, new) for n in ("a", "b")] == ["old", "old", "new", "new"]
        else:
            assert {(target / name).read_text() for name in ("a", "b")} in ({"old"}, {"new"})
        if not killed:
            break
    assert point >= 8 and aside == 1
    assert {(target / name).read_text() for name in ("a", "b")} == {"new"}


# Disks that refuse ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["file", "folder"])
def test_a_full_disk_is_told_with_the_place_and_leaves_nothing(tmp_path, how):
    """A limit on the size of files stands in for the disk's: the same error, from the same call."""
    body = {
        "file": "files.write_text(target, 'x' * 100_000)",
        "folder": "with files.atomic_folder(target) as t: files.write_text(t / 'a', 'x' * 100_000)",
    }[how]
    code = f"""
        import resource, signal, sys
        from pathlib import Path
        from snac_pipeline import files
        from snac_pipeline.errors import PipelineError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        target = Path(sys.argv[1])
        try:
            {body}
        except PipelineError as error:
            print(error)
    """
    target = tmp_path / "target"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), target], capture_output=True, text=True, check=True
    )
    assert f"cannot write {tmp_path}" in done.stdout and "make room there" in done.stdout
    assert names(tmp_path) == []


@pytest.mark.parametrize("write", [lambda path: write_text(path, "x"), lambda path: atomic_folder(path).__enter__()])
@pytest.mark.parametrize("place", ["/proc/self/x", "/proc/new/x"])
def test_a_folder_that_takes_no_files_is_named(write, place):
    with pytest.raises(PipelineError, match=rf"cannot .*{Path(place).parent}.*choose another `home`"):
        write(Path(place))


# Parquet and digests --------------------------------------------------------------------------------------------------


def test_a_changed_byte_in_parquet_is_found_and_the_file_named(tmp_path):
    file = tmp_path / "rows.parquet"
    write_parquet(file, pa.table({"x": list(range(1000))}))
    assert read_parquet(file)["x"].to_pylist() == list(range(1000))
    data = bytearray(file.read_bytes())
    data[len(data) // 4] ^= 4
    file.write_bytes(data)
    with pytest.raises(PipelineError, match=r"rows.parquet is damaged or cannot be read .*delete it"):
        read_parquet(file)


def test_json_is_readable_and_ends_with_a_line(tmp_path):
    write_json(tmp_path / "a.json", {"name": "ق ü", "n": 1})
    text = (tmp_path / "a.json").read_text()
    assert "ق ü" in text and text.endswith("}\n") and json.loads(text) == {"name": "ق ü", "n": 1}


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4)
    ),
    max_leaves=8,
)


def shuffled(value):
    """The same value with every mapping in the opposite order and every list a tuple."""
    if isinstance(value, dict):
        return {key: shuffled(value[key]) for key in reversed(value)}
    return tuple(map(shuffled, value)) if isinstance(value, list) else value


@given(values)
def test_the_digest_of_a_value_does_not_depend_on_order_or_on_json(value):
    digest = value_digest(value)
    assert len(digest) == 32
    assert digest == value_digest(shuffled(value)) == value_digest(json.loads(json.dumps(value)))


@given(values, values)
def test_other_values_have_other_digests(a, b):
    same = json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)
    assert (value_digest(a) == value_digest(b)) == same


def test_digests_do_not_change_between_versions_of_the_project():
    """They name folders and parts on users' disks."""
    assert value_digest({"b": [1, 0.5, None], "a": "ü"}) == "81072c6589373779227dee037b59385a"
    assert content_digest(os.fsencode(__file__)) == content_digest(Path(__file__))
    assert files.TEMPORARY_PREFIX == ".tmp-"
