"""What the corpus tests share."""

import importlib
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # made_audio


@pytest.fixture
def settled(monkeypatch):
    """Trust the stat of files written a moment ago, as after the two seconds that scan waits for."""
    scanning = importlib.import_module("snac_pipeline.corpus.scan")  # the package's `scan` is the function
    monkeypatch.setattr(scanning, "SETTLE_SECONDS", -60.0)
