"""Utterances that could not be encoded are left out of every later step, and told."""

import shutil

import polars as pl
import pytest

from snac_pipeline.codes.fingerprint import encoder_fingerprint
from snac_pipeline.codes.parts import codes_folder, write_encode_quarantine
from snac_pipeline.corpus import read_utterances
from snac_pipeline.steps.codes import base_codec, cache, cached_utterances, verify_codes
from snac_pipeline.steps.tokens import analyze
from snac_pipeline.steps.training import decoder_run


def silent(event: dict) -> None:
    pass


@pytest.fixture
def without_one(settings, tmp_path):
    """(settings, digest): a cache made anew, where one training utterance is in the quarantine and in no part."""
    home = tmp_path / "home"
    shutil.copytree(settings.home, home)
    settings = settings.model_copy(update={"home": home})
    parts = codes_folder(home, encoder_fingerprint(base_codec(settings)[0]))
    for part in parts.glob("part-*.parquet"):
        part.unlink()
    utterances = read_utterances(home, ["made"])
    [row] = utterances.filter(pl.col("split") == "train").head(1).select("digest", "file").to_dicts()
    write_encode_quarantine(parts, pl.DataFrame([{**row, "reason": "it kills workers", "stage": "encode"}]))
    return settings, row["digest"]


def test_every_step_leaves_it_out_and_says_so(without_one):
    settings, digest = without_one
    cached = cache(settings, ["made"], True, silent)
    assert (cached["utterances"], cached["encoded"], cached["quarantined"]) == (11, 11, 1)
    assert cached["corpora"]["made"]["quarantined"] == 1
    kept, left_out = cached_utterances(settings, base_codec(settings)[0])
    assert digest not in set(kept["digest"]) and (len(kept), left_out) == (11, 1)
    verified = verify_codes(settings, ["made"], sample=2)
    assert (verified["utterances"], verified["quarantined"], verified["errors"]) == (12, 1, [])
    assert analyze(settings, "statistics", silent)["left_out"] == 1
    run = decoder_run(settings, "decoder_24khz")
    assert digest not in set(run.inputs.utterances["digest"]) and len(run.train_rows) + len(run.val_rows) == 11


def test_it_is_tried_again_when_asked_for(without_one):
    settings, digest = without_one
    cached = cache(settings, ["made"], True, silent, retry_quarantined=True)
    assert (cached["encoded"], cached["quarantined"]) == (12, 0)
    assert digest in set(cached_utterances(settings, base_codec(settings)[0]).utterances["digest"])
