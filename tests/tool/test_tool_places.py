"""Where output goes: structure is kept, nothing overwrites anything, what is there is left alone."""

import io
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from made_cli import COMMAND
from made_sound import length, write

from snac_pipeline.errors import PipelineError
from snac_pipeline.tool.inputs import Item, find_items, targets

AUDIO = {".wav", ".flac"}


def made(folder) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["in"], ["a.wav", "deep/b.flac", "deep/deeper/c.wav"]),
        (["in/deep"], ["b.flac", "deeper/c.wav"]),
        (["in/deep", "more"], ["in/deep/b.flac", "in/deep/deeper/c.wav", "more/a.wav"]),
        (["in/a.wav"], ["a.wav"]),
        (["in/a.wav", "more/a.wav"], ["in/a.wav", "more/a.wav"]),
        (["in/a.wav", "in/a.wav", "in"], ["a.wav", "deep/b.flac", "deep/deeper/c.wav"]),
        (["in/**/*.wav"], ["a.wav", "deep/deeper/c.wav"]),
        (["*/a.wav"], ["in/a.wav", "more/a.wav"]),
        (["in/notes.txt"], ["notes.txt"]),
    ],
)
def test_paths_are_kept_below_the_folder_that_holds_everything_named(here, arguments, wanted):
    touch(here, "in/a.wav", "in/deep/b.flac", "in/deep/deeper/c.wav", "in/notes.txt", "in/.tmp-1.wav", "more/a.wav")
    assert [item.relative for item in find_items(arguments, AUDIO, "out")] == wanted


@pytest.mark.parametrize("gone", ["in/a.wav", "more/a.wav", "in/deep"])
def test_where_output_goes_does_not_depend_on_what_is_there(here, gone):
    named = ["in/a.wav", "more/a.wav", "in/deep", "more/*.flac"]
    touch(here, "in/a.wav", "in/deep/b.wav", "more/a.wav", "more/c.flac")
    before = {item.source: item.relative for item in find_items(named, AUDIO, "out")}
    shutil.rmtree(here / gone) if (here / gone).is_dir() else (here / gone).unlink()
    after = {item.source: item.relative for item in find_items(named, AUDIO, "out") if not item.problem}
    assert len(after) == 3 and after.items() < before.items()


def test_the_output_folder_is_no_input(here):
    touch(here, "in/a.wav", "in/out/a.wav")
    assert [item.relative for item in find_items(["in"], AUDIO, "in/out")] == ["a.wav"]


def test_files_that_would_have_one_name_keep_their_own(here):
    items = [Item(name, name) for name in ("a.wav", "a.flac", "b.wav", "deep/a.wav")]
    found = targets(items, "out", ".txt", (".txt",))
    assert [str(place) for place in found] == ["out/a.wav.txt", "out/a.flac.txt", "out/b.txt", "out/deep/a.txt"]


def test_no_two_recordings_have_one_output(here):
    items = [Item(name, name) for name in ("a.wav", "a.flac", "a.wav.flac")]
    found = targets(items, "out", ".txt", (".txt",))
    assert [str(place) for place in found] == ["out/a.wav.txt", "out/a.flac.txt", "out/a.wav.flac.txt"]
    with pytest.raises(PipelineError, match=r"several recordings would have the output a\.wav\.txt"):
        targets([Item("one/a.wav", "a.wav"), Item("two/a.wav", "a.wav")], "out", ".txt", (".txt",))


def test_a_file_that_is_named_twice_is_one(here):
    touch(here, "in/a.wav")
    assert len(find_items(["in/a.wav", "./in/a.wav", "in"], AUDIO, "out")) == 1


def test_two_recordings_of_one_name_are_both_reconstructed(run, here):
    write(here / "in" / "a.wav", 3000)
    write(here / "in" / "a.flac", 4000)
    assert run("reconstruct", "in", "--to", "out").status == 0
    assert {name: length(here / "out" / name)[0] for name in made(here / "out")} == {
        "a.flac.wav": 4000,
        "a.wav.wav": 3000,
    }


def test_a_batch_leaves_what_is_there_unless_told_to_overwrite(run, here):
    write(here / "in" / "a.wav")
    write(here / "in" / "b.wav")
    assert run("encode", "in", "--to", "out", "--format", "txt").status == 0
    (here / "out" / "a.txt").write_text("mine")
    again = run("encode", "in", "--to", "out", "--format", "txt")
    assert again.status == 0 and "already:                     2" in again.out
    assert (here / "out" / "a.txt").read_text() == "mine"
    assert run("encode", "in", "--to", "out", "--format", "txt", "--overwrite").status == 0
    assert (here / "out" / "a.txt").read_text().startswith("# name")


