"""Runs: a folder per training, named by what went in, holding all that came out.

`<home>/runs/<phase>-<hash>/` has recipe.yaml, inputs.json, baseline_metrics.json, checkpoints/, best/ (a codec folder),
log.txt and progress.json, and at the end history.jsonl, model/ (a codec folder: the last step's, or with the recipe's
`keep_best` the best epoch's), curve.png and result.json, written last. The hash covers recipe, starting weights and
data, so that the same call again finds the result or goes on where it stopped.
"""

import contextlib
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
import yaml

from snac_pipeline.codec import SNAC, CodecSpec, weights_digest
from snac_pipeline.codec.hub import RUN_MODEL
from snac_pipeline.codes.fingerprint import encoder_fingerprint
from snac_pipeline.codes.parts import codes_folder
from snac_pipeline.codes.view import CodesView, build_view, view_folder
from snac_pipeline.corpus.audio import resampled_length
from snac_pipeline.errors import PipelineError
from snac_pipeline.files import TEMPORARY_PREFIX, make_folder, read_json, value_digest, write_json, write_text
from snac_pipeline.settings import Precision, TrackerName
from snac_pipeline.training.checkpoints import checkpoint_folders
from snac_pipeline.training.compiling import choose_kernels
from snac_pipeline.training.curve import draw_curve
from snac_pipeline.training.data import SpeechSlices
from snac_pipeline.training.journal import OnEvent
from snac_pipeline.training.loop import train
from snac_pipeline.training.model import build_model, output_rates, starting_spec
from snac_pipeline.training.plan import Speech
from snac_pipeline.training.ranks import ALONE, Ranks
from snac_pipeline.training.recipe import Recipe
from snac_pipeline.training.run_lock import only_one
from snac_pipeline.training.targets import countable, figures, identity, require_restored, sentence, targets_of
from snac_pipeline.training.tracking import open_tracker
from snac_pipeline.training.validation import HeldOut

TRAINING_REVISION = 1
"""Raised when a change of this code changes what a recipe gives."""


@dataclass(frozen=True)
class Inputs:
    """What a run is trained on and from."""

    utterances: pl.DataFrame
    """corpus.read_utterances: digest, file, num_frames, sample_rate, split, ..."""
    start: SNAC | None = None
    """The codec it starts from; None only for recipes that bring a codec of their own."""
    codes_fingerprint: str | None = None
    """Fingerprint of the cached codes; must be that of `start`'s encoder. None: audio is the input."""
    codes_precision: Precision = "fp32"
    """What they were encoded in; it is part of the fingerprint."""
    limit: int | None = None
    """Train on at most so many utterances."""
    restored: Path | None = None
    """Folder of restored audio (training/restoring.py), for recipes whose targets it is."""


@dataclass(frozen=True)
class Run:
    """A training that is planned: its folder follows from what goes in. It may be finished, begun, or neither."""

    recipe: Recipe
    inputs: Inputs
    home: Path
    facts: dict[str, Any]
    train_rows: pl.DataFrame
    val_rows: pl.DataFrame
    targets: dict[str, Any]
    """What the head at twice the rate is compared with, see targets.figures; nothing without such a head."""

    @property
    def folder(self) -> Path:
        """Named by phase and hash of everything that the result depends on."""
        return self.home / "runs" / f"{self.recipe.phase}-{value_digest(self.facts)[:12]}"

    def result(self) -> dict[str, Any] | None:
        """The figures in result.json and the places of run, model and curve; None while the run is not finished.

        Raises PipelineError when the file is damaged.
        """
        folder = self.folder
        if not (folder / "result.json").exists():
            return None
        places = {"run": folder, "model": folder / RUN_MODEL, "curve": folder / "curve.png"}
        return {**{name: str(place) for name, place in places.items()}, **read_json(folder / "result.json")}


