"""The code cache: what is missing is encoded, part by part; what is there is never encoded again.

In: the utterances of some corpora and a codec folder. Out: parts on disk and a report. What is to do, and whether it
was done, is always derived from the parts themselves, never from what a worker said: a run that was killed loses at
most the parts it was writing. An utterance that no worker survives is set aside, by name, in the folder's quarantine.
"""

import contextlib
import math
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch

from snac_pipeline.codec import SNAC, CodecSpec
from snac_pipeline.codec.kernels import compile_snake, fuse_snake
from snac_pipeline.codes.encode import (
    Codes,
    Encoder,
    Recording,
    Window,
    one_by_one,
    plan_windows,
    recordings,
    window_samples,
)
from snac_pipeline.codes.fingerprint import encoder_fingerprint, encoder_identity
from snac_pipeline.codes.parts import (
    QUARANTINE,
    codes_folder,
    encode_quarantine,
    held_digests,
    missing_rows,
    part_files,
    part_path,
    prepare_folder,
    write_encode_quarantine,
    write_part,
)
from snac_pipeline.codes.reading import InlineReader, Read, Readers
from snac_pipeline.codes.verify import compare_sample
from snac_pipeline.engine import attempts
from snac_pipeline.engine.devices import find_devices, readers_for
from snac_pipeline.engine.pools import open_pool
from snac_pipeline.errors import PipelineError
from snac_pipeline.files import flush_folder, value_digest
from snac_pipeline.settings import CachingSettings, Precision

OnEvent = Callable[[dict[str, Any]], None]
FUSE_SECONDS = 3600.0
"""Audio from which on compiling, some 10 s, pays on a CPU."""

START_SECONDS = 20.0
"""Before, the start of workers is most of what is measured: no time left is told."""

SECONDS_PER_EVENT = 1.0
"""Between two events of progress inside of parts."""


class Progress(NamedTuple):
    """How far an attempt at a part is."""

    utterances: int = 0
    audio_seconds: float = 0.0


@dataclass(frozen=True)
class PartResult:
    """What encoding one part gave."""

    utterances: int
    audio_seconds: float
    unreadable: dict[str, str]
    """By digest, one sentence for each file that could not be read or is not what was scanned."""
    seconds: float
    """What it took."""
    waited: float
    """Seconds of that in which the device waited for audio."""


@dataclass
class _Run:
    """What a run has come to: the one place that its figures and its progress are taken from."""

    total: int
    total_seconds: float
    started: float = field(default_factory=time.monotonic)
    utterances: int = 0
    audio_seconds: float = 0.0
    unreadable: dict[str, str] = field(default_factory=dict)
    poisonous: list[attempts.Poisonous] = field(default_factory=list)
    failed_attempts: int = 0
    worked: float = 0.0
    waited: float = 0.0
    under_way: dict[int, Progress] = field(default_factory=dict)

    @property
    def wait_share(self) -> float:
        """Share of the workers' time in which their devices waited for audio."""
        return self.waited / self.worked if self.worked else 0.0

    def take(self, event: attempts.Beat | attempts.Done | attempts.Failed | attempts.Poisonous) -> None:
        match event:
            case attempts.Beat(number, news):
                self.under_way[number] = news
            case attempts.Failed(number, _, _):
                self.under_way.pop(number, None)
                self.failed_attempts += 1
            case attempts.Poisonous():
                self.poisonous.append(event)
            case attempts.Done(number, result):
                self.under_way.pop(number, None)
                self.utterances += result.utterances
                self.audio_seconds += result.audio_seconds
                self.unreadable |= result.unreadable
                self.worked += result.seconds
                self.waited += result.waited

    def progress(self) -> dict[str, Any]:
        """The figures so far, those of parts under way included."""
        done = self.utterances + sum(part.utterances for part in self.under_way.values())
        seconds = self.audio_seconds + sum(part.audio_seconds for part in self.under_way.values())
        rate = seconds / max(1e-9, time.monotonic() - self.started)
        known = rate > 0 and (seconds >= self.total_seconds or time.monotonic() - self.started > START_SECONDS)
        left = max(0.0, self.total_seconds - seconds) / rate if known else None
        failures = {
            "unreadable": len(self.unreadable),
            "set aside": len(self.poisonous),
            "failed attempts": self.failed_attempts,
        }
        words = [
            f"{done}/{self.total} utterances",
            f"{seconds / 3600:.2f} of {self.total_seconds / 3600:.2f} h",
            f"{rate:.0f}x real time",
            *([f"{left:.0f} s left"] if left is not None else []),
            *([f"waiting for audio {self.wait_share:.0%}"] if self.worked else []),
            *(f"{count} {name}" for name, count in failures.items() if count),
        ]
        return {
            "message": ", ".join(words),
            "done": done,
            "total": self.total,
            "fraction": done / max(1, self.total),
            "hours": seconds / 3600,
            "total_hours": self.total_seconds / 3600,
            "real_time_factor": rate,
            "seconds_left": left,
            "wait_share": self.wait_share,
            "failures": sum(failures.values()),
            **{name.replace(" ", "_"): count for name, count in failures.items()},
        }


