"""Restored audio: what a speech restorer makes of recordings, as 48 kHz targets with a band that was not recorded.

In: recordings, and a restorer of two TorchScript files with the interface of Sidon (sarulab-speech/sidon-v0.1). Out:
<home>/restored/<restorer>/<xx>/<digest>.flac for each recording, of the recording's length and level. A file is there
whole or not at all, so that only what is missing is ever restored.

The feature extractor takes log-mel features (B, N, 160) of 16 kHz speech, 50 a second, as w2v-BERT 2.0 does, and gives
(B, N, D), by itself or as "last_hidden_state". The decoder takes (B, D, N) and gives 48 kHz audio (B, 1, 960 N).
"""

import contextlib
import functools
import math
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import soundfile
import torch
import torchaudio
from torch import Tensor

from snac_pipeline.corpus.audio import read_audio, resampled_length
from snac_pipeline.corpus.probe import digest_of
from snac_pipeline.corpus.sniffing import UnreadableAudio
from snac_pipeline.engine import attempts
from snac_pipeline.engine.local import LocalPool
from snac_pipeline.errors import PipelineError
from snac_pipeline.files import atomic_file, content_digest, make_folder, value_digest, write_json

OnEvent = Callable[[dict[str, Any]], None]

RESTORING_REVISION = 1
"""Raised when a change of this code changes the audio."""

INPUT_RATE, OUTPUT_RATE = 16_000, 48_000
MELS = 80
LEAD, CUT = 40, 150
"""Zeros in front of the input, and samples that the output has too many in front; as Sidon's authors use it."""
SILENCE_SECONDS = 1.5
"""Of silence at least after the input, so that its end is not lost; as Sidon's authors do."""
PIECE_SECONDS, CONTEXT_SECONDS = 60, 1
"""Longer recordings are restored in pieces, with context on each side that is thrown away."""
PART_RECORDINGS = 32


@dataclass(frozen=True)
class Restorer:
    """The restorer's two TorchScript files."""

    feature_extractor: Path
    decoder: Path

    @functools.cached_property
    def digest(self) -> str:
        """16 hexadecimal digits that name everything that restored audio depends on besides the recording."""
        return value_digest([RESTORING_REVISION, *map(content_digest, (self.feature_extractor, self.decoder))])[:16]


class Work(NamedTuple):
    """A recording to restore."""

    digest: str
    file: str
    num_samples: int
    """At INPUT_RATE."""
    length: int
    """At OUTPUT_RATE."""


@dataclass(frozen=True)
class Restored:
    """What restoring some recordings gave."""

    recordings: int
    audio_seconds: float
    failed: list[str]
    """One sentence for each file that could not be read or restored."""


def restored_folder(home: Path, restorer: Restorer) -> Path:
    """Where the audio of this restorer lies."""
    return home / "restored" / restorer.digest


def restored_file(folder: Path, digest: str) -> Path:
    """The restored audio of a recording."""
    return folder / digest[:2] / f"{digest}.flac"


