"""Old results: whatever the history, what goes is needed by nothing, and nothing is done again that was done before."""

import os
import random
import shutil
import sys
import time
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))  # made_training

from made_training import CODEC, PHASE10, make_home

from snac_pipeline.codec import SNAC, CodecSpec
from snac_pipeline.errors import PipelineError
from snac_pipeline.files import read_json, write_json
from snac_pipeline.settings import Settings, load_settings
from snac_pipeline.steps.evaluation import evaluate
from snac_pipeline.steps.garbage import collect_garbage
from snac_pipeline.steps.tokens import COMMANDS, analyze
from snac_pipeline.steps.training import train
from snac_pipeline.training.run_lock import only_one

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
FIRST, SECOND = "decoder_24khz", "decoder_dual_head"
LATER = 1e6
"""Seconds from now on: nothing is anybody's unfinished work any more."""


def silent(event: dict) -> None:
    pass


def with_keep(settings: Settings, keep: int) -> Settings:
    return settings.model_copy(update={"garbage": settings.garbage.model_copy(update={"keep": keep})})


def collect(settings: Settings, delete: bool, named=(), keep: int = 0) -> dict:
    return collect_garbage(with_keep(settings, keep), delete, named, time.time() + LATER)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A home where a decoder was trained by three recipes, the second of which another decoder starts from; and what
    was evaluated and counted after each."""
    folder = tmp_path_factory.mktemp("trained")
    make_home(folder, SNAC(CodecSpec.from_dict(CODEC)).eval())
    for name in ("recipe.yaml", "second.yaml"):
        write_recipe(folder / name, 4)
    content = yaml.safe_load((folder / "pipeline.yaml").read_text())
    content["training"]["decoders"][SECOND] = {"recipe": "second.yaml", "starts_from": FIRST}
    content |= {"evaluation": {"limit": 2, "max_seconds": 0.5, "listen": 0}, "tokens": {"merges": [5]}}
    (folder / "pipeline.yaml").write_text(yaml.safe_dump(content))
    settings = load_settings(folder / "pipeline.yaml")
    for batch_size in (2, 3):
        train(settings, FIRST, silent, write_recipe(folder / "tried.yaml", batch_size))
    train(settings, SECOND, silent)
    evaluate(settings, silent)
    train(settings, FIRST, silent)
    for what in COMMANDS.values():
        analyze(settings, what, silent)
    return settings


def write_recipe(file: Path, batch_size: int) -> Path:
    stages, curriculum = [{**PHASE10["stages"][0], "epochs": 1}], [{"epochs": 1, "seconds": 0.25}]
    file.write_text(yaml.safe_dump({**PHASE10, "stages": stages, "curriculum": curriculum, "batch_size": batch_size}))
    return file


@pytest.fixture
def own(trained, tmp_path) -> Settings:
    shutil.copytree(trained.home, tmp_path / "home")
    return trained.model_copy(update={"home": tmp_path / "home"})


def runs_by_batch_size(settings: Settings) -> dict[int, list[Path]]:
    found: dict[int, list[Path]] = {}
    for run in sorted((settings.home / "runs").iterdir()):
        found.setdefault(yaml.safe_load((run / "recipe.yaml").read_text())["batch_size"], []).append(run)
    return found


def old_paths(found: dict) -> set[str]:
    return {row["path"] for row in found["old"]}


def test_what_goes_is_listed_with_its_reason_and_only_deleted_when_asked_to(own):
    [oldest] = runs_by_batch_size(own)[2]
    listed = collect(own, delete=False)
    assert f"runs/{oldest.name}" in old_paths(listed) and oldest.exists() and listed["deleted"] is False
    assert all(len(row["why"]) > 20 and row["bytes"] > 0 for row in listed["old"])
    assert listed["bytes"] == sum(row["bytes"] for row in listed["old"])
    deleted = collect(own, delete=True)
    assert old_paths(deleted) == old_paths(listed)
    assert not any((own.home / path).exists() for path in old_paths(listed))
    assert collect(own, delete=True)["old"] == []


def test_the_run_that_a_kept_one_started_from_stays_though_its_decoder_is_another_by_now(own):
    [start] = runs_by_batch_size(own)[3]
    assert read_json(own.home / "decoders" / f"{FIRST}.json")["run"] != start.name
    collect(own, delete=True)
    assert start.exists()
    (own.home / "decoders" / f"{SECOND}.json").unlink()
    shutil.rmtree(next(run for run in runs_by_batch_size(own)[4] if run.name == second_run(own)))
    collect(own, delete=True)
    assert not start.exists(), "nothing starts from it any more"


def second_run(settings: Settings) -> str:
    """The run that the second decoder was trained as."""
    [start] = runs_by_batch_size(settings)[3]
    starts = {run.name: read_json(run / "inputs.json")["inputs"]["start_digest"] for run in start.parent.iterdir()}
    return next(name for name, digest in starts.items() if list(starts.values()).count(digest) == 1)


@pytest.mark.parametrize("seed", range(4))
def test_after_a_deletion_nothing_that_is_needed_is_missing_and_nothing_is_done_again(own, seed):
    """Over histories: which run a decoder is, whether its record is there, what is named and how many are kept."""
    draw = random.Random(seed)
    runs = sorted((own.home / "runs").iterdir())
    candidates = [run for batch in (2, 3, 4) for run in runs_by_batch_size(own)[batch] if run.name != second_run(own)]
    chosen = draw.choice(candidates)
    write_json(own.home / "decoders" / f"{FIRST}.json", {"run": chosen.name})
    for run, age in zip(runs, draw.sample(range(1000), len(runs)), strict=True):
        os.utime(run, (time.time() - age,) * 2)
    named = draw.sample([run.name for run in runs], draw.randint(0, 1))
    keep = draw.randint(0, 1)

    analyses = [lambda what=what: analyze(own, what, silent) for what in COMMANDS.values()]
    steps = [lambda: evaluate(own, silent), *analyses, lambda: train(own, FIRST, silent)]
    first_time = [step() for step in steps[:-1]]
    kept_runs = {chosen.name, *named}
    collect(own, delete=True, named=named, keep=keep)

    left = {run.name for run in (own.home / "runs").iterdir()}
    assert kept_runs <= left
    digests = {read_json(run / "inputs.json")["inputs"]["start_digest"] for run in (own.home / "runs").iterdir()}
    for run in candidates:  # whatever a run that is left started from is left
        assert run.name in left or made_by(own, run) not in digests
    again = [step() for step in steps]
    assert all(result["reused"] for result in again)
    for before, after in zip(first_time, again, strict=False):
        assert {**before, "reused": True} == after
    assert all(Path(path).exists() for result in again for path in result.values() if is_path(path))


def made_by(settings: Settings, run: Path) -> str | None:
    """The digest that a run which starts from this one has; None where the run went."""
    from snac_pipeline.steps.keeping import model_digest

    return model_digest(run) if run.exists() else None


def is_path(value: object) -> bool:
    return isinstance(value, str) and value.startswith("/")


def test_the_newest_of_each_kind_are_kept_needed_or_not(own):
    assert any(path.startswith("runs/") for path in old_paths(collect(own, delete=False, keep=0)))
    assert {path for path in old_paths(collect(own, delete=False, keep=99)) if not path.startswith("views/")} == set()


def test_what_is_named_is_kept(own):
    [oldest] = runs_by_batch_size(own)[2]
    assert f"runs/{oldest.name}" not in old_paths(collect(own, delete=False, named=[oldest.name]))


def test_a_run_that_trains_is_kept_and_so_are_all_views(own):
    [oldest] = runs_by_batch_size(own)[2]
    view = own.home / "views" / "0123456789abcdef"
    view.mkdir()
    (view / "digests.txt").write_text("x")
    assert {f"runs/{oldest.name}", f"views/{view.name}"} <= old_paths(collect(own, delete=False))
    with only_one(oldest):
        found = old_paths(collect(own, delete=True))
    assert not {f"runs/{oldest.name}", f"views/{view.name}"} & found
    assert oldest.exists() and view.exists()
    collect(own, delete=True)
    assert not view.exists() and not oldest.exists()


def test_without_manifests_nobody_knows_what_is_current_and_evaluations_stay(own):
    (own.home / "manifest" / "speech.parquet").unlink()
    with pytest.raises(PipelineError, match="scan"):
        collect(own, delete=True)
    assert list((own.home / "evaluation").iterdir())