def plan_run(recipe: Recipe, inputs: Inputs, home: Path) -> Run:
    """Choose the utterances and the folder.

    Raises PipelineError when there is nothing to train or to validate on, and when codes and starting codec do not
    belong together.
    """
    utterances, rate = inputs.utterances, output_rates(recipe, starting_spec(recipe, inputs.start)).get("double")
    if rate is not None:
        utterances = countable(utterances, recipe, rate)
    train_rows = _limited(utterances.filter(pl.col("split") == "train"), inputs.limit)
    val_rows = _limited(utterances.filter(pl.col("split") == "val"), recipe.validation.utterances)
    if train_rows.is_empty() or val_rows.is_empty():
        raise PipelineError(
            f"{len(train_rows)} utterances to train on and {len(val_rows)} held out: both need at least one; "
            "add recordings of more speakers"
        )
    used = pl.concat([train_rows, val_rows])
    if recipe.targets == "restored":
        require_restored(used, inputs.restored)
    targets = {} if rate is None else figures(inputs.utterances, used, recipe, rate)
    return Run(recipe, inputs, home, _facts(recipe, inputs, train_rows, val_rows), train_rows, val_rows, targets)


def execute_run(
    run: Run, device: str, on_event: OnEvent, *, tracker: TrackerName = "none", ranks: Ranks = ALONE
) -> dict[str, Any]:
    """Train, go on where an earlier attempt stopped, or find the run finished; its result, with `reused` told.

    ranks: the processes that train together, each of which calls this with its own device. Raises PipelineError when
    another training is at the same run, and what the loop raises.
    """
    if ranks.first_does(lambda: run.result() is not None):
        return {**_finished(run), "reused": True}
    with contextlib.ExitStack() as held:
        ranks.first_does(lambda: _take(run, held))
        trained = _train(run, device, on_event, tracker, ranks)
        ranks.first_does(lambda: write_json(run.folder / "result.json", {**run.facts["inputs"], **trained}))
    return {**_finished(run), "reused": False}


def _finished(run: Run) -> dict[str, Any]:
    result = run.result()
    assert result is not None, "the run is finished"
    return result


def view_of(run: Run) -> Path | None:
    """The view of codes that the run trains on; None where its input is audio."""
    if (fingerprint := run.inputs.codes_fingerprint) is None:
        return None
    return view_folder(run.home, codes_folder(run.home, fingerprint), _digests(run))


def _digests(run: Run) -> list[str]:
    return [*run.train_rows["digest"], *run.val_rows["digest"]]


def check_resumable(run: Run) -> None:
    """PipelineError when no attempt at the run has left anything to go on from."""
    if run.result() is None and not checkpoint_folders(run.folder):
        raise PipelineError(
            f"there is nothing to resume: {run.folder} has no checkpoint. A changed recipe, start or corpus is another "
            "run; leave --resume away to begin it"
        )


def _take(run: Run, held: contextlib.ExitStack) -> None:
    """Make the folder this process's, for as long as `held` is open."""
    make_folder(run.folder)
    held.enter_context(only_one(run.folder))
    for left in run.folder.glob(f"{TEMPORARY_PREFIX}*"):  # by an attempt that was killed: nobody else writes here
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    write_text(run.folder / "recipe.yaml", yaml.safe_dump(run.recipe.model_dump(mode="json"), sort_keys=False))
    write_json(run.folder / "inputs.json", run.facts)


