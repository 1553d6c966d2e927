"""Looking for changed recordings: a schedule and a sensor, each switched on and off alone in the UI.

Neither does more than look. A tick walks the corpora by stat for TICK_SECONDS at most, as Dagster ends it after 60, and
the sensor goes on there at its next tick. Where what it saw is not what was last observed, and was quiet for a while,
it launches one run of `observe_audio` for these corpora: that looks for itself, and what it observes makes assets stale
(and `policies` makes them anew). So where nothing changed nothing runs, and a tick that saw half of a change costs a
run that finds nothing.

A store (s3://...) tells nothing by stat: the sensor leaves it out, the schedule launches a run that lists it.
"""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import dagster as dg
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES

from resources import PipelineResource
from snac_pipeline.errors import PipelineError
from snac_pipeline.files import value_digest
from snac_pipeline.settings import AutomationSettings, Settings

OBSERVING = "observe_audio"
"""The job that looks."""

CORPORA_TAG = "snac-pipeline/corpora"
"""Of a run that is to look at some corpora only: their names, with commas."""

TICK_SECONDS = 20.0
"""What a tick takes for looking at most."""

REST = 9.0
"""For so many times as long as it took to look at a corpus the sensor leaves it alone: a tenth of the time at most."""


class Looked(NamedTuple):
    """What a tick found."""

    changed: dict[str, str]
    """Versions of the corpora that are not as last observed, and quiet."""
    unknown: list[str]
    """Corpora that were not looked at to their end."""
    words: list[str]
    """For people: what is with the corpora that are left for later."""
    cursor: dict[str, list[Any]]
    """Where to go on: the values of a corpus's `Walk`, while it has not ended or the corpus is left alone."""


# Runs -----------------------------------------------------------------------------------------------------------------


def observe(
    settings: Settings, instance: dg.DagsterInstance, tags: Mapping[str, str], log: dg.DagsterLogManager
) -> dict[str, str]:
    """Look at the corpora that a run with these tags is about: versions of those that are not as last observed.

    A run that nobody asked for leaves out a corpus that is not quiet.
    """
    from snac_pipeline.corpus import Seen, look_at
    from snac_pipeline.steps.corpus import corpus_of

    changed = {}
    for name in tags[CORPORA_TAG].split(",") if CORPORA_TAG in tags else settings.corpora:
        try:
            seen = look_at(corpus_of(settings, name), settings.home)
        except PipelineError as error:  # the others are fine; scanning this one will fail with the same words
            log.error(str(error))
            seen = Seen(_version_of(error), 0.0)
        if seen.version == _last_observed(instance, name)[0]:
            continue
        if CORPORA_TAG in tags and (wait := _too_new(settings, name, seen.newest)):
            log.info(wait)
        else:
            changed[name] = seen.version
    log.info(f"changed: {', '.join(changed) or 'nothing'}")
    return changed


def _last_observed(instance: dg.DagsterInstance, corpus: str) -> tuple[str | None, int]:
    """Version and number of the newest observation of a corpus."""
    wanted = dg.AssetRecordsFilter(asset_key=dg.AssetKey("audio"), asset_partitions=[corpus])
    for record in instance.fetch_observations(wanted, limit=1).records:
        if record.asset_observation is not None:
            return record.asset_observation.tags["dagster/data_version"], record.storage_id
    return None, 0


def _too_new(settings: Settings, corpus: str, newest: float) -> str | None:
    """Why a corpus whose newest file is of `newest` (seconds since 1970) is left for later, if it is."""
    age, quiet = time.time() - newest, settings.automation.quiet_seconds
    return f"{corpus} changed {age:.0f} s ago: it is taken after {quiet:g} s of quiet" if age < quiet else None


def _version_of(error: PipelineError) -> str:
    return value_digest(str(error))


# Ticks ----------------------------------------------------------------------------------------------------------------


