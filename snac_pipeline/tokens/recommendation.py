"""Whether to use BPE, computed from held-out bits per second: which layout and number of merges, by how much, and why.

In: the table of one layout, then what was recommended in each and how they compare. Out: a `Recommendation`, which is
no number of merges or one, and says so in words.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl


@dataclass(frozen=True)
class Recommendation:
    """Which layout. merges: how many to use, 0 for none. best: those with the fewest bits per second under the unigram
    model, whether recommended or not. run_length: whether to use run lengths. `text` says why."""

    layout: str
    merges: int
    best: int
    run_length: bool
    text: str


def recommend(table: pl.DataFrame, asked: int, smallest_gain: float) -> Recommendation:
    """Of one layout. Use BPE only where held-out bits per second fall under the unigram model by more than
    `smallest_gain` (a second vocabulary to carry about has to be worth something), and do not rise by as much under the
    bigram model (or what was gained is only what any model with a context knows, and a larger vocabulary has cost more
    than that). Both over the whole interval. Among several, the one with the fewest bits under the unigram model.
    """
    ways = [_Way.of(rows) for _, rows in table.group_by("run_length", "merges", maintain_order=True)]
    plain, others = ways[0], ways[1:]
    learned = max(way.merges for way in ways)
    layout, within = table["layout"][0], table["within"][0]
    if not others:
        where = {"utterance": "", "frame": " within a coarse frame", "level": " side by side within a level"}[within]
        why = "none was asked for" if asked == 0 else f"no pair of ids occurs twice{where} in the train sample"
        return Recommendation(layout, 0, 0, False, f"do not use BPE: nothing was merged, {why}.")
    if plain.unigram == 0:
        text = "do not use BPE: the held-out tokens carry no bits at all, there is nothing to save."
        return Recommendation(layout, 0, 0, False, text)
    best = min(others, key=lambda way: way.unigram)
    if best.change[1] is None:
        text = f"do not use BPE: {learned} merges were learned, but one held-out utterance is no evidence."
        return Recommendation(layout, 0, best.merges, False, text)
    worth = [way for way in others if way.saves(plain, smallest_gain) and way.harmless(plain, smallest_gain)]
    chosen = min(worth, key=lambda way: way.unigram) if worth else None
    few = f" ({asked} were asked for)" if learned < asked else ""
    text = _words(plain, chosen or best, chosen is not None, few if (chosen or best).merges == learned else "")
    text += " " + _why(plain, chosen or best, chosen is not None, smallest_gain)
    return Recommendation(layout, chosen.merges if chosen else 0, best.merges, bool(chosen and chosen.run_length), text)


def recommend_layout(
    advised: Sequence[Recommendation], before: float, changes: pl.DataFrame, smallest_gain: float
) -> Recommendation:
    """Of several layouts. The first, unless what is best in another costs fewer bits per second under the bigram model,
    by more than `smallest_gain` over the whole interval; among several, the one with the fewest. The bigram model,
    because the unigram model knows the position in the frame: to it, the same codes in another order are the same.

    advised: of each layout alone. before: bits per second of what is best in the first; changes: rows (layout, value,
    low, high) of how others that can be compared with it differ from that.
    """
    first = advised[0]
    if len(advised) == 1:
        return first
    rows = changes.sort("value").to_dicts()
    better = [row for row in rows if row["high"] is not None and row["high"] < -smallest_gain * before]
    chosen = next(one for one in advised if one.layout == (better[0]["layout"] if better else first.layout))
    way = "without BPE" if not chosen.merges else f"with {chosen.merges} merges"
    told = [f"use the layout {chosen.layout} {way}.", *(_layout_words(row, before, first.layout) for row in rows)]
    if rows and not better:
        told.append(f"Worth another layout is a fall of more than {smallest_gain:.1%} over the whole interval.")
    if alone := [one.layout for one in advised[1:] if one.layout not in changes["layout"]]:
        told.append(f"{' and '.join(alone)}: not of the same levels as {first.layout}, so bits cannot be compared.")
    told += [f"In {one.layout}: {one.text}" for one in advised]
    return Recommendation(chosen.layout, chosen.merges, chosen.best, chosen.run_length, "\n".join(told))


@dataclass(frozen=True)
class _Way:
    """Held-out figures of one number of merges; changes are (value, low, high) in bits per second."""

    run_length: bool
    merges: int
    ratio: float
    unigram: float
    bigram: float
    change: tuple[float, float, float]
    bigram_change: tuple[float, float, float]

    @staticmethod
    def of(rows: pl.DataFrame) -> "_Way":
        at: dict[str, dict[str, Any]] = {row["statistic"]: row for row in rows.iter_rows(named=True)}
        changes = [
            tuple(at[name][end] for end in ("value", "low", "high"))
            for name in ("bits_per_second_change", "bits_per_second_bigram_change")
        ]
        values = [at[name]["value"] for name in ("compression_ratio", "bits_per_second", "bits_per_second_bigram")]
        return _Way(rows["run_length"][0], rows["merges"][0], *values, *changes)

    def saves(self, plain: "_Way", smallest_gain: float) -> bool:
        return self.change[2] < -smallest_gain * plain.unigram

    def harmless(self, plain: "_Way", smallest_gain: float) -> bool:
        return self.bigram_change[2] < smallest_gain * plain.bigram

    @property
    def name(self) -> str:
        if not self.merges:
            return "run lengths alone"
        return f"{self.merges} merges" + (" after run lengths" if self.run_length else "")


def _words(plain: _Way, way: _Way, use: bool, few: str) -> str:
    verdict = "do not use BPE" if not use or not way.merges else "use BPE"
    relative, low, high = (end / plain.unigram for end in way.change)
    return (
        f"{verdict}: with {way.name}{few} held-out bits per second go from {plain.unigram:.1f} to {way.unigram:.1f} "
        f"({relative:+.2%}; 95 % interval {low:+.2%} to {high:+.2%}) under a unigram model and from {plain.bigram:.1f} "
        f"to {way.bigram:.1f} ({_relative(way.bigram_change[0], plain.bigram):+.2%}) under a bigram model; sequences "
        f"get {way.ratio:.3f} times shorter."
    )


def _why(plain: _Way, way: _Way, use: bool, smallest_gain: float) -> str:
    if use and way.merges:
        return (
            "Why: merged tokens say in one what took several, and a model that sees the token before loses less than "
            f"{smallest_gain:.1%}."
        )
    if use:
        return "Why: repeated frames are worth run lengths; merges on top save no more bits."
    if way.saves(plain, smallest_gain):
        return (
            f"Why not: a model that sees the token before gets to {plain.bigram:.1f} without any merge, and with them "
            f"may lose {smallest_gain:.1%} or more: the larger vocabulary costs more than its pairs save."
        )
    if way.change[0] >= 0:
        return "Why not: tokens next to each other tell too little about each other; merging them saves no bits."
    return (
        "Why not: tokens next to each other tell little about each other; worth a second vocabulary is a fall of more "
        f"than {smallest_gain:.1%} over the whole interval."
    )


def _layout_words(row: dict[str, Any], before: float, first: str) -> str:
    value, low, high = (None if row[end] is None else _relative(row[end], before) for end in ("value", "low", "high"))
    sure = "" if low is None else f" (95 % interval {low:+.2%} to {high:+.2%})"
    return f"Best in {row['layout']} against best in {first}: {value:+.2%} bits per second under a bigram model{sure}."


def _relative(change: float, before: float) -> float:
    return change / before if before else 0.0
