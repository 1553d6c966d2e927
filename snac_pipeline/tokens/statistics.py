"""Token statistics: how a codec's codebooks are used on a corpus, per level and split.

In: a `TokenStream`. Out: one tidy table (level, split, statistic, value, null, bound) and a rank-frequency plot.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from snac_pipeline.errors import PipelineError
from snac_pipeline.files import atomic_file, write_parquet
from snac_pipeline.tokens.measures import count_bigrams, count_codes, coverage, entropy, gini, zipf_slope
from snac_pipeline.tokens.plots import rank_frequency_png
from snac_pipeline.tokens.stream import TokenStream

ALL_SPLITS = "all"
COVERAGE_TOP = (10, 100, 1000)
SCHEMA = {
    "level": pl.Int8,
    "split": pl.String,
    "statistic": pl.String,
    "value": pl.Float64,
    "null": pl.Float64,
    "bound": pl.Float64,
}
Row = tuple[str, float, float | None, float | None]


@dataclass(frozen=True)
class Statistics:
    """The table of `token_statistics`, and `counts`: (split, level) -> how often each code occurs, int64 (V,)."""

    table: pl.DataFrame
    counts: dict[tuple[str, int], np.ndarray]

    def value(self, statistic: str, level: int, split: str = ALL_SPLITS) -> float:
        """One figure of the table; KeyError where it is undefined."""
        hit = self.table.filter(
            (pl.col("statistic") == statistic) & (pl.col("level") == level) & (pl.col("split") == split)
        )
        if hit.is_empty():
            raise KeyError((statistic, level, split))
        return hit["value"].item()

    def total(self, statistic: str, split: str = ALL_SPLITS) -> float:
        """A figure that adds over levels (tokens, bits_per_second), summed."""
        hit = self.table.filter((pl.col("statistic") == statistic) & (pl.col("split") == split))
        return float(hit["value"].sum())


def token_statistics(stream: TokenStream, *, seed: int = 0) -> Statistics:
    """Count every level of the stream, over all splits and for each one.

    | statistic | value | bound: what it cannot exceed |
    |---|---|---|
    | tokens, bigrams, seconds | counts; seconds of audio | |
    | entropy, perplexity | H(code) in bits; 2^H | min(log2 V, log2 N); min(V, N) |
    | dead_codes | codes that never occur | V |
    | gini, zipf_slope, coverage_top_k | see `measures` | 1 - 1/V; 0; 1 |
    | bits_per_second | entropy times tokens per second | the same at log2 V |
    | conditional_entropy, mutual_information | bits per bigram | min(log2 V, log2 N); log2 V |
    | transition_density | share of V^2 bigrams that occur | min(1, N / V^2) |
    | bigrams_per_cell | N / V^2: far below 1, read bigram figures only against their null | |
    | immediate_repeat_rate | share of bigrams a a | 1 |
    | mutual_information_excess | mutual information minus its null | |

    `null` is the same figure on the same tokens shuffled under the same utterance borders (seeded); for coverage, k / V
    of a uniform codebook. Bigrams never span two utterances. A figure that is undefined (no tokens, no bigrams, the
    slope of one code) has no row, so no value is ever NaN. PipelineError: a stream without a single token.
    """
    if stream.frames == 0:
        raise PipelineError("there are no tokens to count: the selection holds no utterance with codes")
    rows, counts = [], {}
    for split in [ALL_SPLITS, *stream.splits]:
        part = stream if split == ALL_SPLITS else stream.split(split)
        for level in range(stream.geometry.levels):
            counts[split, level] = count_codes(part.codes[level], stream.geometry.codebook_size)
            rng = np.random.default_rng([seed, level, zlib.crc32(split.encode())])
            figures = [*_unigram_rows(part, level, counts[split, level]), *_bigram_rows(part, level, rng)]
            rows += [(level, split, *figure) for figure in figures]
    return Statistics(pl.DataFrame(rows, schema=SCHEMA, orient="row"), counts)


def _unigram_rows(part: TokenStream, level: int, counts: np.ndarray) -> Iterator[Row]:
    size, total = counts.size, int(counts.sum())
    yield "tokens", total, None, None
    yield "seconds", part.seconds, None, None
    yield "dead_codes", int((counts == 0).sum()), None, size
    if total == 0:
        return
    bits, most_bits = entropy(counts), float(np.log2(min(size, total)))
    rate = part.geometry.tokens_per_frame[level] / part.geometry.frame_seconds
    yield "entropy", bits, None, most_bits
    yield "perplexity", 2**bits, None, min(size, total)
    yield "bits_per_second", rate * bits, None, rate * float(np.log2(size))
    yield "gini", gini(counts), None, 1 - 1 / size
    slope = zipf_slope(counts)
    if slope is not None:
        yield "zipf_slope", slope, None, 0.0
    for top in COVERAGE_TOP:
        if top < size:
            yield f"coverage_top_{top}", coverage(counts, top), top / size, 1.0


def _bigram_rows(part: TokenStream, level: int, rng: np.random.Generator) -> Iterator[Row]:
    size = part.geometry.codebook_size
    arguments = (part.codes[level], part.level_offsets(level), size)
    observed = count_bigrams(*arguments)
    yield "bigrams", observed.total, None, None
    if observed.total == 0:
        return
    shuffled = count_bigrams(*arguments, shuffle=rng).figures()
    per_cell = observed.total / size**2
    bounds = {
        "conditional_entropy": float(np.log2(min(size, observed.total))),
        "mutual_information": float(np.log2(size)),
        "transition_density": min(1.0, per_cell),
        "immediate_repeat_rate": 1.0,
    }
    figures = observed.figures()
    for name, value in figures.items():
        yield name, value, shuffled[name], bounds[name]
    yield "mutual_information_excess", figures["mutual_information"] - shuffled["mutual_information"], None, None
    yield "bigrams_per_cell", per_cell, None, None


def write_statistics(folder: Path, statistics: Statistics) -> list[Path]:
    """Write `statistics.parquet` and `rank_frequency.png` (under 50 kB) into `folder`; returns the two paths."""
    table, plot = Path(folder) / "statistics.parquet", Path(folder) / "rank_frequency.png"
    write_parquet(table, statistics.table.to_arrow(compat_level=pl.CompatLevel.oldest()))
    levels = {level: counts for (split, level), counts in statistics.counts.items() if split == ALL_SPLITS}
    with atomic_file(plot) as temporary:
        temporary.write_bytes(rank_frequency_png(levels))
    return [table, plot]
