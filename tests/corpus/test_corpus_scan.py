"""Scanning: every candidate ends in the manifest or in the quarantine with its reason; an error names its mend."""

import contextlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import soundfile
from made_audio import RATE, encode, noise, variable_rate_mp3, write

from snac_pipeline.corpus import Corpus, audio_path, manifest_version, read_audio, read_manifest, read_quarantine, scan
from snac_pipeline.corpus.manifest import manifest_file
from snac_pipeline.corpus.naming import os_path, stored_path
from snac_pipeline.errors import PipelineError

SPEECH = Path(__file__).resolve().parents[2].parent / "shared" / "speech"


@pytest.fixture
def root(tmp_path):
    return tmp_path / "audio"


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


def rows(home, corpus="c"):
    return {row["path"]: row for row in read_manifest(home, [corpus]).iter_rows(named=True)}


def refused(home, corpus="c"):
    return {row["path"]: row for row in read_quarantine(home, [corpus]).iter_rows(named=True)}


def test_the_manifest_holds_the_facts_of_every_file(root, home):
    write(root / "anna" / "1.wav", seed=1)
    write(root / "bo" / "2.flac", seed=2, rate=22_050, channels=2, seconds=0.5)
    report = scan(Corpus("c", root), home)
    assert (report.files, report.utterances, report.speakers, report.quarantined) == (2, 2, 2, 0)
    assert report.hours == pytest.approx(0.75 / 3600)
    two = rows(home)["bo/2.flac"]
    assert (two["speaker"], two["corpus"], two["stratum"]) == ("bo", "c", "c")
    assert (two["num_frames"], two["header_frames"], two["sample_rate"], two["channels"]) == (11_025, 11_025, 22_050, 2)
    assert two["duration"] == 0.5 and two["flags"] == [] and len(two["digest"]) == 32
    assert two["peak"] == pytest.approx(np.abs(noise(0.5, 22_050, 2, 2)).max(), abs=1e-4)
    assert audio_path(two) == root / "bo" / "2.flac"


SPEAKERS = {
    None: {"anna/ch/1.wav": "anna", "bo-7.wav": None},
    "{speaker}/**": {"anna/ch/1.wav": "anna", "bo-7.wav": "quarantine"},
    "{speaker}/*": {"anna/ch/1.wav": "quarantine", "bo-7.wav": "quarantine"},
    "**/{speaker}/*": {"anna/ch/1.wav": "ch", "bo-7.wav": "quarantine"},
    "{speaker}-*.wav": {"anna/ch/1.wav": "quarantine", "bo-7.wav": "bo"},
    "utterance": {"anna/ch/1.wav": None, "bo-7.wav": None},
}


@pytest.mark.parametrize("pattern", SPEAKERS, ids=str)
def test_the_speaker_comes_from_the_path(root, home, pattern):
    for seed, path in enumerate(SPEAKERS[pattern]):
        write(root / path, seed=seed)
    with contextlib.suppress(PipelineError):  # "{speaker}/*" matches nothing here
        scan(Corpus("c", root, speaker=pattern), home)
    bad = refused(home)
    for path, speaker in SPEAKERS[pattern].items():
        if speaker == "quarantine":
            assert bad[path]["stage"] == "speaker" and repr(pattern) in bad[path]["reason"]
        else:  # a file that is its own speaker bears the name of its content
            assert rows(home)[path]["speaker"] == (speaker or rows(home)[path]["digest"])


def test_a_corrected_speaker_pattern_takes_files_back_without_reading_the_others(root, home, settled):
    write(root / "anna-1.wav", seed=1)
    write(root / "bo_2.wav", seed=2)
    scan(Corpus("c", root, speaker="{speaker}-*.wav"), home)
    report = scan(Corpus("c", root, speaker="{speaker}??.wav"), home)
    assert (report.utterances, report.read, report.unchanged) == (2, 1, 1)


def _cut(path, keep):
    content = path.read_bytes()
    path.write_bytes(content[: round(len(content) * keep)])


def _with_sample(path, value):
    x = noise()
    x[7] = value
    soundfile.write(path, x, RATE, subtype="FLOAT")


def _flip(path):
    content = bytearray(write(path, seconds=3).read_bytes())
    content[len(content) // 2] ^= 0x55
    path.write_bytes(content)


def _hole(path):
    made = encode(path, "libopus", 48_000, seconds=20) if path.suffix == ".opus" else write(path, seconds=20)
    content = bytearray(made.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 5000] = bytes(5000)
    path.write_bytes(content)


def _unclosed(path, size):
    """What a recorder leaves that streams, or is cut off: sizes that were never filled in."""
    content = bytearray(write(path, seconds=1).read_bytes())
    if path.suffix == ".flac":
        content[21] &= 0xF0
        content[22:26] = bytes(4)
    else:
        data = content.index(b"data")
        content[4:8] = content[data + 4 : data + 8] = size
    path.write_bytes(content)


def _joined(path):
    other = path.with_name(f"other{path.suffix}")
    for seconds, file in enumerate((path, other), 2):
        encode(file, "libopus", 48_000, seconds) if path.suffix == ".opus" else write(file, seconds, seconds)
    path.write_bytes(path.read_bytes() + other.read_bytes())
    other.unlink()


def _changed(path, old, new):
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))


