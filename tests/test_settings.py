"""pipeline.yaml: what is read, where paths count from, and that every key is explained."""

from pathlib import Path

import pytest
import yaml
from documented import default_of, keys, rows_of

from snac_pipeline.errors import PipelineError
from snac_pipeline.settings import SETTINGS_VARIABLE, Settings, load_settings, naming_words, read_yaml

REPOSITORY = Path(__file__).parents[1]
LEAST = {"corpora": {"mine": {"path": "speech"}}}


def written(folder: Path, content: dict | str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "pipeline.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return file


def test_a_corpus_is_all_that_has_to_be_named(tmp_path):
    settings = load_settings(written(tmp_path, LEAST))
    assert (settings.split.val, settings.limit, settings.devices) == (0.05, None, [])
    assert settings.base_codec.source == "hubertsiuzdak/snac_24khz"
    assert list(settings.training.decoders) == ["decoder_24khz", "decoder_48khz", "decoder_dual_head"]
    assert settings.training.decoders["decoder_48khz"].starts_from == "decoder_24khz"


def test_the_projects_own_file_is_right_and_its_paths_exist():
    settings = load_settings(REPOSITORY / "pipeline.yaml")
    paths = [Path(corpus.path) for corpus in settings.corpora.values()]
    paths += [decoder.recipe for decoder in settings.training.decoders.values()]
    assert all(path.exists() for path in [*paths, settings.training.overlay])


def test_relative_paths_count_from_the_files_folder(tmp_path, monkeypatch):
    file = written(tmp_path / "a", {**LEAST, "home": "../out", "training": {"overlay": "o.yaml"}})
    monkeypatch.chdir(tmp_path)
    for given in (file, "a/pipeline.yaml"):
        settings = load_settings(given)
        assert settings.home.resolve() == tmp_path / "out"
        assert settings.corpora["mine"].path == str(tmp_path / "a" / "speech")
        assert settings.training.overlay == tmp_path / "a" / "o.yaml"


def test_recipes_are_those_beside_the_file_or_else_the_projects(tmp_path):
    file = written(tmp_path, LEAST)
    shipped, own = REPOSITORY / "recipes" / "phase10.yaml", tmp_path / "recipes" / "phase10.yaml"
    assert load_settings(file).training.decoders["decoder_24khz"].recipe.samefile(shipped)
    own.parent.mkdir()
    own.touch()
    assert load_settings(file).training.decoders["decoder_24khz"].recipe == own


def test_absolute_paths_and_the_users_folder_stay(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    settings = load_settings(written(tmp_path, {"corpora": {"x": {"path": "/data"}}, "home": "~/out"}))
    assert settings.corpora["x"].path == "/data"
    assert settings.home == tmp_path / "me" / "out"


def test_a_corpus_may_be_a_url_and_have_metadata(tmp_path):
    corpora = {"x": {"path": "s3://bucket/speech", "metadata": "who.csv"}, "y": {"path": "zip://a::b.zip"}}
    settings = load_settings(written(tmp_path, {"corpora": corpora}))
    assert settings.corpora["x"].path == "s3://bucket/speech"
    assert settings.corpora["x"].metadata == str(tmp_path / "who.csv")
    assert (settings.corpora["y"].path, settings.corpora["y"].metadata) == ("zip://a::b.zip", None)


def test_a_base_codec_is_a_folder_where_there_is_one_and_an_id_elsewhere(tmp_path):
    file = written(tmp_path, {**LEAST, "base_codec": {"source": "owner/name"}})
    assert load_settings(file).base_codec.source == "owner/name"
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert load_settings(file).base_codec.source == str(tmp_path / "owner" / "name")


def test_the_environment_names_the_file_and_an_argument_is_stronger(tmp_path, monkeypatch):
    here, there = (written(tmp_path / name, {**LEAST, "home": name}) for name in ("here", "there"))
    monkeypatch.chdir(tmp_path / "here")
    assert load_settings().home.name == "here"
    monkeypatch.setenv(SETTINGS_VARIABLE, str(there))
    assert load_settings().home.name == "there"
    assert load_settings(here).home.name == "here"


@pytest.mark.parametrize("text", ["1e-4", "1.0e-4", "1E-4", "+1e-4", "0.0001", "100e-6"])
def test_numbers_may_be_written_as_people_write_them(tmp_path, text):
    file = tmp_path / "numbers.yaml"
    file.write_text(f"value: {text}\nquoted: '{text}'\nname: 1e-4th\n")
    assert read_yaml(file) == {"value": pytest.approx(1e-4), "quoted": text, "name": "1e-4th"}


def test_a_key_twice_is_an_error_and_not_a_loss(tmp_path):
    file = written(tmp_path, "corpora:\n  a: {path: x}\nsplit: {val: .1}\ncorpora:\n  b: {path: y}\n")
    with pytest.raises(PipelineError, match=r"line 4, column 1: the key `corpora` is there twice"):
        load_settings(file)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"decoder_24khz": {"recipe": "r", "starts_from": "decoder_24khz"}}, "cannot start from itself"),
        ({"decoder_48khz": {"recipe": "r", "starts_from": "decoder_24khz"}}, "decoder_24khz, which is not listed"),
        ({"decoder_96khz": {"recipe": "r"}}, "decoder_24khz"),
    ],
)
def test_decoders_that_cannot_be_trained_are_refused(tmp_path, changes, words):
    file = written(tmp_path, {**LEAST, "training": {"decoders": changes}})
    with pytest.raises(PipelineError, match=words):
        load_settings(file)


