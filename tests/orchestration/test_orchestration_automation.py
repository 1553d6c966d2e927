"""What is done without being asked: looks that launch nothing where nothing changed, and assets made anew after others.

Ticks are evaluated in this process by Dagster's own code, against a real Dagster home; the slow test at the end leaves
all of it to a real daemon.
"""

import contextlib
import logging
import os
import random
import re
import shutil
import sqlite3
import time
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.scheduler.instigation import TickStatus
from dagster._core.test_utils import create_test_daemon_workspace_context, freeze_time
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import ModuleTarget
from dagster._daemon.sensor import execute_sensor_iteration
from dagster._scheduler.scheduler import launch_scheduled_runs
from dagster._time import get_current_datetime
from dagster._utils.schedules import cron_string_iterator, is_valid_cron_schedule
from dagster._vendored.croniter import CroniterBadDateError
from made_daemon import Daemon
from made_project import CORPORA, REPOSITORY, Project, write_recording

from assets.looking import CORPORA_TAG
from resources import PipelineResource
from snac_pipeline.definitions import build_defs
from snac_pipeline.errors import PipelineError
from snac_pipeline.settings import SETTINGS_VARIABLE, is_cron, load_settings

CORPUS_ONLY = {"policies": {name: "ask" for name in ("base_codec", "code_cache", "token_statistics")}}
MADE = {"manifest", "quarantine", "splits"}


def automate(project: Project, **options: object) -> None:
    project.change_settings(automation={"quiet_seconds": 0, **CORPUS_ONLY, **options})


# Settings -------------------------------------------------------------------------------------------------------------


def load(folder: Path, **automation: object):
    file = folder / "automation.yaml"
    file.write_text(yaml.safe_dump({"corpora": {"a": {"path": "a"}}, "automation": automation}))
    return load_settings(file).automation


def test_by_default_scans_codes_and_statistics_are_made_anew_and_training_waits(tmp_path):
    options = load(tmp_path)
    assert (options.running, options.schedule) == (False, "0 2 * * *")
    assert {name for name, policy in options.policies if policy == "auto"} == {
        "manifest", "splits", "base_codec", "code_cache", "token_statistics",
    }  # fmt: skip
    assert {policy for _, policy in options.policies} == {"auto", "ask"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"schedule": "every night"}, r"`automation\.schedule`: 'every night' is not a cron expression"),
        ({"schedule": "0 25 * * *"}, "'0 25"),
        ({"timezone": "Mars/Olympus"}, "'Mars/Olympus' is not the name of a time zone"),
        ({"timezone": "../etc"}, "is not the name of a time zone"),
        ({"policies": {"codes": "auto"}}, r"unknown key `automation\.policies\.codes` \(known here: manifest, splits,"),
        ({"policies": {"splits": "sometimes"}}, r"`automation\.policies\.splits`"),
    ],
)
def test_what_cannot_be_is_refused_when_the_settings_load(tmp_path, options, words):
    with pytest.raises(PipelineError, match=words):
        load(tmp_path, **options)


CRONS = {
    "0 2 * * *": True, "*/15 * * * *": True, "0 0,12 * * 1-5": True, "5-55/10 8 1 1 0": True, "0 0 * * 7": True,
    "60 * * * *": False, "* * * *": False, "0 24 * * *": False, "0 0 0 * *": False, "0 0 * 13 *": False,
    "0 0 * * 8": False, "5-1 * * * *": False, "x * * * *": False, "*/0 * * * *": False, "1,,2 * * * *": False,
    "0 0 30 02 *": False, "0 0 030 2 *": False, "0 0 31 2,2 *": False, "0 0 30 2-12/12 *": False, "0 0 31 4 *": False,
    "0 0 31 4,6,9,11 *": False, "0 0 30-31 2 *": False, "0 0 31 */2 *": True, "0 0 31 4 1": False,
    "0 0 29 2 *": True, "0 0 30 2 *": False, "0 0 31 2 *": False, "0 0 28,30 2 *": True, "0 0 * * mon": False,
    "@daily": False, "0 22-6 * * *": False, "0 0 l * *": False, "0 0 * * * *": False, "": False, "-1 * * * *": False,
}  # fmt: skip


