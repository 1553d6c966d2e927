"""Ctrl-C in the middle of caching, from a terminal or a supervisor: what is committed stays, the next run goes on."""

import os
import signal
import time

import made_codes as made
import pyarrow.parquet as pq
import pytest

from snac_pipeline.codes.parts import part_files


@pytest.mark.parametrize(
    ("processes", "send"),
    [
        pytest.param(2, lambda run: os.killpg(run.pid, signal.SIGINT), id="terminal-two-processes"),
        pytest.param(2, lambda run: run.send_signal(signal.SIGTERM), id="supervisor-two-processes"),
        pytest.param(1, lambda run: os.killpg(run.pid, signal.SIGINT), id="terminal-one-process"),
    ],
)
def test_an_interrupted_cache_keeps_what_it_committed_and_goes_on(project, codec, processes, send):
    made.make_corpus(project.folder / "speech" / "long", seconds=[1.0 + i / 1000 for i in range(60)], first_seed=100)
    caching = {"part_utterances": 1, "verify": 2, "processes": processes}
    project.change_settings(caching=caching, corpora={"made": {"path": "speech"}})
    project.done("scan")

    running = project.start("cache")
    deadline = time.monotonic() + 120
    while not (committed := list((project.home / "codes").rglob("part-*.parquet"))) or len(committed) < 3:
        assert running.poll() is None and time.monotonic() < deadline, running.stderr.read()
        time.sleep(0.02)
    send(running)
    began = time.monotonic()
    out, err = running.communicate(timeout=30)

    assert running.returncode == 130 and out == ""
    assert time.monotonic() - began < 8, "Dagster gives it no longer"
    assert "Traceback" not in err and err.rstrip().endswith(
        "error: interrupted; what was done is kept: run it again to go on"
    ), err
    assert made.leftovers(project.home) == []
    [parts] = (project.home / "codes").iterdir()
    kept = {file: file.read_bytes() for file in part_files(parts)}
    rows = sum(pq.read_table(file, page_checksum_verification=True).num_rows for file in kept)
    assert 3 <= rows < 64

    project.change_settings(caching={**caching, "processes": 1, "part_utterances": 100})
    result = project.done("cache")
    assert (result["encoded"], result["already"]) == (64 - rows, rows)
    assert all(file.read_bytes() == data for file, data in kept.items())
    assert len(made.all_rows(parts)) == 64
