"""What is to do follows from the parts alone: nothing is encoded twice, nothing is forgotten, no wrong code is kept."""

import os
import shutil

import made_codes as made
import pytest

from snac_pipeline.codes.parts import part_files
from snac_pipeline.errors import PipelineError


def run(codec, home, corpus, **options):
    return made.cache(codec, made.utterances_of(corpus, home), home, **options)


def test_a_second_run_encodes_nothing_and_touches_no_part(own, codec):
    home, corpus, parts = own
    before = {file: file.stat().st_mtime_ns for file in part_files(parts)}
    result = run(codec, home, corpus)
    assert (result["encoded"], result["already"], result["parts"]) == (0, len(made.SECONDS), 0)
    assert {file: file.stat().st_mtime_ns for file in part_files(parts)} == before


def test_three_more_files_are_three_more_encodings(own, codec):
    home, corpus, parts = own
    before = set(part_files(parts))
    made.make_corpus(corpus / "new", seconds=(0.2, 0.4, 0.4), first_seed=100)
    result = run(codec, home, corpus)
    assert (result["encoded"], result["already"]) == (3, len(made.SECONDS))
    assert before < set(part_files(parts))
    assert len(made.all_rows(parts)) == len(made.SECONDS) + 3


def test_copies_new_names_and_new_dates_cost_nothing(own, codec):
    home, corpus, _ = own
    files = sorted(corpus.rglob("*.wav"))
    shutil.copy(files[0], corpus / "copy.wav")
    files[1].rename(files[1].with_name("another name.wav"))
    os.utime(files[2])
    result = run(codec, home, corpus)
    assert (result["encoded"], result["utterances"]) == (0, len(made.SECONDS))


def test_a_deleted_part_costs_its_own_rows(own, codec):
    home, corpus, parts = own
    before = made.all_rows(parts)
    lost = part_files(parts)[1]
    lost.unlink()
    kept = set(made.all_rows(parts))
    result = run(codec, home, corpus)
    assert result["encoded"] == len(before) - len(kept) > 0
    made.assert_same_codes(made.all_rows(parts), before)


def test_another_codec_has_a_folder_of_its_own(own, codec, tmp_path):
    home, corpus, parts = own
    result = run(made.make_codec(tmp_path / "other", seed=1), home, corpus)
    assert result["encoded"] == len(made.SECONDS)
    assert len(list(parts.parent.iterdir())) == 2


def gone(file):
    file.unlink()


def cut(file):
    file.write_bytes(file.read_bytes()[:30])


def turned_into_text(file):
    file.write_text("no audio")


def made_a_folder(file):
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("accident", [gone, cut, turned_into_text, made_a_folder])
def test_a_file_lost_after_the_scan_is_named_and_all_others_are_cached(codec, tmp_path, accident):
    home, corpus = tmp_path / "home", made.make_corpus(tmp_path / "speech", seconds=(0.3, 0.3, 0.3, 0.5))
    utterances = made.utterances_of(corpus, home)
    lost = corpus / "speaker0" / "001.wav"
    accident(lost)
    with pytest.raises(PipelineError, match=rf"^1 files .*{lost}: .*the other 3 are cached; run `scan` again"):
        made.cache(codec, utterances, home)
    assert made.leftovers(home) == []
    rescanned = made.utterances_of(corpus, home)
    result = made.cache(codec, rescanned, home)
    assert (result["encoded"], result["utterances"]) == (0, 3)


def test_a_file_edited_after_the_scan_does_not_lend_its_codes_to_the_old_content(codec, tmp_path):
    home, corpus = tmp_path / "home", made.make_corpus(tmp_path / "speech", seconds=(0.3, 0.3))
    utterances = made.utterances_of(corpus, home)
    edited = corpus / "speaker0" / "000.wav"
    made.write_speech(edited, seed=77, seconds=0.3)
    with pytest.raises(PipelineError, match=rf"{edited}: changed since the scan"):
        made.cache(codec, utterances, home)
    rescanned = made.utterances_of(corpus, home)
    result = made.cache(codec, rescanned, home)
    assert result["encoded"] == 1
    rows = made.all_rows(home / "codes" / result["fingerprint"])
    made.assert_same_codes(rows, made.encoded_alone(codec, rescanned))


def test_every_file_lost_is_an_error_too_and_leaves_no_part(codec, tmp_path):
    home, corpus = tmp_path / "home", made.make_corpus(tmp_path / "speech", seconds=(0.3, 0.3))
    utterances = made.utterances_of(corpus, home)
    shutil.rmtree(corpus)
    with pytest.raises(PipelineError, match="the other 0 are cached"):
        made.cache(codec, utterances, home)
    assert list((home / "codes").rglob("*.parquet")) == []


def test_figures_are_told_per_corpus_and_progress_ends_at_all(codec, corpus, tmp_path):
    events = []
    result = run(codec, tmp_path, corpus, on_event=events.append)
    assert result["corpora"]["made"]["encoded"] == len(made.SECONDS)
    assert result["hours"] == pytest.approx(sum(made.SECONDS) / 3600, rel=1e-3)
    shares = [event["fraction"] for event in events if "fraction" in event]
    assert shares == sorted(shares) and shares[-1] == 1 and len(shares) >= result["parts"]
    last = events[-1]
    assert (last["done"], last["total"], last["failures"]) == (len(made.SECONDS), len(made.SECONDS), 0)
    assert last["hours"] == last["total_hours"] == pytest.approx(result["hours"], rel=1e-3)
    assert last["real_time_factor"] > 0 and last["seconds_left"] == 0 and 0 < last["wait_share"] < 1