@pytest.mark.parametrize("text", CRONS)
def test_a_cron_expression_that_is_taken_is_one_for_dagster_too(text):
    assert is_cron(text) == CRONS[text]
    assert not is_cron(text) or (is_valid_cron_schedule(text) and comes(text))


def comes(cron: str) -> bool:
    """Whether Dagster's schedule finds a time for it, after the first of March 2025."""
    try:
        return bool(next(cron_string_iterator(datetime(2025, 3, 1, tzinfo=UTC).timestamp(), cron, "UTC")))
    except CroniterBadDateError:
        return False


CRON_FIELDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))


def made_cron(rng: random.Random) -> str:
    """Five fields, many of them at their limits or just outside."""

    def number(low: int, high: int) -> int:
        return rng.choice([abs(low - 1), low, high, high + 1, *(rng.randint(low, high) for _ in range(4))])

    def item(low: int, high: int) -> str:
        what = rng.choice(["*", f"{number(low, high)}", f"{number(low, high)}-{number(low, high)}"])
        return what + rng.choice(["", "", "", f"/{number(0, high)}"])

    def field(low: int, high: int) -> str:
        return "*" if rng.random() < 0.5 else ",".join(item(low, high) for _ in range(rng.choice([1, 1, 2])))

    return " ".join(field(*limits) for limits in CRON_FIELDS)


def is_dagsters_alone(text: str) -> bool:
    """Whether it has what Dagster takes and the settings do not: 22-6, 5/10, 0-0 for a month, or a step too large."""
    for field, (low, high) in zip(text.split(), CRON_FIELDS, strict=True):
        for first, last, step in re.findall(r"(\d+|\*)(?:-(\d+))?(?:/(\d+))?", field):
            wraps = last and (int(first) > int(last) or int(first) == int(last) < low)
            if wraps or (step and (int(step) > high or (first != "*" and not last))):
                return True
    return False


def test_two_thousand_made_cron_expressions_are_judged_as_dagster_does():
    rng = random.Random(0)
    made = [made_cron(rng) for _ in range(2000)]
    judged = {text: (is_cron(text), is_valid_cron_schedule(text)) for text in made}
    assert [text for text, verdict in judged.items() if verdict == (True, False)] == []
    refused = [text for text, verdict in judged.items() if verdict == (False, True)]
    assert [text for text in refused if not is_dagsters_alone(text) and comes(text)] == []
    taken = [text for text, (ours, _) in judged.items() if ours]
    assert 300 < len(taken) < 1700 and all(map(comes, taken[:200]))


def test_schedule_and_sensors_are_as_the_settings_want_them(project):
    automate(project, running=True, schedule="30 4 * * 1", timezone="Europe/Berlin", interval_seconds=7)
    defs = build_defs(project.settings_file)
    [look] = defs.schedules
    assert (look.cron_schedule, look.execution_timezone) == ("30 4 * * 1", "Europe/Berlin")
    assert look.default_status == dg.DefaultScheduleStatus.RUNNING
    assert {one.name: one.minimum_interval_seconds for one in defs.sensors} == {"watch": 7, "make_anew": 7}
    assert {one.default_status for one in defs.sensors} == {dg.DefaultSensorStatus.RUNNING}

    automate(project, schedule=None, watch=False)
    defs = build_defs(project.settings_file)
    assert (list(defs.schedules), [one.name for one in defs.sensors]) == ([], ["make_anew"])


