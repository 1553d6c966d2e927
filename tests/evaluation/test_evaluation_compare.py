"""The same codes, the same reference, the same noise for every contestant."""

import dataclasses

import numpy as np
import polars as pl
import pytest
import soundfile
import torch
from polars.testing import assert_frame_equal

from snac_pipeline.codec import SNAC, CodecSpec
from snac_pipeline.corpus.audio import read_audio
from snac_pipeline.errors import PipelineError
from snac_pipeline.evaluation import (
    METRICS,
    Contestant,
    Stage,
    Utterance,
    code_metrics,
    codebook_use,
    compare,
    resampled_name,
    summarise,
    used_codes,
)
from snac_pipeline.evaluation.compare import SCHEMA, interpolated

FEW = [metric for metric in METRICS if metric.name in ("mel_distance", "si_sdr", "l1", "log_spectral_distance_high")]
NAMES = ["base", "phase 10", "base resampled to 48 kHz", "phase 12"]
OF_CODES = [
    *(f"{name}_level{k}" for k in range(3) for name in ("codebook_use", "perplexity")), "bitrate",
]  # fmt: skip


def test_every_utterance_model_and_metric_has_one_row(contestants, utterances):
    table = compare(contestants, utterances, metrics=FEW)
    assert table.schema == pl.Schema(SCHEMA)
    assert table.height == len(utterances) * (len(NAMES) * len(FEW) + len(OF_CODES))
    assert table.n_unique(["utterance", "model", "metric"]) == table.height
    assert table["model"].unique(maintain_order=True).to_list() == NAMES
    assert (table["value"].is_null() == table["reason"].is_not_null()).all()
    assert table.filter(pl.col("reason").is_not_null())["metric"].unique().to_list() == ["log_spectral_distance_high"]


def test_two_runs_give_the_same_table_and_order_does_not_matter(contestants, utterances):
    table = compare(contestants, utterances, metrics=FEW)
    assert_frame_equal(table, compare(contestants, utterances, metrics=FEW), check_exact=True)
    backwards = compare(contestants, utterances[::-1], metrics=FEW)
    assert_frame_equal(table, backwards, check_row_order=False, check_exact=True)


def test_a_rendition_is_the_codecs_own_decode(codecs, contestants, utterances):
    utterance = utterances[3]
    renditions = {rendition.contestant.name: rendition for rendition in Stage(contestants, seed=7).render(utterance)}
    codes = [torch.from_numpy(level.astype(np.int64))[None] for level in utterance.codes]
    with torch.inference_mode():
        expected = SNAC.from_pretrained(codecs / "base").decode(codes, noise="seeded", seed=7)[0, 0].numpy()
    reference = read_audio(utterance.path, 24_000)
    np.testing.assert_array_equal(renditions["base"].reference_T, reference)
    np.testing.assert_array_equal(renditions["base"].estimate_T, expected[: len(reference)])
    resampled = renditions["base resampled to 48 kHz"].estimate_T
    np.testing.assert_array_equal(resampled, interpolated(expected)[: len(resampled)])
    assert len(renditions["phase 12"].estimate_T) == len(read_audio(utterance.path, 48_000))


def test_an_output_is_resampled_to_twice_its_rate_or_not_at_all(contestants):
    with pytest.raises(PipelineError, match=r"base resampled to 44.1 kHz: .* not 24000 Hz at 44100 Hz"):
        contestants[0].resampled(44_100)


def test_seconds_at_the_start_are_those_of_the_whole(contestants, utterances):
    whole, start = (Stage(contestants, max_seconds=seconds).render(utterances[7]) for seconds in (None, 0.5))
    for full, part in zip(whole, start, strict=True):
        assert len(part.estimate_T) == round(0.512 * part.contestant.output_rate)  # 6 coarse frames of 85.3 ms
        np.testing.assert_array_equal(part.reference_T, full.reference_T[: len(part.reference_T)])
        if part.contestant.resampled_from is None:
            np.testing.assert_allclose(part.estimate_T, full.estimate_T[: len(part.estimate_T)], atol=1e-5)


def test_a_reference_below_the_output_rate_is_told(contestants, utterances):
    table = compare(contestants, utterances, metrics=FEW[:1])
    noted = table.filter(pl.col("note").is_not_null())
    assert noted["utterance"].unique().to_list() == [utterances[0].digest]
    assert noted["note"].unique().to_list() == ["resampled reference (16000 Hz file)"]
    assert noted["model"].to_list() == NAMES and noted["metric"].unique().to_list() == [FEW[0].name]


