"""`snac-pipeline`: every step of the pipeline from a shell.

With --json a command prints JSON objects, one per line: {"event": "progress", ...} while it works, then one
{"event": "result", ...} or {"event": "error", "message": ...}; Dagster's assets read just that. Without it, progress
goes to standard error and the result is printed for people. Exit status: 0 done, 1 failed, 2 wrong use, 130
interrupted.
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn
from rich.table import Column

from snac_pipeline.errors import PipelineError, ProcessLost
from snac_pipeline.settings import SETTINGS_VARIABLE, LayoutName, Settings, load_settings

Result = dict[str, Any]
OnEvent = Callable[[dict[str, Any]], None]

EXIT_FAILED, EXIT_INTERRUPTED = 1, 130


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = _parser().parse_args(argv)
    # Of several processes that torch.distributed.run starts only the first reports; errors are everyone's.
    speaker = _Speaker(options.json, silent=int(os.environ.get("RANK", 0)) > 0)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        speaker.result(options.command(options, load_settings(options.settings), speaker.progress))
    except ProcessLost as error:  # the process that is gone has the last word
        print(f"error: {error}", file=sys.stderr, flush=True)
        return EXIT_FAILED
    except PipelineError as error:
        speaker.error(str(error))
        return EXIT_FAILED
    except BrokenPipeError:  # whoever read our output went away: `snac-pipeline ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except KeyboardInterrupt as interrupt:
        speaker.error(str(interrupt) or "interrupted; what was done is kept: run it again to go on")
        return EXIT_INTERRUPTED
    finally:
        speaker.close()
    return 0


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


class _Speaker:
    """Says what happens, to a program or to a person; to a person at a terminal with a bar."""

    def __init__(self, as_json: bool, silent: bool):
        self.as_json, self.silent = as_json, silent
        self.bar: Progress | None = None

    def progress(self, event: dict[str, Any]) -> None:
        if self.silent:
            return
        if self.as_json:
            print(json.dumps({"event": "progress", **event}), flush=True)
        elif "fraction" in event and sys.stderr.isatty():
            self._show(event)
        else:
            print(event["message"], file=sys.stderr, flush=True)

    def _show(self, event: dict[str, Any]) -> None:
        if self.bar is None:
            words = TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True))  # cut where too long
            columns = (BarColumn(bar_width=12), TaskProgressColumn(), words)
            self.bar = Progress(*columns, console=Console(stderr=True), expand=True)
            self.bar.add_task("", total=1.0)
            self.bar.start()
        self.bar.update(TaskID(0), completed=event["fraction"], description=event["message"])

    def close(self) -> None:
        """Leave the bar as it stands, and the terminal as it was."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def result(self, result: Result) -> None:
        self.close()
        if self.silent:
            return
        if self.as_json:
            print(json.dumps({"event": "result", **result}), flush=True)
        else:
            for key, value in result.items():
                print(f"{key + ':':<28} {_readable(value)}", flush=True)

    def error(self, message: str) -> None:
        self.close()
        if self.as_json:
            print(json.dumps({"event": "error", "message": message}), flush=True)
        else:
            print(f"error: {message}", file=sys.stderr, flush=True)


def _readable(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)


# ---- commands: library calls are imported where they are used, so that --help and wrong use answer at once ---------


def _scan(options: argparse.Namespace, settings: Settings, on_event: OnEvent) -> Result:
    from snac_pipeline.steps.corpus import scan_corpus

    names = options.corpus or list(settings.corpora)
    results = {name: scan_corpus(settings, name, options.limit, on_event) for name in names}
    return results[names[0]] if len(names) == 1 else results


def _split(options: argparse.Namespace, settings: Settings, on_event: OnEvent) -> Result:
    from snac_pipeline.steps.corpus import export_splits, split_corpora

    if options.copy and options.export is None:
        options.wrong_use("--copy says how files are exported; give --export DIR too")
    figures = split_corpora(settings)
    if options.export is None:
        return figures
    return {**figures, "export": export_splits(settings, options.export, options.copy, on_event)}


