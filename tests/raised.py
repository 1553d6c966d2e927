"""What the library can say to its users when something is wrong: read from its source, so that nothing is forgotten."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).parents[1]
ANY = "…"
"""Stands for what differs from one case to the next, in messages and in the documents."""

LEAST = 8
"""Letters that a message, or what is quoted of one, has of its own."""

VALIDATED = ("settings/loading.py", "settings/operation.py", "settings/work.py", "training/recipe.py")
"""Where a ValueError is a sentence of a pydantic validator, and so the user's."""


class Message(NamedTuple):
    """A message with ANY in the place of every value, and where it is made."""

    text: str
    place: str


def error_classes() -> dict[str, str]:
    """Every class of user-facing errors and its module: PipelineError and what is derived from it, at any depth."""
    found = {"PipelineError": "snac_pipeline.errors"}
    definitions = [(node, module) for node, module, _ in _nodes() if isinstance(node, ast.ClassDef)]
    while new := {
        node.name: module
        for node, module in definitions
        if node.name not in found and any(isinstance(base, ast.Name) and base.id in found for base in node.bases)
    }:
        found |= new
    return found


def messages() -> list[Message]:
    """Every message of a user-facing error and every reason of the quarantine that has words of its own."""
    # Which argument has the words; errors about one file have its path first, and so have faults of a listing.
    of_one_file = dict.fromkeys(("UnreadableAudio", "UnreachableFile", "Fault", "_fault"), 1)
    words = dict.fromkeys(error_classes(), 0) | of_one_file | {"_refuse": 2}
    found = []
    for node, _, file in _nodes():
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        name, at = node.func.id, 0
        if name in words:
            at = words[name]
        elif not (name == "ValueError" and str(file).endswith(VALIDATED)):
            continue
        if len(node.args) > at:
            text = re.sub(f"{ANY}+", ANY, _text(node.args[at]))
            if sum(map(str.isalpha, text)) >= LEAST:  # else it hands on what another has said
                found.append(Message(" ".join(text.split()), f"{file.relative_to(REPOSITORY)}:{node.lineno}"))
    return found


def sentences() -> list[str]:
    """Every text in the library, with ANY in the place of values."""
    texts = (_text(node) for node, *_ in _nodes() if isinstance(node, ast.Constant | ast.JoinedStr))
    return [" ".join(text.split()) for text in texts]


def covers(quoted: str, text: str) -> bool:
    """Whether `text` has the pieces of `quoted`, which stand between the ANYs, one after the other."""
    place = 0
    for piece in quoted.split(ANY):
        found = text.find(piece.strip(), place)
        if found < 0:
            return False
        place = found + len(piece.strip())
    return True


def _nodes() -> Iterator[tuple[ast.AST, str, Path]]:
    for file in sorted(REPOSITORY.glob("snac_pipeline/**/*.py")):
        module = ".".join(file.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.walk(ast.parse(file.read_text())):
            yield node, module, file


def _text(node: ast.expr) -> str:
    """The words of an expression in their order; of a choice both sides."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_text(part) for part in parts)
        case ast.BinOp(left=left, right=right):
            return _text(left) + _text(right)
        case ast.IfExp(body=body, orelse=other):
            return f"{_text(body)}{ANY}{_text(other)}"
    return ANY