def restore(
    restorer: Restorer,
    utterances: pl.DataFrame,
    home: Path,
    batch_seconds: float,
    hang_seconds: float,
    devices: Sequence[str],
    on_event: OnEvent,
) -> dict[str, Any]:
    """Restore the utterances (corpus.read_utterances) that are not restored yet; returns the run's figures.

    Raises PipelineError for files that are no such restorer, and, when everything else is restored, for recordings that
    cannot be read.
    """
    started = time.monotonic()
    folder = restored_folder(home, restorer)
    make_folder(folder)
    write_json(folder / "restorer.json", {"files": [restorer.feature_extractor.name, restorer.decoder.name],
                                          "revision": RESTORING_REVISION})  # fmt: skip
    missing = [work for work in _works(utterances) if not restored_file(folder, work.digest).exists()]
    missing.sort(key=lambda work: (_padded(work.num_samples), work.digest))
    size = max(1, min(PART_RECORDINGS, math.ceil(len(missing) / (4 * len(devices)))))
    parts = [missing[i : i + size] for i in range(0, len(missing), size)]
    on_event({"message": f"{len(missing)} recordings to restore, {len(utterances) - len(missing)} restored already"})
    done, seconds, failed = 0, 0.0, []
    work = functools.partial(restore_part, restorer, folder, batch_seconds)
    with contextlib.closing(LocalPool(work, devices, hang_seconds)) as pool:
        for event in attempts.run_parts(pool, parts):
            match event:
                case attempts.Poisonous(item, reason):
                    failed.append(f"{item.file}: {reason}")
                case attempts.Failed(_, reason, _):
                    on_event({"message": f"an attempt failed: {reason}"})
                case attempts.Done(_, result):
                    done += result.recordings
                    seconds += result.audio_seconds
                    failed += result.failed
                case _:
                    continue
            rate = seconds / (time.monotonic() - started)
            on_event({"message": f"{done}/{len(missing)} recordings restored, {rate:.1f}x real time",
                      "fraction": done / len(missing)})  # fmt: skip
    if failed:
        raise PipelineError(
            f"{len(failed)} recordings could not be restored: {'; '.join(failed[:5])}; the other {done} are; "
            "run `scan` again, then `restore`"
        )
    return {
        "restorer": restorer.digest,
        "folder": str(folder),
        "utterances": len(utterances),
        "restored": done,
        "already": len(utterances) - done,
        "hours": float(utterances["duration"].sum()) / 3600,
        "version": value_digest([restorer.digest, sorted(utterances["digest"])]),
        "seconds": time.monotonic() - started,
    }


def restore_part(
    restorer: Restorer, folder: Path, batch_seconds: float, part: Sequence[Work], device: str
) -> Generator[int, None, Restored]:
    """Restore and commit recordings; those of one padded length share a batch, so that none changes another.

    Yields how many are done, after every batch.
    """
    models = _load(restorer, device)
    done, failed = [], []
    for batch in _batches(part, batch_seconds):
        readable, inputs = [], []
        for work in batch:
            try:
                inputs.append(_read(work))
                readable.append(work)
            except UnreadableAudio as error:
                failed.append(str(error))
        for work, heard, audio in zip(readable, inputs, _restore_batch(models, inputs), strict=True):
            with atomic_file(restored_file(folder, work.digest)) as temporary:
                soundfile.write(temporary, _levelled(audio, heard, work), OUTPUT_RATE, "PCM_16", format="FLAC")
            done.append(work)
        yield len(done)
    return Restored(len(done), sum(work.num_samples for work in done) / INPUT_RATE, failed)


def log_mel(audio_T: Tensor) -> Tensor:
    """Log-mel features (N, 160) of 16 kHz audio, two frames of 10 ms each, normalised over the recording.

    As w2v-BERT 2.0 takes them (SeamlessM4TFeatureExtractor of transformers 5.23; white noise agreed to 1e-4).
    """
    mels: Tensor = torchaudio.compliance.kaldi.fbank(
        32768 * audio_T[None],
        num_mel_bins=MELS,
        window_type="povey",
        dither=0.0,
        sample_frequency=float(INPUT_RATE),
    )
    mels = (mels - mels.mean(0)) / (mels.var(0, correction=1) + 1e-7).sqrt()
    pairs = len(mels) // 2
    return mels[: 2 * pairs].reshape(pairs, 2 * MELS)


class _Models(NamedTuple):
    feature_extractor: torch.jit.ScriptModule
    decoder: torch.jit.ScriptModule
    device: str


@functools.lru_cache(maxsize=2)
def _load(restorer: Restorer, device: str) -> _Models:
    """The restorer on `device`, loaded once for each process."""
    models: list[torch.jit.ScriptModule] = []
    for file in (restorer.feature_extractor, restorer.decoder):
        try:
            with warnings.catch_warnings(
                action="ignore", category=FutureWarning
            ):  # there is no other way to load these
                model = torch.jit.load(file, map_location=device)
                models.append(model.eval())
        except RuntimeError as error:
            raise PipelineError(
                f"{file} cannot be loaded as TorchScript on {device} ({str(error).strip().splitlines()[0][:200]}); "
                "name the restorer's files for this device under `restorer` in the settings"
            ) from error
    feature_extractor, decoder = models
    return _Models(feature_extractor, decoder, device)


