"""The environment that requirements.lock gives, and what each part of the project may import."""

import importlib.metadata
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

REPOSITORY = Path(__file__).parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
LOCK = (REPOSITORY / "requirements.lock").read_text()
EXTRAS = PROJECT["optional-dependencies"]
OURS, *TOOLS = EXTRAS["dev"]  # ours: the extras that the tests need
WANTED = [
    *PROJECT["dependencies"],
    *(text for extra in sorted(Requirement(OURS).extras) for text in EXTRAS[extra]),
    *TOOLS,
]


def locked() -> list[tuple[Requirement, str]]:
    """Every requirement of the lock with the text of its entry."""
    entries = re.split(r"\n(?=\S)", LOCK.strip())
    return [(Requirement(entry.partition("\\")[0]), entry) for entry in entries if not entry.startswith("#")]


def test_torch_and_torchaudio_load_together():
    import torch
    import torchaudio

    assert torchaudio.functional.resample(torch.ones(1, 100), 2, 1).shape == (1, 50)


@pytest.mark.parametrize("text", WANTED)
def test_what_is_asked_for_is_locked_and_installed_in_range(text):
    wanted = Requirement(text)
    pins = [pin for pin, _ in locked() if pin.name == wanted.name and (pin.marker is None or pin.marker.evaluate())]
    assert len(pins) == 1
    [version] = [Version(part.version) for part in pins[0].specifier if part.operator == "=="]
    assert version in wanted.specifier
    assert Version(importlib.metadata.version(wanted.name)) in wanted.specifier


def test_torch_stays_below_what_torchaudio_does_not_load_with():
    [torch] = [Requirement(text) for text in WANTED if text.startswith("torch>")]
    assert "2.14.9" in torch.specifier and "2.15.0" not in torch.specifier


def test_every_package_is_pinned_with_hashes():
    assert len(locked()) > 80
    for pin, entry in locked():
        assert [part.operator for part in pin.specifier] == ["=="], entry
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry


def test_the_lock_names_no_index_and_is_the_only_one():
    for word in ("://", "index-url", "find-links", "trusted-host"):
        assert word not in LOCK
    assert list(REPOSITORY.glob("*.lock")) == [REPOSITORY / "requirements.lock"]


def run_python(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


BLOCKER = """
    import sys
    class Blocker:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in {blocked!r}:
                raise ImportError(f"{{name}} is not to be imported here")
    sys.meta_path.insert(0, Blocker())
"""


def test_the_library_works_without_dagster_and_without_what_stands_on_it():
    run_python(
        BLOCKER.format(blocked=("dagster", "assets", "resources"))
        + """
    import importlib, pkgutil, snac_pipeline
    names = [m.name for m in pkgutil.walk_packages(snac_pipeline.__path__, "snac_pipeline.")]
    names.remove("snac_pipeline.definitions")
    assert len(names) > 50
    for name in names:
        importlib.import_module(name)
    """
    )


def test_scanning_the_command_line_and_the_engine_do_without_torch():
    run_python(
        """
    import sys
    import snac_pipeline.cli, snac_pipeline.settings, snac_pipeline.status, snac_pipeline.engine.local
    import snac_pipeline.steps.corpus
    assert not {"torch", "dagster"} & set(sys.modules)
    """
    )


def test_pre_commit_says_what_lint_says_with_the_projects_own_tools():
    subprocess.run([Path(sys.executable).with_name("pre-commit"), "validate-config"], cwd=REPOSITORY, check=True)
    [own] = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())["repos"]
    assert own["repo"] == "local"
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", (REPOSITORY / "Makefile").read_text(), re.MULTILINE).group(1)
    tools = re.findall(r"\$\(BIN\)/([\w-]+(?: check| format)?)", recipe)
    assert [hook["entry"].removeprefix(".venv/bin/").removesuffix(" --fix") for hook in own["hooks"]] == tools
