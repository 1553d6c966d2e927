"""Who speaks in a file: told by a table of metadata, by its path, or by the list that names the file."""

import re
from pathlib import Path

import polars as pl

from snac_pipeline.corpus.lists import read_speaker_table
from snac_pipeline.corpus.naming import URL
from snac_pipeline.errors import PipelineError

EACH_FILE = "utterance"

# In place of a name, for a file that is its own speaker: it is named by its content, so that renaming or swapping
# files changes nothing.
BY_CONTENT = ""


class SpeakerRule:
    """A path pattern compiled once. `rule.of(path)` is the expression for the speaker of a path relative to the corpus:
    null where the pattern does not match, BY_CONTENT where the file is its own speaker.

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
        self._expression = rf"(?s)\A{_regular_expression(pattern)}\z"

    def of(self, path: pl.Expr) -> pl.Expr:
        if self.pattern == EACH_FILE:
            return pl.lit(BY_CONTENT)
        if self._expression is not None:
            return path.str.extract(self._expression, 1)
        elsewhere = path.str.contains(f"^(/|{URL})")  # of a list: no folder of the corpus
        first_folder = path.str.extract(r"(?s)\A([^/]*)/", 1).fill_null(BY_CONTENT)
        return pl.when(elsewhere).then(None).otherwise(first_folder)


def with_speakers(
    files: pl.DataFrame, rule: SpeakerRule, metadata: str | Path | None, root: str
) -> tuple[pl.DataFrame, str]:
    """`files` with the column `speaker` as `SpeakerRule.of` gives it, and why a file may have none.

    The metadata comes first, then the rule's pattern, then the list's own column (`speaker` of `files`, where any is
    named), then the first folder.
    """
    if metadata is not None:
        table = read_speaker_table(metadata, root)
        named = files.drop("speaker").join(table, on="path", how="left", maintain_order="left")
        return named, f"the metadata {metadata} names no speaker for this path"
    if rule.pattern is None and files["speaker"].null_count() < len(files):
        return files, "the list names no speaker for this path"
    if rule.pattern is None:
        why = (
            "this file is outside the list's folder, where no folder names its speaker; add a column `speaker` to the "
            "list, or a `speaker` pattern"
        )
    else:
        why = f"the speaker pattern {rule.pattern!r} does not match this path"
    return files.with_columns(speaker=rule.of(pl.col("path"))), why


def _regular_expression(pattern: str) -> str:
    parts = {"{speaker}": "([^/]+?)", "**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    pieces = re.split(r"(\{speaker\}|\*\*/|\*\*|\*|\?)", pattern.removeprefix("./").removeprefix("/"))
    return "".join(parts.get(piece, re.escape(piece)) for piece in pieces)
