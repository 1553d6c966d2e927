"""What is said of a comparison follows from paired differences alone."""

import numpy as np
import polars as pl
import pytest

from snac_pipeline.evaluation import (
    bootstrap_interval,
    headlines,
    missing_values,
    paired_differences,
    summarise,
    worst_utterances,
)
from snac_pipeline.evaluation.compare import SCHEMA
from snac_pipeline.evaluation.listening import choose_examples


def table(values, rate=24_000, metric="mel_distance"):
    """{model: values} -> a table of `compare`; None is a value that is not defined."""
    rows = [
        (f"u{i:03}", model, rate, metric, value, None if value is not None else "silent reference", None)
        for model, column in values.items()
        for i, value in enumerate(column)
    ]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def only(summary, model):
    return summary.filter(pl.col("model") == model).row(0, named=True)


def test_the_interval_of_normal_differences_is_the_textbook_one():
    values = np.random.default_rng(0).normal(0.3, 1.0, 400)
    low, high = bootstrap_interval(values)
    half = 1.96 * values.std(ddof=1) / np.sqrt(400)
    assert low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.15 * half)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(1)
    intervals = [bootstrap_interval(generator.normal(0, 1, 40), resamples=500, seed=i) for i in range(300)]
    assert 0.90 < np.mean([low <= 0 <= high for low, high in intervals]) < 0.98


@pytest.mark.parametrize("n", [6, 10])
def test_the_interval_of_few_values_holds_the_truth_nearly_as_often(n):
    """The plain percentiles of 6 normal values do so in 86 % of cases."""
    generator = np.random.default_rng(n)
    intervals = [bootstrap_interval(generator.normal(0, 1, n), resamples=1000, seed=i) for i in range(400)]
    assert 0.90 < np.mean([low <= 0 <= high for low, high in intervals]) < 0.98


def test_the_interval_of_one_value_is_that_value():
    assert bootstrap_interval(np.array([2.5])) == (2.5, 2.5)
    low, high = bootstrap_interval(np.array([1.0, 2.0]))
    assert (low, high) == (1, 2)


def test_many_utterances_are_resampled_in_blocks_and_seeded():
    values = np.random.default_rng(0).normal(1, 1, 30_000)
    low, high = bootstrap_interval(values, resamples=300)
    assert (low, high) == bootstrap_interval(values, resamples=300)
    assert (low, high) != bootstrap_interval(values, resamples=300, seed=1)
    assert high - low == pytest.approx(2 * 1.96 / np.sqrt(30_000), rel=0.25)


@pytest.mark.parametrize("metric, change, verdict", [
    ("mel_distance", -1.0, "better"), ("mel_distance", 1.0, "worse"), ("mel_distance", 0.0, "no difference"),
    ("si_sdr", 1.0, "better"), ("si_sdr", -1.0, "worse"),
])  # fmt: skip
def test_the_verdict_knows_which_way_is_better(metric, change, verdict):
    base = np.linspace(3, 9, 20)
    model = base + change + 0.3 * np.resize([-1, 1], 20)
    row = only(summarise(table({"base": base, "new": model}, metric=metric)), "new")
    assert row["verdict"] == verdict
    assert row["difference"] == pytest.approx(change) and row["low"] < change < row["high"]
    assert (row["wins"], row["losses"]) == {"better": (20, 0), "worse": (0, 20), "no difference": (10, 10)}[verdict]


def test_only_utterances_that_both_have_are_compared():
    base = [5.0] * 8 + [None, 100.0]
    new = [4.0] * 8 + [90.0, None]
    row = only(summarise(table({"base": base, "new": new})), "new")
    assert (row["n"], row["missing"], row["pairs"], row["wins"]) == (9, 1, 8, 8)
    assert (row["difference"], row["low"], row["high"], row["baseline_mean"]) == (-1, -1, -1, 5)
    missing = missing_values(table({"base": base, "new": new}))
    assert missing["model"].to_list() == ["base", "new"]
    assert missing.select("reason", "count").unique().rows() == [("silent reference", 1)]


def test_five_pairs_are_too_few_for_a_verdict_and_none_at_all_has_no_figures():
    five = only(summarise(table({"base": [5.0] * 5, "new": [4.0] * 5})), "new")
    assert five["verdict"] == "too few" and five["difference"] == -1
    none = only(summarise(table({"base": [None] * 9, "new": [4.0] * 9})), "new")
    assert none["verdict"] == "too few" and none["difference"] is None


def test_a_model_that_nothing_was_measured_of_has_no_differences():
    measured = table({"base": [5.0] * 9, "new": [4.0] * 9})
    assert len(paired_differences(measured, "new", "mel_distance")) == 9
    assert paired_differences(measured, "another", "mel_distance").is_empty()


def test_each_rate_has_its_own_baseline():
    low = table({"base": [5.0] * 9, "phase 10": [4.0] * 9})
    high = table({"base resampled to 48 kHz": [8.0] * 9, "phase 11": [7.5] * 9}, rate=48_000)
    summary = summarise(pl.concat([low, high]))
    rivals = {model: only(summary, model)["baseline"] for model in summary["model"]}
    assert rivals == {
        "base": None, "phase 10": "base", "base resampled to 48 kHz": None, "phase 11": "base resampled to 48 kHz"
    }  # fmt: skip
    assert only(summary, "phase 11")["difference"] == -0.5


def test_the_worst_come_first_whichever_way_is_worse():
    values = {"base": [5.0] * 12, "new": [float(i) for i in range(12)]}
    assert worst_utterances(table(values), "new", count=3)["utterance"].to_list() == ["u011", "u010", "u009"]
    high = worst_utterances(table(values, metric="si_sdr"), "new", "si_sdr")
    assert high["utterance"].to_list() == [f"u{i:03}" for i in range(10)]
    assert high["difference"].to_list()[:2] == [-5, -4]


def test_examples_span_the_largest_gain_to_the_largest_loss():
    changes = {"base": [5.0] * 9, "new": [5.0 + x for x in (3, -1, 0, 2, -4, 1, -2, 4, -3)]}
    chosen = choose_examples(table(changes), "new", count=3)
    assert list(chosen) == ["u004", "u002", "u007"]
    assert chosen["u002"] == "rank 5 of 9 by new's gain in mel distance"
    assert len(choose_examples(table(changes), "new", count=50)) == 9


def test_the_headline_is_a_plain_sentence():
    base = [6.0] * 10
    tables = [
        table({"base": base, "phase 10": [5.0] * 10}),
        table({"base": base, "phase 10": [4.0] * 10}, metric="si_sdr"),
        table({"base": base, "phase 10": base}, metric="l1"),
    ]
    (headline,) = headlines(summarise(pl.concat(tables)))
    assert str(headline) == (
        "Phase 10 is better than base in mel distance, worse in SI-SDR. "
        "Mel distance falls by 16.7 %, from 6.00 to 5.00 dB (95 % interval of the change −1.00 to −1.00): "  # noqa: RUF001
        "10 of 10 utterances are better, 0 worse. "
        "Of 3 metrics: 1 better, 1 worse, 1 without a difference."
    )
    assert headlines(summarise(tables[0]))[0].claim == "Phase 10 is better than base"
    assert headlines(summarise(tables[2]), "l1")[0].claim == "Phase 10 and base do not differ in L1"
    few = headlines(summarise(table({"base": base[:3], "phase 10": base[:3]})))[0]
    assert str(few) == "Phase 10 cannot be judged against base. Mel distance: 3 utterances are too few, 6 are needed."
