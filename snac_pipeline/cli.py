"""`snac-pipeline`: every step of the pipeline from a shell.

With --json a command prints JSON objects, one per line: {"event": "progress", ...} while it works, then one
{"event": "result", ...} or {"event": "error", "message": ...}; Dagster's assets read just that. Without it, progress
goes to standard error and the result is printed for people. Exit status: 0 done, 1 failed, 2 wrong use, 130
interrupted. The commands about a codec alone need no settings; for them files, codes or a model that cannot be used are
wrong use too.
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
from snac_pipeline.settings import SETTINGS_VARIABLE, LayoutName, Settings, load_settings, settings_path

MODEL_HELP = "a codec's folder, a training run's, or a hub id"

Result = dict[str, Any]
OnEvent = Callable[[dict[str, Any]], None]

EXIT_FAILED, EXIT_WRONG_USE, EXIT_INTERRUPTED = 1, 2, 130


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = _parser().parse_args(argv)
    # Of several processes that torch.distributed.run starts only the first reports; errors are everyone's.
    speaker = _Speaker(options.json, silent=int(os.environ.get("RANK", 0)) > 0)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        speaker.result(options.command(options, _settings(options), speaker.progress))
    except ProcessLost as error:  # the process that is gone has the last word
        print(f"error: {error}", file=sys.stderr, flush=True)
        return EXIT_FAILED
    except PipelineError as error:
        speaker.error(str(error))
        return options.error_status
    except BrokenPipeError:  # whoever read our output went away: `snac-pipeline ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
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
    return json.dumps(_rounded(value), ensure_ascii=False) if isinstance(value, dict | list) else str(value)


def _rounded(value: Any) -> Any:
    """The same with four digits of every number that is not whole."""
    match value:
        case dict():
            return {key: _rounded(item) for key, item in value.items()}
        case list():
            return [_rounded(item) for item in value]
        case float():
            return float(f"{value:.4g}")
        case _:
            return value


# ---- commands: library calls are imported where they are used, so that --help and wrong use answer at once ---------


def _scan(options: argparse.Namespace, settings: Settings, on_event: OnEvent) -> Result:
    from snac_pipeline.steps.corpus import first_set_aside, scan_corpus

    names = options.corpus or list(settings.corpora)
    results = {name: scan_corpus(settings, name, options.limit, on_event) for name in names}
    if not options.json:  # programs read the quarantine itself
        results = {name: {**result, **first_set_aside(settings, name)} for name, result in results.items()}
    return results[names[0]] if len(names) == 1 else results


def _split(options: argparse.Namespace, settings: Settings, on_event: OnEvent) -> Result:
    from snac_pipeline.steps.corpus import export_splits, split_corpora

    if options.copy and options.export is None:
        options.wrong_use("--copy says how files are exported; give --export DIR too")
    figures = split_corpora(settings)
    if options.export is None:
        return figures
    return {**figures, "export": export_splits(settings, options.export, options.copy, on_event)}


def _info(options: argparse.Namespace, settings: Settings | None, on_event: OnEvent) -> Result:
    from snac_pipeline.codec import SNAC
    from snac_pipeline.steps.codes import base_codec, describe_codec

    if options.codec is None:
        settings = settings or load_settings(options.settings)
        return describe_codec(base_codec(settings)[0], settings.base_codec.source, settings.caching.precision)
    precision = settings.caching.precision if settings else "fp32"
    return describe_codec(SNAC.from_pretrained(options.codec), options.codec, precision)


def _convert(options: argparse.Namespace, settings: Settings | None, on_event: OnEvent) -> Result:
    """encode, decode, reconstruct and generate."""
    from snac_pipeline import tool
    from snac_pipeline.codec import SNAC
    from snac_pipeline.engine.devices import find_devices

    if options.json and options.to == "-":
        options.wrong_use("--json and `--to -` both want standard output")
    wanted = [options.device] if options.device else settings.devices if settings else []
    model = SNAC.from_pretrained(options.model).to(find_devices(wanted)[0])
    given = vars(options)
    how = tool.Options(**{name: given[name] for name in tool.Options.__dataclass_fields__ if name in given})
    if options.name == "generate":
        return tool.generate(model, options.codes, options.like, options.seconds, how, on_event)
    return getattr(tool, options.name)(model, options.inputs, how, on_event)


def _onnx(options: argparse.Namespace, settings: Settings | None, on_event: OnEvent) -> Result:
    from snac_pipeline.codec import SNAC
    from snac_pipeline.codec.onnx import export_onnx

    model = SNAC.from_pretrained(options.model)
    on_event({"message": "tracing, and comparing in onnxruntime: about a minute"})
    return export_onnx(model, options.to)


def _gpu_guard(options: argparse.Namespace, settings: Settings | None, on_event: OnEvent) -> Result:
    from snac_pipeline import guard

    rules = guard.Rules(options.gpu, frozenset(options.allow), options.action, not options.apply, options.grace)
    match options.verb:
        case "list":
            with guard.open_nvml() as nvml:
                seen = [(sighting, guard.judge(sighting, rules)) for sighting in guard.look(nvml, rules.gpus)]
            for sighting, verdict in seen:
                on_event({"message": f"{verdict:<9} {sighting}", **vars(sighting), "verdict": verdict})
            return {"processes": len(seen), "strangers": sum(verdict == "stranger" for _, verdict in seen)}
        case "watch":
            with guard.open_nvml() as nvml:
                for sighting, done in guard.watch(nvml, rules, options.every):
                    on_event({"message": f"{sighting}: {done}", **vars(sighting), "done": done})
            raise AssertionError("a watch ends by being interrupted")
        case "install":
            return {"unit": str(guard.install(guard.watch_arguments(rules, options.every), options.unit_dir))}
        case "logs":
            return {"logs": guard.logs(options.lines)}
        case verb:
            return {"systemctl": guard.service_command(verb)}


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
        many = len(figures["errors"])
        what = "1 thing is wrong:" if many == 1 else f"{many} things are wrong:"
        raise PipelineError("\n".join([what, *figures["errors"]]))
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

    result = evaluate(settings, on_event)
    if not options.json:  # a row for each decoder and metric, which the report shows
        del result["table"]
    return result


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
        command.set_defaults(command=function, name=name, needs_settings=True, error_status=EXIT_FAILED)
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
    info = add("info", _info, "describe a codec", "  snac-pipeline info\n  snac-pipeline info examples/base_codec")
    info.add_argument("codec", nargs="?", help=f"{MODEL_HELP}; the base codec of the settings when absent")
    info.set_defaults(needs_settings=False)
    _add_tool(add)
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
        "  torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \\\n"
        "      -m snac_pipeline.cli train decoder_24khz",
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
        "--segment-seconds", type=_positive_number, metavar="S", help="cut sequences into pieces of S seconds of audio"
    )
    tokens.add_argument("--codec", metavar="CHECKPOINT", help="from-audio: a folder or a hub id")
    tokens.add_argument(
        "--batch-seconds", type=_positive_number, metavar="S", help="from-audio: audio encoded at once at most"
    )
    add_limit(tokens, "from-audio: at most N files")
    tokens.set_defaults(wrong_use=tokens.error)
    recipe = add(
        "recipe",
        _recipe,
        "check a recipe and show all its fields, the settings' `training.overlay` laid over it, or make one from an "
        "older script's JSON config",
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
    watch = add(
        "gpu-guard",
        _gpu_guard,
        "who else is on this machine's GPUs: list them, watch, notify, and, only when told so, end them (extra `gpu`)",
        "  snac-pipeline gpu-guard list\n"
        "  snac-pipeline gpu-guard watch --gpu 0 --gpu 1 --allow ann --action end   # a dry run: says what it would\n"
        "  snac-pipeline gpu-guard watch --gpu 0 --allow ann --action end --apply   # does it\n"
        "  snac-pipeline gpu-guard install --gpu 0 --allow ann --action notify --apply # as a systemd service\n"
        "  snac-pipeline gpu-guard start | stop | status | logs",
    )
    watch.add_argument("verb", choices=["list", "watch", "install", "start", "stop", "status", "logs"], metavar="VERB",
                       help="list, watch, install, start, stop, status or logs")  # fmt: skip
    watch.add_argument("--gpu", action="append", type=int, default=[], metavar="N", help="this GPU; none given: all")
    watch.add_argument(
        "--allow", action="append", default=[], metavar="USER", help="who may be there, besides yourself"
    )
    watch.add_argument(
        "--action",
        choices=["warn", "notify", "end"],
        default="warn",
        help="what becomes of others' processes: a line; a line and a post to $SNAC_PIPELINE_WEBHOOK; or SIGTERM, the "
        "grace period and SIGKILL. Never yours, never root's. Default: warn",
    )
    watch.add_argument("--apply", action="store_true", help="do it; without this it is a dry run")
    watch.add_argument("--grace", type=float, default=30.0, metavar="S", help="seconds before SIGKILL (30)")
    watch.add_argument("--every", type=float, default=10.0, metavar="S", help="seconds between two looks (10)")
    watch.add_argument("--unit-dir", type=Path, metavar="DIR", help="install: write the unit there")
    watch.add_argument("--lines", type=_positive, default=50, metavar="N", help="logs: how many (50)")
    watch.set_defaults(needs_settings=False)
    add("status", _status, "what is there: corpora, codes, and runs with how far they are", "  snac-pipeline status")
    demo = add(
        "demo",
        _demo,
        "run the whole pipeline through Dagster and sum it up",
        "  snac-pipeline demo\n  snac-pipeline demo --settings my-pipeline.yaml --limit 50",
    )
    add_limit(demo, "at most N files of each corpus, for a quick try")
    return parser


def _add_tool(add: Callable[..., argparse.ArgumentParser]) -> None:
    """The commands about a codec alone."""

    def add_conversion(name: str, summary: str, examples: str, to: str, formats: list[str]) -> argparse.ArgumentParser:
        command = add(name, _convert, summary, examples)
        command.add_argument("model", metavar="MODEL", help=MODEL_HELP)
        if name != "generate":
            command.add_argument("inputs", nargs="+", metavar="INPUT", help="files, folders, 'globs' or - (stdin)")
        command.add_argument("--to", required=True, metavar="PLACE", help=f"{to}, or - for standard output")
        command.add_argument("--format", choices=formats, help=f"in a folder, or to -; default: {formats[0]}")
        command.add_argument("--overwrite", action="store_true", help="replace files that are there already")
        command.add_argument(
            "--device", type=_device, help="a GPU's number, cuda:N or cpu; default: the first there is"
        )
        command.set_defaults(needs_settings=False, error_status=EXIT_WRONG_USE, wrong_use=command.error)
        return command

    def add_stereo(command: argparse.ArgumentParser) -> None:
        command.add_argument(
            "--stereo",
            choices=["mix", "channels"],
            default="mix",
            help="mix: one channel, their mean, as in the code cache (default); channels: each for itself",
        )

    def add_output(command: argparse.ArgumentParser) -> None:
        command.add_argument("--rate", type=_positive, metavar="HZ", help="24000 or 48000, as the model has them")
        command.add_argument(
            "--noise",
            choices=["seeded", "off"],
            default="seeded",
            help="the decoder's: the same for the same --seed (default), or none",
        )
        command.add_argument("--seed", type=_seed, default=0, metavar="N", help="from 0; default: 0")

    folder = "a folder, where paths are kept; or one file"
    audio, codes = ["wav", "flac", "ogg"], ["parquet", "npz", "txt"]
    reconstruct = add_conversion(
        "reconstruct",
        "audio through a codec and back, as long as it was, to the sample",
        "  snac-pipeline reconstruct examples/base_codec speech.wav --to out.wav\n"
        "  snac-pipeline reconstruct work/runs/phase11-0123 recordings --to out --rate 48000 --format flac\n"
        "  snac-pipeline reconstruct hubertsiuzdak/snac_24khz - --to - < in.mp3 > out.wav",
        folder,
        audio,
    )
    add_stereo(reconstruct)
    add_output(reconstruct)
    encode = add_conversion(
        "encode",
        "audio to codes",
        "  snac-pipeline encode examples/base_codec examples/speech --to codes\n"
        "  snac-pipeline encode examples/base_codec 'recordings/**/*.mp3' --to codes --format npz --stereo channels\n"
        "  snac-pipeline encode examples/base_codec speech.wav --to speech.txt",
        folder,
        codes,
    )
    add_stereo(encode)
    decode = add_conversion(
        "decode",
        "codes to audio",
        "  snac-pipeline decode examples/base_codec codes --to audio\n"
        "  snac-pipeline decode work/runs/phase12-0123 speech.txt --to speech.wav --rate 48000\n"
        "  snac-pipeline decode examples/base_codec work/codes/0123/part-4567.parquet --to audio",
        folder,
        audio,
    )
    add_output(decode)
    generate = add_conversion(
        "generate",
        "audio of codes that are given or sampled",
        "  snac-pipeline generate examples/base_codec --codes - --to out.wav < codes.txt\n"
        "  snac-pipeline generate examples/base_codec --seconds 3 --seed 1 --to noise.wav\n"
        "  snac-pipeline generate examples/base_codec --like codes --to babble.wav",
        "a file",
        audio,
    )
    add_output(generate)
    given = generate.add_mutually_exclusive_group()
    given.add_argument("--codes", metavar="FILE", help="decode these codes, - for standard input, instead of sampling")
    given.add_argument("--like", nargs="+", default=[], metavar="CODES", help="sample coarse frames of these codes")
    generate.add_argument("--seconds", type=_positive_number, default=5.0, metavar="S", help="how long; default: 5")
    onnx = add(
        "onnx",
        _onnx,
        "write encoder and decoder as ONNX models, checked in onnxruntime (extra `onnx`)",
        "  snac-pipeline onnx examples/base_codec --to onnx",
    )
    onnx.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    onnx.add_argument("--to", required=True, type=Path, metavar="DIR", help="where encoder.onnx and decoder.onnx go")
    onnx.set_defaults(needs_settings=False, error_status=EXIT_WRONG_USE)


def _device(text: str) -> str:
    return f"cuda:{text}" if text.isascii() and text.isdigit() else text


def _positive_number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return number


def _seed(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 0 to 2^63 - 1")
    return int(text)


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 up")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
