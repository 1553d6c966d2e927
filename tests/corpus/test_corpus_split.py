"""Splitting: nothing ever changes side, no speaker and no content is on two sides, every stratum keeps its share."""

import shutil
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_audio import manifest_of, write

from snac_pipeline.corpus import (
    Corpus,
    read_manifest,
    read_quarantine,
    read_splits,
    read_utterances,
    scan,
    update_splits,
)
from snac_pipeline.errors import PipelineError


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


def speakers(count, each=2, corpus="made", first=0, seconds=5.0):
    """`count` speakers with `each` utterances."""
    offset = sum(map(ord, corpus)) * 10**6
    return [
        (f"s{s}/{u}.wav", f"s{s}", offset + s * 1000 + u, seconds, corpus)
        for s in range(first, first + count)
        for u in range(each)
    ]


def sides(home) -> dict[str, str]:
    return dict(read_splits(home).select("digest", "split").iter_rows())


def usable(files: pl.DataFrame, home) -> pl.DataFrame:
    """The manifest's rows that splitting did not quarantine, with their splits."""
    refused = read_quarantine(home, files["corpus"].unique().to_list()).select("corpus", "path")
    return files.join(refused, on=["corpus", "path"], how="anti").join(
        read_splits(home).select("digest", "group", "split"), on="digest", how="left"
    )


def test_every_stratum_holds_its_share_as_data_are_added(home):
    files = speakers(400, corpus="big") + speakers(60, corpus="small")
    update_splits(manifest_of(files), home)
    for step in range(5):
        files += speakers(20, corpus="big", first=1000 + 20 * step) + speakers(5, corpus="small", first=1000 + 5 * step)
        update_splits(manifest_of(files), home)
    shares = read_splits(home).group_by("corpus").agg((pl.col("split") == "val").mean()).sort("corpus")["split"]
    assert all(0.05 <= share < 0.07 for share in shares)


def test_two_homes_and_any_order_give_the_same_split(tmp_path):
    files = speakers(50)
    one = update_splits(manifest_of(files), tmp_path / "one")
    other = update_splits(manifest_of(files[::-1]), tmp_path / "other")
    assert one == other
    assert read_splits(tmp_path / "one").equals(read_splits(tmp_path / "other"))


def test_a_second_run_adds_nothing_to_the_ledger(home):
    first = update_splits(manifest_of(speakers(20)), home)
    ledger = (home / "splits" / "ledger.parquet").read_bytes()
    second = update_splits(manifest_of(speakers(20)), home)
    assert (home / "splits" / "ledger.parquet").read_bytes() == ledger
    assert (second.new_groups, second.version) == (0, first.version)


def test_every_stratum_with_two_groups_gets_one_of_val_and_one_of_train(home):
    files = speakers(2, corpus="two") + speakers(40, corpus="many") + speakers(1, corpus="one")
    update_splits(manifest_of(files), home)
    by_corpus = read_splits(home).group_by("corpus").agg(pl.col("split").unique())
    found = {corpus: set(splits) for corpus, splits in by_corpus.iter_rows()}
    assert found == {"two": {"train", "val"}, "many": {"train", "val"}, "one": {"train"}}


def test_one_long_speaker_does_not_become_the_validation_set(home):
    for giant in range(30):  # whatever its place in the hash order
        files = [(path, who, content, 5000.0 if who == f"s{giant}" else 5.0) for path, who, content, *_ in speakers(30)]
        report = update_splits(manifest_of(files), home / str(giant))
        assert report.hours["val"] < 0.1 * report.hours["train"]


def test_val_and_test_can_both_be_asked_for(home):
    report = update_splits(manifest_of(speakers(200)), home, {"val": 0.05, "test": 0.1})
    assert {name: count / 400 for name, count in report.utterances.items()} == pytest.approx(
        {"train": 0.85, "val": 0.05, "test": 0.1}, abs=0.01
    )


def test_speakers_that_share_a_content_are_one_group(home):
    files = [
        *speakers(40),
        ("s3/copy.wav", "s3", manifest_content(7), 5.0),
        ("s9/copy.wav", "s9", manifest_content(3), 5.0),
    ]
    update_splits(manifest_of(files), home)
    groups = dict(read_splits(home).select("speaker", "group").iter_rows())
    assert groups["s3"] == groups["s7"] == groups["s9"]
    assert len(set(groups.values())) == 38


def manifest_content(speaker: int) -> int:
    """The content of the first utterance of `speaker` in `speakers()`."""
    return speakers(1, first=speaker)[0][2]


def one_of(home, split) -> int:
    return int(read_splits(home).filter(split=split).sort("speaker")["speaker"][0][1:])


def test_a_new_file_that_links_train_and_val_is_quarantined_and_nothing_moves(home):
    files = speakers(40)
    update_splits(manifest_of(files), home)
    before = sides(home)
    val, train = one_of(home, "val"), one_of(home, "train")
    files.append((f"s{val}/copy.wav", f"s{val}", manifest_content(train), 5.0, "made"))
    report = update_splits(manifest_of(files), home)
    assert (report.quarantined, sides(home)) == (1, before)
    [row] = read_quarantine(home, ["made"]).iter_rows(named=True)
    assert (row["path"], row["stage"]) == (f"s{val}/copy.wav", "split")
    assert "train" in row["reason"] and "val" in row["reason"]
    update_splits(manifest_of(files[:-1]), home)  # the file is taken away
    assert read_quarantine(home, ["made"]).is_empty()


