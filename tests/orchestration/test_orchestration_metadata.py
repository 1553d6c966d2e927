"""Results of commands as metadata: what plots, what is a path, and which pictures are small enough to keep."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_project import REPOSITORY

from assets.evaluation import metadata_of, not_worse
from assets.materialized import LARGEST_PICTURE, shown
from assets.presentation import COLUMNS
from resources import PipelineResource, pipeline

sys.path.insert(0, str(Path(__file__).parents[1] / "tokens"))  # made_tokens


def test_numbers_stay_numbers_and_paths_are_paths():
    result = {"version": "v", "steps": 3, "loss": 0.5, "reused": True, "name": "x", "model": "/m", "none": None}
    nested = {"by": {"a": 1}, "files": ["a", "b"], "deep": {"a": [1]}, "nothing": [], "nowhere": {}}
    assert shown({**result, **nested}, paths=["model"]) == {
        "steps": dg.MetadataValue.int(3),
        "loss": dg.MetadataValue.float(0.5),
        "reused": dg.MetadataValue.bool(True),
        "name": dg.MetadataValue.text("x"),
        "model": dg.MetadataValue.path("/m"),
        "by_a": dg.MetadataValue.int(1),
        "files": dg.MetadataValue.text("a, b"),
        "deep": dg.MetadataValue.json({"a": [1]}),
    }


@pytest.mark.parametrize(
    ("measured", "meaningful"),
    [(1.0555431842803955, 1.056), (-0.000123456, -0.0001235), (73.24219, 73.24), (128266.4, 128266.0), (0.0, 0.0)],
)
def test_numbers_are_shown_with_the_digits_that_mean_something_and_still_plot(measured, meaningful):
    found = shown({"one": measured, "by": {"a": [measured]}, "rows": [{"a": measured}]}, tables=["rows"])
    assert found["one"] == dg.MetadataValue.float(meaningful)
    assert found["by"].value == {"a": [meaningful]}
    assert found["rows"].records[0].data == {"a": meaningful}


def test_what_is_worth_a_look_comes_first(tmp_path):
    (tmp_path / "curve.png").write_bytes(b"picture")
    result = {"digest": "0123456789abcdef", "model": "/m", "rows": [{"a": 1}], "loss": 0.5}
    found = shown(
        {**result, "curve": str(tmp_path / "curve.png")}, paths=["model"], pictures=["curve"], tables=["rows"]
    )
    assert list(found) == ["curve", "loss", "rows", "model", "curve_file", "digest"]


def test_rows_are_a_table():
    rows = [{"merges": 0, "ratio": 1.0, "run_length": False}, {"merges": 8, "ratio": 1.5, "run_length": True}]
    table = shown({"sweep": rows}, tables=["sweep"])["sweep"]
    assert [record.data for record in table.records] == rows
    assert [column.name for column in table.schema.columns] == ["merges", "ratio", "run_length"]


@pytest.mark.parametrize(("size", "inline"), [(LARGEST_PICTURE, True), (LARGEST_PICTURE + 1, False)])
def test_small_pictures_are_kept_in_the_event_and_large_ones_only_named(tmp_path, size, inline):
    picture = tmp_path / "curve.png"
    picture.write_bytes(bytes(size))
    metadata = shown({"curve": str(picture)}, pictures=["curve"])
    assert metadata["curve_file"] == dg.MetadataValue.path(str(picture))
    assert ("curve" in metadata) == inline
    if inline:
        assert metadata["curve"].value.startswith("![curve](data:image/png;base64,")


def written_by_us(home: Path, folder: Path) -> dict[str, pa.Schema]:
    """Asset -> schema of its parquet files, as they are written."""
    import polars as pl
    from made_tokens import SMALL, random_stream

    from snac_pipeline.codes.parts import part_schema
    from snac_pipeline.evaluation.compare import SCHEMA
    from snac_pipeline.tokens import make_layout, write_sequences

    write_sequences(folder, random_stream(SMALL, 4, 3), make_layout("frame", SMALL))
    return {
        "manifest": pq.read_schema(home / "manifest" / "alpha.parquet"),
        "quarantine": pq.read_schema(home / "quarantine" / "alpha.parquet"),
        "splits": pq.read_schema(home / "splits" / "splits.parquet"),
        "code_cache": part_schema(1),
        "evaluation": pl.DataFrame(schema=SCHEMA).to_arrow().schema,
        "token_sequences": pq.read_schema(folder / "train.parquet"),
    }


def in_words(kind: pa.DataType) -> str:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"list of {in_words(kind.value_type)}s"
    if pa.types.is_integer(kind):
        return "whole number"
    return "number" if pa.types.is_floating(kind) else "text"


def test_the_columns_that_the_ui_lists_are_those_of_the_files(prepared, tmp_path):
    schemas = written_by_us(prepared.folder / "work", tmp_path)
    assert COLUMNS.keys() == schemas.keys()
    for asset, schema in schemas.items():
        found = {re.sub(r"\d", "<level>", field.name): in_words(field.type) for field in schema}
        assert {name: kind for name, (kind, _) in COLUMNS[asset].items()} == found, asset


def test_progress_is_a_line_now_and_then_and_news_are_one_at_once(monkeypatch):
    clock, lines = [100.0], []
    monkeypatch.setattr(pipeline, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    log = pipeline.ProgressLog(SimpleNamespace(info=lines.append))
    log({"message": "began"})
    for second in range(24 * 3600 + 1):
        clock[0] = 100.0 + second
        log({"message": f"{second} s", "fraction": second / (24 * 3600)})
        if second == 7:
            log({"message": "an attempt failed"})
    assert lines[:5] == ["began", "5 s", "an attempt failed", "10 s", "15 s"]
    assert lines[-1] == f"{24 * 3600} s"  # the end is always told
    assert 1000 < len(lines) < 2000


def test_a_command_that_fails_fails_the_step_with_its_own_sentence(project):
    resource = PipelineResource(settings_file=str(project.settings_file))

    @dg.op
    def scan(context: dg.OpExecutionContext) -> None:
        resource.run(context, "scan", "--corpus", "gamma")

    @dg.job
    def scanning():
        scan()

    with project.instance() as instance:
        done = scanning.execute_in_process(instance=instance, raise_on_error=False)
    assert "gamma" in done.failure_data_for_node("scan").user_failure_data.description


# ---- the evaluation --------------------------------------------------------------------------------------------------


def evaluated(folder, values: dict[str, list[float]], metric: str = "mel_distance") -> dict:
    """What `evaluate` gives for these values of models, the base first."""
    from snac_pipeline import evaluation as ev
    from snac_pipeline.codec import CodecSpec
    from snac_pipeline.evaluation.compare import SCHEMA

    rows = [
        (f"u{i}", model, 24_000, metric, value, None, None)
        for model, of in values.items()
        for i, value in enumerate(of)
    ]
    rows += [(*row[:3], "utmos", None, "not run: no file", None) for row in rows]
    metrics = pl.DataFrame(rows, schema=SCHEMA, orient="row")
    registry = (*ev.METRICS, ev.Metric("utmos", "UTMOS", max, True, "MOS", 2))
    summary = ev.summarise(metrics, registry=registry)
    spec = CodecSpec.from_file(REPOSITORY / "examples" / "base_codec" / "config.json")
    codebook = ev.codebook_use([[np.arange(n) for n in spec.token_counts(3)]], spec)
    context = ev.ReportContext(
        command="snac-pipeline evaluate",
        versions={"codes": "abc", "runs": {"a": "phase10-1"}},
        headline_metric=metric,
        registry=registry,
        codebook=codebook,
        notes=["A note."],
        hours_an_hour=3.0,
        curves={"new": [{"step": 0, "val": 2.0}]},
    )
    facts = ev.write_report(folder, metrics, summary, context)
    pictures = {name: str(folder / file) for name, file in facts.pop("pictures").items()}
    places = {"folder": str(folder), "report": str(folder / "report.html"), "version": "v"}
    rest = {"measured": 8, "not_finite": [], "crashed": [], "left_out": 0, "reused": False}
    return {**places, **pictures, **facts, "table": facts.pop("metrics"), **rest}


def test_an_evaluations_metadata_says_what_its_report_says(tmp_path):
    result = evaluated(tmp_path, {"base": [5.0] * 8, "new": [4.0 + i / 10 for i in range(8)]})
    metadata = metadata_of(result)
    assert next(iter(metadata)) == "Mel distance", "what it is about comes first"
    assert metadata["Mel distance"].value == "- new: -0.65 dB, better"
    assert metadata["headlines"].value.startswith("- New is better than base. Mel distance falls by")
    assert "A note." in metadata["notes"].value and metadata["hours_an_hour"].value == 3.0
    table = [record.data for record in metadata["table"].records]
    [new] = [row for row in table if (row["model"], row["metric"]) == ("new", "mel_distance")]
    assert new["low"] < new["difference"] < new["high"] < 0 and new["verdict"] == "better"
    assert metadata["mel_distance_change_new"].value == new["difference"]
    assert [record.data["utterance"] for record in metadata["worst new"].records] == [
        f"u{i}" for i in (7, 6, 5, 4, 3, 2, 1, 0)
    ]
    codebook = [(record.data["level"], record.data["tokens"]) for record in metadata["codebook"].records]
    assert codebook == [("0", 3), ("1", 6), ("2", 12), ("all", 21)]
    assert [record.data["perplexity"] for record in metadata["codebook"].records][:3] == pytest.approx([3, 6, 12])
    assert {"of": "runs · a", "value": "phase10-1"} in [record.data for record in metadata["versions"].records]
    assert {record.data["reason"] for record in metadata["missing"].records} == {"not run: no file"}
    assert [record.data["metric"] for record in metadata["not_run"].records] == ["utmos"]
    assert "snac-pipeline evaluate" in metadata["command"].value
    for picture in ("differences", "curves"):
        assert metadata[picture].value.startswith(f"![{picture}](data:image/png;base64,"), picture


@pytest.mark.parametrize(
    ("metric", "change", "count", "passed", "words"),
    [
        ("mel_distance", -1.0, 8, True, None),
        ("mel_distance", 1.0, 8, False, "worse than the base codec: new"),
        ("si_sdr", 1.0, 8, True, None),
        ("si_sdr", -1.0, 8, False, "worse than the base codec: new"),
        ("mel_distance", -1.0, 5, False, "could not be judged, which takes 6 utterances: new (5 utterances)"),
    ],
)
def test_a_decoder_is_worse_by_the_headlines_own_direction_or_cannot_be_judged(
    tmp_path, metric, change, count, passed, words
):
    values = {"base": [5.0] * count, "new": [5.0 + change + i / 100 for i in range(count)]}
    check = not_worse(evaluated(tmp_path, values, metric))
    assert (check.passed, check.description, check.severity) == (passed, words, dg.AssetCheckSeverity.WARN)


def test_with_no_decoder_there_is_nothing_to_pass(tmp_path):
    check = not_worse(evaluated(tmp_path, {"base": [5.0] * 8}))
    assert not check.passed and check.description == "could not be judged: no decoder is trained"
