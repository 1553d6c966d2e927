"""What is wrong is one clear sentence and exit status 2; a batch goes on with the rest and lists what failed."""

import json
import re

import numpy as np
import pytest
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
        ("# num_samples: many\n" + GOOD, "line 1: many is not a JSON value"),
        ("# colour: 3\n" + GOOD, "what it says about its codes is not understood"),
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


def test_an_npz_of_something_else(run, here):
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


@pytest.mark.parametrize(
    ("to", "more", "words"),
    [
        ("out.mp3", (), "mp3 is not written by this command; choose one of wav, flac, ogg"),
        ("out.parquet", (), "parquet is not written by this command"),
        ("out.flac", ("--format", "wav"), "name two formats"),
        ("out.wav", ("--device", "cuda:99"), "device 'cuda:99' is not here"),
        ("/proc/out", (), "or `--to`"),
        ("a.wav/out.wav", (), "or `--to`"),
    ],
)
def test_a_place_or_device_that_cannot_be(run, here, to, more, words):
    write(here / "a.wav")
    assert words in sentence(run("reconstruct", "a.wav", "--to", to, *more))


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
    assert made == ["in/a.wav", "in/c.wav", "in/deep/d.wav"] or made == ["a.wav", "c.wav", "deep/d.wav"]
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


def test_files_that_are_like_others_of_the_codes_are_told_by_name(run, here):
    (here / "a.txt").write_text("7 | 1\n")
    assert sentence(run("generate", "--like", "a.txt", "--to", "b.wav")).startswith("a.txt: 2 levels")
    assert "there is no file or folder b.txt" in sentence(run("generate", "--like", "b.txt", "--to", "b.wav"))
