"""What documents show: commands, and tables of keys with the keys of the code that they have to be about."""

import re
import shlex
import types
import typing
from pathlib import Path

import pydantic
from pydantic.fields import FieldInfo


def keys(model: type[pydantic.BaseModel], before: str = "") -> dict[str, FieldInfo]:
    """Every key that holds a value, by its place: "caching.verify", "corpora.<name>.path", "stages[].epochs"."""
    found = {}
    for name, field in model.model_fields.items():
        kind, place = field.annotation, before + name
        if typing.get_origin(kind) is dict:
            kind, place = typing.get_args(kind)[-1], place + ".<name>"
        elif typing.get_origin(kind) is list and _is_section(typing.get_args(kind)[0]):
            kind, place = typing.get_args(kind)[0], place + "[]"
        if _is_section(kind):
            found |= keys(kind, place + ".")
        else:
            found[place] = field
    return found


def _is_section(kind: object) -> bool:
    is_class = isinstance(kind, type) and not isinstance(kind, types.GenericAlias)
    return is_class and issubclass(kind, pydantic.BaseModel)


def default_of(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return "null" if value is None else str(value)


def rows_of(document: Path, section: str = "") -> dict[str, list[str]]:
    """The rows of a document's tables, or of those below the heading `section`: cells after the key, by key."""
    text = document.read_text()
    if section:
        text = text.split(f"\n## {section}\n")[1].split("\n## ")[0]
    rows = {}
    for line in text.splitlines():
        if line.startswith("| `"):
            key, *cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            rows[key.strip("`")] = cells
    return rows


def blocks(text: str, language: str) -> list[str]:
    """What a document shows in that language (a regular expression), block by block."""
    return re.findall(rf"^```(?:{language})\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


SHELLS = "bash|sh|console"
PROGRAMS = r"(?:\.venv/bin/)?(?:snac-pipeline|dagster|python|make|torchrun)"


def commands(document: Path) -> list[list[str]]:
    """The words of every shell command that a document shows: in blocks for a shell, and in indented ones.

    Without comments, what stands in front (nohup, VARIABLE=value) and what follows the command (a pipe, &).
    """
    text = document.read_text()
    lines = re.sub(r"\\\n *", "", "".join(blocks(text, SHELLS))).splitlines()
    outside = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    lines += re.findall(rf"^    ({PROGRAMS} .*)", outside, re.MULTILINE)
    return [words for line in lines if (words := command_of(line))]


def command_of(line: str) -> list[str]:
    """The words of one command; none in a line that is empty or a comment."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    words = list(lexer)
    ends = [place for place, word in enumerate(words) if set(word) <= set("|&;<>")]
    words = words[: ends[0]] if ends else words
    while words and (words[0] in ("nohup", "$") or re.match(r"[A-Z_]+=", words[0])):
        words = words[1:]
    return [words[0].removeprefix(".venv/bin/"), *words[1:]] if words else []


def mentions(text: str) -> list[list[str]]:
    """The words of every `snac-pipeline ...` inside a sentence."""
    return [found.split() for found in re.findall(r"`snac-pipeline ([^`]+)`", text)]