def test_one_file_that_is_there_is_refused_unless_told_to_overwrite(run, here):
    write(here / "a.wav")
    (here / "b.wav").write_text("mine")
    said = run("reconstruct", "a.wav", "--to", "b.wav")
    assert said.status == 2 and said.error == "a.wav: b.wav is there already; give another name, or --overwrite"
    assert (here / "b.wav").read_text() == "mine"
    assert run("reconstruct", "a.wav", "--to", "b.wav", "--overwrite").status == 0
    assert length(here / "b.wav")[0] == 5001


def test_names_that_are_not_utf_8(run, here):
    odd = os.fsdecode(b"caf\xe9")
    (here / "in" / odd).mkdir(parents=True)
    write(here / "a.wav").rename(here / "in" / odd / f"{odd}.wav")
    write(here / "in" / "b.wav")
    for form in ("parquet", "npz", "txt"):
        assert run("encode", "in", "--to", f"{form}s", "--format", form).status == 0
        assert run("decode", f"{form}s", "--to", f"{form}_out", "--format", "flac").status == 0
        assert made(here / f"{form}_out") == ["b.flac", f"{odd}/{odd}.flac"]


def piped(command: list, given: bytes, **options) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run([COMMAND, *map(str, command)], input=given, capture_output=True, env=environment, **options)


def test_standard_input_and_output_through_a_pipe(run, here, codec):
    """As in a shell: encode | decode equals reconstruct, in files."""
    file = write(here / "a.flac", 7001, 22_050)
    assert run("reconstruct", "a.flac", "--to", "here.wav", "--rate", 48_000).status == 0
    codes = piped(["encode", codec, "-", "--to", "-", "--format", "npz"], file.read_bytes())
    assert codes.returncode == 0 and b"1/1 files" in codes.stderr
    audio = piped(["decode", codec, "-", "--to", "-", "--rate", 48_000], codes.stdout)
    assert audio.returncode == 0
    assert audio.stdout == (here / "here.wav").read_bytes()


def test_standard_input_that_is_no_audio_is_told(run, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"no audio at all")))
    said = run("encode", "-", "--to", "-")
    assert said.status == 2 and said.error.startswith("standard input: not audio")


def test_a_shell_s_process_substitution_is_a_pipe_too(run, here):
    file = write(here / "a.flac", 3001)
    ours, theirs = os.pipe()
    os.write(theirs, file.read_bytes())
    os.close(theirs)
    assert run("reconstruct", f"/dev/fd/{ours}", "--to", "piped.wav").status == 0
    os.close(ours)
    assert run("reconstruct", "a.flac", "--to", "named.wav").status == 0
    assert (here / "piped.wav").read_bytes() == (here / "named.wav").read_bytes()


def test_progress_goes_from_file_to_file_and_through_a_long_one(run, here, monkeypatch):
    monkeypatch.setattr("snac_pipeline.tool.batch.SECONDS_PER_EVENT", 0.0)
    write(here / "in" / "a.wav", 24_000)
    write(here / "in" / "b.wav", 24 * 24_000)
    said = run("reconstruct", "in", "--to", "out", "--json")
    *progress, result = said.events
    fractions = [event["fraction"] for event in progress]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    assert sum(0.5 < fraction < 1.0 for fraction in fractions) >= 4
    assert progress[-1]["message"].startswith("2/2 files, 25.0 s of audio, ")
    assert result["written"] == 2 and result["audio_seconds"] == pytest.approx(25.0)


MEASURED = """
import resource, sys
from snac_pipeline.cli import main
status = main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
sys.exit(status)
"""


def peak_of(*command: object) -> int:
    """MiB that a command took, at most, in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MEASURED, *map(str, command)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return int(done.stdout.splitlines()[-1])


@pytest.mark.slow  # minutes of CPU
def test_a_file_ten_times_as_long_takes_no_more_memory(here, codec):
    second = 0.1 * np.random.default_rng(0).standard_normal(22_050)
    peaks = {}
    for minutes in (2, 20):
        with soundfile.SoundFile(here / f"{minutes}.wav", "w", 22_050, 1, subtype="PCM_16") as file:
            for _ in range(60 * minutes):
                file.write(second)
        peaks[minutes] = peak_of("reconstruct", codec, f"{minutes}.wav", "--to", f"out{minutes}.wav")
        assert length(here / f"out{minutes}.wav") == (minutes * 60 * 24_000, 24_000, 1)
    # 18 minutes more are 104 MB of samples, and 180 kB of codes.
    assert peaks[20] < peaks[2] + 40, peaks
