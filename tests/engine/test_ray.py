"""The same over a Ray cluster: two nodes on this machine, real actors, the policy of the local engine."""

import contextlib
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from made_attempts import attempts, committed, is_alive, pids, write_it
from ray_cluster import two_nodes
from waiting import wait_for

from snac_pipeline.engine.attempts import ATTEMPTS, Done, Failed, Poisonous, run_parts

slow = pytest.mark.slow  # a cluster takes ten seconds to start


@pytest.fixture(scope="module")
def cluster():
    """The address of a head with one core and another node with one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        with two_nodes() as address:
            yield address


@pytest.fixture
def run(cluster, tmp_path):
    from snac_pipeline.engine.ray import RayPool, cluster_devices

    def run(parts, hang_seconds=30.0) -> list:
        devices = cluster_devices([], 0, cluster)
        assert devices == ["cpu", "cpu"]
        with contextlib.closing(RayPool(partial(write_it, tmp_path), devices, hang_seconds)) as pool:
            return list(run_parts(pool, parts))

    return run


@slow
def test_parts_are_done_by_actors_of_both_nodes(run, tmp_path):
    parts = [[f"item{i}", f"and{i}"] for i in range(8)]
    events = run(parts)
    done = [event.result for event in events if isinstance(event, Done)]
    assert sorted(part for part, _, _ in done) == sorted(parts)
    assert len({pid for _, _, pid in done}) == 2
    wait_for(lambda: not any(map(is_alive, pids(tmp_path))))


@slow
@pytest.mark.parametrize(("fate", "words"), [("dies", "its actor died"), ("hangs", "its actor hung")])
def test_an_actor_that_fails_costs_its_part_only_which_is_tried_again(run, tmp_path, fate, words):
    parts = [["x1", f"{fate}-once", "x2"], *([f"y{i}"] for i in range(4))]
    events = run(parts, hang_seconds=5.0)
    [reason] = [event.reason for event in events if isinstance(event, Failed)]
    assert words in reason
    assert committed(tmp_path) == {item for part in parts for item in part}
    assert [attempts(tmp_path, f"y{i}") for i in range(4)] == [1] * 4
    wait_for(lambda: not any(map(is_alive, pids(tmp_path))))  # the stopped one too


@slow
def test_a_poisonous_item_is_found_and_everything_else_of_its_part_is_done(run, tmp_path):
    events = run([["x1", "exits", "x2"], ["y1", "y2"]])
    [(item, reason)] = [(event.item, event.reason) for event in events if isinstance(event, Poisonous)]
    assert item == "exits" and attempts(tmp_path, item) > ATTEMPTS and "its actor died" in reason
    assert committed(tmp_path) == {"x1", "x2", "y1", "y2"}


NO_RAY = """
import sys
sys.modules["ray"] = None
from snac_pipeline.engine.ray import cluster_devices
cluster_devices([], 0)
"""


def test_without_the_package_one_sentence_says_what_to_install():
    said = subprocess.run([sys.executable, "-c", NO_RAY], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert "needs the package ray; install it with `pip install 'snac-pipeline[ray]'`" in said.stderr.splitlines()[-1]
