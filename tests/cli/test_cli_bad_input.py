"""What users can do wrong: exit 1, one message that names the thing, its place and the mend, nothing half-written."""

import json
import shutil

import made_codes as made
import pyarrow.parquet as pq
import pytest
import yaml

TRAIN = ("train", "decoder_24khz")


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# Corpora --------------------------------------------------------------------------------------------------------------


def test_an_empty_folder(project):
    shutil.rmtree(project.speech)
    project.speech.mkdir()
    message = project("scan").error
    assert f"corpus made: no audio in {project.speech}" in message and "`path` in the settings" in message
    assert not project.home.exists()


def test_a_folder_that_is_not_there(project):
    shutil.rmtree(project.speech)
    assert f"{project.speech} does not exist; correct `path`" in project("scan").error


def test_a_folder_of_text_files(project):
    shutil.rmtree(project.speech)
    project.speech.mkdir()
    for name in ("a.txt", "b.txt"):
        (project.speech / name).write_text("text")
    assert "none of its 2 files is wav, flac" in project("scan").error
    assert not project.home.exists()


def test_text_files_named_wav(project):
    for file in project.speech.rglob("*.wav"):
        file.write_text("no audio at all")
    message = project("scan").error
    assert "none of the 4 files" in message and "not audio" in message and "quarantine/made.parquet" in message
    assert files_below(project.home) == ["quarantine/made.parquet"]
    assert "run `snac-pipeline scan`" in project("cache").error


def test_a_corrupt_file_among_good_ones_is_set_aside_and_the_rest_goes_on(project):
    bad = next(project.speech.rglob("*.wav"))
    bad.write_bytes(bad.read_bytes()[:40])
    scanned = project.done("scan")
    assert (scanned["utterances"], scanned["quarantined"]) == (3, 1)
    assert project.done("cache")["encoded"] == 3
    found = project.done("codes", "verify")
    assert (found["utterances"], found["errors"], found["exact"]) == (3, [], True)
    assert project.done("status")["quarantine"] == {"made": 1}
    said = project("scan").out
    assert bad.name in said.partition("why_quarantined:")[2] and "quarantine/made.parquet" in said


def test_one_utterance(project):
    for file in sorted(project.speech.rglob("*.wav"))[1:]:
        file.unlink()
    assert project.done("scan")["utterances"] == 1
    assert project.done("cache")["encoded"] == 1
    message = project("split").error
    assert "nothing is left for" in message and "1 utterance in 1 group" in message and "add more utterances" in message
    assert not (project.home / "splits" / "splits.parquet").exists()
    assert "run `snac-pipeline split`" in project(*TRAIN).error
    assert not (project.home / "runs").exists()


@pytest.mark.parametrize("command", [("scan",), ("cache",), ("codes", "verify")])
def test_a_corpus_that_no_setting_names(project, command):
    project.done("scan")
    assert "no corpus is called 'nosuch'; the settings name made" in project(*command, "--corpus", "nosuch").error


def test_a_file_that_vanished_after_the_scan(project):
    project.done("scan")
    lost = project.speech / "speaker0" / "001.wav"
    lost.unlink()
    message = project("cache").error
    assert f"{lost}: cannot be read" in message and "the other 3 are cached" in message and "`scan`" in message
    assert project.done("scan")["utterances"] == 3
    assert project.done("cache")["encoded"] == 0


