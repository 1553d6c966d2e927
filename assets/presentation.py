"""What the UI tells of every asset beside its description: owners, where its code is, the columns of its table.

In: the assets, and `ui` of the settings. Out: the same assets with that in their specs. Put on in one place, so that
each asset says only what is its own.
"""

import inspect
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg

from snac_pipeline.settings import PROJECT, UiSettings

Definition = dg.AssetsDefinition | dg.SourceAsset | dg.AssetChecksDefinition

COLUMNS = {
    "manifest": {
        "digest": ("text", "Hash of the file's bytes: the recording's identity, whatever it is called."),
        "path": ("text", "Below the corpus's folder."),
        "corpus": ("text", "Name of the corpus in the settings."),
        "speaker": ("text", "Who speaks, as the settings tell it from the path or a list."),
        "stratum": ("text", "What the split keeps in proportion beside the corpus, if anything."),
        "format": ("text", "wav, flac, ogg, opus, mp3 or m4a, by content."),
        "num_frames": ("whole number", "Decoded samples of a channel, at the file's own rate."),
        "header_frames": ("whole number", "What the header says they are; empty where it says nothing."),
        "sample_rate": ("whole number", "Hz."),
        "channels": ("whole number", "Mixed down to one when read."),
        "duration": ("number", "Seconds."),
        "peak": ("number", "Largest sample, full scale is 1."),
        "bandwidth": ("number", "Hz, up to where there is real content."),
        "flags": ("list of texts", "What is odd, and no reason to leave it out: clipped, quiet, ..."),
        "size": ("whole number", "Bytes."),
        "mtime_ns": ("whole number", "When the file was changed, ns since 1970."),
        "ctime_ns": ("whole number", "The same of its name, owner and rights; 0 in a store."),
        "store_key": ("text", "What an object store tells of it, hashed; empty on this machine."),
    },
    "quarantine": {
        "path": ("text", "Below the corpus's folder."),
        "reason": ("text", "Why it cannot be used."),
        "stage": ("text", "The step that found it."),
        "digest": ("text", "Hash of its bytes, where they could be read."),
        "size": ("whole number", "Bytes."),
        "mtime_ns": ("whole number", "When the file was changed, ns since 1970."),
        "ctime_ns": ("whole number", "The same of its name, owner and rights; 0 in a store."),
        "store_key": ("text", "What an object store tells of it, hashed; empty on this machine."),
    },
    "splits": {
        "digest": ("text", "The recording."),
        "corpus": ("text", "Name of the corpus in the settings."),
        "speaker": ("text", "Who speaks."),
        "group": ("text", "Speakers and recordings that stay on one side together."),
        "split": ("text", "train, val or test."),
    },
    "code_cache": {
        "digest": ("text", "The recording."),
        "num_samples": ("whole number", "Its length at the codec's rate."),
        "sample_rate": ("whole number", "The codec's rate, Hz."),
        "codes_<level>": ("list of whole numbers", "A column for each level of the quantizer, codes_0 the coarsest."),
    },
    "evaluation": {
        "utterance": ("text", "Digest of the recording."),
        "model": ("text", "base, or the decoder."),
        "sample_rate": ("whole number", "Hz of what was compared."),
        "metric": ("text", "What was measured."),
        "value": ("number", "Empty where the metric is not defined."),
        "reason": ("text", "Why it is empty."),
        "note": ("text", "What to know about it, e.g. that the recording had to be resampled."),
    },
    "token_sequences": {
        "digest": ("text", "The recording."),
        "corpus": ("text", "Name of the corpus in the settings."),
        "start_frame": ("whole number", "Coarse frame of the recording where the sequence begins."),
        "input_ids": ("list of whole numbers", "What a language model reads."),
    },
}
"""Asset -> column of the parquet files that it is -> type and meaning."""


def presented(definitions: Sequence[Definition], options: UiSettings) -> list[Definition]:
    """The same definitions; checks stay as they are."""
    return [
        definition.map_asset_specs(partial(_told, _reference(definition, options), options.owners))
        if isinstance(definition, dg.AssetsDefinition)
        else definition
        for definition in definitions
    ]


def _told(reference: dg.CodeReferencesMetadataValue, owners: list[str], spec: dg.AssetSpec) -> dg.AssetSpec:
    metadata: dict[str, Any] = {"dagster/code_references": reference}
    if columns := COLUMNS.get(spec.key.to_user_string()):
        metadata["dagster/column_schema"] = _schema(columns)
    return spec.merge_attributes(owners=owners, metadata=metadata)


def _reference(definition: dg.AssetsDefinition, options: UiSettings) -> dg.CodeReferencesMetadataValue:
    """To the function that makes an asset: on the web, or else in its file, wherever this package is installed."""
    compute: Any = definition.op.compute_fn  # what decorators make of a function
    function = compute.decorated_fn
    function = inspect.getclosurevars(function).nonlocals.get("observe_fn", function)  # of an observed asset
    file, line = Path(inspect.getfile(function)), inspect.getsourcelines(function)[1]
    reference: dg.LocalFileCodeReference | dg.UrlCodeReference
    if options.code_url is None:
        reference = dg.LocalFileCodeReference(file_path=str(file), line_number=line)
    else:
        place = file.relative_to(PROJECT).as_posix()
        reference = dg.UrlCodeReference(url=f"{options.code_url.rstrip('/')}/{place}#L{line}")
    return dg.CodeReferencesMetadataValue(code_references=[reference])


def _schema(columns: dict[str, tuple[str, str]]) -> dg.TableSchema:
    return dg.TableSchema([dg.TableColumn(name, kind, meaning) for name, (kind, meaning) in columns.items()])
