"""Decoders in Dagster: the Launchpad's config is the recipe, a run is continued or begun anew, and says why."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.snap import JobSnap
from dagster._core.snap.snap_to_yaml import default_values_yaml_from_type_snap
from made_project import REPOSITORY, Project

from snac_pipeline.definitions import build_defs
from snac_pipeline.engine.child import MARK
from snac_pipeline.errors import PipelineError
from snac_pipeline.files import read_json
from snac_pipeline.settings import load_settings
from snac_pipeline.training.recipe import Recipe, load_recipe

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))  # made_training

JOB, DECODER = "train_phase10", "decoder_24khz"


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    """Speech with codes, and nothing trained."""
    from made_training import CODEC, make_home

    from snac_pipeline.codec import SNAC, CodecSpec

    return make_home(tmp_path_factory.mktemp("cached"), SNAC(CodecSpec.from_dict(CODEC)).eval())


@pytest.fixture
def speech(cached, tmp_path) -> Project:
    """The same with a home of its own."""
    cached.copy(tmp_path)
    (tmp_path / ".dagster").mkdir()
    shutil.copy(REPOSITORY / "resources" / "dagster.yaml", tmp_path / ".dagster")
    project = Project(tmp_path)
    write_recipe(project, epochs=1)
    return project


def write_recipe(project: Project, epochs: int, **changes) -> None:
    from made_training import PHASE10

    recipe = {
        **PHASE10,
        "stages": [{**PHASE10["stages"][0], "epochs": epochs}],
        "curriculum": [{"epochs": epochs, "seconds": 0.25}],
        "checkpoints": {"every_steps": 1},
        **changes,
    }
    (project.folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))


def shown(project: Project) -> dict:
    return {name: value.value for name, value in project.newest(DECODER).metadata.items()}


# ---- the Launchpad ---------------------------------------------------------------------------------------------------


def launchpad(job: dg.JobDefinition) -> dict:
    """What the UI's Launchpad opens with (its query is rootDefaultYaml)."""
    snapshot = JobSnap.from_job_def(job)
    schema = snapshot.config_schema_snapshot
    root = schema.get_config_snap(snapshot.mode_def_snaps[0].root_config_key)
    return yaml.safe_load(default_values_yaml_from_type_snap(schema, root))


@pytest.mark.parametrize("overlay", [None, "demo.yaml"])
def test_the_launchpad_opens_with_the_whole_recipe_of_the_settings(project, overlay):
    settings = yaml.safe_load(project.settings_file.read_text())["training"]
    layer = overlay and str(REPOSITORY / "recipes" / overlay)
    project.change_settings(training={**settings, "overlay": layer})
    defs = build_defs(project.settings_file)
    for job, phase in (("train_phase10", 10), ("train_phase11", 11), ("train_phase12", 12)):
        recipe = load_recipe(REPOSITORY / f"recipes/phase{phase}.yaml", layer)
        [op] = launchpad(defs.resolve_job_def(job))["ops"].values()
        assert Recipe.model_validate(op["config"]) == recipe
        assert set(op["config"]) >= {"batch_size", "stages", "curriculum", "losses", "heads"}


def test_a_changed_field_leaves_the_others_as_the_recipe_has_them(project):
    job = build_defs(project.settings_file).resolve_job_def(JOB)
    change = {"batch_size": 7, "optimizer": {"grad_clip": 2.0}}
    resolved = dg.validate_run_config(job, {"ops": {DECODER: {"config": change}}})
    recipe = load_recipe(REPOSITORY / "recipes/phase10.yaml")
    optimizer = recipe.optimizer.model_copy(update={"grad_clip": 2.0})
    expected = recipe.model_copy(update={"batch_size": 7, "optimizer": optimizer})
    assert Recipe.model_validate(resolved["ops"][DECODER]["config"]) == expected


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"batchsize": 4}, "batchsize"),
        ({"batch_size": "many"}, "config:batch_size"),
        ({"optimizer": {"clip": 1.0}}, "clip"),
        ({"noise": "loud"}, "config:noise"),
        ({"stages": [{"epochs": 1}]}, "stages"),
    ],
    ids=str,
)
def test_a_wrong_name_or_type_is_refused_in_the_launchpad(project, change, place):
    job = build_defs(project.settings_file).resolve_job_def(JOB)
    with pytest.raises(dg.DagsterInvalidConfigError, match=place):
        dg.validate_run_config(job, {"ops": {DECODER: {"config": change}}})


