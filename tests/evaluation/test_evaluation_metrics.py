"""Every metric on signals whose value is known beforehand."""

from typing import get_args

import numpy as np
import pytest
import soxr

from snac_pipeline.evaluation import metrics, registry
from snac_pipeline.evaluation.metrics import Undefined
from snac_pipeline.evaluation.registry import METRICS, Metric, measure, not_run, why_not_run
from snac_pipeline.settings import MetricName

RATE = 24_000
MINUS = "\N{MINUS SIGN}"
BY_NAME = {metric.name: metric for metric in METRICS}


def needs(package):
    return pytest.mark.skipif(why_not_run(package) is not None, reason=str(why_not_run(package)))


@pytest.fixture
def noise_T():
    return 0.1 * np.random.default_rng(0).standard_normal(2 * RATE)


def speechlike(rate, seconds=2.0, pitch=120.0):
    """A voiced sound with syllables: harmonics of `pitch` under a 4 Hz envelope."""
    t = np.arange(round(seconds * rate)) / rate
    harmonics = sum(np.sin(2 * np.pi * k * pitch * t) / k for k in range(1, int(3500 / pitch)))
    return (0.15 * harmonics * (0.55 + 0.45 * np.sin(2 * np.pi * 4 * t))).astype(np.float32)


@pytest.mark.parametrize("rate", [24_000, 48_000])
@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_equal_signals_have_the_best_value(metric, rate):
    x = speechlike(rate)
    best = {"si_sdr": 100.0, "estoi": 1.0, "pesq_wb": 4.64}.get(metric.name, 0.0)
    value, reason = measure(metric, x, x.copy(), rate)
    if value is None:
        assert reason.startswith("not run") or reason.startswith("nothing above 12 kHz")
    else:
        assert value == pytest.approx(best, abs=0.01)


@pytest.mark.parametrize("level", [0.0, 10.0, 37.5])
def test_si_sdr_of_orthogonal_noise_is_its_level(noise_T, level):
    x = noise_T - noise_T.mean()
    other = np.random.default_rng(1).standard_normal(len(x))
    other -= other.mean()
    other -= x * (x @ other) / (x @ x)
    other *= np.linalg.norm(x) / np.linalg.norm(other) * 10 ** (-level / 20)
    assert metrics.si_sdr(x, x + other, RATE) == pytest.approx(level, abs=1e-6)
    assert metrics.si_sdr(x, 0.3 * (x + other), RATE) == pytest.approx(level, abs=1e-6)


@pytest.mark.parametrize("gain", [0.5, 2.0])
def test_a_gain_moves_each_spectral_distance_by_its_decibels(noise_T, gain):
    decibels = abs(20 * np.log10(gain))
    for name in ("stft_distance", "mel_distance", "log_spectral_distance"):
        assert BY_NAME[name].function(noise_T, gain * noise_T, RATE) == pytest.approx(decibels, abs=1e-3), name
    for name in ("log_magnitude_loss", "mel_loss"):
        assert BY_NAME[name].function(noise_T, gain * noise_T, RATE) == pytest.approx(abs(np.log(gain)), abs=1e-3), name
    assert metrics.loudness_difference(noise_T, gain * noise_T, RATE) == pytest.approx(decibels, abs=0.05)
    assert metrics.l1(noise_T, gain * noise_T, RATE) == pytest.approx(abs(1 - gain) * np.abs(noise_T).mean())
    assert metrics.si_sdr(noise_T, gain * noise_T, RATE) == 100.0


def test_the_high_band_distance_sees_only_what_is_above_12_khz():
    t = np.arange(48_000) / 48_000
    low, high = 0.3 * np.sin(2 * np.pi * 3_000 * t), 0.01 * np.random.default_rng(0).standard_normal(48_000)
    assert metrics.log_spectral_distance_high(low + high, 0.5 * low + high, 48_000) < 0.1
    assert metrics.log_spectral_distance_high(high, 0.5 * high, 48_000) == pytest.approx(6.02, abs=0.01)
    assert metrics.log_spectral_distance_high(high, np.zeros_like(high), 48_000) < 100


@pytest.mark.parametrize("file_rate", [16_000, 22_050, 24_000])
def test_the_high_band_distance_has_no_value_where_nothing_is_recorded_there(file_rate):
    narrow = soxr.resample(0.2 * np.random.default_rng(0).standard_normal(file_rate), file_rate, 48_000, "VHQ")
    invented = narrow + 0.01 * np.random.default_rng(1).standard_normal(len(narrow))
    with pytest.raises(Undefined, match="nothing above 12 kHz in the reference"):
        metrics.log_spectral_distance_high(narrow, invented, 48_000)
    quiet = narrow + 1e-2 * np.random.default_rng(2).standard_normal(len(narrow))
    assert metrics.log_spectral_distance_high(quiet, 2 * quiet, 48_000) == pytest.approx(6.02, abs=0.3)


@pytest.mark.parametrize("value, sign, text", [
    (-0.001, True, "0.00"), (0.0, True, "0.00"), (0.006, True, "+0.01"),
    (-1.5, True, f"{MINUS}1.50"), (-1.5, False, f"{MINUS}1.50"),
])  # fmt: skip
def test_what_rounds_to_zero_has_no_sign(value, sign, text):
    assert BY_NAME["mel_distance"].format(value, sign) == text