def _empty_with_tags(path):
    """What tags follow an empty data chunk are no samples of it."""
    content = write(path, seconds=0).read_bytes() + b"LIST\x0c\0\0\0INFOINAM\0\0\0\0"
    path.write_bytes(content[:4] + (len(content) - 8).to_bytes(4, "little") + content[8:])


BAD = {
    "text.wav": (lambda p: p.write_text("this is not audio"), "not audio"),
    "empty.flac": (lambda p: p.touch(), "empty"),
    "headless.wav": (lambda p: soundfile.write(p, noise()[:0], RATE), "0 frames"),
    "cut.flac": (lambda p: (write(p, seconds=3), _cut(p, 0.7)), "decoding fails after"),
    "cut_by_7_bytes.flac": (
        lambda p: (write(p, seconds=3), p.write_bytes(p.read_bytes()[:-7])),
        "decoding fails after",
    ),
    "flip.flac": (_flip, "decoding fails after"),
    "hole.ogg": (_hole, "damaged"),
    "joined.flac": (_joined, "one after the other"),
    "joined.ogg": (_joined, "one after the other"),
    "joined.opus": (_joined, "one after the other"),
    "empty_with_tags.wav": (_empty_with_tags, "0 frames"),
    "40_hertz.wav": (
        lambda p: _changed(write(p), RATE.to_bytes(4, "little"), (40).to_bytes(4, "little")),
        "its header says 40 Hz",
    ),
    "unknown_codec.m4a": (
        lambda p: _changed(encode(p, "aac", 44_100), b"stsd", b"none"),
        "codec that FFmpeg does not know",
    ),
    "nan.wav": (lambda p: _with_sample(p, np.nan), "not finite"),
    "infinity.wav": (lambda p: _with_sample(p, -np.inf), "not finite"),
    "pipe.wav": (os.mkfifo, "not a regular file"),
    "socket.wav": (lambda p: os.mknod(p, stat.S_IFSOCK | 0o600), "not a regular file"),
    "broken_link.wav": (lambda p: p.symlink_to("nowhere.wav"), "link"),
    "circular.wav": (lambda p: p.symlink_to(p.name), "link"),
    "loop": (lambda p: p.symlink_to("."), "link to a folder that contains it"),
    "video.m4a": (lambda p: p.write_bytes(b"\0\0\0\x18ftypM4A " + bytes(100)), "FFmpeg"),
    "tagged.mp3": (lambda p: p.write_bytes(b"ID3\x04\0\0\0\0\0\x05hello world"), "FFmpeg|frames"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_used_is_quarantined_with_a_reason_and_the_rest_is_kept(root, home, name):
    write(root / "good.wav")
    make, reason = BAD[name]
    make(root / name)
    report = scan(Corpus("c", root), home)
    assert (report.files, report.utterances, report.quarantined) == (2, 1, 1)
    assert set(rows(home)) == {"good.wav"}
    [row] = refused(home).values()
    assert row["path"] == name and row["stage"] in ("list", "read")
    assert any(part in row["reason"] for part in reason.split("|")), row["reason"]
    assert str(root) not in row["reason"]  # the path is a column, not a part of the reason


def test_files_and_folders_without_permission_are_quarantined_and_come_back(root, home):
    if os.geteuid() != 0:
        pytest.skip("needs root to become another user")
    write(root / "good.wav")
    write(root / "secret.wav", seed=1).chmod(0)
    write(root / "closed" / "3.wav", seed=2).parent.chmod(0)
    for folder in [root, *root.parents]:
        if folder.stat().st_uid == 0 and "pytest" in str(folder):
            folder.chmod(0o755)
    home.mkdir()
    home.chmod(0o777)
    os.seteuid(65534)
    try:
        report = scan(Corpus("c", root), home)
        os.seteuid(0)
    finally:
        os.seteuid(0)
    assert (report.utterances, report.quarantined) == (1, 2)
    assert {path.rstrip("/"): row["stage"] for path, row in refused(home).items()} == {
        "secret.wav": "read",
        "closed": "list",
    }
    assert all("Permission denied" in row["reason"] for row in refused(home).values())
    assert scan(Corpus("c", root), home).utterances == 3


FLAGGED = {
    "truncated.wav": (lambda p: (write(p, seconds=2), _cut(p, 0.5)), ["truncated"]),
    "truncated_rf64.wav": (lambda p: (write(p, seconds=2, format="RF64"), _cut(p, 0.5)), ["truncated"]),
    "loud.wav": (lambda p: soundfile.write(p, noise() * 30, RATE, subtype="FLOAT"), ["over_full_scale"]),
    "silent.wav": (lambda p: soundfile.write(p, noise() * 0, RATE), ["silent"]),
    "flac_inside.wav": (lambda p: soundfile.write(p, noise(), RATE, format="FLAC"), ["wrong_extension"]),
    "no_xing.mp3": (lambda p: encode(p, "libmp3lame", 44_100, write_xing="0"), ["no_xing"]),
    "variable.mp3": (variable_rate_mp3, ["no_xing"]),
    "cut.mp3": (lambda p: (encode(p, "libmp3lame", 44_100), _cut(p, 0.5)), ["header_mismatch"]),
    "hole.opus": (_hole, ["header_mismatch"]),
    "size_0.wav": (lambda p: _unclosed(p, bytes(4)), ["unclosed"]),
    "size_all_ones.wav": (lambda p: _unclosed(p, b"\xff" * 4), ["unclosed"]),
    "no_count.flac": (lambda p: _unclosed(p, None), ["unclosed"]),
    "one_sample.wav": (lambda p: soundfile.write(p, noise()[:1], RATE), []),
    "eight_channels.flac": (lambda p: write(p, channels=8), []),
    "UPPER.WAV": (write, []),
    "ünï cödé.wav": (write, []),
    "back\\slash\n.wav": (write, []),
    os.fsdecode(b"latin1-\xe9.wav"): (write, []),
}


@pytest.mark.parametrize("name", FLAGGED, ids=ascii)
def test_what_is_odd_but_readable_is_kept_flagged_and_readable_through_the_manifest(root, home, name):
    root.mkdir()
    make, flags = FLAGGED[name]
    if os.fsencode(name).isascii() or name == "ünï cödé.wav" or make is not write:
        make(root / name)
    else:
        os.rename(write(root / "plain.wav"), root / name)
    report = scan(Corpus("c", root), home)
    assert (report.files, report.utterances, report.quarantined) == (1, 1, 0) and refused(home) == {}
    [row] = rows(home).values()
    assert row["flags"] == flags
    assert os_path(row["path"]) == name and stored_path(name) == row["path"]
    for file in (audio_path(row), row["file"], Path(row["file"])):
        assert len(read_audio(file, row["sample_rate"])) == row["num_frames"]


@pytest.mark.parametrize(
    ("name", "make", "seconds"),
    [
        ("variable.mp3", variable_rate_mp3, 6),
        ("size_0.wav", lambda p: _unclosed(p, bytes(4)), 1),
        ("no_count.flac", lambda p: _unclosed(p, None), 1),
    ],
)
def test_what_soundfile_counts_wrong_is_decoded_whole(root, home, name, make, seconds):
    make(write(root / name).parent / name)
    with contextlib.suppress(soundfile.LibsndfileError):
        assert abs(soundfile.info(root / name).duration - seconds) > 0.5  # else the case proves nothing
    scan(Corpus("c", root), home)
    assert rows(home)[name]["duration"] == pytest.approx(seconds, abs=0.06)


PEAK_OF_A_SCAN = """
import resource, sys
from pathlib import Path
from snac_pipeline.corpus import Corpus, scan
peaks = []
for name in sys.argv[2:]:
    report = scan(Corpus(name, Path(sys.argv[1]) / name), Path(sys.argv[1]) / "home", workers=1)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
print(peaks[-1] - peaks[0], report.hours)
"""


@pytest.mark.parametrize("name", ["ten_hours.wav", pytest.param("unclosed.wav", marks=pytest.mark.slow)])
def test_ten_hours_are_scanned_in_bounded_memory(tmp_path, name):
    """By libsndfile, and by FFmpeg where the header's size was never filled in. A hole in the file costs no disk."""
    for corpus in ("short", "long"):
        write(tmp_path / corpus / name, rate=8000, seconds=20)  # more than one block
    with open(tmp_path / "long" / name, "rb+") as file:
        data = 2 * 8000 * 36_000
        file.truncate(44 + data)
        for place, size in ((4, 36 + data), (40, data)):
            file.seek(place)
            file.write((size if name == "ten_hours.wav" else 0).to_bytes(4, "little"))
    call = [sys.executable, "-c", PEAK_OF_A_SCAN, str(tmp_path), "short", "long"]
    found = subprocess.run(call, capture_output=True, text=True, check=True)
    megabytes, hours = map(float, found.stdout.split())
    assert hours == pytest.approx(10) and megabytes < 60, found.stdout  # decoded, the file is 1,150 MB


def test_other_files_are_counted_and_the_home_inside_the_corpus_is_left_out(root):
    write(root / "a.wav")
    (root / "notes.txt").write_text("hello")
    home = root / "work"
    write(home / "restored.wav", seed=1)
    report = scan(Corpus("c", root), home)
    assert (report.files, report.ignored) == (1, 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "does not exist; correct `path`"),
        (lambda root: root.write_text("x"), "is not a folder"),
        (lambda root: root.mkdir(), "it is empty"),
        (lambda root: [root.mkdir(), (root / "a.txt").touch(), (root / "b.txt").touch()], "none of its 2 files is wav"),
        (lambda root: [root.mkdir(), (root / "a.wav").write_text("x")], "none of the 1 files.*a.wav: not audio"),
    ],
    ids=["missing", "a file", "empty", "text files", "all bad"],
)
def test_a_corpus_without_audio_is_an_error_that_says_why(root, home, make, message):
    make(root)
    with pytest.raises(PipelineError, match=f"(?s){message}"):
        scan(Corpus("c", root), home)
    assert not manifest_file(home, "c").exists()