# Settings and recipes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"corpse": {}}, "unknown key `corpse` (known here: home, corpora, limit"),
        ({"caching": {"batchseconds": 3}}, "unknown key `caching.batchseconds` (known here: processes, batch_seconds"),
        (
            {"corpora": {"made": {"path": "speech", "speakers": "x"}}},
            "unknown key `corpora.made.speakers` (known here: path, speaker, metadata, confined",
        ),
        (
            {"training": {"decoders": {"decoder_24khz": {"recipe": "r.yaml", "start": "base_codec"}}}},
            "unknown key `training.decoders.decoder_24khz.start` (known here: recipe, starts_from)",
        ),
        ({"split": {"val": 1.5}}, "`split.val`: must be less than 1, not 1.5"),
        ({"split": {"val": "lots"}}, "`split.val`: must be a number, not 'lots'"),
        ({"split": {"val": float("inf")}}, "`split.val`: must be a finite number, not inf"),
        ({"limit": 2.5}, "`limit`: must be a whole number, not 2.5"),
        ({"split": {"val": "lots"}}, "`split.val`: must be a number, not 'lots'"),
        ({"limit": 2.5}, "`limit`: must be a whole number, not 2.5"),
        ({"corpora": {}}, "`corpora`"),
        ({"limit": 0}, "`limit`: must be greater than or equal to 1, not 0"),
        ({"corpora": {"made": "speech"}}, "`corpora.made`: must hold `key: value` lines, not 'speech'"),
        ({"corpora": {"my speech": {"path": "speech"}}}, "`corpora`: corpus name 'my speech': use letters"),
        ({"devices": "cpu"}, "`devices`: must be a list, such as [cpu], not 'cpu'"),
    ],
)
def test_a_wrong_setting_is_named_with_its_place(project, changes, words):
    project.change_settings(**changes)
    message = project("scan").error
    assert message.startswith(f"{project.settings_file}: ") and words in message
    assert not project.home.exists()


def test_all_wrong_settings_are_told_at_once(project):
    project.change_settings(corpse={}, limit=0)
    message = project("scan").error
    assert "`corpse`" in message and "`limit`" in message


def test_an_unknown_key_in_a_recipe(project):
    recipe = project.folder / "recipes" / "phase10.yaml"
    content = yaml.safe_load(recipe.read_text())
    content["stages"][0]["epoch"] = 3
    recipe.write_text(yaml.safe_dump(content))
    project.change_settings(training={})
    message = project("recipe", recipe).error
    assert message.startswith(f"{recipe}: unknown key `stages.0.epoch` (known here: name, epochs")
    for command in ("scan", "split", "cache"):
        project.done(command)
    assert project(*TRAIN).error == message
    assert not (project.home / "runs").exists()


@pytest.mark.parametrize(
    ("overlay", "words"),
    [
        ({"phase9": {}}, "unknown key `phase9`"),
        ({"phase10": {"optimiser": {}}}, "unknown key `optimiser` (known here: phase, codec, heads"),
        ({"phase10": {"heads": {"native": {"wait": 1}}}}, "`heads.native.wait` (known here: weight, n_ffts, init"),
    ],
)
def test_an_unknown_key_in_an_overlay(project, overlay, words):
    file = project.folder / "overlay.yaml"
    file.write_text(yaml.safe_dump(overlay))
    project.change_settings(training={"overlay": "overlay.yaml"})
    message = project("recipe", project.folder / "recipes" / "phase10.yaml").error
    assert str(file) in message and words in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "does not exist"),
        ("", "is empty; it must hold `key: value` lines"),
        ("- a\n- b\n", "holds a list; it must hold"),
        ("home: [", "is not valid YAML: line 1, column 8: "),
        ("home: 2020-99-99", "is not valid YAML: month must be in 1..12"),
        ("home: " + "[" * 3000 + "]" * 3000, "is not valid YAML: maximum recursion depth exceeded"),
        ("home: a\0b", "is not valid YAML: unacceptable character"),
        (
            "corpora:\n\tx: 1\n",
            "is not valid YAML: line 2, column 1: found character '\\t' that cannot start any token",
        ),
        ("home: a\ncorpora: {x: {path: .}}\nhome: b\n", "the key `home` is there twice"),
    ],
)
def test_a_settings_file_that_is_none(project, text, words):
    project.settings_file.unlink()
    if text is not None:
        project.settings_file.write_text(text)
    message = project("status").error
    assert str(project.settings_file) in message and words in message


def test_a_folder_as_settings_file(project):
    project.settings_file.unlink()
    project.settings_file.mkdir()
    assert f"{project.settings_file} cannot be read" in project("status").error


# The base codec -------------------------------------------------------------------------------------------------------


def test_a_codec_whose_config_does_not_fit_its_weights(project, codec):
    other = project.folder / "codec"
    shutil.copytree(codec, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "codebook_size": config["codebook_size"] + 1}))
    project.change_settings(base_codec={"source": "codec"})
    project.done("scan")
    message = project("cache").error
    assert f"the weights in {other} do not fit its config.json" in message and "codebook" in message
    assert not (project.home / "codes").exists()


