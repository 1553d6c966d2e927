"""Which devices a command works on, while others work here too."""

import argparse
import contextlib

from snac_pipeline.cli.arguments import OnEvent
from snac_pipeline.settings import Settings


def devices_held(
    options: argparse.Namespace, settings: Settings, on_event: OnEvent
) -> contextlib.AbstractContextManager[Settings]:
    """The settings with the devices that are free for this command; Ray has its own account of its machines'.

    A training takes all of them or none; everything else does with those that are free.
    """
    from snac_pipeline.guard.sharing import on_devices

    if options.name in ("cache", "evaluate") and settings.caching.engine == "ray":
        return contextlib.nullcontext(settings)
    doing = f"snac-pipeline {options.name} in {settings.home}"
    return on_devices(
        settings, doing, lambda words: on_event({"message": words}), rest_is_enough=options.name != "train"
    )
