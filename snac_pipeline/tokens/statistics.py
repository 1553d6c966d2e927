"""Token statistics: how a codec's codebooks are used, per level and across levels, per corpus and split.

In: `TokenParts` (or a `TokenStream`). Out: one tidy table, and what pictures are drawn from.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from snac_pipeline.errors import PipelineError
from snac_pipeline.tokens.counting import ALL, LevelCounts, Pairs, Sequences, by_group, count_level, count_levels
from snac_pipeline.tokens.measures import coverage, entropy, gini, zipf_slope
from snac_pipeline.tokens.repetition import NGRAMS
from snac_pipeline.tokens.stream import TokenGeometry, TokenParts, TokenStream

COVERAGE_TOP = (10, 100, 1000)
SCHEMA = {
    "corpus": pl.String,
    "split": pl.String,
    "level": pl.Int8,
    "given": pl.Int8,
    "statistic": pl.String,
    "value": pl.Float64,
    "null": pl.Float64,
    "bound": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
}
STUDENT_7 = 2.365
"""97.5 % of Student's t with REPEATED_NULLS - 1 degrees of freedom."""

THUMBNAIL = 64


@dataclass(frozen=True)
class Figure:
    statistic: str
    value: float
    null: float | None = None
    bound: float | None = None
    low: float | None = None
    high: float | None = None


_Row = tuple[str, str, int | None, int | None, Figure]
"""(corpus, split, level, given, figure)"""


@dataclass(frozen=True)
class Statistics:
    """The table of `token_statistics`, and of the whole corpus by level: how often each code occurs (V,), how many runs
    are how long, and bigrams by rank (64, 64)."""

    geometry: TokenGeometry
    table: pl.DataFrame
    counts: list[np.ndarray]
    runs: list[np.ndarray]
    transitions: list[np.ndarray]

    def row(
        self, statistic: str, level: int | None, *, corpus: str = ALL, split: str = ALL, given: int | None = None
    ) -> dict[str, Any]:
        """One line of the table; level None: of all levels together. KeyError where the figure is undefined."""
        hit = self.table.filter(statistic=statistic, corpus=corpus, split=split).filter(
            pl.col("level").eq_missing(level), pl.col("given").eq_missing(given)
        )
        if hit.is_empty():
            raise KeyError((statistic, level, corpus, split, given))
        return hit.row(0, named=True)

    def value(self, statistic: str, level: int | None, **where: Any) -> float:
        """One figure, see `row`."""
        figure: float = self.row(statistic, level, **where)["value"]
        return figure


