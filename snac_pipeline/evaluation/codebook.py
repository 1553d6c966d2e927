"""How the evaluated codes use their codebooks: what the encoder gives every decoder alike.

In: integer codes, one array (n_k,) for each level, level 0 the coarsest. Out: figures of one utterance, for the table
of all figures, and of all utterances together.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from snac_pipeline.codec import CodecSpec
from snac_pipeline.evaluation.metrics import Undefined

Codes = Sequence[np.ndarray]


@dataclass(frozen=True)
class CodeMetric:
    """A figure of one utterance's codes: `function(codes, seconds)`, with the codes of what is compared and the seconds
    of the recording that they stand for. It has no better side: the codes are the same for every decoder.
    """

    name: str
    label: str
    function: Callable[[Codes, float], float]
    unit: str
    digits: int
    description: str


def code_metrics(spec: CodecSpec) -> tuple[CodeMetric, ...]:
    """For each level `codebook_use_level<k>` and `perplexity_level<k>`; and `bitrate`."""
    size = spec.codebook_size

    def use(level: int) -> Callable[[Codes, float], float]:
        return lambda codes, seconds: 100 * len(np.unique(codes[level])) / size

    def perplexity(level: int) -> Callable[[Codes, float], float]:
        return lambda codes, seconds: _perplexity(codes[level])

    def bitrate(codes: Codes, seconds: float) -> float:
        return sum(map(len, codes)) * float(np.log2(size)) / seconds

    about_use = f"Distinct codes in percent of the codebook of {size}: of n tokens at most 100 n / {size}."
    about_perplexity = "2 to the entropy, in bit, of the shares of the codes; at most n of n tokens; none of one token."
    levels = [
        metric
        for k in range(spec.levels)
        for metric in (
            CodeMetric(f"codebook_use_level{k}", f"Codebook use, level {k}", use(k), "%", 2, about_use),
            CodeMetric(f"perplexity_level{k}", f"Perplexity, level {k}", perplexity(k), "", 1, about_perplexity),
        )
    ]
    about_bitrate = (
        "Tokens of all levels times log2 of the codebook's size, by the seconds of the recording: what is stored. "
        "It is above the codec's own rate where the end is in part padding, most so in short utterances."
    )
    return (*levels, CodeMetric("bitrate", "Bitrate", bitrate, "bit/s", 1, about_bitrate))


def code_metric_names(spec: CodecSpec) -> list[str]:
    return [metric.name for metric in code_metrics(spec)]


def used_codes(codes: Codes, spec: CodecSpec, max_seconds: float | None) -> list[np.ndarray]:
    """The codes of about the first `max_seconds` in whole units of coarse frames; all of them where it is None.

    Raises PipelineError for ragged levels.
    """
    frames = spec.frames_of([len(level) for level in codes])
    kept = frames if max_seconds is None else min(frames, spec.segment_frames(max_seconds))
    return [level[:count] for level, count in zip(codes, spec.token_counts(kept), strict=True)]


def codebook_use(codes: Iterable[Codes], spec: CodecSpec) -> pl.DataFrame:
    """One row per level, and the last with level "all", over utterances' codes.

    tokens: number of codes; used: distinct codes; size: of the codebook; entropy: of the codes' distribution, in bits,
    estimated by the observed shares (so at most log2(tokens): few tokens cannot show a large perplexity);
    perplexity: 2**entropy; bitrate: tokens per second times log2(size), in bit/s; entropy_bitrate: the same with the
    entropy, what an ideal coder without context would need. Tokens per second are the codec's own, without padding.
    Without tokens used, entropy, perplexity and entropy_bitrate are null.
    """
    counts = np.zeros((spec.levels, spec.codebook_size), dtype=np.int64)
    for utterance in codes:
        for level, tokens in enumerate(utterance):
            counts[level] += np.bincount(tokens, minlength=spec.codebook_size)
    rows = [
        _row(level, count, per_frame / spec.frame_seconds)
        for level, (count, per_frame) in enumerate(zip(counts, spec.tokens_per_frame, strict=True))
    ]
    table = pl.DataFrame(rows, schema=SCHEMA)
    entropies = table["entropy_bitrate"]
    total = {
        "level": "all",
        "tokens": table["tokens"].sum(),
        "bitrate": table["bitrate"].sum(),
        "entropy_bitrate": None if entropies.null_count() else entropies.sum(),
    }
    return pl.concat([table, pl.DataFrame([total], schema={name: SCHEMA[name] for name in total})], how="diagonal")


SCHEMA = {
    "level": pl.String,
    "tokens": pl.Int64,
    "used": pl.Int64,
    "size": pl.Int64,
    "entropy": pl.Float64,
    "perplexity": pl.Float64,
    "bitrate": pl.Float64,
    "entropy_bitrate": pl.Float64,
}


def _row(level: int, count_per_code: np.ndarray, tokens_per_second: float) -> dict[str, Any]:
    total = int(count_per_code.sum())
    entropy = _entropy(count_per_code) if total else None
    return {
        "level": str(level),
        "tokens": total,
        "used": int((count_per_code > 0).sum()) if total else None,
        "size": len(count_per_code),
        "entropy": entropy,
        "perplexity": None if entropy is None else 2**entropy,
        "bitrate": tokens_per_second * float(np.log2(len(count_per_code))),
        "entropy_bitrate": None if entropy is None else tokens_per_second * entropy,
    }


def _perplexity(tokens: np.ndarray) -> float:
    if len(tokens) < 2:
        raise Undefined("a single token has no distribution")
    return 2 ** _entropy(np.unique(tokens, return_counts=True)[1])


def _entropy(counts: np.ndarray) -> float:
    """In bits, of the shares of positive counts."""
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log2(share)).sum()) + 0.0
