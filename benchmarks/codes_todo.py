"""Time and peak memory of finding out what is to encode, for a corpus of a million utterances that is cached already.

python benchmarks/codes_todo.py [--utterances 1000000] [--missing 1000] [--json FILE]       prints a table

A home with a manifest and parts of one coarse frame for each utterance is made in a temporary folder (1 M: 0.5 GB, some
minutes). Each row of the table is measured in a process of its own; `start` is what importing alone takes.
"""

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from snac_pipeline.codec import SNAC, CodecSpec
from snac_pipeline.codes.cache import cache_codes
from snac_pipeline.codes.fingerprint import encoder_fingerprint
from snac_pipeline.codes.parts import codes_folder, held_digests, missing_rows, part_files, part_schema, write_rows
from snac_pipeline.corpus import read_utterances
from snac_pipeline.corpus.manifest import MANIFEST, manifest_file
from snac_pipeline.corpus.manifest import write_rows as write_manifest
from snac_pipeline.settings import CachingSettings

CODEC = Path(__file__).parents[1] / "examples" / "base_codec"
RATE, SECONDS, PART = 16_000, 0.05, 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=int, default=1_000_000)
    parser.add_argument("--missing", type=int, default=1000, help="of them without codes, for the row `to do`")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        make_home(home, options.utterances)
        rows = {name: measure(work, home, options) for name, work in WORK.items()}
    print(f"{'':24}{'seconds':>10}{'peak MB':>10}   {options.utterances} utterances, parts of {PART}")
    for name, row in rows.items():
        print(f"{name:24}{row['seconds']:>10.2f}{row['peak_mb']:>10.0f}")
    if options.json:
        options.json.write_text(json.dumps({"polars": pl.__version__, "utterances": options.utterances, "rows": rows}))


def make_home(home: Path, utterances: int) -> None:
    """A scanned and wholly cached corpus that has no files."""
    generator = np.random.default_rng(0)
    digests = sorted(generator.bytes(16).hex() for _ in range(utterances))
    rows = pl.DataFrame({"digest": digests}).with_columns(
        path=pl.format("speaker{}/{}.flac", pl.int_range(pl.len()) // 100, pl.col("digest")),
        corpus=pl.lit("made"),
        speaker=pl.format("speaker{}", pl.int_range(pl.len()) // 100),
        stratum=pl.lit("made"),
        format=pl.lit("flac"),
        num_frames=pl.lit(int(RATE * SECONDS)),
        header_frames=pl.lit(int(RATE * SECONDS)),
        sample_rate=pl.lit(RATE),
        channels=pl.lit(1),
        duration=pl.lit(SECONDS),
        peak=pl.lit(0.5),
        bandwidth=pl.lit(RATE // 2),
        flags=pl.lit([], dtype=pl.List(pl.String)),
        size=pl.lit(1),
        mtime_ns=pl.lit(1),
        ctime_ns=pl.lit(1),
        store_key=pl.lit(""),
    )
    write_manifest(manifest_file(home, "made"), rows.select(*MANIFEST).cast(MANIFEST), {"root": str(home / "speech")})
    spec = CodecSpec.from_file(CODEC / "config.json")
    folder = _folder(home)
    folder.mkdir(parents=True)
    order = generator.permutation(utterances)
    for start in range(0, utterances, PART):
        members = [digests[i] for i in order[start : start + PART]]
        count = len(members)
        columns = [
            pa.array(members),
            pa.array([round(spec.sampling_rate * SECONDS)] * count, pa.int64()),
            pa.array([spec.sampling_rate] * count, pa.int32()),
        ]
        for n in spec.tokens_per_frame:
            tokens = generator.integers(spec.codebook_size, size=count * n).astype(np.uint16)
            columns.append(
                pa.ListArray.from_arrays(pa.array(np.arange(count + 1, dtype=np.int32) * n), pa.array(tokens))
            )
        write_rows(folder, pa.Table.from_arrays(columns, schema=part_schema(spec.levels)), {"device": "cpu"})


def _folder(home: Path) -> Path:
    return codes_folder(home, encoder_fingerprint(SNAC.from_pretrained(CODEC)))


# ---- what is measured ----------------------------------------------------------------------------------------------


def read_manifest(home: Path, options: argparse.Namespace) -> None:
    read_utterances(home, ["made"], splits=False)


def read_digests(home: Path, options: argparse.Namespace) -> None:
    held_digests(part_files(_folder(home)))


def to_do(home: Path, options: argparse.Namespace) -> None:
    """With some utterances that have no codes among those that have."""
    utterances = read_utterances(home, ["made"], splits=False)
    unknown = utterances.head(options.missing).with_columns(digest=pl.lit("0") + pl.col("digest").str.slice(1) + "x")
    missing = missing_rows(_folder(home), pl.concat([utterances, unknown]))
    assert len(missing) == len(unknown)


def idle_run(home: Path, options: argparse.Namespace) -> None:
    """The whole of `cache` when all is cached."""
    utterances = read_utterances(home, ["made"], splits=False)
    result = cache_codes(CODEC, utterances, home, CachingSettings(), ["cpu"], lambda event: None)
    assert result["already"] == options.utterances


def start(home: Path, options: argparse.Namespace) -> None:
    """Imports alone."""


WORK = {
    "start": start,
    "read the manifest": read_manifest,
    "read the digests": read_digests,
    "manifest, what is to do": to_do,
    "cache, nothing to do": idle_run,
}


def measure(work: Callable, home: Path, options: argparse.Namespace) -> dict[str, float]:
    """Seconds, and the largest resident size of a process that does this alone."""
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    child = context.Process(target=_measured, args=(work, home, options, queue))
    child.start()
    result = queue.get()
    child.join()
    return result


def _measured(work: Callable, home: Path, options: argparse.Namespace, queue) -> None:
    started = time.perf_counter()
    work(home, options)
    seconds = time.perf_counter() - started
    # Not getrusage, whose peak a process inherits from the one that started it.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    queue.put({"seconds": seconds, "peak_mb": int(status["VmHWM"].split()[0]) / 1024})


if __name__ == "__main__":
    main()
