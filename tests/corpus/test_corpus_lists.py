"""A list of files in place of a folder, and a table that tells who speaks."""

import json
import os
import shutil
from pathlib import Path

import polars as pl
import pytest
from made_audio import write

from snac_pipeline.corpus import Corpus, audio_path, listing_version, read_audio, read_manifest, read_quarantine, scan
from snac_pipeline.errors import PipelineError

ROWS = [
    {"path": "a/1.wav", "speaker": "anna"},
    {"path": "./b/2.wav", "speaker": "bo"},
    {"path": "b/../b/2.wav", "speaker": "bo"},  # the same file
    {"path": "gone.wav", "speaker": "bo"},
]


@pytest.fixture
def folder(tmp_path):
    for seed, path in enumerate(("a/1.wav", "b/2.wav", "b/not_listed.wav")):
        write(tmp_path / "data" / path, seed=seed)
    return tmp_path / "data"


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


def listed(folder, name: str, rows: list[dict]):
    """Write `rows` as the format that the name's extension says."""
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix in (".csv", ".tsv"):
        pl.DataFrame(rows).write_csv(file, separator="\t" if file.suffix == ".tsv" else ",")
    elif file.suffix == ".parquet":
        pl.DataFrame(rows).write_parquet(file)
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def speakers(home) -> dict[str, str]:
    return dict(read_manifest(home, ["c"]).select("path", "speaker").iter_rows())


def refused(home) -> dict[str, tuple[str, str]]:
    return {path: rest for path, *rest in read_quarantine(home, ["c"]).select("path", "stage", "reason").iter_rows()}


@pytest.mark.parametrize("name", ["list.csv", "list.tsv", "list.jsonl", "list.json", "list.parquet"])
@pytest.mark.parametrize("column", ["path", "audio_filepath"])
def test_a_list_is_taken_in_place_of_a_folder(folder, home, name, column):
    rows = [{column: row["path"], "speaker": row["speaker"], "text": 'said, "so"'} for row in ROWS]
    report = scan(Corpus("c", listed(folder, name, rows)), home)
    assert (report.files, report.utterances, report.quarantined, report.speakers) == (3, 2, 1, 2)
    assert speakers(home) == {"a/1.wav": "anna", "b/2.wav": "bo"}
    [(path, (stage, reason))] = refused(home).items()
    assert (path, stage) == ("gone.wav", "list") and "not there" in reason
    for row in read_manifest(home, ["c"]).iter_rows(named=True):
        assert audio_path(row) == folder / row["path"]
        assert len(read_audio(row["file"], row["sample_rate"])) == row["num_frames"]


def test_an_unchanged_list_is_not_read_again_and_entries_come_and_go(folder, home, settled):
    corpus = Corpus("c", listed(folder, "list.jsonl", ROWS))
    scan(corpus, home)
    report = scan(corpus, home)
    assert (report.read, report.unchanged, report.utterances) == (0, 2, 2)
    listed(folder, "list.jsonl", [ROWS[0], {"path": "b/not_listed.wav", "speaker": "cy"}])
    report = scan(corpus, home)
    assert (report.read, report.unchanged, report.quarantined) == (1, 1, 0)
    assert speakers(home) == {"a/1.wav": "anna", "b/not_listed.wav": "cy"}


def test_a_folder_that_becomes_a_list_of_itself_is_not_read_again(folder, home, settled):
    scan(Corpus("c", folder), home)
    report = scan(Corpus("c", listed(folder, "list.jsonl", ROWS)), home)
    assert (report.read, report.unchanged) == (0, 2)


def test_paths_outside_the_lists_folder_are_kept_whole(folder, home, tmp_path):
    outside = write(tmp_path / "elsewhere" / "x.wav", seed=9)
    rows = [
        {"path": str(outside), "speaker": "x"},
        {"path": str(folder / "a" / "1.wav"), "speaker": "y"},
        {"path": "../data/a/1.wav", "speaker": "y"},  # the same
        {"path": "../elsewhere/x.wav", "speaker": "x"},  # the same
        {"path": f"file://{folder}/b/2.wav", "speaker": "z"},
    ]
    scan(Corpus("c", listed(folder, "list.csv", rows)), home)
    assert speakers(home) == {str(outside): "x", "a/1.wav": "y", f"file://{folder}/b/2.wav": "z"}
    assert all(len(read_audio(file, 16_000)) == 4000 for file in read_manifest(home, ["c"])["file"])


