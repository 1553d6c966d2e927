"""How the evaluated codes use their codebooks: what the encoder gives every decoder alike."""

from collections.abc import Iterable, Sequence

import numpy as np
import polars as pl

from snac_pipeline.codec import CodecSpec


def codebook_use(codes: Iterable[Sequence[np.ndarray]], spec: CodecSpec) -> pl.DataFrame:
    """One row per level, and the last with level "all", over utterances' codes (one integer array per level).

    tokens: number of codes; used: distinct codes; size: of the codebook; entropy: of the codes' distribution, in bits,
    estimated by the observed shares (so at most log2(tokens): few tokens cannot show a large perplexity);
    perplexity: 2**entropy; bitrate: tokens per second times log2(size), in bit/s; entropy_bitrate: the same with the
    entropy, what an ideal coder without context would need.
    """
    counts = np.zeros((spec.levels, spec.codebook_size), dtype=np.int64)
    for utterance in codes:
        for level, tokens in enumerate(utterance):
            counts[level] += np.bincount(tokens, minlength=spec.codebook_size)
    rows = [
        _row(level, count, per_frame / spec.frame_seconds)
        for level, (count, per_frame) in enumerate(zip(counts, spec.tokens_per_frame, strict=True))
    ]
    table = pl.DataFrame(rows)
    total = {"level": "all"} | {name: table[name].sum() for name in ("tokens", "bitrate", "entropy_bitrate")}
    return pl.concat([table, pl.DataFrame([total])], how="diagonal")


def _row(level: int, count_per_code: np.ndarray, tokens_per_second: float) -> dict:
    total = int(count_per_code.sum())
    share = count_per_code[count_per_code > 0] / max(total, 1)
    entropy = float(-(share * np.log2(share)).sum()) + 0.0
    return {
        "level": str(level),
        "tokens": total,
        "used": len(share),
        "size": len(count_per_code),
        "entropy": entropy,
        "perplexity": 2**entropy,
        "bitrate": tokens_per_second * float(np.log2(len(count_per_code))),
        "entropy_bitrate": tokens_per_second * entropy,
    }
