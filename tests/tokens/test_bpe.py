"""BPE says what a sweep of merges does to held-out speech, and does not praise itself on noise."""

import json

import numpy as np
import polars as pl
import pytest
from made_tokens import SMALL, SPEECH, random_stream, stream_of

from snac_pipeline.errors import PipelineError
from snac_pipeline.tokens import (
    BpeSweep,
    TokenGeometry,
    TokenStream,
    sweep_layouts,
    sweep_rows,
    train_bpe,
    write_bpe,
)

BINARY = TokenGeometry((1, 2), 4, 0.1)
COARSE = TokenGeometry((1,), 16, 0.1)
ENGINES = ["sentencepiece", "huggingface"]


def alone(report):
    """A sweep of this layout alone."""
    return BpeSweep((report,), report.table, report.recommendation)


def of_words(words: np.ndarray, drawn: np.ndarray, utterances: int) -> TokenStream:
    """One level: rows of `words` in the order `drawn`, cut into equally long utterances, a quarter of them val."""
    codes = words[drawn].reshape(-1)
    held = utterances // 4
    splits = ["train"] * (utterances - held) + ["val"] * held
    return stream_of(COARSE, [codes], [codes.size // utterances] * utterances, splits)


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


@pytest.mark.parametrize("engine", ENGINES)
def test_a_known_best_merge_is_the_first(engine):
    """ "7 3" is a third of all pairs; nothing else comes near."""
    rng = np.random.default_rng(0)
    words = np.column_stack([np.where(rng.random(4000) < 0.5, 7, rng.integers(0, 16, 4000)), np.full(4000, 3)])
    report = train_bpe(
        of_words(words, np.arange(4000), 40), layout="coarse_only", merges=1, engine=engine, resamples=10
    )
    [entry] = report.tokenizer.entries
    assert list(report.tokenizer.alphabet.symbols(entry)) == [7, 3]
    assert report.value("compression_ratio") == pytest.approx(1 / (1 - (0.5 + 0.5 / 16) / 2), rel=0.02)


@pytest.mark.parametrize("engine", ENGINES)
def test_strong_pairs_gain_down_to_their_entropy_rate(engine):
    """Eight pairs, of 16 ids, equally likely: 4 bits an id without merges, 3 bits a pair with them; a model that sees
    the id before knows that all along, and loses nothing by merging."""
    drawn = np.random.default_rng(0).integers(0, 8, 40_000)
    stream = of_words(np.arange(16).reshape(8, 2), drawn, 200)
    report = train_bpe(stream, layout="coarse_only", merges=8, engine=engine, resamples=100)
    assert report.value("bits_per_second", 0) == pytest.approx(4 / 0.1, rel=0.01)
    assert report.value("bits_per_second") == pytest.approx(3 / 0.2, rel=0.01)
    assert report.value("bits_per_second_bigram", 0) == pytest.approx(3 / 0.2, rel=0.01)
    assert report.value("compression_ratio") == 2
    advice = report.recommendation
    assert (advice.merges, advice.best) == (8, 8)
    assert advice.text.startswith("use BPE: with 8 merges held-out bits per second go from 40.0 to 15.0 (-62.")
    assert "sequences get 2.000 times shorter. Why: merged tokens say in one" in advice.text


@pytest.mark.parametrize("engine", ENGINES)
def test_a_language_of_words_is_worth_merging(engine):
    report = train_bpe(repetitive_stream(), merges=[8, 56], engine=engine, resamples=100)
    assert report.recommendation.merges == 56
    assert report.value("compression_ratio") > 5
    before, after = report.value("bits_per_second", 0), report.value("bits_per_second")
    assert before > 5 * after
    assert after == pytest.approx(2 / 0.2, rel=0.2), "two bits per word of two frames"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("layout", ["frame", "level_offsets", "parallel", "coarse_only"])
def test_noise_is_not_worth_merging_though_plain_unigram_bits_fall(layout, engine):
    report = train_bpe(random_stream(BINARY, 400, 40), layout=layout, merges=24, engine=engine, resamples=100)
    assert report.value("compression_ratio") > 1.2
    if layout == "parallel":
        return  # holds codes on purpose, so merging does pay
    assert report.recommendation.text.startswith("do not use BPE: with 24 merges")
    assert report.recommendation.merges == 0
    if layout == "frame":
        assert report.value("bits_per_second_plain") < 0.95 * report.value("bits_per_second_plain", 0)
        for model in ("bits_per_second", "bits_per_second_bigram"):
            assert report.value(model, 0) == pytest.approx(3 * 2 / 0.1, rel=0.01), "three codes of two bits"


def test_what_only_the_unigram_model_gains_is_no_reason_for_bpe():
    """A slow chain: the bigram model knows the next id, and needs more data for every merged one."""
    rng = np.random.default_rng(0)
    codes = np.cumsum(rng.geometric(0.5, 12_000)) % 16  # 2 bits an id, all ids equally likely
    stream = of_words(codes[:, None], np.arange(codes.size), 200)
    report = train_bpe(stream, layout="coarse_only", merges=[100], resamples=200)
    assert report.value("bits_per_second") < 0.95 * report.value("bits_per_second", 0)
    assert report.value("bits_per_second_bigram") > 1.05 * report.value("bits_per_second_bigram", 0)
    assert report.recommendation.merges == 0 and report.recommendation.best == 100
    assert "Why not: a model that sees the token before gets to" in report.recommendation.text


def test_a_sweep_is_one_training_and_judges_every_number_of_merges(tmp_path):
    stream = repetitive_stream()
    report = train_bpe(stream, merges=[40, 10, 20], resamples=50)
    assert report.sweep == [0, 10, 20, 40]
    twenty = train_bpe(stream, merges=[20], resamples=50)
    assert twenty.tokenizer.entries == report.tokenizer.first(20).entries
    assert twenty.value("bits_per_second") == report.value("bits_per_second", 20)
    rows = sweep_rows(alone(report))
    assert [row["merges"] for row in rows] == [0, 10, 20, 40]
    ratios = [row["compression_ratio"] for row in rows]
    assert ratios[0] == 1 and ratios == sorted(ratios)
    assert report.training.seconds > 0 and report.encoded_ids_per_second() > 0
    assert report.training.megabytes is None or report.training.megabytes >= 0
    write_bpe(tmp_path, alone(report))
    assert sorted(path.name for path in tmp_path.glob("*/*")) == [f"merges-{n}" for n in (0, 10, 20, 40)]
    assert (tmp_path / "tokenizer.json").read_bytes() == (
        tmp_path / "frame" / "merges-40" / "tokenizer.json"
    ).read_bytes()
    page = (tmp_path / "report.html").read_text()
    assert report.recommendation.text in page.replace("&#39;", "'") and "nan" not in page
    plot = (tmp_path / "bpe.png").read_bytes()
    assert plot[:4] == b"\x89PNG" and len(plot) < 50_000, "small enough for Dagster's metadata"


def test_tiny_corpora_report_fewer_merges_than_asked(speech_like):
    assert 0 < speech_like.tokenizer.merges < 500
    assert f"{speech_like.tokenizer.merges} merges (500 were asked for)" in speech_like.recommendation.text
    assert speech_like.value("merges_asked") == 500
    assert speech_like.table["value"].is_finite().all()


def test_without_bpe_every_id_is_a_token(speech_like, tmp_path):
    assert speech_like.recommendation.merges == 0
    write_bpe(tmp_path, alone(speech_like))
    model = json.loads((tmp_path / "tokenizer.json").read_text())["model"]
    assert (len(model["vocab"]), model["merges"]) == (28_672, [])
    assert (tmp_path / "recommendation.txt").read_text() == speech_like.recommendation.text + "\n"


# layouts -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def layouts():
    """Words of 16 ids over levels of a coarse frame each; `frame` puts what belongs together side by side."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 16, 6000)
    middle = rng.integers(0, 16, 12_000)
    fine = np.repeat(middle, 2) ^ np.where(rng.random(24_000) < 0.05, 1, 0)  # each says what its parent says
    splits = ["train"] * 150 + ["val"] * 50
    stream = stream_of(SMALL, [coarse, middle, fine], [30] * 200, splits)
    names = ["level_offsets", "coarse_only", "parallel", "frame"]
    return sweep_layouts(stream, layouts=names, merges=[], resamples=100)


def test_without_merges_the_unigram_model_sees_no_difference_between_orders(layouts):
    of = {report.layout.name: report for report in layouts.reports}
    assert list(of) == ["level_offsets", "coarse_only", "parallel", "frame"]
    assert of["frame"].value("bits_per_second") == pytest.approx(of["level_offsets"].value("bits_per_second"), rel=1e-9)
    assert of["parallel"].value("bits_per_second") > 1.5 * of["frame"].value("bits_per_second"), "pays for repeats"
    assert len({report.value("held_out_seconds") for report in layouts.reports}) == 1, "judged on the same speech"


def test_another_layout_is_recommended_where_neighbours_tell_more(layouts, tmp_path):
    advice = layouts.recommendation
    assert (advice.layout, advice.merges) == ("frame", 0)
    first, *further = advice.text.splitlines()
    assert first == "use the layout frame without BPE."
    assert further[0].startswith("Best in frame against best in level_offsets: -")
    assert "coarse_only: not of the same levels as level_offsets, so bits cannot be compared." in further
    assert [line.split(":")[0] for line in further[-4:]] == [f"In {report.layout.name}" for report in layouts.reports]
    rows = layouts.table.filter(statistic="bits_per_second_bigram_layout_change")
    assert set(rows["layout"]) == {"parallel", "frame"}
    [change] = rows.filter(layout="frame").to_dicts()
    bits = [layouts.of(name).value("bits_per_second_bigram") for name in ("frame", "level_offsets")]
    assert change["value"] == pytest.approx(bits[0] - bits[1]) and change["low"] < change["value"] < change["high"] < 0
    write_bpe(tmp_path, layouts)
    page = (tmp_path / "report.html").read_text()
    assert "Layout coarse_only" in page and "nan" not in page
    assert json.loads((tmp_path / "alphabet.json").read_text())["layout"]["layout"] == "frame"
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {r.layout.name for r in layouts.reports}
    assert [row["layout"] for row in sweep_rows(layouts)] == [report.layout.name for report in layouts.reports]


def test_the_first_layout_stays_where_another_is_not_surely_better():
    stream = random_stream(BINARY, 400, 40)
    sweep = sweep_layouts(stream, layouts=["level_offsets", "frame"], merges=[8], resamples=50)
    assert (sweep.recommendation.layout, sweep.best) == ("level_offsets", sweep.reports[0])
    assert "Worth another layout is a fall of more than 1.0% over the whole interval." in sweep.recommendation.text
    one = train_bpe(stream, layout="level_offsets", merges=[8], resamples=50)
    assert one.table.equals(sweep.reports[0].table), "layouts do not touch each other"


# little and bad input ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("within", ["utterance", "frame", "level"])
def test_one_frame_each_leaves_nothing_to_merge(engine, within):
    stream = stream_of(SMALL, [np.arange(2), np.arange(4), np.arange(8)], [1, 1], ["train", "val"])
    report = train_bpe(stream, merges=10, resamples=10, engine=engine, within=within)
    where = {"utterance": "", "frame": " within a coarse frame", "level": " side by side within a level"}[within]
    assert report.recommendation.text == (
        f"do not use BPE: nothing was merged, no pair of ids occurs twice{where} in the train sample."
    )
    assert report.value("compression_ratio", 0) == 1
    assert report.table["value"].is_finite().all()


@pytest.mark.parametrize("engine", ENGINES)
def test_all_ids_equal_gives_figures_and_no_nan(engine, tmp_path):
    stream = stream_of(COARSE, [np.full(4000, 5)], [100] * 40, ["train"] * 30 + ["val"] * 10)
    report = train_bpe(stream, layout="coarse_only", merges=10, engine=engine, resamples=20)
    assert 2 <= report.tokenizer.merges <= 10
    assert report.value("compression_ratio") > 10
    assert report.value("bits_per_second", 0) < 0.05
    assert report.table["value"].is_finite().all()
    write_bpe(tmp_path, alone(report))


def test_tokens_without_information_leave_nothing_to_save(tmp_path):
    nothing = TokenGeometry((1,), 1, 0.1)
    stream = stream_of(nothing, [np.zeros(400)], [10] * 40, ["train"] * 30 + ["val"] * 10)
    report = train_bpe(stream, layout="coarse_only", merges=3, resamples=20)
    assert report.recommendation.text.startswith("do not use BPE: the held-out tokens carry no bits at all")
    assert report.table["value"].is_finite().all()
    write_bpe(tmp_path, alone(report))


def test_no_merge_crosses_an_utterance():
    """The only pair that recurs lies across borders, so nothing can be merged."""
    geometry = TokenGeometry((1,), 4, 0.1)
    stream = stream_of(geometry, [np.array([0, 1, 0, 1, 0, 1, 2])], [1] * 7, ["train"] * 6 + ["val"])
    assert train_bpe(stream, merges=5, resamples=10).tokenizer.merges == 0


def test_splits_without_tokens_are_refused():
    stream = random_stream(SMALL, 8, 5)
    with pytest.raises(PipelineError, match="split 'test' has no tokens"):
        train_bpe(stream, held_out="test")
    with pytest.raises(PipelineError, match=r"split 'train' has no tokens.*there are 0 utterances"):
        train_bpe(stream.take(np.arange(0)))
    with pytest.raises(PipelineError, match=r"split 'val' has no tokens.*there are 1 utterances"):
        train_bpe(stream.take(np.arange(1)))
    with pytest.raises(PipelineError, match="choose one of sentencepiece, huggingface"):
        train_bpe(stream, engine="words")


def test_a_stream_of_one_split_holds_out_a_tenth_of_its_own():
    stream = random_stream(SMALL, 42, 20)
    whole = stream_of(SMALL, list(stream.codes), list(np.diff(stream.offsets)), ["all"] * 42)
    report = train_bpe(whole, merges=5, resamples=10)
    assert (
        report.held_out.startswith("every tenth utterance")
        and train_bpe(stream, merges=5, resamples=10).held_out == "the split val"
    )
    lengths = np.diff(stream.offsets)
    spoken = lengths[lengths > 0]
    assert report.value("held_out_seconds") == pytest.approx(spoken[1::10].sum() * SMALL.frame_seconds)
    assert report.value("train_tokens") == (spoken.sum() - spoken[1::10].sum()) * 7


def test_one_held_out_utterance_is_no_evidence(tmp_path):
    stream = repetitive_stream()
    report = train_bpe(stream.take(np.arange(46)), merges=50, resamples=10)
    assert report.recommendation.merges == 0
    assert (
        report.recommendation.text
        == "do not use BPE: 50 merges were learned, but one held-out utterance is no evidence."
    )
    assert report.table["high"].null_count() == len(report.table)
    write_bpe(tmp_path, alone(report))


def test_a_gain_too_small_to_carry_a_second_vocabulary_is_no_reason_for_bpe():
    report = train_bpe(repetitive_stream(), merges=20, resamples=20, smallest_gain=0.99)
    assert report.recommendation.text.startswith("do not use BPE")
    assert (
        "tell little about each other; worth a second vocabulary is a fall of more than 99.0%"
        in report.recommendation.text
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_the_same_input_gives_the_same_bytes(engine, tmp_path):
    for name in ("one", "two"):
        report = train_bpe(repetitive_stream(), merges=40, sample_tokens=5000, engine=engine, seed=4, resamples=50)
        write_bpe(tmp_path / name, alone(report))
    for file in ("tokenizer.json", "tokenizer.model", "alphabet.json", "bpe.parquet", "bpe.png", "recommendation.txt"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_the_sample_is_whole_utterances_of_about_the_size_asked():
    report = train_bpe(repetitive_stream(), merges=5, sample_tokens=1000, resamples=10)
    assert report.value("train_tokens") == 4 * 40 * 7
    assert report.value("held_out_seconds") == pytest.approx(4 * 40 * 0.1)
    columns = ["layout", "engine", "within", "run_length", "merges", "statistic", "value", "low", "high"]
    assert report.table.columns == columns
    interval = report.table.filter(pl.col("statistic") == "compression_ratio").row(-1, named=True)
    assert interval["low"] <= interval["value"] <= interval["high"]


def test_run_lengths_are_judged_against_ids_as_they_are():
    """Words of one to five equal frames: lengths first say it shorter, merges after them have little to add."""
    rng = np.random.default_rng(0)
    codes = np.repeat(rng.integers(0, 16, 3000), rng.integers(1, 6, 3000))[:6000]
    stream = of_words(codes[:, None], np.arange(6000), 60)
    report = train_bpe(stream, layout="coarse_only", merges=[4], run_length=True, resamples=50)
    assert report.table.select("run_length", "merges").unique(maintain_order=True).rows() == [
        (False, 0),
        (True, 0),
        (True, 4),
    ]
    assert report.value("compression_ratio", 0) > 1.5
    assert report.table.filter(statistic="bits_per_second_change", merges=0)["value"][1] < 0
    assert report.table["value"].is_finite().all()