def cache_codes(
    codec: Path,
    utterances: pl.DataFrame,
    home: Path,
    options: CachingSettings,
    devices: list[str],
    on_event: OnEvent,
    *,
    retry_quarantined: bool = False,
) -> dict[str, Any]:
    """Encode the utterances whose codes are missing; returns the run's figures.

    utterances: corpus.read_utterances. devices: one for each worker. retry_quarantined: try again what earlier runs set
    aside. Raises PipelineError, when everything else is cached, naming files that could not be read or have changed
    since the scan, and utterances that no worker survived (set aside now, so that the next run succeeds without them);
    and when sampled codes are not those of encoding alone.
    """
    started = time.monotonic()
    model = SNAC.from_pretrained(codec)
    spec, precision = model.spec, options.precision
    fingerprint = encoder_fingerprint(model, precision)
    folder = codes_folder(home, fingerprint)
    prepare_folder(folder, encoder_identity(model, precision))
    if len(encode_quarantine(folder)):
        _forget_quarantined(folder, held_digests(part_files(folder)))  # those that another run has encoded
    if retry_quarantined:
        _forget_quarantined(folder, utterances)
    aside = encode_quarantine(folder)["digest"]
    wanted = utterances.filter(~pl.col("digest").is_in(aside.implode()))
    missing = recordings(missing_rows(folder, wanted), spec)
    parts = plan_parts(missing, options.part_utterances, workers=len(devices))
    run = _Run(len(missing), sum(item.num_samples for item in missing) / spec.sampling_rate)
    on_event({"message": _first_words(len(missing), len(wanted), len(utterances))})
    if parts:
        _encode(codec, folder, spec, parts, options, devices, run, on_event)

    left = set(missing_rows(folder, wanted)["digest"])
    encoded = [item.digest for item in missing if item.digest not in left]
    device = devices[0] if options.engine != "ray" else find_devices()[0]
    verified = compare_sample(
        model.to(device), folder, wanted, encoded, options.verify, options.batch_seconds, precision
    )
    _raise_what_is_wrong(folder, run, encoded, left, verified)
    elapsed = time.monotonic() - started
    return {
        "fingerprint": fingerprint,
        "folder": str(folder),
        "utterances": len(wanted),
        "encoded": len(encoded),
        "already": len(wanted) - len(missing),
        "quarantined": len(utterances) - len(wanted),
        "parts": len(parts),
        "hours": float(wanted["duration"].sum()) / 3600,
        "verified": verified,
        "real_time_factor": run.audio_seconds / elapsed,
        "wait_share": run.wait_share,
        "failed_attempts": run.failed_attempts,
        "seconds": elapsed,
        "corpora": _per_corpus(utterances, set(encoded), set(aside), fingerprint),
    }


def _encode(
    codec: Path,
    folder: Path,
    spec: CodecSpec,
    parts: list[list[Recording]],
    options: CachingSettings,
    devices: list[str],
    run: _Run,
    on_event: OnEvent,
) -> None:
    """Have all parts encoded; `run` and the quarantine say what came of them."""
    readers = options.readers or _readers_for(options, devices)
    pays = run.total_seconds >= FUSE_SECONDS and set(devices) == {"cpu"}
    # Never in this process, whose own encoding, of the sample above all, is the plain one.
    fused = pays and options.compile and options.engine != "inline" and _compiles(on_event)
    work = partial(encode_part, codec, folder, options, readers, fused)
    prepare = partial(_prepare, codec, options.batch_seconds, options.precision, readers, fused)
    told = 0.0
    with contextlib.closing(open_pool(options.engine, work, devices, options.hang_seconds, prepare)) as pool:
        for event in attempts.run_parts(pool, parts):
            run.take(event)
            if isinstance(event, attempts.Failed):
                on_event({"message": f"an attempt at a part failed: {event.reason}"})
            if isinstance(event, attempts.Poisonous):
                _quarantine(folder, event)
            if not isinstance(event, attempts.Beat) or time.monotonic() - told >= SECONDS_PER_EVENT:
                told = time.monotonic()
                on_event(run.progress())


def _readers_for(options: CachingSettings, devices: list[str]) -> int:
    if options.engine == "ray":
        from snac_pipeline.engine.ray import cluster_cores

        return readers_for(devices, cluster_cores())
    return readers_for(devices, os.cpu_count() or 1)