def test_what_is_never_made_anew_is_left_out_of_the_job_of_everything(project):
    automate(project, policies={"bpe_tokenizer": "never", "manifest": "never"})
    defs = build_defs(project.settings_file)
    everything = {key.to_user_string() for key in defs.resolve_job_def("pipeline").asset_layer.executable_asset_keys}
    assert everything.isdisjoint({"bpe_tokenizer", "manifest", "quarantine"})
    assert {"audio", "splits", "code_cache", "evaluation", "token_sequences"} <= everything
    tokens = defs.resolve_job_def("analyze_tokens").asset_layer.executable_asset_keys
    assert dg.AssetKey("bpe_tokenizer") in tokens


# Looking --------------------------------------------------------------------------------------------------------------


def resources(project: Project) -> dict[str, PipelineResource]:
    return {"pipeline": PipelineResource(settings_file=str(project.settings_file))}


def watch(project: Project, instance: dg.DagsterInstance, cursor: str | None = None):
    """A tick of the sensor `watch`: a run request or the reason for none, and the cursor."""
    defs = build_defs(project.settings_file)
    sensor = defs.get_sensor_def("watch")
    with dg.build_sensor_context(instance, cursor, resources=resources(project), sensor_name="watch") as context:
        tick = sensor.evaluate_tick(context)
    return (tick.run_requests or [None])[0], tick.skip_message, tick.cursor


def look(project: Project, instance: dg.DagsterInstance):
    """A tick of the schedule `look`."""
    defs = build_defs(project.settings_file)
    with dg.build_schedule_context(instance, resources=resources(project)) as context:
        tick = defs.get_schedule_def("look").evaluate_tick(context)
    return (tick.run_requests or [None])[0], tick.skip_message


def observe(project: Project, corpora: str) -> None:
    project.run("observe_audio", **{CORPORA_TAG: corpora})


def test_a_change_is_looked_at_by_one_run_and_then_nothing_is(project):
    automate(project)
    with project.instance() as instance:
        request, _, cursor = watch(project, instance)
        again, _, _ = watch(project, instance, cursor)
        assert request.tags[CORPORA_TAG] == "alpha,beta"
        assert again.run_key == request.run_key  # for which Dagster launches nothing twice
        assert look(project, instance)[0].tags[CORPORA_TAG] == "alpha,beta"
        observe(project, "alpha,beta")
        for _ in range(3):
            request, words, cursor = watch(project, instance, cursor)
            assert (request, words) == (None, "nothing changed")
        assert look(project, instance) == (None, "nothing changed")

        keys = set()
        write_recording(project.folder / "beta" / "speaker0" / "new.wav", seed=1)
        request, _, cursor = watch(project, instance, cursor)
        keys.add(request.run_key)
        assert request.tags[CORPORA_TAG] == "beta"
        observe(project, "beta")
        shutil.rmtree(project.folder / "alpha")
        request, _, cursor = watch(project, instance, cursor)
        keys.add(request.run_key)
        assert request.tags[CORPORA_TAG] == "alpha"
        assert len(keys) == 2
        observed = instance.fetch_observations(dg.AssetKey("audio"), limit=100).records
        assert sorted(record.partition_key for record in observed) == ["alpha", "beta", "beta"]


def test_a_corpus_that_is_copied_to_is_left_for_later_by_ticks_and_by_their_runs(project):
    automate(project, quiet_seconds=3600)
    with project.instance() as instance:
        request, words, _ = watch(project, instance)
        assert request is None and "alpha changed" in words and "after 3600 s of quiet" in words
        assert look(project, instance)[0] is None
        observe(project, "alpha,beta")
        assert not instance.fetch_observations(dg.AssetKey("audio"), limit=1).records
        project.run("observe_audio")  # asked for by hand
        assert len(instance.fetch_observations(dg.AssetKey("audio"), limit=10).records) == 2


def test_while_a_run_looks_no_other_is_launched(project):
    automate(project)
    with project.instance() as instance:
        instance.create_run_for_job(build_defs(project.settings_file).resolve_job_def("observe_audio"))
        assert watch(project, instance)[:2] == (None, "a run is looking already")
        assert look(project, instance) == (None, "a run is looking already")


