"""Results of commands as metadata: what plots, what is a path, and which pictures are small enough to keep."""

from types import SimpleNamespace

import dagster as dg
import pytest

from assets.materialized import LARGEST_PICTURE, shown
from resources import PipelineResource, pipeline


def test_numbers_stay_numbers_and_paths_are_paths():
    result = {"version": "v", "steps": 3, "loss": 0.5, "reused": True, "name": "x", "model": "/m", "none": None}
    assert shown({**result, "by": {"a": 1}}, paths=["model"]) == {
        "steps": dg.MetadataValue.int(3),
        "loss": dg.MetadataValue.float(0.5),
        "reused": dg.MetadataValue.bool(True),
        "name": dg.MetadataValue.text("x"),
        "model": dg.MetadataValue.path("/m"),
        "by": dg.MetadataValue.json({"a": 1}),
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
