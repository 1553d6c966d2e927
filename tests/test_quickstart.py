"""The quickstart, word for word, on a few recordings of the examples; and the code cache as other tools read it.

Two things are not as in the document: the base codec is that of the examples, since there is no network, and .venv is
the one that these tests run in.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import documented
import duckdb
import pytest

REPOSITORY = Path(__file__).parents[1]
PAGE = (REPOSITORY / "docs" / "quickstart.md").read_text()
NOT_HERE = ("make ", "source ", "export ")


def follow(folder: Path, first: str, last: str) -> str:
    """Run the commands of the sections from `first` to `last`, after all of the page's exports; what they say."""
    section = PAGE[PAGE.index(f"## {first}") : PAGE.index(f"\n## {last}")]
    exports = dict(re.findall(r"^export (\w+)=(.*)", PAGE, re.MULTILINE))
    environment = {name: value.replace("$PWD", str(folder)) for name, value in exports.items()}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    said = ""
    for line in "".join(documented.blocks(section, "bash")).splitlines():
        if line.startswith(NOT_HERE):
            continue
        # exec: the command itself is this process's child, and ends with it.
        command = ["bash", "-c", f"exec {line}"]
        done = subprocess.run(command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True)
        assert done.returncode == 0, (line, done.stderr)
        said += done.stdout
    return said


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """With recordings/ and the document's my.yaml, after steps 3 and 4."""
    folder = tmp_path_factory.mktemp("quickstart")
    for speaker in sorted((REPOSITORY / "examples" / "speech").glob("spk*"))[:10]:
        (folder / "recordings" / speaker.name).mkdir(parents=True)
        shutil.copy(sorted(speaker.iterdir())[0], folder / "recordings" / speaker.name)
    [settings] = documented.blocks(PAGE, "yaml")
    source = "hubertsiuzdak/snac_24khz"
    assert source in settings
    (folder / "my.yaml").write_text(settings.replace(source, str(REPOSITORY / "examples" / "base_codec")))
    said = follow(folder, "3.", "5.")
    assert re.search(r"utterances: +10\n", said) and re.search(r"encoded: +10\n", said), said
    return folder


def test_the_quickstart_encodes_and_other_tools_read_the_codes_as_documented(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    (folder / "work").symlink_to("my-work")
    (folder / "examples").symlink_to(REPOSITORY / "examples")
    page = (REPOSITORY / "docs" / "code-cache.md").read_text()
    names: dict = {}
    for code in documented.blocks(page, "python"):
        exec(code, names)
    said = capsys.readouterr().out
    assert "spk01/" in said and '"codebook_size"' in said
    assert names["audio"].shape == (1, 1, names["row"]["num_samples"])
    [query] = documented.blocks(page, "sql")
    assert duckdb.sql(query).fetchall() != []
    assert sum(count for _, count in duckdb.sql(query).fetchall()) == 10


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_quickstart_goes_on_to_a_decoder_a_report_and_sound(folder):
    said = follow(folder, "5.", "The same in the UI")
    [report] = folder.glob("my-work/evaluation/*/report.html")
    assert str(report) in said
    assert (folder / "my-codec" / "config.json").exists()
    assert len(list((folder / "reconstructed").rglob("*.wav"))) == 10
