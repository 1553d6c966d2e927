"""Metrics by models of one's own: predictors of opinion scores, and a recogniser of speech. Nothing is downloaded.

In: files that pipeline.yaml names. Out: entries for the list of metrics. The usual ones that no file is given for are
in the list too, and told as not run.
"""

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch

from snac_pipeline.codec.hub import first_line
from snac_pipeline.errors import PipelineError
from snac_pipeline.evaluation.metrics import Undefined
from snac_pipeline.evaluation.registry import METRICS, Metric, why_not_run
from snac_pipeline.files import content_digest
from snac_pipeline.settings import EvaluationSettings, ScorerSettings

USUAL = {"utmos": "UTMOS", "dnsmos": "DNSMOS"}
"""Opinion scores that people ask for."""
WORD_ERROR_RATE = "word_error_rate"
RECOGNISER_RATE = 16_000
FAILS = "the model fails"


def own_metrics(options: EvaluationSettings) -> tuple[Metric, ...]:
    """The metrics that need a model of one's own, those that none is given for included.

    Raises PipelineError for a file that is not there or of another kind; `try_own_metrics` loads it.
    """
    scorers = [_scorer(name, given) for name, given in options.scorers.items()]
    absent = [
        Metric(name, label, _nothing, True, "MOS", 2, absent=f"no file is given (`evaluation.scorers.{name}`)")
        for name, label in USUAL.items()
        if name not in options.scorers
    ]
    return (*scorers, *absent, _word_error_rate(options.recogniser))


def own_metrics_identity(options: EvaluationSettings) -> dict[str, Any]:
    """What their figures depend on: the bytes of the models, wherever they are, and how they are used."""
    identity: dict[str, Any] = {
        name: [content_digest(given.file), given.sample_rate, given.seconds, given.output]
        for name, given in options.scorers.items()
    }
    if (folder := options.recogniser) is not None:
        files = [file for file in folder.rglob("*") if file.is_file()]
        identity[WORD_ERROR_RATE] = {str(file.relative_to(folder)): content_digest(file) for file in files}
    return identity


def try_own_metrics(metrics: Sequence[Metric]) -> None:
    """Load each model that is to be run, and let it hear a second of noise, so that it is not found out after hours.

    Raises PipelineError that names the model which cannot be loaded, or cannot do that.
    """
    noise = (0.1 * np.random.default_rng(0).standard_normal(RECOGNISER_RATE)).astype(np.float32)
    for metric in metrics:
        if not isinstance(metric.function, OpinionScore | WordErrorRate) or metric.why_not_run is not None:
            continue
        function = metric.function
        try:
            function.load()
        except Exception as error:
            raise PipelineError(f"{function.key}: {function.place} cannot be loaded: {first_line(error)}") from error
        try:
            function(noise, noise, RECOGNISER_RATE)
        except Undefined as error:
            if str(error).startswith(FAILS):
                raise PipelineError(f"{function.key}: {function.place}, given a second of noise: {error}") from error
    _runner.cache_clear()
    _recogniser.cache_clear()
    _transcript.cache_clear()


def _scorer(name: str, given: ScorerSettings) -> Metric:
    taken = {WORD_ERROR_RATE, "bitrate", *(metric.name for metric in METRICS)}
    if name in taken or name.startswith(("codebook_use_level", "perplexity_level")):
        raise PipelineError(f"evaluation.scorers.{name}: there is a metric of that name; give the model another one")
    if given.file.suffix not in (".pt", ".onnx"):
        raise PipelineError(f"evaluation.scorers.{name}: {given.file} is neither TorchScript (.pt) nor ONNX (.onnx)")
    _require_there(given.file, f"evaluation.scorers.{name}.file", given.file.is_file())
    package = "onnxruntime" if given.file.suffix == ".onnx" else None
    score = OpinionScore(f"evaluation.scorers.{name}", given.file, given.sample_rate, given.seconds, given.output)
    return Metric(
        name,
        USUAL.get(name, name),
        score,
        given.higher_is_better,
        "MOS",
        2,
        package=package,
        on_device=score.on,
    )


def _word_error_rate(folder: Path | None) -> Metric:
    label = "Word error rate"
    if folder is None:
        absent = "no recogniser is given (`evaluation.recogniser`)"
        return Metric(WORD_ERROR_RATE, label, _nothing, False, "%", 1, absent=absent)
    _require_there(folder, "evaluation.recogniser", (folder / "config.json").is_file())
    errors = WordErrorRate(folder)
    package = "transformers" if why_not_run("transformers") else "jiwer"
    return Metric(WORD_ERROR_RATE, label, errors, False, "%", 1, package=package, on_device=errors.on)


