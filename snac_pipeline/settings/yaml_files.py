"""YAML files -> typed models, and what is wrong with them in words of YAML: settings and recipes are read alike."""

import re
import reprlib
from collections.abc import Hashable
from pathlib import Path
from typing import Any, TypeVar, get_args

import pydantic
import yaml
from pydantic_core import ErrorDetails

from snac_pipeline.errors import PipelineError

Model = TypeVar("Model", bound=pydantic.BaseModel)


class Section(pydantic.BaseModel):
    """A part of the settings: unknown keys are refused, values do not change."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


def read_yaml(file: Path) -> dict[str, Any]:
    """A YAML file's mapping. Numbers such as 1e-4, which YAML 1.1 takes for text, are numbers here.

    A key that is there twice is an error, not, as in YAML, a way to lose the first.
    """
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError as error:
        raise PipelineError(f"{file} does not exist; give the path of a YAML file") from error
    except OSError as error:
        raise PipelineError(f"{file} cannot be read: {error.strerror}; give the path of a YAML file") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # such as bytes that are no text, 2020-99-99
        raise PipelineError(f"{file} is not valid YAML: {_in_one_line(error)}") from error
    if not isinstance(content, dict):
        found = "is empty" if content is None else f"holds a {type(content).__name__}"
        raise PipelineError(f"{file} {found}; it must hold `key: value` lines")
    return content


def parse_model(model: type[Model], content: dict[str, Any], source: str) -> Model:
    """`content` as a `model`; PipelineError lists every wrong key with its place in `source`."""
    try:
        return model.model_validate(content)
    except pydantic.ValidationError as error:
        lines = []
        for problem in error.errors():
            key = ".".join(str(part) for part in problem["loc"]) or "the file"
            if problem["type"] == "extra_forbidden":
                lines.append(f"unknown key `{key}` (known here: {', '.join(_known_keys(model, problem['loc'][:-1]))})")
            else:
                lines.append(f"`{key}`: {_words(problem)}")
        raise PipelineError(f"{source}: " + "; ".join(lines)) from error


_QUOTES = "'\""
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


def _words(problem: ErrorDetails) -> str:
    """What is wrong with a value, in words of YAML, not of Python."""
    given = _SHORT.repr(problem["input"])
    match problem["type"]:
        case "missing":
            return "is missing"
        case "value_error":
            return str(problem["ctx"]["error"])
        case "model_type" | "dict_type":
            return f"must hold `key: value` lines, not {given}"
        case "list_type" | "tuple_type":
            return f"must be a list, such as [{given.strip(_QUOTES)}], not {given}"
        case "int_type" | "int_parsing" | "int_from_float":
            return f"must be a whole number, not {given}"
        case "float_type" | "float_parsing":
            return f"must be a number, not {given}"
        case "bool_type" | "bool_parsing":
            return f"must be true or false, not {given}"
        case "path_type":
            return f"must be a path, not {given}"
        case _:
            words = problem["msg"].replace("Input should be", "must be")
            return words if isinstance(problem["input"], dict | list) else f"{words}, not {given}"


def _in_one_line(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}: {error.problem}"
    return " ".join(str(error).split())


def _known_keys(kind: Any, place: tuple[int | str, ...]) -> list[str]:
    """Field names at `place` below `kind`: a section, or a list or mapping of sections."""
    if not (isinstance(kind, type) and issubclass(kind, pydantic.BaseModel)):
        kinds = [one for one in get_args(kind) if one is not type(None)]
        optional = len(kinds) < len(get_args(kind))  # Stage | None, and not list[Stage], dict[str, Head]
        return _known_keys(kinds[-1], place if optional else place[1:])
    if not place:
        return list(kind.model_fields)
    return _known_keys(kind.model_fields[str(place[0])].annotation, place[1:])


class _Loader(yaml.SafeLoader):
    """SafeLoader that also reads 1e-4 as a number and refuses a key that is there twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for name, _ in node.value:
            key = str(name.value)
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"the key `{key}` is there twice", problem_mark=name.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)