def test_a_list_names_its_files_whatever_their_extensions_and_odd_names(folder, home):
    shutil.move(write(folder / "plain.wav", seed=5), folder / "back\\slash, ünï.audio")
    (folder / "d.wav").mkdir()
    os.mkfifo(folder / "pipe.wav")
    rows = [{"path": path, "speaker": "s"} for path in ("back\\slash, ünï.audio", "d.wav", "pipe.wav")]
    scan(Corpus("c", listed(folder, "list.csv", rows)), home)
    [row] = read_manifest(home, ["c"]).iter_rows(named=True)
    assert row["flags"] == ["wrong_extension"] and len(read_audio(row["file"], 16_000)) == 4000
    assert {path: stage for path, (stage, _) in refused(home).items()} == {"d.wav": "list", "pipe.wav": "list"}


def test_without_speakers_in_the_list_they_come_from_the_path(folder, home, tmp_path):
    outside = write(tmp_path / "elsewhere" / "x.wav", seed=9)
    rows = [{"path": "a/1.wav"}, {"path": str(outside)}]
    file = listed(folder, "list.csv", rows)
    scan(Corpus("c", file), home)
    assert speakers(home) == {"a/1.wav": "a"}
    assert refused(home)[str(outside)][0] == "speaker" and "outside the list's folder" in refused(home)[str(outside)][1]
    scan(Corpus("c", file, speaker="**/{speaker}/*"), home)
    assert speakers(home) == {"a/1.wav": "a", str(outside): "elsewhere"}
    listed(folder, "list.csv", [{"path": "a/1.wav", "speaker": "anna"}, {"path": "b/2.wav", "speaker": None}])
    scan(Corpus("c", file), home)
    assert speakers(home) == {"a/1.wav": "anna"} and refused(home)["b/2.wav"][0] == "speaker"


@pytest.mark.parametrize(("duration", "why"), [(0.1, "names whole files"), (33.0, "some of it is missing")])
def test_durations_of_whole_files_are_welcome_and_others_are_set_aside_until_the_list_is_corrected(
    folder, home, settled, duration, why
):
    rows = [
        {"audio_filepath": "a/1.wav", "duration": 0.25, "offset": 0.0, "speaker": 7},
        {"audio_filepath": "b/2.wav", "duration": duration, "speaker": 8},
    ]
    corpus = Corpus("c", listed(folder, "manifest.json", rows))
    for _ in range(2):  # the second time what is known is known by its stat
        report = scan(corpus, home)
        assert (report.utterances, report.quarantined) == (1, 1)
        assert speakers(home) == {"a/1.wav": "7"}
        stage, reason = refused(home)["b/2.wav"]
        assert stage == "list" and f"{duration} s of a file of 0.25 s" in reason and why in reason
    del rows[1]["duration"]
    listed(folder, "manifest.json", rows)
    assert scan(corpus, home).utterances == 2


