"""Who speaks in a file, told from its path relative to the corpus folder."""

import re

from snac_pipeline.errors import PipelineError

EACH_FILE = "utterance"


class SpeakerRule:
    """A path pattern compiled once; `rule(path, digest)` gives the speaker, or None where the pattern does not match.

    A file that is its own speaker is named by its content, so that renaming or swapping files changes nothing.
    `*`, `?` and `{speaker}` match within one folder name, `**` across folders. See `Corpus.speaker`.
    """

    def __init__(self, pattern: str | None, corpus: str = "") -> None:
        self.pattern = pattern
        self._expression = None
        if pattern is None or pattern == EACH_FILE:
            return
        if pattern.count("{speaker}") != 1:
            raise PipelineError(
                f"corpus {corpus}: the speaker pattern {pattern!r} must contain {{speaker}} exactly once, for example "
                f'"{{speaker}}/**" for one folder per speaker; "{EACH_FILE}" makes every file its own speaker'
            )
        self._expression = re.compile(_regular_expression(pattern), re.DOTALL)

    def __call__(self, path: str, digest: str) -> str | None:
        if self.pattern == EACH_FILE or (self.pattern is None and "/" not in path):
            return digest
        if self._expression is None:
            return path.split("/", 1)[0]
        found = self._expression.fullmatch(path)
        return found["speaker"] if found else None


def _regular_expression(pattern: str) -> str:
    parts = {"{speaker}": "(?P<speaker>[^/]+?)", "**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    pieces = re.split(r"(\{speaker\}|\*\*/|\*\*|\*|\?)", pattern.removeprefix("./").removeprefix("/"))
    return "".join(parts.get(piece, re.escape(piece)) for piece in pieces)
