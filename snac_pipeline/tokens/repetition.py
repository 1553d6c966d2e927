"""Repetition: runs of one code, and sequences of up to seven codes that come again.

N-grams are counted by a sample of their hashes: of each n the same share of all distinct n-grams is followed through
the whole corpus, so memory does not grow with it; small corpora are counted whole.
"""

from collections.abc import Iterator

import numpy as np

from snac_pipeline.tokens.measures import merged_counts

NGRAMS = (2, 3, 4, 5, 6, 7)
SAMPLED = 1 << 17
"""Distinct n-grams followed of each n at most: their share of repeats is then known to some 0.3 %."""

BLOCK = 1 << 16  # hashes of a block stay in the cache
FACTOR, SPREAD = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD1342543DE82EF95)  # odd: multiplying by them loses nothing
EVERYTHING = 1 << 64


def run_lengths(codes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """How many runs of equal codes have length 0, 1, 2, ...; a run ends with its utterance. offsets: its borders."""
    repeats = codes[1:] == codes[:-1]
    borders = offsets[(offsets > 0) & (offsets < codes.size)]
    repeats[borders - 1] = False
    places = np.flatnonzero(repeats)
    if places.size == 0:
        return np.array([0, codes.size], np.int64)
    starts = np.flatnonzero(np.diff(places, prepend=-2) > 1)
    longer = np.bincount(np.diff(starts, append=places.size) + 1)
    longer[1] = codes.size - (longer * np.arange(longer.size)).sum()
    return longer


def add_lengths(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Two counts by length as one."""
    together = np.zeros(max(one.size, other.size), np.int64)
    together[: one.size] += one
    together[: other.size] += other
    return together


class NgramSample:
    """Distinct n-grams whose hash is below a bound, with how often each occurs; the bound falls as they get many."""

    def __init__(self) -> None:
        self.bound = EVERYTHING
        self.hashes = np.empty(0, np.uint64)
        self.counts = np.empty(0, np.int64)

    def add(self, hashes: np.ndarray, counts: np.ndarray) -> None:
        """Hashes below the bound, each once and increasing, and how often they occur."""
        self.hashes, self.counts = merged_counts(self.hashes, self.counts, hashes, counts)
        while self.hashes.size > SAMPLED:
            self._lower(self.bound // 2)

    def plus(self, other: "NgramSample") -> "NgramSample":
        together = NgramSample()
        together.bound = min(self.bound, other.bound)
        for sample in (self, other):
            kept = int(np.searchsorted(sample.hashes, np.uint64(together.bound - 1), side="right"))
            together.add(sample.hashes[:kept], sample.counts[:kept])
        return together

    @property
    def repeated(self) -> float | None:
        """Share of n-grams that have occurred before; None where none was seen."""
        return 1 - self.hashes.size / int(self.counts.sum()) if self.hashes.size else None

    def _lower(self, bound: int) -> None:
        self.bound = bound
        kept = int(np.searchsorted(self.hashes, np.uint64(bound - 1), side="right"))
        self.hashes, self.counts = self.hashes[:kept], self.counts[:kept]


def count_ngrams(codes: np.ndarray, offsets: np.ndarray, samples: dict[int, NgramSample]) -> None:
    """Add the n-grams that lie in one utterance (`offsets`: the borders) to the sample of each n."""
    borders = offsets[(offsets > 0) & (offsets < codes.size)]
    found: dict[int, list[np.ndarray]] = {n: [] for n in samples}
    for n, start, hashes in _hashes(codes, max(samples)):
        if n not in samples:
            continue
        places = np.flatnonzero(hashes <= np.uint64(samples[n].bound - 1))
        first = places + start
        inside = np.searchsorted(borders, first, side="right") == np.searchsorted(borders, first + n - 1, side="right")
        found[n].append(hashes[places[inside]])
        if sum(map(len, found[n])) > SAMPLED:
            samples[n].add(*np.unique(np.concatenate(found[n]), return_counts=True))
            found[n] = []
    for n, waiting in found.items():
        if waiting:
            samples[n].add(*np.unique(np.concatenate(waiting), return_counts=True))


def ngram_total(offsets: np.ndarray, n: int) -> int:
    """How many n-grams lie in one utterance."""
    return int(np.maximum(0, np.diff(offsets) - n + 1).sum())


def _hashes(codes: np.ndarray, longest: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """(n, place of the first, hashes of the n-grams from there on), block by block, n from 1 up to `longest`."""
    for start in range(0, codes.size, BLOCK):
        block = codes[start : start + BLOCK + longest - 1].astype(np.uint64) + np.uint64(1)
        rolling = block
        for n in range(1, longest + 1):
            if n > 1:
                rolling = rolling[:-1] * FACTOR + block[n - 1 :]
            if rolling.size == 0:
                break
            mixed = rolling ^ (rolling >> np.uint64(32))
            yield n, start, mixed[:BLOCK] * SPREAD
