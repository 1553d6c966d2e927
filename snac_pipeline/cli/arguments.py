"""What commands share: the types of their functions, exit statuses, and kinds of arguments."""

import argparse
from collections.abc import Callable
from typing import Any

Result = dict[str, Any]
OnEvent = Callable[[dict[str, Any]], None]
Add = Callable[..., argparse.ArgumentParser]
"""Add a command: its name, its function, a summary, examples."""

EXIT_FAILED, EXIT_WRONG_USE, EXIT_INTERRUPTED = 1, 2, 130


def add_limit(command: argparse.ArgumentParser, meaning: str) -> None:
    """--limit, from 1; meaning: for --help."""
    command.add_argument("--limit", type=positive, metavar="N", help=meaning)


def add_corpora(command: argparse.ArgumentParser) -> None:
    """--corpus, which may be repeated."""
    command.add_argument("--corpus", action="append", metavar="NAME", help="only this corpus (may be repeated)")


def device(text: str) -> str:
    """A device of torch's; a number is that GPU's."""
    return f"cuda:{text}" if text.isascii() and text.isdigit() else text


def positive_number(text: str) -> float:
    """A finite number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return number


def seed(text: str) -> int:
    """A whole number of 63 bits."""
    if not text.isascii() or not text.isdigit() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 0 to 2^63 - 1")
    return int(text)


def positive(text: str) -> int:
    """A whole number from 1."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 up")
    return int(text)
