"""Results of commands as metadata: what plots, what is a path, and which pictures are small enough to keep."""

import dagster as dg
import pytest

from assets.materialized import LARGEST_PICTURE, shown
from resources import PipelineResource


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


def test_a_command_that_fails_fails_the_step_with_its_own_sentence(project):
    pipeline = PipelineResource(settings_file=str(project.settings_file))
    with pytest.raises(dg.Failure) as failure:
        pipeline.run(dg.build_asset_context(), "scan", "--corpus", "gamma")
    assert "gamma" in failure.value.description
