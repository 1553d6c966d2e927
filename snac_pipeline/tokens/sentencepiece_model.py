"""A sentencepiece model file from a vocabulary, without sentencepiece's trainer.

The format is protocol buffers' wire format with the field numbers of sentencepiece_model.proto (google/sentencepiece).
Written here because a trained model lacks the characters that its sample lacks, and to give every entry the id that it
has in tokenizer.json; <unk>, which sentencepiece insists on, comes last.
"""

import struct
from collections.abc import Sequence

BPE = 2  # TrainerSpec.ModelType
UNKNOWN = 2  # SentencePiece.Type
UNMERGEABLE = -1e9  # score of single characters: they are never the result of a merge


def sentencepiece_model(characters: str, entries: Sequence[str]) -> bytes:
    """ModelProto of BPE over `characters`, then `entries` in merge order; no normalisation, no bos or eos."""
    scored = [(character, UNMERGEABLE) for character in characters]
    scored += [(text, -float(rank)) for rank, text in enumerate(entries)]
    pieces = [_field(1, _field(1, text.encode()) + _field(2, score)) for text, score in scored]
    unknown = _field(1, _field(1, b"<unk>") + _field(2, 0.0) + _field(3, UNKNOWN))
    trainer = _field(3, BPE) + _field(4, len(pieces) + 1) + _field(10, 1.0)
    trainer += _field(40, len(pieces)) + _field(41, -1) + _field(42, -1) + _field(43, -1)  # unk, bos, eos, pad
    normalizer = _field(1, b"identity") + _field(3, 0) + _field(4, 0) + _field(5, 0)
    return b"".join(pieces) + unknown + _field(2, trainer) + _field(3, normalizer)


def _field(number: int, value: int | float | bytes) -> bytes:
    match value:
        case float():
            return _varint(number << 3 | 5) + struct.pack("<f", value)
        case bytes():
            return _varint(number << 3 | 2) + _varint(len(value)) + value
        case _:
            return _varint(number << 3) + _varint(value % (1 << 64))


def _varint(value: int) -> bytes:
    groups = bytearray()
    while value > 127:
        groups.append(value & 127 | 128)
        value >>= 7
    return bytes([*groups, value])
