"""SIGINT and SIGTERM as a question that the loop asks between its steps."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Interrupted(BaseException):
    """SIGINT or SIGTERM came; the checkpoint is written and the run can be continued."""


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """While entered, SIGINT and SIGTERM only set a flag, told by the yielded function; a second one ends at once."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    requested = threading.Event()

    def note(number: int, frame: Any) -> None:
        if requested.is_set():
            os._exit(128 + number)
        requested.set()

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield requested.is_set
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
