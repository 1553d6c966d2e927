"""BPE over codec tokens: in several layouts, train a sweep of numbers of merges, and judge each on held-out speech.

In: `TokenParts` (or a `TokenStream`) with a train and a held-out split. Out: a `BpeSweep`, which has for every layout a
`BpeReport` (a tokenizer, a table of held-out figures, what it cost, and what is best), and one recommendation computed
from all (recommendation.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from snac_pipeline.errors import PipelineError
from snac_pipeline.tokens.bpe_tokenizer import BpeTokenizer, Within, check_within, learn_merges
from snac_pipeline.tokens.cost import Cost, costing
from snac_pipeline.tokens.judging import DOUBT, SCHEMA, Judged, bigram_difference, flat_ids, judge
from snac_pipeline.tokens.layouts import Layout, make_layout
from snac_pipeline.tokens.merging import ENGINES
from snac_pipeline.tokens.recommendation import Recommendation, recommend, recommend_layout
from snac_pipeline.tokens.sampling import Speech, draw_speech
from snac_pipeline.tokens.stream import TokenParts, TokenStream

DEFAULT_MERGES = (1000, 2000, 4000, 8000, 16_000, 32_000)
LAYOUT_CHANGE = "bits_per_second_bigram_layout_change"


@dataclass(frozen=True)
class BpeReport:
    """What BPE did to held-out speech in one layout. Costs differ from run to run, and therefore are not in the table.

    tokenizer: all merges that were learned; `tokenizer.first(n)` has fewer. recommendation: of this layout alone.
    encoding: of `encoded_ids` ids of held-out speech with all merges. held_out: in words, what was judged on.
    """

    tokenizer: BpeTokenizer
    table: pl.DataFrame
    recommendation: Recommendation
    training: Cost
    encoding: Cost
    encoded_ids: int
    held_out: str

    @property
    def layout(self) -> Layout:
        return self.tokenizer.layout

    @property
    def sweep(self) -> list[int]:
        """The numbers of merges that were judged."""
        own = self.table.filter(pl.col("run_length") == self.tokenizer.run_length)
        return sorted(own["merges"].unique())

    def value(self, statistic: str, merges: int | None = None) -> float:
        """One figure, at `merges` (default: all that were learned)."""
        merges = self.tokenizer.merges if merges is None else merges
        return self._value(statistic, merges, self.tokenizer.run_length)

    def advised(self, statistic: str) -> float:
        """One figure, of what is recommended."""
        return self._value(statistic, self.recommendation.merges, self.recommendation.run_length)

    def _value(self, statistic: str, merges: int, run_length: bool) -> float:
        figure: float = self.table.filter(statistic=statistic, merges=merges, run_length=run_length)["value"].item()
        return figure

    def encoded_ids_per_second(self) -> float:
        return self.encoded_ids / max(self.encoding.seconds, 1e-9)


@dataclass(frozen=True)
class BpeSweep:
    """The same speech in every layout, in the order asked. recommendation: of all, which layout and how many merges."""

    reports: tuple[BpeReport, ...]
    table: pl.DataFrame
    recommendation: Recommendation

    def of(self, layout: str) -> BpeReport:
        [report] = [report for report in self.reports if report.layout.name == layout]
        return report

    @property
    def best(self) -> BpeReport:
        """That of the layout recommended."""
        return self.of(self.recommendation.layout)


def train_bpe(source: TokenParts | TokenStream, *, layout: str = "frame", **options: Any) -> BpeReport:
    """`sweep_layouts` of a single layout."""
    return sweep_layouts(source, layouts=[layout], **options).reports[0]


def sweep_layouts(
    source: TokenParts | TokenStream,
    *,
    layouts: Sequence[str],
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
) -> BpeSweep:
    """In each layout, learn up to the largest of `merges` on top of its full alphabet, and judge each number of merges
    on the split `held_out`. A source of one split alone is divided: every tenth utterance is held out.

    Whole utterances are drawn at random, the same for every layout, until the longest layout has `sample_tokens` ids;
    merges are learned and models fitted on those of `train_split`, and judged on as many of `held_out`. No other is
    kept in memory. Smaller numbers of merges are the first of the largest.

    Table: (layout, engine, within, run_length, merges, statistic, value, low, high), with rows of each layout for 0
    merges, each of `merges` and, with `run_length`, for ids as they are (fewer merges than asked when pairs that occur
    twice run out):

    merges_asked, train_tokens, held_out_seconds, vocabulary_size
    tokens, tokens_per_second           held-out tokens after merging, and per second of audio
    compression_ratio                   held-out ids / tokens
    bits_per_second                     unigram given the position in the frame, see `heldout.fit_unigram`
    bits_per_second_bigram              given the token before as well, see `heldout.BigramModel`
    bits_per_second_plain               unigram without the position: flatters BPE, to compare with others' figures
    bits_per_second_change, bits_per_second_bigram_change
                                        against ids as they are in the same layout, paired over utterances
    bits_per_second_bigram_layout_change
                                        of what is best in a layout against what is best in the first, paired too; only
                                        of layouts that keep as many levels: others say less, and cannot be compared
    vocabulary_used                     entries that occur in the held-out tokens
    smoothing, discount                 constants of the models

    low and high are 95 % bootstrap intervals over held-out utterances (none for a single one); those of the changes
    hold for the sweep as a whole (Bonferroni), because the best of it is recommended.

    PipelineError: no tokens in one of the splits, a single utterance, an unknown engine or layout, numbers below 0.
    """
    asked = sorted({0, merges} if isinstance(merges, int) else {0, *merges})
    if asked[0] < 0 or sample_tokens < 1 or resamples < 1:
        raise PipelineError("merges must be 0 or more, sample_tokens and resamples 1 or more")
    if engine not in ENGINES:
        raise PipelineError(f"there is no BPE engine {engine!r}; choose one of {', '.join(ENGINES)}")
    made = [make_layout(layout, source.geometry, offset=0) for layout in dict.fromkeys(layouts)]
    for layout in made:
        check_within(layout, within)
    frames = -(-sample_tokens // max(len(layout.slots) for layout in made))
    rng = np.random.default_rng(seed)
    speech = draw_speech(source, frames, rng, train_split=train_split, held_out=held_out)
    drawn_by = int(rng.integers(1 << 32))
    learning = {"engine": engine, "within": within, "run_length": run_length}
    found = [_learn_and_judge(layout, speech, asked, learning, smallest_gain, resamples, drawn_by) for layout in made]
    reports = tuple(report for report, _ in found)
    changes = _layout_changes(found)
    advised = [report.recommendation for report in reports]
    advice = recommend_layout(advised, reports[0].advised("bits_per_second_bigram"), changes, smallest_gain)
    return BpeSweep(reports, pl.concat([*(report.table for report in reports), changes]), advice)


def _learn_and_judge(
    layout: Layout,
    speech: Speech,
    asked: list[int],
    learning: dict[str, Any],
    smallest_gain: float,
    resamples: int,
    seed: int,
) -> tuple[BpeReport, Judged]:
    tokenizer, training = costing(lambda: learn_merges(layout, *flat_ids(layout, speech.train), asked[-1], **learning))
    _, encoding = costing(lambda: tokenizer.encode(*flat_ids(layout, speech.judged)))
    judged = judge(tokenizer, speech.train, speech.judged, asked, resamples, seed)
    names = {"layout": layout.name, "engine": learning["engine"], "within": learning["within"]}
    table = judged.table.with_columns(**{name: pl.lit(value) for name, value in names.items()}).select(*SCHEMA)
    advice = recommend(table, asked[-1], smallest_gain)
    encoded = speech.judged.frames * len(layout.slots)
    return BpeReport(tokenizer, table, advice, training, encoding, encoded, speech.held_out), judged


def _layout_changes(found: list[tuple[BpeReport, Judged]]) -> pl.DataFrame:
    """Rows of LAYOUT_CHANGE: what is best in each layout that says as much as the first, against that of the first."""
    (first, first_judged), *others = found
    compared = [(report, judged) for report, judged in others if report.layout.levels == first.layout.levels]
    rows = []
    for report, judged in compared:
        one, other = ((r.recommendation.run_length, r.recommendation.merges) for r in (report, first))
        change = bigram_difference(judged, one, first_judged, other, DOUBT / len(compared))
        rows.append((report.layout.name, *report.table.row(0)[1:3], *one, LAYOUT_CHANGE, *change))
    return pl.DataFrame(rows, SCHEMA, orient="row")
