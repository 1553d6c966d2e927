"""Restored audio from the settings' restorer."""

from pathlib import Path
from typing import Any

from snac_pipeline.codec.hub import resolve
from snac_pipeline.corpus import read_utterances
from snac_pipeline.engine.devices import find_devices
from snac_pipeline.errors import PipelineError
from snac_pipeline.settings import Settings
from snac_pipeline.steps.corpus import OnEvent
from snac_pipeline.training import restoring


def find_restorer(settings: Settings) -> restoring.Restorer:
    """The files of the settings' restorer, downloaded where it is a hub id.

    Raises PipelineError when none is named, when it cannot be had, and when a file is not in it.
    """
    options = settings.restorer
    if options.source is None:
        raise PipelineError("no restorer is named; set restorer.source in the settings to a folder or a hub id")
    names = (options.feature_extractor, options.decoder)
    folder = resolve(options.source, revision=options.revision, files=names, kind="restorer")
    for name in names:
        if not (folder / name).is_file():
            raise PipelineError(f"the restorer {options.source} has no file {name}; name its files under `restorer`")
    return restoring.Restorer(*(folder / name for name in names))


def restored_folder(settings: Settings) -> Path:
    """Where the restored audio of the settings' restorer lies."""
    return restoring.restored_folder(settings.home, find_restorer(settings))


def restore(settings: Settings, on_event: OnEvent) -> dict[str, Any]:
    """Restore the recordings of all corpora that are not restored yet."""
    utterances = read_utterances(settings.home, list(settings.corpora))
    devices = find_devices(settings.devices)
    caching = settings.caching
    return restoring.restore(
        find_restorer(settings),
        utterances,
        settings.home,
        caching.batch_seconds,
        caching.hang_seconds,
        devices,
        on_event,
    )
