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
from snac_pipeline.corpus.ledger import ledger_file
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


def test_a_damaged_ledger_is_never_made_anew_without_a_word(home):
    update_splits(manifest_of(speakers(100)), home)
    ledger_file(home).write_bytes(b"junk")
    with pytest.raises(PipelineError, match=r"ledger.parquet is damaged .* restore it from a copy: it alone"):
        update_splits(manifest_of(speakers(100)), home)


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


def test_a_test_share_asked_for_later_takes_new_speakers_only(home):
    files = speakers(100)
    update_splits(manifest_of(files), home)
    before = sides(home)
    with pytest.raises(PipelineError, match=r"nothing is left for test.*groups never move: add speakers"):
        update_splits(manifest_of(files), home, {"val": 0.05, "test": 0.1})
    assert sides(home) == before
    files += speakers(100, first=100)
    report = update_splits(manifest_of(files), home, {"val": 0.05, "test": 0.1})
    assert before.items() < sides(home).items()
    assert report.utterances["test"] == pytest.approx(40, abs=2) and report.nothing_left_for == {}


def test_a_corpus_that_has_no_group_for_a_split_is_named(home):
    files = speakers(40, corpus="old")
    update_splits(manifest_of(files), home)
    files += speakers(40, corpus="new") + speakers(1, corpus="one")
    report = update_splits(manifest_of(files), home, {"val": 0.05, "test": 0.1})
    assert report.nothing_left_for == {"val": ["one"], "test": ["old", "one"]}


# Corpora whose side is given ------------------------------------------------------------------------------------------

READY = {"made-train": "train", "made-val": "val"}


def ready_made(shared: int = 0):
    """Ten speakers to train on, four of the same names held out; the first recordings of `shared` of these are the
    same ones."""
    train, val = speakers(10, corpus="made-train"), speakers(4, corpus="made-val")
    copies = [(f"copy{n}.wav", f"s{n}", train[2 * n][2], 5.0, "made-val") for n in range(shared)]
    return train + val + copies


def test_a_corpus_whose_side_is_given_is_on_it_and_counts_speakers_that_leak(home):
    report = update_splits(manifest_of(ready_made()), home, sides=READY)
    assert report.utterances == {"train": 20, "val": 8}
    assert (report.quarantined, report.speakers_on_both_sides, report.nothing_left_for) == (0, 4, {})
    found = read_splits(home).group_by("corpus").agg(pl.col("split").unique())
    assert {corpus: set(splits) for corpus, splits in found.iter_rows()} == {
        "made-train": {"train"},
        "made-val": {"val"},
    }


def test_equal_content_of_two_given_sides_stays_in_train_and_the_other_file_is_set_aside(home):
    files = ready_made(shared=3)
    report = update_splits(manifest_of(files), home, sides=READY)
    assert report.utterances == {"train": 20, "val": 8} and report.quarantined == 3
    refused = read_quarantine(home, list(READY))
    assert set(refused["path"]) == {"copy0.wav", "copy1.wav", "copy2.wav"}
    assert set(refused["reason"]) == {"this content is in train, and its corpus is all of val"}


def test_a_given_side_is_stronger_than_the_speakers_of_other_corpora(home):
    """Most of s0's files are held out in the ready-made folder; the one that is trained on there stays there."""
    given = ready_made()
    other = [(f"{n}.wav", "s0", content, 5.0, "other") for n, (_, _, content, *_) in enumerate(given[19:24])]
    other += speakers(20, corpus="other", first=1)
    report = update_splits(manifest_of(given + other), home, sides=READY)
    assert report.utterances["train"] + report.utterances["val"] == 28 + 40 and report.quarantined == 1
    assert dict(read_splits(home).filter(corpus="made-train").group_by("split").len().iter_rows()) == {"train": 20}


def test_new_files_of_a_given_corpus_are_on_its_side_for_good(home):
    update_splits(manifest_of(ready_made()), home, sides=READY)
    before = sides(home)
    more = ready_made() + speakers(3, corpus="made-val", first=50)
    assert update_splits(manifest_of(more), home, sides=READY).utterances == {"train": 20, "val": 14}
    assert before.items() < sides(home).items()


@pytest.mark.parametrize(
    "changed",
    [{"made-train": "val", "made-val": "val"}, {"made-train": "train", "made-val": "test"}, READY | {"other": "val"}],
)
def test_another_side_than_the_ledger_has_is_refused(home, changed):
    files = manifest_of(ready_made() + speakers(20, corpus="other"))
    update_splits(files, home, sides=READY)
    before = sides(home)
    with pytest.raises(PipelineError, match=r"corpus .* is all of .*no file ever changes side; set `split` back"):
        update_splits(files, home, sides=changed)
    assert sides(home) == before