def test_digital_silence_against_a_whisper_is_bounded_by_the_floor():
    whisper = 1e-6 * np.random.default_rng(0).standard_normal(RATE)
    assert metrics.stft_distance(whisper, np.zeros(RATE), RATE) == 0


def test_a_full_scale_sine_peaks_at_0_dbfs():
    sine = np.sin(2 * np.pi * 3_000 * np.arange(RATE) / RATE)
    assert metrics._power(sine, 2048).max().item() == pytest.approx(1, abs=0.001)


def test_a_quarter_period_of_delay_is_orthogonal_to_the_tone():
    tone = 0.3 * np.sin(2 * np.pi * 375 * np.arange(RATE) / RATE)
    assert metrics.si_sdr(tone, np.roll(tone, 16), RATE) < -100


@needs("pystoi")
def test_estoi_falls_with_noise_and_is_the_same_on_every_run(noise_T):
    x = speechlike(RATE)
    values = [metrics.estoi(x, x + level * noise_T.astype(np.float32), RATE) for level in (0.1, 1.0, 10.0)]
    assert values == sorted(values, reverse=True)
    assert metrics.estoi(x, x + noise_T, RATE) == metrics.estoi(x, x + noise_T, RATE)


@needs("pesq")
def test_pesq_falls_with_noise(noise_T):
    x = speechlike(RATE)
    assert 4.6 > metrics.pesq_wb(x, x + 0.05 * noise_T, RATE) > metrics.pesq_wb(x, x + 0.5 * noise_T, RATE) > 1


@needs("pyworld")
def test_f0_rmse_of_a_semitone_is_100_cents():
    low, high = speechlike(RATE), speechlike(RATE, pitch=120 * 2 ** (1 / 12))
    assert metrics.f0_rmse(low, high, RATE) == pytest.approx(100, abs=3)
    assert metrics.voicing_error(low, high, RATE) < 5


@needs("pyworld")
def test_voicing_error_counts_the_frames_that_lost_their_voice():
    voiced = speechlike(RATE)
    half = voiced.copy()
    half[RATE:] = 0
    assert metrics.voicing_error(voiced, half, RATE) == pytest.approx(50, abs=5)
    with pytest.raises(Undefined, match="no frame voiced"):
        metrics.f0_rmse(voiced, np.zeros_like(voiced), RATE)


SILENT = {"si_sdr": "silent reference", "estoi": "silent reference", "pesq_wb": "silent reference",
          "f0_rmse": "no frame voiced in both", "voicing_error": "silent reference", "loudness_difference": "silent",
          "log_spectral_distance_high": "nothing above 12 kHz at this rate"}  # fmt: skip


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_silent_reference_gives_a_number_or_a_reason(metric):
    silence = np.zeros(RATE, np.float32)
    value, reason = measure(metric, silence, silence + 0.01 * speechlike(RATE, 1.0), RATE)
    if reason and reason.startswith("not run"):
        pytest.skip(reason)
    assert reason == SILENT.get(metric.name)
    assert (value is None) == (metric.name in SILENT)


@pytest.mark.parametrize("samples", [0, 1, 100, 1023, 4096, 9599])
@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_short_signals_give_a_finite_number_or_a_reason(metric, samples):
    x = speechlike(RATE)[:samples]
    value, reason = measure(metric, x, 0.5 * x, RATE)
    assert (value is None) != (reason is None)
    assert value is None or np.isfinite(value)
    if metric.name in ("estoi", "loudness_difference"):
        assert value is None


def test_speech_with_long_pauses_is_too_short_for_estoi():
    x = np.zeros(RATE, np.float32)
    x[: RATE // 5] = speechlike(RATE)[: RATE // 5]
    assert measure(BY_NAME["estoi"], x, x, RATE).reason == "less than 0.4 s of speech"


def test_a_broken_decoder_is_counted_and_not_averaged():
    x = speechlike(RATE)
    broken = x.copy()
    broken[100] = np.nan
    assert measure(BY_NAME["l1"], x, broken, RATE) == (None, "not finite samples")
    odd = Metric("odd", "Odd", lambda *_: float("inf"), True, "", 0)
    assert measure(odd, x, x, RATE) == (None, "not finite result")


def test_a_missing_package_is_listed_as_not_run():
    plugin = Metric("mos", "MOS", lambda *_: 0.0, True, "", 1, package="no_such_package")
    reason = "not run: no_such_package is not installed"
    assert measure(plugin, np.ones(10), np.ones(10), RATE) == (None, reason)
    assert not_run([plugin, BY_NAME["l1"]]) == {"mos": reason}


def test_every_metric_states_formula_unit_and_direction():
    for metric in METRICS:
        direction = "higher is better" if metric.higher_is_better else "lower is better"
        assert direction in metric.description, metric.name
    assert len({metric.name for metric in METRICS}) == len(registry.METRICS)


def test_the_settings_know_the_metrics_that_there_are():
    assert get_args(MetricName) == tuple(metric.name for metric in METRICS)
