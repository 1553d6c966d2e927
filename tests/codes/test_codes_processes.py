"""The cache made by several processes: the codes of one, whatever becomes of a worker; what cannot be encoded is set
aside, and told."""

import os
import shutil
import signal
from pathlib import Path

import made_codes as made
import pytest

from snac_pipeline.codes.parts import encode_quarantine, part_files
from snac_pipeline.errors import PipelineError


def test_a_worker_killed_in_the_middle_costs_no_row(cached, codec, corpus, tmp_path):
    """Two processes, of which one is killed at the first progress: one run is enough all the same."""
    utterances = made.utterances_of(corpus, tmp_path)
    events, before = [], set(workers_of(os.getpid()))  # readers that another test's run in this process has kept

    def kill_a_worker(event):
        if "fraction" in event and not events:
            os.kill(max(set(workers_of(os.getpid())) - before), signal.SIGKILL)
        if "fraction" in event:
            events.append(event)

    result = made.cache(
        codec, utterances, tmp_path, engine="local", devices=["cpu", "cpu"], on_event=kill_a_worker, part_utterances=1
    )
    assert result["encoded"] == len(utterances)
    assert events[-1]["failed_attempts"] == result["failed_attempts"] <= 1  # none, if it was just between two parts
    assert set(workers_of(os.getpid())) == before
    rows = made.all_rows(tmp_path / "codes" / result["fingerprint"])
    made.assert_same_codes(rows, made.all_rows(cached[0] / "codes" / result["fingerprint"]))


def test_an_utterance_on_which_workers_hang_is_set_aside_and_all_others_are_cached(codec, tmp_path):
    """A file that became a pipe after the scan: whoever opens it waits for ever."""
    home, corpus = tmp_path / "home", made.make_corpus(tmp_path / "speech", seconds=(0.3, 0.5, 0.7))
    utterances = made.utterances_of(corpus, home)
    file = corpus / "speaker0" / "001.wav"
    shutil.move(file, tmp_path / "kept.wav")
    os.mkfifo(file)
    [poisonous] = utterances.filter(utterances["duration"] == 0.5)["digest"]
    options = {"engine": "local", "part_utterances": 2, "hang_seconds": 4.0}

    with pytest.raises(PipelineError, match=rf"1 utterances could not .*{file}.*hung.* other 2 are cached.*--retry-qu"):
        made.cache(codec, utterances, home, **options)
    [parts] = (home / "codes").iterdir()
    [row] = encode_quarantine(parts).to_dicts()
    assert (row["digest"], row["file"], row["stage"]) == (poisonous, str(file), "encode")
    assert "attempts" in row["reason"] and "hung" in row["reason"]
    assert set(made.all_rows(parts)) == set(utterances["digest"]) - {poisonous}
    assert made.leftovers(home) == []

    events = []
    result = made.cache(codec, utterances, home, on_event=events.append, **options)
    assert (result["utterances"], result["encoded"], result["quarantined"]) == (2, 0, 1)
    assert "1 left out" in events[0]["message"]

    shutil.move(tmp_path / "kept.wav", file)
    assert made.cache(codec, utterances, home, **options)["quarantined"] == 1, "not tried again unless asked for"
    result = made.cache(codec, utterances, home, retry_quarantined=True, engine="inline")
    assert (result["utterances"], result["encoded"], result["quarantined"]) == (3, 1, 0)
    assert encode_quarantine(parts).is_empty()


def test_completeness_is_what_storage_holds_and_not_what_workers_said(codec, corpus, tmp_path):
    utterances = made.utterances_of(corpus, tmp_path)

    def lose_a_part(event):
        if event.get("fraction") == 1:
            part_files(next((tmp_path / "codes").iterdir()))[0].unlink()

    with pytest.raises(PipelineError, match=r"utterances have no codes in .* although .*run `cache` again"):
        made.cache(codec, utterances, tmp_path, on_event=lose_a_part)
    assert made.cache(codec, utterances, tmp_path)["encoded"] > 0
    [parts] = (tmp_path / "codes").iterdir()
    assert set(made.all_rows(parts)) == set(utterances["digest"])


def workers_of(parent: int) -> list[int]:
    """Spawned workers, by /proc: children of ours that run multiprocessing's `spawn_main`."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(") ")[2].split()
                if int(fields[1]) == parent and b"spawn_main" in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
            except (FileNotFoundError, ProcessLookupError):
                pass
    return found
