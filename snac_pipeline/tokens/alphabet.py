"""Ids as characters, so that text tokenizers treat every id as one indivisible symbol.

Characters come from the supplementary private-use planes 15 and 16: no surrogates, no noncharacters, no
normalisation form, case or pre-tokenizer rule touches them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from snac_pipeline.errors import PipelineError

PLANES = ((0xF0000, 0xFFFFD), (0x100000, 0x10FFFD))  # first and last code point, both private use
PLANE_SIZE = PLANES[0][1] - PLANES[0][0] + 1


@dataclass(frozen=True)
class Alphabet:
    """`size` symbols, 0 .. size - 1 (a layout's ids with offset 0), one character each, in code point order."""

    size: int

    def __post_init__(self) -> None:
        if not 1 <= self.size <= PLANE_SIZE * len(PLANES):
            raise PipelineError(
                f"an alphabet of {self.size} ids does not fit the {PLANE_SIZE * len(PLANES)} private-use characters; "
                "use the layout level_offsets or coarse_only"
            )

    @property
    def characters(self) -> str:
        return self.text(np.arange(self.size))

    def text(self, symbols: np.ndarray) -> str:
        """Symbols to a string of equal length. PipelineError: a symbol outside the alphabet."""
        symbols = np.asarray(symbols).astype(np.int64)
        foreign = (symbols < 0) | (symbols >= self.size)
        if foreign.any():
            raise PipelineError(f"id {symbols[foreign][0]} is outside the alphabet 0..{self.size - 1}")
        points = np.where(symbols < PLANE_SIZE, PLANES[0][0] + symbols, PLANES[1][0] + symbols - PLANE_SIZE)
        return points.astype("<u4").tobytes().decode("utf-32-le")

    def symbols(self, text: str) -> np.ndarray:
        """The inverse, int64. PipelineError: a character that stands for no id."""
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.int64)
        symbols = np.where(points >= PLANES[1][0], points - PLANES[1][0] + PLANE_SIZE, points - PLANES[0][0])
        foreign = (symbols < 0) | (symbols >= self.size) | ((points > PLANES[0][1]) & (points < PLANES[1][0]))
        if foreign.any():
            raise PipelineError(f"character U+{points[foreign][0]:04X} stands for no id")
        return symbols

    def describe(self) -> dict[str, Any]:
        """The mapping as a JSON value."""
        ranges = []
        for plane, (first, _) in enumerate(PLANES):
            start, stop = plane * PLANE_SIZE, min(self.size, (plane + 1) * PLANE_SIZE)
            if start < stop:
                ranges.append({"first_symbol": start, "last_symbol": stop - 1, "first_code_point": f"U+{first:X}"})
        return {"size": self.size, "rule": "code point = first_code_point + symbol - first_symbol", "ranges": ranges}
