"""Runs: real child processes, parquet and Dagster home; the first through `dagster job execute`, as users do."""

import shutil
import time

import dagster as dg
from made_project import CORPORA, write_recording

from snac_pipeline.corpus import manifest_version, read_manifest, read_splits

CORPUS_ASSETS = {"manifest", "quarantine", "splits"}


def test_every_corpus_has_the_data_version_of_its_own_manifest(prepared):
    versions = {corpus: prepared.version("manifest", corpus) for corpus in CORPORA}
    home = prepared.folder / "work"
    assert versions == {corpus: manifest_version(read_manifest(home, [corpus])) for corpus in CORPORA}
    assert len(set(versions.values())) == 2
    assert prepared.newest("manifest", "alpha").metadata["utterances"].value == 8


def test_one_range_of_corpora_and_unpartitioned_splits_are_one_run(prepared):
    with prepared.instance() as instance:
        [run] = instance.get_runs()
    assert run.job_name == "prepare_corpus"
    assert run.is_success
    splits = prepared.newest("splits")
    assert splits.partition is None
    assert splits.metadata["train"].value + splits.metadata["val"].value == len(read_splits(prepared.folder / "work"))


def test_after_a_run_nothing_is_stale(prepared):
    assert prepared.stale(CORPUS_ASSETS) == set()


def test_the_console_shows_steps_and_checks_in_short_lines(prepared):
    printed = (prepared.folder / "console.txt").read_text().splitlines()
    lines = [line.split(maxsplit=2)[1:] for line in printed if line[:2].isdigit()]
    assert ["manifest", "…"] in lines
    assert any(step == "splits" and words.startswith("done in ") for step, words in lines)
    assert any(words == "check speakers_in_one_split passed" for _, words in lines)
    assert lines[-1] == ["prepare_corpus", "done"]


def test_a_second_run_opens_no_file_and_changes_no_version(project):
    time.sleep(2.1)  # files that changed within two seconds of a scan are read by the next one too
    project.run("prepare_corpus")
    before = {corpus: project.version("manifest", corpus) for corpus in CORPORA}
    project.run("prepare_corpus")
    assert {corpus: project.version("manifest", corpus) for corpus in CORPORA} == before
    assert [project.newest("manifest", corpus).metadata["read"].value for corpus in CORPORA] == [0, 0]
    assert project.stale(CORPUS_ASSETS) == set()


def test_a_new_file_makes_only_its_corpus_stale_and_one_partition_can_be_run_alone(project):
    project.run("prepare_corpus")
    before = project.version("manifest", "alpha"), project.version("manifest", "beta")
    write_recording(project.folder / "beta" / "speaker0" / "new.wav", seed=77)
    project.run("observe_audio")
    assert project.stale(CORPUS_ASSETS) == {"manifest/beta", "quarantine/beta"}

    project.run("prepare_corpus", **{"dagster/partition": "beta"})
    assert project.version("manifest", "alpha") == before[0]
    assert project.version("manifest", "beta") != before[1]
    assert project.newest("manifest", "beta").metadata["read"].value == 1
    assert project.stale(CORPUS_ASSETS) == set()


def test_observing_twice_reports_a_change_once(project):
    for _ in range(2):
        project.run("observe_audio")
    write_recording(project.folder / "alpha" / "speaker0" / "0.wav", seed=78)
    project.run("observe_audio")
    with project.instance() as instance:
        observations = instance.fetch_observations(dg.AssetKey("audio"), limit=100).records
    assert sorted(record.partition_key for record in observations) == ["alpha", "alpha", "beta"]


def test_what_cannot_be_read_is_shown_with_its_reason(project):
    (project.folder / "alpha" / "speaker1" / "broken.wav").write_bytes(b"RIFF, and then nothing")
    project.run("prepare_corpus")
    shown = project.newest("quarantine", "alpha").metadata
    assert shown["files"].value == 1
    [row] = shown["first_files"].records
    assert row.data["path"] == "speaker1/broken.wav"
    assert row.data["reason"]
    assert project.newest("quarantine", "beta").metadata["files"].value == 0


def test_a_missing_corpus_folder_fails_in_one_sentence_that_names_it(project):
    shutil.rmtree(project.folder / "beta")
    done = project.execute("prepare_corpus")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    [line] = [line for line in done.stderr.splitlines() if " failed: " in line]
    assert line.split()[1] == "manifest"
    assert f"{project.folder / 'beta'} does not exist" in line
    assert any(line.split()[1:4] == ["splits", "not", "started,"] for line in done.stderr.splitlines())