def test_a_corpus_too_large_for_a_tick_is_looked_at_over_several_and_then_left_alone_for_a_while(project):
    from assets.looking import look_at_corpora

    for number in range(600):
        (project.folder / "alpha" / "speaker0" / f"empty{number}.wav").touch()
    automate(project, interval_seconds=1)
    settings = load_settings(project.settings_file)
    with project.instance() as instance:
        cursor, ticks = {}, []
        while not ticks or "alpha" in ticks[-1].unknown:
            ticks.append(look_at_corpora(settings, instance, cursor, seconds=0.0))
            cursor = ticks[-1].cursor
        assert len(ticks) == 3
        assert [set(tick.changed) for tick in ticks] == [{"beta"}, {"beta"}, {"alpha", "beta"}]
        whole = look_at_corpora(settings, instance, {})
        assert whole.changed == ticks[-1].changed
        left_alone = {"alpha": [None, "0", 0.0, 100.0, time.time(), True]}
        assert set(look_at_corpora(settings, instance, left_alone).changed) == {"beta"}


def test_a_store_is_looked_at_by_runs_of_the_schedule_only(project):
    corpora = {"store": {"path": f"file://{project.folder}/alpha", "speaker": "{speaker}/*"}}
    project.change_settings(corpora=corpora, automation={"quiet_seconds": 0})
    with project.instance() as instance:
        request, words, _ = watch(project, instance)
        assert (request, words) == (None, "store is in a store: only runs of the schedule look at it")
        assert look(project, instance)[0].tags[CORPORA_TAG] == "store"
        observe(project, "store")
        assert len(instance.fetch_observations(dg.AssetKey("audio"), limit=10).records) == 1


def test_folders_that_are_divided_already_are_watched_each(project):
    folders = {"train_dir": "alpha", "val_dir": "beta", "speaker": "{speaker}/*"}
    project.change_settings(corpora={"mine": folders}, automation={"quiet_seconds": 0})
    with project.instance() as instance:
        assert watch(project, instance)[0].tags[CORPORA_TAG] == "mine-train,mine-val"


# Making anew ----------------------------------------------------------------------------------------------------------


class Ticks:
    """Ticks of the sensor `make_anew`, each of which begins where the one before ended."""

    def __init__(self, project: Project, instance: dg.DagsterInstance) -> None:
        self.project, self.instance, self.cursor = project, instance, None

    def __call__(self) -> set[str]:
        """What is asked for, as "asset" or "asset/partition"."""
        defs = build_defs(self.project.settings_file)
        result = dg.evaluate_automation_conditions(defs, self.instance, cursor=self.cursor)
        self.cursor = result.cursor
        keys = defs.resolve_asset_graph().get_all_asset_keys()
        asked = [(key.to_user_string(), name) for key in keys for name in result.get_requested_partitions(key)]
        return {"/".join(filter(None, one)) for one in asked}


def materialize(project: Project, instance: dg.DagsterInstance, *assets: str, partition: str | None = None) -> None:
    job = build_defs(project.settings_file).resolve_implicit_global_asset_job_def()
    keys = [dg.AssetKey(asset) for asset in assets]
    job.execute_in_process(instance=instance, asset_selection=keys, partition_key=partition)


