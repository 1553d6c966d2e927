"""Names of files: bytes on POSIX, text in parquet, JSON and messages; or a URL of a store that fsspec reaches.

The stored form stands between bytes and text: UTF-8 with every byte that is not UTF-8 written `\\xNN` and every
backslash doubled: readable, one to one. In URLs the path is in stored form too.
"""

import os
import re

URL = r"[A-Za-z][A-Za-z0-9+.-]*(::[A-Za-z0-9+.:-]*)?://"
"""How a URL begins, chained ones (simplecache::s3://) included; the same expression in Python and in polars."""


def is_url(path: str | bytes | os.PathLike[str]) -> bool:
    """Whether `path` is a URL for fsspec and not a path of this machine."""
    return re.match(URL, os.fsdecode(path)) is not None


def around(root: str) -> tuple[str, str]:
    """What stands before and after the path of a file below `root`, a folder or URL in stored form.

    In a chain such as "zip://speech::s3://bucket/a.zip" the path belongs to the first link that has one.
    """
    if not is_url(root):
        return root.rstrip("/") + "/", ""
    links = root.split("::")
    first = next(index for index, link in enumerate(links) if "://" in link)
    before = "::".join(links[: first + 1])
    return before if before.endswith("/") else before + "/", "".join(f"::{link}" for link in links[first + 1 :])


def stored_path(path: str) -> str:
    """An operating-system path (surrogate escapes allowed) in the form kept in parquet."""
    if path.isascii() and "\\" not in path:
        return path
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


def openable(path: str | bytes | os.PathLike[str]) -> bytes:
    """The bytes to open for a path as the system gives it or in stored form; they differ for odd names only.

    A URL stays as it is: it is always in stored form.
    """
    name = os.fsencode(path)
    if b"\\" in name and not is_url(name) and not os.path.lexists(name):
        return os.fsencode(os_path(os.fsdecode(name)))
    return name
