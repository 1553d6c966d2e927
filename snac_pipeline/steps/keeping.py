"""Which runs, evaluations, token results and views are of the past: nothing that is there now needs them.

Needed are the runs that decoders are now (<home>/decoders), those that the settings would train, those that are named
(by Dagster, whose assets show them), those that are training, the newest few of each phase, and all that one of these
started from; of each needed run its newest evaluation; and the results that the settings' evaluation, tokens and
trainings find. Planned as the steps themselves plan, so that after a collection none of them does anything again.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from snac_pipeline.codec import CodecSpec
from snac_pipeline.codec.hub import RUN_MODEL
from snac_pipeline.errors import PipelineError
from snac_pipeline.files import TEMPORARY_PREFIX, read_json, value_digest
from snac_pipeline.settings import Settings
from snac_pipeline.steps.evaluation import evaluation_folder
from snac_pipeline.steps.tokens import COMMANDS, tokens_folder
from snac_pipeline.steps.training import decoder_run, planned_run
from snac_pipeline.training.run_lock import is_running
from snac_pipeline.training.runs import Run, view_of


class Old(NamedTuple):
    """A folder that nothing needs, and why it is taken for one."""

    path: Path
    kind: str
    """run, evaluation, tokens or view."""
    why: str


def old_results(settings: Settings, named: Collection[str], now: float, patience: float) -> list[Old]:
    """The folders of results that nothing needs.

    named: names of folders that are needed for reasons that the home does not tell. What was written in the last
    `patience` seconds before `now` and is not finished is somebody's work, and left alone.
    """
    home, keep = settings.home, settings.garbage.keep
    runs, planned = _folders(home / "runs"), _planned_runs(settings)
    needed = _needed_runs(settings, runs, planned, named)
    evaluations = _folders(home / "evaluation")
    tokens = [folder for folder in _folders(home / "tokens") if (folder / "result.json").exists()]
    of_phase = f"not among the newest {keep} of its phase; no decoder is it or starts from it"
    of_kind = f"not among the newest {keep}, and not what the settings give"
    old = [Old(run, "run", of_phase) for run in runs if run.name not in needed]
    shown = _needed_evaluations(settings, evaluations, needed, named)
    old += [
        Old(folder, "evaluation", of_kind)
        for folder in evaluations
        if folder.name not in shown and ((folder / "result.json").exists() or now - folder.stat().st_mtime > patience)
    ]
    counted = _needed_tokens(settings, tokens, named)
    old += [Old(folder, "tokens", of_kind) for folder in tokens if folder.name not in counted]
    if not any(map(is_running, runs)):  # a training maps its view, and its loaders open it when they start
        views = {view.name for run in planned if (view := view_of(run)) is not None}
        why = "no decoder of the settings is trained on just these utterances; it is made again where one is"
        old += [Old(view, "view", why) for view in _folders(home / "views") if view.name not in views]
    return old


def _needed_runs(settings: Settings, runs: list[Path], planned: list[Run], named: Collection[str]) -> set[str]:
    recorded = {read_json(file)["run"] for file in (settings.home / "decoders").glob("*.json")}
    needed = {*recorded, *named, *(run.folder.name for run in planned), *(run.name for run in runs if is_running(run))}
    needed |= _newest(runs, settings.garbage.keep, lambda run: run.name.rpartition("-")[0])
    makers: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        if (digest := model_digest(run)) is not None:
            makers[digest].add(run.name)
    grown = True
    while grown:
        starts = {_start_digest(run) for run in runs if run.name in needed}
        before = set().union(*(makers[digest] for digest in starts if digest in makers)) - needed
        needed |= before
        grown = bool(before)
    return needed


def _planned_runs(settings: Settings) -> list[Run]:
    """What the decoders of the settings are, and what training them would train."""
    found = []
    for name in settings.training.decoders:
        for plan in (decoder_run, planned_run):
            if (run := _if_possible(plan, settings, name)) is not None:
                found.append(run)
    return found


def _needed_evaluations(
    settings: Settings, evaluations: list[Path], runs: Collection[str], named: Collection[str]
) -> set[str]:
    finished = [folder for folder in evaluations if (folder / "result.json").exists()]
    current = _if_possible(evaluation_folder, settings)
    if current is None:  # nobody knows which it is
        return {folder.name for folder in evaluations}
    newest = _newest(finished, settings.garbage.keep) | _newest_of_each(finished, runs)
    return {current.name, *named, *newest}


def _newest_of_each(evaluations: list[Path], runs: Collection[str]) -> set[str]:
    """Of each run the newest evaluation that shows it: an export of the run quotes it."""
    shows = {}
    for folder in _by_age(evaluations):
        for value in read_json(folder / "summary.json")["versions"].values():
            shows[value] = folder.name
    return {shows[run] for run in runs if run in shows}


def _needed_tokens(settings: Settings, tokens: list[Path], named: Collection[str]) -> set[str]:
    current = [_if_possible(tokens_folder, settings, what) for what in COMMANDS.values()]
    if None in current:
        return {folder.name for folder in tokens}
    newest = _newest(tokens, settings.garbage.keep, lambda folder: folder.name.rpartition("-")[0])
    return {*(folder.name for folder in current if folder is not None), *named, *newest}


def _newest(folders: Iterable[Path], count: int, kind: Callable[[Path], str] = lambda folder: "") -> set[str]:
    """Names of the `count` of each kind that were written last."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for folder in _by_age(folders):
        kinds[kind(folder)].append(folder.name)
    return {name for names in kinds.values() for name in names[len(names) - min(count, len(names)) :]}


def _by_age(folders: Iterable[Path]) -> list[Path]:
    """The oldest first."""
    return sorted(folders, key=lambda folder: (folder.stat().st_mtime_ns, folder.name))


def _folders(place: Path) -> list[Path]:
    if not place.is_dir():
        return []
    return sorted(f for f in place.iterdir() if f.is_dir() and not f.name.startswith(TEMPORARY_PREFIX))


def _start_digest(run: Path) -> str | None:
    """Identity of the codec that a run started from, as in its inputs.json."""
    file = run / "inputs.json"
    return read_json(file)["inputs"]["start_digest"] if file.exists() else None


def model_digest(run: Path) -> str | None:
    """Identity of the codec that a run made, in the form of start_digest; None where it is not finished."""
    if not (run / "result.json").exists():
        return None
    spec = CodecSpec.from_file(run / RUN_MODEL / "config.json")
    return value_digest([spec.to_dict(), read_json(run / "result.json")["weights_digest"]])


def _if_possible(plan: Callable[..., Any], *arguments: Any) -> Any:
    """What a step would do; None where its inputs are not there yet."""
    try:
        return plan(*arguments)
    except PipelineError:
        return None
