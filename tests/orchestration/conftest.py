from pathlib import Path

import pytest
from made_project import Project, make_project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose corpora were prepared once, from the command line; what that printed is in console.txt."""
    project = make_project(tmp_path_factory.mktemp("prepared"))
    done = project.execute("prepare_corpus")
    assert done.returncode == 0, done.stdout + done.stderr
    (project.folder / "console.txt").write_text(done.stderr)
    return project
