"""A thin codec with two heads, an empty folder to work in that has no settings, and no way to the network."""

import signal
import sys
from pathlib import Path

import huggingface_hub
import pytest

sys.path.extend(str(Path(__file__).parents[1] / room) for room in ("cli", "codes", "codec", "corpus"))

from geometries import PUBLISHED, build, thin, two_heads
from made_cli import Said

from snac_pipeline import cli
from snac_pipeline.codec import SNAC


@pytest.fixture(scope="package")
def model() -> SNAC:
    return build(two_heads(thin(PUBLISHED["24khz"])))


@pytest.fixture(scope="package")
def codec(model, tmp_path_factory) -> Path:
    return model.save_pretrained(tmp_path_factory.mktemp("codec") / "thin24")


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SNAC_PIPELINE_SETTINGS", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path


@pytest.fixture
def run(here, capfd, codec):
    """A command in this process: its name, then what follows the model."""
    before = signal.getsignal(signal.SIGTERM)

    def run(command: str, *arguments: object, model: object = codec) -> Said:
        capfd.readouterr()
        try:
            status = cli.main([command, str(model), *map(str, arguments)])
        except SystemExit as end:  # wrong use
            status = end.code
        return Said(status, *capfd.readouterr())

    yield run
    signal.signal(signal.SIGTERM, before)
