"""How far an estimate is from its reference: one utterance in, one number out.

Every metric is a pure function of (reference_T, estimate_T, sample_rate): float arrays of equal length, full scale 1.
Where a metric means nothing (silence, too short) it raises `Undefined` with the reason; it never returns NaN.
Magnitudes are in dBFS: a full-scale sine has 0 dB. They are floored at -100 dBFS, below which 16-bit audio holds only
rounding noise. The list of metrics with names, units and directions is `registry.METRICS`.
"""

import functools
import warnings

import numpy as np
import soxr
import torch
import torchaudio
from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio

from snac_pipeline.training.losses import reconstruction_losses
from snac_pipeline.training.recipe import Losses

FLOOR = 1e-10  # power, -100 dBFS
SILENCE = 1e-4  # RMS, -80 dBFS
SI_SDR_CEILING = 100.0
STFT_SIZES = (1024, 2048, 4096)
STFT_SIZES_WIDE = (*STFT_SIZES, 8192)
LSD_SIZE = 2048
MEL_BANDS = 80
HIGH_BAND = 12_000
LEAKAGE_BINS = 4  # 100 Hz at 48 kHz: what is below 12 kHz shows so far above it through the window
ESTOI_SECONDS = 0.4  # 30 frames of 25.6 ms every 12.8 ms
PESQ_RATE = 16_000
PESQ_SECONDS = 30.0


class Undefined(Exception):
    """The metric has no meaning for this pair; the message says why, in words that group (no figures of one file)."""


