"""The metrics by name, and `measure`, which turns one of them into a value or a reason why there is none.

A metric is added by adding an entry here; comparison, summary and report read the list.
"""

import functools
import importlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from snac_pipeline.evaluation import metrics
from snac_pipeline.evaluation.metrics import Undefined

NOT_FINITE = "not finite"
NOT_RUN = "not run"


@dataclass(frozen=True)
class Metric:
    """One metric: `function(reference_T, estimate_T, sample_rate)`, how to print it, and what it needs.

    package: what has to be installed. absent: why there is nothing to run, where that is so. on_device: the function
    for a worker with that device, where it is a model.
    """

    name: str
    label: str
    function: Callable[[np.ndarray, np.ndarray, int], float]
    higher_is_better: bool
    unit: str
    digits: int
    package: str | None = None
    absent: str | None = None
    on_device: Callable[[str], Callable[[np.ndarray, np.ndarray, int], float]] | None = None

    def placed(self, device: str) -> "Metric":
        """The metric as a worker with `device` runs it."""
        return self if self.on_device is None else replace(self, function=self.on_device(device))

    @property
    def why_not_run(self) -> str | None:
        """None where it can be run, else "not run: ..." with the cause."""
        return why_not_run(self.package) or (f"{NOT_RUN}: {self.absent}" if self.absent else None)

    @property
    def description(self) -> str:
        """First sentence of the function's docstring: the formula."""
        return (self.function.__doc__ or "").split("\n\n")[0].strip()

    @property
    def label_in_text(self) -> str:
        """The label as it stands inside a sentence: "mel distance", but "SI-SDR"."""
        return self.label[0].lower() + self.label[1:] if self.label[1:2].islower() else self.label

    @property
    def spaced_unit(self) -> str:
        """The unit as it follows a number."""
        return f" {self.unit}" if self.unit else ""

    def format(self, value: float, sign: bool = False) -> str:
        """`value` with the metric's decimals and a true minus sign; without a sign what rounds to zero."""
        text = f"{value:{'+' if sign else ''}.{self.digits}f}"
        return text.replace("-", "\N{MINUS SIGN}") if text.strip("+-0.") else text.lstrip("+-")


class Measurement(NamedTuple):
    """Exactly one of the two is None."""

    value: float | None
    reason: str | None


METRICS: tuple[Metric, ...] = (
    Metric("mel_distance", "Mel distance", metrics.mel_distance, False, "dB", 2),
    Metric("stft_distance", "Multi-scale STFT distance", metrics.stft_distance, False, "dB", 2),
    Metric("log_spectral_distance", "Log-spectral distance", metrics.log_spectral_distance, False, "dB", 2),
    Metric(
        "log_spectral_distance_high",
        "Log-spectral distance above 12 kHz",
        metrics.log_spectral_distance_high,
        False,
        "dB",
        2,
    ),
    Metric("si_sdr", "SI-SDR", metrics.si_sdr, True, "dB", 2),
    Metric("l1", "L1", metrics.l1, False, "full scale", 4),
    Metric("magnitude_loss", "Magnitude loss", metrics.magnitude_loss, False, "", 4),
    Metric("log_magnitude_loss", "Log-magnitude loss", metrics.log_magnitude_loss, False, "", 3),
    Metric("mel_loss", "Mel loss", metrics.mel_loss, False, "", 3),
    Metric("pesq_wb", "PESQ-WB", metrics.pesq_wb, True, "MOS", 3, "pesq"),
    Metric("estoi", "ESTOI", metrics.estoi, True, "", 3, "pystoi"),
    Metric("f0_rmse", "F0 RMSE", metrics.f0_rmse, False, "cents", 1, "pyworld"),
    Metric("voicing_error", "Voicing error", metrics.voicing_error, False, "%", 1, "pyworld"),
    Metric("loudness_difference", "Loudness difference", metrics.loudness_difference, False, "LU", 2),
)


@functools.cache
def why_not_run(package: str | None) -> str | None:
    """None when `package` imports, else "not run: ..." with the cause."""
    if package is None:
        return None
    try:
        with warnings.catch_warnings(action="ignore"):  # pyworld's about pkg_resources
            importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name == package:
            return f"{NOT_RUN}: {package} is not installed"
        return f"{NOT_RUN}: {package} needs {error.name}, which is not installed"
    except ImportError as error:
        return f"{NOT_RUN}: {package} does not import ({error})"
    return None


def not_run(registry: Sequence[Metric] = METRICS) -> dict[str, str]:
    """Metric name -> why it cannot be run here."""
    return {metric.name: reason for metric in registry if (reason := metric.why_not_run)}


def measure(metric: Metric, reference: np.ndarray, estimate: np.ndarray, sample_rate: int) -> Measurement:
    """The metric of one pair of equal length, or the reason why it has none."""
    assert reference.shape == estimate.shape, f"{reference.shape} against {estimate.shape}"
    if reason := metric.why_not_run:
        return Measurement(None, reason)
    if not len(reference):
        return Measurement(None, "empty")
    if not (np.isfinite(reference).all() and np.isfinite(estimate).all()):
        return Measurement(None, f"{NOT_FINITE} samples")
    return measurement(metric.function, reference, estimate, sample_rate)


def measurement(function: Callable[..., float], *arguments: Any) -> Measurement:
    """What a function gives, or why it gives nothing."""
    try:
        value = function(*arguments)
    except Undefined as undefined:
        return Measurement(None, str(undefined))
    return Measurement(value, None) if np.isfinite(value) else Measurement(None, f"{NOT_FINITE} result")
