"""What is wrong is one clear sentence and exit status 2; a batch goes on with the rest and lists what failed."""

import json
import re

import numpy as np
import polars as pl
import pytest
import soundfile
from geometries import PUBLISHED, build, thin
from made_sound import length, write

GOOD = "7 | 1 2 | 3 4 5 6\n"


def sentence(said) -> str:
    """The one error, in one line, with exit status 2."""
    assert said.status == 2, said
    assert "\n" not in said.error
    return said.error


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("7 | 1 2\n", "2 levels of codes were given; this codec has 3"),
        ("7 | 1 2 | 3 4 5 6 | 1 2 3 4 5 6 7 8\n", "4 levels of codes were given; this codec has 3"),
        ("7 | 1 2 | 3 4 5 61\n", "codes of level 2 span 3..61; this codebook has 0..60"),
        ("-1 | 1 2 | 3 4 5 6\n", "codes of level 0 span -1..-1; this codebook has 0..60"),
        ("7 | 1 2 | 3 4 5\n", "do not cover one span of time"),
        (GOOD + "7 | 1 2 3 | 3 4 5 6\n", "do not cover one span of time"),
        (GOOD + "7 | 1 2\n", "line 2 has 2 levels, those before it 3"),
        (GOOD + "seven | 1 2 | 3 4 5 6\n", "line 2: 'seven | 1 2 | 3 4 5 6' is no line of codes"),
        (GOOD + "# channel\n7 | 1 2 | 3 4 5 6\n" + GOOD, "level 0 has another number of tokens in each channel"),
        ("# num_samples: many\n" + GOOD, "line 1: 'many' is not a JSON value"),
        ("# made by hand\n# name: a.wav\n" + GOOD, "line 2: 'a.wav' is not a JSON value"),
        ("# name: a.wav\n" + GOOD, "text goes in double quotes, and null is what is not known"),
        ("# Channel\n# channel\n" + GOOD, "no codes, or a channel without"),
        ("99999999999999999999999 | 1 2 | 3 4 5 6\n", "no codebook is so large"),
        ("# source_samples: 100\n" + GOOD, "source_samples and source_rate go together"),
        ("# source_samples: -5\n# source_rate: 24000\n" + GOOD, "source_samples is '-5'"),
        ('# num_samples: "x"\n' + GOOD, "num_samples is 'x'"),
        ("# source_samples: 5\n# source_rate: 0\n" + GOOD, "source_rate is '0'"),
        ("# source_samples: 5000000\n# source_rate: 24000\n" + GOOD, "coarse frames for 5000000 samples"),
        ("", "no codes"),
    ],
)
def test_text_that_is_no_codes_of_the_model(run, here, text, words):
    (here / "a.txt").write_text(text)
    message = sentence(run("decode", "a.txt", "--to", "a.wav"))
    assert message.startswith("a.txt: ") and words in message
    assert not (here / "a.wav").exists()


