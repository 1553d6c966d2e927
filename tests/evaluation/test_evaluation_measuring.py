"""A comparison by several processes is that by one, goes on where it was, and loses nothing to what crashes."""

import os
import signal
from functools import partial

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from snac_pipeline.engine.pools import open_pool
from snac_pipeline.evaluation import METRICS, Metric, Utterance, compare, measure_all, measuring
from snac_pipeline.evaluation.compare import SCHEMA, kinds_of_rows

FEW = [metric for metric in METRICS if metric.name in ("mel_distance", "si_sdr")]


def ended_by(reference: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float:
    """Ends its process on the sixth utterance (1 s), as C code does that a metric calls."""
    if len(reference) == sample_rate:
        os.kill(os.getpid(), signal.SIGKILL)
    return 1.0


@pytest.fixture
def measure(contestants, utterances, tmp_path):
    """measure(utterances, metrics, engine, workers) with what it told."""
    told: list[dict] = []

    def measure(some=utterances, metrics=FEW, engine="inline", workers=1):
        pool = partial(open_pool, engine, devices=["cpu"] * workers, hang_seconds=60.0)
        return measure_all(contestants, some, metrics, tmp_path, pool, told.append)

    measure.told, measure.folder = told, tmp_path
    return measure


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(measuring, "PART_UTTERANCES", 3)


def test_processes_give_what_one_gives(measure, contestants, utterances):
    measured = measure(engine="local", workers=2)
    assert_frame_equal(measured.table, compare(contestants, utterances, metrics=FEW), check_exact=True)
    assert measured.utterances == 8 and measured.speed > 0
    assert measured.audio_seconds == pytest.approx(sum(0.5 + 0.1 * i for i in range(8)), abs=0.01)
    assert [event["done"] for event in measure.told] == [event["done"] for event in sorted(measure.told, key=progress)]
    assert measure.told[-1]["fraction"] == 1.0 and "8/8 compared" in measure.told[-1]["message"]


def progress(event: dict) -> float:
    return event["fraction"]


def test_what_is_measured_is_not_measured_again(measure, utterances):
    first = measure(utterances[:4])
    files = {file: file.stat().st_mtime_ns for file in measure.folder.iterdir()}
    whole = measure(utterances)
    assert (first.utterances, whole.utterances) == (4, 4)
    assert all(file.stat().st_mtime_ns == time for file, time in files.items())
    again = measure(utterances)
    assert again.utterances == 0 and again.speed is None
    assert_frame_equal(again.table, whole.table, check_exact=True)
    assert again.table["utterance"].unique(maintain_order=True).to_list() == [one.digest for one in utterances]


def kinds(contestants, spec, metrics=FEW):
    return kinds_of_rows(contestants, metrics, spec)


def write_rows(folder, name: str, rows: list[tuple]) -> None:
    pl.DataFrame(rows, schema=SCHEMA, orient="row").write_parquet(folder / f"part-{name}.parquet")


def test_a_value_that_was_measured_counts_before_one_that_could_not_be(measure, contestants, utterances, spec):
    """Whichever of two parts comes first by its name."""
    measured = measure(utterances[:1]).table
    reason = "every worker crashed"
    nothing = [(utterances[0].digest, *kind, None, reason, None) for kind in kinds(contestants, spec)]
    for name in ("0", "f" * 40):
        write_rows(measure.folder, name, nothing)
    again = measure(utterances[:1])
    assert again.utterances == 0
    assert_frame_equal(again.table, measured, check_exact=True)


def test_rows_of_other_metrics_or_models_are_no_part_of_a_comparison(measure, contestants, utterances, spec):
    digest = utterances[0].digest
    kept = kinds(contestants, spec)
    write_rows(measure.folder, "less", [(digest, *kind, 1.0, None, None) for kind in kept[1:]])
    write_rows(measure.folder, "other", [(digest, "another", 24_000, "mel_distance", 1.0, None, None)])
    more = [(utterances[1].digest, *kind, 2.0, None, None) for kind in (*kept, ("base", 24_000, "f0_rmse"))]
    write_rows(measure.folder, "more", more)
    table = measure(utterances[:2])
    assert table.utterances == 1  # the first; of the second all is there
    expected = compare(contestants, utterances[:1], metrics=FEW)
    first = table.table.filter(utterance=digest)
    assert first.height == expected.height == len(kept)
    assert first.filter(pl.col("metric") == "f0_rmse").is_empty()
    assert table.table.filter(utterance=utterances[1].digest)["value"].to_list() == [2.0] * len(kept)


def test_what_cannot_be_read_is_no_part_of_the_speed(measure, utterances, tmp_path):
    missing = [Utterance(f"gone{i}", tmp_path / f"gone{i}.wav", utterances[7].codes) for i in range(3)]
    measured = measure([utterances[0], *missing])
    assert measured.utterances == 4 and measured.audio_seconds == pytest.approx(0.5, abs=0.001)
    nothing = measure([*missing, Utterance("more", tmp_path / "more.wav", utterances[7].codes)])
    assert nothing.utterances == 1 and nothing.speed is None


@pytest.mark.slow  # seven workers, one after the other
def test_an_utterance_that_no_worker_survives_is_tried_again_and_the_others_are_kept(measure, utterances):
    crashing = Metric("crashing", "Crashing", ended_by, False, "", 1)
    first = measure(metrics=[FEW[0], crashing], engine="local", workers=1)
    lost = first.table.filter(pl.col("reason").is_not_null())
    assert lost["utterance"].unique().to_list() == [utterances[5].digest] == list(first.crashed)
    assert lost["reason"].str.contains("attempts that it was part of failed").all()
    assert first.table.height == 8 * (4 * 2 + 7) and lost.height == 4 * 2 + 7
    assert any("an attempt failed" in event["message"] for event in measure.told)

    mended = Metric("crashing", "Crashing", always_one, False, "", 1)
    second = measure(metrics=[FEW[0], mended], engine="inline")
    assert (second.utterances, second.crashed) == (1, {}) and second.table["value"].null_count() == 0


def always_one(reference: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float:
    return 1.0
