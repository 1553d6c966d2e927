"""Pairs of codes: of successive tokens (bigrams), or of two levels at the same time. Counted in bounded memory.

Figures of pairs are plug-in estimates, and far too large on sparse data: 4,096 codes in random order seem to share
bits. That is what `shuffled` is for: the same figures of the same tokens in random order stand beside them.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from snac_pipeline.tokens.measures import entropy, merged_counts

TABLE_CELLS = 1 << 26
"""Cells of the largest table: codebooks of up to 8,192 (0.3 GB). Pairs of larger ones are kept as a sorted list, 16
bytes for each that occurs."""

SHUFFLE_SPAN = 1 << 22
"""Tokens that are shuffled at a time, 32 MB: one, two days of speech."""

CHUNK_PAIRS = 1 << 21
"""Keys that are sorted before they are counted: a table larger than the caches is then gone through in order, as fast
as numpy's bincount and without its 134 MB a time."""

ROWS = 256


class PairFigures(NamedTuple):
    """What the two codes a, b of a pair say about each other; entropies in bits per pair."""

    total: int
    first_given_second: float
    """H(a | b) = H(a, b) - H(b)"""
    second_given_first: float
    """H(b | a) = H(a, b) - H(a): for bigrams, the entropy rate of a first-order Markov chain"""
    mutual_information: float
    """I(a; b) = H(a) + H(b) - H(a, b)"""
    density: float
    """Share of the V^2 possible pairs that occur"""
    equal: float
    """Share of pairs with a = b"""


class PairTable:
    """How often each pair (a, b) of codes below `size` occurs: a sorted list while there are few, else a table."""

    def __init__(self, size: int):
        self.size = size
        self.keys = np.empty(0, np.int64)  # a * size + b
        self.counts = np.empty(0, np.int64)
        self.table: np.ndarray | None = None
        self.total = 0

    def add(self, keys: np.ndarray) -> None:
        """Count pairs given as a * size + b; those of size^2 count for nothing. The keys are sorted in place."""
        cells = self.size**2
        if self.table is None and self._list_is_smaller(self.keys.size + keys.size):
            keys, counts = np.unique(keys, return_counts=True)
            inside = slice(0, int(np.searchsorted(keys, keys.dtype.type(cells))))
            self.total += int(counts[inside].sum())
            found = keys[inside].astype(np.int64), counts[inside]
            self.keys, self.counts = merged_counts(self.keys, self.counts, *found)
            return
        table = self._to_table(np.zeros(cells, np.uint32)) if self.table is None else self.table
        if table.dtype == np.uint32 and self.total + keys.size > np.iinfo(np.uint32).max:
            table = self.table = table.astype(np.uint64)
        one = table.dtype.type(1)
        for start in range(0, keys.size, CHUNK_PAIRS):
            chunk = keys[start : start + CHUNK_PAIRS]
            chunk.sort()
            count = int(np.searchsorted(chunk, chunk.dtype.type(cells)))
            np.add.at(table, chunk[:count].astype(np.int64), one)
            self.total += count

    def plus(self, other: "PairTable") -> "PairTable":
        """The pairs of both, a table of its own."""
        together = PairTable(self.size)
        together.total = self.total + other.total
        together.keys, together.counts = self.keys, self.counts
        together.table = None if self.table is None or other.table is not None else self.table.copy()
        if self.table is None and other.table is None and not self._list_is_smaller(self.keys.size + other.keys.size):
            together._to_table(np.zeros(self.size**2, np.uint32))
        if other.table is not None:
            if self.table is None:
                together._to_table(other.table.copy())
            else:
                large = together.total > np.iinfo(np.uint32).max
                together.table = np.add(self.table, other.table, dtype=np.uint64 if large else None)
        elif together.table is not None:
            if together.total > np.iinfo(np.uint32).max:
                together.table = together.table.astype(np.uint64, copy=False)
            together.table[other.keys] += other.counts.astype(together.table.dtype)
        else:
            together.keys, together.counts = merged_counts(self.keys, self.counts, other.keys, other.counts)
        return together

    def figures(self) -> PairFigures | None:
        """None where there is not one pair."""
        if self.total == 0:
            return None
        first, second = np.zeros(self.size, np.int64), np.zeros(self.size, np.int64)
        used, equal, weighted = 0, 0, 0.0
        for a, b, counts in self._blocks():
            if a is None:  # rows of the table
                rows = counts.reshape(-1, self.size)
                first[b : b + len(rows)] = rows.sum(1, dtype=np.int64)
                second += rows.sum(0, dtype=np.int64)
                equal += int(rows[np.arange(len(rows)), b + np.arange(len(rows))].sum(dtype=np.int64))
            else:
                first += np.bincount(a, counts, self.size).astype(np.int64)
                second += np.bincount(b, counts, self.size).astype(np.int64)
                equal += int(counts[a == b].sum())
            occurring, log_weight = _count_logs(counts)
            used += occurring
            weighted += log_weight
        total = int(first.sum())
        joint = max(0.0, math.log2(total) - weighted / total)
        alone = entropy(first), entropy(second)
        return PairFigures(
            total,
            max(0.0, joint - alone[1]),
            max(0.0, joint - alone[0]),
            max(0.0, sum(alone) - joint),
            used / self.size**2,
            equal / total,
        )

    def by_rank(self, order: np.ndarray, bins: int) -> np.ndarray:
        """Pairs (bins, bins) of codes grouped by their place in `order`, a permutation of the codes; float64."""
        group = np.empty(self.size, np.int64)
        group[order] = np.arange(self.size) * bins // self.size
        grouped = np.zeros((bins, bins))
        for a, b, counts in self._blocks():
            if a is None:
                rows = counts.reshape(-1, self.size)
                columns = np.zeros((len(rows), bins))
                for column in range(bins):
                    columns[:, column] = rows[:, group == column].sum(1)
                np.add.at(grouped, group[b : b + len(rows)], columns)
            else:
                np.add.at(grouped, (group[a], group[b]), counts)
        return grouped

    def _list_is_smaller(self, pairs: int) -> bool:
        """Whether so many are better kept as a list."""
        return self.size**2 > TABLE_CELLS or pairs < self.size**2 // 8

    def _to_table(self, table: np.ndarray) -> np.ndarray:
        """Go on with `table`, and the list so far in it."""
        table[self.keys] += self.counts.astype(table.dtype)
        self.table, self.keys, self.counts = table, self.keys[:0], self.counts[:0]
        return table

    def _blocks(self) -> Iterator[tuple[np.ndarray | None, np.ndarray | int, np.ndarray]]:
        """(a, b, counts) of the list, or (None, first row, counts of ROWS rows) of the table."""
        if self.table is None:
            yield *np.divmod(self.keys, self.size), self.counts
            return
        for row in range(0, self.size, ROWS):
            yield None, row, self.table[row * self.size : (row + ROWS) * self.size]


