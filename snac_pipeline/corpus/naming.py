"""Names of files are bytes on POSIX and text in parquet, JSON and messages: the stored form stands between them.

It is UTF-8 with every byte that is not UTF-8 written `\\xNN` and every backslash doubled: readable, one to one.
"""

import os
import re


def stored_path(path: str) -> str:
    """An operating-system path (surrogate escapes allowed) in the form kept in parquet."""
    return os.fsencode(path).replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")


def os_path(stored: str) -> str:
    """The inverse of `stored_path`."""
    if "\\" not in stored:
        return stored
    unescaped = re.sub(
        rb"\\(\\|x[0-9a-f]{2})",
        lambda found: b"\\" if found[1] == b"\\" else bytes([int(found[1][1:], 16)]),
        os.fsencode(stored),
    )
    return os.fsdecode(unescaped)


def openable(path: str | bytes | os.PathLike) -> bytes:
    """The bytes to open for a path as the system gives it or in stored form; they differ for odd names only."""
    name = os.fsencode(path)
    if b"\\" in name and not os.path.lexists(name):
        return os.fsencode(os_path(os.fsdecode(name)))
    return name