def test_the_base_resampled_joins_once_for_each_other_rate(contestants):
    stand_in = contestants[0].resampled(48_000)
    assert stand_in == Contestant(resampled_name("base", 48_000), contestants[0].folder, 48_000, 24_000)
    again = dataclasses.replace(contestants[2], name="again")
    for given in ([*contestants, again], [*contestants[:2], stand_in, contestants[2], again]):
        assert [contestant.name for contestant in Stage(given).contestants] == [*NAMES, "again"]


def test_what_cannot_be_measured_is_counted_and_the_rest_goes_on(contestants, utterances, tmp_path):
    (tmp_path / "text.wav").write_text("this is not audio")
    short_codes = [level[: n * k] for level, n, k in zip(utterances[5].codes, [2] * 3, (1, 2, 4), strict=True)]
    bad = [
        Utterance("gone", tmp_path / "gone.wav", utterances[5].codes),
        Utterance("text", tmp_path / "text.wav", utterances[5].codes),
        Utterance("short", utterances[5].path, short_codes),
        Utterance("ragged", utterances[5].path, [level[:3] for level in utterances[5].codes]),
        Utterance("range", utterances[5].path, [level + 60_000 for level in utterances[5].codes]),
    ]
    table = compare(contestants, [*bad, utterances[6]], metrics=FEW[:1])
    failed = table.filter(pl.col("utterance") != utterances[6].digest)
    assert failed.height == len(bad) * (len(NAMES) + len(OF_CODES)) and failed["value"].null_count() == failed.height
    reasons = dict(failed.select("utterance", "reason").unique().iter_rows())
    assert "gone.wav" in reasons["gone"] and "text.wav" in reasons["text"]
    assert "belong to another file" in reasons["short"] and "coarse frames" in reasons["ragged"]
    assert "codebook" in reasons["range"]
    assert table.filter(pl.col("utterance") == utterances[6].digest)["value"].null_count() == 0


def test_limit_and_progress(contestants, utterances):
    heard = []
    table = compare(contestants[:1], iter(utterances), metrics=FEW[2:], limit=3, progress=heard.append)
    assert heard == [1, 2, 3] and table["utterance"].n_unique() == 3


def test_contestants_that_cannot_be_compared_are_refused(codecs, contestants, tmp_path):
    with pytest.raises(PipelineError, match="no model to compare"):
        Stage([])
    with pytest.raises(PipelineError, match=r"phase 9.*not to 48000 Hz"):
        Stage([contestants[0], Contestant("phase 9", codecs / "tuned", 48_000)])
    with pytest.raises(PipelineError, match="name of its own"):
        Stage([contestants[0], dataclasses.replace(contestants[1], name="base")])
    other = CodecSpec(
        sampling_rate=24_000, encoder_dim=4, encoder_rates=(2, 4, 8, 8), decoder_dim=32, decoder_rates=(8, 8, 4, 2),
        attn_window_size=None, vq_strides=(2, 1), codebook_size=64, codebook_dim=4,
    )  # fmt: skip
    SNAC(other).save_pretrained(tmp_path / "other")
    with pytest.raises(PipelineError, match="other codes than base"):
        Stage([contestants[0], Contestant("other", tmp_path / "other", 24_000)])


SPEECH = CodecSpec(
    sampling_rate=24_000, encoder_dim=48, encoder_rates=(2, 4, 8, 8), decoder_dim=1024, decoder_rates=(8, 8, 4, 2),
    attn_window_size=None, vq_strides=(4, 2, 1),
)  # fmt: skip


