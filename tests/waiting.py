"""Waiting for what other processes do."""

import time
from collections.abc import Callable
from typing import Any


def wait_for(condition: Callable[[], Any], seconds: float = 300.0, every: float = 0.02) -> None:
    """Poll until `condition` holds; AssertionError where it does not in so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(every)
