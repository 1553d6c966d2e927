"""How many bits held-out tokens cost under unigram and bigram models fitted on train tokens, and how sure that is.

Two tokenizers of different vocabularies are compared by bits per second of audio: bits per token would give the larger
vocabulary free credit.
"""

from dataclasses import dataclass

import numpy as np

SMOOTHING = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01)


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

    def per_utterance(self, bits: np.ndarray) -> np.ndarray:
        """Bits of each token, summed by utterance, float64 (U,)."""
        return np.diff(np.concatenate([[0.0], np.cumsum(bits)])[self.offsets])


@dataclass(frozen=True)
class UnigramModel:
    """p(token | phase) = (n + a) / (N_phase + a S_phase), S_phase = vocabulary entries that can start at the phase."""

    bits: np.ndarray  # (phases, vocabulary)
    smoothing: float

    def utterance_bits(self, tokens: Tokens) -> np.ndarray:
        """Bits of each utterance, float64 (U,)."""
        return tokens.per_utterance(self.bits[tokens.phases, tokens.ids])


@dataclass(frozen=True)
class BigramModel:
    """p(token | token before, phase): absolute discounting, interpolated with the unigram (Ney, Essen, Kneser 1994).

    p = (max(n(c, t) - d, 0) + d T(c) p_unigram(t | phase)) / N(c); context c: the token before (or none, where an
    utterance begins) and the phase; T(c): kinds of tokens seen after it. A context never seen: the unigram model.
    """

    unigram: UnigramModel
    pairs: np.ndarray  # context * vocabulary + token, increasing
    counts: np.ndarray
    totals: np.ndarray  # N(c)
    kinds: np.ndarray  # T(c)
    discount: float

    def utterance_bits(self, tokens: Tokens) -> np.ndarray:
        """Bits of each utterance, float64 (U,)."""
        _, vocabulary = self.unigram.bits.shape
        contexts = _contexts(tokens, self.unigram.bits.shape)
        pairs = contexts * vocabulary + tokens.ids
        place = np.minimum(np.searchsorted(self.pairs, pairs), len(self.pairs) - 1)
        counts = np.where(self.pairs[place] == pairs, self.counts[place], 0)
        unigram = 2.0 ** -self.unigram.bits[tokens.phases, tokens.ids]
        totals = self.totals[contexts]
        seen = np.maximum(counts - self.discount, 0) + self.discount * self.kinds[contexts] * unigram
        return tokens.per_utterance(-np.log2(np.where(totals > 0, seen / np.maximum(totals, 1), unigram)))


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


def fit_bigram(tokens: Tokens, unigram: UnigramModel) -> BigramModel:
    """Fit on the train tokens of `unigram`. The discount is n1 / (n1 + 2 n2), n1 and n2 the pairs seen once and twice,
    each with a half added, which keeps it between 0 and 1 where there are none."""
    phases, vocabulary = unigram.bits.shape
    pairs, counts = np.unique(_contexts(tokens, unigram.bits.shape) * vocabulary + tokens.ids, return_counts=True)
    contexts, size = pairs // vocabulary, (vocabulary + 1) * phases
    once, twice = ((counts == times).sum() + 0.5 for times in (1, 2))
    return BigramModel(
        unigram,
        pairs,
        counts,
        np.bincount(contexts, counts, size),
        np.bincount(contexts, minlength=size),
        float(once / (once + 2 * twice)),
    )


def _contexts(tokens: Tokens, shape: tuple[int, int]) -> np.ndarray:
    """Of each token: token before * phases + own phase; `vocabulary` stands for none before."""
    phases, vocabulary = shape
    before = np.empty(tokens.ids.size, np.int64)
    before[1:] = tokens.ids[:-1]
    begins = tokens.offsets[:-1]
    before[begins[begins < before.size]] = vocabulary
    contexts: np.ndarray = before * phases + tokens.phases
    return contexts


def resampled_sums(columns: np.ndarray, rng: np.random.Generator, resamples: int) -> np.ndarray | None:
    """Sums of `columns` (utterances, C) over utterances drawn with replacement (bootstrap, Efron 1979), `resamples`
    times: (resamples, C). All columns see the same draws. None for a single utterance, which says nothing."""
    utterances = len(columns)
    if utterances < 2:
        return None
    sums = np.empty((resamples, columns.shape[1]))
    for row in sums:
        drawn = np.bincount(rng.integers(0, utterances, utterances), minlength=utterances)
        row[:] = drawn @ columns
    return sums
