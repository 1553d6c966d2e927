"""The commands and figures of the documents are true."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from geometries import PUBLISHED
from made_sound import length

from snac_pipeline import cli
from snac_pipeline.codec.streaming import latency

REPOSITORY = Path(__file__).parents[2]


def documented(document: str) -> list[list[str]]:
    """The commands about a codec in a document's blocks of shell commands."""
    text = (REPOSITORY / document).read_text()
    blocks = "".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL))
    lines = [line for line in blocks.splitlines() if line.startswith("snac-pipeline ")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


@pytest.mark.parametrize("document", ["README.md", "docs/codec.md"])
def test_documented_commands_do_what_they_say(run, here, document, capfd):
    (here / "examples" / "speech" / "spk09").mkdir(parents=True)
    shutil.copytree(REPOSITORY / "examples" / "base_codec", here / "examples" / "base_codec")
    shutil.copy(REPOSITORY / "examples" / "speech" / "spk09" / "spk09_1.flac", here / "examples" / "speech" / "spk09")
    commands = [command for command in documented(document) if command[0] != "onnx"]  # test_codec_onnx has it
    assert {"reconstruct", "encode", "decode"} <= {command[0] for command in commands}
    for name, model, *more in commands:
        assert run(name, *more, model=model).status == 0, (name, more)
    [audio] = [file for file in (here / "audio").rglob("*") if file.is_file()]
    assert length(audio) == length(here / "out.wav") == (55_877, 24_000, 1)


def test_every_command_about_a_codec_is_documented():
    options = {"reconstruct", "encode", "decode", "generate", "info", "onnx"}
    assert options == {command[0] for command in documented("docs/codec.md")}
    for command in documented("docs/codec.md"):
        assert cli._parser().parse_args(command).needs_settings is False


def test_latencies_are_those_of_the_table():
    text = (REPOSITORY / "docs" / "codec.md").read_text()
    for name, spec in PUBLISHED.items():
        for what, context in (("encode", spec.encode_context), ("decode", spec.decode_context)):
            cells = [f"{name[:-3]} kHz, {what}"]
            for seconds in (0.0, 1.0):
                frames, chunk = getattr(latency(spec, seconds), what), spec.segment_frames(seconds)
                cells.append(f"{frames} frames, {1000 * frames * spec.frame_seconds:.0f} ms")
                cells.append(f"{(chunk + 2 * context) / chunk:.1f}x")
            assert f"| {' | '.join(cells)} |" in text
