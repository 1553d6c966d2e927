"""The command evaluate."""

import argparse

from snac_pipeline.cli.arguments import Add, OnEvent, Result
from snac_pipeline.settings import Settings


def add_evaluate(add: Add) -> None:
    add(
        "evaluate",
        _evaluate,
        "compare base and trained decoders on held-out speech; write the report",
        "  snac-pipeline evaluate",
    )


def _evaluate(options: argparse.Namespace, settings: Settings, on_event: OnEvent) -> Result:
    from snac_pipeline.steps.evaluation import evaluate

    result = evaluate(settings, on_event)
    if not options.json:  # a row for each decoder and metric, which the report shows
        del result["table"]
    return result
