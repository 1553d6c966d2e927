"""Corpora in stores that fsspec reaches: scanned, recognised, read and hashed like folders, with no secret told."""

import json
import os
import subprocess
import sys
import zipfile

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFile
from made_audio import encode, noise, write

from snac_pipeline.corpus import (
    Corpus,
    UnreadableAudio,
    audio_path,
    listing_version,
    read_audio,
    read_manifest,
    read_quarantine,
    scan,
)
from snac_pipeline.corpus.naming import around, is_url
from snac_pipeline.corpus.probe import digest_of
from snac_pipeline.corpus.sniffing import UnreachableFile
from snac_pipeline.errors import PipelineError
from snac_pipeline.files import content_digest


@pytest.fixture
def folder(tmp_path):
    """One file of every decoder, an odd name, one that is no audio, and what is none of ours."""
    root = tmp_path / "speech"
    write(root / "anna" / "1.wav", seed=1, seconds=1)
    write(root / "anna" / "2.flac", seed=2, seconds=1)
    write(root / "bo" / "back\\slash ünï.ogg", seed=3, seconds=1)
    encode(root / "bo" / "4.opus", "libopus", 48_000, seconds=1)
    encode(root / "bo" / "5.m4a", "aac", 44_100, seconds=1)
    (root / "bo" / "text.wav").write_text("not audio")
    (root / "notes.txt").write_text("hello")
    return root


@pytest.fixture
def memory():
    store = fsspec.filesystem("memory")
    yield store
    store.rm("/", recursive=True)
    store.store.clear()
    store.pseudo_dirs[:] = [""]


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


def in_memory(folder, store) -> str:
    store.put(str(folder) + "/", "/speech/", recursive=True)
    return "memory://speech"


def in_zip(folder, store) -> str:
    archive = folder.parent / "all.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        for path in sorted(folder.rglob("*")):
            zipped.write(path, path.relative_to(folder.parent))
    return f"zip://speech::file://{archive}"


STORES = {
    "memory": in_memory,
    "file": lambda folder, store: f"file://{folder}",
    "local with a slash": lambda folder, store: f"local://{folder}/",
    "zip": in_zip,
    "simplecache": lambda folder, store: f"simplecache::file://{folder}",
}


def facts(home, corpus):
    columns = ("path", "digest", "speaker", "num_frames", "sample_rate", "peak", "bandwidth", "flags")
    return read_manifest(home, [corpus]).select(columns).rows()


@pytest.mark.parametrize("store", STORES)
def test_a_store_is_scanned_and_read_like_the_folder(folder, home, memory, store):
    local = scan(Corpus("local", folder), home)
    remote = scan(Corpus("remote", STORES[store](folder, memory)), home)
    assert (remote.utterances, remote.quarantined, remote.ignored) == (5, 1, 1)
    assert (remote.utterances, remote.quarantined, remote.ignored, remote.hours) == (
        local.utterances, local.quarantined, local.ignored, local.hours,
    )  # fmt: skip
    assert facts(home, "remote") == facts(home, "local")
    [bad] = read_quarantine(home, ["remote"]).iter_rows(named=True)
    assert (bad["path"], bad["stage"], bad["digest"]) == ("bo/text.wav", "read", content_digest(folder / "bo/text.wav"))
    for here, there in zip(*(read_manifest(home, [name])["file"] for name in ("local", "remote")), strict=True):
        assert is_url(there) and digest_of(there) == digest_of(here)
        np.testing.assert_array_equal(read_audio(there, 24_000), read_audio(here, 24_000))
        np.testing.assert_array_equal(read_audio(there, 16_000, 5000, 3000), read_audio(here, 16_000, 5000, 3000))
    row = read_manifest(home, ["remote"]).row(0, named=True)
    assert audio_path(row) == row["file"]


