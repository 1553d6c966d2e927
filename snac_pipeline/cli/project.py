"""Commands about everything there is: status, gc, runs, demo."""

import argparse
import sys

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


def add_gc(add: Add) -> None:
    gc = add(
        "gc",
        _gc,
        "find what nothing needs any more, in codes and among old results, and delete it when asked to",
        "  snac-pipeline gc\n  snac-pipeline gc --keep phase10-0123456789ab\n  snac-pipeline gc --delete",
    )
    gc.add_argument("--delete", action="store_true", help="delete what was found, instead of only listing it")
    gc.add_argument(
        "--keep", action="append", default=[], metavar="NAME", help="keep this run, evaluation or token result"
    )


def _gc(options: argparse.Namespace, settings: Settings, on_event: OnEvent) -> Result:
    from snac_pipeline.steps.garbage import collect_garbage

    return collect_garbage(settings, options.delete, options.keep)


def add_runs(add: Add) -> None:
    runs = add(
        "runs",
        _runs,
        "Dagster's runs that have not ended; free those whose process was killed",
        "  snac-pipeline runs list\n  snac-pipeline runs free",
    )
    runs.add_argument(
        "verb",
        choices=["list", "free"],
        help="list: all that have begun and not ended; free: mark those as failed whose process is gone, which keep "
        "the places of others",
    )
    runs.add_argument("run", nargs="*", metavar="RUN", help="free: only these, by their ids")
    runs.set_defaults(needs_settings=False)


def _runs(options: argparse.Namespace, settings: Settings | None, on_event: OnEvent) -> Result:
    from snac_pipeline.engine import run_child

    result = run_child([sys.executable, "-m", "resources.runs", options.verb, *options.run], on_event)
    return result if options.json else {name: value for name, value in result.items() if name != "runs"}


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
