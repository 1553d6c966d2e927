"""Commands about the code cache: cache, codes, restore."""

import argparse

from snac_pipeline.cli.arguments import Add, OnEvent, Result, add_corpora, positive
from snac_pipeline.cli.devices import devices_held
from snac_pipeline.errors import PipelineError
from snac_pipeline.settings import Settings


def add_cache(add: Add) -> None:
    cache = add(
        "cache",
        _cache,
        "encode what is not encoded yet",
        "  snac-pipeline cache\n  snac-pipeline cache --retry-quarantined",
    )
    add_corpora(cache)
    cache.add_argument(
        "--no-verify", dest="verify", action="store_false", help="do not encode a sample again to compare"
    )
    cache.add_argument(
        "--retry-quarantined", action="store_true", help="try again the utterances that no worker survived"
    )


def _cache(options: argparse.Namespace, settings: Settings, on_event: OnEvent) -> Result:
    from snac_pipeline.steps.codes import cache

    corpora = options.corpus or list(settings.corpora)
    with devices_held(options, settings, on_event) as held:
        return cache(held, corpora, options.verify, on_event, retry_quarantined=options.retry_quarantined)


def add_codes(add: Add) -> None:
    codes = add(
        "codes",
        _codes,
        "check the cached codes, and make few parts of many",
        "  snac-pipeline codes verify\n  snac-pipeline codes verify --sample 64\n"
        "  snac-pipeline codes compact --dry-run\n  snac-pipeline codes compact",
    )
    codes.add_argument(
        "what",
        choices=["verify", "compact"],
        help="verify: check all of them; compact: make few parts of many small ones",
    )
    codes.add_argument("--dry-run", action="store_true", help="compact: only tell what would be merged")
    codes.add_argument(
        "--exit-zero", action="store_true", help="verify: errors are a result, for programs that read `errors`"
    )
    codes.add_argument("--sample", type=positive, metavar="N", help="verify: encode N utterances again, alone")
    add_corpora(codes)


def _codes(options: argparse.Namespace, settings: Settings, on_event: OnEvent) -> Result:
    from snac_pipeline.steps.codes import compact_codes, verify_codes

    if options.what == "compact":
        return compact_codes(settings, options.dry_run)
    with devices_held(options, settings, on_event) as held:
        figures = verify_codes(held, options.corpus or list(settings.corpora), options.sample)
    if figures["errors"] and not options.exit_zero:
        many = len(figures["errors"])
        what = "1 thing is wrong:" if many == 1 else f"{many} things are wrong:"
        raise PipelineError("\n".join([what, *figures["errors"]]))
    return figures


def add_restore(add: Add) -> None:
    add(
        "restore",
        _restore,
        "make 48 kHz audio of the recordings with the restorer of the settings",
        "  snac-pipeline restore\n  snac-pipeline restore --settings my-pipeline.yaml",
    )


def _restore(options: argparse.Namespace, settings: Settings, on_event: OnEvent) -> Result:
    from snac_pipeline.steps.restoring import restore

    with devices_held(options, settings, on_event) as held:
        return restore(held, on_event)