def _info(options: argparse.Namespace, settings: Settings, on_event: OnEvent) -> Result:
    from snac_pipeline.codec import SNAC
    from snac_pipeline.steps.codes import base_codec, describe_codec

    if options.codec is None:
        return describe_codec(settings, base_codec(settings)[0], settings.base_codec.source)
    return describe_codec(settings, SNAC.from_pretrained(options.codec), options.codec)


def _cache(options: argparse.Namespace, settings: Settings, on_event: OnEvent) -> Result:
    from snac_pipeline.steps.codes import cache

    corpora = options.corpus or list(settings.corpora)
    return cache(settings, corpora, options.verify, on_event, retry_quarantined=options.retry_quarantined)


def _codes(options: argparse.Namespace, settings: Settings, on_event: OnEvent) -> Result:
    from snac_pipeline.steps.codes import compact_codes, verify_codes
    from snac_pipeline.steps.garbage import collect_garbage

    if options.what == "gc":
        return collect_garbage(settings, options.delete)
    if options.what == "compact":
        return compact_codes(settings, options.dry_run)
    figures = verify_codes(settings, options.corpus or list(settings.corpora), options.sample)
    if figures["errors"] and not options.exit_zero:
        raise PipelineError("\n".join([f"{len(figures['errors'])} things are wrong:", *figures["errors"]]))
    return figures


def _restore(options: argparse.Namespace, settings: Settings, on_event: OnEvent) -> Result:
    from snac_pipeline.steps.restoring import restore

    return restore(settings, on_event)


def _train(options: argparse.Namespace, settings: Settings, on_event: OnEvent) -> Result:
    from snac_pipeline.steps.training import train
    from snac_pipeline.training.stopping import Interrupted

    if options.device:
        settings = settings.model_copy(update={"devices": options.device})
    try:
        return train(settings, options.what, on_event, options.recipe, resume=options.resume)
    except Interrupted as interrupted:
        raise KeyboardInterrupt(str(interrupted)) from interrupted


def _evaluate(options: argparse.Namespace, settings: Settings, on_event: OnEvent) -> Result:
    from snac_pipeline.steps.evaluation import evaluate

    return evaluate(settings, on_event)


def _tokens(options: argparse.Namespace, settings: Settings, on_event: OnEvent) -> Result:
    from snac_pipeline.steps.tokens import COMMANDS, analyze, from_audio

    of_audio = {"--codec": options.codec, "--limit": options.limit, "--batch-seconds": options.batch_seconds}
    changes = {"layout": options.layout, "segment_seconds": options.segment_seconds}
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


def _recipe(options: argparse.Namespace, settings: Settings, on_event: OnEvent) -> Result:
    if options.file == "import":
        return _recipe_import(options)
    if options.old or options.phase or options.output or options.ignore:
        options.wrong_use("FILE alone shows a recipe; --phase, --output and --ignore go with `import OLD.json`")
    from snac_pipeline.training.recipe import load_recipe

    return load_recipe(options.file, settings.training.overlay).model_dump(mode="json")


def _recipe_import(options: argparse.Namespace) -> Result:
    if options.old is None:
        options.wrong_use("import needs the older script's JSON config: import OLD.json")
    from snac_pipeline.training.importing import import_config, write_imported

    imported = import_config(options.old, options.phase, options.ignore)
    if options.output is not None:
        write_imported(imported, options.output)
    if options.json:
        recipe = str(options.output) if options.output else imported.recipe.model_dump(mode="json")
        return {"recipe": recipe, "for_pipeline_yaml": imported.pipeline, "left_out": imported.ignored}
    written = f"wrote {options.output}; it says on top what belongs in pipeline.yaml:\n{imported.pipeline_lines()}"
    print(written if options.output else imported.text(), end="", flush=True)
    return {}


def _export(options: argparse.Namespace, settings: Settings, on_event: OnEvent) -> Result:
    from snac_pipeline.steps.export import Wanted, export

    wanted = Wanted(
        options.run, options.to, options.head, options.license, options.force, options.push, options.private
    )
    return export(settings, wanted, on_event)


def _status(options: argparse.Namespace, settings: Settings, on_event: OnEvent) -> Result:
    from snac_pipeline.status import home_status, run_line

    status = home_status(settings)
    if options.json:
        return status
    return {**status, "runs": {name: run_line(run) for name, run in status["runs"].items()}}


