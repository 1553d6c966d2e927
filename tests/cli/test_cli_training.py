"""`train` from a shell: which device, and what --resume demands. What it trains is held by tests/training."""

import pytest


@pytest.fixture
def ready(project):
    for command in ("scan", "split", "cache"):
        project.done(command)
    return project


def test_resuming_where_nothing_was_begun_says_so_and_begins_nothing(ready):
    message = ready("train", "decoder_24khz", "--resume").error
    assert message.startswith(f"there is nothing to resume: {ready.home / 'runs' / 'phase10-'}")
    assert "leave --resume away" in message
    assert not (ready.home / "runs").exists()


@pytest.mark.parametrize("device", ["93", "cuda:93"])
def test_a_device_that_is_not_there_is_named(ready, device):
    assert "device 'cuda:93' is not here" in ready("train", "decoder_24khz", "--device", device).error
    assert not (ready.home / "runs").exists()


def test_the_device_replaces_those_of_the_settings(ready):
    ready.change_settings(devices=["cuda:93"])
    assert "nothing to resume" in ready("train", "decoder_24khz", "--device", "cpu", "--resume").error