def _quarantine(folder: Path, event: attempts.Poisonous) -> None:
    row = {"digest": event.item.digest, "file": event.item.file, "reason": event.reason, "stage": "encode"}
    known = encode_quarantine(folder).filter(pl.col("digest") != event.item.digest)
    write_encode_quarantine(folder, pl.concat([known, pl.DataFrame([row], schema=QUARANTINE)]))


def _forget_quarantined(folder: Path, rows: pl.DataFrame) -> None:
    """Take those that `rows` (with a column digest) hold out of the quarantine."""
    known = encode_quarantine(folder)
    kept = known.join(rows, on="digest", how="anti")
    if len(kept) < len(known):
        write_encode_quarantine(folder, kept)


def _first_words(missing: int, wanted: int, utterances: int) -> str:
    words = f"{missing} utterances to encode, {wanted - missing} cached already"
    if aside := utterances - wanted:
        words += f", {aside} left out: no worker survived them (`snac-pipeline cache --retry-quarantined` tries again)"
    return words


def _raise_what_is_wrong(folder: Path, run: _Run, encoded: list[str], left: set[str], verified: dict[str, Any]) -> None:
    """PipelineError unless sampled codes are exact and storage holds everything that was to be encoded."""
    if not verified["exact"]:
        raise PipelineError(
            f"{verified['mismatched']} of {verified['tokens']} sampled tokens in {folder} differ from encoding their "
            "utterances alone; the cache is not this codec's on this machine: move the folder away and cache again"
        )
    cached = f"the other {len(encoded)} are cached"
    if run.poisonous:
        named = "; ".join(f"{event.item.file}: {event.reason}" for event in run.poisonous[:5])
        raise PipelineError(
            f"{len(run.poisonous)} utterances could not be encoded and are set aside: {named}; {cached}. The next run "
            "leaves them out; `snac-pipeline cache --retry-quarantined` tries them again"
        )
    if run.unreadable:
        raise PipelineError(
            f"{len(run.unreadable)} files are no longer what was scanned: "
            f"{'; '.join(list(run.unreadable.values())[:5])}; {cached}; run `scan` again, then `cache`"
        )
    if left:
        raise PipelineError(
            f"{len(left)} utterances have no codes in {folder} although their parts were reported done, the first "
            f"{min(left)}; {cached}: run `cache` again, and look at the disk if it stays so"
        )


def plan_parts(missing: list[Recording], limit: int, workers: int) -> list[list[Recording]]:
    """Cut what is to do into parts of at most `limit` utterances, at least four for each worker, by length.

    Utterances of similar length share a part, since batches need equal ones.
    """
    size = max(1, min(limit, math.ceil(len(missing) / (4 * workers))))
    ordered = sorted(missing, key=lambda item: (item.num_samples, item.digest))
    return [ordered[i : i + size] for i in range(0, len(ordered), size)]


def encode_part(
    codec: Path,
    folder: Path,
    options: CachingSettings,
    readers: int,
    fused: bool,
    part: list[Recording],
    device: str,
) -> Generator[Progress, None, PartResult]:
    """Encode one part on `device` and commit it; files that cannot be read or have changed are told, not written.

    Yields its progress after every batch. readers: processes that read ahead; 0: this one reads. fused: whether Snake
    is compiled. A part that is there by now is not encoded again: another run wrote it, or an attempt that died between
    its rename and its last word.
    """
    started, batch_seconds, buckets = time.monotonic(), options.batch_seconds, not one_by_one(device)
    encoder = _encoder(codec, device, fused, options.precision)
    spec = encoder.model.spec
    if part_path(folder, [item.digest for item in part]).exists():
        flush_folder(folder)  # who renamed it may not have come so far
        seconds = sum(item.num_samples for item in part) / spec.sampling_rate
        return PartResult(len(part), seconds, {}, time.monotonic() - started, 0.0)
    plan = list(plan_windows(part, spec, batch_seconds, buckets=buckets))
    kept, begun, waited = _Kept(spec, part), deque[tuple[Window, list[int], Codes]](), 0.0
    unreadable: dict[str, str] = {}
    with _reading(readers, spec, batch_seconds) as reader, contextlib.closing(reader.read(_reads(plan, spec))) as read:
        for window in plan:
            asked = time.monotonic()
            audio, errors = next(read)
            waited += time.monotonic() - asked
            unreadable |= {item.digest: e for item, e in zip(window.items, errors, strict=True) if e is not None}
            good = [row for row, item in enumerate(window.items) if item.digest not in unreadable]
            if good:
                audio = audio if len(good) == len(audio) else audio[good]
                filled = ([window.frames[row] for row in good], window.shape(spec, batch_seconds)) if buckets else ()
                begun.append((window, good, encoder.begin_in_memory(audio, *filled)))
            if len(begun) > buckets:  # a GPU has the next window before the codes of the last are waited for
                yield kept.take(*begun.popleft())
        while begun:
            yield kept.take(*begun.popleft())
    done = [item for item in part if item.digest not in unreadable]
    if done:
        write_part(
            folder,
            [item.digest for item in done],
            [item.num_samples for item in done],
            [[np.concatenate(level) for level in kept.codes[item.digest]] for item in done],
            spec,
            {"torch": torch.__version__, "device": f"{device}, compiled" if fused else device},
        )
    seconds = sum(item.num_samples for item in done) / spec.sampling_rate
    return PartResult(len(done), seconds, unreadable, time.monotonic() - started, waited)