def _train(run: Run, device: str, on_event: OnEvent, tracker: TrackerName, ranks: Ranks) -> dict[str, Any]:
    recipe, inputs, home, folder = run.recipe, run.inputs, run.home, run.folder
    train_rows, val_rows = run.train_rows, run.val_rows
    started = time.monotonic()
    if run.targets and ranks.first:
        on_event({"message": sentence(run.targets, len(train_rows) + len(val_rows))})
    compiled = choose_kernels(recipe, torch.device(device), on_event)
    model = build_model(recipe, inputs.start).to(device)
    spec, rates = model.spec, sorted(output_rates(recipe, model.spec).values())
    view = None
    if (fingerprint := inputs.codes_fingerprint) is not None:
        view = ranks.first_does(lambda: build_view(home, codes_folder(home, fingerprint), _digests(run), spec))

    def dataset(rows: pl.DataFrame) -> tuple[SpeechSlices, np.ndarray]:
        targets = targets_of(rows, recipe, 2 * spec.sampling_rate, inputs.restored)
        slices = SpeechSlices(rows["file"].to_list(), rows["digest"].to_list(), spec, rates, view, targets)
        return slices, _coarse_frames(rows, spec, view)

    speech = Speech(*dataset(train_rows), train_rows["digest"].to_list())
    val_set, val_frames = dataset(val_rows)
    held_out = HeldOut(val_set, np.minimum(val_frames, spec.segment_frames(recipe.validation.seconds)), ranks)
    followed = open_tracker(tracker if ranks.first else "none", folder, run.facts)
    try:
        trained = train(
            recipe, model, speech, held_out, folder, on_event, ranks=ranks, tracker=followed, compiled=compiled
        )
    finally:
        followed.close()
    if ranks.first:
        model.save_pretrained(folder / RUN_MODEL)
        history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
        draw_curve(folder / "curve.png", history, trained["baseline"], recipe)
    return {
        **trained,
        **run.targets,
        "weights_digest": weights_digest(model.state_dict()),
        "train_utterances": len(train_rows),
        "val_utterances": len(val_rows),
        "seconds": time.monotonic() - started,
    }


def _facts(recipe: Recipe, inputs: Inputs, train_rows: pl.DataFrame, val_rows: pl.DataFrame) -> dict[str, Any]:
    """Everything that the result depends on; its digest names the run."""
    start = None
    if inputs.start is not None:
        start = value_digest([inputs.start.spec.to_dict(), weights_digest(inputs.start.state_dict())])
    if inputs.start is not None and inputs.codes_fingerprint is not None:
        fingerprint = encoder_fingerprint(inputs.start, inputs.codes_precision)
        if fingerprint != inputs.codes_fingerprint:
            raise PipelineError(
                f"the cached codes are those of encoder {inputs.codes_fingerprint}, but the codec to start from has "
                f"encoder {fingerprint}; cache the codes with that codec, or start from the codec they came from"
            )
    assert not (recipe.trains_codes and inputs.codes_fingerprint), "codes that training changes cannot be its input"
    if not recipe.trains_codes and inputs.codes_fingerprint is None:
        raise PipelineError(f"{recipe.phase} trains on cached codes, but none were given; run `cache` first")
    data = {name: value_digest(rows["digest"].to_list()) for name, rows in (("train", train_rows), ("val", val_rows))}
    return {
        "recipe": recipe.identity(),
        "revision": TRAINING_REVISION,
        "inputs": {
            "start_digest": start,
            "codes_fingerprint": inputs.codes_fingerprint,
            "codes_version": value_digest([inputs.codes_fingerprint, data]),
            "data": data,
            "limit": inputs.limit,
            "targets": identity(pl.concat([train_rows, val_rows]), recipe, inputs.restored),
        },
    }


def _limited(rows: pl.DataFrame, limit: int | None) -> pl.DataFrame:
    """The first `limit` rows by digest, which is as good as random and does not change when others are added."""
    rows = rows.sort("digest")
    return rows if limit is None else rows.head(limit)


def _coarse_frames(rows: pl.DataFrame, spec: CodecSpec, view: Path | None) -> np.ndarray:
    if view is not None:
        codes = CodesView(view)
        frames: np.ndarray = codes.frames[codes.rows(rows["digest"].to_list())]
        return frames
    lengths = [
        resampled_length(count, rate, spec.sampling_rate)
        for count, rate in rows.select("num_frames", "sample_rate").rows()
    ]
    return np.array([spec.frames_for(length) for length in lengths], dtype=np.int64)
