"""What more processes give to caching on a CPU, and what an engine costs for each part.

python benchmarks/cache_engines.py [--speech FOLDER] [--utterances 48] [--rounds 2] [--parts 200] [--json FILE]

First table: the first utterances of a folder are cached with examples/base_codec by one process and by two, one thread
each; rounds alternate, the best of each counts. The rate is that of encoding: from a run's first progress to its last,
without what workers take to load torch; `start` is what they take. Second table: parts without any work, given to two
workers as they can take them; what each costs. The engine `ray` is a cluster of its own on this machine.
"""

import argparse
import contextlib
import json
import os
import tempfile
import time
from collections.abc import Generator
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch; workers have it too

SPEECH = Path(__file__).parents[2] / "shared" / "speech" / "librispeech"
CODEC = Path(__file__).parents[1] / "examples" / "base_codec"
PROCESSES = (1, 2)
HANG_SECONDS = 300.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speech", type=Path, default=SPEECH, help="a folder with audio files somewhere below it")
    parser.add_argument("--utterances", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--parts", type=int, default=2000, help="for the second table")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    if not options.speech.is_dir():
        parser.error(f"{options.speech} is no folder")
    rounds = {processes: [] for processes in PROCESSES}
    for _ in range(options.rounds):
        for processes in PROCESSES:
            rounds[processes].append(cache(options.speech, options.utterances, processes))
    best = {processes: max(found, key=lambda one: one["rate"]) for processes, found in rounds.items()}
    print(f"{'processes':12}{'audio s per s':>16}{'ratio':>8}{'start':>8}   {options.utterances} utterances")
    for processes in PROCESSES:
        ratio = best[processes]["rate"] / best[1]["rate"]
        print(f"{processes:<12}{best[processes]['rate']:>16.2f}{ratio:>8.2f}{best[processes]['start']:>7.1f}s")

    parts = {engine: idle_parts(engine, options.parts) for engine in ("local", "ray")}
    print(f"\n{'engine':12}{'ms per part':>16}{'first part':>14}   {options.parts} parts, two workers")
    for engine, found in parts.items():
        print(f"{engine:12}{1000 * found['seconds']:>16.2f}{found['start']:>13.1f}s")
    if options.json:
        figures = {"load": os.getloadavg(), "cores": os.cpu_count(), "caching": rounds, "parts": parts}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def cache(speech: Path, count: int, processes: int) -> dict[str, float]:
    """Cache into an empty home: seconds until the first progress, and audio seconds per second from there on."""
    from snac_pipeline.codes.cache import cache_codes
    from snac_pipeline.corpus import Corpus, read_utterances, scan
    from snac_pipeline.settings import CachingSettings

    told = []

    def on_event(event: dict) -> None:
        if "fraction" in event:
            told.append((time.monotonic(), 3600 * event["hours"]))

    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        scan(Corpus("speech", speech, limit=count), home)
        utterances = read_utterances(home, ["speech"], splits=False)
        began = time.monotonic()
        settings = CachingSettings(part_utterances=4, batch_seconds=16.0, verify=0)
        result = cache_codes(CODEC, utterances, home, settings, ["cpu"] * processes, on_event)
    assert result["encoded"] == len(utterances)
    (first, before), (last, after) = told[0], told[-1]
    return {"rate": (after - before) / (last - first), "start": first - began, "seconds": after}


def nothing(part: list[int], device: str) -> Generator[None, None, int]:
    """The work of an idle part."""
    yield
    return len(part)


def idle_parts(engine: str, count: int) -> dict[str, float]:
    """Seconds for each part of the second half, when both workers have long begun; and until the first is done."""
    from snac_pipeline.engine import attempts

    began, done = time.monotonic(), []
    with contextlib.closing(pool_of(engine)) as pool:
        for event in attempts.run_parts(pool, [[number] for number in range(count)]):
            if isinstance(event, attempts.Done):
                done.append(time.monotonic())
    half = count // 2
    return {"seconds": (done[-1] - done[half]) / (count - 1 - half), "start": done[0] - began}


def pool_of(engine: str):
    from snac_pipeline.engine.local import LocalPool
    from snac_pipeline.engine.ray import RayPool, cluster_devices

    if engine == "local":
        return LocalPool(nothing, ["cpu", "cpu"], HANG_SECONDS)
    return RayPool(nothing, cluster_devices(["cpu"], 2), HANG_SECONDS)


if __name__ == "__main__":
    main()
