"""The comparison of many utterances by all devices, on the disk as it goes on.

In: contestants, utterances and metrics. Out: <folder>/part-<digest>.parquet, each the rows of a few utterances. What is
to do follows from the parts that are there, so that a run that was killed goes on where it was.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from snac_pipeline.engine import attempts
from snac_pipeline.errors import PipelineError
from snac_pipeline.evaluation.compare import SCHEMA, Contestant, Stage, Utterance, with_baselines
from snac_pipeline.evaluation.registry import Metric
from snac_pipeline.files import make_folder, read_parquet, value_digest, write_parquet

OnEvent = Callable[[dict[str, Any]], None]
PART_UTTERANCES = 8


@dataclass(frozen=True)
class Measured:
    """What a run of `measure_all` gives."""

    table: pl.DataFrame
    """Of SCHEMA, utterances and models in the order given."""
    utterances: int
    """Measured by this run."""
    audio_seconds: float
    """Of recordings measured by this run."""
    seconds: float
    """What it took, with starting the workers."""

    @property
    def speed(self) -> float | None:
        """Hours of recordings in an hour, by all contestants and metrics; None where all was measured before."""
        return self.audio_seconds / self.seconds if self.utterances else None


def measure_all(
    contestants: Sequence[Contestant],
    utterances: Sequence[Utterance],
    metrics: Sequence[Metric],
    folder: Path,
    open_pool: Callable[[attempts.Work], attempts.Pool],
    on_event: OnEvent,
    *,
    max_seconds: float | None = None,
) -> Measured:
    """Measure what `folder` does not hold yet; the rows of all utterances.

    An utterance that no worker survives has null values with the reason, as one that cannot be read. Raises
    PipelineError as `Stage` does, when no worker survives anything, and when another run took the folder away.
    """
    make_folder(folder)
    started = time.monotonic()
    known = set(_held(folder)["utterance"])
    missing = [utterance for utterance in utterances if utterance.digest not in known]
    parts = [missing[i : i + PART_UTTERANCES] for i in range(0, len(missing), PART_UTTERANCES)]
    done, seconds = 0, 0.0
    if parts:
        work = functools.partial(measure_part, contestants, metrics, folder, max_seconds)
        with contextlib.closing(open_pool(work)) as pool:
            for event in attempts.run_parts(pool, parts):
                match event:
                    case attempts.Poisonous(item, reason):
                        _write(folder, [item], _without_values(contestants, metrics, item, reason))
                        done += 1
                    case attempts.Failed(_, reason, _):
                        on_event({"message": f"an attempt failed: {reason}"})
                    case attempts.Done(_, (count, audio_seconds)):
                        done += count
                        seconds += audio_seconds
                    case _:
                        continue
                on_event(_progress(done, len(missing), seconds / (time.monotonic() - started)))
    order = pl.DataFrame({"utterance": [utterance.digest for utterance in utterances]})
    table = order.join(_held(folder), on="utterance", how="left", maintain_order="left_right")
    if lacking := table["model"].null_count():
        raise PipelineError(
            f"{lacking} utterances have no rows in {folder}: another run took it away when it was done; run it again"
        )
    return Measured(table.select(*SCHEMA), len(missing), seconds, time.monotonic() - started)


def measure_part(
    contestants: Sequence[Contestant],
    metrics: Sequence[Metric],
    folder: Path,
    max_seconds: float | None,
    part: Sequence[Utterance],
    device: str,
) -> Generator[int, None, tuple[int, float]]:
    """Measure and commit a part; yields how many utterances are done, returns that and their seconds of audio."""
    stage = _stage(tuple(contestants), device, max_seconds)
    placed = [metric.placed(device) for metric in metrics]
    rows: list[tuple] = []
    seconds = 0.0
    for done, utterance in enumerate(part, start=1):
        rows += stage.measure(utterance, placed)
        seconds += stage.seconds_of(utterance)
        yield done
    _write(folder, part, rows)
    return len(part), seconds


@functools.lru_cache(maxsize=1)
def _stage(contestants: tuple[Contestant, ...], device: str, max_seconds: float | None) -> Stage:
    """A worker's models, loaded once."""
    return Stage(contestants, device=device, max_seconds=max_seconds)


def _write(folder: Path, part: Sequence[Utterance], rows: list[tuple]) -> None:
    name = f"part-{value_digest([utterance.digest for utterance in part])}.parquet"
    write_parquet(folder / name, pl.DataFrame(rows, schema=SCHEMA, orient="row").to_arrow())


def _held(folder: Path) -> pl.DataFrame:
    """The rows of all parts; those that two runs at once have both written are there once."""
    tables = [pl.DataFrame(pl.from_arrow(read_parquet(file))) for file in sorted(folder.glob("part-*.parquet"))]
    empty = pl.DataFrame(schema=SCHEMA)
    rows = pl.concat([empty, *(table.select(*SCHEMA).cast(SCHEMA) for table in tables)])
    return rows.unique(["utterance", "model", "metric"], keep="first", maintain_order=True)


def _without_values(
    contestants: Sequence[Contestant], metrics: Sequence[Metric], utterance: Utterance, reason: str
) -> list[tuple]:
    return [
        (utterance.digest, contestant.name, contestant.output_rate, metric.name, None, reason, None)
        for contestant in with_baselines(contestants)
        for metric in metrics
    ]


def _progress(done: int, total: int, speed: float) -> dict[str, Any]:
    return {
        "message": f"{done}/{total} compared, {speed:.1f} hours of recordings an hour",
        "done": done,
        "total": total,
        "fraction": done / total,
    }
