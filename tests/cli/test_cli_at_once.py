"""Two commands at once on one home: the second waits for the first, says for whom, and does what is left."""

import contextlib
import json
import os

from snac_pipeline.engine.locks import try_lock


def test_a_cache_waits_for_whoever_encodes_the_same_corpus_and_says_who_that_is(project):
    utterances = project.done("scan")["utterances"]
    with contextlib.ExitStack() as held:
        assert try_lock(project.home / "locks" / "cache-made.lock", "caching made", held) is None
        waiting = project.start("cache", "--json")
        words = json.loads(waiting.stdout.readline())["message"]
        assert f"waiting for process {os.getpid()} on " in words and "(caching made)" in words
        assert waiting.poll() is None and not (project.home / "codes").exists()
    out, err = waiting.communicate(timeout=500)
    result = json.loads(out.splitlines()[-1])
    assert (result["event"], result["encoded"]) == ("result", utterances), err
    assert project.done("cache")["encoded"] == 0


def test_another_corpus_is_encoded_meanwhile(project):
    project.done("scan")
    with contextlib.ExitStack() as held:
        assert try_lock(project.home / "locks" / "cache-other.lock", "caching other", held) is None
        assert project.done("cache", "--corpus", "made")["encoded"] > 0
