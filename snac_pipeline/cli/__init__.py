"""`snac-pipeline`: every step of the pipeline from a shell.

With --json a command prints JSON objects, one per line: {"event": "progress", ...} while it works, then one
{"event": "result", ...} or {"event": "error", "message": ...}; Dagster's assets read just that. Without it, progress
goes to standard error and the result is printed for people. Exit status: 0 done, 1 failed, 2 wrong use, 130
interrupted. The commands about a codec alone need no settings; for them files, codes or a model that cannot be used are
wrong use too.

A module for each family of commands. Library calls are imported where they are used, so that --help and wrong use
answer at once.
"""

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

from snac_pipeline.cli import codes, corpus, evaluation, guard, project, tokens, tool, training
from snac_pipeline.cli.arguments import EXIT_FAILED, EXIT_INTERRUPTED, Result
from snac_pipeline.cli.speaker import Speaker
from snac_pipeline.errors import PipelineError, ProcessLost, trouble
from snac_pipeline.settings import SETTINGS_VARIABLE, Settings, load_settings, settings_path

COMMANDS = (
    corpus.add_scan,
    corpus.add_split,
    tool.add_info,
    tool.add_conversions,
    tool.add_onnx,
    codes.add_cache,
    codes.add_codes,
    codes.add_restore,
    project.add_gc,
    project.add_runs,
    training.add_train,
    evaluation.add_evaluate,
    tokens.add_tokens,
    training.add_recipe,
    training.add_export,
    guard.add_gpu_guard,
    project.add_status,
    project.add_demo,
)
"""In the order of --help."""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = _parser().parse_args(argv)
    # Of several processes that torch.distributed.run starts only the first reports; errors are everyone's.
    speaker = Speaker(options.json, silent=int(os.environ.get("RANK", 0)) > 0)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        speaker.result(options.command(options, _settings(options), speaker.progress))
    except ProcessLost as error:  # the process that is gone has the last word
        print(f"error: {error}", file=sys.stderr, flush=True)
        return EXIT_FAILED
    except PipelineError as error:
        speaker.error(str(error))
        status: int = options.error_status
        return status
    except BrokenPipeError:  # whoever read our output went away: `snac-pipeline ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except Exception as error:
        if (sentence := trouble(error)) is None:
            raise
        traceback.print_exc()
        speaker.error(sentence)
        return EXIT_FAILED
    except KeyboardInterrupt as interrupt:
        speaker.error(str(interrupt) or "interrupted; what was done is kept: run it again to go on")
        return EXIT_INTERRUPTED
    finally:
        speaker.close()
    return 0


def _settings(options: argparse.Namespace) -> Settings | None:
    """The settings; None for a command that can do without where none are named and there is no pipeline.yaml."""
    if options.needs_settings or options.settings or settings_path().exists():
        return load_settings(options.settings)
    return None


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="snac-pipeline",
        description="Fine-tune the SNAC neural audio codec on your own speech.",
        epilog="Each command does only what is not done yet. `snac-pipeline COMMAND --help` shows examples.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, function: Callable[..., Result], summary: str, examples: str) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=f"examples:\n{examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(command=function, name=name, needs_settings=True, error_status=EXIT_FAILED)
        command.add_argument("--settings", metavar="FILE", help=f"default: ${SETTINGS_VARIABLE}, or ./pipeline.yaml")
        command.add_argument("--json", action="store_true", help="print JSON objects, one per line")
        return command

    for add_command in COMMANDS:
        add_command(add)
    return parser
