"""`snac-pipeline recipe`: showing a recipe, and making one from an older script's JSON config."""

import json

import pytest
import yaml

OLD = {"train_data": "/data/speech", "lr": 2e-5, "batch_size": 8, "wandb": True}


@pytest.fixture
def old(project):
    file = project.folder / "old.json"
    file.write_text(json.dumps(OLD))
    return file


def test_what_is_printed_is_a_recipe_file_with_the_rest_in_comments(project, old):
    said = project("recipe", "import", old, "--phase", "phase10", "--ignore", "wandb")
    assert said.status == 0 and said.err == ""
    assert yaml.safe_load(said.out)["batch_size"] == 8
    assert "#       speech:\n#         path: /data/speech\n" in said.out and "Left out: wandb" in said.out
    (project.folder / "new.yaml").write_text(said.out)
    project.change_settings(training={})
    shown = project.done("recipe", project.folder / "new.yaml")
    assert shown["stages"][0]["learning_rates"]["trunk"] == 2e-5


def test_what_is_written_is_told_and_never_overwritten(project, old):
    output = project.folder / "new.yaml"
    command = ("recipe", "import", old, "--phase", "phase12", "--ignore", "wandb", "--output", output)
    said = project(*command)
    assert said.status == 0 and f"wrote {output}" in said.out and "path: /data/speech" in said.out
    written = output.read_text()
    assert "is there already" in project(*command).error
    assert output.read_text() == written


def test_a_program_gets_the_recipe_whole_and_the_rest_beside_it(project, old):
    result = project.done("recipe", "import", old, "--phase", "phase11", "--ignore", "wandb")
    assert result["recipe"]["phase"] == "phase11" and result["recipe"]["checkpoints"]["keep"] == 2
    assert result["for_pipeline_yaml"] == {"corpora": {"speech": {"path": "/data/speech"}}}
    assert result["left_out"] == ["wandb"]


def test_a_key_that_is_not_known_is_an_error_that_says_how_to_leave_it_out(project, old):
    message = project("recipe", "import", old, "--phase", "phase10").error
    assert f"{old}: unknown key `wandb` (known here: phase, " in message and "--ignore wandb leaves it out" in message


@pytest.mark.parametrize(
    "words",
    [("import",), ("a.yaml", "b.json"), ("a.yaml", "--phase", "phase10"), ("import", "a.json", "--phase", "10")],
    ids=" ".join,
)
def test_wrong_use_is_exit_2_with_the_usage(project, words):
    said = project("recipe", *words)
    assert said.status == 2 and said.err.startswith("usage: snac-pipeline recipe")
