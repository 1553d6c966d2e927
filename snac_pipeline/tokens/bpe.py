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
from snac_pipeline.tokens.judging import SCHEMA, flat_ids, judge
from snac_pipeline.tokens.layouts import make_layout
from snac_pipeline.tokens.merging import ENGINES
from snac_pipeline.tokens.recommendation import Recommendation, recommend
from snac_pipeline.tokens.stream import TokenStream

DEFAULT_MERGES = (1000, 2000, 4000, 8000, 16_000, 32_000)
OWN_TENTH = 10  # without a split, every tenth utterance is held out


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
        lambda: learn_merges(
            flat, *flat_ids(flat, train), asked[-1], engine=engine, within=within, run_length=run_length
        )
    )
    _, encoding = costing(lambda: tokenizer.encode(*flat_ids(flat, judged)))
    table = judge(tokenizer, train, judged, asked, resamples, rng)
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
