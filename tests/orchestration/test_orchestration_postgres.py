"""Dagster's storage in PostgreSQL: a real server, and runs from the command line."""

import os
import subprocess
import time
from collections import Counter

import dagster as dg
import pytest
import sqlalchemy
from made_postgres import binaries, postgres_server, write_instance
from made_project import CONSOLE, CORPORA, DAGSTER, Project, make_project

from snac_pipeline.corpus import manifest_version, read_manifest
from snac_pipeline.settings import SETTINGS_VARIABLE

pytestmark = pytest.mark.skipif(binaries() is None, reason="no PostgreSQL server here (Debian: apt install postgresql)")

PASSWORD = "DAGSTER_POSTGRES_PASSWORD"


@pytest.fixture(scope="module", autouse=True)
def server():
    """The variables that every process of this module finds the server by."""
    with postgres_server() as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield environment


@pytest.fixture(scope="module")
def prepared(server, tmp_path_factory) -> Project:
    """A project whose instance is in PostgreSQL, prepared from the command line."""
    project = make_project(tmp_path_factory.mktemp("prepared"))
    write_instance(project.folder / ".dagster")
    time.sleep(2.1)  # files that changed within two seconds of a scan are read by the next one too
    done = project.execute("prepare_corpus")
    assert done.returncode == 0, done.stdout + done.stderr
    return project


def test_a_run_is_kept_in_postgresql_with_the_data_versions_of_its_corpora(prepared, server):
    with prepared.instance() as instance:
        [run] = instance.get_runs()
        assert run.job_name == "prepare_corpus" and run.is_success
        events = len(instance.all_logs(run.run_id))
    assert rows_of(server, run.run_id) == events > 20
    versions = {corpus: prepared.version("manifest", corpus) for corpus in CORPORA}
    home = prepared.folder / "work"
    assert versions == {corpus: manifest_version(read_manifest(home, [corpus])) for corpus in CORPORA}
    assert prepared.newest("splits").metadata["train"].value > 0
    assert list((prepared.folder / ".dagster").rglob("*.db*")) == [], "nothing of it is in SQLite too"


def test_the_password_is_in_no_file_and_in_no_event(prepared, server):
    files = [file for file in prepared.folder.rglob("*") if file.is_file()]
    assert len(files) > 20
    assert [file for file in files if server[PASSWORD].encode() in file.read_bytes()] == []
    with prepared.instance() as instance:
        [run] = instance.get_runs()
        entries = [entry.to_json() for entry in instance.all_logs(run.run_id)]
    assert len(entries) > 20 and not any(server[PASSWORD] in entry for entry in entries)


def test_a_second_run_does_nothing_and_no_version_changes(prepared):
    before = {corpus: prepared.version("manifest", corpus) for corpus in CORPORA}
    prepared.run("prepare_corpus")
    assert {corpus: prepared.version("manifest", corpus) for corpus in CORPORA} == before
    assert [prepared.newest("manifest", corpus).metadata["read"].value for corpus in CORPORA] == [0, 0]
    assert prepared.stale({"manifest", "quarantine", "splits"}) == set()


@pytest.mark.slow
def test_two_runs_at_once_lose_no_event(prepared):
    alone = events(prepared, prepared.run("prepare_corpus", **{"dagster/partition": "alpha"}))
    runs = {corpus: start(prepared, corpus) for corpus in CORPORA}
    said = {corpus: run.communicate(timeout=300)[0] for corpus, run in runs.items()}
    assert [run.returncode for run in runs.values()] == [0, 0], said
    with prepared.instance() as instance:
        newest = instance.get_runs(limit=2)
        assert {run.tags["dagster/partition"] for run in newest} == set(CORPORA)
        first, second = sorted(instance.get_run_records(limit=2), key=lambda record: record.start_time)
        assert second.start_time < first.end_time, "they ran at the same time"
    for run in newest:
        assert events(prepared, run.run_id) == alone
    for corpus in CORPORA:
        assert prepared.newest("manifest", corpus).partition == corpus


def test_without_a_variable_dagster_names_it(prepared, monkeypatch):
    monkeypatch.delenv(PASSWORD)
    with pytest.raises(dg.DagsterError, match=PASSWORD):
        prepared.instance()


def rows_of(server: dict[str, str], run_id: str) -> int:
    """Rows of a run in the table of events, without Dagster."""
    url = sqlalchemy.URL.create(
        "postgresql",
        username=server["DAGSTER_POSTGRES_USER"],
        password=server[PASSWORD],
        host=server["DAGSTER_POSTGRES_HOST"],
        port=int(server["DAGSTER_POSTGRES_PORT"]),
        database=server["DAGSTER_POSTGRES_DB"],
    )
    engine = sqlalchemy.create_engine(url)
    try:
        with engine.connect() as connection:
            count = sqlalchemy.text("select count(*) from event_logs where run_id = :run")
            return connection.execute(count, {"run": run_id}).scalar_one()
    finally:
        engine.dispose()


def start(project: Project, corpus: str) -> subprocess.Popen:
    """`dagster job execute` of one corpus, not waited for."""
    command = [DAGSTER, "job", "execute", "-m", "snac_pipeline.definitions", "-j", "prepare_corpus", "-c", CONSOLE]
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(project.folder / ".dagster"),
        SETTINGS_VARIABLE: str(project.settings_file),
    }
    tags = ["--tags", f'{{"dagster/partition": "{corpus}"}}']
    return subprocess.Popen(
        [*command, *tags], env=environment, cwd=project.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def events(project: Project, run_id: str) -> Counter:
    """How many events of each kind a run left. Log lines come and go with its speed; only the command line has a
    console to begin."""
    with project.instance() as instance:
        kinds = [entry.dagster_event.event_type_value for entry in instance.all_logs(run_id) if entry.dagster_event]
    apart = ("ENGINE_EVENT", "LOGS_CAPTURED", "RESOURCE_INIT_STARTED", "RESOURCE_INIT_SUCCESS")
    return Counter(kind for kind in kinds if kind not in apart)
