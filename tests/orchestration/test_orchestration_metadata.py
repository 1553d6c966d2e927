"""Results of commands as metadata: what plots, what is a path, and which pictures are small enough to keep."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

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
    with pytest.raises(dg.Failure) as failure:
        resource.run(dg.build_asset_context(), "scan", "--corpus", "gamma")
    assert "gamma" in failure.value.description
