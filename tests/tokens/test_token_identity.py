"""A result's name tells the code that made it: figures of fixed codes change only with the revision."""

import numpy as np
import polars as pl
import pytest
from made_tokens import SMALL, stream_of

from assets.tokens import CODE_VERSIONS
from snac_pipeline.files import value_digest
from snac_pipeline.steps.tokens import REVISIONS
from snac_pipeline.tokens import make_layout, sweep_layouts, token_statistics, write_sequences

HELD = {
    "statistics": (3, "7a1e33b944155808"),
    "sequences": (3, "3ecd2c4ec909d864"),
    "bpe": (3, "fc9509f4433e9cb3"),
}
"""The revision and what it gives. Where a test says that this is another: raise the revision in steps/tokens.py and in
assets/tokens.py, and write both here; old results are then made again."""


def fixed_stream():
    """Codes that no generator of random numbers has a say in."""
    frames = 400
    codes = [(np.arange(frames * width) ** 2 // (3 + width)) % 16 for width in SMALL.tokens_per_frame]
    return stream_of(SMALL, codes, [20] * 20, ["train"] * 14 + ["val"] * 6)


def rounded(table: pl.DataFrame) -> str:
    """Of a table, to six decimals: the last ones are the machine's."""
    return value_digest(table.with_columns(pl.selectors.float().round(6) + 0.0).rows())[:16]


def statistics(folder) -> str:
    return rounded(token_statistics(fixed_stream()).table)


def sequences(folder) -> str:
    written = write_sequences(
        folder, fixed_stream(), make_layout("frame", SMALL), deduplicate="coarse", segment_frames=7
    )
    tables = [pl.read_parquet(file) for file in sorted(folder.iterdir())]
    return value_digest(
        [written.removed_frames, *(table.schema.names() for table in tables), *(t.rows() for t in tables)]
    )[:16]


def bpe(folder) -> str:
    options = {"layouts": ["frame", "level_offsets"], "merges": [4, 9], "resamples": 20, "run_length": True}
    return rounded(sweep_layouts(fixed_stream(), **options).table)


@pytest.mark.parametrize("result", [statistics, sequences, bpe], ids=lambda result: result.__name__)
def test_what_is_computed_changes_only_with_the_revision(result, tmp_path):
    revision, held = HELD[result.__name__]
    assert (REVISIONS[result.__name__], result(tmp_path)) == (revision, held)


def test_an_assets_code_version_is_the_revision_of_its_result():
    assert {what: str(revision) for what, revision in REVISIONS.items()} == CODE_VERSIONS
