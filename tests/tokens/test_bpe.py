"""BPE loses no id, says what it learned, and does not praise itself on noise."""

import json

import numpy as np
import polars as pl
import pytest
from made_tokens import SMALL, SPEECH, random_stream, stream_of
from tokenizers import Tokenizer

from snac_pipeline.errors import PipelineError
from snac_pipeline.tokens import Alphabet, TokenGeometry, TokenStream, make_layout, train_bpe, write_bpe
from snac_pipeline.tokens.heldout import Tokens, fit_unigram

BINARY = TokenGeometry((1, 2), 4, 0.1)


def repetitive_stream(utterances: int = 60, frames: int = 40) -> TokenStream:
    """Four words of two coarse frames each, in random order: a language that BPE must find."""
    rng = np.random.default_rng(0)
    words = rng.integers(0, 16, (4, 2 * 7))
    drawn = words[rng.integers(0, 4, utterances * frames // 2)].reshape(-1, 7)
    codes = [drawn[:, :1].reshape(-1), drawn[:, 1:3].reshape(-1), drawn[:, 3:].reshape(-1)]
    splits = ["train"] * (utterances - 15) + ["val"] * 15
    return stream_of(SMALL, codes, [frames] * utterances, splits)


@pytest.fixture(scope="module")
def speech_like():
    """28,672 ids of which a tiny corpus shows a few: the shape of the demo."""
    return train_bpe(random_stream(SPEECH, 40, 40), merges=500, resamples=50)


@pytest.mark.parametrize("size", [1, 28_672, 65_534, 65_535, 131_068])
def test_the_alphabet_is_distinct_private_use_characters(size):
    alphabet = Alphabet(size)
    text = alphabet.characters
    assert len(set(text)) == len(text) == size
    assert all(0xF0000 <= ord(c) <= 0x10FFFD and ord(c) & 0xFFFF < 0xFFFE for c in (text[0], text[-1]))
    assert (alphabet.symbols(text) == np.arange(size)).all()
    assert list(text) == sorted(text), "HF tokenizers sorts the alphabet: order must be that of the ids"


def test_what_stands_for_no_id_is_refused():
    with pytest.raises(PipelineError, match="id 5 is outside"):
        Alphabet(5).text(np.array([4, 5]))
    for text in ("a", chr(0xF0005), chr(0xFFFFE), chr(0x100000)):
        with pytest.raises(PipelineError, match="stands for no id"):
            Alphabet(5).symbols(text)
    with pytest.raises(PipelineError, match="does not fit"):
        Alphabet(131_069)


def test_a_stock_tokenizer_returns_every_id(speech_like, tmp_path):
    write_bpe(tmp_path, speech_like)
    stock = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    mapping = json.loads((tmp_path / "alphabet.json").read_text())["alphabet"]["ranges"][0]
    first = int(mapping["first_code_point"][2:], 16)
    text = "".join(chr(first + symbol) for symbol in range(mapping["last_symbol"] + 1))
    assert len(text) == 28_672
    for way in (text, text[::-1]):
        assert stock.decode(stock.encode(way).ids) == way
    assert [stock.token_to_id(text[symbol]) for symbol in (0, 4096, 28_671)] == [0, 4096, 28_671]


def test_encoding_and_decoding_an_utterance_loses_nothing():
    stream = repetitive_stream()
    report = train_bpe(stream, merges=50, resamples=20)
    symbols = make_layout("frame", SMALL, 0).flatten(stream.codes)
    offsets = stream.offsets * 7
    ids, borders = report.tokenizer.encode(symbols, offsets)
    assert borders.size == offsets.size and ids.size < symbols.size / 5
    for row in (0, 7, 59):
        one = report.tokenizer.decode(ids[borders[row] : borders[row + 1]])
        assert (one == symbols[offsets[row] : offsets[row + 1]]).all()


def test_a_language_of_words_is_worth_merging():
    report = train_bpe(repetitive_stream(), merges=56, resamples=100)
    assert report.recommendation.startswith("use BPE: with 56 merges")
    assert report.value("compression_ratio") > 5
    before, after = report.value("bits_per_second", 0), report.value("bits_per_second")
    assert before > 5 * after
    assert after == pytest.approx(2 / 0.2, rel=0.2), "two bits per word of two frames"


@pytest.mark.parametrize("layout", ["frame", "level_offsets", "parallel", "coarse_only"])
def test_noise_is_not_worth_merging_though_plain_unigram_bits_fall(layout):
    report = train_bpe(random_stream(BINARY, 400, 40), layout=layout, merges=24, resamples=100)
    assert report.value("compression_ratio") > 1.2
    if layout == "parallel":
        return  # holds codes on purpose, so merging does pay
    assert report.recommendation.startswith("do not use BPE: with 24 merges")
    if layout == "frame":
        assert report.value("bits_per_second_plain") < 0.95 * report.value("bits_per_second_plain", 0)
        assert report.value("bits_per_second", 0) == pytest.approx(3 * 2 / 0.1, rel=0.01), "three codes of two bits"


def test_tiny_corpora_report_fewer_merges_than_asked(speech_like):
    assert 0 < speech_like.tokenizer.merges < 500
    assert f"{speech_like.tokenizer.merges} merges (500 were asked for)" in speech_like.recommendation
    assert speech_like.value("merges_asked") == 500
    assert speech_like.table["value"].is_finite().all()
    nothing = stream_of(SMALL, [np.arange(2), np.arange(4), np.arange(8)], [1, 1], ["train", "val"])
    report = train_bpe(nothing, merges=10, resamples=10)
    assert (
        report.recommendation == "do not use BPE: nothing was merged, no pair of ids occurs twice in the train sample."
    )
    assert report.value("compression_ratio", 0) == 1


def test_no_merge_crosses_an_utterance():
    """The only pair that recurs lies across borders, so nothing can be merged."""
    geometry = TokenGeometry((1,), 4, 0.1)
    stream = stream_of(geometry, [np.array([0, 1, 0, 1, 0, 1, 2])], [1] * 7, ["train"] * 6 + ["val"])
    assert train_bpe(stream, merges=5, resamples=10).tokenizer.merges == 0


def test_the_same_input_gives_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        write_bpe(tmp_path / name, train_bpe(repetitive_stream(), merges=40, sample_tokens=5000, seed=4, resamples=50))
    for file in ("tokenizer.json", "alphabet.json", "bpe.parquet", "recommendation.txt"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_the_sample_is_whole_utterances_of_about_the_size_asked():
    report = train_bpe(repetitive_stream(), merges=5, sample_tokens=1000, resamples=10)
    assert report.value("train_tokens") == 4 * 40 * 7
    assert report.to_table().columns == ["layout", "merges", "statistic", "value", "low", "high"]
    interval = report.to_table().filter(pl.col("statistic") == "compression_ratio").row(-1, named=True)
    assert interval["low"] <= interval["value"] <= interval["high"]


def test_the_unigram_model_is_a_distribution_at_every_phase():
    rng = np.random.default_rng(0)
    starts_at = np.array([[1, 1, 0, 0, 1], [0, 0, 1, 1, 0]], bool)
    phases = np.arange(30) % 2
    ids = np.where(phases == 0, rng.choice([0, 1, 4], 30), rng.choice([2, 3], 30))
    model = fit_unigram(Tokens(ids, phases, np.array([0, 30])), starts_at)
    assert (2.0**-model.bits * starts_at).sum(1) == pytest.approx([1, 1])


def test_splits_without_tokens_are_refused():
    stream = random_stream(SMALL, 8, 5)
    with pytest.raises(PipelineError, match="split 'test' has no tokens"):
        train_bpe(stream, held_out="test")


def test_one_held_out_utterance_is_no_evidence():
    stream = repetitive_stream()
    report = train_bpe(stream.take(np.arange(46)), merges=50, resamples=10)
    assert report.recommendation == "do not use BPE: 50 merges were learned, but one held-out utterance is no evidence."
    assert report.table["high"].null_count() == len(report.table)


def test_a_gain_too_small_to_carry_a_second_vocabulary_is_no_reason_for_bpe():
    stream = repetitive_stream()
    assert train_bpe(stream, merges=20, resamples=20, smallest_gain=0.99).recommendation.startswith("do not use BPE")