def _require_there(path: Path, key: str, there: bool) -> None:
    if not there:
        raise PipelineError(f"{key}: there is no model at {path}; give the place of its files, or leave the key out")


def _nothing(reference: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float:
    raise AssertionError("a metric that is absent is not called")


@dataclass(frozen=True)
class OpinionScore:
    """Score of a model that hears the estimate alone; which one, its file says.

    The model takes speech (1, T), float32 at `sample_rate` Hz, and gives one number, or several, of which `output` is
    meant. seconds: what it is made for, when that is a fixed length: shorter speech is repeated, longer speech scored
    in windows every second, and averaged.
    """

    key: str
    """Where the settings name it."""
    file: Path
    sample_rate: int
    seconds: float | None
    output: int
    device: str = "cpu"

    def on(self, device: str) -> "OpinionScore":
        """The same on a worker's device."""
        return replace(self, device=device)

    @property
    def place(self) -> Path:
        """Of its files."""
        return self.file

    def load(self) -> None:
        """Raises what its library does where that is not possible."""
        _runner(self.file, self.device)

    def __call__(self, reference: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float:
        """The score of the estimate; which model, which output: as the settings say."""
        run = _runner(self.file, self.device)
        speech = soxr.resample(estimate, sample_rate, self.sample_rate, "HQ").astype(np.float32)
        if not len(speech):
            raise Undefined("shorter than one sample of the model")
        with _failing_alone():
            scores = [np.asarray(run(window[None])).reshape(-1)[self.output] for window in self._windows(speech)]
        return float(np.mean(scores))

    def _windows(self, speech: np.ndarray) -> list[np.ndarray]:
        if self.seconds is None:
            return [speech]
        length = round(self.seconds * self.sample_rate)
        if len(speech) < length:
            speech = np.tile(speech, -(-length // len(speech)))[:length]
        return [speech[start : start + length] for start in range(0, len(speech) - length + 1, self.sample_rate)]


@contextlib.contextmanager
def _failing_alone() -> Iterator[None]:
    """What a model cannot do with an utterance is a reason for no value, and no harm to the other metrics. Only for
    want of memory it is tried again, by another worker."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise Undefined(f"{FAILS}: {first_line(error)[:200]}") from error


@functools.lru_cache(maxsize=4)
def _runner(file: Path, device: str) -> Any:
    """(1, T) array -> array."""
    if file.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        [given] = session.get_inputs()
        return lambda speech: session.run(None, {given.name: speech})[0]
    model = torch.jit.load(file, map_location=device).eval()

    def run(speech: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            values: torch.Tensor = model(torch.from_numpy(speech).to(device))
            return values.float().cpu().numpy()

    return run


@dataclass(frozen=True)
class WordErrorRate:
    """How many of the words that a recogniser hears in the recording it does not hear in the estimate.

    The recording's transcript is the recogniser's own, so that no text is needed and its mistakes count for neither.
    """

    folder: Path
    device: str = "cpu"
    key = "evaluation.recogniser"

    def on(self, device: str) -> "WordErrorRate":
        """The same on a worker's device."""
        return replace(self, device=device)

    @property
    def place(self) -> Path:
        """Of its files."""
        return self.folder

    def load(self) -> None:
        """Raises what transformers does where that is not possible."""
        _recogniser(self.folder, self.device)

    def __call__(self, reference: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float:
        """100 (substitutions + deletions + insertions) / words of the recording's own transcript; lower is better."""
        import jiwer

        with _failing_alone():
            expected, heard = (
                _transcript(self.folder, self.device, signal.astype(np.float32).tobytes(), sample_rate)
                for signal in (reference, estimate)
            )
        if not expected:
            raise Undefined("the recogniser hears no words in the recording")
        return 100 * jiwer.wer(expected, heard)


@functools.lru_cache(maxsize=8)  # the reference is shared by all decoders of a rate
def _transcript(folder: Path, device: str, signal: bytes, sample_rate: int) -> str:
    speech = soxr.resample(np.frombuffer(signal, np.float32), sample_rate, RECOGNISER_RATE, "HQ")
    heard: Mapping[str, str] = _recogniser(folder, device)({"raw": speech, "sampling_rate": RECOGNISER_RATE})
    return " ".join(heard["text"].split())


@functools.lru_cache(maxsize=1)
def _recogniser(folder: Path, device: str) -> Any:
    """transformers' pipeline for speech recognition; a folder's files are all that it looks at."""
    from transformers import pipeline

    return pipeline("automatic-speech-recognition", model=str(folder), device=device)
