"""A document's table of keys, and the keys of the code that it has to be about."""

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