def _count_logs(counts: np.ndarray) -> tuple[int, float]:
    """How many counts are above 0, and sum(n log2 n). Tables hold few different counts: those are counted."""
    if counts.size and counts.max() < counts.size:
        times = np.bincount(counts)
        n = np.arange(1, times.size)
        return int(times[1:].sum()), float((times[1:] * n * np.log2(n)).sum())
    used = counts[counts > 0].astype(np.float64)
    return used.size, float((used * np.log2(used)).sum())


def bigram_keys(codes: np.ndarray, offsets: np.ndarray, size: int) -> np.ndarray:
    """Keys for `PairTable.add` of all pairs of successive tokens; size^2, which counts for nothing, over the borders of
    utterances (`offsets`, in tokens)."""
    keys = codes[:-1].astype(_key_type(size))
    keys *= size
    keys += codes[1:]
    borders = offsets[(offsets > 0) & (offsets < codes.size)]
    keys[borders - 1] = size**2
    return keys


def level_keys(coarse: np.ndarray, fine: np.ndarray, widths: tuple[int, int], size: int) -> np.ndarray:
    """Keys of the pairs of codes of two levels at the same time, at the pace of the finer one. widths: their tokens per
    coarse frame (where neither divides the other, at the pace of their least common multiple)."""
    pace = math.lcm(*widths)
    keys = np.repeat(coarse.astype(_key_type(size)), pace // widths[0])
    keys *= size
    keys += np.repeat(fine, pace // widths[1])
    return keys


def _key_type(size: int) -> type[np.integer]:
    """Of size^2 and everything below."""
    return np.uint32 if size**2 <= np.iinfo(np.uint32).max else np.int64


def shuffled(codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The uint16 codes in random order, SHUFFLE_SPAN at a time: sorted by 48 random bits, five times as fast as numpy's
    permutation."""
    mixed = np.empty_like(codes)
    for start in range(0, codes.size, SHUFFLE_SPAN):
        span = codes[start : start + SHUFFLE_SPAN]
        keys = rng.integers(0, 1 << 48, span.size, np.uint64)
        keys <<= np.uint64(16)
        keys |= span
        keys.sort()
        mixed[start : start + span.size] = keys  # the low 16 bits
    return mixed
