"""What is shown of statistics: pictures small enough for Dagster, one page that needs nothing else, never a NaN."""

import math
import re

import numpy as np
import polars as pl
import pytest
from made_tokens import FOUR_LEVELS, SMALL, SPEECH, random_stream, stream_of

from snac_pipeline.tokens import TokenStream, level_table, token_statistics, write_statistics
from snac_pipeline.tokens.report import shown_number


def write(folder, stream):
    statistics = token_statistics(stream)
    return statistics, write_statistics(folder, statistics, "snac-pipeline tokens stats", {"codes": "<parts> & more"})


@pytest.mark.parametrize("geometry", [SPEECH, FOUR_LEVELS], ids=["three levels", "four levels"])
def test_the_folder_holds_table_pictures_and_page_and_the_same_each_time(tmp_path, geometry):
    stream = random_stream(geometry, 24, 20)
    statistics, files = write(tmp_path / "one", stream)
    _, again = write(tmp_path / "two", stream)
    names = ["statistics.parquet", "rank_frequency.png", "run_lengths.png", "transitions.png", "report.html"]
    assert [file.name for file in files] == names
    assert all(one.read_bytes() == two.read_bytes() for one, two in zip(files, again, strict=True))
    assert all(file.stat().st_size < 50_000 and file.read_bytes().startswith(b"\x89PNG") for file in files[1:4])
    assert pl.read_parquet(files[0]).equals(statistics.table)
    assert [row["tokens"] for row in level_table(statistics)] == [stream.frames * t for t in geometry.tokens_per_frame]


def test_the_page_needs_nothing_else_escapes_names_and_shows_every_corpus_and_split(tmp_path):
    stream = random_stream(SMALL, 40, 30)
    named = stream.utterances.with_columns(corpus=pl.Series(["<b>", "other"] * 20))
    _, files = write(tmp_path, TokenStream(SMALL, stream.codes, stream.offsets, named))
    page = files[-1].read_text()
    assert not re.search(r'(src|href)="(?!data:|#)', page) and "&lt;parts&gt; &amp; more" in page
    assert "<td>&lt;b&gt;</td>" in page and page.count("&lt;b&gt;") == 3, "of train, of val and of both"
    assert "repeated ngrams 7" in page and "mutual information excess" in page


@pytest.mark.parametrize(
    ("codes", "lengths", "told"),
    [
        pytest.param([5], [1], "no two successive tokens", id="one token"),
        pytest.param([5] * 40, [20, 20], "The codes carry 0 of", id="all equal"),
        pytest.param([1, 2, 3], [1, 1, 1], "no two successive tokens", id="no bigram"),
    ],
)
def test_poor_codes_have_a_page_and_pictures_too(tmp_path, codes, lengths, told):
    levels = [np.repeat(codes, width) for width in (1, 2, 4)]
    statistics, files = write(tmp_path, stream_of(SMALL, levels, lengths, ["train"] * len(lengths)))
    page = files[-1].read_text()
    assert told in page and not re.search(r"\b(nan|inf|None)\b", page)
    for column in ("value", "null", "bound", "low", "high"):
        assert statistics.table[column].drop_nulls().is_finite().all(), column


def test_numbers_are_shown_as_people_write_them():
    shown = [shown_number(value) for value in (None, 0.0, 3.0, 1234567.0, 0.012345, 12345.6, -0.5)]
    assert shown == ["-", "0", "3", "1,234,567", "0.01235", "12,346", "-0.5"]
    assert not any(math.isnan(row["entropy"]) for row in level_table(token_statistics(random_stream(SMALL, 8, 4))))
