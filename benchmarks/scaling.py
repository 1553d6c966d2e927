"""What 3.4 million utterances would cost on 1, 4 and 32 GPUs: a simulation, since no GPU has been measured yet.

python benchmarks/scaling.py [--gpus 1 4 32] [--utterances 3400000] [--json FILE]

Measured on CPUs (docs/performance.md): scanning, splitting, statistics, reading audio, handing out parts, the loader.
Estimated: what a GPU encodes and trains (memory traffic of an H200 against that of the codec's operations), between
eager kernels and a fused Snake. Assumed: everything else in ASSUMED. Caching gives parts to whichever worker is free,
and loses one worker halfway. Training takes the steps that recipes/phase10.yaml plans, batch by batch: a step ends when
the GPU with the most items is done and gradients have been added up.
"""

import argparse
import heapq
import json
from pathlib import Path

import numpy as np

from snac_pipeline.settings import CachingSettings
from snac_pipeline.training.recipe import load_recipe
from snac_pipeline.training.slices import batches_per_epoch

RECIPE = Path(__file__).parents[1] / "recipes" / "phase10.yaml"
FRAME_SECONDS = 2048 / 24_000  # of a coarse frame of the published codec
CONTEXT_FRAMES = 6  # decoded beside a slice, three on each side

MEASURED = {
    "files scanned per CPU second": 737.0,
    "seconds to split 3.4 million": 11.1,
    "million tokens of statistics per CPU second": 15.0,
    "audio seconds read per CPU second": 2000.0,
    "audio seconds loaded for training per CPU second": 48 * 4 / 0.054,
    "seconds to hand out a part": {"local": 0.00005, "ray": 0.001},
    "seconds until workers begin": {"local": 12.0, "ray": 50.0},
}
ESTIMATED = {  # audio seconds per second of one GPU: eager kernels, fused Snake
    "encode": (3560.0, 9600.0),
    "train": (810.0, 2000.0),
}
ASSUMED = {
    "mean seconds of an utterance": 4.95,  # 1.4e9 tokens of 3.4 million
    "cores per GPU": 16,
    "GPUs per machine": 8,
    "seconds to write a part": 0.2,
    "bytes per second between GPUs of a machine": 200e9,
    "bytes per second between machines": 25e9,
    "seconds of every step that do not shrink": 0.015,
    "trained parameters": 13.01e6,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 4, 32])
    parser.add_argument("--utterances", type=int, default=3_400_000)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    seconds = lengths(options.utterances)
    found = {gpus: simulate(seconds, gpus) for gpus in options.gpus}
    print(f"{options.utterances:,} utterances, {seconds.sum() / 3600:,.0f} hours of speech; eager to fused Snake\n")
    print(f"{'':36}" + "".join(f"{f'{gpus} GPU':>20}" for gpus in found))
    for row in next(iter(found.values())):
        print(f"{row:36}" + "".join(f"{span(one[row]):>20}" for one in found.values()))
    if options.json:
        figures = {"measured": MEASURED, "estimated": ESTIMATED, "assumed": ASSUMED, "hours": found}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def lengths(utterances: int) -> np.ndarray:
    """Seconds of made utterances: half a second to half a minute, as speech corpora have them."""
    drawn = np.random.default_rng(0).lognormal(mean=0.0, sigma=0.6, size=utterances)
    seconds = np.clip(drawn * ASSUMED["mean seconds of an utterance"] / drawn.mean(), 0.5, 30.0)
    return seconds * ASSUMED["mean seconds of an utterance"] / seconds.mean()


