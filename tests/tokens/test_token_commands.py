"""`snac-pipeline tokens stats | layout | bpe FOLDER` on any folder of parts: results, bad input, and nothing twice."""

import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from made_tokens import mark, write_part

from snac_pipeline import cli
from snac_pipeline.codec import CodecSpec

SPEC = CodecSpec(vq_strides=(4, 2, 1), codebook_size=16)
FACTS = {"codec": json.dumps(SPEC.to_dict()), "fingerprint": "one"}
COMMANDS = ("stats", "layout", "bpe")
A = "a" * 32


def speech(utterances: int, frames: int = 20) -> dict[str, list[list[int]]]:
    rng = np.random.default_rng(0)
    return {
        f"{number:032x}": [rng.integers(0, 16, frames * width).tolist() for width in (1, 2, 4)]
        for number in range(utterances)
    }


def parts(folder: Path, rows: dict[str, list[list[int]]], number: int = 0, **facts: str) -> Path:
    mark(write_part(folder, str(number), rows), **{**FACTS, **facts})
    return folder


@pytest.fixture
def tokens(tmp_path, capsys):
    """Run a command; exit status and its last words."""
    settings = {"home": "work", "corpora": {"a": {"path": "."}}, "tokens": {"merges": [10]}}

    def run(*command, **changes):
        file = tmp_path / "pipeline.yaml"
        changed = {**settings, "tokens": {**settings["tokens"], **changes.pop("tokens", {})}, **changes}
        file.write_text(yaml.safe_dump(changed))
        status = cli.main(["tokens", *map(str, command), "--settings", str(file), "--json"])
        return status, json.loads(capsys.readouterr().out.splitlines()[-1])

    return run


def test_any_folder_of_parts_has_statistics_sequences_and_tokenizers(tokens, tmp_path):
    folder = parts(tmp_path / "codes", speech(40))
    results = {}
    for command in COMMANDS:
        status, results[command] = tokens(command, folder)
        assert status == 0 and results[command]["reused"] is False
        written = [Path(results[command]["folder"]) / name for name in results[command]["files"]]
        assert all(file.stat().st_size for file in written)
    assert results["stats"]["tokens"] == results["layout"]["ids"] == 40 * 20 * 7
    assert 3.9 < results["stats"]["entropy_level_2"] <= 4, "of 16 codes at random"
    assert (results["layout"]["train_ids"], results["layout"]["val_ids"]) == (38 * 140, 2 * 140), "split.val is .05"
    advised = [results["bpe"][name] for name in ("layout", "merges_recommended", "merges")]
    assert advised == ["frame", 0, 10]
    assert results["bpe"]["recommendation"].startswith("use the layout frame without BPE.")
    assert results["bpe"]["bits_per_second_without"] == pytest.approx(7 * 4 / SPEC.frame_seconds, rel=0.02)
    assert {row["layout"] for row in results["bpe"]["sweep"]} == {"frame", "level_offsets", "coarse_only"}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_result_is_made_again_only_for_other_codes_or_settings_of_its_own(tokens, tmp_path, command):
    folder = parts(tmp_path / "codes", speech(40))
    first = tokens(command, folder)[1]
    files = {file: file.stat().st_mtime_ns for file in Path(first["folder"]).rglob("*")}
    own = {"stats": {}, "layout": {"layout": "parallel"}, "bpe": {"merge_within": "level"}}[command]
    unrelated = {"stats": {"merges": [7], "layout": "coarse_only"}, "layout": {"merges": [7], "bpe_layouts": []},
                 "bpe": {"offset": 5, "deduplicate": "coarse", "segment_seconds": 1.0, "merges": [10, 10]}}  # fmt: skip
    for changes in ({}, {"tokens": unrelated[command]}, {"evaluation": {"limit": 3}, "devices": ["cpu"]}):
        again = tokens(command, folder, **changes)[1]
        assert again.pop("reused") is True
        assert again == {name: value for name, value in first.items() if name != "reused"}
    assert {file: file.stat().st_mtime_ns for file in Path(first["folder"]).rglob("*")} == files
    if own:
        assert tokens(command, folder, tokens=own)[1]["reused"] is False
    parts(folder, {A: [[1], [2, 3], [4, 5, 6, 7]]}, 1)
    more = tokens(command, folder)[1]
    assert more["reused"] is False and more["version"] != first["version"]


def test_layouts_that_are_named_are_all_that_is_judged_and_sequences_are_of_one(tokens, tmp_path, capsys):
    folder = parts(tmp_path / "codes", speech(40))
    named = ("--layout", "parallel", "--layout", "frame")
    assert {row["layout"] for row in tokens("bpe", folder, *named)[1]["sweep"]} == {"parallel", "frame"}
    assert {row["layout"] for row in tokens("bpe", folder, *named[:2])[1]["sweep"]} == {"parallel"}
    assert tokens("layout", folder, *named[:2])[1]["layout"] == "parallel"
    with pytest.raises(SystemExit) as end:
        tokens("layout", folder, *named)
    assert end.value.code == 2 and "sequences are of one layout" in capsys.readouterr().err