def test_folders_with_the_same_recordings_cannot_be_both_sides(home):
    files = speakers(5, corpus="made-train") + [(*row[:4], "made-val") for row in speakers(5, corpus="made-train")]
    with pytest.raises(PipelineError, match=r"made-val is all of val.*all of its recordings are in other splits"):
        update_splits(manifest_of(files), home, sides=READY)


def test_sides_that_leave_a_split_empty_say_so(home):
    with pytest.raises(PipelineError, match=r"nothing is left for val.*every corpus has a side of its own"):
        update_splits(manifest_of(speakers(9)), home, sides={"made": "train"})


# Properties -----------------------------------------------------------------------------------------------------------

CORPORA = ["x", "y", "z-train", "z-val"]
GIVEN = {"z-train": "train", "z-val": "val"}

files_of_a_corpus = st.lists(
    st.tuples(
        st.integers(0, 60).map("{}.wav".format),
        st.integers(0, 14).map("s{}".format),
        st.integers(0, 60),
        st.sampled_from([1.0, 2.0, 9.0]),
        st.sampled_from(CORPORA),
    ),
    min_size=1,
    max_size=60,
    unique_by=lambda row: (row[0], row[4]),
)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(files_of_a_corpus, st.sampled_from([0.0, 0.3])), min_size=1, max_size=4))
def test_whatever_is_added_or_changed_nothing_moves_and_no_side_shares_a_speaker_or_a_content(history):
    """Each step is any corpus at all: added, deleted, renamed, edited, duplicated files and corrected speakers; a test
    share asked for or not; two corpora whose side is given."""
    with TemporaryDirectory() as folder:
        home, seen, ledger = Path(folder), {}, pl.DataFrame()
        for files, test in history:
            manifest = manifest_of(files)
            try:
                report = update_splits(manifest, home, {"val": 0.05, "test": test}, GIVEN)
            except PipelineError:
                continue  # nothing to validate on: nothing was written
            kept = usable(manifest, home)
            assert len(kept) == len(manifest) - report.quarantined and not kept["split"].has_nulls()
            assert all(seen.setdefault(digest, side) == side for digest, side in sides(home).items())
            by_speaker = defaultdict(set)
            for corpus, speaker, split in kept.select("corpus", "speaker", "split").iter_rows():
                by_speaker[corpus, speaker].add(split)
            assert all(len(splits) == 1 for splits in by_speaker.values())
            assert all(set(kept.filter(corpus=corpus)["split"]) <= {side} for corpus, side in GIVEN.items())
            refused = read_quarantine(home, CORPORA)
            assert len(refused) == report.quarantined and refused["reason"].null_count() == 0
            grown = pl.read_parquet(home / "splits" / "ledger.parquet")
            assert grown.head(len(ledger)).equals(ledger) or ledger.is_empty()  # rows are only added
            assert not grown.select(pl.struct("kind", "member").is_duplicated().any()).item()
            ledger = grown


new_speakers = st.lists(
    st.tuples(st.sampled_from(["x", "y"]), st.lists(st.integers(10, 100), min_size=1, max_size=6)), max_size=30
)


@settings(max_examples=12, deadline=None)
@given(st.lists(new_speakers, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_every_stratum_holds_its_shares_to_within_one_group_in_whatever_order_speakers_come(steps, random):
    """Of any two splits that are asked for, none lacks more than its largest group, nor takes more than twice its share
    and one group."""
    shares = {"val": 0.1, "test": 0.1}
    with TemporaryDirectory() as folder:
        home, files = Path(folder), speakers(20, corpus="x") + speakers(20, corpus="y")
        update_splits(manifest_of(files), home, shares)
        for step, added in enumerate(steps):
            for who, (corpus, durations) in enumerate(added):
                name = f"new{step}-{who}"
                files += [
                    (f"{name}/{n}.wav", name, len(files) + n + 1, seconds / 10, corpus)
                    for n, seconds in enumerate(durations)
                ]
            random.shuffle(files)
            update_splits(manifest_of(files), home, shares)
        manifest = manifest_of(files).unique("digest")
        placed = manifest.join(read_splits(home).select("digest", "split", "group"), on="digest")
        groups = placed.group_by("corpus", "group", "split").agg(pl.col("duration").sum())
        for corpus in ("x", "y"):
            mine = groups.filter(corpus=corpus)
            total, largest = mine["duration"].sum(), mine["duration"].max()
            for split, share in shares.items():
                held = mine.filter(split=split)["duration"].sum()
                assert share * total - largest <= held <= 2 * share * total + largest


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
