"""Every figure of token statistics, against the same counted by hand: loops over utterances, and nothing clever."""

import itertools
import math
from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tokens import stream_of

from snac_pipeline.tokens import TokenGeometry, TokenStream, token_statistics
from snac_pipeline.tokens.counting import _generator
from snac_pipeline.tokens.pairs import shuffled

SECONDS = 0.08


@st.composite
def corpora(draw):
    """Up to eight utterances, some empty, of up to three levels whose codes now and then repeat."""
    widths = draw(st.sampled_from([(1,), (2,), (1, 2), (1, 2, 4), (1, 3), (2, 3)]))
    size = draw(st.integers(1, 6))
    lengths = draw(st.lists(st.integers(0, 6), min_size=1, max_size=8).filter(any))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    stay = draw(st.sampled_from([0.0, 0.5, 0.95]))
    levels = []
    for width in widths:
        codes = rng.integers(0, size, sum(lengths) * width)
        for at in np.flatnonzero(rng.random(codes.size) < stay):
            codes[at] = codes[max(0, at - 1)]
        levels.append(codes)
    return stream_of(TokenGeometry(widths, size, SECONDS), levels, lengths, ["train"] * len(lengths))


def entropy(counts: Counter) -> float:
    total = sum(counts.values())
    return -sum(n / total * math.log2(n / total) for n in counts.values() if n)


def cut(codes, stream: TokenStream, width: int) -> list[list[int]]:
    """Utterances, as lists."""
    borders = [int(offset) * width for offset in stream.offsets]
    return [[int(code) for code in codes[a:b]] for a, b in itertools.pairwise(borders)]


def of_codes(utterances: list[list[int]], size: int) -> dict[str, float]:
    tokens = [code for utterance in utterances for code in utterance]
    counts = Counter(tokens)
    every = sorted(counts.get(code, 0) for code in range(size))
    differences = sum(abs(a - b) for a in every for b in every)
    found = {
        "tokens": len(tokens),
        "dead_codes": size - len(counts),
        "entropy": entropy(counts),
        "perplexity": 2 ** entropy(counts),
        "gini": differences / (2 * size * sum(every)),
    }
    if len(counts) > 1:
        used = sorted(counts.values(), reverse=True)
        found["zipf_slope"] = np.polyfit(np.log(np.arange(1, len(used) + 1)), np.log(used), 1)[0]
    return found


def of_pairs(pairs: list[tuple[int, int]], size: int) -> dict[str, float]:
    """p(b | a) and the like, one pair at a time."""
    joint, first, second = Counter(pairs), Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    total = len(pairs)
    return {
        "second_given_first": -sum(n / total * math.log2(n / first[a]) for (a, _), n in joint.items()),
        "first_given_second": -sum(n / total * math.log2(n / second[b]) for (_, b), n in joint.items()),
        "mutual_information": sum(
            n / total * math.log2(n * total / first[a] / second[b]) for (a, b), n in joint.items()
        ),
        "transition_density": len(joint) / size**2,
        "immediate_repeat_rate": sum(a == b for a, b in pairs) / total,
    }


def of_sequences(utterances: list[list[int]]) -> dict[str, float]:
    runs = [len(list(run)) for utterance in utterances for _, run in itertools.groupby(utterance)]
    found = {
        "mean_run_length": sum(runs) / len(runs),
        "longest_run": max(runs),
        "tokens_in_runs": sum(run for run in runs if run > 1) / sum(runs),
    }
    for n in range(2, 8):
        grams = [tuple(u[at : at + n]) for u in utterances for at in range(len(u) - n + 1)]
        if grams:
            found[f"repeated_ngrams_{n}"] = 1 - len(set(grams)) / len(grams)
    return found


def by_hand(utterances: list[list[int]], size: int, rate: float) -> dict[str, float]:
    """All of one level."""
    found = of_codes(utterances, size) | of_sequences(utterances)
    found |= {"seconds": found["tokens"] / rate, "bits_per_second": rate * found["entropy"]}
    bigrams = [pair for utterance in utterances for pair in itertools.pairwise(utterance)]
    found["bigrams"] = len(bigrams)
    if bigrams:
        pairs = of_pairs(bigrams, size)
        found["conditional_entropy"] = pairs.pop("second_given_first")
        del pairs["first_given_second"]
        found |= pairs | {"bigrams_per_cell": len(bigrams) / size**2}
        found["bits_per_second_after_previous"] = rate * found["conditional_entropy"]
    return found


