"""How results of commands become what Dagster shows and compares: metadata, and versions of single partitions."""

import base64
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg

from snac_pipeline.files import value_digest

LARGEST_PICTURE = 50_000
"""Bytes; a picture in the metadata costs 3.5 times its size in Dagster's database."""


class Outcome(NamedTuple):
    """What one partition of an asset has become."""

    version: str
    metadata: Mapping[str, Any]


def shown(
    result: Mapping[str, Any],
    *,
    paths: Collection[str] = (),
    pictures: Collection[str] = (),
    tables: Collection[str] = (),
    hide: Collection[str] = (),
) -> dict[str, dg.MetadataValue]:
    """A command's result as metadata: numbers (which the UI plots), text, `paths`, `pictures` by their path,
    `tables` (rows of scalars by name). What is worth a look comes first, paths and digests last.

    The version is left out, Dagster shows it by itself; so is what has no value.
    """
    metadata: dict[str, dg.MetadataValue] = {}
    for name, value in result.items():
        if value in (None, [], {}) or name in ("version", *hide):
            continue
        if name in pictures:
            metadata |= _picture(name, Path(value))
        elif name in tables:
            metadata[name] = dg.MetadataValue.table([dg.TableRecord(_rounded(row)) for row in value])
        elif name in paths:
            metadata[name] = dg.MetadataValue.path(value)
        elif isinstance(value, dict) and not any(map(_is_nested, value.values())):
            metadata |= {f"{name}_{key}": _scalar(item) for key, item in value.items()}
        elif isinstance(value, list) and not any(map(_is_nested, value)):
            metadata[name] = dg.MetadataValue.text(", ".join(map(str, _rounded(value))))
        elif _is_nested(value):
            metadata[name] = dg.MetadataValue.json(_rounded(value))
        else:
            metadata[name] = _scalar(value)
    return dict(sorted(metadata.items(), key=lambda item: _place(item[1])))


def _is_nested(value: Any) -> bool:
    return isinstance(value, dict | list)


def _place(value: dg.MetadataValue) -> int:
    """Where in the list it comes."""
    match value:
        case dg.MarkdownMetadataValue():  # the pictures
            return 0
        case dg.TableMetadataValue() | dg.JsonMetadataValue():
            return 2
        case dg.PathMetadataValue():
            return 3
        case dg.TextMetadataValue() if re.fullmatch("[0-9a-f]{12,}", value.text or ""):
            return 4
        case _:
            return 1


def materialize_partitions(
    context: dg.AssetExecutionContext, asset: str, outcomes: Mapping[str, Outcome]
) -> Iterator[dg.MaterializeResult[None] | dg.AssetMaterialization]:
    """Events for the partitions of one run, each with its own data version.

    Dagster gives all partitions of a run one version. So where there are several, its events come first, for what they
    know of the inputs; ours follow with the same tags and the partition's own version and metadata. The last counts.
    """
    if len(outcomes) == 1:
        [outcome] = outcomes.values()
        yield dg.MaterializeResult(
            asset_key=asset, data_version=dg.DataVersion(outcome.version), metadata=outcome.metadata
        )
        return
    together = value_digest({partition: outcome.version for partition, outcome in outcomes.items()})
    yield dg.MaterializeResult(asset_key=asset, data_version=dg.DataVersion(together))
    event = context.instance.get_latest_materialization_event(dg.AssetKey(asset))
    assert event is not None and event.asset_materialization is not None
    tags = event.asset_materialization.tags
    for partition, outcome in outcomes.items():
        yield dg.AssetMaterialization(
            asset_key=asset,
            partition=partition,
            metadata=outcome.metadata,
            tags={**tags, "dagster/data_version": outcome.version},
        )


def _scalar(value: Any) -> dg.MetadataValue:
    match value:
        case bool():
            return dg.MetadataValue.bool(value)
        case int():
            return dg.MetadataValue.int(value)
        case float():
            return dg.MetadataValue.float(_rounded(value))
        case _:
            return dg.MetadataValue.text(str(value))


def _rounded(value: Any) -> Any:
    """What is read and plotted: numbers to four digits, or to the unit where they have more before the point."""
    match value:
        case float():
            return float(f"{value:.4g}") if abs(value) < 1000 else round(value, 0)
        case dict():
            return {name: _rounded(item) for name, item in value.items()}
        case list():
            return [_rounded(item) for item in value]
        case _:
            return value


def _picture(name: str, file: Path) -> dict[str, dg.MetadataValue]:
    metadata: dict[str, dg.MetadataValue] = {f"{name}_file": dg.MetadataValue.path(file)}
    content = file.read_bytes()
    if len(content) <= LARGEST_PICTURE:
        metadata[name] = dg.MetadataValue.md(f"![{name}](data:image/png;base64,{base64.b64encode(content).decode()})")
    return metadata
