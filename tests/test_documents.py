"""What the documents point at is there."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
DOCUMENTS = [REPOSITORY / "README.md", *sorted(REPOSITORY.glob("docs/*.md")), REPOSITORY / "examples" / "README.md"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_relative_link_leads_somewhere(document):
    links = [link for link in re.findall(r"\]\(([^)#]+)", document.read_text()) if not link.startswith("http")]
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_every_make_target_of_the_readme_is_in_the_makefile():
    targets = set(re.findall(r"^make (\w[\w-]*)", (REPOSITORY / "README.md").read_text(), re.MULTILINE))
    assert {"demo", "test", "ui"} <= targets
    makefile = (REPOSITORY / "Makefile").read_text()
    assert [target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []


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