@pytest.mark.parametrize("store", ["memory", "zip", "file"])
def test_what_a_store_says_has_not_changed_is_not_read_again(folder, home, memory, settled, store):
    corpus = Corpus("c", STORES[store](folder, memory))
    before, observed = scan(corpus, home), listing_version(corpus, home)
    again = scan(corpus, home)
    assert (again.read, again.unchanged, again.version) == (0, 6, before.version)
    assert listing_version(corpus, home) == observed
    write(folder / "anna" / "1.wav", seed=9, seconds=1)  # of the same size
    STORES[store](folder, memory)
    after = scan(corpus, home)
    assert after.decoded == 1 and after.version != before.version
    assert listing_version(corpus, home) != observed


def test_a_store_that_tells_nothing_of_its_files_is_read_every_time(folder, home, memory, settled, monkeypatch):
    url = in_memory(folder, memory)
    told = type(memory).find

    def find(self, path, **options):
        return {name: {"name": name, "size": None, "type": "file"} for name in told(self, path, **options)}

    monkeypatch.setattr(type(memory), "find", find)
    scan(Corpus("c", url), home)
    assert scan(Corpus("c", url), home).read == 6


def test_a_file_written_just_before_the_scan_is_hashed_again_unless_its_checksum_is_known(folder, home, memory):
    scan(Corpus("c", in_memory(folder, memory)), home)
    assert scan(Corpus("c", "memory://speech"), home).read == 6
    url = in_zip(folder, memory)
    scan(Corpus("z", url), home)
    assert scan(Corpus("z", url), home).read == 0


def test_a_list_in_a_store_names_files_of_the_store(folder, home, memory, settled):
    in_memory(folder, memory)
    rows = [{"audio_filepath": "anna/1.wav", "speaker": "x"}, {"audio_filepath": "gone.wav", "speaker": "x"}]
    memory.pipe("/speech/list.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    corpus = Corpus("c", "memory://speech/list.jsonl")
    report = scan(corpus, home)
    assert (report.utterances, report.quarantined) == (1, 1)
    assert len(read_audio(read_manifest(home, ["c"])["file"][0], 16_000)) == 16_000
    [bad] = read_quarantine(home, ["c"]).iter_rows(named=True)
    assert (bad["path"], bad["stage"]) == ("gone.wav", "list") and "not there" in bad["reason"]
    assert scan(corpus, home).read == 0


def test_another_process_reads_what_was_scanned(folder, home, memory):
    scan(Corpus("c", in_zip(folder, memory)), home)
    files = read_manifest(home, ["c"])["file"].to_list()
    code = "import sys, json; from snac_pipeline.corpus import read_audio\n"
    code += "print(json.dumps([len(read_audio(file, 16000, 100, 200)) for file in json.load(sys.stdin)]))"
    found = subprocess.run([sys.executable, "-c", code], input=json.dumps(files), capture_output=True, text=True)
    assert json.loads(found.stdout) == [200] * 5, found.stderr


class Broken(MemoryFile):
    """A connection that is lost after 8 kB, with a message as stores give them."""

    limit = 8000

    def read(self, size=-1):
        content = super().read(size)
        if self.tell() > self.limit:
            raise OSError("GET https://me:secret@host/speech/1.wav?X-Amz-Signature=abc123 failed\nat line 7")
        return content


@pytest.mark.parametrize("name", ["1.wav", "2.flac", "4.opus"])
def test_a_lost_connection_is_not_taken_for_damage_and_its_secrets_are_not_told(
    tmp_path, home, memory, monkeypatch, capfd, name
):
    path = tmp_path / name
    encode(path, "libopus", 48_000, seconds=8) if name == "4.opus" else write(path, seconds=3)
    memory.pipe(f"/speech/{name}", path.read_bytes())
    memory.pipe("/speech/good.wav", write(tmp_path / "good.wav", seconds=0.1).read_bytes())

    def opened(self, path, mode="rb", **options):
        return Broken(self, path, self.store[path].getvalue())

    with monkeypatch.context() as patched:
        patched.setattr(type(memory), "_open", opened)
        for read in (lambda file: read_audio(file, 16_000), digest_of):
            with pytest.raises(UnreachableFile) as error:
                read(f"memory://speech/{name}")
            assert "secret" not in str(error.value) and "abc123" not in str(error.value)
            assert error.value.reason == "cannot be read: OSError: GET https://host/speech/1.wav?... failed"
        report = scan(Corpus("c", "memory://speech"), home)
    assert (report.utterances, report.quarantined) == (1, 1)
    [bad] = read_quarantine(home, ["c"]).iter_rows(named=True)
    assert bad["path"] == name and bad["digest"] is None and "secret" not in str(bad)
    assert scan(Corpus("c", "memory://speech"), home).quarantined == 0  # it is tried again
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://bucket/speech", r"pip install 'snac-pipeline\[s3\]'"),
        ("nope://bucket", "no store is known for this kind of URL.*nope"),
        ("memory://nothing", "no audio in memory://nothing: it is empty"),
        ("zip://speech::/nowhere/a.zip", "No such file"),
    ],
)
def test_a_store_that_cannot_be_listed_is_an_error_that_says_why(home, memory, url, message):
    if url.startswith("s3") and "s3" in fsspec.available_protocols() and _installed("s3fs"):
        pytest.skip("s3fs is installed")
    with pytest.raises(PipelineError, match=f"(?s){message}"):
        scan(Corpus("c", url), home)