def l1(reference: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float:
    """mean |x - y|, in units of full scale; lower is better."""
    return float(np.mean(np.abs(reference.astype(np.float64) - estimate)))


def stft_distance(reference: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float:
    """Mean over window sizes of mean over bins and frames of |20 log10 |X| - 20 log10 |Y||, in dB; lower is better.

    Hann windows of 1024, 2048 and 4096 samples (and 8192 from 44.1 kHz on), hop n/4. A gain of g gives |20 log10 g|.
    """
    sizes = _stft_sizes(reference, sample_rate)
    return float(np.mean([_decibels_apart(reference, estimate, n).abs_().mean().item() for n in sizes]))


def mel_distance(reference: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float:
    """Mean |10 log10 M(x) - 10 log10 M(y)| over frames and 80 mel bands up to half the rate, in dB; lower is better.

    M is mel-band power (HTK mel, triangles of height 1); windows of 1024 samples up to 24 kHz, 2048 up to 48 kHz.
    """
    n_fft = 2 ** int(np.ceil(np.log2(sample_rate * 1024 / 24_000)))
    _require_length(reference, n_fft)
    bank_FM = torchaudio.functional.melscale_fbanks(n_fft // 2 + 1, 0.0, sample_rate / 2, MEL_BANDS, sample_rate)
    x, y = ((bank_FM.T @ _power(signal, n_fft)).clamp_min_(FLOOR) for signal in (reference, estimate))
    distance: float = 10 * (x / y).log10_().abs_().mean().item()
    return distance


def magnitude_loss(reference: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float:
    """The loss `magnitude` of training, windows of `stft_distance`: mean | |X| - |Y| |; lower is better."""
    return _training_loss(reference, estimate, sample_rate, magnitude=1.0)


def log_magnitude_loss(reference: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float:
    """The loss `log_magnitude` of training, windows of `stft_distance`: mean |ln |X| - ln |Y||; lower is better."""
    return _training_loss(reference, estimate, sample_rate, log_magnitude=1.0)


def mel_loss(reference: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float:
    """The loss `mel` of training, windows of `stft_distance`: the same of mel bands; lower is better."""
    return _training_loss(reference, estimate, sample_rate, mel=1.0)


def si_sdr(reference: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float:
    """10 log10(|a x|^2 / |a x - y|^2) with a = <x, y> / |x|^2 and means removed, in dB; higher is better.

    Le Roux et al., "SDR - half-baked or well done?", 2019. At most 100 dB, so that equal signals do not rule a mean.
    """
    _require_sound(reference, estimate)
    value = scale_invariant_signal_distortion_ratio(
        torch.from_numpy(estimate.astype(np.float64)), torch.from_numpy(reference.astype(np.float64)), zero_mean=True
    )
    return min(value.item(), SI_SDR_CEILING)


def log_spectral_distance(reference: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float:
    """Mean over frames of sqrt(mean over bins of (20 log10 |X| - 20 log10 |Y|)^2), in dB; lower is better.

    Hann window of 2048 samples, hop 512.
    """
    return _log_spectral_distance(reference, estimate, first_bin=0)


def log_spectral_distance_high(reference: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float:
    """The log-spectral distance over the bins from 12 kHz up, in dB; lower is better. What a 48 kHz head adds.

    Not defined where the reference is below the floor there, as one that is resampled from 24 kHz or less: no estimate
    is the right one then.
    """
    if sample_rate <= 2 * HIGH_BAND:
        raise Undefined("nothing above 12 kHz at this rate")
    _require_length(reference, LSD_SIZE)
    first_bin = int(np.ceil(HIGH_BAND * LSD_SIZE / sample_rate))
    if not (_power(reference, LSD_SIZE)[first_bin + LEAKAGE_BINS :, 2:-2] > FLOOR).any():  # without the mirrored ends
        raise Undefined("nothing above 12 kHz in the reference")
    return _log_spectral_distance(reference, estimate, first_bin=first_bin)


def estoi(reference: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float:
    """Extended short-time objective intelligibility (Jensen and Taal, 2016), -1 to 1; higher is better.

    Needs 0.4 s of speech after pystoi has removed the silent frames.
    """
    from pystoi import stoi

    _require_sound(reference, estimate)
    too_short = "less than 0.4 s of speech"
    if len(reference) < ESTOI_SECONDS * sample_rate:
        raise Undefined(too_short)
    state = np.random.get_state()
    np.random.seed(0)  # pystoi adds noise of 1e-16 from the global generator: the same number on every run
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Not enough STFT frames", category=RuntimeWarning)
            return float(stoi(reference, estimate, sample_rate, extended=True))
    except RuntimeWarning:
        raise Undefined(too_short) from None
    finally:
        np.random.set_state(state)


def pesq_wb(reference: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float:
    """PESQ wideband (ITU-T P.862.2) at 16 kHz, MOS-LQO 1.04 to 4.64; higher is better.

    Not defined beyond 30 s: P.862 is made for sentences, and its C code keeps a fixed table of utterances.
    """
    import pesq

    _require_sound(reference, estimate)
    if len(reference) > PESQ_SECONDS * sample_rate:
        raise Undefined("longer than the 30 s PESQ is used for")
    pair = [soxr.resample(x, sample_rate, PESQ_RATE, "VHQ").astype(np.float32) for x in (reference, estimate)]
    try:
        return float(pesq.pesq(PESQ_RATE, *pair, "wb"))
    except (pesq.NoUtterancesError, pesq.BufferTooShortError):
        raise Undefined("PESQ finds no speech") from None


def f0_rmse(reference: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float:
    """Root mean square of 1200 log2(f0(y) / f0(x)) over frames voiced in both, in cents; lower is better.

    WORLD's DIO refined by StoneMask, every 5 ms (Morise et al., 2009).
    """
    x, y = _pitch(reference, sample_rate), _pitch(estimate, sample_rate)
    both = (x > 0) & (y > 0)
    if not both.any():
        raise Undefined("no frame voiced in both")
    return float(np.sqrt(np.mean((1200 * np.log2(y[both] / x[both])) ** 2)))


def voicing_error(reference: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float:
    """Share of 5 ms frames that are voiced in one signal and not in the other, in percent; lower is better."""
    _require_sound(reference)
    x, y = _pitch(reference, sample_rate), _pitch(estimate, sample_rate)
    return float(100 * np.mean((x > 0) != (y > 0)))


def loudness_difference(reference: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float:
    """|L(y) - L(x)| with L the gated loudness of ITU-R BS.1770-4, in LU; lower is better.

    Needs 0.4 s above -70 LUFS.
    """
    if len(reference) < round(0.4 * sample_rate):
        raise Undefined("shorter than 0.4 s")
    x, y = (_loudness(signal, sample_rate) for signal in (reference, estimate))
    if not np.isfinite([x, y]).all():
        raise Undefined("silent")
    return abs(y - x)


def is_silent(signal: np.ndarray) -> bool:
    """Whether what is left without the mean has an RMS below -80 dBFS."""
    return float(np.std(signal.astype(np.float64))) < SILENCE


def _require_sound(reference: np.ndarray, estimate: np.ndarray | None = None) -> None:
    if is_silent(reference):
        raise Undefined("silent reference")
    if estimate is not None and is_silent(estimate):
        raise Undefined("silent estimate")


def _require_length(signal: np.ndarray, samples: int) -> None:
    if len(signal) < samples:
        raise Undefined("shorter than the analysis window")


def _stft_sizes(signal: np.ndarray, sample_rate: int) -> tuple[int, ...]:
    sizes = STFT_SIZES_WIDE if sample_rate >= 44_100 else STFT_SIZES
    _require_length(signal, max(sizes))
    return sizes


def _training_loss(reference: np.ndarray, estimate: np.ndarray, sample_rate: int, **term: float) -> float:
    sizes = list(_stft_sizes(reference, sample_rate))
    ours, theirs = (
        torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))[None, None] for x in (estimate, reference)
    )
    weights = Losses.model_validate({"l1": 0.0, "magnitude": 0.0, **term})
    return reconstruction_losses(ours, theirs, torch.tensor([len(reference)]), sample_rate, sizes, weights).item()


def _power(signal: np.ndarray, n_fft: int) -> torch.Tensor:
    """|STFT|^2 as (bins, frames), a full-scale sine peaking at 1. Hann window, hop n_fft / 4, ends reflected."""
    samples = torch.from_numpy(np.ascontiguousarray(signal, dtype=np.float32))
    window = torch.hann_window(n_fft)
    spectrum = torch.stft(samples, n_fft, n_fft // 4, window=window * (2 / window.sum()), return_complex=True)
    return torch.view_as_real(spectrum).square_().sum(-1)


def _decibels_apart(reference: np.ndarray, estimate: np.ndarray, n_fft: int) -> torch.Tensor:
    """10 log10 of the ratio of the two powers, (bins, frames); one logarithm, which is what this costs."""
    ratio = _power(reference, n_fft).clamp_min_(FLOOR)
    return ratio.div_(_power(estimate, n_fft).clamp_min_(FLOOR)).log10_().mul_(10)


def _log_spectral_distance(reference: np.ndarray, estimate: np.ndarray, first_bin: int) -> float:
    _require_length(reference, LSD_SIZE)
    apart = _decibels_apart(reference, estimate, LSD_SIZE)[first_bin:]
    return apart.square_().mean(dim=0).sqrt_().mean().item()


def _pitch(signal: np.ndarray, sample_rate: int) -> np.ndarray:
    """F0 in Hz every 5 ms, 0 where unvoiced."""
    return _pitch_of_bytes(signal.astype(np.float64).tobytes(), sample_rate)


@functools.lru_cache(maxsize=4)
def _pitch_of_bytes(signal: bytes, sample_rate: int) -> np.ndarray:
    """Remembered, because two metrics ask for the same two signals and every contestant for the same reference."""
    import pyworld

    samples = np.frombuffer(signal)
    coarse, times = pyworld.dio(samples, sample_rate)
    pitch: np.ndarray = pyworld.stonemask(samples, coarse, times, sample_rate)
    return pitch


def _loudness(signal: np.ndarray, sample_rate: int) -> float:
    """Integrated loudness in LUFS; not finite when no 0.4 s block is above -70 LUFS."""
    loudness: float = torchaudio.functional.loudness(
        torch.from_numpy(signal.astype(np.float32))[None], sample_rate
    ).item()
    return loudness
