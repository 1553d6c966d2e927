"""Counting codes: one pass over a corpus for each level and for each pair of levels, group by group.

In: `TokenParts` (or a `TokenStream`). Out: what was counted of every group, a corpus and a split, from which
`statistics` computes figures. Memory: for each group that is open (all, each split, one corpus and one of its splits)
two tables of pairs, 67 MB each at 4,096 codes once there is that much speech.
"""

import functools
import itertools
import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, Self, TypeVar

import numpy as np

from snac_pipeline.tokens.measures import count_codes
from snac_pipeline.tokens.pairs import PairTable, bigram_keys, level_keys, shuffled
from snac_pipeline.tokens.repetition import (
    NGRAMS,
    NgramSample,
    add_lengths,
    count_ngrams,
    ngram_total,
    run_lengths,
)
from snac_pipeline.tokens.stream import TokenParts, TokenStream

ALL = "all"
Group = tuple[str, str]
"""(corpus, split), either of them ALL for the sum over them."""

REPEATED_NULLS = 8
SPREAD_PAIRS = 1 << 18


class Counted(Protocol):
    def plus(self, other: Self) -> Self: ...


CountedType = TypeVar("CountedType", bound=Counted)


@dataclass
class Pairs:
    """Pairs as they are, those of shuffled tokens, and how far mutual information moves from shuffle to shuffle."""

    seen: PairTable
    null: PairTable
    variance: float = 0.0
    """Of the null's mutual information, bits^2; measured on a sample, on more speech it is smaller."""

    def plus(self, other: "Pairs") -> "Pairs":
        weights = self.seen.total, other.seen.total
        variance = sum(v * w for v, w in zip((self.variance, other.variance), weights, strict=True)) / max(
            1, sum(weights)
        )
        return Pairs(self.seen.plus(other.seen), self.null.plus(other.null), variance)

    def measure_variance(
        self, sample: np.ndarray, rng: np.random.Generator, keys: Callable[[np.ndarray], np.ndarray]
    ) -> None:
        """From the keys of REPEATED_NULLS shuffles of a sample; only once there are pairs."""
        values = []
        for _ in range(REPEATED_NULLS):
            table = PairTable(self.seen.size)
            table.add(keys(shuffled(sample, rng)))
            figures = table.figures()
            if figures is None:
                return
            values.append(figures.mutual_information)
        self.variance = float(np.var(values, ddof=1))


@dataclass
class Sequences:
    """Runs and n-grams of a stream, or of its tokens in random order."""

    runs: np.ndarray = field(default_factory=lambda: np.zeros(2, np.int64))
    ngrams: dict[int, NgramSample] = field(default_factory=lambda: {n: NgramSample() for n in NGRAMS})

    def add(self, codes: np.ndarray, offsets: np.ndarray) -> None:
        self.runs = add_lengths(self.runs, run_lengths(codes, offsets))
        count_ngrams(codes, offsets, self.ngrams)

    def plus(self, other: "Sequences") -> "Sequences":
        ngrams = {n: sample.plus(other.ngrams[n]) for n, sample in self.ngrams.items()}
        return Sequences(add_lengths(self.runs, other.runs), ngrams)


@dataclass
class LevelCounts:
    """What was counted of one level of one group. utterances: those with tokens; longest: tokens of the longest."""

    codes: np.ndarray
    bigrams: Pairs
    sequences: Sequences
    null_sequences: Sequences
    ngrams: dict[int, int] = field(default_factory=lambda: dict.fromkeys(NGRAMS, 0))
    utterances: int = 0
    longest: int = 0

    def plus(self, other: "LevelCounts") -> "LevelCounts":
        return LevelCounts(
            self.codes + other.codes,
            self.bigrams.plus(other.bigrams),
            self.sequences.plus(other.sequences),
            self.null_sequences.plus(other.null_sequences),
            {n: total + other.ngrams[n] for n, total in self.ngrams.items()},
            self.utterances + other.utterances,
            max(self.longest, other.longest),
        )