@pytest.mark.parametrize(
    ("change", "words"),
    [({"batch_size": 0}, "`batch_size`"), ({"curriculum": [{"epochs": 99, "seconds": 1.0}]}, "the curriculum 99")],
    ids=str,
)
def test_a_value_that_no_recipe_can_have_is_refused_before_there_is_a_run(project, change, words):
    with pytest.raises(PipelineError, match=f"config of {DECODER}: .*{words}"):
        project.run(JOB, config={DECODER: change})
    with project.instance() as instance:
        assert instance.get_runs() == []
    assert not (project.folder / "work").exists()


def test_every_field_of_a_recipe_is_explained_in_the_launchpad(project):
    graph = build_defs(project.settings_file).resolve_asset_graph()
    fields = graph.assets_def_for_key(dg.AssetKey(DECODER)).op.config_schema.config_type.fields
    assert set(fields) == set(Recipe.model_fields)
    assert "not supervised" in fields["context_frames"].description
    assert [place for place, words in explained(fields) if not words] == []


def explained(fields: dict[str, dg.Field], before: str = ""):
    """Every field below, by its place, with what the Launchpad says of it."""
    for name, field in fields.items():
        kind = field.config_type
        for inner in (kind, getattr(kind, "inner_type", None)):
            yield from explained(getattr(inner, "fields", None) or {}, f"{before}{name}.")
        yield f"{before}{name}", field.description


def test_a_recipe_that_changed_makes_the_decoder_another_version_of_code(speech):
    def code_version() -> str:
        return build_defs(speech.settings_file).resolve_asset_graph().get(dg.AssetKey(DECODER)).code_version

    before = code_version()
    write_recipe(speech, epochs=1, checkpoints={"keep": 7})  # changes no result
    assert code_version() == before
    write_recipe(speech, epochs=1, batch_size=3)
    assert code_version() != before


# ---- runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_from_the_launchpad_is_what_evaluation_uses_until_the_decoder_is_trained_again(speech):
    from snac_pipeline.steps.training import decoder_results, train

    speech.change_settings(evaluation={"limit": 2, "max_seconds": 0.5, "listen": 0})
    settings = load_settings(speech.settings_file)
    plain = train(settings, DECODER, lambda event: None)
    assert plain["changed_since_last"] is None

    speech.run(JOB, config={DECODER: {"batch_size": 2}})
    tried = shown(speech)
    assert tried["run"] != plain["run"] and tried["reused"] is False
    assert tried["changed_since_last"] == "recipe.batch_size"
    assert tried["recipe_digest"] != plain["recipe_digest"]
    for name in ("start_digest", "codes_fingerprint"):
        assert tried[name] == plain[name], name
    assert {name: tried[f"data_{name}"] for name in plain["data"]} == plain["data"]
    for picture in ("curve", "samples"):
        assert tried[picture].startswith(f"![{picture}](data:image/png;base64,"), picture
    assert speech.version(DECODER) == tried["weights_digest"]
    assert yaml.safe_load((Path(tried["run"]) / "recipe.yaml").read_text())["batch_size"] == 2

    speech.run("evaluate")
    folder = Path(speech.newest("evaluation").metadata["folder"].value)
    assert read_json(folder / "summary.json")["versions"][f"runs · {DECODER}"] == Path(tried["run"]).name

    again = train(settings, DECODER, lambda event: None)
    assert again["run"] == plain["run"] and again["reused"] is True
    assert decoder_results(settings)[DECODER]["run"] == plain["run"]


def test_other_speech_or_another_start_makes_the_last_run_one_of_the_past(speech):
    from snac_pipeline.steps.training import decoder_results, train

    settings = load_settings(speech.settings_file)
    few = settings.model_copy(update={"training": settings.training.model_copy(update={"limit": 3})})
    tried = speech.folder / "tried.yaml"
    tried.write_text(yaml.safe_dump({**yaml.safe_load((speech.folder / "recipe.yaml").read_text()), "batch_size": 2}))
    before = train(settings, DECODER, lambda event: None, tried)
    assert decoder_results(settings)[DECODER]["run"] == before["run"]
    assert decoder_results(few)[DECODER] is None
    after = train(few, DECODER, lambda event: None)
    assert after["run"] != before["run"] and after["reused"] is False
    assert set(after["changed_since_last"]) == {
        "recipe.batch_size", "inputs.codes_version", "inputs.data.train", "inputs.limit",
    }  # fmt: skip


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_checkpoint_when_materialized_again(speech):
    write_recipe(speech, epochs=3)
    killer = threading.Thread(target=kill_at_first_checkpoint, args=(speech.folder / "work" / "runs",))
    killer.start()
    killed = speech.run(JOB, must_succeed=False)
    killer.join()
    assert "SIGKILL" in speech.log(killed)
    [run] = (speech.folder / "work" / "runs").iterdir()
    assert not (run / "result.json").exists()

    continued = speech.run(JOB)
    assert "resuming at step" in speech.log(continued)
    assert shown(speech)["run"] == str(run) and shown(speech)["steps"] == 3 * 10