def test_figures_of_the_codes_stand_once_under_the_base(contestants, utterances, spec):
    table = compare(contestants, utterances, metrics=FEW[:1])
    of_codes = table.filter(pl.col("metric").is_in(OF_CODES))
    assert of_codes["model"].unique().to_list() == ["base"] and of_codes["sample_rate"].unique().to_list() == [24_000]
    assert of_codes["metric"].to_list() == OF_CODES * len(utterances)
    values = {(row["utterance"], row["metric"]): row["value"] for row in of_codes.to_dicts()}
    for utterance in utterances:
        for k, level in enumerate(utterance.codes):
            counts = np.unique(level, return_counts=True)[1]
            share = counts / counts.sum()
            assert values[utterance.digest, f"codebook_use_level{k}"] == pytest.approx(100 * len(counts) / 64)
            expected = np.prod(share**-share)
            assert values[utterance.digest, f"perplexity_level{k}"] == pytest.approx(expected)
        seconds = len(read_audio(utterance.path, 24_000)) / 24_000
        bits = 6 * sum(map(len, utterance.codes))
        assert values[utterance.digest, "bitrate"] == pytest.approx(bits / seconds)
    summary = summarise(table)
    assert summary.filter(pl.col("metric").is_in(OF_CODES))["baseline"].null_count() == len(OF_CODES)


def test_they_are_of_what_is_compared_and_not_of_the_rest(contestants, utterances, spec):
    whole, start = (compare(contestants[:1], utterances[7:], metrics=(), max_seconds=s) for s in (None, 0.5))
    kept = used_codes(utterances[7].codes, spec, 0.5)
    assert [len(level) for level in kept] == [6, 12, 24]
    assert start.filter(metric="codebook_use_level2")["value"][0] == 100 * len(np.unique(kept[2])) / 64
    assert start.filter(metric="bitrate")["value"][0] == pytest.approx(6 * 42 / (6 * 2048 / 24_000))
    assert whole.filter(metric="bitrate")["value"][0] > start.filter(metric="bitrate")["value"][0]


def test_one_token_has_a_share_of_the_codebook_and_no_perplexity(contestants, utterances, tmp_path, codecs, spec):
    path = tmp_path / "short.wav"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(1500), 24_000)
    short = Utterance("short", path, [level[:n] for level, n in zip(utterances[0].codes, (1, 2, 4), strict=True)])
    table = compare(contestants[:1], [short, utterances[0]], metrics=())
    rows = {row["metric"]: row for row in table.filter(utterance="short").to_dicts()}
    assert rows["perplexity_level0"]["value"] is None
    assert rows["perplexity_level0"]["reason"] == "a single token has no distribution"
    assert rows["codebook_use_level0"]["value"] == 100 / 64 and rows["perplexity_level1"]["value"] >= 1
    summary = {row["metric"]: row for row in summarise(table).to_dicts()}
    assert (summary["perplexity_level0"]["n"], summary["perplexity_level0"]["missing"]) == (1, 1)
    assert not table["value"].is_nan().any()


def test_closed_forms_of_one_utterances_codes():
    use, perplexity, *_, bitrate = code_metrics(SPEECH)
    even = [np.arange(12), np.zeros(24, np.uint16), np.tile([5, 7], 24)]
    of_level = {metric.name: metric.function(even, 1.0) for metric in code_metrics(SPEECH)}
    assert of_level["perplexity_level0"] == pytest.approx(12) and of_level["perplexity_level1"] == 1
    assert of_level["perplexity_level2"] == 2 and use.function(even, 1.0) == 100 * 12 / 4096
    assert bitrate.function(even, 1.0) == 84 * 12 and bitrate.function(even, 2.0) == 42 * 12
    assert perplexity.function([np.array([3, 3, 9])], 1.0) == pytest.approx(3 / 2 ** (2 / 3))


def test_codebook_use_without_tokens_has_no_figures_and_no_nan():
    table = codebook_use([], SPEECH)
    assert table["tokens"].to_list() == [0, 0, 0, 0] and table["perplexity"].null_count() == 4
    assert table["entropy_bitrate"].null_count() == 4 and table["bitrate"][-1] == pytest.approx(984.375)


def test_codebook_use_of_even_and_of_constant_codes():
    spec = SPEECH
    even, constant = np.arange(4096, dtype=np.uint16), np.zeros(8192, np.uint16)
    halves = np.tile(np.array([3, 4095], np.uint16), 8192)
    table = codebook_use([(even, constant, halves)], spec)
    assert table["level"].to_list() == ["0", "1", "2", "all"]
    assert table["perplexity"].to_list()[:3] == pytest.approx([4096, 1, 2])
    assert table["used"].to_list() == [4096, 1, 2, None]
    assert table["bitrate"].to_list() == pytest.approx([140.625, 281.25, 562.5, 984.375])
    assert table["entropy_bitrate"].to_list() == pytest.approx([140.625, 0, 46.875, 187.5])