@pytest.mark.parametrize("extension", ["parquet", "npz", "txt"])
@pytest.mark.parametrize("damage", [lambda whole: whole[: len(whole) // 2], lambda whole: b"\xff\xfe" * 50])
def test_a_damaged_file_of_codes(run, here, extension, damage):
    write(here / "a.wav", 50_000)
    file = here / f"a.{extension}"
    assert run("encode", "a.wav", "--to", file).status == 0
    file.write_bytes(damage(file.read_bytes()))
    assert f"a.{extension}: " in sentence(run("decode", file, "--to", "b.wav"))
    assert not (here / "b.wav").exists()


def test_a_table_of_something_else(run, here):
    write(here / "a.wav", 50_000)
    assert run("encode", "a.wav", "--to", here / "good.parquet").status == 0
    good = pl.read_parquet(here / "good.parquet")
    for change, words in (
        (good.drop("name"), "no column name"),
        (good.with_columns(codes_1=pl.lit(None, good["codes_1"].dtype)), "the column codes_1 has something else"),
        (good.with_columns(codes_1=pl.lit("1 2")), "the column codes_1 has something else"),
        (good.with_columns(source_rate=pl.lit(None, pl.Int32)), "source_samples and source_rate go together"),
    ):
        change.write_parquet(here / "bad.parquet")
        assert words in sentence(run("decode", "bad.parquet", "--to", "b.wav"))


def test_one_odd_file_of_codes_does_not_end_a_batch(run, here):
    (here / "in").mkdir()
    (here / "in" / "a.txt").write_text("99999999999999999999999 | 1 2 | 3 4 5 6\n")
    (here / "in" / "b.txt").write_text(GOOD)
    said = run("decode", "in", "--to", "out")
    assert said.status == 2 and "1 of 2 failed; the other 1 are done" in said.error
    assert (here / "out" / "b.wav").exists()


def test_sound_that_is_no_numbers(run, here):
    soundfile.write(here / "nan.wav", np.full(3000, np.nan), 24_000, subtype="FLOAT")
    assert "not finite" in sentence(run("encode", "nan.wav", "--to", "a.npz"))
    assert "not finite" in sentence(run("reconstruct", "nan.wav", "--to", "b.wav"))


def test_a_recording_is_never_replaced_by_what_is_made_of_it(run, here):
    (here / "in").mkdir()
    write(here / "in" / "a.wav", 50_000)
    before = (here / "in" / "a.wav").read_bytes()
    for more in ((), ("--overwrite",)):
        assert "the place of itself" in sentence(run("reconstruct", "in", "--to", "in", *more))
    assert (here / "in" / "a.wav").read_bytes() == before


def test_an_npz_of_something_else(run, here):
    np.savez(here / "c.npz", codes_0=np.zeros((0, 1), int), codes_1=np.zeros((0, 2), int))
    assert "of the shape (channels, tokens)" in sentence(run("decode", "c.npz", "--to", "c.wav"))
    np.savez(here / "a.npz", codes_0=np.zeros(3))
    assert "whole numbers named codes_0" in sentence(run("decode", "a.npz", "--to", "a.wav"))
    np.savez(here / "b.npz", x=np.zeros(3))
    assert "no codes" in sentence(run("decode", "b.npz", "--to", "b.wav"))


def test_a_rate_that_the_model_has_not(run, here):
    write(here / "a.wav")
    message = "this codec decodes to 24000 and 48000 Hz, not to 44100 Hz"
    assert sentence(run("reconstruct", "a.wav", "--to", "b.wav", "--rate", 44_100)) == message
    single = build(thin(PUBLISHED["24khz"])).save_pretrained(here / "single")
    said = run("reconstruct", "a.wav", "--to", "b.wav", "--rate", 48_000, model=single)
    assert sentence(said) == "this codec decodes to 24000 Hz, not to 48000 Hz"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty (0 bytes)"),
        (b"no audio at all", "not audio: the first bytes are"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_is_no_audio(run, here, content, words):
    if content is None:
        (here / "a.wav").symlink_to("nowhere")
    else:
        (here / "a.wav").write_bytes(content)
    message = sentence(run("encode", "a.wav", "--to", "a.txt"))
    assert message.startswith("a.wav: ") and words in message and message.count("a.wav") == 1


def test_a_file_without_a_sample(run, here):
    write(here / "a.wav", 0)
    assert sentence(run("encode", "a.wav", "--to", "a.txt")) == "a.wav: there is no audio in it (0 samples)"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("nowhere.wav", "there is no file or folder nowhere.wav"),
        ("*.wav", "no file matches *.wav"),
        ("empty", "no .flac, .m4a, .mp3, .ogg, .opus, .wav file in the folder empty"),
    ],
)
def test_what_is_not_there(run, here, given, words):
    (here / "empty").mkdir()
    assert words in sentence(run("encode", given, "--to", "out"))


@pytest.mark.parametrize("source", ["nowhere/at/all", "./nowhere", "empty"])
def test_a_model_that_is_not_there(run, here, source):
    (here / "empty").mkdir()
    write(here / "a.wav")
    assert source in sentence(run("encode", "a.wav", "--to", "out", model=source))
    assert source in sentence(run("info", model=source))


@pytest.mark.parametrize(
    ("to", "more", "words"),
    [
        ("out.mp3", (), "mp3 is not written by this command; choose one of wav, flac, ogg"),
        ("out.parquet", (), "parquet is not written by this command"),
        ("out.flac", ("--format", "wav"), "name two formats"),
        ("out.wav", ("--device", "cuda:99"), "device 'cuda:99' is not here"),
        ("/proc/out", (), "or `--to`"),
        ("a.wav/out.wav", (), "a.wav is a file and can be no folder; give another folder, or one file whose name ends"),
        ("a.wav/out", (), "a.wav is a file and can be no folder; give another folder, or one file whose name ends"),
        ("notes", (), "notes is a file and can be no folder; give another folder, or one file whose name ends in .wav"),
        ("gone/deep", (), "gone is a file and can be no folder"),
        ("", (), "`--to` is empty; give a folder, a file, or - for standard output"),
    ],
)
def test_a_place_or_device_that_cannot_be(run, here, to, more, words):
    write(here / "a.wav")
    (here / "notes").write_text("mine")
    (here / "gone").symlink_to("nowhere")
    message = sentence(run("reconstruct", "a.wav", "--to", to, *more))
    assert words in message and ("home" not in message or to == "/proc/out")
    assert (here / "notes").read_text() == "mine"


def test_many_into_one_file(run, here):
    for name in ("a", "b"):
        write(here / f"{name}.wav")
    assert "is one file, for 2 recordings" in sentence(run("reconstruct", "a.wav", "b.wav", "--to", "out.wav"))
    assert "takes one recording, not 2" in sentence(run("reconstruct", "a.wav", "b.wav", "--to", "-"))
    assert "give it alone" in sentence(run("reconstruct", "-", "b.wav", "--to", "out"))
    said = run("reconstruct", "a.wav", "--to", "-", "--json")
    assert said.status == 2 and "both want standard output" in said.err


def test_a_batch_goes_on_with_the_rest_and_lists_what_failed(run, here):
    for name in ("a", "c", "deep/d"):
        write(here / "in" / f"{name}.wav")
    (here / "in" / "b.flac").write_bytes(b"fLaC and nothing else")
    (here / "in" / "z.mp3").write_bytes(b"")
    said = run("reconstruct", "in", "nowhere.wav", "--to", "out")
    assert said.status == 2
    first, *listed = said.error.splitlines()
    assert first == "3 of 6 failed; the other 3 are done:"
    assert [re.match(r"  (in/\S+|there)", line).group(1) for line in listed] == ["in/b.flac:", "in/z.mp3:", "there"]
    made = sorted(str(file.relative_to(here / "out")) for file in (here / "out").rglob("*") if file.is_file())
    assert made == ["in/a.wav", "in/c.wav", "in/deep/d.wav"]
    as_json = run("reconstruct", "in", "--to", "out", "--json")
    assert as_json.status == 2 and as_json.err == ""
    assert json.loads(as_json.out.splitlines()[-1])["message"].startswith("2 of 5 failed")
    assert length(next((here / "out").rglob("d.wav"))) == (5001, 24_000, 1)


def test_a_broken_codes_file_among_good_ones(run, here):
    for name in ("a", "b", "c"):
        (here / f"{name}.txt").write_text(GOOD if name != "b" else "7 | 1 2 | 3 4 5 99\n")
    said = run("decode", "a.txt", "b.txt", "c.txt", "--to", "out")
    assert said.status == 2 and said.error.splitlines()[1].startswith("  b.txt: codes of level 2 span 3..99")
    assert sorted(file.name for file in (here / "out").iterdir()) == ["a.wav", "c.wav"]


def test_seconds_are_for_codes_that_are_sampled(run, here):
    (here / "a.txt").write_text(GOOD)
    said = run("generate", "--codes", "a.txt", "--seconds", 3, "--to", "b.wav")
    assert said.status == 2 and "those of --codes say how long they are" in said.err
    assert not (here / "b.wav").exists()


def test_files_that_are_like_others_of_the_codes_are_told_by_name(run, here):
    (here / "a.txt").write_text("7 | 1\n")
    assert sentence(run("generate", "--like", "a.txt", "--to", "b.wav")).startswith("a.txt: 2 levels")
    assert "there is no file or folder b.txt" in sentence(run("generate", "--like", "b.txt", "--to", "b.wav"))
