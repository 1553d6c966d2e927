"""Commands about a codec alone, which need no settings: info, reconstruct, encode, decode, generate, onnx."""

import argparse
from collections.abc import Callable
from pathlib import Path

from snac_pipeline.cli.arguments import (
    EXIT_WRONG_USE,
    Add,
    OnEvent,
    Result,
    device,
    positive,
    positive_number,
    seed,
)
from snac_pipeline.settings import Settings, load_settings

MODEL_HELP = "a codec's folder, a training run's, or a hub id"


def add_info(add: Add) -> None:
    info = add("info", _info, "describe a codec", "  snac-pipeline info\n  snac-pipeline info examples/base_codec")
    info.add_argument("codec", nargs="?", help=f"{MODEL_HELP}; the base codec of the settings when absent")
    info.set_defaults(needs_settings=False, error_status=EXIT_WRONG_USE)


def _info(options: argparse.Namespace, settings: Settings | None, on_event: OnEvent) -> Result:
    from snac_pipeline.codec import SNAC
    from snac_pipeline.steps.codes import base_codec, describe_codec

    if options.codec is None:
        settings = settings or load_settings(options.settings)
        return describe_codec(base_codec(settings)[0], settings.base_codec.source, settings.caching.precision)
    precision = settings.caching.precision if settings else "fp32"
    return describe_codec(SNAC.from_pretrained(options.codec), options.codec, precision)


def add_conversions(add: Add) -> None:
    """reconstruct, encode, decode and generate."""

    def add_conversion(name: str, summary: str, examples: str, to: str, formats: list[str]) -> argparse.ArgumentParser:
        command = add(name, _convert, summary, examples)
        command.add_argument("model", metavar="MODEL", help=MODEL_HELP)
        if name != "generate":
            command.add_argument("inputs", nargs="+", metavar="INPUT", help="files, folders, 'globs' or - (stdin)")
        command.add_argument("--to", required=True, metavar="PLACE", help=f"{to}, or - for standard output")
        command.add_argument("--format", choices=formats, help=f"in a folder, or to -; default: {formats[0]}")
        command.add_argument("--overwrite", action="store_true", help="replace files that are there already")
        command.add_argument("--device", type=device, help="a GPU's number, cuda:N or cpu; default: the first there is")
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
        command.add_argument("--rate", type=positive, metavar="HZ", help="24000 or 48000, as the model has them")
        command.add_argument(
            "--noise",
            choices=["seeded", "off"],
            default="seeded",
            help="the decoder's: the same for the same --seed (default), or none",
        )
        command.add_argument("--seed", type=seed, default=0, metavar="N", help="from 0; default: 0")

    folder = (
        "a folder, where an INPUT has the path that it has below the deepest folder that holds them all (and keeps its "
        "extension where two would have one name: a.wav.parquet, a.flac.parquet); or one file"
    )
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
    generate.add_argument("--seconds", type=positive_number, metavar="S", help="how long; default: 5")


def _convert(options: argparse.Namespace, settings: Settings | None, on_event: OnEvent) -> Result:
    """encode, decode, reconstruct and generate."""
    from snac_pipeline import tool
    from snac_pipeline.codec import SNAC
    from snac_pipeline.engine.devices import find_devices

    if options.json and options.to == "-":
        options.wrong_use("--json and `--to -` both want standard output")
    if options.name == "generate" and options.codes is not None and options.seconds is not None:
        options.wrong_use("--seconds goes with codes that are sampled; those of --codes say how long they are")
    wanted = [options.device] if options.device else settings.devices if settings else []
    model = SNAC.from_pretrained(options.model).to(find_devices(wanted)[0])
    given = vars(options)
    how = tool.Options(**{name: given[name] for name in tool.Options.__dataclass_fields__ if name in given})
    if options.name == "generate":
        return tool.generate(model, options.codes, options.like, options.seconds or 5.0, how, on_event)
    convert: Callable[..., Result] = getattr(tool, options.name)
    return convert(model, options.inputs, how, on_event)


def add_onnx(add: Add) -> None:
    onnx = add(
        "onnx",
        _onnx,
        "write encoder and decoder as ONNX models, checked in onnxruntime (extra `onnx`)",
        "  snac-pipeline onnx examples/base_codec --to onnx",
    )
    onnx.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    onnx.add_argument("--to", required=True, type=Path, metavar="DIR", help="where encoder.onnx and decoder.onnx go")
    onnx.set_defaults(needs_settings=False, error_status=EXIT_WRONG_USE)


def _onnx(options: argparse.Namespace, settings: Settings | None, on_event: OnEvent) -> Result:
    from snac_pipeline.codec import SNAC
    from snac_pipeline.codec.onnx import export_onnx

    model = SNAC.from_pretrained(options.model)
    on_event({"message": "tracing, and comparing in onnxruntime: about a minute"})
    return export_onnx(model, options.to)
