"""docs/troubleshooting.md has an entry for everything that the library tells its users to mend."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import raised
import torch.distributed as dist

from snac_pipeline.corpus import read_audio
from snac_pipeline.engine import run_child
from snac_pipeline.errors import PipelineError
from snac_pipeline.settings import load_settings
from snac_pipeline.training.ranks import Ranks

PAGE = Path(__file__).parents[1] / "docs" / "troubleshooting.md"


def quoted() -> list[tuple[str, str]]:
    """Each quoted message of the page and the heading that it stands under."""
    found, heading = [], ""
    for part in re.findall(r"^##+ [^\n]*|^```text\n.*?^```", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        if part.startswith("#"):
            heading = part.lstrip("# ")
        else:
            found += [(line, heading) for line in part.splitlines()[1:-1]]
    return found


def entries(message: str) -> list[str]:
    """The headings under which somebody who searches for `message` finds it."""
    message = " ".join(message.split())
    return [heading for line, heading in quoted() if raised.covers(line, message)]


def test_every_message_of_the_library_has_an_entry():
    lacking = [message for message in raised.messages() if not entries(message.text)]
    assert lacking == [], (
        "docs/troubleshooting.md does not have these: add a few constant words of each (… for what differs) to the "
        "block ```text of the entry that it belongs to, or write an entry"
    )


def test_every_quoted_message_is_one_that_the_library_has():
    sentences = raised.sentences()
    assert [line for line, _ in quoted() if not any(raised.covers(line, text) for text in sentences)] == []


def test_what_is_quoted_is_enough_to_be_found_by():
    longest = {line: max(sum(map(str.isalpha, piece)) for piece in line.split(raised.ANY)) for line, _ in quoted()}
    assert len(longest) > 100
    assert [line for line, letters in longest.items() if letters < raised.LEAST] == []


def unreadable_audio(folder: Path) -> None:
    (folder / "a.wav").write_text("no sound")
    read_audio(folder / "a.wav", 24_000)


def process_lost(folder: Path) -> None:
    """The other of two processes leaves without a word."""
    meeting = f"file://{folder}/meeting"
    leave = f"""if True:
        import os, torch.distributed as dist
        dist.init_process_group("gloo", init_method={meeting!r}, rank=1, world_size=2)
        dist.barrier()
        os._exit(0)
    """
    with subprocess.Popen([sys.executable, "-c", leave]) as other:
        dist.init_process_group("gloo", init_method=meeting, rank=0, world_size=2)
        try:
            dist.barrier()
            other.wait()
            Ranks(0, 2).any(True)
        finally:
            dist.destroy_process_group()


PROVOKED = {
    "PipelineError": (lambda folder: load_settings(folder / "none.yaml"), "The settings file is not found"),
    "UnreadableAudio": (unreadable_audio, "Files in quarantine"),
    "UnreachableFile": (lambda folder: read_audio(folder / "none.wav", 24_000), "A store or a disk does not answer"),
    "ChildFailed": (
        lambda folder: run_child([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], print),
        "A step was killed",
    ),
    "ProcessLost": (process_lost, "A process of a training on several devices is gone"),
}


@pytest.mark.parametrize("name", raised.error_classes())
def test_every_class_of_errors_is_raised_and_its_entry_found(name, tmp_path):
    kind = getattr(importlib.import_module(raised.error_classes()[name]), name)
    provoke, heading = PROVOKED[name]
    with pytest.raises(PipelineError) as error:
        provoke(tmp_path)
    assert type(error.value) is kind
    assert heading in entries(str(error.value))
