"""How many bits held-out tokens cost under a unigram model fitted on train tokens, and how sure a figure is.

Two tokenizers of different vocabularies are compared by bits per second of audio: bits per token would give the larger
vocabulary free credit.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

SMOOTHING = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01)
LEVEL = 0.95


@dataclass(frozen=True)
class Tokens:
    """Encoded utterances end to end: ids, the phase each id starts at, and utterance borders in tokens (U + 1).

    The phase is the position inside the coarse frame. It follows from the lengths of the tokens before, so a decoder of
    the sequence always knows it.
    """

    ids: np.ndarray
    phases: np.ndarray
    offsets: np.ndarray

    def without_phases(self) -> "Tokens":
        return Tokens(self.ids, np.zeros_like(self.phases), self.offsets)


@dataclass(frozen=True)
class UnigramModel:
    """p(token | phase) = (n + a) / (N_phase + a S_phase), S_phase = vocabulary entries that can start at the phase."""

    bits: np.ndarray  # (phases, vocabulary)
    smoothing: float

    def utterance_bits(self, tokens: Tokens) -> np.ndarray:
        """Bits of each utterance, float64 (U,)."""
        running = np.concatenate([[0.0], np.cumsum(self.bits[tokens.phases, tokens.ids])])
        return np.diff(running[tokens.offsets])


def fit_unigram(tokens: Tokens, starts_at: np.ndarray) -> UnigramModel:
    """Fit on train tokens. `starts_at` (phases, vocabulary), bool: which entries can start at which phase.

    The smoothing a is the one of `SMOOTHING` with the best leave-one-out likelihood on the same tokens,
    sum n ln((n - 1 + a) / (N - 1 + a S)), so that no vocabulary is handicapped by a constant that suits another.
    Without the phase, a model pays log2(phases) bits per token for something every decoder knows, and each merge would
    save them: BPE would look good on pure noise. Pass a single all-true row (and phases 0) for that plain model.
    """
    phases, vocabulary = starts_at.shape
    counts = np.bincount(tokens.phases * vocabulary + tokens.ids, minlength=phases * vocabulary)
    counts = counts.reshape(phases, vocabulary)
    totals, support = counts.sum(1, keepdims=True), starts_at.sum(1, keepdims=True)

    def left_out(a: float) -> float:
        used = counts > 0
        odds = (counts - 1 + a) / np.maximum(totals - 1 + a * support, a)
        return float((counts[used] * np.log(odds[used])).sum())

    smoothing = max(SMOOTHING, key=left_out)
    return UnigramModel(-np.log2((counts + smoothing) / (totals + smoothing * support)), smoothing)


def bootstrap_interval(
    figure: Callable[[np.ndarray], float], utterances: int, rng: np.random.Generator, resamples: int
) -> tuple[float, float] | tuple[None, None]:
    """95 % percentile interval of `figure(rows)` over utterances drawn with replacement (Efron 1979); None for one."""
    if utterances < 2:
        return None, None
    drawn = [figure(rng.integers(0, utterances, utterances)) for _ in range(resamples)]
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
