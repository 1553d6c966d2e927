"""Commands about everything there is: status, demo."""

import argparse

from snac_pipeline.cli.arguments import Add, OnEvent, Result, add_limit
from snac_pipeline.settings import Settings


def add_status(add: Add) -> None:
    add("status", _status, "what is there: corpora, codes, and runs with how far they are", "  snac-pipeline status")


def _status(options: argparse.Namespace, settings: Settings, on_event: OnEvent) -> Result:
    from snac_pipeline.status import home_status, run_line

    status = home_status(settings)
    if options.json:
        return status
    return {**status, "runs": {name: run_line(run) for name, run in status["runs"].items()}}


def add_demo(add: Add) -> None:
    demo = add(
        "demo",
        _demo,
        "run the whole pipeline through Dagster and sum it up",
        "  snac-pipeline demo\n  snac-pipeline demo --settings my-pipeline.yaml --limit 50",
    )
    add_limit(demo, "at most N files of each corpus, for a quick try")


def _demo(options: argparse.Namespace, settings: Settings, on_event: OnEvent) -> Result:
    from snac_pipeline.demo import print_summary, run_pipeline, summary

    run_pipeline(options.settings, options.limit)
    figures = summary(settings)
    if options.json:
        return figures
    print_summary(figures)
    return {}
