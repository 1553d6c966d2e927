"""A file is its content: what touching, copying, renaming, editing and deleting cost, and that nothing is missed."""

import importlib
import os
import shutil
import time
from pathlib import Path
from tempfile import mkdtemp

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from made_audio import write

from snac_pipeline.corpus import Corpus, read_manifest, read_quarantine, scan
from snac_pipeline.files import content_digest

scanning = importlib.import_module("snac_pipeline.corpus.scan")


@pytest.fixture
def corpus(tmp_path, settled):
    """Two speakers with two files each and one bad file, scanned."""
    for seed, path in enumerate(("a/1.wav", "a/2.wav", "b/3.wav", "b/4.wav")):
        write(tmp_path / "audio" / path, seed=seed)
    (tmp_path / "audio" / "b" / "bad.wav").write_text("not audio")
    corpus = Corpus("c", tmp_path / "audio")
    scan(corpus, tmp_path / "home")
    return corpus


def work(corpus: Corpus) -> tuple[int, int, int]:
    """(files opened, files decoded, distinct contents) of a scan."""
    home = corpus.path.parent / "home"
    report = scan(corpus, home)
    return report.read, report.decoded, read_manifest(home, [corpus.name])["digest"].n_unique()


def test_an_unchanged_corpus_is_not_read_not_even_its_bad_files(corpus):
    assert work(corpus) == (0, 0, 4)


def test_a_touched_file_is_hashed_and_not_decoded(corpus):
    os.utime(corpus.path / "a" / "1.wav")
    os.utime(corpus.path / "b" / "bad.wav")
    assert work(corpus) == (2, 0, 4)


def test_a_file_copied_again_is_hashed_and_not_decoded(corpus):
    file = corpus.path / "a" / "1.wav"
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content)
    assert work(corpus) == (1, 0, 4)


def test_a_renamed_file_is_hashed_and_not_decoded(corpus):
    (corpus.path / "a" / "1.wav").rename(corpus.path / "b" / "1.wav")
    assert work(corpus) == (1, 0, 4)


def test_a_duplicate_is_hashed_and_not_decoded_and_adds_a_row_but_no_content(corpus):
    shutil.copy(corpus.path / "a" / "1.wav", corpus.path / "a" / "5.wav")
    assert work(corpus) == (1, 0, 4)
    assert len(read_manifest(corpus.path.parent / "home", ["c"])) == 5


def test_an_edited_file_is_one_new_content(corpus):
    write(corpus.path / "a" / "1.wav", seed=99)
    assert work(corpus) == (1, 1, 4)


def test_swapped_files_are_hashed_and_not_decoded(corpus):
    one, two, spare = (corpus.path / "a" / name for name in ("1.wav", "2.wav", "spare"))
    before = content_digest(one), content_digest(two)
    for source, target in ((one, spare), (two, one), (spare, two)):
        source.rename(target)
    assert work(corpus) == (2, 0, 4)
    digests = dict(read_manifest(corpus.path.parent / "home", ["c"]).select("path", "digest").iter_rows())
    assert (digests["a/2.wav"], digests["a/1.wav"]) == before


def test_a_deleted_file_leaves_the_manifest_and_the_quarantine(corpus):
    (corpus.path / "a" / "1.wav").unlink()
    (corpus.path / "b" / "bad.wav").unlink()
    assert work(corpus) == (0, 0, 3)
    assert read_quarantine(corpus.path.parent / "home", ["c"]).is_empty()


def test_a_mended_file_leaves_the_quarantine(corpus):
    write(corpus.path / "b" / "bad.wav", seed=98)
    assert work(corpus) == (1, 1, 5)
    assert read_quarantine(corpus.path.parent / "home", ["c"]).is_empty()


def test_files_written_just_before_a_scan_are_hashed_again_by_the_next(tmp_path):
    write(tmp_path / "audio" / "1.wav")
    corpus = Corpus("c", tmp_path / "audio")
    scan(corpus, tmp_path / "home")
    assert work(corpus) == (1, 0, 1)


def test_a_moved_corpus_folder_is_hashed_and_not_decoded(corpus):
    moved = corpus.path.rename(corpus.path.parent / "moved")
    assert work(Corpus("c", moved)) == (5, 0, 4)


NAMES = st.sampled_from(["a/1.wav", "a/2.wav", "3.wav"])
THEN = st.sampled_from(["go on", "scan", "settle and scan"])
DAMAGE = "not audio"
SETTLE = 0.015  # in place of 2 s


