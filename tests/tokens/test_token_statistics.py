"""Statistics against closed forms, and the shapes that break naive counting."""

import itertools

import numpy as np
import polars as pl
import pytest
from made_tokens import SMALL, SPEECH, random_stream, stream_of, write_part
from polars.testing import assert_frame_equal

from snac_pipeline.errors import PipelineError
from snac_pipeline.tokens import (
    TokenGeometry,
    TokenStream,
    locate_tokens,
    measures,
    pairs,
    repetition,
    token_statistics,
)
from snac_pipeline.tokens import stream as stream_module
from snac_pipeline.tokens.measures import count_codes
from snac_pipeline.tokens.pairs import PairTable, bigram_keys

ONE_LEVEL = TokenGeometry((1,), 8, 0.5)


def one_level(codes, lengths=None, geometry=ONE_LEVEL):
    lengths = [len(codes)] if lengths is None else lengths
    return stream_of(geometry, [np.array(codes)], lengths, ["train"] * len(lengths))


def markov_chain(transitions: np.ndarray, steps: int, seed: int = 0) -> np.ndarray:
    draws, state, chain = np.random.default_rng(seed).random(steps), 0, np.empty(steps, int)
    cumulative = transitions.cumsum(1)
    for step in range(steps):
        state = int(np.searchsorted(cumulative[state], draws[step]))
        chain[step] = state
    return chain


def test_a_uniform_codebook():
    found = token_statistics(one_level(list(range(8)) * 5))
    assert found.value("gini", 0) == pytest.approx(0)
    assert found.value("entropy", 0) == pytest.approx(3) and found.value("perplexity", 0) == pytest.approx(8)
    assert found.value("zipf_slope", 0) == pytest.approx(0)
    assert found.value("dead_codes", 0) == 0
    assert found.value("bits_per_second", 0) == pytest.approx(6), "one token of 3 bits per half second"


def test_closed_forms_of_counts():
    assert measures.zipf_slope(np.round(1e9 / np.arange(1, 500))) == pytest.approx(-1, abs=1e-6)
    assert measures.gini(np.array([0, 0, 0, 7])) == pytest.approx(3 / 4)
    assert measures.gini(np.array([1, 3])) == pytest.approx(1 / 4)
    assert measures.coverage(np.array([1, 5, 2, 2]), 2) == pytest.approx(0.7)
    assert measures.entropy(np.array([2, 1, 1, 0])) == pytest.approx(1.5)


def test_conditional_entropy_is_the_entropy_rate_of_a_markov_chain():
    transitions = np.array([[0.9, 0.1, 0], [0, 0.5, 0.5], [0.25, 0.25, 0.5]])
    stationary = np.linalg.matrix_power(transitions, 200)[0]
    rows = [-sum(p * np.log2(p) for p in row if p) for row in transitions]
    rate = float(stationary @ rows)
    found = token_statistics(one_level(markov_chain(transitions, 60_000)))
    assert found.value("conditional_entropy", 0) == pytest.approx(rate, abs=0.01)
    of_state = -float(stationary @ np.log2(stationary))
    assert found.value("mutual_information", 0) == pytest.approx(of_state - rate, abs=0.015)
    assert found.value("mutual_information_excess", 0) == pytest.approx(of_state - rate, abs=0.015)
    assert found.value("immediate_repeat_rate", 0) == pytest.approx(float(stationary @ np.diag(transitions)), abs=0.01)


def test_the_shuffle_null_takes_away_what_sparse_data_pretend():
    """Independent tokens show bits of mutual information; less its null it is 0 within its interval."""
    geometry, held = TokenGeometry((1, 2), 1024, 0.1), []
    for seed in range(20):
        codes = np.random.default_rng(seed).integers(0, 1024, 60_000)
        stream = stream_of(geometry, [codes[:20_000], codes[20_000:]], [5000] * 4, ["train"] * 4)
        found = token_statistics(stream, seed=seed)
        assert found.value("mutual_information", 0) > 4
        for level, given in ((0, None), (1, None), (0, 1)):
            excess = found.row("mutual_information_excess", level, given=given)
            held.append(excess["low"] <= 0 <= excess["high"])
            assert excess["high"] - excess["low"] < 0.1
    assert sum(held) >= 0.88 * len(held), "95 % of 60, less what chance allows"


def test_no_bigram_spans_two_utterances():
    """Every utterance holds one code only, so every bigram inside an utterance is a repeat."""
    found = token_statistics(one_level([1, 1, 2, 2, 2, 3], [2, 0, 3, 1, 0]))
    assert found.value("bigrams", 0) == 3
    assert found.value("immediate_repeat_rate", 0) == 1
    fine = token_statistics(stream_of(SMALL, [np.zeros(3), np.zeros(6), np.zeros(12)], [1, 2], ["a", "a"]))
    assert [fine.value("bigrams", level) for level in range(3)] == [1, 4, 10]