def test_a_home_that_cannot_be_is_told_before_the_files_are_read(root, tmp_path):
    write(root / "anna" / "1.wav", seed=1)
    home = tmp_path / "home"
    home.touch()
    read = []
    with pytest.raises(PipelineError, match=f"cannot create the folder {home}"):
        scan(Corpus("c", root), home, progress=lambda done, total: read.append(done))
    assert read == []


def test_a_damaged_manifest_is_named_with_what_to_do(root, home):
    write(root / "anna" / "1.wav", seed=1)
    scan(Corpus("c", root), home)
    manifest_file(home, "c").write_bytes(b"junk")
    with pytest.raises(PipelineError, match=r"c.parquet is damaged .* or delete it and run the step that writes it"):
        scan(Corpus("c", root), home)
    manifest_file(home, "c").unlink()
    assert scan(Corpus("c", root), home).utterances > 0


@pytest.mark.parametrize(
    "wrong", [{"name": "a/b"}, {"name": ""}, {"name": "a...b"}, {"limit": 0}, {"speaker": "*.wav"}]
)
def test_a_corpus_that_cannot_work_is_refused(root, wrong):
    with pytest.raises(PipelineError):
        Corpus(**{"name": "c", "path": root, **wrong})


def test_limit_keeps_the_same_files_and_more_of_them_when_raised(root, home):
    for seed in range(12):
        write(root / f"s{seed % 4}" / f"{seed}.wav", seed=seed)
    chosen = []
    for limit in (3, 3, 7, 100):
        scan(Corpus("c", root, limit=limit), home)
        chosen.append(set(rows(home)))
    assert chosen[0] == chosen[1] < chosen[2] < chosen[3]
    assert [len(found) for found in chosen] == [3, 3, 7, 12]


