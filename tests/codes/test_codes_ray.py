"""The cache made by the actors of a Ray cluster of two nodes is the cache made here."""

import os
import signal

import made_codes as made
import pytest
from ray_cluster import two_nodes

from snac_pipeline.codes.parts import encode_quarantine
from snac_pipeline.errors import PipelineError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def devices():
    """Of the workers of a cluster of two nodes, one core each."""
    from snac_pipeline.engine.ray import cluster_devices

    with two_nodes() as address:
        yield cluster_devices([], 0, address)


def test_its_codes_are_those_of_the_local_engine(devices, cached, codec, corpus, tmp_path):
    assert devices == ["cpu", "cpu"]
    utterances = made.utterances_of(corpus, tmp_path)
    result = made.cache(codec, utterances, tmp_path, engine="ray", devices=devices)
    assert (result["encoded"], result["failed_attempts"]) == (len(utterances), 0)
    parts = tmp_path / "codes" / result["fingerprint"]
    made.assert_same_codes(made.all_rows(parts), made.all_rows(cached[0] / "codes" / parts.name))


def test_a_poisonous_utterance_is_set_aside_and_the_rest_is_cached(devices, codec, tmp_path):
    home, corpus = tmp_path / "home", made.make_corpus(tmp_path / "speech", seconds=(0.3, 0.5, 0.7))
    utterances = made.utterances_of(corpus, home)
    file = corpus / "speaker0" / "001.wav"
    file.unlink()
    os.mkfifo(file)  # whoever opens it waits for ever
    with pytest.raises(PipelineError, match=rf"1 utterances could not .*{file}.*its actor hung.* other 2 are cached"):
        made.cache(codec, utterances, home, engine="ray", devices=devices, part_utterances=2, hang_seconds=8.0)
    [parts] = (home / "codes").iterdir()
    assert encode_quarantine(parts)["file"].to_list() == [str(file)]
    assert len(made.all_rows(parts)) == 2


def test_a_killed_actor_costs_no_row(devices, codec, corpus, tmp_path):
    utterances = made.utterances_of(corpus, tmp_path)
    killed = []

    def kill_an_actor(event):
        if "fraction" in event and not killed:
            killed.append(actors()[0])
            os.kill(killed[0], signal.SIGKILL)

    result = made.cache(
        codec, utterances, tmp_path, engine="ray", devices=devices, part_utterances=1, on_event=kill_an_actor
    )
    assert result["encoded"] == len(utterances) and result["failed_attempts"] <= 1 and killed


def actors() -> list[int]:
    """Processes of our actors, by the names that Ray gives them."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                if b"ray::_Worker" in file.read():
                    found.append(int(name))
        except (FileNotFoundError, ProcessLookupError):
            pass
    return found
