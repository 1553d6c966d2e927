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

from snac_pipeline.codec import CodecSpec
from snac_pipeline.engine import attempts
from snac_pipeline.errors import PipelineError
from snac_pipeline.evaluation.compare import (
    SCHEMA,
    Contestant,
    Stage,
    Utterance,
    kinds_of_rows,
    rows_without_values,
)
from snac_pipeline.evaluation.registry import Metric
from snac_pipeline.files import make_folder, read_parquet, value_digest, write_parquet

OnEvent = Callable[[dict[str, Any]], None]
PART_UTTERANCES = 8


@dataclass(frozen=True)
class Measured:
    """What a run of `measure_all` gives."""

    table: pl.DataFrame
    """Of SCHEMA, utterances and models in the order given."""
    crashed: dict[str, str]
    """Utterances that no worker survived, by digest, and why. They have null values with that reason here, and nothing
    of them is on the disk: the next run tries them again."""
    utterances: int
    """Measured by this run."""
    audio_seconds: float
    """Of the recordings measured by this run, those apart that could not be used."""
    seconds: float
    """What it took, with starting the workers."""

    @property
    def speed(self) -> float | None:
        """Hours of recordings in an hour, by all contestants and metrics; None where this run measured nothing."""
        return self.audio_seconds / self.seconds if self.audio_seconds else None


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

    The caller sees to it that one process works in `folder`, and that what is in it was measured in the same way; rows
    of other contestants and metrics are not counted. Raises PipelineError as `Stage` does, and when no worker survives
    anything.
    """
    make_folder(folder)
    started = time.monotonic()
    spec = CodecSpec.from_file(contestants[0].folder / "config.json")
    kinds = kinds_of_rows(contestants, metrics, spec)
    known = set(_held(folder, kinds)["utterance"])
    missing = [utterance for utterance in utterances if utterance.digest not in known]
    parts = [missing[i : i + PART_UTTERANCES] for i in range(0, len(missing), PART_UTTERANCES)]
    done, seconds = 0, 0.0
    crashed: dict[str, str] = {}
    if parts:
        work = functools.partial(measure_part, contestants, metrics, folder, max_seconds)
        with contextlib.closing(open_pool(work)) as pool:
            for event in attempts.run_parts(pool, parts):
                match event:
                    case attempts.Poisonous(item, reason):
                        crashed[item.digest] = reason
                        done += 1
                    case attempts.Failed(_, reason, _):
                        on_event({"message": f"an attempt failed: {reason}"})
                    case attempts.Done(_, (count, audio_seconds)):
                        done += count
                        seconds += audio_seconds
                    case _:
                        continue
                on_event(_progress(done, len(missing), seconds / (time.monotonic() - started)))
    lost = [
        row for digest, why in crashed.items() for row in rows_without_values(digest, contestants, metrics, spec, why)
    ]
    rows = pl.concat([_held(folder, kinds), pl.DataFrame(lost, schema=SCHEMA, orient="row")])
    order = pl.DataFrame({"utterance": [utterance.digest for utterance in utterances]}, schema={"utterance": pl.String})
    table = order.join(rows, on="utterance", how="left", maintain_order="left_right")
    if lacking := table["model"].null_count():
        raise PipelineError(f"{lacking} utterances that were measured are not in {folder} any more; run it again")
    return Measured(table.select(*SCHEMA), crashed, len(missing), seconds, time.monotonic() - started)


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
    rows: list[tuple[object, ...]] = []
    seconds = 0.0
    for done, utterance in enumerate(part, start=1):
        measured = stage.measure(utterance, placed)
        rows += measured.rows
        seconds += measured.seconds
        yield done
    name = f"part-{value_digest([utterance.digest for utterance in part])}.parquet"
    write_parquet(folder / name, pl.DataFrame(rows, schema=SCHEMA, orient="row").to_arrow())
    return len(part), seconds


@functools.lru_cache(maxsize=1)
def _stage(contestants: tuple[Contestant, ...], device: str, max_seconds: float | None) -> Stage:
    """A worker's models, loaded once."""
    return Stage(contestants, device=device, max_seconds=max_seconds)


def _held(folder: Path, kinds: Sequence[tuple[str, int, str]]) -> pl.DataFrame:
    """The rows of utterances of which the parts have a row of each of `kinds`, and no other rows.

    What two parts have is there once, with its value where one of them has a value.
    """
    tables = [pl.DataFrame(pl.from_arrow(read_parquet(file))) for file in sorted(folder.glob("part-*.parquet"))]
    rows = pl.concat(
        [pl.DataFrame(schema=SCHEMA), *(table.select(*SCHEMA).cast(pl.Schema(SCHEMA)) for table in tables)]
    )
    names = ("model", "sample_rate", "metric")
    wanted = pl.DataFrame(kinds, schema={name: SCHEMA[name] for name in names}, orient="row").with_row_index("kind")
    rows = rows.join(wanted, on=names, how="inner").sort(
        "utterance", "kind", pl.col("value").is_null(), maintain_order=True
    )
    rows = rows.unique(["utterance", "kind"], keep="first", maintain_order=True)
    return rows.filter(pl.len().over("utterance") == len(kinds)).select(*SCHEMA)


def _progress(done: int, total: int, speed: float) -> dict[str, Any]:
    return {
        "message": f"{done}/{total} compared, {speed:.1f} hours of recordings an hour",
        "done": done,
        "total": total,
        "fraction": done / total,
    }