def _works(utterances: pl.DataFrame) -> list[Work]:
    rows = utterances.select("digest", "file", "num_frames", "sample_rate").rows()
    return [
        Work(digest, file, resampled_length(n, rate, INPUT_RATE), resampled_length(n, rate, OUTPUT_RATE))
        for digest, file, n, rate in rows
    ]


def _padded(num_samples: int) -> int:
    """Whole seconds, in samples, with the silence at the end."""
    return math.ceil(num_samples / INPUT_RATE + SILENCE_SECONDS) * INPUT_RATE


def _batches(part: Sequence[Work], batch_seconds: float) -> Iterator[list[Work]]:
    """Runs of one padded length, at most batch_seconds together (but at least one); what needs pieces is alone."""
    batch: list[Work] = []
    for work in part:
        padded = _padded(work.num_samples)
        alone = padded > PIECE_SECONDS * INPUT_RATE or (len(batch) + 1) * padded > batch_seconds * INPUT_RATE
        if batch and (alone or _padded(batch[0].num_samples) != padded):
            yield batch
            batch = []
        batch.append(work)
    if batch:
        yield batch


def _read(work: Work) -> np.ndarray:
    """The recording at INPUT_RATE; raises UnreadableAudio for one that is no longer what was scanned."""
    if digest_of(work.file) != work.digest:
        raise UnreadableAudio(work.file, "changed since the scan")
    return read_audio(work.file, INPUT_RATE, 0, work.num_samples)


def _restore_batch(models: _Models, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """48 kHz audio of recordings at 16 kHz, which have one padded length; a longer one is alone."""
    if not inputs:
        return []
    piece, context = PIECE_SECONDS * INPUT_RATE, CONTEXT_SECONDS * INPUT_RATE
    if len(inputs[0]) <= piece:
        return list(_run(models, inputs, _padded(len(inputs[0]))))
    [x] = inputs
    pieces = []
    for start in range(0, len(x), piece):
        first = max(0, start - context)
        heard = x[first : start + piece + context]
        [audio] = _run(models, [heard], _padded(len(heard)))
        kept = min(piece, len(x) - start)
        pieces.append(audio[3 * (start - first) : 3 * (start - first + kept)])
    return [np.concatenate(pieces)]


@torch.inference_mode()
def _run(models: _Models, inputs: Sequence[np.ndarray], padded: int) -> np.ndarray:
    """(B, T): the models' output, from the inputs' beginning. Raises PipelineError when it is not 48 kHz audio."""
    audio = np.zeros((len(inputs), LEAD + padded + LEAD), np.float32)
    for row, x in zip(audio, inputs, strict=True):
        row[LEAD : LEAD + len(x)] = x
    mels = torch.stack([log_mel(row) for row in torch.from_numpy(audio)]).to(models.device)
    features = models.feature_extractor(mels)
    if isinstance(features, dict):
        features = features["last_hidden_state"]
    output = models.decoder(features.transpose(1, 2)).reshape(len(inputs), -1)[:, CUT:]
    least = 3 * max(map(len, inputs))
    if output.shape[1] < least or not output.isfinite().all():
        raise PipelineError(
            f"the restorer gave {output.shape[1]} samples for {padded} at {INPUT_RATE} Hz, or some are not finite; "
            f"it has to give finite audio at {OUTPUT_RATE} Hz: is it of the kind that restoring.py describes?"
        )
    samples: np.ndarray = output.float().cpu().numpy()
    return samples


def _levelled(audio: np.ndarray, heard: np.ndarray, work: Work) -> np.ndarray:
    """The restored audio with the recording's length and RMS, as far as its peak stays below full scale.

    A restorer has a level of its own, which a decoder would learn as a change of gain.
    """
    audio = audio[: work.length]
    audio = np.pad(audio, (0, work.length - len(audio)))
    power, wanted = float(np.mean(audio**2)), float(np.mean(heard**2))
    gain = math.sqrt(wanted / power) if power else 1.0
    return audio * min(gain, 0.999 / max(float(np.abs(audio).max()), 1e-9))
