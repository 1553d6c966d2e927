"""The benchmarks are there, named in docs/performance.md, and still fit the library."""

import ast
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

REPOSITORY = Path(__file__).parents[1]
BENCHMARKS = sorted((REPOSITORY / "benchmarks").glob("*.py"))


def test_every_benchmark_is_in_the_document_and_every_one_named_there_exists():
    named = set(re.findall(r"benchmarks/(\w+\.py)", (REPOSITORY / "docs" / "performance.md").read_text()))
    assert named == {file.name for file in BENCHMARKS} != set()


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda file: file.name)
def test_what_a_benchmark_imports_from_the_library_is_there(benchmark):
    """At whichever depth: they are run rarely, and would find out too late."""
    for node in ast.walk(ast.parse(benchmark.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "snac_pipeline":
            module = importlib.import_module(node.module)
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")


def test_the_recipes_of_the_benchmark_of_heads_are_recipes(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    heads = importlib.import_module("head_initialisation")
    options = SimpleNamespace(epochs=2, rate=2e-4, validation=16)
    made = [heads.recipe(init, upsampler, 0, options).heads["double"] for init, upsampler in heads.FORMS]
    assert [(head.init, head.upsampler) for head in made] == heads.FORMS


BARE = """
import sys
from importlib.machinery import PathFinder

HIDDEN = {"dagster", "polars", "soundfile", "soxr", "torchaudio", "pyarrow", "av", "xxhash", "huggingface_hub", "snac"}
real = PathFinder.find_spec

def find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] in HIDDEN else real(name, path, target)

PathFinder.find_spec = staticmethod(find_spec)
sys.path.insert(0, "benchmarks")
import encode_on_device, training_on_device
assert not HIDDEN & {name for name in sys.modules if hasattr(sys.modules[name], "__file__")}
assert encode_on_device.bare.is_there("numpy") and not encode_on_device.bare.is_there("polars")
print("imported")
"""


def test_what_measures_a_gpu_needs_nothing_that_reads_files_or_tables():
    done = subprocess.run([sys.executable, "-c", BARE], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.stdout == "imported\n", done.stderr


SMALL = {
    "bpe.py": ["--tokens", "20000", "40000", "--merges", "20", "--json"],
    "codes_todo.py": ["--utterances", "3000", "--missing", "10", "--json"],
    "orchestration.py": ["--rounds", "1", "--assets", "1", "2", "--corpora", "1", "2", "--json"],
    "encode.py": [
        "--device",
        "cpu",
        "--thin",
        "--utterances",
        "2",
        "--rounds",
        "1",
        "--compared",
        "1",
        "--batch-seconds",
        "8",
        "--json",
    ],
    "loss_curves.py": ["--steps", "50", "--seeds", "2", "--json"],
    "training_step.py": [
        "--device",
        "cpu",
        "--thin",
        "--batch-seconds",
        "1",
        "--steps",
        "1",
        "--lengths",
        "1",
        "--no-compile",
        "--json",
    ],
    "scaling.py": ["--utterances", "20000", "--json"],
    "scan.py": ["--new", "4", "--unchanged", "500", "--out"],
    "token_statistics.py": ["--tokens", "300000", "--larger", "2", "--rounds", "1", "--json"],
    "split.py": ["--rows", "3000", "--speakers", "100", "--json"],
}


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", SMALL)
def test_those_that_make_their_own_data_make_what_the_library_reads_today(benchmark, tmp_path):
    """Figures of a few files say nothing; but that there are any."""
    command = [sys.executable, REPOSITORY / "benchmarks" / benchmark, *SMALL[benchmark], tmp_path / "figures.json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 4
    assert json.loads((tmp_path / "figures.json").read_text())