def simulate(seconds: np.ndarray, gpus: int) -> dict[str, tuple[float, float]]:
    """Hours of each step, with eager kernels and with a fused Snake; of CPU steps both are the same."""
    cores = ASSUMED["cores per GPU"] * min(gpus, ASSUMED["GPUs per machine"])  # of the machine that scans
    tokens = seconds.sum() / FRAME_SECONDS * 7
    cpu = {
        "scan": len(seconds) / MEASURED["files scanned per CPU second"] / cores,
        "split": MEASURED["seconds to split 3.4 million"] * len(seconds) / 3.4e6,
        "statistics of tokens": tokens / 1e6 / MEASURED["million tokens of statistics per CPU second"],
    }
    encode, train = ([task(seconds, gpus, rate) for rate in ESTIMATED[name]]
                     for name, task in (("encode", caching), ("train", training)))  # fmt: skip
    rows = {"scan": (cpu["scan"],) * 2, "split": (cpu["split"],) * 2, "cache the codes": tuple(encode),
            "statistics of tokens": (cpu["statistics of tokens"],) * 2}  # fmt: skip
    rows["phase 10, all ten epochs"] = tuple(time for time, _ in train)
    larger = [training(seconds, gpus, rate, larger=gpus) for rate in ESTIMATED["train"]]
    rows["the same, batch_size x GPUs"] = tuple(time for time, _ in larger)
    hours = {name: (slow / 3600, fast / 3600) for name, (slow, fast) in rows.items()}
    hours["GPU hours, caching and phase 10"] = tuple(
        gpus * (hours["cache the codes"][i] + hours["phase 10, all ten epochs"][i]) for i in (0, 1)
    )
    return hours


def caching(seconds: np.ndarray, gpus: int, rate: float) -> float:
    """Seconds until the last part is written."""
    engine = "local" if gpus <= ASSUMED["GPUs per machine"] else "ray"
    rate = min(rate, ASSUMED["cores per GPU"] * MEASURED["audio seconds read per CPU second"])
    size = CachingSettings().part_utterances
    parts = [part.sum() for part in np.array_split(np.sort(seconds), -(-len(seconds) // size))]
    fixed = ASSUMED["seconds to write a part"] + MEASURED["seconds to hand out a part"][engine]
    start = MEASURED["seconds until workers begin"][engine]
    free = [start] * gpus
    heapq.heapify(free)
    lost = len(parts) // 2
    for number, part in enumerate(parts):
        begun = heapq.heappop(free)
        took = part / rate + fixed
        if number == lost:  # its worker dies at the end, starts anew, and the part is done again
            took += start + took
        heapq.heappush(free, begun + took)
    return max(free)


def training(seconds: np.ndarray, gpus: int, rate: float, larger: int = 1) -> tuple[float, int]:
    """Seconds and steps of the recipe's epochs, with `larger` times its batch_size."""
    recipe = load_recipe(RECIPE)
    frames = np.ceil(seconds / FRAME_SECONDS).astype(np.int64)
    loaded = ASSUMED["cores per GPU"] * MEASURED["audio seconds loaded for training per CPU second"]
    between = "between machines" if gpus > ASSUMED["GPUs per machine"] else "between GPUs of a machine"
    gradients = 4 * ASSUMED["trained parameters"]
    added_up = 2 * (gpus - 1) / gpus * gradients / ASSUMED[f"bytes per second {between}"]
    total, taken = 0.0, 0
    for epoch in range(recipe.epochs):
        lesson, _ = recipe.lesson_at(epoch)
        segment = max(1, round(lesson.seconds / FRAME_SECONDS))
        batch = lesson.batch_of(recipe.batch_size) * larger
        most = -(-batch // gpus)  # items of the GPU that has the most
        decoded = most * (segment + CONTEXT_FRAMES) * FRAME_SECONDS
        steps = batches_per_epoch(frames, segment, batch)
        step = max(decoded / rate, decoded / loaded) + added_up + ASSUMED["seconds of every step that do not shrink"]
        total, taken = total + steps * step, taken + steps
    return total, taken


def span(hours: tuple[float, float]) -> str:
    """Both, or one where they are the same."""
    slow, fast = map(words, hours)
    return slow if slow == fast else f"{slow} to {fast}"


def words(hours: float) -> str:
    """Two digits, in hours, minutes or seconds."""
    for unit, size in (("h", 1.0), ("min", 60.0), ("s", 3600.0)):
        if hours * size >= 1 or unit == "s":
            return f"{float(f'{hours * size:.2g}'):g} {unit}"
    raise AssertionError("the last unit takes all")


if __name__ == "__main__":
    main()