LINES = '{"audio_filepath": "a/1.wav"}\n\n'
WRONG = {
    "part.jsonl": (
        LINES + '{"audio_filepath": "b/2.wav", "offset": 1.5, "duration": 2}\n',
        "line 3: b/2.wav: .*offset",
    ),
    "broken.jsonl": (LINES + "{oops\n", "line 3: not JSON"),
    "text.jsonl": (LINES + '"a.wav"\n', "line 3: not a JSON object"),
    "nothing.jsonl": (LINES + '{"audio_filepath": ""}\n', "line 3: .*names no file"),
    "words.csv": ("path,offset\na/1.wav,0\nb/2.wav,later\n", "line 3: b/2.wav: `offset` is not a number"),
    "two.csv": ("path,speaker\na/1.wav,x\n./a/1.wav,y\n", "line 3: a/1.wav: .*another speaker"),
    "columns.csv": ("file,who\na/1.wav,x\n", "one column `path` or `audio_filepath`.*only file, who"),
    "ragged.csv": ("path\na,b\n", "cannot be read as csv"),
    "empty.csv": ("", "cannot be read as csv"),
    "empty.jsonl": ("", "has no rows"),
    "header.csv": ("path,speaker\n", "has no rows"),
    "lhotse.jsonl": (
        '{"id": "1", "sources": [], "duration": 1}\n',
        "has to name the files; there is only id, sources, dur",
    ),
    "text.parquet": ("not parquet", "cannot be read as parquet"),
    "latin1.csv": (b"path\nb\xe9.wav\n", "cannot be read as csv"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_list_that_cannot_be_right_is_an_error_that_names_file_and_line(folder, home, name):
    content, message = WRONG[name]
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(PipelineError, match=rf"(?s){name}.*{message}"):
        scan(Corpus("c", folder / name), home)


def test_a_list_that_is_not_there_is_named(folder, home):
    with pytest.raises(PipelineError, match=r"none\.csv.*No such file"):
        scan(Corpus("c", folder / "none.csv"), home)


# Metadata ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["who.csv", "who.parquet"])
def test_metadata_says_who_speaks_and_what_it_leaves_out_is_quarantined(folder, home, name):
    rows = [{"path": "a/1.wav", "speaker": "Dr. B"}, {"path": str(folder / "b" / "2.wav"), "speaker": "Dr. B"}]
    corpus = Corpus(
        "c", folder, metadata=listed(folder.parent / "elsewhere", name, [*rows, {"path": "z", "speaker": ""}])
    )
    scan(corpus, home)
    assert speakers(home) == {"a/1.wav": "Dr. B", "b/2.wav": "Dr. B"}
    stage, reason = refused(home)["b/not_listed.wav"]
    assert stage == "speaker" and name in reason


def test_corrected_metadata_changes_the_versions_without_reading_a_file(folder, home, settled):
    rows = [{"path": path, "speaker": "x"} for path in ("a/1.wav", "b/2.wav", "b/not_listed.wav")]
    corpus = Corpus("c", folder, metadata=listed(folder, "who.csv", rows))
    before, observed = scan(corpus, home), listing_version(corpus, home)
    assert listing_version(corpus, home) == observed
    rows[0]["speaker"] = "y"
    listed(folder, "who.csv", rows)
    after = scan(corpus, home)
    assert (after.read, after.unchanged, after.speakers) == (0, 3, 2)
    assert after.version != before.version and listing_version(corpus, home) != observed


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,speaker\na/1.wav,x\na/1.wav,y\n", "line 3: a/1.wav: .*another speaker"),
        ("path,name\na/1.wav,x\n", "no column `speaker`"),
        ("file,speaker\na/1.wav,x\n", "one column `path`"),
    ],
)
def test_metadata_that_cannot_be_right_is_an_error_that_names_it(folder, home, content, message):
    (folder / "who.csv").write_text(content)
    with pytest.raises(PipelineError, match=rf"who\.csv.*{message}"):
        scan(Corpus("c", folder, metadata=folder / "who.csv"), home)


def test_metadata_and_a_pattern_together_are_refused(folder):
    with pytest.raises(PipelineError, match="`speaker` and `metadata`"):
        Corpus("c", folder, speaker="{speaker}/*", metadata=folder / "who.csv")


def test_the_examples_metadata_tells_what_their_folders_tell(home):
    speech = Path(__file__).resolve().parents[2] / "examples" / "speech"
    by_folder = scan(Corpus("c", speech), home)
    by_metadata = scan(Corpus("c", speech, metadata=speech / "metadata.csv"), home)
    by_list = scan(Corpus("c", speech / "metadata.csv"), home)
    assert by_folder.version == by_metadata.version == by_list.version
    assert by_list.utterances == 120 and by_list.speakers == 24