@settings(max_examples=80, deadline=None)
@given(corpora())
def test_figures_of_a_level_are_those_of_counting_by_hand(stream):
    geometry = stream.geometry
    table = token_statistics(stream).table
    for level, width in enumerate(geometry.tokens_per_frame):
        rows = table.filter(pl.col("given").is_null(), pl.col("level") == level, corpus="all", split="all")
        found = {row["statistic"]: row for row in rows.iter_rows(named=True)}
        codes = stream.codes[level]
        mixed = shuffled(codes, _generator(0, level, "made", "train"))
        assert sorted(mixed) == sorted(codes)
        rate = width / SECONDS
        expected, null = (by_hand(cut(c, stream, width), geometry.codebook_size, rate) for c in (codes, mixed))
        excess = found.pop("mutual_information_excess", None)
        assert set(found) == set(expected)
        for name, row in found.items():
            assert row["value"] == pytest.approx(expected[name], abs=1e-9), name
            if row["null"] is not None and name not in UNIFORM:
                assert row["null"] == pytest.approx(null[name], abs=1e-9), name
            if row["bound"] is not None:
                assert row["value"] <= row["bound"] + 1e-9 and (row["null"] or 0) <= row["bound"] + 1e-9, name
        if excess:
            difference = expected["mutual_information"] - null["mutual_information"]
            assert excess["value"] == pytest.approx(difference, abs=1e-9)
            assert excess["low"] <= excess["value"] + 1e-12 and excess["value"] <= excess["high"] + 1e-12
    whole = {row["statistic"]: row["value"] for row in table.filter(pl.col("level").is_null()).iter_rows(named=True)}
    assert whole["tokens"] == sum(codes.size for codes in stream.codes)


UNIFORM = {"dead_codes", "entropy", "perplexity", "gini", "zipf_slope"}
"""Their null is not shuffled, shuffling changes none of them."""


@settings(max_examples=60, deadline=None)
@given(corpora())
def test_figures_across_levels_are_those_of_counting_by_hand(stream):
    geometry = stream.geometry
    table = token_statistics(stream).table.filter(pl.col("given").is_not_null(), corpus="all", split="all")
    found = {(row["level"], row["given"], row["statistic"]): row["value"] for row in table.iter_rows(named=True)}
    for coarse, fine in itertools.combinations(range(geometry.levels), 2):
        widths = [geometry.tokens_per_frame[level] for level in (coarse, fine)]
        pace = math.lcm(*widths)
        pairs = [
            tuple(int(stream.codes[level][frame * width + step * width // pace])
                  for level, width in zip((coarse, fine), widths, strict=True))
            for frame in range(stream.frames)
            for step in range(pace)
        ]  # fmt: skip
        expected = of_pairs(pairs, geometry.codebook_size)
        assert found[coarse, fine, "pairs"] == len(pairs)
        near = {"abs": 1e-9}
        assert found[coarse, fine, "conditional_entropy"] == pytest.approx(expected["first_given_second"], **near)
        assert found[fine, coarse, "conditional_entropy"] == pytest.approx(expected["second_given_first"], **near)
        assert found[coarse, fine, "mutual_information"] == pytest.approx(expected["mutual_information"], **near)


def test_coverage_is_the_share_of_the_most_frequent():
    codes = np.repeat(np.arange(50), np.arange(50) % 7 + 1)
    stream = stream_of(TokenGeometry((1,), 2000, SECONDS), [codes], [codes.size], ["train"])
    counts = sorted(Counter(codes.tolist()).values(), reverse=True)
    found = token_statistics(stream)
    for top in (10, 100, 1000):
        assert found.value(f"coverage_top_{top}", 0) == pytest.approx(sum(counts[:top]) / len(codes))
