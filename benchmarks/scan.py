"""How many files a second a scan takes: new (hashed and decoded), touched (hashed), unchanged (not opened).

python benchmarks/scan.py [--new 400] [--unchanged 200000] [--folder FOLDER] [--out scan.json]    prints a table

The new files are flac of speech's usual length; the unchanged ones are small files with a manifest made for them.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
import soundfile

from snac_pipeline.corpus import Corpus, scan
from snac_pipeline.corpus.listing import list_corpus
from snac_pipeline.corpus.manifest import (
    MANIFEST,
    QUARANTINE,
    manifest_file,
    quarantine_file,
    read_manifest,
    write_rows,
)
from snac_pipeline.corpus.scan import ScanReport


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--new", type=int, default=400, help="files to hash and decode")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each of them")
    parser.add_argument("--rate", type=int, default=24_000, help="sample rate of each of them")
    parser.add_argument("--unchanged", type=int, default=200_000, help="files to recognise")
    parser.add_argument("--workers", type=int, help="threads that read; one per usable core by default")
    parser.add_argument("--folder", type=Path, help="where the files are made; a temporary folder by default")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        rows = [*read_files(Path(folder), options), recognise_files(Path(folder), options.unchanged)]
    print(f"{'':12}{'files':>10}{'files/s':>12}{'files/cpu-s':>14}{'s':>10}{'cpu-s':>10}")
    for row in rows:
        print(
            f"{row['what']:12}{row['files']:>10,}{row['files'] / row['wall_s']:>12,.0f}"
            f"{row['files'] / row['cpu_s']:>14,.0f}{row['wall_s']:>10.2f}{row['cpu_s']:>10.2f}"
        )
    if options.out is not None:
        settings = {key: value for key, value in vars(options).items() if key not in ("folder", "out")}
        versions = {"python": platform.python_version(), "polars": pl.__version__, "cores": os.cpu_count()}
        options.out.write_text(json.dumps({**settings, **versions, "rows": rows}, indent=2) + "\n")


def read_files(folder: Path, options: argparse.Namespace) -> list[dict]:
    """The first scan of real audio, and the one after every file was touched."""
    generator = np.random.default_rng(0)
    corpus = Corpus("read", folder / "read")
    for index in range(options.new):
        path = corpus.path / f"s{index % 20}" / f"{index}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = generator.standard_normal(round(options.seconds * options.rate)) * 0.05
        soundfile.write(path, samples, options.rate)
    first = timed("new", corpus, folder / "home", options.workers)
    for path in corpus.path.rglob("*.flac"):
        os.utime(path)
    return [first, timed("touched", corpus, folder / "home", options.workers)]


def recognise_files(folder: Path, count: int) -> dict:
    """A scan of files that the manifest knows by their stat."""
    corpus, home = Corpus("unchanged", folder / "unchanged"), folder / "home"
    for index in range(count):
        if index % 1000 == 0:
            (corpus.path / f"s{index // 1000}").mkdir(parents=True)
        (corpus.path / f"s{index // 1000}" / f"{index}.wav").touch()
    listed = list_corpus(corpus, home).files
    known = read_manifest(home, ["read"]).drop("file")[0]
    digests = pl.Series([f"{index:032x}" for index in range(count)], dtype=pl.String)
    others = [name for name in MANIFEST if name not in ("digest", *listed.columns)]
    rows = listed.with_columns(digest=digests).join(known.select(others), how="cross").select(*MANIFEST)
    metadata = {"root": corpus.root, "listed_between": "0 0"}
    write_rows(manifest_file(home, corpus.name), rows, metadata)
    write_rows(quarantine_file(home, corpus.name), pl.DataFrame(schema=QUARANTINE), metadata)
    return timed("unchanged", corpus, home, None)


def timed(what: str, corpus: Corpus, home: Path, workers: int | None) -> dict:
    wall, cpu = time.perf_counter(), time.process_time()
    report = scan(corpus, home, workers=workers)
    expected(what, report)
    return {
        "what": what,
        "files": report.files,
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
    }


def expected(what: str, report: ScanReport) -> None:
    """The figures are of what they say."""
    found = {"new": report.decoded, "touched": report.read - report.decoded, "unchanged": report.unchanged}[what]
    assert found == report.files == report.utterances, (what, report)


if __name__ == "__main__":
    main()