def look_at_corpora(
    settings: Settings, instance: dg.DagsterInstance, cursor: Mapping[str, Sequence[Any]], seconds: float = TICK_SECONDS
) -> Looked:
    """Walk every corpus for its share of the seconds, from where `cursor`, of the tick before, left it."""
    from snac_pipeline.corpus import Seen, Walk, can_be_walked, seen_at_end, walk_on
    from snac_pipeline.steps.corpus import corpus_of

    looked = Looked({}, [], [], {})
    for name in settings.corpora:
        corpus, walk = corpus_of(settings, name), Walk(*cursor.get(name, ()))
        try:
            if not can_be_walked(corpus):
                looked.unknown.append(name)
                looked.words.append(f"{name} is in a store: only runs of the schedule look at it")
                continue
            if walk.ended and time.time() < walk.until + REST * walk.seconds:
                looked.cursor[name] = list(walk)
                continue
            walk = walk_on(corpus, settings.home, Walk() if walk.ended else walk, seconds / len(settings.corpora))
            if not walk.ended:
                looked.cursor[name] = list(walk)
                looked.unknown.append(name)
                looked.words.append(f"{name} is large: the look at it goes on after {walk.seconds:.0f} s")
                continue
            if REST * walk.seconds > settings.automation.interval_seconds:
                looked.cursor[name] = list(walk)
            seen = seen_at_end(corpus, walk)
        except PipelineError as error:
            seen = Seen(_version_of(error), 0.0)
        if seen.version == _last_observed(instance, name)[0]:
            continue
        if wait := _too_new(settings, name, seen.newest):
            looked.words.append(wait)
        else:
            looked.changed[name] = seen.version
    return looked


def schedule(hours: str, options: AutomationSettings) -> dg.ScheduleDefinition:
    """`look`: at `hours`, those of `automation.schedule`."""

    @dg.schedule(
        job_name=OBSERVING,
        cron_schedule=hours,
        execution_timezone=options.timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING if options.running else dg.DefaultScheduleStatus.STOPPED,
        description="Looks for changed recordings at the hours of `automation.schedule`; the sensor make_anew does "
        "what follows. Nothing is launched where nothing changed.",
    )
    def look(context: dg.ScheduleEvaluationContext, pipeline: PipelineResource) -> dg.RunRequest | dg.SkipReason:
        if _is_observing(context.instance):
            return dg.SkipReason("a run is looking already")
        looked = look_at_corpora(pipeline.settings(), context.instance, {})
        corpora = [*looked.changed, *looked.unknown]
        if not corpora:
            return dg.SkipReason("; ".join(looked.words) or "nothing changed")
        return dg.RunRequest(tags={CORPORA_TAG: ",".join(corpora)})

    return look


def sensor(options: AutomationSettings) -> dg.SensorDefinition:
    """`watch`: all the time."""

    @dg.sensor(
        job_name=OBSERVING,
        minimum_interval_seconds=options.interval_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING if options.running else dg.DefaultSensorStatus.STOPPED,
        description="Looks for changed recordings every `automation.interval_seconds`, and takes a corpus when nobody "
        "copies to it any more; the sensor make_anew does what follows. Nothing is launched where nothing changed.",
    )
    def watch(context: dg.SensorEvaluationContext, pipeline: PipelineResource) -> dg.SensorResult:
        if _is_observing(context.instance):
            return dg.SensorResult(skip_reason="a run is looking already", cursor=context.cursor)
        before = json.loads(context.cursor) if context.cursor else {}
        looked = look_at_corpora(pipeline.settings(), context.instance, before)
        cursor = json.dumps(looked.cursor)
        if not looked.changed:
            return dg.SensorResult(skip_reason="; ".join(looked.words) or "nothing changed", cursor=cursor)
        # One run for one change: Dagster launches no other with the key of one that was launched.
        since = [_last_observed(context.instance, corpus) for corpus in looked.changed]
        request = dg.RunRequest(
            run_key=value_digest([looked.changed, since]), tags={CORPORA_TAG: ",".join(looked.changed)}
        )
        return dg.SensorResult([request], cursor=cursor)

    return watch


def _is_observing(instance: dg.DagsterInstance) -> bool:
    unfinished = dg.RunsFilter(job_name=OBSERVING, statuses=NOT_FINISHED_STATUSES)
    return bool(instance.get_run_ids(unfinished, limit=1))
