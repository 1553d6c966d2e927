"""The command line as programs and people read it: events, exit statuses, help."""

import contextlib
import os
import pty
import re
import subprocess
import sys

import made_codes as made
import pytest
from made_cli import COMMAND

from snac_pipeline import cli
from snac_pipeline.cli.speaker import Speaker


@pytest.mark.parametrize(
    "command",
    [
        (),
        ("nosuch",),
        ("scan", "extra"),
        ("scan", "--limit", "0"),
        ("scan", "--limit", "many"),
        ("codes",),
        ("codes", "repair"),
        ("tokens", "words"),
        ("train",),
        ("recipe",),
        ("cache", "--limit", "3"),
    ],
    ids=" ".join,
)
def test_wrong_use_is_exit_2_with_the_usage(run_here, command):
    said = run_here(list(command))
    assert said.status == 2
    assert said.err.startswith("usage: snac-pipeline") and "Traceback" not in said.err


def commands() -> list[str]:
    [choices] = [action.choices for action in cli._parser()._actions if action.choices]
    return list(choices)


@pytest.mark.parametrize("command", commands())
def test_every_command_has_help_with_examples(run_here, command):
    said = run_here([command, "--help"])
    assert said.status == 0
    assert "examples:\n" in said.out and f"snac-pipeline {command}" in said.out
    for option in ("--settings", "--json"):
        assert option in said.out


def test_without_a_terminal_how_far_it_is_takes_few_lines(capsys):
    speaker = Speaker(as_json=False, silent=False)
    for done in range(1, 11):
        speaker.progress({"message": f"{done}/10", "fraction": done / 10})
        speaker.progress({"message": f"said at {done}"})
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "/" in line] == ["1/10", "10/10"]
    assert len([line for line in lines if line.startswith("said")]) == 10


def test_json_is_one_object_a_line_and_the_result_comes_last(project):
    for command in (("scan",), ("split",), ("cache",), ("codes", "verify", "--sample", 2), ("status",), ("info",)):
        said = project(*command, "--json")
        assert said.status == 0 and said.err == ""
        kinds = [event["event"] for event in said.events]
        assert kinds[-1] == "result" and set(kinds[:-1]) <= {"progress"}
        assert all(event["message"] for event in said.events[:-1])


def test_a_json_error_is_the_last_object_and_standard_error_is_silent(project):
    said = project("cache", "--json")
    assert said.status == 1 and said.err == ""
    assert said.events[-1]["event"] == "error" and "run `snac-pipeline scan`" in said.events[-1]["message"]


def test_people_get_progress_on_standard_error_and_the_result_on_standard_output(project):
    project.done("scan")
    said = project("cache")
    assert said.status == 0
    assert "4 utterances to encode" in said.err and "4/4 utterances" in said.err
    assert "encoded:                     4" in said.out


def test_people_at_a_terminal_get_a_bar(project):
    project.done("scan")
    ours, theirs = pty.openpty()
    running = subprocess.Popen([COMMAND, *project.arguments("cache")], stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # EIO: the other end is closed
        while data := os.read(ours, 1 << 16):
            shown += data
    assert running.wait(timeout=60) == 0
    words = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())  # without colours and the like
    assert "━━━ 100% 4/4 utterances, " in words
    assert shown.endswith(b"\x1b[?25h")  # the cursor is back
    assert b"encoded:                     4" in running.stdout.read()


def test_scanning_several_corpora_tells_each(project):
    made.make_corpus(project.folder / "more", seconds=(0.3,), first_seed=50)
    project.change_settings(corpora={"made": {"path": "speech"}, "more": {"path": "more"}})
    result = project.done("scan")
    assert {name: figures["utterances"] for name, figures in result.items()} == {"made": 4, "more": 1}
    assert project.done("scan", "--corpus", "more")["utterances"] == 1


def test_a_limit_takes_so_many_files_and_no_limit_takes_them_all(project):
    assert project.done("scan", "--limit", 2)["utterances"] == 2
    assert project.done("cache")["utterances"] == 2
    assert project.done("scan")["utterances"] == 4
    assert project.done("cache")["encoded"] == 2


def test_status_tells_what_is_there(project):
    assert project.done("status") == {
        "home": str(project.home), "manifest": {}, "quarantine": {}, "codes": {}, "runs": {},
        "evaluation": None,
    }  # fmt: skip
    project.done("scan")
    fingerprint = project.done("cache")["fingerprint"]
    status = project.done("status")
    assert status["manifest"] == {"made": 4} and status["codes"] == {fingerprint: 4}


def test_the_settings_file_can_come_from_the_environment(project, run_here, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SNAC_PIPELINE_SETTINGS", str(project.settings_file))
    assert str(project.home) in run_here(["status"]).out


def test_a_reader_that_goes_away_ends_it_quietly(project):
    project.done("scan")
    command = [COMMAND, *project.arguments("recipe", project.folder / "recipes" / "phase10.yaml", "--json")]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    running.stdout.close()
    assert running.stderr.read() == b""
    assert running.wait(timeout=60) == 1


def test_help_and_wrong_use_answer_without_loading_torch():
    code = "import sys; sys.modules['torch'] = None; from snac_pipeline.cli import main; main(['cache', '--help'])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_compacting_says_what_it_would_do_and_does_it(project):
    project.done("scan")
    project.done("cache")
    project.change_settings(caching={"part_utterances": 100})
    told = project("codes", "compact", "--dry-run")
    assert (
        told.status == 0
        and "merged:                      4" in told.out
        and "into:                        1" in told.out
    )
    assert project.done("codes", "compact")["done"] is True
    assert project.done("codes", "compact")["merged"] == 0
    assert project.done("cache")["encoded"] == 0
    assert project.done("codes", "verify")["parts"] == 1