def _installed(package: str) -> bool:
    from importlib.util import find_spec

    return find_spec(package) is not None


def test_reading_where_a_package_is_missing_says_which(memory):
    if _installed("s3fs"):
        pytest.skip("s3fs is installed")
    with pytest.raises(UnreadableAudio, match=r"s3://b/a\.wav: .*s3fs"):
        read_audio("s3://b/a.wav", 16_000)


def test_names_of_a_store_that_are_not_utf8_are_read_through_the_manifest(home, tmp_path):
    os.rename(write(tmp_path / "speech" / "x.wav"), tmp_path / "speech" / os.fsdecode(b"latin1-\xe9.wav"))
    scan(Corpus("c", f"file://{tmp_path}/speech"), home)
    [row] = read_manifest(home, ["c"]).iter_rows(named=True)
    assert row["path"] == r"latin1-\xe9.wav"
    assert len(read_audio(row["file"], 16_000)) == row["num_frames"] and digest_of(row["file"]) == row["digest"]


def test_names_that_no_url_can_hold_are_quarantined(home, memory, tmp_path):
    for name in ("good.wav", "a::b.wav"):
        memory.pipe(f"/speech/{name}", write(tmp_path / "x.wav").read_bytes())
    assert scan(Corpus("c", "memory://speech"), home).quarantined == 1
    [bad] = read_quarantine(home, ["c"]).iter_rows(named=True)
    assert bad["path"] == "a::b.wav" and "rename" in bad["reason"]


@pytest.mark.parametrize(
    ("root", "file"),
    [
        ("/data/speech", "/data/speech/x.wav"),
        ("/", "/x.wav"),
        ("s3://b", "s3://b/x.wav"),
        ("s3://b/a/", "s3://b/a/x.wav"),
        ("memory://", "memory://x.wav"),
        ("zip://::s3://b/c.zip", "zip://x.wav::s3://b/c.zip"),
        ("zip://a::s3://b/c.zip", "zip://a/x.wav::s3://b/c.zip"),
        ("simplecache::s3://b", "simplecache::s3://b/x.wav"),
        ("simplecache::zip://a::s3://b/c.zip", "simplecache::zip://a/x.wav::s3://b/c.zip"),
    ],
)
def test_the_path_of_a_file_stands_in_the_first_link_of_a_chain(root, file):
    before, after = around(root)
    assert before + "x.wav" + after == file


@pytest.mark.parametrize("path", ["a.wav", "/a::b.wav", "a::b.wav", "C:/a.wav", "a/b://c.wav", b"/\xff.wav"])
def test_paths_of_this_machine_are_no_urls(path):
    assert not is_url(path)


def test_noise_of_a_store_is_the_noise_that_was_written(memory, tmp_path):
    memory.pipe("/speech/x.wav", write(tmp_path / "x.wav", subtype="FLOAT").read_bytes())
    np.testing.assert_array_equal(read_audio("memory://speech/x.wav", 16_000), noise())
