"""Speech to learn from and speech to judge on: whole utterances, drawn before any but the coarsest codes are read.

In: `TokenParts` (or a `TokenStream`). Out: `Speech`. What is drawn depends on the utterances and the seed alone, not on
how the codes are spread over parts. Memory: that of what is drawn, and a list of the utterances.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from snac_pipeline.errors import PipelineError
from snac_pipeline.tokens.stream import TokenParts, TokenStream

OWN_TENTH = 10  # without a split, every tenth utterance is held out


@dataclass(frozen=True)
class Speech:
    """What merges are learned and models fitted on, what they are judged on, and the name of that in words."""

    train: TokenStream
    judged: TokenStream
    held_out: str


def draw_speech(
    source: TokenParts | TokenStream,
    frames: int,
    rng: np.random.Generator,
    *,
    train_split: str = "train",
    held_out: str = "val",
) -> Speech:
    """Of either split, whole utterances in random order until `frames` coarse frames are reached. Where there is one
    split alone, every tenth utterance is held out. PipelineError: no tokens in one of the splits, a single utterance.
    """
    listed = source.utterances.select("digest", "corpus", "split").with_columns(frames=source.lengths)
    spoken = listed.with_row_index("at").filter(pl.col("frames") > 0).sort("split", "corpus", "digest")
    if listed["split"].n_unique() == 1 and len(spoken) > 1:
        tenth = pl.int_range(pl.len()) % OWN_TENTH == 1
        name = "every tenth utterance, because there is one split alone; speakers may be on both sides"
        train, judged = spoken.filter(~tenth), spoken.filter(tenth)
    else:
        name = f"the split {held_out}"
        train, judged = (_of_split(spoken, split) for split in (train_split, held_out))
    return Speech(source.take(_drawn(train, frames, rng)), source.take(_drawn(judged, frames, rng)), name)


def _of_split(spoken: pl.DataFrame, split: str) -> pl.DataFrame:
    rows = spoken.filter(pl.col("split") == split)
    if rows.is_empty():
        raise PipelineError(
            f"split {split!r} has no tokens, and BPE is trained on one split and judged on another; "
            f"there are {len(spoken)} utterances with tokens"
        )
    return rows


def _drawn(rows: pl.DataFrame, frames: int, rng: np.random.Generator) -> np.ndarray:
    """Where those that are drawn lie in the source, increasing."""
    order = rng.permutation(len(rows))
    reached = np.cumsum(rows["frames"].to_numpy()[order])
    return np.sort(rows["at"].to_numpy()[order[: np.searchsorted(reached, frames) + 1]]).astype(np.int64)
