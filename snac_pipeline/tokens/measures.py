"""Figures of a count vector and of a table of bigrams: numbers in, numbers out, closed forms in the tests.

Entropies are plug-in estimates in bits. They are biased on sparse data, which is why the caller sets a shuffle null
beside every bigram figure.
"""

from dataclasses import dataclass

import numpy as np

# 4096 x 4096 cells of int64 are 134 MB. Larger codebooks are counted in this many cells at a time, one pass each.
TABLE_CELLS = 1 << 24
CHUNK_TOKENS = 1 << 24
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


@dataclass(frozen=True)
class Bigrams:
    """Bigrams that occur: `keys` = first * codebook_size + second (sorted int64), `counts` how often each does."""

    keys: np.ndarray
    counts: np.ndarray
    codebook_size: int

    @property
    def total(self) -> int:
        return int(self.counts.sum())

    def figures(self) -> dict[str, float]:
        """What successive tokens a, b of one utterance say about each other. Needs at least one bigram.

        conditional_entropy  H(b | a) = H(a, b) - H(a), bits per token: the entropy rate of a first-order Markov chain
        mutual_information   I(a; b) = H(a) + H(b) - H(a, b), bits
        transition_density   share of the V^2 possible bigrams that occur
        immediate_repeat_rate  share of bigrams with a = b
        """
        first, second = np.divmod(self.keys, self.codebook_size)
        entropy_first = entropy(np.bincount(first, self.counts))
        entropy_second = entropy(np.bincount(second, self.counts))
        joint = entropy(self.counts)
        return {
            "conditional_entropy": max(0.0, joint - entropy_first),
            "mutual_information": max(0.0, entropy_first + entropy_second - joint),
            "transition_density": self.keys.size / self.codebook_size**2,
            "immediate_repeat_rate": float(self.counts[first == second].sum() / self.total),
        }


def count_bigrams(
    codes: np.ndarray, offsets: np.ndarray, codebook_size: int, shuffle: np.random.Generator | None = None
) -> Bigrams:
    """Count pairs of successive tokens inside utterances; `offsets` are the utterance borders in tokens.

    With `shuffle`, the null: the same tokens in random order under the same borders (shuffled chunk by chunk, so that
    memory does not grow with the corpus). Small inputs are sorted, large ones counted in a dense table.
    """
    borders = np.unique(offsets)
    borders = borders[(borders > 0) & (borders < codes.size)]
    cells = codebook_size**2
    if codes.size < cells // 8 and codes.size <= CHUNK_TOKENS:
        keys, counts = np.unique(_pair_keys(codes, 0, borders, codebook_size, shuffle), return_counts=True)
        inside = slice(0, keys.size - int(keys.size > 0 and keys[-1] == cells))
        return Bigrams(keys[inside], counts[inside], codebook_size)
    state = shuffle.bit_generator.state if shuffle else None
    found = []
    for low in range(0, cells, TABLE_CELLS):
        if shuffle:
            shuffle.bit_generator.state = state  # every pass must see the same shuffle
        table = _dense_counts(codes, borders, codebook_size, shuffle, low, min(cells, low + TABLE_CELLS))
        keys = np.flatnonzero(table)
        found.append((keys + low, table[keys]))
    return Bigrams(np.concatenate([k for k, _ in found]), np.concatenate([n for _, n in found]), codebook_size)


def _dense_counts(codes, borders, codebook_size, shuffle, low: int, high: int) -> np.ndarray:
    """Counts of the bigram keys low..high - 1."""
    table = np.zeros(high - low, np.int64)
    whole = low == 0 and high == codebook_size**2
    for start in range(0, codes.size - 1, CHUNK_TOKENS):
        chunk = codes[start : start + CHUNK_TOKENS + 1]  # one token of overlap: no pair is lost between chunks
        keys = _pair_keys(chunk, start, borders, codebook_size, shuffle)
        if not whole:
            keys = keys[(keys >= low) & (keys < high)] - low
        table += np.bincount(keys, minlength=high - low + 1)[: high - low]
    return table


def _pair_keys(chunk: np.ndarray, start: int, borders: np.ndarray, codebook_size: int, shuffle) -> np.ndarray:
    """Keys of the pairs in `chunk`, which begins at token `start` of the stream; V^2 for pairs over a border."""
    if shuffle:
        chunk = shuffle.permutation(chunk)
    keys = chunk[:-1].astype(np.int64)
    keys *= codebook_size
    keys += chunk[1:]
    inside = borders[np.searchsorted(borders, start + 1) : np.searchsorted(borders, start + chunk.size)]
    keys[inside - start - 1] = codebook_size**2
    return keys