def test_merging_speakers_of_both_sides_keeps_the_larger_part_and_quarantines_the_rest(home):
    files = speakers(40, each=3)
    update_splits(manifest_of(files), home)
    before = sides(home)
    val, train = (f"s{one_of(home, split)}" for split in ("val", "train"))
    merged = [
        (path, "both" if who in (val, train) else who, *rest)
        for path, who, *rest in files
        if path != f"{val}/0.wav"  # two of val against three of train
    ]
    assert update_splits(manifest_of(merged), home).quarantined == 2
    assert all(before[digest] == side for digest, side in sides(home).items())
    assert set(read_splits(home).filter(speaker="both")["split"]) == {"train"}


def test_a_deleted_file_that_comes_back_is_on_its_old_side(home):
    files = speakers(40)
    update_splits(manifest_of(files), home)
    before = sides(home)
    gone = {f"s{one_of(home, split)}/0.wav" for split in ("val", "train")}
    update_splits(manifest_of([row for row in files if row[0] not in gone]), home)
    assert sides(home).items() < before.items()
    update_splits(manifest_of(files), home)
    assert sides(home) == before


def test_a_small_try_first_leaves_a_ledger_that_the_whole_corpus_grows_from(home):
    files = speakers(100)
    update_splits(manifest_of(files[::20]), home)
    tried = sides(home)
    update_splits(manifest_of(files), home)
    assert tried.items() <= sides(home).items()
    assert 0.05 <= (read_splits(home)["split"] == "val").mean() < 0.07


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (speakers(1, each=1), "1 utterance in 1 group of speakers; add more utterances"),
        (speakers(1, each=9), "9 utterances in 1 group.*`speaker: utterance`"),
    ],
    ids=["one utterance", "one speaker"],
)
def test_nothing_to_validate_on_is_an_error_with_its_mend_and_leaves_no_trace(home, files, message):
    with pytest.raises(PipelineError, match=message):
        update_splits(manifest_of(files), home)
    assert not list(home.rglob("*.parquet"))


def test_a_limit_that_leaves_only_training_speakers_says_so(home):
    files = speakers(100)
    update_splits(manifest_of(files), home)
    train = set(read_splits(home).filter(split="train")["speaker"])
    with pytest.raises(PipelineError, match="raise `limit`"):
        update_splits(manifest_of([row for row in files if row[1] in train][:20]), home)


@pytest.mark.parametrize("shares", [{"val": 1.0}, {"val": -0.1}, {"val": 0.6, "test": 0.5}, {"train": 0.9}])
def test_impossible_shares_are_refused(home, shares):
    with pytest.raises(PipelineError, match="shares"):
        update_splits(manifest_of(speakers(9)), home, shares)


def test_splits_that_are_missing_say_what_to_run(home):
    with pytest.raises(PipelineError, match="snac-pipeline split"):
        read_splits(home)


def test_writers_at_once_lose_nothing(home):
    parts = [speakers(20, corpus=f"c{n}") for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda part: update_splits(manifest_of(part), home), parts))
    report = update_splits(manifest_of([row for part in parts for row in part]), home)
    assert report.new_groups == 0


files_of_a_corpus = st.lists(
    st.tuples(
        st.integers(0, 60).map("{}.wav".format),
        st.integers(0, 14).map("s{}".format),
        st.integers(0, 60),
        st.sampled_from([1.0, 2.0, 9.0]),
        st.sampled_from(["x", "y"]),
    ),
    min_size=1,
    max_size=60,
    unique_by=lambda row: (row[0], row[4]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(files_of_a_corpus, min_size=1, max_size=4))
def test_whatever_is_added_or_changed_nothing_moves_and_no_side_shares_a_speaker_or_a_content(history):
    """Each step is any corpus at all: added, deleted, renamed, edited, duplicated files and corrected speakers."""
    with TemporaryDirectory() as folder:
        home, seen = Path(folder), {}
        for files in history:
            manifest = manifest_of(files)
            try:
                report = update_splits(manifest, home)
            except PipelineError:
                continue  # nothing to validate on: nothing was written
            kept = usable(manifest, home)
            assert len(kept) == len(manifest) - report.quarantined and not kept["split"].has_nulls()
            assert all(seen.setdefault(digest, side) == side for digest, side in sides(home).items())
            by_speaker = defaultdict(set)
            for corpus, speaker, split in kept.select("corpus", "speaker", "split").iter_rows():
                by_speaker[corpus, speaker].add(split)
            assert all(len(splits) == 1 for splits in by_speaker.values())


def test_scanned_files_keep_their_side_through_touch_rename_edit_delete_and_copy(tmp_path):
    root, home = tmp_path / "audio", tmp_path / "home"
    for n in range(30):
        write(root / f"s{n}" / "1.wav", seed=n, seconds=0.02)
        write(root / f"s{n}" / "2.wav", seed=100 + n, seconds=0.02)

    def split_by_path():
        scan(Corpus("c", root), home)
        manifest = read_manifest(home, ["c"])
        update_splits(manifest, home)
        return dict(usable(manifest, home).select("path", "split").iter_rows())

    before = split_by_path()
    assert read_utterances(home, ["c"]).select("digest", "split").rows() == sorted(sides(home).items())
    val, train = (
        next(path.split("/")[0] for path, side in before.items() if side == name) for name in ("val", "train")
    )
    for speaker, side in ((val, "val"), (train, "train")):
        (root / speaker / "1.wav").rename(root / speaker / "renamed.wav")
        write(root / speaker / "2.wav", seed=hash(speaker) % 10**6, seconds=0.02)
        shutil.copy(root / speaker / "renamed.wav", root / speaker / "copy.wav")
        (root / speaker).rename(root / f"{speaker}-renamed")
        after = split_by_path()
        assert {after[f"{speaker}-renamed/{name}.wav"] for name in ("renamed", "2", "copy")} == {side}
    assert all(before[path] == side for path, side in after.items() if path in before)
