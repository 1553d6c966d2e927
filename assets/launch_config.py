"""A pydantic model as a Dagster config schema: what the Launchpad opens with, documents and checks.

In: a model with values, such as a recipe. Out: its fields with these as defaults. Names and types are refused by
Dagster while one types; ranges, and what only holds for several fields together, by the model itself when one launches.
No run begins then. (A `dg.Config` with the same limits would refuse them when the run has begun.)
"""

import functools
import inspect
import types
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeGuard, Union, get_args, get_origin

import dagster as dg
import pydantic
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

from snac_pipeline.settings import parse_model

SCALARS = {bool: bool, int: int, float: float, str: str}


class LaunchConfig(dg.Field):
    """The config schema of the asset or op `name`; what it is given then has all fields of `defaults`' model."""

    def __init__(self, name: str, defaults: pydantic.BaseModel) -> None:
        super().__init__(_Checked(name, defaults))


Mapping.register(LaunchConfig)  # `dg.multi_asset` asks for one; what it hands it to takes any field


class _Checked(dg.Shape):
    """The fields of a model, and at launch the model itself."""

    def __new__(cls, name: str, defaults: pydantic.BaseModel) -> "_Checked":
        schema = object.__new__(cls)  # not one of Dagster's cache, which holds plain shapes
        schema._initialized = False
        return schema

    def __init__(self, name: str, defaults: pydantic.BaseModel) -> None:
        super().__init__(_fields(type(defaults), defaults.model_dump(mode="json")))  # type: ignore[no-untyped-call]
        self.name, self.model = name, type(defaults)

    def post_process(self, value: Mapping[str, Any]) -> dict[str, Any]:
        """Called by Dagster with the defaults filled in, before there is a run. The PipelineError is what it shows."""
        return parse_model(self.model, dict(value), f"config of {self.name}").model_dump(mode="json")


def _fields(model: type[pydantic.BaseModel], values: Mapping[str, Any] | None = None) -> dict[str, dg.Field]:
    """Fields of `model` with `values` as defaults, or without these with its own defaults."""
    fields = {}
    for name, info in model.model_fields.items():
        default = info.get_default(call_default_factory=True) if values is None else values[name]
        if default is PydanticUndefined:
            fields[name] = dg.Field(_type(info.annotation), description=_meaning(info))
        elif _is_section(info.annotation):
            nested = to_jsonable_python(default)
            fields[name] = dg.Field(dg.Shape(_fields(info.annotation, nested)), description=_meaning(info))
        else:
            value = to_jsonable_python(default)
            fields[name] = dg.Field(
                _type(info.annotation), default_value=value, is_required=False, description=_meaning(info)
            )
    return fields


def _meaning(info: FieldInfo) -> str | None:
    """What the model says of a field, or else of the section, the list or the mapping of sections, that it is."""
    kinds = (info.annotation, *get_args(info.annotation))
    return info.description or next((inspect.getdoc(kind) for kind in kinds if _is_section(kind)), None)


def _type(annotation: Any) -> Any:
    """The config type of a field's annotation; Any where Dagster has none that says it."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0])
    if origin in (Union, types.UnionType):
        kinds = [kind for kind in arguments if kind is not types.NoneType]
        return dg.Noneable(_type(kinds[0])) if len(kinds) == 1 < len(arguments) else dg.Any
    if origin is Literal:
        return _choice(arguments) if all(isinstance(value, str) for value in arguments) else dg.Any
    if origin in (list, tuple):
        return dg.Array(_type(arguments[0]))
    if origin is dict:
        return dg.Permissive() if arguments[1] is Any else dg.Map(str, _type(arguments[1]))
    if _is_section(annotation):
        return dg.Shape(_fields(annotation))
    return SCALARS.get(annotation, dg.Any)


@functools.cache
def _choice(values: tuple[str, ...]) -> dg.Enum:
    """One of some words. Dagster knows enums by their names, which therefore follow from the words."""
    return dg.Enum("_or_".join(values), [dg.EnumValue(value) for value in values])


def _is_section(annotation: Any) -> TypeGuard[type[pydantic.BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel)