class FolderLife(RuleBasedStateMachine):
    """Any sequence of changes and scans: the manifest holds exactly the digests of the files as they are, and a scan
    hashes what changed (or may have, around the last scan) and decodes what is new, no more and no less."""

    @initialize()
    def begin(self):
        self.folder = Path(mkdtemp())
        self.corpus = Corpus("c", self.folder / "audio")
        self.home = self.folder / "home"
        self.known, self.window = {}, (0.0, 0.0)  # the files as at the last scan, and when that was
        for name in ("always.wav", "a/1.wav"):
            write(self.corpus.path / name, seconds=0.01)
        self.proceed("settle and scan")

    def teardown(self):
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)

    def proceed(self, then):
        if then == "settle and scan":  # longer than the window of the tests below: later scans trust the stat
            time.sleep(0.02)
        if then != "go on":
            self.scan_and_count()
        self.scanned = then != "go on"

    def scan_and_count(self):
        files = {}
        for path in self.corpus.path.rglob("*.wav"):
            status = path.stat()
            stamp = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            files[str(path)] = (stamp, content_digest(path))
        changed = {name for name, (stamp, _) in files.items() if self.known.get(name, (None,))[0] != stamp}
        low, high = ((moment + sign * SETTLE) * 1e9 for moment, sign in zip(self.window, (-1, 1), strict=True))
        recent = {name for name, ((_, *times), _) in files.items() if any(low <= moment <= high for moment in times)}
        contents = {digest for _, digest in self.known.values()}
        new = [name for name, (stamp, digest) in files.items() if digest not in contents and stamp[0] != len(DAMAGE)]
        began = time.time()
        report = scan(self.corpus, self.home, workers=1)
        self.known, self.window = files, (began, time.time())
        assert len(changed) <= report.read <= len(changed | recent)
        assert report.decoded == len(new)
        assert report.read + report.unchanged == len(files) == report.files

    @rule(name=NAMES, seed=st.integers(1, 3), keep_times=st.booleans(), then=THEN)
    def write_file(self, name, seed, keep_times, then):
        """Contents have one size, and `keep_times` restores the mtime, as cp -p and rsync -t do."""
        path = self.corpus.path / name
        before = path.stat() if path.exists() else None
        write(path, seed=seed, seconds=0.01)
        if before and keep_times:
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        self.proceed(then)

    @rule(one=NAMES, other=NAMES, how=st.sampled_from([os.replace, shutil.copy2]), then=THEN)
    def move_or_copy(self, one, other, how, then):
        if one != other and (self.corpus.path / one).exists():
            how(self.corpus.path / one, self.corpus.path / other)
        self.proceed(then)

    @rule(name=NAMES, then=THEN)
    def touch(self, name, then):
        if (self.corpus.path / name).exists():
            os.utime(self.corpus.path / name)
        self.proceed(then)

    @rule(one=NAMES, other=NAMES, then=THEN)
    def swap(self, one, other, then):
        one, other, spare = (self.corpus.path / name for name in (one, other, "spare"))
        if one != other and one.exists() and other.exists():
            for source, target in ((one, spare), (other, one), (spare, other)):
                source.rename(target)
        self.proceed(then)

    @rule(name=NAMES, then=THEN)
    def delete(self, name, then):
        (self.corpus.path / name).unlink(missing_ok=True)
        self.proceed(then)

    @rule(name=NAMES, then=THEN)
    def damage(self, name, then):
        (self.corpus.path / name).write_text(DAMAGE)
        self.proceed(then)

    @invariant()
    def manifest_and_quarantine_are_the_folder(self):
        if not getattr(self, "scanned", False):
            return
        files = {str(path.relative_to(self.corpus.path)): path for path in self.corpus.path.rglob("*.wav")}
        truth = {name: content_digest(path) for name, path in files.items()}
        columns = ("path", "digest")
        good = dict(read_manifest(self.home, ["c"]).select(columns).iter_rows())
        bad = dict(read_quarantine(self.home, ["c"]).select(columns).iter_rows())
        assert {**good, **bad} == truth and not good.keys() & bad.keys()
        assert set(bad) == {name for name, path in files.items() if path.stat().st_size == len(DAMAGE)}


# Deterministic: a mutant found only by luck would make this file flaky.
LIFE = settings(max_examples=15, stateful_step_count=12, deadline=None, derandomize=True, database=None)


def test_after_any_changes_the_manifest_and_the_quarantine_are_the_folder(monkeypatch):
    monkeypatch.setattr(scanning, "SETTLE_SECONDS", SETTLE)
    run_state_machine_as_test(FolderLife, settings=LIFE)


def test_recognising_files_by_size_and_mtime_alone_would_be_caught(monkeypatch):
    """The same life with the mutant: restored modification times hide an edit."""
    monkeypatch.setattr(scanning, "SETTLE_SECONDS", SETTLE)
    monkeypatch.setattr(scanning, "STAT_KEY", ("path", "size", "mtime_ns"))
    mutant = type("MutantLife", (FolderLife,), {})
    with pytest.raises(AssertionError):
        run_state_machine_as_test(mutant, settings=settings(LIFE, max_examples=200, phases=[Phase.generate]))
