"""A step finds its result by what it was made from, and makes it again when just that changes."""

import pytest

from snac_pipeline.codec import SNAC
from snac_pipeline.steps.codes import base_codec, describe_codec, verify_codes
from snac_pipeline.steps.corpus import split_corpora
from snac_pipeline.steps.tokens import analyze
from snac_pipeline.steps.training import decoder_results, decoder_run


def silent(event: dict) -> None:
    pass


def with_tokens(settings, **changes):
    return settings.model_copy(update={"tokens": settings.tokens.model_copy(update=changes)})


@pytest.mark.parametrize("what", ["statistics", "sequences", "bpe"])
def test_tokens_are_analysed_once(settings, what):
    settings = with_tokens(settings, merges=20)
    first, again = (analyze(settings, what, silent) for _ in range(2))
    assert (first.pop("reused"), again.pop("reused")) == (False, True)
    assert first == again
    folder = settings.home / "tokens" / f"{what}-{first['version']}"
    assert first["folder"] == str(folder)
    assert all((folder / name).is_file() for name in first["files"])


def test_statistics_are_those_of_the_cached_tokens(settings):
    model, _ = base_codec(settings)
    result = analyze(settings, "statistics", silent)
    compared = verify_codes(settings, ["made"], sample=10**6)
    assert result["tokens"] == compared["compared_tokens"] == 7 * 6 * (6 + 9)  # 7 a frame; 0.5 s: 6, 0.7 s: 9 frames
    assert compared["mismatched_tokens"] == 0
    assert result["hours"] * 3600 == pytest.approx(6 * (6 + 9) * model.spec.frame_seconds)


def test_settings_of_the_encoding_do_not_touch_the_statistics(settings):
    analyze(settings, "statistics", silent)
    analyze(with_tokens(settings, merges=20), "bpe", silent)
    other = with_tokens(settings, merges=21, layout="level_offsets")
    assert analyze(other, "statistics", silent)["reused"] is True
    assert analyze(other, "bpe", silent)["reused"] is False


def test_splitting_again_moves_nobody(settings):
    first, again = split_corpora(settings), split_corpora(settings)
    assert first == again
    assert again["new_groups"] == 0
    assert again["train"] + again["val"] == 12 and again["val"] > 0


def test_a_codec_is_described_by_its_own_figures(settings):
    model, folder = base_codec(settings)
    described = describe_codec(settings, model, settings.base_codec.source)
    assert described["source"] == str(folder)
    assert described["tokens_per_second"] == pytest.approx(7 * 24_000 / 2048)
    assert described["parameters"] == sum(p.numel() for p in SNAC.from_pretrained(folder).parameters())


def test_nothing_is_trained_yet_and_a_limit_is_a_run_of_its_own(settings):
    assert set(decoder_results(settings).values()) == {None}
    limited = settings.model_copy(update={"training": settings.training.model_copy(update={"limit": 2})})
    whole, few = decoder_run(settings, "decoder_24khz"), decoder_run(limited, "decoder_24khz")
    assert whole.folder != few.folder and len(few.train_rows) == 2
    assert decoder_run(settings, "decoder_24khz").folder == whole.folder
