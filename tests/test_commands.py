"""Every command that is shown is one that can be given: in the documents, in --help, and in what errors advise.

A command line is parsed by the program's own parser, so that a wrong option or job fails here. Run for real are those
of the quickstart (test_quickstart.py), those about a codec (tool/test_tool_documented.py, codec/test_codec_onnx.py),
the jobs (orchestration/) and `make demo` (.ci/run).
"""

import argparse
import re
import tomllib
from pathlib import Path

import click
import documented
import pytest
import raised
from dagster._cli import create_dagster_cli
from dagster._cli.job import job_execute_command

from snac_pipeline import cli
from snac_pipeline.definitions import build_defs

REPOSITORY = Path(__file__).parents[1]
DOCUMENTS = [
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "examples/README.md")),
    *sorted(REPOSITORY.glob("docs/*.md")),
]
NOT_OURS = {
    "export": "the shell's own",
    "source": "the shell's own",
    "read": "the shell's own",
    "docker": "Docker's own: tests/deploy looks into the files that it is given",
    "ray": "Ray's own: `ray start --head` leaves a cluster running; tests/engine starts one of its own",
}
"""Programs whose command lines are not looked into, and why."""


def subparsers() -> dict[str, argparse.ArgumentParser]:
    [action] = [action for action in cli._parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return action.choices


def check(words: list[str]) -> None:
    """AssertionError, with what is wrong, for a command that could not be given."""
    program, *arguments = words
    match program:
        case "snac-pipeline":
            parse(arguments)
        case "torchrun":
            assert "snac_pipeline.cli" in arguments, arguments
            parse(arguments[arguments.index("snac_pipeline.cli") + 1 :])
        case "make":
            makefile = (REPOSITORY / "Makefile").read_text()
            assert [name for name in arguments if not re.search(rf"^{name}:", makefile, re.MULTILINE)] == []
        case "dagster" if arguments[:2] == ["job", "execute"]:
            given = job_execute_command.make_context("execute", arguments[2:]).params
            assert given["module_name"] in ("snac_pipeline.definitions", ("snac_pipeline.definitions",))
            build_defs(REPOSITORY / "pipeline.yaml").resolve_job_def(given["job_name"])
            assert all((REPOSITORY / file).exists() for file in given["config"])
        case "dagster" if arguments[0] == "dev":
            assert (REPOSITORY / arguments[arguments.index("-w") + 1]).exists()
        case "dagster" if arguments[0] == "instance":
            command = create_dagster_cli()
            while isinstance(command, click.Group):
                name, *arguments = arguments
                command = command.commands[name]
            command.make_context(name, arguments)
        case "srun":
            check(["dagster", *arguments[arguments.index(".venv/bin/dagster") + 1 :]])
        case "sbatch" | "cat" | "cp":
            files = [word for word in arguments if word.startswith(("deploy/", "resources/")) and word != "deploy/.env"]
            assert files and all((REPOSITORY / file).exists() for file in files), words
        case "python" if arguments[0].startswith(("benchmarks/", "examples/")):
            source = (REPOSITORY / arguments[0]).read_text()
            assert [word for word in arguments if word.startswith("--") and f'"{word}"' not in source] == []
        case "python" | "pytest":
            files = [word.partition("::")[0] for word in arguments if word.startswith("tests")]
            assert files and all((REPOSITORY / file).exists() for file in files), words
        case "pip":
            extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            named = re.findall(r"\[([\w,-]+)\]", " ".join(arguments))
            assert [extra for group in named for extra in group.split(",") if extra not in extras] == []
        case _:
            assert program in NOT_OURS, f"say in test_commands.check how `{program}` is checked, or in NOT_OURS why not"


def parse(arguments: list[str]) -> None:
    try:
        cli._parser().parse_args(arguments)
    except SystemExit as end:
        assert end.code == 0, f"wrong use: snac-pipeline {' '.join(arguments)}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_of_a_document_can_be_given(document, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    for words in documented.commands(document):
        check(words)


def test_commands_are_found_in_documents():
    found = [" ".join(words) for document in DOCUMENTS for words in documented.commands(document)]
    assert {"make demo", "snac-pipeline train decoder_24khz", "python benchmarks/encode.py"} <= set(found)
    assert len(found) > 50


@pytest.mark.parametrize(
    "wrong", ["snac-pipeline scan --no-such", "make no-such", "python benchmarks/scan.py --no-such", "no-such-program"]
)
def test_a_command_that_cannot_be_given_is_found(wrong):
    with pytest.raises(AssertionError):
        check(documented.command_of(wrong))


def test_every_example_of_help_can_be_given():
    for name, parser in subparsers().items():
        lines = re.sub(r"\\\n *", "", parser.epilog).splitlines()[1:]
        examples = [line for line in lines if "#" not in line.split()[:1]]
        assert examples, name
        for line in examples:
            words = documented.command_of(line)
            assert name in words
            check(words)


def test_commands_in_sentences_of_documents_and_messages_have_the_options_that_they_name():
    texts = [*raised.sentences(), *(document.read_text() for document in DOCUMENTS)]
    named = [words for text in texts for words in documented.mentions(text)]
    assert len(named) > 40
    for name, *more in named:
        if name in ("COMMAND", "...") or "|" in more:  # any, or the list of all
            continue
        known = subparsers()[name].format_help()
        assert [word for word in more if word.startswith("--") and word.rstrip(",.") not in known] == [], (name, more)
