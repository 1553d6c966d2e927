"""The command evaluate."""

import argparse

from snac_pipeline.cli.arguments import Add, OnEvent, Result
from snac_pipeline.cli.devices import devices_held
from snac_pipeline.settings import Settings, naming_words


def add_evaluate(add: Add) -> None:
    add(
        "evaluate",
        _evaluate,
        "compare base and trained decoders on held-out speech; write the report",
        "  snac-pipeline evaluate",
    )


def _evaluate(options: argparse.Namespace, settings: Settings, on_event: OnEvent) -> Result:
    from snac_pipeline.steps.evaluation import evaluate

    command = " ".join(["snac-pipeline", "evaluate", *naming_words(options.settings)])
    with devices_held(options, settings, on_event) as held:
        result = evaluate(held, on_event, command)
    if not options.json:  # what the report shows in tables
        for name in ("table", "worst", "missing", "codebook", "versions", "sounds"):
            del result[name]
    return result
