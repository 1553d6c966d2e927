"""The code cache: what is missing is encoded, part by part; what is there is never encoded again.

In: the utterances of some corpora and a codec folder. Out: parts on disk and a report. What is to do is always derived
from the parts themselves, so that a run that was killed loses at most the parts it was writing.
"""

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from snac_pipeline.codec import SNAC
from snac_pipeline.codes.encode import Recording, batches, encode_recordings, recordings
from snac_pipeline.codes.fingerprint import encoder_fingerprint, encoder_identity
from snac_pipeline.codes.parts import codes_folder, missing_rows, prepare_folder, write_part
from snac_pipeline.codes.verify import compare_sample
from snac_pipeline.corpus import UnreadableAudio
from snac_pipeline.engine.local import run_parts
from snac_pipeline.errors import PipelineError
from snac_pipeline.files import value_digest
from snac_pipeline.settings import CachingSettings, Precision

OnEvent = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class PartResult:
    """What encoding one part gave."""

    digests: list[str]
    audio_seconds: float
    unreadable: list[str]
    """One sentence for each file that could not be read or is not what was scanned."""


def cache_codes(
    codec: Path,
    utterances: pl.DataFrame,
    home: Path,
    options: CachingSettings,
    devices: list[str],
    on_event: OnEvent,
) -> dict[str, Any]:
    """Encode the utterances whose codes are missing; returns the run's figures.

    utterances: corpus.read_utterances. Raises PipelineError when files could not be read or have changed since the scan
    (everything else is then cached, and the message names them), or when sampled codes are not those of encoding alone.
    """
    started = time.monotonic()
    model = SNAC.from_pretrained(codec)
    spec, precision = model.spec, options.precision
    fingerprint = encoder_fingerprint(model, precision)
    folder = codes_folder(home, fingerprint)
    prepare_folder(folder, encoder_identity(model, precision))
    missing = recordings(missing_rows(folder, utterances), spec)
    parts = plan_parts(missing, options.part_utterances, workers=len(devices))
    total = sum(item.num_samples for item in missing) / spec.sampling_rate
    on_event({"message": f"{len(missing)} utterances to encode, {len(utterances) - len(missing)} cached already"})

    encoded, unreadable, seconds = [], [], 0.0
    work = partial(encode_part, codec, folder, options.batch_seconds, precision)
    with contextlib.closing(run_parts(work, parts, devices)) as results:
        for result in results:
            encoded += result.digests
            unreadable += result.unreadable
            seconds += result.audio_seconds
            on_event(_progress(len(encoded), len(missing), seconds, total, time.monotonic() - started, len(unreadable)))
    verified = compare_sample(
        model.to(devices[0]), folder, utterances, encoded, options.verify, options.batch_seconds, precision
    )
    if not verified["exact"]:
        raise PipelineError(
            f"{verified['mismatched']} of {verified['tokens']} sampled tokens in {folder} differ from encoding their "
            "utterances alone; the cache is not this codec's on this machine: move the folder away and cache again"
        )
    if unreadable:
        raise PipelineError(
            f"{len(unreadable)} files are no longer what was scanned: {'; '.join(unreadable[:5])}; the other "
            f"{len(encoded)} are cached; run `scan` again, then `cache`"
        )
    elapsed = time.monotonic() - started
    return {
        "fingerprint": fingerprint,
        "folder": str(folder),
        "utterances": len(utterances),
        "encoded": len(encoded),
        "already": len(utterances) - len(missing),
        "parts": len(parts),
        "hours": float(utterances["duration"].sum()) / 3600,
        "verified": verified,
        "real_time_factor": seconds / elapsed,
        "seconds": elapsed,
        "corpora": _per_corpus(utterances, set(encoded), fingerprint),
    }


def plan_parts(missing: list[Recording], limit: int, workers: int) -> list[list[Recording]]:
    """Cut what is to do into parts of at most `limit` utterances, at least four for each worker, by length.

    Utterances of similar length share a part, since batches need equal ones.
    """
    size = max(1, min(limit, math.ceil(len(missing) / (4 * workers))))
    ordered = sorted(missing, key=lambda item: (item.num_samples, item.digest))
    return [ordered[i : i + size] for i in range(0, len(ordered), size)]


def encode_part(
    codec: Path, folder: Path, batch_seconds: float, precision: Precision, part: list[Recording], device: str
) -> PartResult:
    """Encode one part on `device` and commit it; files that cannot be read or have changed are told, not written."""
    model = _model(codec, device)
    spec = model.spec
    done: list[Recording] = []
    codes: list[list[np.ndarray]] = []
    unreadable: list[str] = []
    for batch in batches(part, spec, batch_seconds):
        try:
            codes += encode_recordings(model, batch, batch_seconds, precision)
            done += batch
        except UnreadableAudio:
            for item in batch:
                try:
                    codes += encode_recordings(model, [item], batch_seconds, precision)
                    done.append(item)
                except UnreadableAudio as error:
                    unreadable.append(str(error))
    if done:
        write_part(
            folder,
            [item.digest for item in done],
            [item.num_samples for item in done],
            codes,
            spec,
            {"torch": torch.__version__, "device": device},
        )
    seconds = sum(item.num_samples for item in done) / spec.sampling_rate
    return PartResult([item.digest for item in done], seconds, unreadable)


_models: dict[tuple[Path, str], SNAC] = {}


def _model(codec: Path, device: str) -> SNAC:
    """The codec on `device`, loaded once for each process."""
    if (codec, device) not in _models:
        _models[codec, device] = SNAC.from_pretrained(codec).to(device)
    return _models[codec, device]


def _per_corpus(utterances: pl.DataFrame, encoded: set[str], fingerprint: str) -> dict[str, dict[str, Any]]:
    figures = {}
    for (name,), rows in utterances.group_by("corpus", maintain_order=True):
        digests = rows["digest"].to_list()
        figures[name] = {
            "version": codes_version(digests, fingerprint),
            "utterances": len(rows),
            "encoded": len(encoded.intersection(digests)),
            "hours": float(rows["duration"].sum()) / 3600,
        }
    return figures


def codes_version(digests: list[str], fingerprint: str) -> str:
    """The data version of cached codes: a hash of which utterances and which encoder."""
    return value_digest([fingerprint, sorted(digests)])


def _progress(done: int, total: int, seconds: float, total_seconds: float, elapsed: float, failed: int) -> dict:
    rate = seconds / max(1e-9, elapsed)
    left = (total_seconds - seconds) / max(1e-9, rate)
    return {
        "message": f"{done}/{total} utterances, {seconds / 3600:.2f} of {total_seconds / 3600:.2f} h, "
        f"{rate:.0f}x real time, {left:.0f} s left" + (f", {failed} unreadable" if failed else ""),
        "done": done,
        "total": total,
        "fraction": done / max(1, total),
        "real_time_factor": rate,
        "seconds_left": left,
    }
