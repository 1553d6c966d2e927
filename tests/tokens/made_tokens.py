"""Made codes for the tokens room: streams of known law, and parts as the code cache writes them."""

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from snac_pipeline.tokens import TokenGeometry, TokenStream

SMALL = TokenGeometry((1, 2, 4), 16, 0.1)
SPEECH = TokenGeometry((1, 2, 4), 4096, 2048 / 24000)
FOUR_LEVELS = TokenGeometry((1, 2, 4, 8), 32, 0.064)


def stream_of(geometry: TokenGeometry, codes: list[np.ndarray], lengths: list[int], splits: list[str]) -> TokenStream:
    utterances = pl.DataFrame(
        {"digest": [f"{row:032x}" for row in range(len(lengths))], "corpus": ["made"] * len(lengths), "split": splits}
    )
    flat = tuple(level.astype(np.uint16) for level in codes)
    return TokenStream(geometry, flat, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), utterances)


def random_stream(geometry: TokenGeometry, utterances: int, frames: int, seed: int = 0) -> TokenStream:
    """Independent uniform codes; the last quarter of the utterances is val, lengths vary, one utterance is empty."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 2 * frames, utterances)
    lengths[1] = 0
    codes = [rng.integers(0, geometry.codebook_size, lengths.sum() * t) for t in geometry.tokens_per_frame]
    held = utterances // 4
    return stream_of(geometry, codes, list(lengths), ["train"] * (utterances - held) + ["val"] * held)


def write_part(folder: Path, name: str, rows: dict[str, list[list[int]]]) -> Path:
    """`rows`: digest -> codes per level."""
    levels = len(next(iter(rows.values())))
    columns = {
        "digest": pa.array(list(rows), pa.string()),
        "num_samples": pa.array([2048] * len(rows), pa.int64()),
        "sample_rate": pa.array([24000] * len(rows), pa.int32()),
    }
    for level in range(levels):
        columns[f"codes_{level}"] = pa.array([codes[level] for codes in rows.values()], pa.list_(pa.uint16()))
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / f"part-{name}.parquet", write_page_checksum=True)
    return folder / f"part-{name}.parquet"


def mark(part: Path, **facts: str) -> Path:
    """Give a part metadata, as the code cache does."""
    pq.write_table(pq.read_table(part).replace_schema_metadata(facts), part, write_page_checksum=True)
    return part


def select(*rows: tuple[str, str, str]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=["digest", "corpus", "split"], orient="row")
