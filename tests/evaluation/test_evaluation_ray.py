"""An evaluation by the actors of a Ray cluster of two nodes is the evaluation made here."""

import sys
from functools import partial

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from ray_cluster import two_nodes

from snac_pipeline.engine.pools import devices_of, open_pool
from snac_pipeline.evaluation import METRICS, Metric, compare, measure_all, measuring

pytestmark = pytest.mark.slow

FEW = [metric for metric in METRICS if metric.name in ("mel_distance", "si_sdr", "estoi")]


def ended(reference, estimate, sample_rate):
    """Ends its process on the sixth utterance (1 s), as C code does that a metric calls."""
    import os
    import signal

    if len(reference) == sample_rate:
        os.kill(os.getpid(), signal.SIGKILL)
    return 1.0


@pytest.fixture(scope="module")
def cluster():
    """The address of two nodes, one core each."""
    ray = pytest.importorskip("ray")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # this module is on no worker's path
    with two_nodes() as address:
        yield address


@pytest.fixture
def measure(cluster, contestants, utterances, tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "PART_UTTERANCES", 2)
    devices = devices_of("ray", [], 0, cluster)
    assert devices == ["cpu", "cpu"]
    pool = partial(open_pool, "ray", devices=devices, hang_seconds=120.0)
    return lambda metrics: measure_all(contestants, utterances, metrics, tmp_path, pool, lambda event: None)


def test_its_figures_are_those_of_one_process(measure, contestants, utterances):
    measured = measure(FEW)
    assert_frame_equal(measured.table, compare(contestants, utterances, metrics=FEW), check_exact=True)
    assert measured.utterances == 8 and measured.crashed == {} and measured.speed > 0
    assert measure(FEW).utterances == 0


def test_an_utterance_that_no_actor_survives_is_told_and_the_rest_is_measured(measure, utterances):
    table = (measured := measure([FEW[0], Metric("ended", "Ended", ended, False, "", 1)])).table
    assert list(measured.crashed) == [utterances[5].digest]
    lost = table.filter(pl.col("value").is_null())
    assert lost["utterance"].unique().to_list() == [utterances[5].digest]
    assert lost["reason"].str.contains("its actor died").all()
