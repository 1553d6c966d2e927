"""The splits as folders: one entry for every utterance, safe names, and nothing of anybody else's is touched."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from made_audio import write

from assets.corpus import _check_speakers
from snac_pipeline import cli
from snac_pipeline.corpus import read_utterances, write_folders
from snac_pipeline.corpus.export import INDEX, OURS, entry_names
from snac_pipeline.errors import PipelineError
from snac_pipeline.files import content_digest

SHORT = 0.02


class Project:
    """A folder with pipeline.yaml, and the command line over it."""

    def __init__(self, folder: Path, capfd: pytest.CaptureFixture) -> None:
        self.folder, self.capfd = folder, capfd
        self.settings_file, self.home = folder / "pipeline.yaml", folder / "work"

    def settings(self, **settings: object) -> None:
        self.settings_file.write_text(yaml.safe_dump({"home": "work", "split": {"val": 0.3}, **settings}))

    def says(self, *command: object) -> tuple[int, dict]:
        """Exit status and last JSON object of a command."""
        before = signal.getsignal(signal.SIGTERM)
        self.capfd.readouterr()
        status = cli.main([*map(str, command), "--settings", str(self.settings_file), "--json"])
        signal.signal(signal.SIGTERM, before)
        return status, json.loads(self.capfd.readouterr().out.splitlines()[-1])

    def done(self, *command: object) -> dict:
        status, result = self.says(*command)
        assert status == 0, result
        return result

    def refused(self, *command: object) -> str:
        status, result = self.says(*command)
        assert status == 1 and result["event"] == "error", result
        return result["message"]

    def utterances(self) -> pl.DataFrame:
        return read_utterances(self.home, list(yaml.safe_load(self.settings_file.read_text())["corpora"]))


@pytest.fixture
def project(tmp_path: Path, capfd) -> Project:
    """Eight speakers of two files each, scanned."""
    project = Project(tmp_path, capfd)
    for n in range(16):
        write(tmp_path / "speech" / f"s{n // 2}" / f"{n % 2}.wav", seed=n, seconds=SHORT)
    project.settings(corpora={"mine": {"path": "speech"}})
    project.done("scan")
    return project


def entries(folder: Path) -> dict[str, str]:
    """Digest of every audio file below `folder`, by its path."""
    found = [path for path in folder.rglob("*") if not path.is_dir() and OURS not in path.parts]
    return {str(path.relative_to(folder)): content_digest(path) for path in found}


def expected(utterances: pl.DataFrame) -> set[tuple[str, str]]:
    return set(utterances.select("split", "digest").iter_rows())


def shown(folder: Path) -> set[tuple[str, str]]:
    return {(path.split("/")[0], digest) for path, digest in entries(folder).items()}


# The command ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("--copy",)], ids=["links", "copies"])
def test_an_export_has_every_utterance_once_on_its_side(project, options):
    result = project.done("split", "--export", project.folder / "out", *options)
    out = project.folder / "out"
    assert shown(out) == expected(project.utterances()) and len(entries(out)) == 16
    assert all(path.split("/")[1:2] == ["mine"] and path.split("/")[2][0] == "s" for path in entries(out))
    links = {path for path in entries(out) if (out / path).is_symlink()}
    assert links == (set() if options else set(entries(out)))
    assert (result["export"]["added"], result["export"]["entries"]) == (
        16, {"train": result["train"], "val": result["val"]},
    )  # fmt: skip
    again = project.done("split", "--export", out, *options)["export"]
    assert (again["added"], again["removed"], again["unchanged"]) == (0, 0, 16)


def test_an_export_follows_files_that_come_go_and_change(project):
    out, speech = project.folder / "out", project.folder / "speech"
    project.done("split", "--export", out, "--copy")
    before = entries(out)
    shutil.rmtree(speech / "s0")
    date = (speech / "s1" / "0.wav").stat().st_mtime_ns
    os.utime(write(speech / "s1" / "0.wav", seed=100, seconds=SHORT), ns=(date, date))
    write(speech / "s9" / "0.wav", seed=101, seconds=SHORT)
    project.done("scan")
    result = project.done("split", "--export", out, "--copy")["export"]
    assert (result["added"], result["removed"], result["unchanged"]) == (2, 2, 13)  # s1/0: same name, size and date
    assert shown(out) == expected(project.utterances())
    assert not any((out / side / "mine" / "s0").exists() for side in ("train", "val"))
    assert {path: digest for path, digest in entries(out).items() if before.get(path) == digest}.keys() == (
        {path for path in before if "/s0/" not in path and not path.endswith("s1/0.wav")}
    )


def test_links_become_copies_and_copies_links_as_the_last_export_says(project):
    out = project.folder / "out"
    for copy in (False, True, False):
        result = project.done("split", "--export", out, *["--copy"] * copy)["export"]
        assert result["added"] == 16
        assert {(out / path).is_symlink() for path in entries(out)} == {not copy}
        assert shown(out) == expected(project.utterances())


def test_a_corpus_that_is_no_longer_named_leaves_the_export(project):
    write(project.folder / "more" / "x" / "0.wav", seed=50, seconds=SHORT)
    project.settings(corpora={"mine": {"path": "speech"}, "more": {"path": "more"}})
    project.done("scan")
    out = project.folder / "out"
    project.done("split", "--export", out)
    assert "train/more/x/0.wav" in entries(out)
    project.settings(corpora={"mine": {"path": "speech"}})
    assert project.done("split", "--export", out)["export"]["removed"] == 1
    assert not (out / "train" / "more").exists() and shown(out) == expected(project.utterances())


def test_a_test_share_is_told_and_has_a_folder_and_is_not_told_where_none_is_asked_for(project):
    out = project.folder / "out"
    project.settings(corpora={"mine": {"path": "speech"}}, split={"val": 0.2, "test": 0.2})
    result = project.done("split", "--export", out)
    assert result["train"] + result["val"] + result["test"] == 16 and result["test_hours"] > 0
    assert (len(entries(out / "test")), result["nothing_left_for"]) == (result["test"], {})
    assert _check_speakers(project.home).passed
    project.settings(home="other", corpora={"mine": {"path": "speech"}})
    project.done("scan")
    assert "test" not in project.done("split")


def test_copies_without_an_export_are_wrong_use(project):
    with pytest.raises(SystemExit) as end:
        project.says("split", "--copy")
    assert end.value.code == 2 and "--export DIR" in project.capfd.readouterr().err


# What is not ours -----------------------------------------------------------------------------------------------------


def tree(folder: Path) -> dict[str, tuple]:
    return {
        str(path.relative_to(folder)): (os.readlink(path) if path.is_symlink() else path.read_bytes())
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


@pytest.mark.parametrize("what", ["file", "link", "folder", "file for a folder"])
def test_what_was_there_before_is_named_and_nothing_is_written(project, what):
    out = project.folder / "out"
    project.done("split")
    [first] = entry_names(project.utterances()).head(1)
    place = out / first
    place.parent.mkdir(parents=True)
    match what:
        case "file":
            place.write_text("mine")
        case "link":
            place.symlink_to("elsewhere")
        case "folder":
            place.mkdir()
        case "file for a folder":
            place.parent.rmdir()
            place.parent.write_text("mine")
    before = tree(out)
    message = project.refused("split", "--export", out)
    assert str(place.parent) in message and "move" in message
    assert tree(out) == before and place.parent.exists()


@pytest.mark.parametrize("copy", [False, True], ids=["link", "copy"])
def test_an_entry_that_was_changed_since_is_not_lost(project, copy):
    out = project.folder / "out"
    options = ["--copy"] * copy
    project.done("split", "--export", out, *options)
    changed = out / next(iter(entries(out)))
    changed.unlink()
    changed.write_text("notes")
    assert f"{changed} is in the way" in project.refused("split", "--export", out, *options)
    assert changed.read_text() == "notes"
    changed.unlink()
    assert project.done("split", "--export", out, *options)["export"]["added"] == 1


def test_other_files_in_the_folders_stay_and_so_do_their_folders(project):
    out = project.folder / "out"
    project.done("split", "--export", out)
    side = next(path.split("/")[0] for path in entries(out) if "/s0/" in path)
    note = out / side / "mine" / "s0" / "transcript.txt"
    note.write_text("hello")
    shutil.rmtree(project.folder / "speech" / "s0")
    project.done("scan")
    project.done("split", "--export", out)
    assert note.read_text() == "hello" and os.listdir(note.parent) == ["transcript.txt"]


def test_an_export_into_a_corpus_or_around_it_is_refused(project):
    for place in (project.folder / "speech", project.folder / "speech" / "split", project.folder / "train"):
        if place.name == "train":  # <place>/../train is a corpus
            project.settings(corpora={"mine": {"path": "train"}})
            (project.folder / "speech").rename(project.folder / "train")
            project.done("scan")
            place = project.folder
        assert "lie in each other" in project.refused("split", "--export", place)


def test_files_that_are_elsewhere_are_copied_and_not_linked_to(project):
    project.done("split")
    rows = project.utterances().with_columns(file="file://" + pl.col("file"))
    with pytest.raises(PipelineError, match=r"mine are not on this machine.*`--copy`"):
        write_folders(rows, project.folder / "links")
    write_folders(rows, project.folder / "copies", copy=True)
    assert shown(project.folder / "copies") == expected(project.utterances())


def test_a_file_that_changed_after_the_scan_is_not_copied_as_what_it_was(project):
    project.done("split")
    changed = write(project.folder / "speech" / "s3" / "0.wav", seed=77, seconds=SHORT)
    out = project.folder / "out"
    message = project.refused("split", "--export", out, "--copy")
    assert str(changed) in message and "snac-pipeline scan" in message
    project.done("scan")
    project.done("split", "--export", out, "--copy")
    assert shown(out) == expected(project.utterances())


# Killed ---------------------------------------------------------------------------------------------------------------

KILLED = """
import os, sys
from pathlib import Path
from snac_pipeline.corpus import export, read_utterances
at, (home, folder, copy) = int(sys.argv[1]), sys.argv[2:]
count = 0
replace = Path.replace
def die(self, target):
    global count
    count += 1
    if count == at:
        os.kill(os.getpid(), 9)
    return replace(self, target)