def token_statistics(source: TokenParts | TokenStream, *, seed: int = 0) -> Statistics:
    """Count every level and every pair of levels: of all, of each corpus and split, and of their sums.

    | statistic | value | null | bound |
    |---|---|---|---|
    | tokens, seconds, bigrams, pairs | counts; seconds of audio | | |
    | entropy, perplexity | H(code) in bits; 2^H | uniform | min(log2 V, log2 N); min(V, N) |
    | dead_codes | codes that never occur | uniform | V |
    | gini, zipf_slope, coverage_top_k | see `measures` | uniform | 1 - 1/V; 0; 1 |
    | bits_per_second | entropy times tokens per second; of all levels: the sum | | the same at log2 V |
    | bits_per_second_after_previous | conditional entropy times tokens per second | shuffled | the same at log2 V |
    | conditional_entropy | H(code given the code before) | shuffled | min(log2 V, log2 N) |
    | mutual_information | of successive codes | shuffled | log2 V |
    | mutual_information_excess | the same less its null, with a 95 % interval of the null's chance | | |
    | transition_density | share of the V^2 bigrams that occur | shuffled | min(1, N / V^2) |
    | bigrams_per_cell | N / V^2: far below 1, read figures of bigrams only against their null | | |
    | immediate_repeat_rate | share of bigrams a a | shuffled | 1 |
    | mean_run_length, longest_run | runs of one code, tokens | shuffled | those if every utterance were one run |
    | tokens_in_runs | share of tokens in runs of two and more | shuffled | 1 |
    | repeated_ngrams_n | share of n-grams that have occurred before, n = 2..7 | shuffled | 1 - 1/N |

    With `given`, another level: conditional_entropy, mutual_information (and _excess) and `pairs` of a level's code and
    that of level `given` at the same time; the null shuffles the finer level.

    null: the same figure of the same tokens shuffled under the same utterance borders, within each corpus and split;
    "uniform": of as many tokens drawn from a uniform codebook. Both are seeded. No bigram, run or n-gram spans two
    utterances. A figure that is undefined (of no tokens, of no bigrams, the slope of one code) has no row, so no value
    is ever NaN. PipelineError: not a single token.
    """
    geometry = source.geometry
    rows: list[_Row] = []
    counts, runs, transitions = [], [], []
    for level in range(geometry.levels):
        for group, counted in by_group(source, functools.partial(count_level, source, level, seed=seed)):
            rows += [(*group, level, None, figure) for figure in level_figures(counted, geometry, level, seed)]
            if group == (ALL, ALL):
                counts.append(counted.codes)
                runs.append(counted.sequences.runs)
                by_frequency = np.argsort(-counted.codes, kind="stable")
                transitions.append(counted.bigrams.seen.by_rank(by_frequency, min(THUMBNAIL, geometry.codebook_size)))
    if not counts or counts[0].sum() == 0:
        raise PipelineError("there are no tokens to count: no utterance has codes; run `snac-pipeline cache` first")
    for fine in range(geometry.levels):
        for coarse in range(fine):
            for group, pairs in by_group(source, functools.partial(count_levels, source, (coarse, fine), seed=seed)):
                rows += [(*group, *cross) for cross in _cross_figures(pairs, coarse, fine)]
    rows += _sums(rows)
    flat = [(*where, f.statistic, f.value, f.null, f.bound, f.low, f.high) for *where, f in rows]
    table = pl.DataFrame(flat, schema=SCHEMA, orient="row")
    return Statistics(geometry, table, counts, runs, transitions)


def level_figures(counted: LevelCounts, geometry: TokenGeometry, level: int, seed: int) -> Iterator[Figure]:
    """The lines of one level of one group; those without a null where none was counted."""
    counts = counted.codes
    size, total = counts.size, int(counts.sum())
    rate = geometry.tokens_per_frame[level] / geometry.frame_seconds
    yield Figure("tokens", total)
    yield Figure("seconds", total / rate)
    if total == 0:
        return
    uniform = np.random.default_rng(seed).multinomial(total, np.full(size, 1 / size))
    bounds = _unigram_bounds(size, total)
    nulls = dict(_unigrams(uniform))
    for name, value in _unigrams(counts):
        yield Figure(name, value, nulls.get(name), bounds.get(name, 1.0))
    yield Figure("bits_per_second", rate * entropy(counts), None, rate * float(np.log2(size)))
    yield from _bigram_figures(counted.bigrams, rate)
    if counted.sequences.runs.any():
        yield from _sequence_figures(counted, total)


def _unigrams(counts: np.ndarray) -> Iterator[tuple[str, float]]:
    yield "dead_codes", int((counts == 0).sum())
    yield "entropy", entropy(counts)
    yield "perplexity", 2 ** entropy(counts)
    yield "gini", gini(counts)
    slope = zipf_slope(counts)
    if slope is not None:
        yield "zipf_slope", slope
    for top in COVERAGE_TOP:
        if top < counts.size:
            yield f"coverage_top_{top}", coverage(counts, top)


def _unigram_bounds(size: int, total: int) -> dict[str, float]:
    least = min(size, total)
    return {
        "dead_codes": size,
        "entropy": float(np.log2(least)),
        "perplexity": least,
        "gini": 1 - 1 / size,
        "zipf_slope": 0.0,
    }


