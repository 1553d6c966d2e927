"""BPE over codec tokens: train a sweep of numbers of merges, judge each on held-out speech.

In: a `TokenStream` with a train and a held-out split. Out: a `BpeReport`: tokenizers, a table of held-out figures, what
it cost, and a recommendation computed from the table (recommendation.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from snac_pipeline.errors import PipelineError
from snac_pipeline.tokens.bpe_tokenizer import BpeTokenizer, Within, learn_merges
from snac_pipeline.tokens.cost import Cost, costing
from snac_pipeline.tokens.heldout import Tokens, fit_bigram, fit_unigram, resampled_sums
from snac_pipeline.tokens.layouts import Layout, make_layout
from snac_pipeline.tokens.merging import ENGINES
from snac_pipeline.tokens.recommendation import Recommendation, recommend
from snac_pipeline.tokens.stream import TokenStream

DEFAULT_MERGES = (1000, 2000, 4000, 8000, 16_000, 32_000)
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
OWN_TENTH = 10  # without a split, every tenth utterance is held out

Figure = tuple[float, float | None, float | None]  # value, low, high


@dataclass(frozen=True)
class BpeReport:
    """What BPE did to held-out speech. Costs differ from run to run, and therefore are not in the table.

    tokenizer: all merges that were learned; `tokenizer.first(n)` has fewer. encoding: of `encoded_ids` ids of held-out
    speech with all merges. held_out: in words, what was judged on.
    """

    tokenizer: BpeTokenizer
    table: pl.DataFrame
    recommendation: Recommendation
    training: Cost
    encoding: Cost
    encoded_ids: int
    held_out: str

    def to_table(self) -> pl.DataFrame:
        """(layout, engine, within, run_length, merges, statistic, value, low, high), see `train_bpe`."""
        return self.table

    @property
    def sweep(self) -> list[int]:
        """The numbers of merges that were judged."""
        own = self.table.filter(pl.col("run_length") == self.tokenizer.run_length)
        return sorted(own["merges"].unique())

    def value(self, statistic: str, merges: int | None = None) -> float:
        """One figure, at `merges` (default: all that were learned)."""
        merges = self.tokenizer.merges if merges is None else merges
        own = (pl.col("merges") == merges) & (pl.col("run_length") == self.tokenizer.run_length)
        return self.table.filter((pl.col("statistic") == statistic) & own)["value"].item()

    def encoded_ids_per_second(self) -> float:
        return self.encoded_ids / max(self.encoding.seconds, 1e-9)


def train_bpe(
    stream: TokenStream,
    *,
    layout: str = "frame",
    merges: int | Sequence[int] = DEFAULT_MERGES,
    sample_tokens: int = 20_000_000,
    engine: str = "sentencepiece",
    within: Within = "utterance",
    run_length: bool = False,
    train_split: str = "train",
    held_out: str = "val",
    smallest_gain: float = 0.01,
    resamples: int = 1000,
    seed: int = 0,
) -> BpeReport:
    """Learn up to the largest of `merges` on top of the layout's full alphabet, and judge each number of merges on the
    split `held_out`. A stream of one split alone is divided: every tenth utterance is held out.

    Whole utterances are drawn at random until `sample_tokens` ids are there; merges are learned and models fitted on
    those of `train_split`, and judged on as many of `held_out`. Smaller numbers of merges are the first of the largest.

    Rows of the table for 0 merges, each of `merges` and, with `run_length`, for ids as they are (fewer merges than
    asked when pairs that occur twice run out):

    merges_asked, train_tokens, held_out_seconds, vocabulary_size
    tokens, tokens_per_second           held-out tokens after merging, and per second of audio
    compression_ratio                   held-out ids / tokens
    bits_per_second                     unigram given the position in the frame, see `heldout.fit_unigram`
    bits_per_second_bigram              given the token before as well, see `heldout.BigramModel`
    bits_per_second_plain               unigram without the position: flatters BPE, to compare with others' figures
    bits_per_second_change, bits_per_second_bigram_change
                                        against ids as they are, paired over utterances
    vocabulary_used                     entries that occur in the held-out tokens
    smoothing, discount                 constants of the models

    low and high are 95 % bootstrap intervals over held-out utterances (none for a single one); those of the two changes
    hold for the sweep as a whole (Bonferroni), because the best of it is recommended.

    PipelineError: no tokens in one of the splits, a single utterance, an unknown engine, numbers below 0.
    """
    flat = make_layout(layout, stream.geometry, offset=0)
    rng = np.random.default_rng(seed)
    asked = sorted({0, merges} if isinstance(merges, int) else {0, *merges})
    if asked[0] < 0 or sample_tokens < 1 or resamples < 1:
        raise PipelineError("merges must be 0 or more, sample_tokens and resamples 1 or more")
    if engine not in ENGINES:
        raise PipelineError(f"there is no BPE engine {engine!r}; choose one of {', '.join(ENGINES)}")
    learned_from, judged_on, held_out_words = _sides(stream, train_split, held_out)
    train, judged = (_sample(part, sample_tokens, len(flat.slots), rng) for part in (learned_from, judged_on))
    tokenizer, training = costing(
        lambda: learn_merges(flat, *_flat(flat, train), asked[-1], engine=engine, within=within, run_length=run_length)
    )
    _, encoding = costing(lambda: tokenizer.encode(*_flat(flat, judged)))
    table = _judge(tokenizer, train, judged, asked, resamples, rng)
    names = {"layout": layout, "engine": engine, "within": within}
    table = table.with_columns(**{name: pl.lit(value) for name, value in names.items()}).select(*SCHEMA)
    advice = recommend(table, asked[-1], smallest_gain)
    return BpeReport(tokenizer, table, advice, training, encoding, judged.frames * len(flat.slots), held_out_words)


def _sides(stream: TokenStream, train_split: str, held_out: str) -> tuple[TokenStream, TokenStream, str]:
    """What to learn from, what to judge on, and the name of that; without utterances of no coarse frame."""
    spoken = stream.take(np.flatnonzero(np.diff(stream.offsets)))
    if len(stream.splits) == 1 and len(spoken.utterances) > 1:
        tenth = np.arange(len(spoken.utterances)) % OWN_TENTH == 1
        name = "every tenth utterance, because there is one split alone; speakers may be on both sides"
        return spoken.take(np.flatnonzero(~tenth)), spoken.take(np.flatnonzero(tenth)), name
    for split in (train_split, held_out):
        if spoken.split(split).frames == 0:
            raise PipelineError(
                f"split {split!r} has no tokens, and BPE is trained on one split and judged on another; "
                f"there are {len(spoken.utterances)} utterances with tokens"
            )
    return spoken.split(train_split), spoken.split(held_out), f"the split {held_out}"


def _sample(part: TokenStream, tokens: int, ids_per_frame: int, rng: np.random.Generator) -> TokenStream:
    """Whole utterances in random order until `tokens` ids are reached, back in stream order."""
    order = rng.permutation(len(part.utterances))
    reached = np.cumsum(np.diff(part.offsets)[order]) * ids_per_frame
    return part.take(np.sort(order[: np.searchsorted(reached, tokens) + 1]))


def _flat(layout: Layout, part: TokenStream) -> tuple[np.ndarray, np.ndarray]:
    return layout.flatten(part.codes), part.offsets * len(layout.slots)


def _judge(
    bpe: BpeTokenizer,
    train: TokenStream,
    judged: TokenStream,
    asked: list[int],
    resamples: int,
    rng: np.random.Generator,
) -> pl.DataFrame:
    """The table of `train_bpe`, less the columns that are the same in every row."""
    layout, slots = bpe.layout, len(bpe.layout.slots)
    as_they_are = BpeTokenizer(layout, False, ())
    ways = [bpe.first(merges) for merges in sorted({min(merges, bpe.merges) for merges in asked})]
    if bpe.run_length:
        ways.insert(0, as_they_are)
    measured = [_measure(way, train, judged) for way in ways]
    ids = np.diff(judged.offsets) * float(slots)
    seconds = np.diff(judged.offsets) * judged.geometry.frame_seconds
    per_utterance = np.column_stack([ids, seconds, *(column for way in measured for column in way.columns)])
    sums, drawn = per_utterance.sum(0), resampled_sums(per_utterance, rng, resamples)
    width, rows = len(MEASURED), []

    def ratio(top: np.ndarray, under: np.ndarray, doubt: float = DOUBT) -> Figure:
        """Of weighted sums of columns."""
        if drawn is None:
            return float(sums @ top / (sums @ under)), None, None
        low, high = np.quantile(drawn @ top / (drawn @ under), [doubt / 2, 1 - doubt / 2])
        return float(sums @ top / (sums @ under)), float(low), float(high)

    unit = np.eye(len(sums))
    of_ids, of_seconds = unit[0], unit[1]
    for number, (way, found) in enumerate(zip(ways, measured, strict=True)):
        after, unigram, plain, bigram = unit[2 + number * width :][:width]
        _, unigram_before, _, bigram_before = unit[2:][:width]
        shared = DOUBT / max(1, len(ways) - 1)
        sure = {
            "merges_asked": asked[-1],
            "train_tokens": train.frames * slots,
            "held_out_seconds": judged.seconds,
            "vocabulary_size": way.vocabulary_size,
            "vocabulary_used": found.vocabulary_used,
            "tokens": sums @ after,
            "smoothing": found.smoothing,
            "discount": found.discount,
        }
        figures: dict[str, Figure] = {name: (float(value), None, None) for name, value in sure.items()} | {
            "tokens_per_second": ratio(after, of_seconds),
            "compression_ratio": ratio(of_ids, after),
            "bits_per_second": ratio(unigram, of_seconds),
            "bits_per_second_bigram": ratio(bigram, of_seconds),
            "bits_per_second_plain": ratio(plain, of_seconds),
            "bits_per_second_change": ratio(unigram - unigram_before, of_seconds, shared),
            "bits_per_second_bigram_change": ratio(bigram - bigram_before, of_seconds, shared),
        }
        rows += [(way.run_length, way.merges, name, *figure) for name, figure in figures.items()]
    schema = {name: SCHEMA[name] for name in ("run_length", "merges", "statistic", "value", "low", "high")}
    return pl.DataFrame(rows, schema=schema, orient="row")


MEASURED = ("tokens", "unigram bits", "plain unigram bits", "bigram bits")


@dataclass(frozen=True)
class _Measured:
    """One tokenizer on the held-out speech. columns: `MEASURED` of each utterance."""

    columns: tuple[np.ndarray, ...]
    vocabulary_used: int
    smoothing: float
    discount: float


def _measure(way: BpeTokenizer, train: TokenStream, judged: TokenStream) -> _Measured:
    fitted, tokens = (_encode(way, part) for part in (train, judged))
    model = fit_unigram(fitted, _starts_at(way))
    plain = fit_unigram(fitted.without_phases(), np.ones((1, way.vocabulary_size), bool))
    bigram = fit_bigram(fitted, model)
    columns = (
        np.diff(tokens.offsets).astype(float),
        model.utterance_bits(tokens),
        plain.utterance_bits(tokens.without_phases()),
        bigram.utterance_bits(tokens),
    )
    return _Measured(columns, np.unique(tokens.ids).size, model.smoothing, bigram.discount)


def _starts_at(way: BpeTokenizer) -> np.ndarray:
    """(ids per frame, vocabulary), bool: the entries whose first symbol is from the block of that position; run lengths
    stand where a frame begins."""
    firsts, _ = way.shapes()
    possible = firsts // way.layout.geometry.codebook_size == way.layout.blocks[:, None]
    is_run = firsts >= way.layout.alphabet_size
    possible[:, is_run] = False
    possible[0, is_run] = True
    return possible


def _encode(way: BpeTokenizer, part: TokenStream) -> Tokens:
    ids, offsets = way.encode(*_flat(way.layout, part))
    _, lengths = way.shapes()
    return Tokens(ids, (np.cumsum(lengths[ids]) - lengths[ids]) % len(way.layout.slots), offsets)
