"""A tokenizer over a layout's ids: learning merges from utterances, encoding and decoding them without loss.

`learn_merges` asks an engine for vocabulary entries; what becomes of them is the same for both: a stock tokenizer.json
and a stock sentencepiece model that give every entry the same id.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tokenizers import Tokenizer, decoders, models

from snac_pipeline.errors import PipelineError
from snac_pipeline.files import atomic_file, write_json
from snac_pipeline.tokens.alphabet import Alphabet
from snac_pipeline.tokens.layouts import Layout
from snac_pipeline.tokens.merging import ENGINES, MINIMUM_PAIR_COUNT
from snac_pipeline.tokens.run_length import LONGEST_RUN, collapse_runs, expand_runs
from snac_pipeline.tokens.sentencepiece_model import sentencepiece_model

Within = Literal["utterance", "frame", "level"]
"""What no merge crosses the border of."""

# Symbols; longer utterances are cut for training: HF tokenizers take time with the square, sentencepiece up to 65,535.
LONGEST_TEXT = 4096
ENCODE_BATCH = 512


@dataclass(frozen=True)
class BpeTokenizer:
    """Symbols are the layout's ids (offset 0) and, with `run_length`, run lengths after them; see run_length.py.

    Vocabulary: the symbols, then `entries`, texts of two symbols and more in the order of their merges. Any two
    entries that together make a third merge to it.
    """

    layout: Layout
    run_length: bool
    entries: tuple[str, ...]

    @property
    def alphabet(self) -> Alphabet:
        return Alphabet(self.layout.alphabet_size + (LONGEST_RUN if self.run_length else 0))

    @property
    def merges(self) -> int:
        return len(self.entries)

    @property
    def vocabulary_size(self) -> int:
        return self.alphabet.size + self.merges

    def first(self, merges: int) -> "BpeTokenizer":
        """What training with fewer merges would have given: BPE is greedy."""
        if merges >= self.merges:
            return self
        return BpeTokenizer(self.layout, self.run_length, self.entries[:merges])

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The same as a stock tokenizer. `Fuse` joins decoded pieces without spaces."""
        vocabulary = {text: entry for entry, text in enumerate([*self.alphabet.characters, *self.entries])}
        merges = [
            (text[:cut], text[cut:])
            for text in self.entries
            for cut in range(1, len(text))
            if text[:cut] in vocabulary and text[cut:] in vocabulary
        ]
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
        tokenizer.decoder = decoders.Fuse()
        return tokenizer

    def symbols(self, ids: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ids of utterances end to end (borders `offsets`) to symbols and their borders."""
        if not self.run_length:
            return ids, offsets
        return collapse_runs(ids, offsets, len(self.layout.slots), self.layout.alphabet_size)

    def encode(self, ids: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ids of utterances end to end (borders `offsets`) to vocabulary entries, int64, and their borders."""
        symbols, offsets = self.symbols(ids, offsets)
        return self.encode_symbols(symbols, offsets)

    def encode_symbols(self, symbols: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same from `symbols`."""
        if not self.entries:
            return symbols.astype(np.int64), offsets
        texts = _spans(self.alphabet, symbols, offsets[:-1], offsets[1:])
        pieces = [np.empty(0, np.int64)]
        while batch := list(itertools.islice(texts, ENCODE_BATCH)):
            pieces += [np.array(one.ids, np.int64) for one in self.tokenizer.encode_batch_fast(batch)]
        return np.concatenate(pieces), np.cumsum([piece.size for piece in pieces])

    def decode(self, entries: np.ndarray) -> np.ndarray:
        """Vocabulary entries of one utterance back to ids."""
        symbols = self.alphabet.symbols(self.tokenizer.decode(list(map(int, entries))))
        if not self.run_length:
            return symbols
        return expand_runs(symbols, len(self.layout.slots), self.layout.alphabet_size)

    def shapes(self) -> tuple[np.ndarray, np.ndarray]:
        """For each vocabulary entry: its first symbol, and how many ids it holds (run lengths do not count)."""
        texts = [*self.alphabet.characters, *self.entries]
        firsts = self.alphabet.symbols("".join(text[0] for text in texts))
        is_id = self.alphabet.symbols("".join(texts)) < self.layout.alphabet_size
        borders = np.concatenate([[0], np.cumsum([len(text) for text in texts])])
        return firsts, np.diff(np.concatenate([[0], np.cumsum(is_id)])[borders])

    def save(self, folder: Path) -> list[Path]:
        """Write tokenizer.json and tokenizer_config.json (`AutoTokenizer.from_pretrained(folder)` of transformers),
        tokenizer.model (sentencepiece) and alphabet.json (the mapping id <-> character, and the layout)."""
        names = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "alphabet.json")
        paths = [Path(folder) / name for name in names]
        with atomic_file(paths[0]) as temporary:
            self.tokenizer.save(str(temporary), pretty=False)
        write_json(paths[1], {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False})
        with atomic_file(paths[2]) as temporary:
            temporary.write_bytes(sentencepiece_model(self.alphabet.characters, self.entries))
        write_json(paths[3], {"alphabet": self._describe(), "layout": self.layout.describe()})
        return paths

    def _describe(self) -> dict[str, Any]:
        note = "entries below size are symbols, the others merges; symbol = id of the layout - its offset"
        described = {**self.alphabet.describe(), "note": note}
        if self.run_length:
            described["run_length"] = {
                "first_symbol": self.layout.alphabet_size,
                "note": "first_symbol + r - 1: the coarse frame before comes r more times",
            }
        return described


def learn_merges(
    layout: Layout,
    ids: np.ndarray,
    offsets: np.ndarray,
    merges: int,
    *,
    engine: str = "sentencepiece",
    within: Within = "utterance",
    run_length: bool = False,
) -> BpeTokenizer:
    """Up to `merges` merges from utterances of ids end to end (borders `offsets`), on top of the whole alphabet.

    `within`: no merge crosses the border of an utterance, of a coarse frame, or of neighbouring ids of one level. The
    tokenizer needs no rule for it, because no learned entry does. Fewer merges than asked when no pair occurs twice.
    PipelineError: `within` "frame" where ids do not tell where a frame begins.
    """
    plain = BpeTokenizer(layout, run_length, ())
    symbols, offsets = plain.symbols(ids, offsets)
    borders = _borders(plain, symbols, offsets, within)
    long_enough = np.diff(borders) > 1
    if merges == 0 or not long_enough.any():
        return plain
    texts = _spans(plain.alphabet, symbols, borders[:-1][long_enough], borders[1:][long_enough])
    entries = tuple(ENGINES[engine](texts, plain.alphabet, merges))
    learned = BpeTokenizer(layout, run_length, entries)
    return learned.first(_taught(learned, symbols, offsets))


def _borders(plain: BpeTokenizer, symbols: np.ndarray, offsets: np.ndarray, within: Within) -> np.ndarray:
    """Of the texts to learn from: increasing positions, the first 0, the last the end."""
    layout = plain.layout
    level_of = np.zeros(1 + layout.blocks.max(), np.int64)
    level_of[layout.blocks] = [slot.level for slot in layout.slots]
    is_id = symbols < layout.alphabet_size
    check_within(layout, within)
    if within == "frame":
        position: np.ndarray = np.cumsum(is_id) - is_id  # ids before this one; a run length stays with its frame
        inner = np.flatnonzero(is_id & (position % len(layout.slots) == 0))
    elif within == "level":
        block = np.minimum(symbols // layout.geometry.codebook_size, len(level_of) - 1)
        level = np.where(is_id, level_of[block], -1)
        inner = np.flatnonzero(np.diff(level, prepend=-2))
    else:
        inner = np.empty(0, np.int64)
    borders = np.union1d(offsets, inner)
    pieces = np.maximum(1, -(-np.diff(borders) // LONGEST_TEXT))
    if pieces.max(initial=1) == 1:
        return borders
    within_long = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    return np.append(np.repeat(borders[:-1], pieces) + within_long * LONGEST_TEXT, borders[-1])


def check_within(layout: Layout, within: Within) -> None:
    """PipelineError: merges within a frame, of ids that do not tell where a frame begins."""
    blocks = [int(block) for block in layout.blocks]
    if within == "frame" and (blocks[-1], blocks[0]) in set(itertools.pairwise(blocks)):
        raise PipelineError(
            f"merges within a frame need ids that tell where a frame begins, and those of {layout.name} do not; "
            "use the layout frame, or merges within an utterance"
        )


def _taught(learned: BpeTokenizer, symbols: np.ndarray, offsets: np.ndarray) -> int:
    """How many entries come before the first whose pair occurred less than `MINIMUM_PAIR_COUNT` times.

    A pair was merged as often as its entry is among the final tokens, or inside entries that were merged from it.
    """
    ids, _ = learned.encode_symbols(symbols, offsets)
    size = learned.alphabet.size
    counts = np.bincount(ids, minlength=size + learned.merges)[size:]
    rank = {text: entry for entry, text in enumerate(learned.entries)}
    for entry in range(learned.merges - 1, -1, -1):
        parts = _parts(learned.entries[entry], rank)
        counts[[rank[part] for part in parts if len(part) > 1]] += counts[entry]
    rare = np.flatnonzero(counts < MINIMUM_PAIR_COUNT)
    return int(rare[0]) if rare.size else learned.merges


def _parts(text: str, rank: dict[str, int]) -> tuple[str, str]:
    """The two parts that `text` alone is merged from: those that are there first."""
    cuts = [(text[:cut], text[cut:]) for cut in range(1, len(text))]

    def there(parts: tuple[str, str]) -> int:
        return max(-1 if len(part) == 1 else rank.get(part, len(rank)) for part in parts)

    return min(cuts, key=there)


def _spans(alphabet: Alphabet, symbols: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> Iterator[str]:
    """The texts between `starts` and `stops`."""
    for first in range(0, len(starts), ENCODE_BATCH):
        last = min(first + ENCODE_BATCH, len(starts)) - 1
        text = alphabet.text(symbols[starts[first] : stops[last]])
        for start, stop in zip(starts[first : last + 1], stops[first : last + 1], strict=True):
            yield text[start - starts[first] : stop - starts[first]]
