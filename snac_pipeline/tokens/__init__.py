"""Tokens: how the codes are used, flat layouts for language models, and whether BPE pays."""

from snac_pipeline.tokens.alphabet import Alphabet
from snac_pipeline.tokens.bpe import BpeReport, train_bpe
from snac_pipeline.tokens.bpe_report import sweep_rows, write_bpe
from snac_pipeline.tokens.bpe_tokenizer import BpeTokenizer
from snac_pipeline.tokens.layouts import LAYOUTS, ORPHEUS_OFFSET, Layout, make_layout, write_sequences
from snac_pipeline.tokens.statistics import Statistics, token_statistics, write_statistics
from snac_pipeline.tokens.stream import TokenGeometry, TokenStream, read_tokens

__all__ = [
    "LAYOUTS",
    "ORPHEUS_OFFSET",
    "Alphabet",
    "BpeReport",
    "BpeTokenizer",
    "Layout",
    "Statistics",
    "TokenGeometry",
    "TokenStream",
    "make_layout",
    "read_tokens",
    "sweep_rows",
    "token_statistics",
    "train_bpe",
    "write_bpe",
    "write_sequences",
    "write_statistics",
]
