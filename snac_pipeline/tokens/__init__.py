"""Tokens: how the codes are used, flat layouts for language models, and whether BPE pays."""

from snac_pipeline.tokens.alphabet import Alphabet
from snac_pipeline.tokens.bpe import BpeReport, BpeSweep, sweep_layouts, train_bpe
from snac_pipeline.tokens.bpe_report import sweep_rows, write_bpe
from snac_pipeline.tokens.bpe_tokenizer import BpeTokenizer
from snac_pipeline.tokens.layouts import LAYOUTS, ORPHEUS_OFFSET, Layout, make_layout
from snac_pipeline.tokens.report import level_table, write_statistics
from snac_pipeline.tokens.sequences import Written, write_sequences
from snac_pipeline.tokens.statistics import Statistics, token_statistics
from snac_pipeline.tokens.stream import (
    TokenGeometry,
    TokenParts,
    TokenStream,
    folder_geometry,
    geometry_of,
    locate_tokens,
    read_tokens,
)

__all__ = [
    "LAYOUTS",
    "ORPHEUS_OFFSET",
    "Alphabet",
    "BpeReport",
    "BpeSweep",
    "BpeTokenizer",
    "Layout",
    "Statistics",
    "TokenGeometry",
    "TokenParts",
    "TokenStream",
    "Written",
    "folder_geometry",
    "geometry_of",
    "level_table",
    "locate_tokens",
    "make_layout",
    "read_tokens",
    "sweep_layouts",
    "sweep_rows",
    "token_statistics",
    "train_bpe",
    "write_bpe",
    "write_sequences",
    "write_statistics",
]