def kill_at_first_checkpoint(runs: Path) -> None:
    end = time.monotonic() + 300
    while not any(runs.glob("*/checkpoints/step-*")) and time.monotonic() < end:
        time.sleep(0.005)
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # others' processes, and those that are gone
            marked = f"{MARK}=".encode() in (process / "environ").read_bytes()
            if marked and f"PPid:\t{os.getpid()}\n" in (process / "status").read_text():
                os.kill(int(process.name), signal.SIGKILL)


SMALL_GPU = """
import torch

def too_large(tensor, *arguments, **options):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\\nGPU 0 has a total of")

torch.Tensor.backward = too_large
"""
"""Run by every Python process that finds it: torch's own error, as the first step of a training has it."""


def test_a_training_that_needs_more_memory_than_the_gpu_has_says_so_first(speech, monkeypatch):
    (speech.folder / "small").mkdir()
    (speech.folder / "small" / "sitecustomize.py").write_text(SMALL_GPU)
    monkeypatch.setenv("PYTHONPATH", str(speech.folder / "small"))
    words = speech.failure(speech.run(JOB, must_succeed=False))
    assert words.startswith("the GPU ran out of memory (CUDA out of memory. Tried to allocate 20.00 GiB.)")
    assert "use smaller batches" in words and "\n" not in words


# ---- old results -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_garbage_is_listed_first_and_deleted_when_asked_and_what_the_ui_shows_stays(speech):
    from snac_pipeline.steps.training import train

    speech.change_settings(garbage={"keep": 0})
    settings = load_settings(speech.settings_file)
    tried = speech.folder / "tried.yaml"
    recipe = yaml.safe_load((speech.folder / "recipe.yaml").read_text())
    tried.write_text(yaml.safe_dump({**recipe, "batch_size": 3}))
    old = Path(train(settings, DECODER, lambda event: None, tried)["run"])
    speech.run(JOB, config={DECODER: {"batch_size": 2}})
    in_the_ui = Path(shown(speech)["run"])
    newest = Path(train(settings, DECODER, lambda event: None)["run"])
    killed = speech.folder / "work" / ".tmp-killed"
    killed.write_bytes(bytes(1000))
    os.utime(killed, (0, 0))

    listed = collected(speech, speech.run("collect_garbage"))
    assert [row["path"] for row in listed["old"]] == [f"runs/{old.name}"]
    assert (listed["runs"], listed["temporary"], listed["deleted"]) == (1, 1, False)
    assert old.exists() and killed.exists()

    # A shell knows nothing of the UI, unless it is told.
    assert paths(command_line(speech, "gc")) == {f"runs/{old.name}", f"runs/{in_the_ui.name}"}
    assert paths(command_line(speech, "gc", "--keep", in_the_ui.name)) == {f"runs/{old.name}"}

    deleted = collected(speech, speech.run("collect_garbage", config={"unneeded_files": {"delete": True}}))
    assert (deleted["runs"], deleted["temporary"], deleted["deleted"]) == (1, 1, True)
    assert deleted["bytes"] == listed["bytes"] > 1000
    assert not old.exists() and not killed.exists() and in_the_ui.exists() and newest.exists()

    assert paths(command_line(speech, "gc", "--delete")) == {f"runs/{in_the_ui.name}"}
    assert not in_the_ui.exists() and newest.exists()


def collected(project: Project, run: str) -> dict:
    """What a run of collect_garbage shows; tables as rows."""
    with project.instance() as instance:
        [entry] = instance.all_logs(run, of_type=dg.DagsterEventType.STEP_OUTPUT)
    metadata = entry.dagster_event.step_output_data.metadata
    return {
        name: [row.data for row in value.records] if isinstance(value, dg.TableMetadataValue) else value.value
        for name, value in metadata.items()
    }


def command_line(project: Project, *words: str) -> dict:
    """The result of a `snac-pipeline` command."""
    command = [sys.executable, "-m", "snac_pipeline.cli", *words, "--settings", str(project.settings_file), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def paths(result: dict) -> set[str]:
    return {row["path"] for row in result["old"]}
