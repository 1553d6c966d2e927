"""A comparison by several processes is that by one, goes on where it was, and loses nothing to what crashes."""

import os
import signal
from functools import partial

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from snac_pipeline.engine.pools import open_pool
from snac_pipeline.evaluation import METRICS, Metric, compare, measure_all, measuring

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
    # The first is a 16 kHz file of half a second; codes are whole frames.
    assert measured.audio_seconds == pytest.approx(sum(0.5 + 0.1 * i for i in range(8)), abs=8 * 2048 / 24_000)
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


@pytest.mark.slow  # seven workers, one after the other
def test_an_utterance_that_no_worker_survives_has_no_value_and_the_others_have(measure, utterances):
    crashing = Metric("crashing", "Crashing", ended_by, False, "", 1)
    table = measure(metrics=[FEW[0], crashing], engine="local", workers=1).table
    lost = table.filter(pl.col("value").is_null())
    assert lost["utterance"].unique().to_list() == [utterances[5].digest]
    assert lost["reason"].str.contains("attempts that it was part of failed").all()
    assert table.height == 8 * 4 * 2 and lost.height == 4 * 2
    assert any("an attempt failed" in event["message"] for event in measure.told)
