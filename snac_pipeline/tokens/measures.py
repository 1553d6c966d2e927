"""Figures of a count vector: numbers in, numbers out, closed forms in the tests. Entropies are plug-in, in bits."""

import numpy as np

UNIGRAM_CHUNK = 1 << 20  # the int64 copy that bincount makes stays in the cache


def entropy(counts: np.ndarray) -> float:
    """Shannon entropy of counts, bits: log2 N - sum(n log2 n) / N. Counts of 0 add nothing; N must be above 0."""
    used = counts[counts > 0].astype(np.float64)
    total = used.sum()
    return max(0.0, float(np.log2(total) - (used * np.log2(used)).sum() / total))


def gini(counts: np.ndarray) -> float:
    """Gini coefficient over the whole codebook, dead codes included: 0 all equal, 1 - 1/V one code takes all.

    sum_i (2 i - V - 1) x_i / (V sum x) for ascending x_i, i = 1..V.
    """
    ascending = np.sort(counts).astype(np.float64)
    size = ascending.size
    weights = 2 * np.arange(1, size + 1) - size - 1
    return float((weights * ascending).sum() / (size * ascending.sum()))


def zipf_slope(counts: np.ndarray) -> float | None:
    """Least-squares slope of ln count over ln rank, codes in use only: -1 Zipf's law, 0 uniform, None below 2 codes."""
    used = np.sort(counts[counts > 0])[::-1]
    if used.size < 2:
        return None
    log_rank = np.log(np.arange(1, used.size + 1))
    log_rank -= log_rank.mean()
    return float((log_rank * np.log(used)).sum() / (log_rank**2).sum())


def coverage(counts: np.ndarray, top: int) -> float:
    """Share of all tokens that the `top` most frequent codes make up."""
    return float(np.sort(counts)[::-1][:top].sum() / counts.sum())


def count_codes(codes: np.ndarray, codebook_size: int) -> np.ndarray:
    """How often each code occurs: int64, one entry per code of the codebook."""
    counts = np.zeros(codebook_size, np.int64)
    for start in range(0, codes.size, UNIGRAM_CHUNK):
        counts += np.bincount(codes[start : start + UNIGRAM_CHUNK], minlength=codebook_size)
    return counts


def merged_counts(
    keys: np.ndarray, counts: np.ndarray, more_keys: np.ndarray, more_counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Two lists of increasing keys and how often each occurs, as one. A stable sort makes use of their order, which
    `np.unique` does not."""
    if keys.size == 0:
        return more_keys, more_counts
    keys, counts = np.concatenate([keys, more_keys]), np.concatenate([counts, more_counts])
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    return keys[starts], np.add.reduceat(counts[order], starts)