class _Kept:
    """The codes of a part so far: by digest, for each level, those of the recording's windows in order."""

    def __init__(self, spec: CodecSpec, part: list[Recording]):
        self.spec = spec
        self.codes: dict[str, list[list[np.ndarray]]] = {item.digest: [[] for _ in range(spec.levels)] for item in part}
        self.utterances, self.seconds = 0, 0.0

    def take(self, window: Window, rows: list[int], codes: Codes) -> Progress:
        """Wait for the codes of those rows of a window that could be read."""
        for k, (level, count) in enumerate(zip(codes(), self.spec.tokens_per_frame, strict=True)):
            for row, tokens in zip(rows, level, strict=True):
                self.codes[window.items[row].digest][k].append(window.kept(tokens, row, count))
        self.utterances += len(rows) if window.end == window.last else 0
        self.seconds += len(rows) * (window.end - window.start) * self.spec.frame_seconds
        return Progress(self.utterances, self.seconds)


def _reads(plan: list[Window], spec: CodecSpec) -> list[Read]:
    return [
        Read([(item.digest, item.file) for item in window.items], spec.samples(window.first),
             spec.samples(window.last - window.first))
        for window in plan
    ]  # fmt: skip


_encoders: dict[tuple[Path, str, Precision], Encoder] = {}
_readers: dict[tuple[int, int, int], Readers] = {}


def _prepare(codec: Path, batch_seconds: float, precision: Precision, readers: int, fused: bool, device: str) -> None:
    """What a worker has ready before its first part: the codec on its device, and its readers."""
    spec = _encoder(codec, device, fused, precision).model.spec
    with _reading(readers, spec, batch_seconds):
        pass


def _compiles(on_event: OnEvent) -> bool:
    """Whether Snake can be compiled here; workers then find it in torch's cache. This process goes on eagerly, so that
    its check of a sample is one of the compiled codes against the plain ones."""
    try:
        compile_snake()
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        on_event({"message": f"encoding without the fused Snake, a third slower: {reason}"})
        return False
    return True


def _encoder(codec: Path, device: str, fused: bool, precision: Precision) -> Encoder:
    """The codec's on `device`, loaded once for each process."""
    if fused:
        fuse_snake()
    key = codec, device, precision
    if key not in _encoders:
        _encoders[key] = Encoder.on_device(SNAC.from_pretrained(codec).to(device), precision)
    return _encoders[key]


@contextlib.contextmanager
def _reading(count: int, spec: CodecSpec, batch_seconds: float) -> Iterator[InlineReader | Readers]:
    """Who reads: this process, or `count` others, which are kept for the next part unless this one fails."""
    if not count:
        with contextlib.closing(InlineReader(spec.sampling_rate)) as reader:
            yield reader
        return
    key = (count, window_samples(spec, batch_seconds), spec.sampling_rate)
    if key not in _readers:
        _readers[key] = Readers(*key)
    try:
        yield _readers[key]
    except BaseException:
        _readers.pop(key).close()
        raise


def _per_corpus(
    utterances: pl.DataFrame, encoded: set[str], aside: set[str], fingerprint: str
) -> dict[str, dict[str, Any]]:
    figures = {}
    for (name,), rows in utterances.group_by("corpus", maintain_order=True):
        cached = rows.filter(~pl.col("digest").is_in(list(aside)))
        digests = cached["digest"].to_list()
        figures[name] = {
            "version": codes_version(digests, fingerprint),
            "utterances": len(cached),
            "encoded": len(encoded.intersection(digests)),
            "quarantined": len(rows) - len(cached),
            "hours": float(cached["duration"].sum()) / 3600,
        }
    return figures


def codes_version(digests: list[str], fingerprint: str) -> str:
    """The data version of cached codes: a hash of which utterances and which encoder."""
    return value_digest([fingerprint, sorted(digests)])
