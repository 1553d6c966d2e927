"""Commands about recordings: scan, split."""

import argparse
from pathlib import Path

from snac_pipeline.cli.arguments import Add, OnEvent, Result, add_corpora, add_limit
from snac_pipeline.settings import Settings


def add_scan(add: Add) -> None:
    scan = add(
        "scan",
        _scan,
        "read the corpora: manifest and quarantine",
        "  snac-pipeline scan\n  snac-pipeline scan --corpus examples --limit 20",
    )
    add_corpora(scan)
    add_limit(scan, "at most N files of each corpus, for a quick try")


def _scan(options: argparse.Namespace, settings: Settings, on_event: OnEvent) -> Result:
    from snac_pipeline.steps.corpus import first_set_aside, scan_corpus

    names = options.corpus or list(settings.corpora)
    results = {name: scan_corpus(settings, name, options.limit, on_event) for name in names}
    if not options.json:  # programs read the quarantine itself
        results = {name: {**result, **first_set_aside(settings, name)} for name, result in results.items()}
    return results[names[0]] if len(names) == 1 else results


def add_split(add: Add) -> None:
    split = add(
        "split",
        _split,
        "give every speaker a side, train, val or test, for good; export the sides as folders",
        "  snac-pipeline split\n"
        "  snac-pipeline split --export folders          # folders/train/CORPUS/SPEAKER/FILE, folders/val/...: links\n"
        "  snac-pipeline split --export folders --copy   # copies instead",
    )
    split.add_argument(
        "--export",
        type=Path,
        metavar="DIR",
        help="write DIR/train, DIR/val and DIR/test, or bring what is there up to date",
    )
    split.add_argument("--copy", action="store_true", help="export copies instead of symbolic links")
    split.set_defaults(wrong_use=split.error)


def _split(options: argparse.Namespace, settings: Settings, on_event: OnEvent) -> Result:
    from snac_pipeline.steps.corpus import export_splits, split_corpora

    if options.copy and options.export is None:
        options.wrong_use("--copy says how files are exported; give --export DIR too")
    figures = split_corpora(settings)
    if options.export is None:
        return figures
    return {**figures, "export": export_splits(settings, options.export, options.copy, on_event)}
