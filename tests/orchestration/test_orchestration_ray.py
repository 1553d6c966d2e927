"""Caching over a Ray cluster of two nodes, from inside the asset; the step's own process is what joins it."""

import contextlib
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_project import REPOSITORY, Project
from ray_cluster import two_nodes

for room in ("codes", "training"):
    sys.path.insert(0, str(Path(__file__).parents[1] / room))  # made_codes, made_training

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster():
    """Address of a cluster of two nodes, one core each."""
    with two_nodes() as address:
        yield address


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Speech with the codes that processes of this machine gave it."""
    from made_training import CODEC, make_home

    from snac_pipeline.codec import SNAC, CodecSpec

    return make_home(tmp_path_factory.mktemp("here"), SNAC(CodecSpec.from_dict(CODEC)).eval())


@contextlib.contextmanager
def watched_actors() -> Iterator[set[int]]:
    """The processes of our actors that were there at some time."""
    from test_codes_ray import actors

    seen, over = set(), threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            seen.update(actors())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


def test_the_asset_caches_over_the_cluster_what_it_caches_here(cluster, here, tmp_path):
    import made_codes as made

    here.copy(tmp_path)
    shutil.rmtree(tmp_path / "work" / "codes")
    (tmp_path / ".dagster").mkdir()
    shutil.copy(REPOSITORY / "resources" / "dagster.yaml", tmp_path / ".dagster")
    shutil.copy(REPOSITORY / "recipes" / "phase10.yaml", tmp_path / "recipe.yaml")
    project = Project(tmp_path)
    project.change_settings(caching={"engine": "ray", "ray_address": cluster, "part_utterances": 2, "verify": 4})

    with watched_actors() as seen:
        project.run("cache_codes")
    assert len(seen) >= 2, "an actor on each node"
    told = project.newest("code_cache", "speech").metadata
    assert (told["utterances"].value, told["encoded"].value) == (len(here.utterances), len(here.utterances))
    [codes], [others] = ((home / "work" / "codes").glob("[!.]*") for home in (tmp_path, here.folder))
    assert codes.name == others.name
    made.assert_same_codes(made.all_rows(codes), made.all_rows(others))
    assert len(list(codes.glob("part-*"))) > 1

    version = project.version("code_cache", "speech")
    project.run("cache_codes")
    assert project.version("code_cache", "speech") == version
    assert project.newest("code_cache", "speech").metadata["encoded"].value == 0