def test_an_asset_follows_what_it_is_made_from_and_only_when_that_came_to_something(project):
    automate(project)
    with project.instance() as instance:
        tick = Ticks(project, instance)
        assert tick() == set()  # nobody has looked yet
        observe(project, "alpha,beta")
        both = {f"{asset}/{corpus}" for asset in ("manifest", "quarantine") for corpus in CORPORA}
        assert [tick(), tick(), tick()] == [both, set(), set()]  # asked for once, whatever came of it
        project.run("prepare_corpus")
        assert [tick(), project.stale(MADE)] == [set(), set()]

        os.utime(project.folder / "alpha" / "speaker0" / "0.wav")
        observe(project, "alpha")
        assert tick() == {"manifest/alpha", "quarantine/alpha"}
        materialize(project, instance, "manifest", "quarantine", partition="alpha")
        assert [tick(), tick()] == [set(), set()]  # a touched file changes no manifest

        write_recording(project.folder / "beta" / "speaker0" / "new.wav", seed=2)
        observe(project, "beta")
        assert tick() == {"manifest/beta", "quarantine/beta"}
        materialize(project, instance, "manifest", "quarantine", partition="beta")
        assert [tick(), tick()] == [{"splits"}, set()]
        materialize(project, instance, "splits")
        assert [tick(), project.stale(MADE)] == [set(), set()]

        # What was made lies in the old home. Going back finds it fresh.
        project.change_settings(home="elsewhere")
        assert project.stale(MADE) == {*both, "splits"}
        assert tick() == both
        project.change_settings(home="work")
        assert project.stale(MADE) == set()


def report(instance: dg.DagsterInstance, *events) -> None:
    for event in events:
        instance.report_runless_asset_event(event)


def made(asset: str, version: str, partition: str | None = None) -> dg.AssetMaterialization:
    return dg.AssetMaterialization(asset, partition=partition, tags={"dagster/data_version": version})


def checked(asset: str, check: str, passed: bool) -> dg.AssetCheckEvaluation:
    return dg.AssetCheckEvaluation(dg.AssetKey(asset), check, passed, {}, blocking=True)


def test_nothing_follows_from_what_did_not_pass_its_checks(project):
    automate(project, policies={**CORPUS_ONLY["policies"], "splits": "ask", "token_statistics": "auto"})
    with project.instance() as instance:
        tick = Ticks(project, instance)
        report(instance, made("splits", "1"), *[made("code_cache", "1", corpus) for corpus in CORPORA])
        assert tick() == set()
        report(
            instance, checked("code_cache", "codes_in_range", True), checked("splits", "speakers_in_one_split", True)
        )
        report(instance, checked("code_cache", "sampled_codes_are_exact", False))
        assert tick() == set()
        report(instance, checked("code_cache", "sampled_codes_are_exact", True))
        assert [tick(), tick()] == [{"token_statistics"}, set()]


@pytest.mark.slow
def test_an_asset_of_a_hundred_corpora_follows_them_though_dagster_does_not_compare_so_many(project):
    corpora = {f"c{number:03}": {"path": "alpha"} for number in range(100)}
    automate(project, policies={**CORPUS_ONLY["policies"], "manifest": "ask"})
    project.change_settings(corpora=corpora)
    with project.instance() as instance:
        tick = Ticks(project, instance)
        report(instance, *[made("manifest", "1", corpus) for corpus in corpora])
        assert tick() == {"splits"}
        report(instance, made("splits", "1"))
        assert tick() == set()
        report(instance, made("manifest", "2", "c042"))
        assert project.stale({"splits"}) == set()
        assert [tick(), tick()] == [{"splits"}, set()]


# A real daemon --------------------------------------------------------------------------------------------------------

EXAMPLE_CODEC = str(REPOSITORY / "examples" / "base_codec")


