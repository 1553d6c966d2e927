"""A tokenizer over a layout's ids: learning merges from utterances, encoding and decoding them without loss.

`learn_merges` is the engine, HF `tokenizers`; what it returns is a stock tokenizer.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer, decoders, models, trainers

from snac_pipeline.tokens.alphabet import Alphabet
from snac_pipeline.tokens.layouts import Layout

MINIMUM_PAIR_COUNT = 2  # a pair seen once teaches nothing
ENCODE_BATCH = 512


@dataclass(frozen=True)
class BpeTokenizer:
    """A trained tokenizer with its layout. Vocabulary entries below `alphabet.size` are the layout's own ids."""

    tokenizer: Tokenizer
    layout: Layout
    alphabet: Alphabet

    @property
    def vocabulary_size(self) -> int:
        return self.tokenizer.get_vocab_size()

    @property
    def merges(self) -> int:
        return self.vocabulary_size - self.alphabet.size

    def encode(self, symbols: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Symbols of utterances end to end (borders `offsets`) to BPE ids, int64, and their borders."""
        pieces = [np.empty(0, np.int64)]
        for start in range(0, len(offsets) - 1, ENCODE_BATCH):
            texts = list(_texts(self.alphabet, symbols, offsets[start : start + ENCODE_BATCH + 1]))
            pieces += [np.array(one.ids, np.int64) for one in self.tokenizer.encode_batch_fast(texts)]
        return np.concatenate(pieces), np.cumsum([piece.size for piece in pieces])

    def decode(self, ids: np.ndarray) -> np.ndarray:
        """BPE ids back to symbols."""
        return self.alphabet.symbols(self.tokenizer.decode(list(map(int, ids))))

    def entries(self) -> tuple[np.ndarray, np.ndarray]:
        """For each vocabulary entry: its first symbol and its length in symbols."""
        texts = [self.tokenizer.id_to_token(entry) for entry in range(self.vocabulary_size)]
        return self.alphabet.symbols("".join(text[0] for text in texts)), np.array([len(text) for text in texts])


def learn_merges(layout: Layout, symbols: np.ndarray, offsets: np.ndarray, merges: int) -> BpeTokenizer:
    """Up to `merges` merges from utterances of symbols end to end (borders `offsets`), on top of the whole alphabet.

    No pre-tokenizer, so an utterance is one word and no merge crosses its border. `initial_alphabet`
    keeps symbols that the sample lacks; `Fuse` joins decoded pieces without spaces.
    """
    alphabet = Alphabet(layout.alphabet_size)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.decoder = decoders.Fuse()
    trainer = trainers.BpeTrainer(
        vocab_size=alphabet.size + merges,
        min_frequency=MINIMUM_PAIR_COUNT,
        initial_alphabet=list(alphabet.characters),
        special_tokens=[],
        show_progress=False,
    )
    batches = (
        list(_texts(alphabet, symbols, offsets[start : start + ENCODE_BATCH + 1]))
        for start in range(0, len(offsets) - 1, ENCODE_BATCH)
    )
    tokenizer.train_from_iterator(batches, trainer)
    trained = BpeTokenizer(tokenizer, layout, alphabet)
    every = np.arange(alphabet.size)
    assert (trained.decode(every) == every).all(), "vocabulary entries must extend the layout's ids"
    return trained


def _texts(alphabet: Alphabet, symbols: np.ndarray, offsets: np.ndarray) -> Iterator[str]:
    text = alphabet.text(symbols[offsets[0] : offsets[-1]])
    for start, stop in zip(offsets[:-1] - offsets[0], offsets[1:] - offsets[0], strict=True):
        yield text[start:stop]
