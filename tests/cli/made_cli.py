"""A small project in a folder, and the command line over it: in this process, or as a user starts it."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "codes"))  # made_codes

import made_codes as made

REPOSITORY = Path(__file__).parents[2]
COMMAND = Path(sys.executable).with_name("snac-pipeline")


@dataclass
class Said:
    """How a command ended and what it said."""

    status: int
    out: str
    err: str

    @property
    def events(self) -> list[dict]:
        """Every line of standard output, as JSON."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def error(self) -> str:
        """The one message on standard error, which has to be all of it besides progress."""
        assert self.status != 0 and self.out == "", (self.status, self.out)
        assert "Traceback" not in self.err, self.err
        before, _, message = self.err.partition("error: ")
        assert message and "error: " not in before, self.err
        return message.strip()


@dataclass
class Project:
    folder: Path
    run_here: object

    @property
    def home(self) -> Path:
        return self.folder / "work"

    @property
    def speech(self) -> Path:
        return self.folder / "speech"

    @property
    def settings_file(self) -> Path:
        return self.folder / "pipeline.yaml"

    def change_settings(self, **changes) -> None:
        settings = yaml.safe_load(self.settings_file.read_text())
        self.settings_file.write_text(yaml.safe_dump({**settings, **changes}))

    def arguments(self, *command: object) -> list[str]:
        return [*map(str, command), "--settings", str(self.settings_file)]

    def __call__(self, *command: object) -> Said:
        """Run a command in this process."""
        return self.run_here(self.arguments(*command))

    def done(self, *command: object) -> dict:
        """The result of a command that has to succeed."""
        said = self(*command, "--json")
        assert said.status == 0, said
        *_, last = said.events
        assert last.pop("event") == "result"
        return last

    def start(self, *command: object) -> subprocess.Popen:
        """Start a command as a user does, in a process group of its own as a shell does."""
        return subprocess.Popen(
            [COMMAND, *self.arguments(*command)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip


def make_project(folder: Path, codec: Path, run_here, seconds=(0.3, 0.3, 0.3, 0.5)) -> Project:
    project = Project(folder, run_here)
    made.make_corpus(project.speech, seconds)
    shutil.copytree(REPOSITORY / "recipes", folder / "recipes")
    settings = {
        "home": "work",
        "corpora": {"made": {"path": "speech", "speaker": "{speaker}/*"}},
        "split": {"val": 0.3},
        "base_codec": {"source": str(codec)},
        "caching": {"part_utterances": 2, "verify": 2, "engine": "inline"},
        "devices": ["cpu"],
        "training": {"overlay": "recipes/demo.yaml"},
    }
    project.settings_file.write_text(yaml.safe_dump(settings, sort_keys=False))
    return project
