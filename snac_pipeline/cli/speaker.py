"""What a command says: JSON for a program, lines and a bar for a person."""

import json
import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn
from rich.table import Column

from snac_pipeline.cli.arguments import Result

LINE_SECONDS = 5.0
"""Between two lines of progress, where there is no bar."""


class Speaker:
    """Says what happens, to a program or to a person; to a person at a terminal with a bar."""

    def __init__(self, as_json: bool, silent: bool):
        self.as_json, self.silent = as_json, silent
        self.bar: Progress | None = None
        self.told = float("-inf")

    def progress(self, event: dict[str, Any]) -> None:
        if self.silent:
            return
        if self.as_json:
            print(json.dumps({"event": "progress", **event}), flush=True)
        elif "fraction" in event and sys.stderr.isatty():
            self._show(event)
        elif not self._is_soon(event):
            print(event["message"], file=sys.stderr, flush=True)

    def _is_soon(self, event: dict[str, Any]) -> bool:
        """Whether it only says how far things are, a moment after the last such line: a file that a person reads has no
        use for thousands of them."""
        if event.get("fraction", 1.0) >= 1.0:
            return False
        soon = time.monotonic() - self.told < LINE_SECONDS
        if not soon:
            self.told = time.monotonic()
        return soon

    def _show(self, event: dict[str, Any]) -> None:
        if self.bar is None:
            words = TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True))  # cut where too long
            columns = (BarColumn(bar_width=12), TaskProgressColumn(), words)
            self.bar = Progress(*columns, console=Console(stderr=True), expand=True)
            self.bar.add_task("", total=1.0)
            self.bar.start()
        self.bar.update(TaskID(0), completed=event["fraction"], description=event["message"])

    def close(self) -> None:
        """Leave the bar as it stands, and the terminal as it was."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def result(self, result: Result) -> None:
        self.close()
        if self.silent:
            return
        if self.as_json:
            print(json.dumps({"event": "result", **result}), flush=True)
        else:
            for key, value in result.items():
                print(f"{key + ':':<28} {_readable(value)}", flush=True)

    def error(self, message: str) -> None:
        self.close()
        if self.as_json:
            print(json.dumps({"event": "error", "message": message}), flush=True)
        else:
            print(f"error: {message}", file=sys.stderr, flush=True)


def _readable(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return json.dumps(_rounded(value), ensure_ascii=False) if isinstance(value, dict | list) else str(value)


def _rounded(value: Any) -> Any:
    """The same with four digits of every number that is not whole."""
    match value:
        case dict():
            return {key: _rounded(item) for key, item in value.items()}
        case list():
            return [_rounded(item) for item in value]
        case float():
            return float(f"{value:.4g}")
        case _:
            return value
