"""What the documents point at is there, what they tabulate is the code's, and they are a site."""

import re
import subprocess
import sys
from pathlib import Path

import documented
import pytest

from snac_pipeline.codes.parts import part_schema
from snac_pipeline.evaluation.registry import METRICS

REPOSITORY = Path(__file__).parents[1]
DOCUMENTS = [
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "examples/README.md")),
    *sorted(REPOSITORY.glob("docs/*.md")),
]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_relative_link_leads_somewhere(document):
    links = [link for link in re.findall(r"\]\(([^)#]+)", document.read_text()) if not link.startswith("http")]
    assert [link for link in links if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", ["README.md", "docs/codec.md"])
def test_the_python_of_a_document_runs_as_it_is_pasted(document, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    names: dict = {}
    for code in documented.blocks((REPOSITORY / document).read_text(), "python"):
        exec(code, names)
    assert names["audio"].ndim == 3 and names["audio"].isfinite().all()


def test_every_command_of_the_readme_is_one_of_the_command_line():
    from snac_pipeline.cli import _parser

    text = (REPOSITORY / "README.md").read_text()
    listed = re.search(r"`snac-pipeline ([a-z |\n-]+)`", text).group(1)
    named = {name.strip() for name in listed.split("|")}
    assert {"scan", "train"} <= named
    for name in named:
        with pytest.raises(SystemExit) as end:
            _parser().parse_args([name, "--help"])
        assert end.value.code == 0, name


def test_the_documents_are_a_site_that_loads_nothing_from_elsewhere(tmp_path):
    """`--strict`: every page is in the menu, every link and every heading that is linked to exists."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    pages = sorted(tmp_path.glob("*.html"))
    assert {page.stem for page in pages} == {page.stem for page in REPOSITORY.glob("docs/*.md")} | {"404"}
    for page in pages:
        loaded = re.findall(r"<(?:link|script|img|iframe)[^>]*?(?:src|href)=\"(https?:[^\"]*)", page.read_text())
        assert loaded == [], page.name


def test_the_table_of_metrics_is_that_of_the_registry():
    rows = documented.rows_of(REPOSITORY / "docs" / "evaluation.md", "Metrics")
    direction = {True: "higher", False: "lower"}
    assert {name: cells[:3] for name, cells in rows.items()} == {
        metric.name: [metric.label, metric.unit or "-", direction[metric.higher_is_better]] for metric in METRICS
    }
    needs = {metric.name for metric in METRICS if metric.package in ("pesq", "pyworld")}
    assert {name for name, cells in rows.items() if "Needs the extra `perceptual`" in cells[3]} == needs


def test_the_columns_of_the_code_cache_are_those_of_a_part():
    rows = documented.rows_of(REPOSITORY / "docs" / "code-cache.md", "Columns of a part")
    schema = {field.name: str(field.type).replace("item", "element") for field in part_schema(2)}
    assert {name: cells[0].strip("`") for name, cells in rows.items()} == schema