@pytest.mark.parametrize("size", [3, 16, 1000])
def test_every_way_of_counting_bigrams_agrees(monkeypatch, size):
    rng = np.random.default_rng(size)
    codes = rng.integers(0, size, 5000).astype(np.uint16)
    offsets = np.array([0, 0, 700, 701, 701, 3333, 5000])
    direct: dict[int, int] = {}
    for start, stop in itertools.pairwise(offsets):
        for a, b in zip(codes[start:stop], codes[start + 1 : stop], strict=False):
            direct[int(a) * size + int(b)] = direct.get(int(a) * size + int(b), 0) + 1
    keys = bigram_keys(codes, offsets, size)
    figures = []
    for cells, chunk, pieces in ((1 << 26, 1 << 24, 1), (1 << 26, 128, 3), (1, 1000, 1), (1, 4999, 7)):
        monkeypatch.setattr(pairs, "TABLE_CELLS", cells)
        monkeypatch.setattr(pairs, "CHUNK_PAIRS", chunk)
        table, halves = PairTable(size), (PairTable(size), PairTable(size))
        for number, piece in enumerate(np.array_split(keys, pieces)):
            table.add(piece)
            halves[number % 2].add(piece)
        for found in (table, halves[0].plus(halves[1]), halves[1].plus(halves[0])):
            counts = found.counts if found.table is None else found.table[np.flatnonzero(found.table)]
            occurring = found.keys if found.table is None else np.flatnonzero(found.table)
            assert dict(zip(occurring.tolist(), counts.tolist(), strict=True)) == direct
            figures.append(found.figures())
            grouped = found.by_rank(np.random.default_rng(1).permutation(size), 3)
            assert (
                grouped.sum() == 4996
                and (grouped == table.by_rank(np.random.default_rng(1).permutation(size), 3)).all()
            )
    assert all(figure == pytest.approx(figures[0]) for figure in figures) and figures[0].total == 4996


def test_sums_of_many_small_counts_take_no_more_memory_than_a_table():
    rng = np.random.default_rng(0)
    together, size = PairTable(256), 256
    for _ in range(20):
        few = PairTable(size)
        few.add(rng.integers(0, size**2, 1000))
        together = together.plus(few)
        assert together.keys.size < size**2 // 8
    assert together.table is not None and together.table.sum() == together.total == 20_000


def test_shuffling_keeps_the_tokens_and_nothing_else(monkeypatch):
    monkeypatch.setattr(pairs, "SHUFFLE_SPAN", 1000)
    codes = np.repeat(np.arange(4096), 2).astype(np.uint16)
    mixed = pairs.shuffled(codes, np.random.default_rng(0))
    assert (np.sort(mixed[:1000]) == codes[:1000]).all() and (np.sort(mixed) == codes).all()
    assert (mixed[1:] == mixed[:-1]).sum() < 20
    whole = [tuple(pairs.shuffled(np.arange(3, dtype=np.uint16), np.random.default_rng(n))) for n in range(600)]
    assert min(whole.count(order) for order in set(whole)) > 60 and len(set(whole)) == 6, "every order is as likely"


def test_runs_and_repeated_sequences_are_those_of_counting_by_hand():
    found = token_statistics(one_level([1, 1, 1, 2, 2, 2, 3, 1, 1, 2], [4, 5, 1]))
    assert found.runs[0].tolist() == [0, 3, 2, 1], "111 2 | 22 3 11 | 2"
    assert found.value("longest_run", 0) == 3 and found.value("tokens_in_runs", 0) == pytest.approx(7 / 10)
    assert found.value("mean_run_length", 0) == pytest.approx(10 / 6)
    assert found.value("repeated_ngrams_2", 0) == pytest.approx(2 / 7), "11 11 12 | 22 23 31 11"
    with pytest.raises(KeyError):
        found.value("repeated_ngrams_6", 0)


@pytest.mark.parametrize("sampled", [1 << 17, 64])
def test_repeated_ngrams_are_those_of_a_set_and_of_a_sample_nearly_those(monkeypatch, sampled):
    monkeypatch.setattr(repetition, "SAMPLED", sampled)
    monkeypatch.setattr(repetition, "BLOCK", 777)
    rng = np.random.default_rng(0)
    phrases = rng.integers(0, 30, (40, 9))
    codes = phrases[rng.integers(0, 40, 2000)].reshape(-1).astype(np.uint16)
    offsets = np.array([0, 0, 4000, 4001, 18_000])
    whole, parts = ({n: repetition.NgramSample() for n in (2, 5, 7)} for _ in range(2))
    repetition.count_ngrams(codes, offsets, whole)
    for start, stop in itertools.pairwise(offsets):
        repetition.count_ngrams(codes[start:stop], np.array([0, stop - start]), parts)
    for n in (2, 5, 7):
        grams = [tuple(codes[i : i + n]) for a, b in itertools.pairwise(offsets) for i in range(a, b - n + 1)]
        assert len(grams) == repetition.ngram_total(offsets, n)
        for samples in (whole, parts):
            near = 1e-12 if sampled > 64 else 0.15
            assert samples[n].repeated == pytest.approx(1 - len(set(grams)) / len(grams), abs=near)
            assert samples[n].hashes.size <= sampled


