"""Runs: a folder per training, named by what went in, holding all that came out.

`<home>/runs/<phase>-<hash>/` has recipe.yaml, inputs.json, baseline_metrics.json, history.jsonl, checkpoints/, and at
the end model/ (a codec folder), curve.png and result.json, written last. The hash covers recipe, starting weights and
data, so that the same call again finds the result or goes on where it stopped.
"""

import contextlib
import fcntl
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
import yaml

from snac_pipeline.codec import SNAC, CodecSpec, weights_digest
from snac_pipeline.codec.kernels import fuse_kernels
from snac_pipeline.codes.fingerprint import encoder_fingerprint
from snac_pipeline.codes.parts import codes_folder
from snac_pipeline.codes.view import CodesView, build_view
from snac_pipeline.corpus.audio import resampled_length
from snac_pipeline.errors import PipelineError
from snac_pipeline.files import make_folder, read_json, value_digest, write_json, write_text
from snac_pipeline.settings import Precision
from snac_pipeline.training.curve import draw_curve
from snac_pipeline.training.data import SpeechSlices
from snac_pipeline.training.loop import OnEvent, Speech, train
from snac_pipeline.training.model import build_model, output_rates, starting_spec
from snac_pipeline.training.recipe import Recipe
from snac_pipeline.training.targets import countable, figures, identity, require_restored, sentence, targets_of
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
        places = {"run": folder, "model": folder / "model", "curve": folder / "curve.png"}
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


def execute_run(run: Run, device: str, on_event: OnEvent) -> dict[str, Any]:
    """Train, go on where an earlier attempt stopped, or find the run finished; its result, with `reused` told.

    Raises PipelineError when another process is at the same run, and what the loop raises.
    """
    if (result := run.result()) is not None:
        return {**result, "reused": True}
    make_folder(run.folder)
    with _only_one(run.folder):
        write_text(run.folder / "recipe.yaml", yaml.safe_dump(run.recipe.model_dump(mode="json"), sort_keys=False))
        write_json(run.folder / "inputs.json", run.facts)
        write_json(run.folder / "result.json", {**run.facts["inputs"], **_train(run, device, on_event)})
    return {**run.result(), "reused": False}


def _train(run: Run, device: str, on_event: OnEvent) -> dict[str, Any]:
    recipe, inputs, home, folder = run.recipe, run.inputs, run.home, run.folder
    train_rows, val_rows = run.train_rows, run.val_rows
    started = time.monotonic()
    if run.targets:
        on_event({"message": sentence(run.targets, len(train_rows) + len(val_rows))})
    _fuse_if_possible(recipe, device, on_event)
    model = build_model(recipe, inputs.start).to(device)
    spec, rates = model.spec, sorted(output_rates(recipe, model.spec).values())
    view = None
    if inputs.codes_fingerprint is not None:
        digests = [*train_rows["digest"], *val_rows["digest"]]
        view = build_view(home, codes_folder(home, inputs.codes_fingerprint), digests, spec)

    def dataset(rows: pl.DataFrame) -> tuple[SpeechSlices, np.ndarray]:
        targets = targets_of(rows, recipe, 2 * spec.sampling_rate, inputs.restored)
        slices = SpeechSlices(rows["file"].to_list(), rows["digest"].to_list(), spec, rates, view, targets)
        return slices, _coarse_frames(rows, spec, view)

    speech = Speech(*dataset(train_rows))
    val_set, val_frames = dataset(val_rows)
    held_out = HeldOut(val_set, np.minimum(val_frames, spec.segment_frames(recipe.validation.seconds)))
    trained = train(recipe, model, speech, held_out, folder, on_event)
    model.save_pretrained(folder / "model")
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    draw_curve(folder / "curve.png", history, trained["baseline"])
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
        return codes.frames[codes.rows(rows["digest"].to_list())]
    lengths = [
        resampled_length(frames, rate, spec.sampling_rate)
        for frames, rate in rows.select("num_frames", "sample_rate").rows()
    ]
    return np.array([spec.frames_for(length) for length in lengths], dtype=np.int64)


def _fuse_if_possible(recipe: Recipe, device: str, on_event: OnEvent) -> None:
    torch.manual_seed(recipe.seed)
    if not recipe.compile:
        return
    try:
        fuse_kernels()
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        on_event({"message": f"training without fused kernels, about half as fast on a CPU: {reason}"})


@contextlib.contextmanager
def _only_one(run: Path) -> Iterator[None]:
    """Hold the run's lock; it goes with the process, however that ends."""
    with (run / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PipelineError(f"another process is training {run}; wait for it or stop it first") from error
        yield