def scanning(corpora: str) -> str:
    return f"manifest, quarantine [{corpora}]"


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_daemon_left_alone_runs_what_a_change_asks_for_and_nothing_else(project):
    project.change_settings(base_codec={"source": EXAMPLE_CODEC}, devices=["cpu"])
    options = {"running": True, "interval_seconds": 1, "quiet_seconds": 4}
    policies = {"token_statistics": "ask"}
    project.change_settings(automation={**options, "schedule": None, "policies": policies})
    alpha, beta = (project.folder / corpus / "speaker0" for corpus in CORPORA)
    with Daemon(project, "watch", "make_anew") as daemon:
        first = {"audio [alpha,beta]", scanning("alpha..beta"), "base_codec", "splits", "code_cache [alpha..beta]"}
        assert sorted(daemon.started()) == sorted(first)
        assert project.stale({*MADE, "base_codec", "code_cache"}) == set()
        assert daemon.started() == []

        write_recording(alpha / "new.wav", seed=3)
        anew = [scanning("alpha"), "audio [alpha]", "code_cache [alpha]", "splits"]
        assert sorted(daemon.started()) == sorted(anew)
        assert project.newest("code_cache", "alpha").metadata["encoded"].value == 1
        (beta / "0.wav").rename(beta / "renamed.wav")
        assert sorted(daemon.started()) == sorted([scanning("beta"), "audio [beta]"])
        assert project.stale({"token_statistics"}) == {"token_statistics"}

    # Another daemon finds what changed meanwhile, by the schedule.
    write_recording(alpha / "0.wav", seed=4)
    (alpha / "1.wav").unlink()
    project.change_settings(automation={**options, "schedule": "* * * * *", "watch": False, "policies": policies})
    with Daemon(project, "look", "make_anew") as daemon:
        assert sorted(daemon.started()) == sorted(anew)
        assert project.newest("manifest", "alpha").metadata["utterances"].value == 8
        assert daemon.started() == []


# What is kept ---------------------------------------------------------------------------------------------------------

A_DAY = 12  # ticks


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_ten_thousand_ticks_without_a_change_leave_the_home_small(project, monkeypatch):
    """Three days of ticks, one of each kind every two hours, by the daemon's own code and a code server, with its
    clock put forward; what they leave is then told for ticks of every minute, ten thousand of each kind in a week."""
    project.change_settings(
        automation={
            "running": True,
            "schedule": "0 */2 * * *",
            "interval_seconds": 60,
            "quiet_seconds": 0,
            **CORPUS_ONLY,
        }
    )
    project.run("prepare_corpus")
    monkeypatch.setenv(SETTINGS_VARIABLE, str(project.settings_file))
    target = ModuleTarget("snac_pipeline.definitions", None, str(project.folder), "snac-pipeline")
    home, begin = project.folder / ".dagster", time.time()
    with project.instance() as instance, create_test_daemon_workspace_context(target, instance) as workspace:
        ran, sizes, kept = len(instance.get_runs()), {}, {}
        for number in range(3 * A_DAY + 1):
            with freeze_time(begin + 7200 * number):
                tick_everything(workspace)
            if number % A_DAY == 0:
                sizes[number // A_DAY] = bytes_of(home)
        for state in instance.all_instigator_state():
            ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id)
            assert {tick.status for tick in ticks} == {TickStatus.SKIPPED}
            kept[state.instigator_name] = len(ticks)
        assert len(instance.get_runs()) == ran
    assert kept == {"watch": pytest.approx(A_DAY, abs=1), "make_anew": pytest.approx(A_DAY, abs=1), "look": 3 * A_DAY}
    of_all, of_the_schedule = (sizes[1] - sizes[0]) / A_DAY, (sizes[3] - sizes[1]) / (2 * A_DAY)
    week = 24 * 60 * (of_all + 6 * of_the_schedule)
    print(f"a tick of each {of_all:.0f} bytes, of the schedule {of_the_schedule:.0f}; after a week {week / 1e6:.1f} MB")
    assert week < 30e6
    assert not list((home / "storage").glob("*/make_anew/*"))


def tick_everything(workspace: WorkspaceProcessContext) -> None:
    logger = logging.getLogger("dagster.daemon")
    now = get_current_datetime()
    for _ in execute_sensor_iteration(workspace, logger, None, None):
        pass
    for _ in launch_scheduled_runs(workspace, logger, now, {}):
        pass


def bytes_of(home: Path) -> int:
    """Of all files, once what databases have in their journals is in them."""
    for file in home.rglob("*.db"):
        with contextlib.closing(sqlite3.connect(file)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return sum(file.stat().st_size for file in home.rglob("*") if file.is_file())