def by_group(
    source: TokenParts | TokenStream, count: Callable[[str, str], CountedType]
) -> Iterator[tuple[Group, CountedType]]:
    """`count` of every (corpus, split) there is, and the sums: of a corpus, of a split, of all. Each is forgotten once
    it has been given."""
    leaves = sorted(source.utterances.select("corpus", "split").unique().rows())
    corpora, splits = ({leaf[place] for leaf in leaves} for place in (0, 1))

    def groups(leaf: Group) -> list[Group]:
        """Those that a leaf is in; a single corpus or split has no line of its own beside all."""
        one, other = ([ALL] + [name] * (len(of) > 1) for name, of in zip(leaf, (corpora, splits), strict=True))
        return list(itertools.product(one, other))

    left = [group for leaf in leaves for group in groups(leaf)]
    open_groups: dict[Group, CountedType] = {}
    for leaf in leaves:
        counted = count(*leaf)
        for group in groups(leaf):
            open_groups[group] = open_groups[group].plus(counted) if group in open_groups else counted
            left.remove(group)
            if group not in left:
                yield group, open_groups.pop(group)


def count_level(
    source: TokenParts | TokenStream, level: int, corpus: str, split: str, seed: int, *, nulls: bool = True
) -> LevelCounts:
    """One level of one corpus and split, in one pass. nulls: False counts codes and bigrams alone."""
    size, rng = source.geometry.codebook_size, _generator(seed, level, corpus, split)
    bigrams = Pairs(PairTable(size), PairTable(size))
    counts = LevelCounts(np.zeros(size, np.int64), bigrams, Sequences(), Sequences())
    for stream in source.streams([level], corpus=corpus, split=split):
        codes, offsets = stream.codes[0], stream.level_offsets(0)
        lengths = np.diff(offsets)
        counts.codes += count_codes(codes, size)
        counts.utterances += int((lengths > 0).sum())
        counts.longest = max(counts.longest, int(lengths.max(initial=0)))
        if codes.size == 0:
            continue
        bigrams.seen.add(bigram_keys(codes, offsets, size))
        if not nulls:
            continue
        mixed = shuffled(codes, rng)
        if bigrams.null.total == 0:
            keys = functools.partial(bigram_keys, offsets=offsets, size=size)
            bigrams.measure_variance(codes[:SPREAD_PAIRS], rng, keys)
        bigrams.null.add(bigram_keys(mixed, offsets, size))
        counts.sequences.add(codes, offsets)
        counts.null_sequences.add(mixed, offsets)
        for n in NGRAMS:
            counts.ngrams[n] += ngram_total(offsets, n)
    return counts


def count_levels(
    source: TokenParts | TokenStream, levels: tuple[int, int], corpus: str, split: str, seed: int
) -> Pairs:
    """Codes of two levels at the same time, in one pass; the null shuffles the second."""
    size, rng = source.geometry.codebook_size, _generator(seed, *levels, corpus, split)
    widths = source.geometry.tokens_per_frame[levels[0]], source.geometry.tokens_per_frame[levels[1]]
    pairs = Pairs(PairTable(size), PairTable(size))
    for stream in source.streams(levels, corpus=corpus, split=split):
        one, other = stream.codes
        pairs.seen.add(level_keys(one, other, widths, size))
        if pairs.null.total == 0:
            frames = max(1, SPREAD_PAIRS // math.lcm(*widths))
            keys = functools.partial(level_keys, one[: frames * widths[0]], widths=widths, size=size)
            pairs.measure_variance(other[: frames * widths[1]], rng, keys)
        pairs.null.add(level_keys(one, shuffled(other, rng), widths, size))
    return pairs


def _generator(seed: int, *names: int | str) -> np.random.Generator:
    return np.random.default_rng([seed, *(n if isinstance(n, int) else zlib.crc32(n.encode()) for n in names)])