def _bigram_figures(bigrams: Pairs, rate: float) -> Iterator[Figure]:
    size = bigrams.seen.size
    seen, null = bigrams.seen.figures(), bigrams.null.figures()
    yield Figure("bigrams", seen.total if seen else 0)
    if seen is None or null is None:
        return
    most, per_cell = float(np.log2(size)), seen.total / size**2
    known, known_null = seen.second_given_first, null.second_given_first
    yield Figure("conditional_entropy", known, known_null, float(np.log2(min(size, seen.total))))
    yield Figure("bits_per_second_after_previous", rate * known, rate * known_null, rate * most)
    yield Figure("mutual_information", seen.mutual_information, null.mutual_information, most)
    yield _excess(bigrams, seen.mutual_information, null.mutual_information)
    yield Figure("transition_density", seen.density, null.density, min(1.0, per_cell))
    yield Figure("bigrams_per_cell", per_cell)
    yield Figure("immediate_repeat_rate", seen.equal, null.equal, 1.0)


def _excess(pairs: Pairs, seen: float, null: float) -> Figure:
    """Where there is nothing but chance, both vary as the null does: the interval is that of their difference."""
    reach = STUDENT_7 * (2 * pairs.variance) ** 0.5
    return Figure("mutual_information_excess", seen - null, low=seen - null - reach, high=seen - null + reach)


def _sequence_figures(counted: LevelCounts, total: int) -> Iterator[Figure]:
    bounds = {"mean_run_length": total / counted.utterances, "longest_run": counted.longest, "tokens_in_runs": 1.0}
    nulls = dict(_runs(counted.null_sequences, total))
    for name, value in _runs(counted.sequences, total):
        yield Figure(name, value, nulls[name], bounds[name])
    for n in NGRAMS:
        repeated, null = (side.ngrams[n].repeated for side in (counted.sequences, counted.null_sequences))
        if repeated is not None:
            yield Figure(f"repeated_ngrams_{n}", repeated, null, 1 - 1 / counted.ngrams[n])


def _runs(sequences: Sequences, total: int) -> Iterator[tuple[str, float]]:
    runs = sequences.runs
    yield "mean_run_length", total / int(runs.sum())
    yield "longest_run", int(np.flatnonzero(runs)[-1])
    yield "tokens_in_runs", 1 - int(runs[1]) / total


def _cross_figures(pairs: Pairs, coarse: int, fine: int) -> Iterator[tuple[int, int, Figure]]:
    """(level, given, figure)"""
    seen, null = pairs.seen.figures(), pairs.null.figures()
    if seen is None or null is None:
        return
    size = pairs.seen.size
    most = float(np.log2(min(size, seen.total)))
    yield coarse, fine, Figure("pairs", seen.total)
    yield coarse, fine, Figure("conditional_entropy", seen.first_given_second, null.first_given_second, most)
    yield fine, coarse, Figure("conditional_entropy", seen.second_given_first, null.second_given_first, most)
    yield (
        coarse,
        fine,
        Figure("mutual_information", seen.mutual_information, null.mutual_information, float(np.log2(size))),
    )
    yield coarse, fine, _excess(pairs, seen.mutual_information, null.mutual_information)


def _sums(rows: list[_Row]) -> list[_Row]:
    """Over levels, of each group: tokens and bits per second."""
    sums: dict[tuple[str, str, str], list[Figure]] = {}
    for corpus, split, _, _, figure in rows:
        if figure.statistic in ("tokens", "bits_per_second", "bits_per_second_after_previous"):
            sums.setdefault((corpus, split, figure.statistic), []).append(figure)

    def added(values: list[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) if len(known) == len(values) else None

    return [
        (
            corpus,
            split,
            None,
            None,
            Figure(
                statistic,
                sum(f.value for f in figures),
                added([f.null for f in figures]),
                added([f.bound for f in figures]),
            ),
        )
        for (corpus, split, statistic), figures in sums.items()
    ]
