"""The command tokens."""

import argparse
from pathlib import Path
from typing import get_args

from snac_pipeline.cli.arguments import Add, OnEvent, Result, add_limit, positive_number
from snac_pipeline.settings import LayoutName, Settings


def add_tokens(add: Add) -> None:
    tokens = add(
        "tokens",
        _tokens,
        "statistics, sequences and byte-pair encoding of the codes, or of any folder of parts or audio",
        "  snac-pipeline tokens stats\n  snac-pipeline tokens layout --layout level_offsets\n"
        "  snac-pipeline tokens bpe other/codes/0123456789abcdef --layout frame --layout level_offsets\n"
        "  snac-pipeline tokens from-audio recordings --codec examples/base_codec --limit 100 --segment-seconds 10",
    )
    tokens.add_argument(
        "what",
        choices=["stats", "layout", "bpe", "from-audio"],
        help="from-audio: encode a folder of audio, then all three",
    )
    tokens.add_argument(
        "folder",
        nargs="?",
        type=Path,
        help="a folder of parts, in place of the codes of the settings; from-audio: of audio",
    )
    tokens.add_argument(
        "--layout",
        choices=get_args(LayoutName),
        action="append",
        help="in place of the settings': how levels interleave; bpe judges all that are given",
    )
    tokens.add_argument(
        "--segment-seconds", type=positive_number, metavar="S", help="cut sequences into pieces of S seconds of audio"
    )
    tokens.add_argument("--codec", metavar="CHECKPOINT", help="from-audio: a folder or a hub id")
    tokens.add_argument(
        "--batch-seconds", type=positive_number, metavar="S", help="from-audio: audio encoded at once at most"
    )
    add_limit(tokens, "from-audio: at most N files")
    tokens.set_defaults(wrong_use=tokens.error)


def _tokens(options: argparse.Namespace, settings: Settings, on_event: OnEvent) -> Result:
    from snac_pipeline.steps.tokens import COMMANDS, analyze, from_audio

    of_audio = {"--codec": options.codec, "--limit": options.limit, "--batch-seconds": options.batch_seconds}
    if options.what == "layout" and options.layout and len(options.layout) > 1:
        options.wrong_use("sequences are of one layout; several --layout go with `tokens bpe`")
    changes = {"segment_seconds": options.segment_seconds}
    if options.layout:
        changes |= {"layout": options.layout[0], "bpe_layouts": options.layout[1:]}
    tokens = settings.tokens.model_copy(update={name: value for name, value in changes.items() if value is not None})
    settings = settings.model_copy(update={"tokens": tokens})
    if options.what != "from-audio":
        if given := [name for name, value in of_audio.items() if value is not None]:
            options.wrong_use(f"{', '.join(given)} goes with `tokens from-audio FOLDER`")
        return analyze(settings, COMMANDS[options.what], on_event, options.folder)
    if options.folder is None or options.codec is None:
        options.wrong_use(
            "from-audio needs a folder with audio and a codec: tokens from-audio FOLDER --codec CHECKPOINT"
        )
    if options.batch_seconds is not None:
        caching = settings.caching.model_copy(update={"batch_seconds": options.batch_seconds})
        settings = settings.model_copy(update={"caching": caching})
    return from_audio(settings, options.folder, options.codec, options.limit, on_event)
