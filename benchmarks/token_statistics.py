"""How fast token statistics are, reading included, and how much memory they take, at two sizes of a made corpus.

python benchmarks/token_statistics.py [--tokens 30000000] [--larger 3] [--json FILE]        prints a table

Parts as the code cache writes them, utterances of 5 s, codes of level 2 of the 24 kHz codec with few that are frequent
and many that are not. Each line in a process of its own, one thread: unigrams and bigrams of a level alone, and all
statistics of a level with their nulls. The larger corpus checks that time grows as tokens do, and memory does not. The
last line has the larger corpus as CORPORA corpora of three splits each: figures of each, and of all sums.
"""

import argparse
import json
import multiprocessing
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

from snac_pipeline.codec import CodecSpec
from snac_pipeline.codes.parts import cached_digests, write_part
from snac_pipeline.files import value_digest
from snac_pipeline.tokens import geometry_of, locate_tokens
from snac_pipeline.tokens.counting import ALL, by_group, count_level
from snac_pipeline.tokens.statistics import level_figures

SPEC = CodecSpec(
    sampling_rate=24000, encoder_dim=48, encoder_rates=(2, 4, 8, 8), decoder_dim=1024, decoder_rates=(8, 8, 4, 2),
    attn_window_size=None, vq_strides=(4, 2, 1),
)  # fmt: skip
LEVEL = 2
FRAMES, PART = 60, 2000
SPLITS = ("train",) * 18 + ("val", "test")
WHOLE = 1.4e9
"""Tokens of 4,700 hours, all levels."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=30_000_000, help="of the level that is counted")
    parser.add_argument("--larger", type=int, default=3, help="how many times as many the second time")
    parser.add_argument("--corpora", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    options = parser.parse_args()
    rows = []
    columns = ("CPU s", "M tokens per CPU s", "before, MB", "peak, MB", "1.4e9: CPU s")
    print(f"{'':24}{'tokens':>14}" + "".join(f"{column:>20}" for column in columns))
    with tempfile.TemporaryDirectory() as folder:
        for tokens in (options.tokens, options.larger * options.tokens):
            where = Path(folder) / value_digest(tokens)[:16]
            _alone(write_parts, where, tokens)
            lines = [("unigrams and bigrams", False, 0), ("all, with nulls", True, 0)]
            if tokens > options.tokens:
                lines.append((f"{options.corpora} corpora x 3 splits", True, options.corpora))
            for what, nulls, corpora in lines:
                rounds = (_alone(measure, where, nulls, corpora) for _ in range(options.rounds))
                found = min(rounds, key=lambda row: row["cpu"])
                rows.append({"what": what, **found})
                rate = found["tokens"] / found["cpu"]
                figures = found["cpu"], rate / 1e6, found["before_mb"], found["peak_mb"], WHOLE / rate
                print(f"{what:24}{found['tokens']:>14,}" + "".join(f"{figure:>20,.2f}" for figure in figures))
    if options.json:
        options.json.write_text(json.dumps({"load": os.getloadavg(), "rows": rows}, indent=2) + "\n")


def _alone(function, *arguments):
    """In a process of its own, so that a peak of memory is one's own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def write_parts(folder: Path, tokens: int) -> None:
    """Parts of PART utterances of FRAMES coarse frames that hold `tokens` tokens of LEVEL or a few more."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    frequency = 1 / np.arange(5, SPEC.codebook_size + 5) ** 0.6
    cumulative = np.cumsum(frequency) / frequency.sum()
    names = rng.permutation(SPEC.codebook_size).astype(np.uint16)
    each = FRAMES * SPEC.tokens_per_frame[LEVEL]
    utterances = -(-tokens // each)
    for start in range(0, utterances, PART):
        count = min(PART, utterances - start)
        drawn = [
            names[np.searchsorted(cumulative, rng.random((count, FRAMES * width), dtype=np.float32))]
            for width in SPEC.tokens_per_frame
        ]
        digests = [value_digest([tokens, start + row]) for row in range(count)]
        write_part(folder, digests, [SPEC.samples(FRAMES)] * count, list(zip(*drawn, strict=True)), SPEC, {})


def measure(folder: Path, nulls: bool, corpora: int) -> dict[str, float]:
    """CPU seconds from parts to figures, and the peak of memory. corpora: 0 is one corpus of one split; else each is so
    many successive parts, its splits mixed in each part, as the cache lays them."""
    digests = cached_digests(folder)["digest"]
    selection = pl.DataFrame({"digest": digests, "corpus": "made", "split": "train"})
    if corpora:
        row = pl.int_range(pl.len())
        selection = selection.with_columns(
            corpus=pl.format("made_{}", row * corpora // pl.len()),
            split=pl.Series([SPLITS[n % len(SPLITS)] for n in range(len(selection))]),
        )
    count(folder, selection.head(PART), nulls)  # imports, and threads that are started once
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    tokens = count(folder, selection, nulls)
    return {
        "tokens": tokens,
        "cpu": time.process_time() - began,
        "before_mb": before / 1024,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def count(folder: Path, selection: pl.DataFrame, nulls: bool) -> int:
    """From parts to figures; how many tokens there were."""
    source = locate_tokens(folder, selection, geometry_of(SPEC))
    for group, counted in by_group(source, lambda *leaf: count_level(source, LEVEL, *leaf, 0, nulls=nulls)):
        figures = list(level_figures(counted, source.geometry, LEVEL, 0))
        if group == (ALL, ALL):
            tokens = int(figures[0].value)
    return tokens


if __name__ == "__main__":
    main()
