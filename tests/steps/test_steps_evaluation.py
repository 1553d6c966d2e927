"""An evaluation is made once, by one process; what changes no figure makes the report again and nothing else."""

import shutil
import threading
from pathlib import Path

import polars as pl
import pytest
import torch

from snac_pipeline.engine import locks
from snac_pipeline.errors import PipelineError
from snac_pipeline.files import read_json, write_json
from snac_pipeline.settings import EvaluationSettings, Settings
from snac_pipeline.steps import evaluation
from snac_pipeline.steps.evaluation import MEASURED, METRICS, PARTS, RESULT, evaluate


class Level(torch.nn.Module):
    """Stands for a predictor of opinions."""

    def forward(self, speech_1T: torch.Tensor) -> torch.Tensor:
        return speech_1T.square().mean()[None]


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    file = tmp_path_factory.mktemp("models") / "level.pt"
    torch.jit.script(Level()).save(str(file))
    return file


@pytest.fixture
def cached(settings, tmp_path) -> Settings:
    """A home of its own, in which nothing is evaluated yet, by this process."""
    shutil.copytree(settings.home, tmp_path / "work")
    caching = settings.caching.model_copy(update={"engine": "inline"})
    return with_evaluation(settings.model_copy(update={"home": tmp_path / "work", "caching": caching}))


def with_evaluation(settings: Settings, **changes) -> Settings:
    options = {"limit": 2, "max_seconds": 0.5, "listen": 1, **changes}
    return settings.model_copy(update={"evaluation": EvaluationSettings.model_validate(options)})


def silent(event: dict) -> None:
    pass


def measured_at(result: dict) -> list[int]:
    folder = Path(result["folder"])
    return [(folder / name).stat().st_mtime_ns for name in (METRICS, MEASURED)]


def test_what_changes_no_figure_makes_the_report_again_and_measures_nothing(cached, scorer, tmp_path):
    moved = tmp_path / "moved.pt"
    shutil.copy(scorer, moved)
    first = evaluate(with_evaluation(cached, scorers={"utmos": {"file": scorer}}), silent)
    assert len({sound["utterance"] for sound in first["sounds"]}) == 1 and first["headline_metric"] == "mel_distance"
    measured = measured_at(first)
    same = evaluate(with_evaluation(cached, scorers={"utmos": {"file": moved}}), silent)
    assert same == {**first, "reused": True}

    changes = {"listen": 2, "headline": "utmos"}
    again = evaluate(with_evaluation(cached, scorers={"utmos": {"file": moved}}, **changes), silent)
    assert (again["folder"], again["version"], again["reused"]) == (first["folder"], first["version"], False)
    assert measured_at(again) == measured and again["hours_an_hour"] == first["hours_an_hour"] > 0
    assert again["headline_metric"] == "utmos" and len({sound["utterance"] for sound in again["sounds"]}) == 2
    assert "UTMOS" in Path(again["sounds"][1]["file"]).parents[1].joinpath("report.html").read_text()

    other = evaluate(with_evaluation(cached, max_seconds=0.3), silent)
    assert other["folder"] != first["folder"]


def test_of_two_at_once_one_measures_and_both_have_the_result(cached, monkeypatch):
    monkeypatch.setattr(locks, "TELL_SECONDS", 3600.0)  # who waits is told once, however long it takes here
    told: list[list[str]] = [[], []]
    results: list[dict] = []

    def run(place: int) -> None:
        results.append(evaluate(cached, lambda event: told[place].append(event["message"])))

    threads = [threading.Thread(target=run, args=(place,)) for place in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 2 and sorted(result.pop("reused") for result in results) == [False, True]
    assert results[0] == results[1]
    words = ["waiting for its result", "2/2 compared"]
    assert sorted(sum(word in line for lines in told for line in lines) for word in words) == [1, 1]
    assert not (Path(results[0]["folder"]) / PARTS).exists()


def test_what_a_killed_run_leaves_of_a_whole_comparison_goes_whatever_is_evaluated_next(cached):
    left = Path(evaluate(cached, silent)["folder"]) / PARTS
    left.mkdir()
    (left / "part-0.parquet").write_bytes(b"rows")
    evaluate(with_evaluation(cached, max_seconds=0.3), silent)
    assert not left.exists()


def test_a_report_that_was_not_finished_is_made_from_the_figures_that_are_there(cached):
    first = evaluate(cached, silent)
    measured = measured_at(first)
    (Path(first["folder"]) / RESULT).unlink()
    again = evaluate(cached, silent)
    assert measured_at(again) == measured and again == first


def test_an_evaluation_in_which_something_crashed_is_not_done(cached):
    whole = evaluate(cached, silent)
    folder = Path(whole["folder"])
    measured, lost = measured_at(whole), pl.read_parquet(folder / METRICS)["utterance"][0]
    for name, crashed in ((MEASURED, {lost: "its worker died"}), (RESULT, [lost])):
        write_json(folder / name, {**read_json(folder / name), "crashed": crashed})
    again = evaluate(cached, silent)
    assert measured_at(again) != measured
    assert again["crashed"] == [] and again["version"] == whole["version"] and again["table"] == whole["table"]
    assert evaluation._version(folder, [lost]) != whole["version"]


def test_what_cannot_be_run_is_told_before_anything_is_measured(cached, tmp_path):
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"no model")
    with pytest.raises(PipelineError, match="cannot be loaded"):
        evaluate(with_evaluation(cached, scorers={"utmos": {"file": broken}}), silent)
    assert not list(cached.home.glob(f"evaluation/*/{PARTS}"))


def test_the_headline_is_a_metric_that_there_is(cached):
    with pytest.raises(ValueError, match="there is no metric 'mel'; it is one of mel_distance, stft_distance"):
        EvaluationSettings(headline="mel")
    with pytest.raises(ValueError, match="there is no metric 'word_error_rate'"):
        EvaluationSettings(headline="word_error_rate")


def test_the_report_says_what_it_was_made_of_and_how_to_make_it_again(cached):
    result = evaluate(cached, silent, "snac-pipeline evaluate --settings small.yaml")
    assert result["command"] == "snac-pipeline evaluate --settings small.yaml"
    assert result["versions"]["conditions · first of each utterance"] == "0.5 s"
    assert result["versions"]["packages · torch"] == torch.__version__.split("+")[0]
    assert result["speakers"] >= 1 and result["measured"] == 2
    rows = pl.read_parquet(Path(result["folder"]) / METRICS)
    assert {"codebook_use_level0", "perplexity_level0", "bitrate"} < set(rows.filter(model="base")["metric"])
    page = Path(result["report"]).read_text()
    assert "snac-pipeline evaluate --settings small.yaml" in page
    assert all(Path(sound["file"]).is_file() for sound in result["sounds"])