@pytest.mark.parametrize("name", ["", "a b", "a/b", "ü", "a.b"])
def test_a_corpus_name_has_to_do_as_a_file_name(tmp_path, name):
    with pytest.raises(PipelineError, match="use letters, digits"):
        load_settings(written(tmp_path, {"corpora": {name: {"path": "x"}}}))


def test_ready_made_folders_are_a_corpus_each(tmp_path):
    folders = {"train_dir": "a", "val_dir": "/b", "speaker": "*/{speaker}/*"}
    corpora = load_settings(written(tmp_path, {"corpora": {"x": {"path": "x", "split": "test"}, "y": folders}})).corpora
    assert {name: (corpus.path, corpus.split, corpus.speaker) for name, corpus in corpora.items()} == {
        "x": (str(tmp_path / "x"), "test", None),
        "y-train": (str(tmp_path / "a"), "train", "*/{speaker}/*"),
        "y-val": ("/b", "val", "*/{speaker}/*"),
    }
    assert not any(corpus.ready_made for corpus in corpora.values())


@pytest.mark.parametrize(
    ("corpora", "words"),
    [
        ({"x": {}}, "give `path`, or `train_dir` and `val_dir`"),
        ({"x": {"train_dir": "a"}}, "give `path`, or `train_dir` and `val_dir`"),
        ({"x": {"path": "p", "train_dir": "a", "val_dir": "b"}}, "either `path` or `train_dir` and `val_dir`"),
        ({"x": {"train_dir": "a", "val_dir": "b", "split": "val"}}, "leave out `split`"),
        ({"x": {"path": "p", "split": "dev"}}, "corpora.x.split"),
        ({"x": {"train_dir": "a", "val_dir": "b"}, "x-val": {"path": "p"}}, "'x-val' is there twice"),
    ],
)
def test_folders_that_contradict_each_other_are_refused(tmp_path, corpora, words):
    with pytest.raises(PipelineError, match=words):
        load_settings(written(tmp_path, {"corpora": corpora}))


def test_something_has_to_be_left_to_train_on(tmp_path):
    with pytest.raises(PipelineError, match="the rest is to train on"):
        load_settings(written(tmp_path, {**LEAST, "split": {"val": 0.5, "test": 0.5}}))


def test_the_file_in_use_is_named_on_a_command_line_by_its_place_here(tmp_path, monkeypatch):
    monkeypatch.delenv(SETTINGS_VARIABLE, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.chdir(tmp_path)
    assert naming_words() == naming_words("pipeline.yaml") == naming_words(tmp_path / "pipeline.yaml") == []
    assert naming_words(tmp_path / "a" / "b c.yaml") == ["--settings", "'a/b c.yaml'"]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert naming_words(tmp_path / "me" / "x.yaml") == ["--settings", "~/x.yaml"]
    assert naming_words("/data/x.yaml") == ["--settings", "/data/x.yaml"]
    monkeypatch.setenv(SETTINGS_VARIABLE, "other.yaml")
    assert naming_words() == ["--settings", "other.yaml"]


# docs/settings.md -----------------------------------------------------------------------------------------------------


DOCUMENT = REPOSITORY / "docs" / "settings.md"


def test_every_key_is_explained_and_no_other():
    assert list(rows_of(DOCUMENT)) == list(keys(Settings))
    assert all(len(meaning) > 15 for _, _, meaning in rows_of(DOCUMENT).values())


@pytest.mark.parametrize("key", keys(Settings))
def test_the_default_that_is_written_is_the_default(key):
    _, default, _ = rows_of(DOCUMENT)[key]
    assert default.strip("`") == default_of(keys(Settings)[key])
