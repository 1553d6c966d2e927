"""How far up the spectrum a recording really goes, whatever its sample rate promises."""

import numpy as np

WINDOW = 1024  # 47 Hz a bin at 48 kHz
HOP = 4 * WINDOW  # a quarter of the samples is looked at: 10,000 s of audio per cpu-s at 48 kHz, decoding takes more
LEVEL_DB = -50.0
_LOWEST_HZ = 100.0  # offset, hum and rumble do not count as the peak
_ROUNDING = 1e-12  # what float32 leaves of an offset at other frequencies, as power


class Bandwidth:
    """Streams blocks of samples; `hertz()` is then the highest frequency with real content.

    With P(f) the mean over Hann windows of |rfft|^2, it is max {f : 10 log10(P(f) / max P) >= -50 dB}, the peak taken
    above 100 Hz: the estimate of Hi-Fi TTS (Bakhturina et al., 2021, arXiv 2104.01497) and HiFiTTS-2, whose code takes
    the first 30 s; here one window in four of the whole file counts. 0 for silence; the Nyquist frequency where content
    goes all the way, noise of a microphone included. Channels count as their mean, which is what the codec hears.
    """

    def __init__(self, sample_rate: int) -> None:
        self._rate = sample_rate
        self._window = np.hanning(WINDOW + 1)[:-1].astype(np.float32)
        self._power = np.zeros(WINDOW // 2 + 1)
        self._pending = np.zeros(0, np.float32)  # fewer than HOP samples
        self._windows = 0

    def add(self, block: np.ndarray) -> None:
        """The next samples, float32 (frames, channels)."""
        mono = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32)
        x = np.concatenate([self._pending, mono])
        count = len(x) // HOP
        if count:
            self._measure(x[: count * HOP].reshape(count, HOP)[:, :WINDOW] * self._window)
        self._pending = x[count * HOP :]

    def hertz(self) -> float:
        """The estimate over everything that was added."""
        if len(self._pending) >= WINDOW:
            self._measure(self._pending[None, :WINDOW] * self._window)
        elif not self._windows:  # shorter than a window
            short = self._pending
            self._measure(np.pad(short * np.hanning(len(short) + 2)[1:-1], (0, WINDOW - len(short)))[None])
        self._pending = self._pending[:0]
        frequencies = np.arange(WINDOW // 2 + 1) * (self._rate / WINDOW)
        power = np.where(frequencies >= _LOWEST_HZ, self._power, 0.0)
        peak = power.max()
        if peak <= _ROUNDING * self._power.max():
            return 0.0
        return float(frequencies[np.nonzero(power >= peak * 10 ** (LEVEL_DB / 10))[0][-1]])

    def _measure(self, windows: np.ndarray) -> None:
        spectra = np.fft.rfft(windows)
        self._power += np.einsum("wf,wf->f", spectra.real, spectra.real, dtype=np.float64)
        self._power += np.einsum("wf,wf->f", spectra.imag, spectra.imag, dtype=np.float64)
        self._windows += len(windows)