def _demo(options: argparse.Namespace, settings: Settings, on_event: OnEvent) -> Result:
    from snac_pipeline.demo import print_summary, run_pipeline, summary

    run_pipeline(options.settings, options.limit)
    figures = summary(settings)
    if options.json:
        return figures
    print_summary(figures)
    return {}


# ---- arguments -----------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="snac-pipeline",
        description="Fine-tune the SNAC neural audio codec on your own speech.",
        epilog="Each command does only what is not done yet. `snac-pipeline COMMAND --help` shows examples.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, function: Callable, summary: str, examples: str) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=f"examples:\n{examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(command=function)
        command.add_argument("--settings", metavar="FILE", help=f"default: ${SETTINGS_VARIABLE}, or ./pipeline.yaml")
        command.add_argument("--json", action="store_true", help="print JSON objects, one per line")
        return command

    def add_limit(command: argparse.ArgumentParser, meaning: str) -> None:
        command.add_argument("--limit", type=_positive, metavar="N", help=meaning)

    def add_corpora(command: argparse.ArgumentParser) -> None:
        command.add_argument("--corpus", action="append", metavar="NAME", help="only this corpus (may be repeated)")

    scan = add(
        "scan",
        _scan,
        "read the corpora: manifest and quarantine",
        "  snac-pipeline scan\n  snac-pipeline scan --corpus examples --limit 20",
    )
    add_corpora(scan)
    add_limit(scan, "at most N files of each corpus, for a quick try")
    split = add(
        "split",
        _split,
        "give every speaker a side, train or val, for good; export the sides as folders",
        "  snac-pipeline split\n"
        "  snac-pipeline split --export folders          # folders/train/CORPUS/SPEAKER/FILE, folders/val/...: links\n"
        "  snac-pipeline split --export folders --copy   # copies instead",
    )
    split.add_argument(
        "--export", type=Path, metavar="DIR", help="write DIR/train and DIR/val, or bring what is there up to date"
    )
    split.add_argument("--copy", action="store_true", help="export copies instead of symbolic links")
    split.set_defaults(wrong_use=split.error)
    info = add("info", _info, "describe a codec", "  snac-pipeline info\n  snac-pipeline info examples/base_codec")
    info.add_argument("codec", nargs="?", help="a folder or a hub id; the base codec of the settings when absent")
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
    codes = add(
        "codes",
        _codes,
        "check the cached codes, and clear up",
        "  snac-pipeline codes verify\n  snac-pipeline codes verify --sample 64\n"
        "  snac-pipeline codes compact --dry-run\n  snac-pipeline codes compact\n"
        "  snac-pipeline codes gc\n  snac-pipeline codes gc --delete",
    )
    codes.add_argument(
        "what",
        choices=["verify", "compact", "gc"],
        help="verify: check all of them; compact: make few parts of many small ones; gc: find what nothing needs",
    )
    codes.add_argument("--dry-run", action="store_true", help="compact: only tell what would be merged")
    codes.add_argument("--delete", action="store_true", help="gc: delete what was found, instead of only listing it")
    codes.add_argument(
        "--exit-zero", action="store_true", help="verify: errors are a result, for programs that read `errors`"
    )
    codes.add_argument("--sample", type=_positive, metavar="N", help="verify: encode N utterances again, alone")
    add_corpora(codes)
    add(
        "restore",
        _restore,
        "make 48 kHz audio of the recordings with the restorer of the settings",
        "  snac-pipeline restore\n  snac-pipeline restore --settings my-pipeline.yaml",
    )
    train = add(
        "train",
        _train,
        "train a decoder of the settings, or a recipe; goes on where it stopped",
        "  snac-pipeline train decoder_24khz\n  snac-pipeline train decoder_24khz --recipe tried.yaml\n"
        "  snac-pipeline train recipes/scratch.yaml\n"
        "  nohup snac-pipeline train recipes/phase12.yaml --device 0 &\n"
        "  snac-pipeline train decoder_24khz --device 0 --device 1 --resume\n"
        "  torchrun --nnodes 2 --nproc-per-node 8 --rdzv-endpoint HOST:29500 -m snac_pipeline.cli train decoder_24khz",
    )
    train.add_argument("what", help="decoder_24khz, decoder_48khz, decoder_dual_head, or a recipe file")
    train.add_argument(
        "--recipe", type=Path, metavar="FILE", help="train the decoder by this whole recipe, not by the settings'"
    )
    train.add_argument(
        "--device",
        action="append",
        type=_device,
        metavar="DEVICE",
        help="in place of the settings' devices: a GPU's number, cuda:N or cpu (several: a process for each)",
    )
    train.add_argument("--resume", action="store_true", help="fail when there is no begun run to go on with")
    add(
        "evaluate",
        _evaluate,
        "compare base and trained decoders on held-out speech; write the report",
        "  snac-pipeline evaluate",
    )
    tokens = add(
        "tokens",
        _tokens,
        "statistics, sequences and byte-pair encoding of the codes, or of any folder of parts or audio",
        "  snac-pipeline tokens stats\n  snac-pipeline tokens layout --layout level_offsets\n"
        "  snac-pipeline tokens bpe other/codes/0123456789abcdef\n"
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
        "--layout", choices=get_args(LayoutName), help="in place of the settings': how levels interleave"
    )
    tokens.add_argument(
        "--segment-seconds", type=_seconds, metavar="S", help="cut sequences into pieces of S seconds of audio"
    )
    tokens.add_argument("--codec", metavar="CHECKPOINT", help="from-audio: a folder or a hub id")
    tokens.add_argument("--batch-seconds", type=_seconds, metavar="S", help="from-audio: audio encoded at once at most")
    add_limit(tokens, "from-audio: at most N files")
    tokens.set_defaults(wrong_use=tokens.error)
    recipe = add(
        "recipe",
        _recipe,
        "check a recipe and show its defaults, or make one from an older script's JSON config",
        "  snac-pipeline recipe recipes/phase10.yaml\n  snac-pipeline recipe import old.json --phase phase10\n"
        "  snac-pipeline recipe import old.json --phase phase12 --output recipes/mine.yaml --ignore wandb_project",
    )
    recipe.add_argument("file", metavar="FILE | import", help="a recipe, or the word `import`")
    recipe.add_argument("old", nargs="?", type=Path, metavar="OLD.json", help="import: the older config")
    recipe.add_argument("--phase", choices=["phase10", "phase11", "phase12"], help="import: where OLD.json lacks it")
    recipe.add_argument("--output", type=Path, metavar="FILE", help="import: write the recipe, instead of printing it")
    recipe.add_argument("--ignore", action="append", default=[], metavar="KEY", help="import: leave out this key")
    recipe.set_defaults(wrong_use=recipe.error)
    export = add(
        "export",
        _export,
        "a trained decoder for others: a codec folder with its model card, or a model on the hub",
        "  snac-pipeline export decoder_24khz --to exported --license cc-by-4.0\n"
        "  snac-pipeline export decoder_dual_head --to exported-24khz --head 24000\n"
        "  snac-pipeline export phase10-0123456789ab --to hub:me/my-codec --license mit --push",
    )
    export.add_argument("run", help="a decoder of the settings, a run's name, or a run's folder")
    export.add_argument("--to", required=True, metavar="DIR|hub:OWNER/NAME", help="where to; hub: uploads with --push")
    export.add_argument("--head", type=_positive, metavar="HZ", help="only the output at this rate")
    export.add_argument("--license", metavar="ID", help="licence of the weights, for the card: mit, cc-by-4.0, ...")
    export.add_argument("--force", action="store_true", help="replace a folder that is no export, with all in it")
    export.add_argument("--push", action="store_true", help="upload to the hub (HF_TOKEN, or a login)")
    export.add_argument("--private", action="store_true", help="a repository that --push makes is private")
    add("status", _status, "what is there: corpora, codes, and runs with how far they are", "  snac-pipeline status")
    demo = add(
        "demo",
        _demo,
        "run the whole pipeline through Dagster and sum it up",
        "  snac-pipeline demo\n  snac-pipeline demo --settings my-pipeline.yaml --limit 50",
    )
    add_limit(demo, "at most N files of each corpus, for a quick try")
    return parser


def _device(text: str) -> str:
    return f"cuda:{text}" if text.isascii() and text.isdigit() else text


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds above 0")
    return seconds


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 up")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
