"""Held-out figures of tokenizers that differ in their number of merges.

In: a tokenizer with all its merges, train and held-out codes. Out: `Judged`: the rows of `sweep_layouts`' table, see
there, and what another layout needs to be compared on the same utterances.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from snac_pipeline.tokens.bpe_tokenizer import BpeTokenizer
from snac_pipeline.tokens.heldout import Tokens, fit_bigram, fit_unigram, resampled_sums
from snac_pipeline.tokens.layouts import Layout
from snac_pipeline.tokens.stream import TokenStream

SCHEMA = {
    "layout": pl.String,
    "engine": pl.String,
    "within": pl.String,
    "run_length": pl.Boolean,
    "merges": pl.Int64,
    "statistic": pl.String,
    "value": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
}
DOUBT = 0.05  # 95 % intervals
MEASURED = ("tokens", "unigram bits", "plain unigram bits", "bigram bits")

Figure = tuple[float, float | None, float | None]  # value, low, high


@dataclass(frozen=True)
class Judged:
    """table: that of `sweep_layouts`, less the columns that are the same in every row; ids as they are come first."""

    table: pl.DataFrame
    ways: list[tuple[bool, int]]
    """(run_length, merges) in the order of the table."""
    ratios: "_Ratios"


def judge(
    bpe: BpeTokenizer, train: TokenStream, judged: TokenStream, asked: list[int], resamples: int, seed: int
) -> Judged:
    """Every number of merges. The same seed draws the same utterances for the intervals of any layout."""
    ways = [bpe.first(merges) for merges in sorted({min(merges, bpe.merges) for merges in asked})]
    if bpe.run_length:
        ways.insert(0, BpeTokenizer(bpe.layout, False, ()))
    measured = [_measure(way, train, judged) for way in ways]
    slots, frames = len(bpe.layout.slots), judged.lengths
    given = np.column_stack([frames * float(slots), frames * judged.geometry.frame_seconds])
    ratios = _Ratios.over(given, measured, np.random.default_rng(seed), resamples)
    same = {
        "merges_asked": asked[-1],
        "train_tokens": train.frames * slots,
        "held_out_seconds": judged.seconds,
    }
    rows = []
    for number, (way, found) in enumerate(zip(ways, measured, strict=True)):
        sure = {
            **same,
            "vocabulary_size": way.vocabulary_size,
            "vocabulary_used": found.vocabulary_used,
            "tokens": found.columns[0].sum(),
            "smoothing": found.smoothing,
            "discount": found.discount,
        }
        figures = {name: (float(value), None, None) for name, value in sure.items()} | _figures(ratios, number)
        rows += [(way.run_length, way.merges, name, *figure) for name, figure in figures.items()]
    schema = {name: SCHEMA[name] for name in ("run_length", "merges", "statistic", "value", "low", "high")}
    table = pl.DataFrame(rows, schema=schema, orient="row")
    return Judged(table, [(way.run_length, way.merges) for way in ways], ratios)


def bigram_difference(
    one: Judged, way: tuple[bool, int], other: Judged, beside: tuple[bool, int], doubt: float
) -> Figure:
    """Bits per second under the bigram model: those of `way` of `one` less those of `beside` of `other`, paired over
    the utterances that both were judged on."""
    sums, drawn = [], []
    for judged, which in ((one, way), (other, beside)):
        ratios = judged.ratios
        bigram = ratios.columns_of(judged.ways.index(which))[MEASURED.index("bigram bits")]
        of_seconds = np.eye(ratios.sums.size)[1]
        sums.append(ratios.of(bigram, of_seconds)[0])
        drawn.append(None if ratios.drawn is None else ratios.drawn @ bigram / (ratios.drawn @ of_seconds))
    value = sums[0] - sums[1]
    if drawn[0] is None:
        return value, None, None
    low, high = np.quantile(drawn[0] - drawn[1], [doubt / 2, 1 - doubt / 2])
    return value, float(low), float(high)


def flat_ids(layout: Layout, part: TokenStream) -> tuple[np.ndarray, np.ndarray]:
    """Ids of the utterances end to end, and their borders in ids."""
    return layout.flatten(part.codes), part.offsets * len(layout.slots)


@dataclass(frozen=True)
class _Measured:
    """One tokenizer on the held-out speech. columns: `MEASURED` of each utterance."""

    columns: tuple[np.ndarray, ...]
    vocabulary_used: int
    smoothing: float
    discount: float


@dataclass(frozen=True)
class _Ratios:
    """Sums over the held-out utterances, and over draws of them, of ids, seconds and `MEASURED` of each tokenizer."""

    sums: np.ndarray
    drawn: np.ndarray | None

    @staticmethod
    def over(given: np.ndarray, measured: list[_Measured], rng: np.random.Generator, resamples: int) -> "_Ratios":
        columns = np.column_stack([given, *(column for way in measured for column in way.columns)])
        return _Ratios(columns.sum(0), resampled_sums(columns, rng, resamples))

    @property
    def tokenizers(self) -> int:
        return (self.sums.size - 2) // len(MEASURED)

    def columns_of(self, number: int) -> np.ndarray:
        """(`MEASURED`, sums): which columns are those of a tokenizer."""
        return np.eye(self.sums.size)[2 + number * len(MEASURED) :][: len(MEASURED)]

    def of(self, top: np.ndarray, under: np.ndarray, doubt: float = DOUBT) -> Figure:
        """Ratio of two weighted sums of columns, with its interval."""
        value = float(self.sums @ top / (self.sums @ under))
        if self.drawn is None:
            return value, None, None
        low, high = np.quantile(self.drawn @ top / (self.drawn @ under), [doubt / 2, 1 - doubt / 2])
        return value, float(low), float(high)


def _figures(ratios: _Ratios, number: int) -> dict[str, Figure]:
    """What has an interval, of one tokenizer; the changes are against the first."""
    of_ids, of_seconds = np.eye(ratios.sums.size)[:2]
    tokens, unigram, plain, bigram = ratios.columns_of(number)
    _, unigram_before, _, bigram_before = ratios.columns_of(0)
    shared = DOUBT / max(1, ratios.tokenizers - 1)
    return {
        "tokens_per_second": ratios.of(tokens, of_seconds),
        "compression_ratio": ratios.of(of_ids, tokens),
        "bits_per_second": ratios.of(unigram, of_seconds),
        "bits_per_second_bigram": ratios.of(bigram, of_seconds),
        "bits_per_second_plain": ratios.of(plain, of_seconds),
        "bits_per_second_change": ratios.of(unigram - unigram_before, of_seconds, shared),
        "bits_per_second_bigram_change": ratios.of(bigram - bigram_before, of_seconds, shared),
    }


def _measure(way: BpeTokenizer, train: TokenStream, judged: TokenStream) -> _Measured:
    fitted, tokens = (encoded(way, part) for part in (train, judged))
    model = fit_unigram(fitted, entries_by_phase(way))
    plain = fit_unigram(fitted.without_phases(), np.ones((1, way.vocabulary_size), bool))
    bigram = fit_bigram(fitted, model)
    columns = (
        np.diff(tokens.offsets).astype(float),
        model.utterance_bits(tokens),
        plain.utterance_bits(tokens.without_phases()),
        bigram.utterance_bits(tokens),
    )
    return _Measured(columns, np.unique(tokens.ids).size, model.smoothing, bigram.discount)


def entries_by_phase(way: BpeTokenizer) -> np.ndarray:
    """(ids per frame, vocabulary), bool: the entries whose first symbol is from the block of that position; run lengths
    stand where a frame begins."""
    firsts, _ = way.shapes()
    possible: np.ndarray = firsts // way.layout.geometry.codebook_size == way.layout.blocks[:, None]
    is_run = firsts >= way.layout.alphabet_size
    possible[:, is_run] = False
    possible[0, is_run] = True
    return possible


def encoded(way: BpeTokenizer, part: TokenStream) -> Tokens:
    """The utterances as entries of the vocabulary, with the position in the coarse frame at which each begins."""
    ids, offsets = way.encode(*flat_ids(way.layout, part))
    _, lengths = way.shapes()
    return Tokens(ids, (np.cumsum(lengths[ids]) - lengths[ids]) % len(way.layout.slots), offsets)
