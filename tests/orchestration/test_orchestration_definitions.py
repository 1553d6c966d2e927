"""What Dagster is given: the graph as one text to read, light to import, and clear about settings that do not work."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

import assets
from snac_pipeline.definitions import build_defs
from snac_pipeline.errors import PipelineError
from snac_pipeline.settings import SETTINGS_VARIABLE

GRAPH = Path(__file__).with_name("graph.txt")
REPOSITORY = Path(__file__).parents[2]
DECODERS = {"decoder_24khz", "decoder_48khz", "decoder_dual_head"}


def described(defs: dg.Definitions) -> str:
    """Assets with group, partitions, policy and what they are made from, their checks; jobs, schedules and sensors."""
    graph = defs.resolve_asset_graph()
    lines = []
    for key in sorted(graph.get_all_asset_keys()):
        node = graph.get(key)
        parts = [node.group_name, "by corpus" if node.partitions_def else "", "observed" if node.is_external else ""]
        parts.append(node.tags.get("automation", ""))
        assert (node.automation_condition is not None) == (node.tags.get("automation") == "auto"), key
        made_from = ", ".join(sorted(parent.to_user_string() for parent in node.parent_keys)) or "-"
        lines.append(f"asset {key.to_user_string()} ({', '.join(filter(None, parts))}) <- {made_from}")
    for key in sorted(graph.asset_check_keys, key=str):
        blocking = ", blocking" if graph.get(key).blocking else ""
        lines.append(f"check {key.name} (on {key.asset_key.to_user_string()}{blocking})")
    for job in sorted(defs.resolve_all_job_defs(), key=lambda job: job.name):
        if not job.name.startswith("__"):
            keys = sorted(key.to_user_string() for key in job.asset_layer.executable_asset_keys)
            tags = {name.removeprefix("dagster/asset_partition_range_"): value for name, value in job.run_tags.items()}
            over = f" (from {tags['start']} to {tags['end']})" if tags else ""
            lines.append(f"job {job.name}{over}: {', '.join(keys)}")
    for schedule in defs.schedules or []:
        when = f"{schedule.cron_schedule}, {schedule.default_status.value}"
        lines.append(f"schedule {schedule.name} ({when}): {schedule.job_name}")
    for sensor in defs.sensors or []:
        makes = isinstance(sensor, dg.AutomationConditionSensorDefinition)
        does = "assets whose policy is auto" if makes else sensor.job_name
        every = f"every {sensor.minimum_interval_seconds} s, {sensor.default_status.value}"
        lines.append(f"sensor {sensor.name} ({every}): {does}")
    return "\n".join(lines) + "\n"


def test_the_graph_is_the_one_written_down(project):
    """After a wanted change: `UPDATE_GRAPH=1 pytest tests/orchestration`, and read the difference."""
    found = described(build_defs(project.settings_file))
    if os.environ.get("UPDATE_GRAPH"):
        GRAPH.write_text(found)
    assert found == GRAPH.read_text()


def test_what_a_decoder_starts_from_is_an_edge_and_unlisted_decoders_are_absent(project):
    decoders = {
        "decoder_24khz": {"recipe": str(REPOSITORY / "recipes/phase10.yaml")},
        "decoder_dual_head": {"recipe": str(REPOSITORY / "recipes/phase12.yaml"), "starts_from": "decoder_24khz"},
    }
    project.change_settings(training={"decoders": decoders})
    defs = build_defs(project.settings_file)
    graph = defs.resolve_asset_graph()
    parents = {parent.to_user_string() for parent in graph.get(dg.AssetKey("decoder_dual_head")).parent_keys}
    assert parents == {"splits", "code_cache", "decoder_24khz"}
    assert not graph.has(dg.AssetKey("decoder_48khz"))
    assert "train_phase11" not in {job.name for job in defs.resolve_all_job_defs()}


def restoring(project):
    """Settings of one decoder that learns from restored audio."""
    recipe = yaml.safe_load((REPOSITORY / "recipes/phase11.yaml").read_text())
    file = project.folder / "restoring.yaml"
    file.write_text(yaml.safe_dump({**recipe, "targets": "restored"}))
    return {"decoders": {"decoder_48khz": {"recipe": str(file)}}}


def test_restored_audio_is_an_asset_only_where_a_recipe_or_the_settings_ask_for_it(project):
    def parents(asset, **changes):
        project.change_settings(**changes)
        graph = build_defs(project.settings_file).resolve_asset_graph()
        key = dg.AssetKey(asset)
        return {parent.to_user_string() for parent in graph.get(key).parent_keys} if graph.has(key) else None

    assert parents("restored_audio") is None
    assert parents("restored_audio", restorer={"source": "owner/name"}) == {"splits"}
    training = restoring(project)
    assert parents("decoder_48khz", training=training) == {"splits", "code_cache", "base_codec", "restored_audio"}
    assert parents("evaluation") == {"splits", "code_cache", "base_codec", "decoder_48khz"}


def test_with_a_restorer_there_is_a_job_for_it(project):
    project.change_settings(restorer={"source": "owner/name"})
    job = build_defs(project.settings_file).resolve_job_def("restore_audio")
    assert {key.to_user_string() for key in job.asset_layer.executable_asset_keys} == {"restored_audio"}


def test_restored_targets_without_a_restorer_are_refused_before_anything_runs(project):
    project.change_settings(training=restoring(project))
    with pytest.raises(PipelineError, match=r"decoder_48khz are `restored`; name a restorer in `restorer\.source`"):
        build_defs(project.settings_file)


def test_a_recipe_that_is_not_there_is_refused_before_anything_runs(project):
    project.change_settings(training={"decoders": {"decoder_24khz": {"recipe": "nowhere.yaml"}}})
    with pytest.raises(PipelineError, match=r"nowhere\.yaml does not exist"):
        build_defs(project.settings_file)


def nodes(project) -> dict[str, Any]:
    graph = build_defs(project.settings_file).resolve_asset_graph()
    return {key.to_user_string(): graph.get(key) for key in graph.get_all_asset_keys()}


def test_every_asset_explains_itself_and_says_what_it_is_and_whom_to_ask(project):
    for name, node in nodes(project).items():
        assert len(node.description or "") > 40, name
        assert node.group_name != "default", name
        assert node.kinds, name
        assert node.owners == ["team:speech"], name
        assert node.code_version or node.is_external, name
    project.change_settings(ui={"owners": ["ada@example.org", "team:sound-lab"]})
    assert {tuple(node.owners) for node in nodes(project).values()} == {("ada@example.org", "team:sound-lab")}


def test_an_owner_is_an_address_or_a_team(project):
    project.change_settings(ui={"owners": ["ada"]})
    with pytest.raises(PipelineError, match=r"ui\.owners\.0"):
        build_defs(project.settings_file)


def test_every_asset_links_to_the_lines_that_make_it_here_or_on_the_web(project):
    for name, node in nodes(project).items():
        [reference] = node.metadata["dagster/code_references"].code_references
        file, line = Path(reference.file_path), reference.line_number
        assert file.parent == Path(assets.__file__).parent, name
        code = file.read_text().splitlines()[line - 1 :]
        function = next(text for text in code if text.lstrip().startswith("def "))
        made = {name, *({"decoder"} if name in DECODERS else ()), *({"tokens"} if node.group_name == "tokens" else ())}
        made |= {"manifest"} if name == "quarantine" else set()
        assert function.split("(")[0].split()[1] in made, name
    project.change_settings(ui={"code_url": "https://example.org/me/it/blob/main/"})
    [reference] = nodes(project)["code_cache"].metadata["dagster/code_references"].code_references
    assert re.fullmatch(r"https://example\.org/me/it/blob/main/assets/codes\.py#L\d+", reference.url)


def test_a_job_over_several_corpora_is_one_run(project):
    """Dagster takes the smallest policy of all partitioned assets of a job, and only warns."""
    defs = build_defs(project.settings_file)
    for name in ("pipeline", "prepare_corpus", "cache_codes", "refresh_codes"):
        assert defs.resolve_job_def(name).backfill_policy == dg.BackfillPolicy.single_run(), name


def test_loading_the_definitions_imports_no_torch(project):
    code = "import sys, snac_pipeline.definitions; print(*{'torch', 'torchaudio', 'ray'} & set(sys.modules))"
    environment = {**os.environ, SETTINGS_VARIABLE: str(project.settings_file)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_library_imports_no_dagster_but_in_definitions():
    files = (REPOSITORY / "snac_pipeline").rglob("*.py")
    found = {file.name for file in files if re.search(r"^\s*(import|from) dagster\b", file.read_text(), re.MULTILINE)}
    assert found == {"definitions.py"}


def test_a_wrong_key_in_the_settings_is_one_sentence_on_the_command_line(project):
    project.change_settings(hom="elsewhere")
    done = project.dagster("job", "execute", "-m", "snac_pipeline.definitions", "-j", "pipeline")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert f"Error: {project.settings_file}: unknown key `hom`" in done.stderr


def test_a_wrong_value_for_one_run_is_one_sentence_on_the_command_line(project):
    config = project.folder / "wrong.yaml"
    config.write_text("ops: {manifest: {config: {limit: 0}}}")
    done = project.dagster("job", "execute", "-m", "snac_pipeline.definitions", "-j", "prepare_corpus", "-c", config)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.endswith("Error: config of manifest: `limit`: must be greater than or equal to 1, not 0\n")
    with project.instance() as instance:
        assert instance.get_runs() == []


@pytest.mark.parametrize("content", [None, "corpora: {}"], ids=["absent", "without corpora"])
def test_settings_that_cannot_be_used_are_named(project, content):
    project.settings_file.unlink()
    if content:
        project.settings_file.write_text(content)
    with pytest.raises(ValueError, match=str(project.settings_file)):
        build_defs(project.settings_file)


def test_the_workspace_file_loads(project):
    environment = {**os.environ, "DAGSTER_HOME": str(project.folder / ".dagster")}
    environment[SETTINGS_VARIABLE] = str(project.settings_file)
    command = [sys.executable, "-m", "dagster", "definitions", "validate", "-w", "workspace.yaml"]
    done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
