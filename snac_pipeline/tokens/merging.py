"""The engines that learn merges. In: texts over an alphabet. Out: the new vocabulary entries, in the order learned.

Either engine is used for this alone. What it returns becomes a tokenizer in bpe_tokenizer.py, so that both give the
same files and no symbol is lost: sentencepiece 0.2 drops characters that its sample lacks, `required_chars` or not.
"""

import io
import itertools
from collections.abc import Callable, Iterator

import sentencepiece
from tokenizers import Tokenizer, models, trainers

from snac_pipeline.tokens.alphabet import Alphabet

MINIMUM_PAIR_COUNT = 2  # a pair seen once teaches nothing
LONGEST_ENTRY = 512  # symbols; the most that sentencepiece allows
TEXT_BYTES = 1 << 20
TEXT_BATCH = 512


def learn_with_huggingface(texts: Iterator[str], alphabet: Alphabet, merges: int) -> list[str]:
    """Entries of HF tokenizers' `BpeTrainer`. No pre-tokenizer: a text is a word, no merge crosses its border."""
    tokenizer = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=alphabet.size + merges,
        min_frequency=MINIMUM_PAIR_COUNT,
        initial_alphabet=list(alphabet.characters),
        special_tokens=[],
        max_token_length=LONGEST_ENTRY,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_batches(texts), trainer)
    found = [tokenizer.id_to_token(entry) for entry in range(tokenizer.get_vocab_size())]
    return [text for text in found if text is not None and len(text) > 1]


def learn_with_sentencepiece(texts: Iterator[str], alphabet: Alphabet, merges: int) -> list[str]:
    """Entries of sentencepiece's BPE trainer, those of pairs that were there once or not at all included."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=texts,
        model_writer=model,
        model_type="bpe",
        vocab_size=alphabet.size + merges + 1,  # <unk>; more merges where symbols do not occur, cut below
        hard_vocab_limit=False,
        character_coverage=1.0,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        split_by_unicode_script=False,
        split_by_whitespace=False,
        split_by_number=False,
        max_sentence_length=TEXT_BYTES,
        max_sentencepiece_length=LONGEST_ENTRY,
        bos_id=-1,
        eos_id=-1,
        pad_id=-1,
        minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    return [
        text
        for entry in range(processor.get_piece_size())
        if not processor.is_unknown(entry) and len(text := processor.id_to_piece(entry)) > 1
    ][:merges]


def _batches(texts: Iterator[str]) -> Iterator[list[str]]:
    while batch := list(itertools.islice(texts, TEXT_BATCH)):
        yield batch


ENGINES: dict[str, Callable[[Iterator[str], Alphabet, int], list[str]]] = {
    "sentencepiece": learn_with_sentencepiece,
    "huggingface": learn_with_huggingface,
}