Path.replace = die
export.write_folders(read_utterances(Path(home), ["mine"]), Path(folder), copy=copy == "copy")
"""


@pytest.mark.parametrize(("copy", "at"), [(False, 9), (True, 1), (True, 9), (True, 18)])
def test_an_export_that_was_killed_is_completed_by_the_next(project, copy, at):
    """Killed at one of the renames: at the first index, amid the entries, and at the last index."""
    project.done("split")
    utterances, out = project.utterances(), project.folder / "out"
    arguments = [str(at), str(project.home), str(out), "copy" if copy else "link"]
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL
    written = len(entries(out))
    assert (written > 0) == (at > 1) and written < at
    report = write_folders(utterances, out, copy=copy)
    assert shown(out) == expected(utterances) and len(entries(out)) == 16
    assert report.unchanged == written
    assert os.listdir(out / OURS) == [INDEX]


# Names ----------------------------------------------------------------------------------------------------------------


def made_rows(files: list[tuple[str, str, str]], split: str = "train") -> pl.DataFrame:
    """Rows as of `read_utterances`, from (corpus, speaker, path); each of its own content."""
    return pl.DataFrame(
        [
            {"digest": f"{n * 7919:032x}", "split": split, "corpus": corpus, "speaker": speaker, "path": path}
            for n, (corpus, speaker, path) in enumerate(files, 1)
        ]
    )


def test_names_stay_as_they_are_where_they_can():
    files = [("a", "s1", "s1/0.wav"), ("b", "s1", "s1/0.wav"), ("a", "s2", "x/s2/0.wav"), ("a", "ü", "ü/ö ä.flac")]
    assert entry_names(made_rows(files)).to_list() == [
        "train/a/s1/0.wav", "train/b/s1/0.wav", "train/a/s2/0.wav", "train/a/ü/ö ä.flac",
    ]  # fmt: skip


def test_names_that_are_one_name_somewhere_get_their_digest():
    files = [
        ("a", "s", "x/0.wav"),
        ("a", "s", "y/0.wav"),
        ("a", "s", "A.wav"),
        ("a", "S", "a.wav"),
        ("A", "s", "b.wav"),
    ]
    names = entry_names(made_rows(files)).to_list()
    assert names[4] == "train/A/s/b.wav"
    assert [name.split("-")[0] for name in names[:4]] == ["train/a/s/0", "train/a/s/0", "train/a/s/A", "train/a/S/a"]
    assert len({name.casefold() for name in names}) == 5


def test_files_that_are_their_own_speakers_share_folders():
    rows = made_rows([("a", "", "x/0.wav"), ("a", "", "y/1.wav")]).with_columns(speaker=pl.col("digest"))
    assert entry_names(rows).to_list() == ["train/a/00/0.wav", "train/a/00/1.wav"]


@pytest.mark.parametrize(
    "path", [r"s/\xff.wav", r"s/a\\b.wav", "s/a:b?.wav", "s/...wav", "s/" + "é" * 120 + ".wav", "s/.wav"]
)
def test_names_that_not_every_system_takes_are_changed_and_marked(path):
    [name] = entry_names(made_rows([("a", "s", path)]))
    file = name.split("/")[-1]
    assert file.endswith("-000000000000.wav") or path in ("s/.wav",)
    assert len(file.encode()) <= 255 and not set(file) & set('\\/:*?"<>|')


odd = st.text(st.sampled_from("aAßsSKé./-\\ :0123456789bcdef"), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["x", "X", "y"]), odd, odd.map("{}.wav".format)), min_size=1, max_size=12))
def test_whatever_the_names_entries_are_distinct_and_stay_in_their_folder(files):
    rows = made_rows(files)
    names = entry_names(rows)
    folded = {name.casefold() for name in names}
    assert len(folded) == len(files)
    for (corpus, *_), name in zip(files, names, strict=True):
        side, first, speaker, file = name.split("/")
        assert (side, first) == ("train", corpus)
        assert speaker not in (".", "..") and file not in (".", "..") and speaker and file
    reversed_names = entry_names(rows.reverse()).reverse()
    assert reversed_names.to_list() == names.to_list()


def test_names_that_are_not_utf8_are_exported(project):
    odd_file = os.fsencode(project.folder / "speech" / "s0") + b"/\xff.wav"
    shutil.copy(write(project.folder / "made.wav", seed=500, seconds=SHORT), odd_file)
    project.done("scan")
    project.done("split", "--export", project.folder / "out")
    assert (
        shown(project.folder / "out") == expected(project.utterances()) and len(entries(project.folder / "out")) == 17
    )


# Ready-made folders ---------------------------------------------------------------------------------------------------


@pytest.fixture
def ready(tmp_path: Path, capfd) -> Project:
    """Folders that somebody divided: s0 .. s3 and s3 .. s4, one recording in both."""
    project = Project(tmp_path, capfd)
    for n in range(8):
        write(tmp_path / "train" / f"s{n // 2}" / f"{n}.wav", seed=n, seconds=SHORT)
    for n in range(8, 12):
        write(tmp_path / "val" / f"s{3 + n // 10}" / f"{n}.wav", seed=n, seconds=SHORT)
    shutil.copy(tmp_path / "train" / "s0" / "0.wav", tmp_path / "val" / "s4" / "again.wav")
    project.settings(corpora={"mine": {"train_dir": "train", "val_dir": "val"}})
    return project


def test_ready_made_folders_are_taken_as_they_are(ready):
    scanned = ready.done("scan")
    assert {name: scanned[name]["utterances"] for name in ("mine-train", "mine-val")} == {
        "mine-train": 8,
        "mine-val": 5,
    }
    result = ready.done("split")
    assert (result["train"], result["val"], result["quarantined"]) == (8, 4, 1)
    assert result["speakers_on_both_sides"] == 1  # s3 was s4 is not: s4 is only in val
    rows = read_utterances(ready.home, ["mine-train", "mine-val"])
    assert {(corpus, split) for corpus, split in rows.select("corpus", "split").iter_rows()} == {
        ("mine-train", "train"), ("mine-val", "val"),
    }  # fmt: skip


def test_ready_made_folders_that_grow_keep_everything_where_it_is(ready):
    ready.done("scan")
    ready.done("split")
    before = dict(read_utterances(ready.home, ["mine-train", "mine-val"]).select("digest", "split").iter_rows())
    shutil.copy(ready.folder / "val" / "s4" / "10.wav", ready.folder / "train" / "s0" / "leak.wav")
    write(ready.folder / "val" / "s0" / "new.wav", seed=70, seconds=SHORT)
    ready.done("scan")
    result = ready.done("split")
    assert (result["train"], result["val"], result["quarantined"]) == (8, 5, 2)
    after = dict(read_utterances(ready.home, ["mine-train", "mine-val"]).select("digest", "split").iter_rows())
    assert before.items() < after.items()


def test_an_export_can_be_read_as_ready_made_folders(ready):
    ready.done("scan")
    ready.done("split", "--export", ready.folder / "out", "--copy")
    folders = {"train_dir": "out/train", "val_dir": "out/val", "speaker": "*/{speaker}/*"}
    ready.settings(home="other", corpora={"mine": folders})
    ready.done("scan")
    result = ready.done("split")
    assert (result["train"], result["val"], result["quarantined"], result["speakers_on_both_sides"]) == (8, 4, 0, 1)


def test_another_side_for_a_corpus_that_was_split_is_refused(ready):
    ready.done("scan")
    ready.done("split")
    ready.settings(corpora={"mine": {"train_dir": "val", "val_dir": "train"}})
    ready.done("scan")
    message = ready.refused("split")
    assert message.startswith("corpus mine-") and "no file ever changes side" in message