def test_a_manifest_that_is_missing_says_what_to_run(home):
    with pytest.raises(PipelineError, match="snac-pipeline scan"):
        read_manifest(home, ["c"])


def test_the_version_ignores_order_and_copies_but_not_speakers_content_or_flags(root, home):
    write(root / "a" / "1.wav", seed=1)
    write(root / "b" / "2.wav", seed=2)
    report = scan(Corpus("c", root), home)
    manifest = read_manifest(home, ["c"])
    assert report.version == manifest_version(manifest) == manifest_version(manifest.reverse())
    assert manifest_version(manifest.vstack(manifest[:1])) == report.version
    first, second = manifest.to_dicts()
    for change in ({"speaker": "z"}, {"digest": "0" * 32}, {"stratum": "z"}, {"flags": ["silent"]}):
        changed = pl.DataFrame([{**first, **change}, second], schema=manifest.schema)
        assert manifest_version(changed) != report.version


def test_progress_counts_the_files_that_are_read(root, home):
    for seed in range(5):
        write(root / f"{seed}.wav", seed=seed)
    seen = []
    scan(Corpus("c", root), home, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(n, 5) for n in range(1, 6)]


def test_real_speech_is_scanned_whole(home):
    if not (SPEECH / "librispeech").is_dir():
        pytest.skip(f"no speech at {SPEECH}")
    report = scan(Corpus("c", SPEECH / "librispeech"), home)
    assert (report.utterances, report.speakers, report.quarantined) == (251, 251, 0)
    assert report.hours == pytest.approx(52 / 60, abs=0.01)
    again = scan(Corpus("c", SPEECH / "librispeech"), home)
    assert (again.read, again.unchanged, again.version) == (0, 251, report.version)
