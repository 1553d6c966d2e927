"""Watching: every change is seen by stat alone, nothing else is, and a walk in pieces sees what a whole one does."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from snac_pipeline.corpus import Corpus, Walk, can_be_walked, look_at, seen_at_end, walk_on
from snac_pipeline.errors import PipelineError


@pytest.fixture
def root(tmp_path) -> Path:
    """700 files, that is several looks at the clock, in folders of which one is called as a file sorts."""
    root = tmp_path / "audio"
    for folder in ("a", "a-b", "a/b", "c.wav"):
        (root / folder).mkdir(parents=True)
    for number in range(700):
        (root / ("a", "a-b", "a/b", "c.wav")[number % 4] / f"{number}.wav").write_bytes(b"x" * number)
    (root / "top.flac").touch()
    (root / "notes.txt").touch()
    return root


CHANGES = {
    "new": lambda root: (root / "a" / "new.wav").touch(),
    "gone": lambda root: (root / "a" / "0.wav").unlink(),
    "renamed": lambda root: (root / "a" / "0.wav").rename(root / "a" / "other.wav"),
    "edited": lambda root: (root / "a" / "4.wav").write_bytes(b"yyyy"),
    "exchanged": lambda root: [
        (root / "a" / "0.wav").rename(root / "t"),
        (root / "a" / "4.wav").rename(root / "a" / "0.wav"),
        (root / "t").rename(root / "a" / "4.wav"),
    ],
    "moved": lambda root: (root / "a-b").rename(root / "z"),
    "broken link": lambda root: (root / "link.wav").symlink_to("nowhere"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_a_file_is_another_version(root, tmp_path, change):
    corpus, home = Corpus("c", root), tmp_path / "home"
    before = look_at(corpus, home)
    assert look_at(corpus, home) == before
    CHANGES[change](root)
    assert look_at(corpus, home).version != before.version


def test_what_is_no_recording_changes_nothing(root, tmp_path):
    home = root / "home"
    before = look_at(Corpus("c", root), home)
    (root / "notes.txt").write_text("more")
    (root / "cover.jpg").touch()
    (home / "codes").mkdir(parents=True)
    (home / "codes" / "made.wav").touch()
    (tmp_path / "elsewhere.wav").touch()
    assert look_at(Corpus("c", root), home) == before


def test_another_place_or_rule_is_another_version(root, tmp_path):
    table = tmp_path / "who.csv"
    table.write_text("path,speaker\n")
    corpora = [
        Corpus("c", root),
        Corpus("c", root / "a"),
        Corpus("c", root, speaker="{speaker}/*"),
        Corpus("c", root, limit=3),
        Corpus("c", root, metadata=table),
    ]
    versions = [look_at(corpus, tmp_path).version for corpus in corpora]
    table.write_text("path,speaker\na/0.wav,me\n")
    assert len({*versions, look_at(corpora[-1], tmp_path).version}) == 6


@pytest.mark.parametrize("kind", ["folder", "list"])
def test_a_walk_in_pieces_sees_what_a_whole_one_does(root, tmp_path, kind):
    corpus = Corpus("c", root if kind == "folder" else listed(root))
    walk, pieces = Walk(), 0
    while not walk.ended:
        walk = Walk(*json.loads(json.dumps(walk_on(corpus, tmp_path, walk, seconds=0.0))))
        pieces += 1
    assert pieces == 3  # of 256 files at most
    assert seen_at_end(corpus, walk) == look_at(corpus, tmp_path)


def listed(root: Path) -> Path:
    files = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.suffix != ".txt")
    table = root / "files.jsonl"
    table.write_text("".join(json.dumps({"audio_filepath": file}) + "\n" for file in files))
    return table


def test_a_walk_goes_on_though_the_file_where_it_stopped_is_gone(root, tmp_path):
    corpus = Corpus("c", root)
    walk = walk_on(corpus, tmp_path, Walk(), seconds=0.0)
    whole = walk_on(corpus, tmp_path, walk, seconds=60.0)
    (root / walk.after).unlink()
    assert walk_on(corpus, tmp_path, walk, seconds=60.0).total == whole.total


def test_files_of_a_list_are_watched_where_they_are(root, tmp_path):
    corpus = Corpus("c", listed(root))
    versions = [look_at(corpus, tmp_path).version]
    (root / "a" / "not-listed.wav").touch()
    assert look_at(corpus, tmp_path).version == versions[0]
    for change in ("edited", "gone"):
        CHANGES[change](root)
        versions.append(look_at(corpus, tmp_path).version)
    with corpus.path.open("a") as table:
        table.write('{"audio_filepath": "a/not-listed.wav"}\n')
    versions.append(look_at(corpus, tmp_path).version)
    assert len(set(versions)) == 4


def test_a_file_is_as_new_as_its_copying_and_not_as_its_date(root, tmp_path):
    old = root / "a" / "0.wav"
    os.utime(old, (0, 0))
    assert time.time() - look_at(Corpus("c", root), tmp_path).newest < 60
    os.utime(old, (4e9, 4e9))  # a date far ahead does not make a corpus new for ever
    assert look_at(Corpus("c", root), tmp_path).newest <= time.time() + 1


def test_odd_names_are_walked_in_pieces_too(tmp_path):
    folder = os.fsencode(tmp_path / "odd")
    os.mkdir(folder)
    for number in range(300):
        open(folder + b"/\xff%d\\.wav" % number, "w").close()
    corpus = Corpus("c", tmp_path / "odd")
    walk = walk_on(corpus, tmp_path, Walk(), seconds=0.0)
    assert not walk.ended
    again = Walk(*json.loads(json.dumps(walk)))
    assert seen_at_end(corpus, walk_on(corpus, tmp_path, again, seconds=60.0)) == look_at(corpus, tmp_path)


def test_a_store_is_not_walked_and_a_missing_folder_is_told(root, tmp_path):
    assert not can_be_walked(Corpus("c", "s3://bucket/speech"))
    table = root / "remote.csv"
    table.write_text("path\ns3://bucket/one.wav\n")
    assert not can_be_walked(Corpus("c", table))
    assert look_at(Corpus("c", f"file://{root}"), tmp_path).newest == 0.0
    shutil.rmtree(root / "a")
    with pytest.raises(PipelineError, match="does not exist; correct `path`"):
        look_at(Corpus("c", root / "a"), tmp_path)