def test_an_older_settings_file_still_says_which_layout(tokens, tmp_path):
    folder = parts(tmp_path / "codes", speech(40))
    found = tokens("bpe", folder, tokens={"layout": "coarse_only"})[1]
    assert found["layout"] == "coarse_only" and "In level_offsets: " in found["recommendation"]
    assert tokens("layout", folder, tokens={"layout": "coarse_only"})[1]["ids"] == 40 * 20


# Little and bad input -------------------------------------------------------------------------------------------------


def empty(folder):
    folder.mkdir()


def nowhere(folder):
    pass


def no_parquet(folder):
    folder.mkdir()
    (folder / "part-0.parquet").write_text("hello")


def foreign(**columns):
    def make(folder):
        folder.mkdir()
        pq.write_table(pa.table(columns).replace_schema_metadata(FACTS), folder / "part-0.parquet")

    return make


def of_codes(*levels, **facts):
    def make(folder):
        parts(folder, {A: list(levels)}, **facts)

    return make


def mixed(folder):
    parts(folder, speech(3))
    parts(folder, {A: [[1], [2, 3], [4, 5, 6, 7]]}, 1, fingerprint="other")


def unnamed(folder):
    write_part(folder, "0", speech(3))


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        pytest.param(empty, "has no parts", id="empty"),
        pytest.param(nowhere, "has no parts", id="nowhere"),
        pytest.param(no_parquet, "part-0.parquet is damaged or cannot be read", id="no parquet"),
        pytest.param(foreign(x=[1]), "is no part of a code cache: .* and has x;", id="foreign"),
        pytest.param(foreign(digest=[A], codes_0=[["x"]]), "of lists of whole numbers", id="texts"),
        pytest.param(foreign(digest=[A], codes_0=[[1]]), "Field .codes_1|codes_0, codes_1", id="a level"),
        pytest.param(foreign(digest=[A], codes_0=[[-1]], codes_1=[[-1, 2]], codes_2=[[-1, 2, 3, 4]]),
                     "code -1 is outside the codebook of 16", id="below 0"),
        pytest.param(of_codes([16], [16, 2], [16, 3, 3, 3]), "code 16 is outside the codebook of 16", id="too large"),
        pytest.param(of_codes([1], [2, 3], [4, 5, 6, 7], codec="{no"), "does not say which codec", id="no codec"),
        pytest.param(mixed, "part-0.parquet is of one, part-1.parquet of other", id="mixed"),
        pytest.param(unnamed, "does not say which codec", id="unnamed"),
        pytest.param(of_codes([], [], []), "no tokens|no sequences|has no tokens", id="no tokens"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_told_in_a_sentence_and_leaves_nothing(tokens, tmp_path, command, make, complaint):
    make(tmp_path / "codes")
    if complaint.startswith(("code ", "Field")) and command == "bpe":
        (tmp_path / "codes" / "part-0.parquet").rename(tmp_path / "codes" / "part-9.parquet")
        parts(tmp_path / "codes", speech(40))  # or else there is nothing to hold out
    status, told = tokens(command, tmp_path / "codes")
    assert status == 1 and told["event"] == "error"
    assert re.search(complaint, told["message"]), told
    assert not list((tmp_path / "work").glob("tokens/*"))


def test_one_frame_and_codes_that_are_all_equal_have_correct_figures(tokens, tmp_path):
    one = parts(tmp_path / "one", {A: [[5], [6, 6], [7, 7, 7, 7]]})
    status, found = tokens("stats", one)
    assert (status, found["tokens"], found["bits_per_second"], found["dead_codes_level_2"]) == (0, 7, 0, 15)
    assert tokens("layout", one)[1]["ids"] == 7
    assert "has no tokens, and BPE is trained on one split and judged on another" in tokens("bpe", one)[1]["message"]
    equal = parts(tmp_path / "equal", {digest: [[5] * 20, [5] * 40, [5] * 80] for digest in speech(40)})
    found = tokens("stats", equal)[1]
    assert (found["perplexity_level_0"], found["immediate_repeat_rate_level_1"]) == (1, 1)
    assert found["mutual_information_excess_level_2"] == 0
    found = tokens("bpe", equal)[1]
    assert found["compression_ratio"] > 5 and found["bits_per_second"] < 20
    for folder in (tmp_path / "work" / "tokens").iterdir():
        for file in folder.glob("*.parquet"):
            numbers = pl.read_parquet(file).select(pl.selectors.float())
            assert all(numbers[name].drop_nulls().is_finite().all() for name in numbers.columns), file