def test_levels_that_say_all_or_nothing_about_each_other():
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 16, 4000)
    codes = [coarse, np.repeat(coarse, 2) ^ 5, rng.integers(0, 16, 16_000)]
    found = token_statistics(stream_of(SMALL, codes, [1000] * 4, ["train"] * 4))
    assert found.value("conditional_entropy", 0, given=1) == found.value("conditional_entropy", 1, given=0) == 0
    assert found.value("mutual_information", 0, given=1) == pytest.approx(found.value("entropy", 0))
    assert found.row("mutual_information_excess", 0, given=1)["low"] > 3.9
    independent = found.row("mutual_information_excess", 0, given=2)
    assert abs(independent["value"]) < 0.01 and found.value("pairs", 1, given=2) == 16_000
    assert found.value("bits_per_second", None) == pytest.approx(
        sum(found.value("bits_per_second", k) for k in range(3))
    )


def test_codebooks_other_than_4096(monkeypatch):
    monkeypatch.setattr(measures, "UNIGRAM_CHUNK", 1000)
    codes = np.random.default_rng(0).integers(0, 65536, 4001).astype(np.uint16)
    assert (count_codes(codes, 65536) == np.bincount(codes, minlength=65536)).all()
    found = token_statistics(one_level(codes, geometry=TokenGeometry((1,), 65536, 0.1)))
    assert found.value("transition_density", 0) <= 4000 / 65536**2


@pytest.mark.parametrize("codes", [[5], [5, 5, 5], [0, 7]], ids=["one token", "all equal", "two"])
def test_degenerate_streams_give_stated_figures_and_never_nan(codes):
    found = token_statistics(one_level(codes))
    assert found.table["value"].is_finite().all() and found.table["value"].null_count() == 0
    assert found.value("tokens", 0) == len(codes)
    assert found.value("entropy", 0) == pytest.approx(np.log2(len(set(codes))))
    bounded = found.table.filter(pl.col("bound").is_not_null() & (pl.col("statistic") != "zipf_slope"))
    assert (bounded["value"] <= bounded["bound"] + 1e-9).all()


def test_an_empty_stream_is_refused():
    with pytest.raises(PipelineError, match="no tokens to count"):
        token_statistics(stream_of(SMALL, [np.zeros(0)] * 3, [0], ["train"]))


def test_splits_are_counted_apart_and_figures_are_the_same_each_time():
    stream = random_stream(SPEECH, 40, 30)
    found = token_statistics(stream, seed=3)
    assert found.table["split"].unique().sort().to_list() == ["all", "train", "val"]
    assert found.table["corpus"].unique().to_list() == ["all"], "a single corpus has no lines of its own"
    assert found.value("tokens", 2, split="train") + found.value("tokens", 2, split="val") == stream.frames * 4
    assert found.value("tokens", None) == stream.frames * 7
    assert found.table.equals(token_statistics(stream, seed=3).table)


def test_corpora_and_splits_are_counted_apart_and_add_up():
    stream = random_stream(SMALL, 40, 30)
    halves = stream.utterances.with_columns(corpus=pl.Series(["a", "b"] * 20))
    found = token_statistics(TokenStream(SMALL, stream.codes, stream.offsets, halves))
    for statistic in ("tokens", "bigrams"):
        leaves = [found.value(statistic, 1, corpus=c, split=s) for c in "ab" for s in ("train", "val")]
        assert found.value(statistic, 1) == sum(leaves)
        assert found.value(statistic, 1, corpus="b") == sum(leaves[2:])
    alone = token_statistics(stream)
    for statistic in ("entropy", "conditional_entropy", "repeated_ngrams_3", "tokens_in_runs"):
        assert found.value(statistic, 1) == pytest.approx(alone.value(statistic, 1))


def test_statistics_of_parts_are_those_of_the_same_codes_in_memory(tmp_path, monkeypatch):
    """However much is read at a time."""
    stream = random_stream(SMALL, 30, 12)
    rows = [
        (digest, [level[a * t : b * t].tolist() for level, t in zip(stream.codes, (1, 2, 4), strict=True)])
        for digest, a, b in zip(stream.utterances["digest"], stream.offsets, stream.offsets[1:], strict=False)
    ]
    for number in range(5):
        write_part(tmp_path, str(number), dict(rows[number::5]))
    for at_a_time in (1, 300, 1 << 24):
        monkeypatch.setattr(stream_module, "READ_TOKENS", at_a_time)
        found = token_statistics(locate_tokens(tmp_path, stream.utterances, SMALL))
        expected = token_statistics(stream).table
        same = ["corpus", "split", "level", "given", "statistic", "value", "bound"]
        by = same[:5]
        left, right = (
            t.filter(pl.col("statistic") != "mutual_information_excess").select(same).sort(by)
            for t in (found.table, expected)
        )
        assert_frame_equal(left, right)
