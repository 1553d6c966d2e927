"""A project of four short recordings and a thin codec, and no way to the network."""

import signal
import sys
from pathlib import Path

import huggingface_hub
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import made_cli
import made_codes as made

from snac_pipeline import cli


@pytest.fixture(scope="package")
def codec(tmp_path_factory) -> Path:
    return made.make_codec(tmp_path_factory.mktemp("codec") / "thin24")


@pytest.fixture
def run_here(capfd, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.delenv("SNAC_PIPELINE_SETTINGS", raising=False)
    before = signal.getsignal(signal.SIGTERM)

    def run(arguments: list[str]) -> made_cli.Said:
        capfd.readouterr()
        try:
            status = cli.main(arguments)
        except SystemExit as end:  # wrong use
            status = end.code
        return made_cli.Said(status, *capfd.readouterr())

    yield run
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def project(tmp_path, codec, run_here) -> made_cli.Project:
    return made_cli.make_project(tmp_path / "project", codec, run_here)
