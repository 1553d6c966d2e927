"""How long splitting takes, and how much memory, for a corpus of millions of files.

python benchmarks/split.py [--rows 3400000] [--speakers 20000] [--json FILE]        prints a table

Steps, each in a process of its own: the first split, the same again, and again with more files of old and new speakers.
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

from snac_pipeline.corpus import update_splits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=3_400_000, help="files")
    parser.add_argument("--speakers", type=int, default=20_000, help="as many as rows: every file its own speaker")
    parser.add_argument("--corpora", type=int, default=8)
    parser.add_argument("--copies", type=float, default=0.001, help="share of files that repeat another's content")
    parser.add_argument("--added", type=float, default=0.01, help="share of files that the last step adds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    options = parser.parse_args()
    added = round(options.rows * options.added)
    steps = {"first": options.rows, "again": options.rows, "1 step on": options.rows + added}
    results = {}
    print(f"{'':12}{'files':>12}{'seconds':>10}{'CPU s':>8}{'peak GB':>10}{'before':>8}{'new groups':>12}{'aside':>8}")
    with tempfile.TemporaryDirectory() as home:
        for name, rows in steps.items():
            with multiprocessing.get_context("spawn").Pool(1) as pool:  # a fresh peak
                found = pool.apply(measure, (rows, options, home))
            results[name] = found
            print(
                f"{name:12}{rows:>12,}{found['seconds']:>10.1f}{found['cpu_seconds']:>8.1f}{found['peak_gb']:>10.2f}{found['before_gb']:>8.2f}"
                f"{found['new_groups']:>12,}{found['quarantined']:>8,}"
            )
    if options.json:
        figures = {name: value for name, value in vars(options).items() if name != "json"}
        options.json.write_text(json.dumps({"polars": pl.__version__, **figures, "steps": results}, indent=2) + "\n")


def measure(rows: int, options: argparse.Namespace, home: str) -> dict[str, float]:
    """Seconds of `update_splits` by the clock and of CPU; peak memory, and how much of it the files took before."""
    files = made_files(rows, options)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, cpu = time.perf_counter(), time.process_time()
    report = update_splits(files, Path(home))
    return {
        "rows": rows,
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "before_gb": before / 2**20,
        "new_groups": report.new_groups,
        "quarantined": report.quarantined,
        "val": report.utterances["val"],
    }


def made_files(rows: int, options: argparse.Namespace) -> pl.DataFrame:
    """The columns of a manifest that splitting reads. The first rows are the same whatever `rows` is; speakers go on
    to be new at the same pace."""
    rng = np.random.default_rng(0)
    size = round(options.rows * (1 + options.added))
    content = rng.integers(0, 2**62, size, dtype=np.int64)
    copies = rng.random(size) < options.copies
    content[copies] = content[rng.integers(0, options.rows, copies.sum())]
    speaker = rng.integers(0, options.speakers, size)
    speaker[options.rows :: 2] += options.speakers
    if options.speakers >= options.rows:
        speaker = np.arange(size)
    files = pl.DataFrame({"content": content, "number": np.arange(size), "speaker": speaker}).head(rows)
    corpus = "corpus" + (pl.col("speaker") % options.corpora).cast(pl.String)
    digest = pl.col("content").cast(pl.String).str.zfill(32)
    return files.select(
        digest=digest,
        path=pl.format("s{}/{}.flac", "speaker", "number"),
        corpus=corpus,
        speaker=pl.format("s{}", "speaker"),
        stratum=corpus,
        duration=2.0 + (pl.col("number") % 97) / 10,
        size=pl.lit(1, pl.Int64),
        mtime_ns=pl.lit(1, pl.Int64),
        ctime_ns=pl.lit(1, pl.Int64),
        store_key=pl.lit(""),
    ).sort("corpus", "path")


if __name__ == "__main__":
    main()
