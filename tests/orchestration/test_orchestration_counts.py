"""Real speech from the folder to the codes, through Dagster: nothing vanishes, and the assets count what is there."""

import shutil
from pathlib import Path

import pytest
import yaml
from made_project import REPOSITORY, Project

from snac_pipeline.codes.parts import cached_digests
from snac_pipeline.corpus import read_manifest, read_quarantine, read_splits

pytestmark = pytest.mark.slow

SPEECH = REPOSITORY.resolve().parent / "shared" / "speech"
EXAMPLES = REPOSITORY / "examples" / "speech"
CORPORA = {
    "examples": {
        "clear": {"path": str(EXAMPLES), "speaker": "{speaker}/*"},
    },
    "real speech": {
        "librispeech": {"path": str(SPEECH / "librispeech"), "speaker": "{speaker}/*"},
        "ljspeech": {"path": str(SPEECH / "ljspeech"), "speaker": "{speaker}-*"},
    },
}


@pytest.fixture(params=CORPORA)
def project(request, tmp_path) -> Project:
    """The recordings, and a corpus of two files: no audio, and one of the examples, in a corpus already or not."""
    corpora = CORPORA[request.param]
    if not all(Path(corpus["path"]).is_dir() for corpus in corpora.values()):
        pytest.skip(f"no speech at {SPEECH}")
    (tmp_path / "odd" / "someone").mkdir(parents=True)
    shutil.copy(next(EXAMPLES.rglob("*.flac")), tmp_path / "odd" / "someone" / "good.flac")
    (tmp_path / "odd" / "someone" / "bad.wav").write_text("not a recording")
    settings = {
        "home": "work",
        "corpora": {**corpora, "odd": {"path": "odd", "speaker": "{speaker}/*"}},
        "split": {"val": 0.1},
        "base_codec": {"source": str(REPOSITORY / "examples" / "base_codec")},
        "devices": ["cpu"],
    }
    (tmp_path / "pipeline.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    shutil.copytree(REPOSITORY / "recipes", tmp_path / "recipes")
    (tmp_path / ".dagster").mkdir()
    shutil.copy(REPOSITORY / "resources" / "dagster.yaml", tmp_path / ".dagster")
    return Project(tmp_path)


def test_every_file_is_cached_or_quarantined_and_the_assets_say_so(project):
    done = project.execute("refresh_codes")
    assert done.returncode == 0, done.stdout + done.stderr
    home, corpora = project.folder / "work", yaml.safe_load(project.settings_file.read_text())["corpora"]
    counted = {"utterances": 0, "quarantined": 0}
    for name, corpus in corpora.items():
        files = [file for file in (project.folder / corpus["path"]).rglob("*") if file.suffix in (".flac", ".wav")]
        manifest, refused = read_manifest(home, [name]), read_quarantine(home, [name])
        assert len(files) == len(manifest) + len(refused.filter(refused["stage"] != "split"))
        scanned, aside = project.newest("manifest", name).metadata, project.newest("quarantine", name).metadata
        assert scanned["utterances"].value == len(manifest)
        assert aside["files"].value == len(files) - len(manifest) == (name == "odd")
        codes = project.newest("code_cache", name).metadata
        counted = {key: count + codes[key].value for key, count in counted.items()}

    [parts] = (home / "codes").iterdir()
    contents = set(read_manifest(home, list(corpora))["digest"])
    assert set(cached_digests(parts)["digest"]) == contents
    assert counted == {"utterances": len(contents), "quarantined": 0}

    sides = read_splits(home)
    assert set(sides["digest"]) == contents
    assert sides.group_by("digest").n_unique()["split"].max() == 1
    assert sides.group_by("corpus", "speaker").n_unique()["split"].max() == 1
    counts, splits = dict(sides["split"].value_counts().rows()), project.newest("splits").metadata
    assert {name: splits[name].value for name in ("train", "val")} == {name: counts[name] for name in ("train", "val")}
