"""BPE over codec tokens: train, judge on held-out speech, say whether it is worth having.

In: a `TokenStream` with a train and a held-out split. Out: a stock `tokenizer.json` that holds every id of the layout,
the mapping id <-> character beside it, a table of held-out figures and a computed recommendation.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from snac_pipeline.errors import PipelineError
from snac_pipeline.files import atomic_file, write_json, write_parquet, write_text
from snac_pipeline.tokens.bpe_tokenizer import BpeTokenizer, learn_merges
from snac_pipeline.tokens.heldout import Tokens, bootstrap_interval, fit_unigram
from snac_pipeline.tokens.layouts import make_layout
from snac_pipeline.tokens.stream import TokenStream

SCHEMA = {
    "layout": pl.String,
    "merges": pl.Int64,
    "statistic": pl.String,
    "value": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
}
Figure = tuple[float, float | None, float | None]  # value, low, high


@dataclass(frozen=True)
class BpeReport:
    """What BPE did to held-out speech. `training_seconds` is wall time, and therefore not in the table."""

    tokenizer: BpeTokenizer
    table: pl.DataFrame
    recommendation: str
    training_seconds: float

    def to_table(self) -> pl.DataFrame:
        """(layout, merges, statistic, value, low, high): held-out figures with 95 % intervals, see `train_bpe`."""
        return self.table

    def value(self, statistic: str, merges: int | None = None) -> float:
        """One figure, at `merges` (default: all that were learned)."""
        merges = self.tokenizer.merges if merges is None else merges
        return self.table.filter((pl.col("statistic") == statistic) & (pl.col("merges") == merges))["value"].item()


def train_bpe(
    stream: TokenStream,
    *,
    layout: str = "frame",
    merges: int = 2000,
    sample_tokens: int = 20_000_000,
    train_split: str = "train",
    held_out: str = "val",
    smallest_gain: float = 0.01,
    resamples: int = 1000,
    seed: int = 0,
) -> BpeReport:
    """Learn up to `merges` merges on top of the layout's full alphabet, and judge them on the split `held_out`.

    Whole utterances of `train_split` are drawn at random until `sample_tokens` ids are there; merges are learned and
    unigram models fitted on them.

    Rows of the table for 0 merges and for those learned (fewer than asked when pairs that occur twice run out):

    merges_asked, train_tokens, held_out_seconds, vocabulary_size
    tokens, tokens_per_second           held-out tokens after merging, and per second of audio
    compression_ratio                   held-out tokens before / after
    bits_per_second                     unigram given the position in the frame, see `heldout.fit_unigram`: decides
    bits_per_second_plain               unigram without it: flatters BPE, for comparison with others' figures
    bits_per_second_change              of bits_per_second against 0 merges, paired over utterances
    vocabulary_used                     entries that occur in the held-out tokens
    smoothing                           the additive constant chosen

    low and high are 95 % bootstrap intervals over held-out utterances (none for a single one). BPE is recommended where
    the whole interval of bits_per_second_change lies below -`smallest_gain` of the bits per second without it: a second
    vocabulary to carry about has to be worth something. PipelineError: no tokens in one of the splits.
    """
    flat = make_layout(layout, stream.geometry, offset=0)
    rng = np.random.default_rng(seed)
    if merges < 0 or sample_tokens < 1 or resamples < 1:
        raise PipelineError("merges must be 0 or more, sample_tokens and resamples 1 or more")
    for split in (train_split, held_out):
        if stream.split(split).frames == 0:
            raise PipelineError(f"split {split!r} has no tokens, and BPE is trained on one split and judged on another")
    train = _sample(stream.split(train_split), sample_tokens, len(flat.slots), rng)
    judged = _spoken(stream.split(held_out))
    began = time.monotonic()
    tokenizer = learn_merges(flat, flat.flatten(train.codes), train.offsets * len(flat.slots), merges)
    training_seconds = time.monotonic() - began
    table = _judge(tokenizer, train, judged, merges, resamples, rng)
    return BpeReport(tokenizer, table, recommend(table, merges, smallest_gain), training_seconds)


def _sample(train: TokenStream, tokens: int, ids_per_frame: int, rng: np.random.Generator) -> TokenStream:
    """Whole utterances in random order until `tokens` ids are reached, back in stream order."""
    order = rng.permutation(len(train.utterances))
    reached = np.cumsum(np.diff(train.offsets)[order]) * ids_per_frame
    return train.take(np.sort(order[: np.searchsorted(reached, tokens) + 1]))


def _spoken(part: TokenStream) -> TokenStream:
    """Without utterances of no coarse frame, which have no ratio."""
    return part.take(np.flatnonzero(np.diff(part.offsets)))


def _judge(
    bpe: BpeTokenizer, train: TokenStream, judged: TokenStream, asked: int, resamples: int, rng: np.random.Generator
) -> pl.DataFrame:
    """The table of `train_bpe`."""
    frames, slots = np.diff(judged.offsets), len(bpe.layout.slots)
    seconds = frames * judged.geometry.frame_seconds
    rows, base_bits = [], np.zeros(0)

    def sure(value: float) -> Figure:
        return float(value), None, None

    def ratio(top: np.ndarray, under: np.ndarray) -> Figure:
        interval = bootstrap_interval(lambda drawn: top[drawn].sum() / under[drawn].sum(), top.size, rng, resamples)
        return float(top.sum() / under.sum()), *interval

    for merges in sorted({0, bpe.merges}):
        fitted, tokens = (_encode(bpe, merges, part) for part in (train, judged))
        model = fit_unigram(fitted, _starts_at(bpe, merges))
        plain = fit_unigram(fitted.without_phases(), np.ones((1, bpe.alphabet.size + merges), bool))
        bits, after = model.utterance_bits(tokens), np.diff(tokens.offsets)
        base_bits = bits if merges == 0 else base_bits
        figures = {
            "merges_asked": sure(asked),
            "train_tokens": sure(train.frames * slots),
            "held_out_seconds": sure(judged.seconds),
            "vocabulary_size": sure(bpe.alphabet.size + merges),
            "vocabulary_used": sure(np.unique(tokens.ids).size),
            "tokens": sure(tokens.ids.size),
            "smoothing": sure(model.smoothing),
            "tokens_per_second": ratio(after, seconds),
            "compression_ratio": ratio(frames * slots, after),
            "bits_per_second": ratio(bits, seconds),
            "bits_per_second_plain": ratio(plain.utterance_bits(tokens.without_phases()), seconds),
            "bits_per_second_change": ratio(bits - base_bits, seconds),
        }
        rows += [(bpe.layout.name, merges, name, *figure) for name, figure in figures.items()]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def _entries(bpe: BpeTokenizer, merges: int) -> tuple[np.ndarray, np.ndarray]:
    """First symbol and length of each vocabulary entry, with all merges learned or, at 0, none of them."""
    return bpe.entries() if merges else (np.arange(bpe.alphabet.size), np.ones(bpe.alphabet.size, np.int64))


def _starts_at(bpe: BpeTokenizer, merges: int) -> np.ndarray:
    """(ids per frame, vocabulary), bool: the entries whose first symbol is from the block of that position."""
    first, _ = _entries(bpe, merges)
    return first // bpe.layout.geometry.codebook_size == bpe.layout.blocks[:, None]


def _encode(bpe: BpeTokenizer, merges: int, part: TokenStream) -> Tokens:
    slots = len(bpe.layout.slots)
    ids, offsets = bpe.layout.flatten(part.codes).astype(np.int64), part.offsets * slots
    if merges:
        ids, offsets = bpe.encode(ids, offsets)
    _, lengths = _entries(bpe, merges)
    return Tokens(ids, (np.cumsum(lengths[ids]) - lengths[ids]) % slots, offsets)


def recommend(table: pl.DataFrame, asked: int, smallest_gain: float) -> str:
    """One sentence: use BPE only where held-out bits per second fall, by more than `smallest_gain` and beyond doubt."""
    learned = table["merges"].max()
    if learned == 0:
        why = "none was asked for" if asked == 0 else "no pair of ids occurs twice in the train sample"
        return f"do not use BPE: nothing was merged, {why}."
    at = {(row["merges"], row["statistic"]): row for row in table.iter_rows(named=True)}
    before, after = (at[merges, "bits_per_second"]["value"] for merges in (0, learned))
    change, ratio = at[learned, "bits_per_second_change"], at[learned, "compression_ratio"]["value"]
    if change["high"] is None:
        return f"do not use BPE: {learned} merges were learned, but one held-out utterance is no evidence."
    few = f" ({asked} were asked for)" if learned < asked else ""
    relative, low, high = (change[end] / before for end in ("value", "low", "high"))
    verdict = "use BPE" if high < -smallest_gain else "do not use BPE"
    return (
        f"{verdict}: with {learned} merges{few} held-out bits per second go from {before:.1f} to {after:.1f} "
        f"({relative:+.2%}; 95 % interval {low:+.2%} to {high:+.2%}), "
        f"sequences get {ratio:.3f} times shorter; "
        f"worth it would be a fall of more than {smallest_gain:.1%} over the whole interval."
    )


def write_bpe(folder: Path, report: BpeReport) -> list[Path]:
    """Write `tokenizer.json` (stock: `tokenizers.Tokenizer.from_file` needs nothing else), `alphabet.json` (the mapping
    id <-> character and the layout), `bpe.parquet` (the table) and `recommendation.txt`; returns the paths."""
    folder, bpe = Path(folder), report.tokenizer
    paths = [folder / name for name in ("tokenizer.json", "alphabet.json", "bpe.parquet", "recommendation.txt")]
    with atomic_file(paths[0]) as temporary:
        bpe.tokenizer.save(str(temporary), pretty=False)
    note = "tokenizer ids below size are symbols, the others merges; symbol = id of the layout - its offset"
    write_json(paths[1], {"alphabet": {**bpe.alphabet.describe(), "note": note}, "layout": bpe.layout.describe()})
    write_parquet(paths[2], report.table.to_arrow(compat_level=pl.CompatLevel.oldest()))
    write_text(paths[3], report.recommendation + "\n")
    return paths
