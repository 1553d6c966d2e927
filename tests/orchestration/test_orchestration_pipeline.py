"""The job `pipeline` as a whole, on a few of the project's own recordings and its own base codec."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from made_project import REPOSITORY, Project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SPEAKERS = [f"spk{number:02d}" for number in range(1, 9)]
EPOCH = {"curriculum": [{"epochs": 1, "seconds": 1.0}], "batch_size": 8, "compile": False}
VALIDATION = {"validation": {"utterances": 4, "seconds": 2.0}}
OVERLAY = {
    "phase10": {"stages": [{"name": "main", "epochs": 1, "learning_rates": {"trunk": 5e-4, "native_head": 5e-4}}]},
    "phase11": {"stages": [{"name": "main", "epochs": 1, "learning_rates": {"trunk": 4e-4, "double_head": 1e-4}}]},
    "phase12": {"stages": [{"name": "main", "epochs": 1, "learning_rates": {"trunk": 4e-4, "double_head": 1e-4}}]},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A project of eight speakers with three utterances each."""
    folder = tmp_path_factory.mktemp("pipeline")
    for speaker in SPEAKERS:
        (folder / "speech" / speaker).mkdir(parents=True)
        for file in sorted((REPOSITORY / "examples" / "speech" / speaker).glob("*.flac"))[:3]:
            shutil.copy(file, folder / "speech" / speaker)
    overlay = {phase: {**recipe, **EPOCH, **VALIDATION} for phase, recipe in OVERLAY.items()}
    (folder / "overlay.yaml").write_text(yaml.safe_dump(overlay))
    recipes = {
        "decoder_24khz": {"recipe": str(REPOSITORY / "recipes/phase10.yaml")},
        "decoder_48khz": {"recipe": str(REPOSITORY / "recipes/phase11.yaml"), "starts_from": "decoder_24khz"},
        "decoder_dual_head": {"recipe": str(REPOSITORY / "recipes/phase12.yaml")},
    }
    settings = {
        "home": "work",
        "corpora": {"examples": {"path": "speech", "speaker": "{speaker}/*"}},
        "split": {"val": 0.25},
        "base_codec": {"source": str(REPOSITORY / "examples/base_codec")},
        "training": {"overlay": "overlay.yaml", "decoders": recipes},
        "evaluation": {"limit": 6, "max_seconds": 2.0, "listen": 1},
        "tokens": {"layout": "coarse_only", "merges": [20]},
        "devices": ["cpu"],
    }
    (folder / "pipeline.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    (folder / ".dagster").mkdir()
    shutil.copy(REPOSITORY / "resources" / "dagster.yaml", folder / ".dagster")
    return folder


def figures(home: Path) -> dict[str, dict]:
    """What every step that keeps a result says, without times and places."""
    passing = (
        "seconds",
        "audio_seconds_per_second",
        "waited_for_data_seconds",
        "hours_an_hour",
        "command",
        "training_megabytes",
        "encoded_ids_per_second",
    )
    found = {}
    for file in sorted(home.glob("*/*/result.json")):
        result = json.loads(file.read_text())
        found[str(file.relative_to(home))] = {key: value for key, value in result.items() if key not in passing}
    return found


def value(project: Project, asset: str, key: str, partition: str | None = None):
    return project.newest(asset, partition).metadata[key].value


def test_the_pipeline_gives_its_results_once_and_for_new_files_does_what_is_new(folder):
    project = Project(folder)
    done = project.execute("pipeline")
    assert done.returncode == 0, done.stdout + done.stderr
    first = figures(folder / "work")
    assert [name.split("/")[0] for name in first] == ["evaluation", *["runs"] * 3, *["tokens"] * 3]
    assert value(project, "code_cache", "encoded", "examples") == 24
    better = [name for name in first if name.startswith("runs/phase10")]
    assert first[better[0]]["improvement"]["24000"] > 0

    project.run("pipeline")
    assert figures(folder / "work") == first
    assert value(project, "code_cache", "encoded", "examples") == 0
    for asset in ("decoder_24khz", "decoder_48khz", "decoder_dual_head", "evaluation", "token_statistics"):
        assert value(project, asset, "reused") is True, asset

    shutil.move(folder / "work", folder / "first")
    project.run("pipeline")
    assert figures(folder / "work") == first

    added = sorted((REPOSITORY / "examples" / "speech" / SPEAKERS[0]).glob("*.flac"))[3:5]
    added.append(sorted((REPOSITORY / "examples" / "speech" / SPEAKERS[1]).glob("*.flac"))[3])
    for file in added:
        shutil.copy(file, folder / "speech" / file.parent.name)
    project.run("refresh_codes")
    assert value(project, "code_cache", "encoded", "examples") == 3
    assert value(project, "code_cache", "utterances", "examples") == 27
