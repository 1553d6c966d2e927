"""Whether cached codes are what they should be: of the right range and length, and those of encoding alone."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from snac_pipeline.codec import SNAC
from snac_pipeline.codes.encode import encode_batch, recordings
from snac_pipeline.codes.parts import read_codes


def compare_sample(
    model: SNAC,
    folder: Path,
    utterances: pl.DataFrame,
    digests: list[str],
    count: int,
    seed: int = 0,
    batch_seconds: float = 60.0,
) -> dict[str, Any]:
    """Encode up to `count` of `digests` again, each alone, and compare with the cache token by token.

    Those longer than `batch_seconds` are encoded in chunks, as for the cache: whole, an hour would take 20 GB.
    Returns compared utterances and tokens, how many tokens differ, and whether that is `exact`: on a CPU not one of
    them differs, on a GPU 1e-4 of them at most.
    """
    sample = random.Random(seed).sample(sorted(digests), min(count, len(digests)))
    compared = mismatched = 0
    rows = utterances.filter(pl.col("digest").is_in(sample)).sort("digest")
    cached = read_codes(folder, rows["digest"].to_list()) if len(rows) else None
    for i, item in enumerate(recordings(rows, model.spec)):
        [alone] = encode_batch(model, [item], batch_seconds)
        for k, level in enumerate(alone):
            tokens = np.array(cached[f"codes_{k}"][i], dtype=np.uint16)
            same = tokens.shape == level.shape
            mismatched += int((tokens != level).sum()) if same else level.size
            compared += level.size
    device = next(model.parameters()).device
    allowed = 0.0 if device.type == "cpu" else 1e-4
    exact = mismatched <= allowed * compared
    return {"utterances": len(rows), "tokens": compared, "mismatched": mismatched, "exact": exact}


def check_codes(folder: Path, utterances: pl.DataFrame, model: SNAC) -> list[str]:
    """Every wrong range and length in the cached codes of `utterances`; empty when all is well.

    Raises PipelineError where codes are missing.
    """
    spec = model.spec
    rows = read_codes(folder, utterances["digest"].to_list())
    expected = {item.digest: spec.frames_for(item.num_samples) for item in recordings(utterances, spec)}
    frames = pl.Series("frames", [expected[digest] for digest in rows["digest"]])
    errors = []
    for k, count in enumerate(spec.tokens_per_frame):
        level = rows[f"codes_{k}"]
        wrong = rows["digest"].filter(level.list.len() != frames * count)
        errors += [f"{digest}: level {k} has not the tokens of its duration" for digest in wrong]
        high = rows["digest"].filter(level.list.max() >= spec.codebook_size)
        errors += [f"{digest}: level {k} has a code above {spec.codebook_size - 1}" for digest in high]
    return errors