@pytest.mark.parametrize("source", ["./codec", "nowhere/codec", "codec"])
def test_a_codec_that_is_not_there(project, source):
    project.change_settings(base_codec={"source": source})
    project.done("scan")
    message = project("cache").error
    assert source in message and "folder" in message
    assert "\n" not in message
    assert project("info").error == message


def test_a_codec_folder_without_weights(project, codec):
    (project.folder / "codec").mkdir()
    shutil.copy(codec / "config.json", project.folder / "codec")
    project.change_settings(base_codec={"source": "codec"})
    assert "holds neither model.safetensors nor pytorch_model.bin" in project("info").error


# The home -------------------------------------------------------------------------------------------------------------


def in_a_file(folder):
    (folder / "file").write_text("in the way")
    return folder / "file" / "work"


def in_proc(folder):
    return "/proc/work"


def itself_a_file(folder):
    (folder / "file").write_text("in the way")
    return folder / "file"


@pytest.mark.parametrize("place", [in_a_file, in_proc, itself_a_file])
def test_a_home_that_cannot_be_written(project, place):
    home = place(project.folder)
    project.change_settings(home=str(home))
    before = files_below(project.folder)
    message = project("scan").error
    assert str(home) in message and "another `home` in the settings" in message
    assert files_below(project.folder) == before


# Order ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", [("split",), ("cache",), ("codes", "verify"), TRAIN, ("tokens", "bpe"), ("evaluate",)]
)
def test_a_step_before_its_time_says_which_step_is_missing(project, command):
    assert "run `snac-pipeline scan`" in project(*command).error
    assert made.leftovers(project.folder) == []


def test_a_decoder_whose_start_is_not_trained(project):
    for command in ("scan", "split", "cache"):
        project.done(command)
    message = project("train", "decoder_48khz").error
    assert message == "decoder_48khz starts from decoder_24khz, which is not trained yet; train it first"
    assert not (project.home / "runs").exists()


def test_a_decoder_that_no_setting_names(project):
    assert (
        "no decoder is called 'decoder_96khz'; the settings have decoder_24khz"
        in project("train", "decoder_96khz").error
    )


def test_training_before_caching_says_so_and_begins_nothing(project):
    (project.folder / "eager.yaml").write_text("phase10: {compile: false}")
    project.change_settings(training={"overlay": "eager.yaml"})
    for command in ("scan", "split"):
        project.done(command)
    assert "utterances have no codes" in project(*TRAIN).error
    assert made.leftovers(project.home) == []


def test_a_damaged_part_is_named(project):
    project.done("scan")
    result = project.done("cache")
    part = sorted((project.home / "codes" / result["fingerprint"]).glob("part-*"))[0]
    rows = pq.read_metadata(part).num_rows
    part.write_bytes(part.read_bytes()[:50])
    for command in (("cache",), ("codes", "verify"), ("status",)):
        message = project(*command).error
        assert str(part) in message and "damaged" in message and "delete it" in message
    part.unlink()
    assert project.done("cache")["encoded"] == rows


def test_everything_wrong_with_the_codes_is_listed_and_a_program_may_take_it_for_a_result(project):
    project.done("scan")
    result = project.done("cache")
    first, second = sorted((project.home / "codes" / result["fingerprint"]).glob("part-*"))[:2]
    first.write_bytes(first.read_bytes()[:50])
    data = bytearray(second.read_bytes())
    column = pq.read_metadata(second).row_group(0).column(3)
    data[column.data_page_offset + column.total_compressed_size - 1] ^= 1
    second.write_bytes(data)
    message = project("codes", "verify").error
    count, *lines = message.splitlines()
    assert count == f"{len(lines)} things are wrong:" and len(lines) == 3
    assert str(first) in lines[0] and str(second) in lines[1] and "neither cached nor in the quarantine" in lines[2]
    assert project("codes", "verify", "--json").status == 1
    assert project.done("codes", "verify", "--exit-zero")["errors"] == lines
