"""Tokens of the project, of any folder of parts, and of audio outside the pipeline."""

import json
import shutil

import made_cli
import made_codes as made
import pyarrow.parquet as pq
import pytest
from test_steps import silent, with_tokens

from snac_pipeline import cli
from snac_pipeline.codes.parts import part_files
from snac_pipeline.errors import PipelineError
from snac_pipeline.steps.codes import base_codec, codes_of
from snac_pipeline.steps.tokens import analyze, from_audio


def test_statistics_have_a_report_pictures_a_table_and_trends(settings):
    result = analyze(settings, "statistics", silent)
    for name in ("report", "rank_frequency", "run_lengths", "transitions"):
        assert made_cli.Path(result[name]).is_file(), name
    assert [row["level"] for row in result["table"]] == [0, 1, 2]
    assert 0 < result["perplexity_level_2"] == result["table"][2]["perplexity"]
    assert isinstance(result["mutual_information_excess_level_1"], float)


def test_sequences_follow_their_settings_alone(settings):
    first = analyze(settings, "sequences", silent)
    assert analyze(with_tokens(settings, merges=[7]), "sequences", silent)["reused"] is True
    assert first["train_ids"] + first["val_ids"] == first["ids"] and first["removed_share"] == 0
    cut = analyze(with_tokens(settings, segment_seconds=0.2, offset=0, deduplicate="coarse"), "sequences", silent)
    assert cut["version"] != first["version"] and cut["sequences"] > first["sequences"]
    assert cut["removed_seconds"] == pytest.approx(cut["removed_frames"] * 2048 / 24_000)
    ids = pq.read_table(made_cli.Path(cut["folder"]) / "data" / "train.parquet")["input_ids"].to_pylist()
    assert max(map(len, ids)) == 2 * 7, "0.2 s are two coarse frames"


def test_a_folder_of_parts_is_analysed_like_the_project(settings, tmp_path):
    parts = codes_of(settings, base_codec(settings)[0])
    elsewhere = tmp_path / "codes"
    shutil.copytree(parts, elsewhere)
    ours, theirs = (analyze(settings, "statistics", silent, folder) for folder in (None, elsewhere))
    assert theirs["tokens"] == ours["tokens"] and theirs["perplexity_level_1"] == ours["perplexity_level_1"]
    assert analyze(settings, "statistics", silent, elsewhere)["reused"] is True
    part_files(elsewhere)[0].unlink()
    fewer = analyze(settings, "statistics", silent, elsewhere)
    assert fewer["reused"] is False and fewer["tokens"] < ours["tokens"]
    assert analyze(settings, "sequences", silent, elsewhere)["val_ids"] > 0
    with pytest.raises(PipelineError, match="has no parts"):
        analyze(settings, "statistics", silent, tmp_path)


def test_audio_outside_the_pipeline_becomes_tokens_with_all_analyses(settings, tmp_path, capsys):
    audio, file = (
        made.make_corpus(tmp_path / "audio", seconds=(0.3, 0.5) * 6, first_seed=500),
        tmp_path / "pipeline.yaml",
    )
    made_file = settings.model_dump(mode="json", include={"home", "corpora", "split", "caching", "devices"})
    file.write_text(json.dumps({**made_file, "home": str(tmp_path / "work"), "split": {"val": 0.3, "test": 0}}))
    command = ["tokens", "from-audio", str(audio), "--codec", settings.base_codec.source, "--limit", "9",
               "--segment-seconds", "0.2", "--batch-seconds", "5", "--layout", "level_offsets",
               "--settings", str(file), "--json"]  # fmt: skip
    results = []
    for _ in range(2):
        assert cli.main(command) == 0
        results.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
    first, again = results
    assert first["utterances"] == 9 and made_cli.Path(first["home"]).parent == tmp_path / "work" / "from-audio"
    assert first["sequences"]["layout"] == "level_offsets"
    assert first["sequences"]["sequences"] > 9 and first["statistics"]["tokens"] == first["sequences"]["ids"]
    assert "recommendation" in first["bpe"]
    assert [again[name]["reused"] for name in ("statistics", "sequences", "bpe")] == [True] * 3
    with pytest.raises(PipelineError, match="is not a folder"):
        from_audio(settings, tmp_path / "none", "codec", None, silent)


@pytest.mark.parametrize(
    "wrong", [["stats", "--codec", "x"], ["from-audio", "here"], ["layout", "--segment-seconds", "0"]]
)
def test_options_that_do_not_go_together_are_wrong_use(wrong, settings, capsys, tmp_path):
    file = tmp_path / "pipeline.yaml"
    file.write_text(json.dumps({"corpora": {"a": {"path": "."}}}))
    with pytest.raises(SystemExit) as end:
        cli.main(["tokens", *wrong, "--settings", str(file)])
    assert end.value.code == 2 and "usage: snac-pipeline tokens" in capsys.readouterr().err
