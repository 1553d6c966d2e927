"""Statistics against closed forms, and the shapes that break naive counting."""

import itertools

import numpy as np
import polars as pl
import pytest
from made_tokens import SMALL, SPEECH, random_stream, stream_of

from snac_pipeline.errors import PipelineError
from snac_pipeline.tokens import TokenGeometry, measures, token_statistics, write_statistics
from snac_pipeline.tokens.measures import count_bigrams, count_codes

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
    geometry = TokenGeometry((1,), 1024, 0.1)
    excesses = []
    for seed in range(8):
        codes = np.random.default_rng(seed).integers(0, 1024, 30_000)
        found = token_statistics(one_level(codes, [10_000] * 3, geometry), seed=seed)
        assert found.value("mutual_information", 0) > 4, "independent tokens, yet bits of mutual information"
        excesses.append(found.value("mutual_information_excess", 0))
    assert abs(np.mean(excesses)) < 3 * np.std(excesses, ddof=1) / np.sqrt(8) + 1e-3


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
    for cells, chunk in ((1 << 24, 1 << 24), (1 << 24, 128), (97, 1000), (size**2, 4999)):
        monkeypatch.setattr(measures, "TABLE_CELLS", cells)
        monkeypatch.setattr(measures, "CHUNK_TOKENS", chunk)
        found = count_bigrams(codes, offsets, size)
        assert dict(zip(found.keys.tolist(), found.counts.tolist(), strict=True)) == direct
        null = count_bigrams(codes, offsets, size, shuffle=np.random.default_rng(0))
        assert null.total == found.total == 4996


def test_passes_over_a_large_codebook_see_one_shuffle(monkeypatch):
    codes = np.random.default_rng(0).integers(0, 50, 4000).astype(np.uint16)
    monkeypatch.setattr(measures, "CHUNK_TOKENS", 512)
    tables = []
    for cells in (2500, 100):
        monkeypatch.setattr(measures, "TABLE_CELLS", cells)
        tables.append(count_bigrams(codes, np.array([0, 4000]), 50, shuffle=np.random.default_rng(1)))
    assert (tables[0].keys == tables[1].keys).all() and (tables[0].counts == tables[1].counts).all()


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


def test_splits_are_counted_apart_and_files_are_the_same_each_time(tmp_path):
    stream = random_stream(SPEECH, 40, 30)
    found = token_statistics(stream, seed=3)
    assert found.table["split"].unique().sort().to_list() == ["all", "train", "val"]
    assert found.value("tokens", 2, "train") + found.value("tokens", 2, "val") == stream.frames * 4
    assert found.total("tokens") == stream.frames * 7
    table, plot = write_statistics(tmp_path / "one", found)
    again, again_plot = write_statistics(tmp_path / "two", token_statistics(stream, seed=3))
    assert table.read_bytes() == again.read_bytes() and plot.read_bytes() == again_plot.read_bytes()
    assert pl.read_parquet(table).columns == ["level", "split", "statistic", "value", "null", "bound"]
    assert plot.stat().st_size < 50_000 and plot.read_bytes().startswith(b"\x89PNG")
