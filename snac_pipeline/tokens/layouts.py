"""Layouts: hierarchical codes to one flat sequence of ids and back, without loss, for any number of levels.

A layout is a table with one row per id of a coarse frame: which token of which level stands there, and which block of
`codebook_size` ids it draws from. Flattening and its inverse only read that table.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from snac_pipeline.errors import PipelineError
from snac_pipeline.tokens.stream import TokenGeometry

# Orpheus-TTS puts its audio ids behind the 128,256 ids of the Llama 3 tokenizer and 10 ids of its own.
ORPHEUS_OFFSET = 128266
LARGEST_ID = 2**31 - 1


@dataclass(frozen=True)
class Slot:
    """One position in a coarse frame: token `index` of `level`, with ids from block `block`."""

    level: int
    index: int
    block: int


@dataclass(frozen=True)
class Layout:
    """id = offset + codebook_size * block + code, `len(slots)` ids per coarse frame. Make one with `make_layout`."""

    name: str
    geometry: TokenGeometry
    slots: tuple[Slot, ...]
    offset: int

    @property
    def alphabet_size(self) -> int:
        """Ids the layout can produce: offset .. offset + alphabet_size - 1."""
        return self.geometry.codebook_size * (1 + max(slot.block for slot in self.slots))

    @property
    def levels(self) -> int:
        """Levels that the layout keeps (1 for coarse_only)."""
        return 1 + max(slot.level for slot in self.slots)

    @property
    def blocks(self) -> np.ndarray:
        return np.array([slot.block for slot in self.slots])

    def flatten(self, codes: Sequence[np.ndarray]) -> np.ndarray:
        """Codes, one array per level with whole coarse frames, to int32 ids of shape (frames * len(slots),).

        PipelineError: ragged levels, codes outside the codebook.
        """
        by_frame = self._whole_frames(codes)
        ids = np.empty((by_frame[0].shape[0], len(self.slots)), np.int32)
        size = self.geometry.codebook_size
        for position, slot in enumerate(self.slots):
            ids[:, position] = by_frame[slot.level][:, slot.index]
            ids[:, position] += self.offset + size * slot.block
        return ids.reshape(-1)

    def unflatten(self, ids: np.ndarray) -> tuple[np.ndarray, ...]:
        """The inverse: one uint16 array for each level that the layout keeps.

        PipelineError: a ragged tail, an id that is foreign at its position, held tokens that disagree (parallel).
        """
        ids = np.asarray(ids)
        if ids.size % len(self.slots):
            raise PipelineError(
                f"{ids.size} ids are not whole coarse frames: layout {self.name} has {len(self.slots)} ids per frame; "
                f"cut the sequence to {ids.size - ids.size % len(self.slots)}"
            )
        firsts = self.offset + self.geometry.codebook_size * self.blocks
        found = ids.reshape(-1, len(self.slots)).astype(np.int64) - firsts
        foreign = (found < 0) | (found >= self.geometry.codebook_size)
        if foreign.any():
            place = int(np.argmax(foreign.reshape(-1)))
            raise PipelineError(f"id {ids[place]} at position {place} is foreign there: {self._allowed(place)}")
        widths = self.geometry.tokens_per_frame[: self.levels]
        codes = [np.empty((found.shape[0], width), np.uint16) for width in widths]
        for position, slot in enumerate(self.slots):
            codes[slot.level][:, slot.index] = found[:, position]
        for position, slot in enumerate(self.slots):
            if (codes[slot.level][:, slot.index] != found[:, position]).any():
                raise PipelineError(
                    f"layout {self.name} repeats each token of level {slot.level} while it lasts, "
                    "and these ids change it midway"
                )
        return tuple(level.reshape(-1) for level in codes)

    def describe(self) -> dict[str, Any]:
        """All one needs to invert the layout elsewhere, as a JSON value."""
        return {
            "layout": self.name,
            "formula": "id = offset + codebook_size * block + code",
            "offset": self.offset,
            "codebook_size": self.geometry.codebook_size,
            "tokens_per_frame": list(self.geometry.tokens_per_frame),
            "frame_seconds": self.geometry.frame_seconds,
            "slots": [{"level": slot.level, "index": slot.index, "block": slot.block} for slot in self.slots],
        }

    def _allowed(self, place: int) -> str:
        slot, size = place % len(self.slots), self.geometry.codebook_size
        first = self.offset + size * self.slots[slot].block
        return (
            f"slot {slot} of layout {self.name} takes {first}..{first + size - 1}; "
            "is it text, from another offset, or shifted by part of a frame?"
        )

    def _whole_frames(self, codes: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Each level kept as (frames, tokens per frame)."""
        widths = self.geometry.tokens_per_frame
        lengths = [len(level) for level in codes]
        frames = lengths[0] // widths[0] if lengths else 0
        if lengths != [frames * width for width in widths]:
            raise PipelineError(
                f"levels of {lengths} tokens are not whole coarse frames: each frame has {list(widths)} tokens"
            )
        for level, flat in enumerate(codes[: self.levels]):
            if flat.size and not 0 <= int(flat.min()) <= int(flat.max()) < self.geometry.codebook_size:
                raise PipelineError(f"level {level} holds codes outside the codebook of {self.geometry.codebook_size}")
        return [flat.reshape(-1, width) for flat, width in zip(codes[: self.levels], widths, strict=False)]


def make_layout(name: str, geometry: TokenGeometry, offset: int = ORPHEUS_OFFSET) -> Layout:
    """One of the `LAYOUTS`:

    frame          depth first, one block per slot; 3 levels of 1, 2, 4: c0 c1a c2a c2b c1b c2c c2d, as Orpheus-TTS does
    level_offsets  level by level inside each coarse frame, one block per level: c0 c1a c1b c2a c2b c2c c2d
    coarse_only    c0 alone; finer levels are dropped, so only level 0 comes back
    parallel       at each step of the finest level one id of each level, codes of coarser levels held (the
                   "parallel" pattern of MusicGen, arXiv:2306.05284, for levels of unequal rates); reshape(-1, K) gives
                   K equally long streams
    """
    if name not in LAYOUTS:
        raise PipelineError(f"there is no layout {name!r}; choose one of {', '.join(LAYOUTS)}")
    _check_nested(geometry)
    layout = Layout(name, geometry, tuple(LAYOUTS[name](geometry.tokens_per_frame)), offset)
    if offset < 0 or offset + layout.alphabet_size > LARGEST_ID + 1:
        raise PipelineError(
            f"offset {offset} with {layout.alphabet_size} ids does not fit int32; choose another offset"
        )
    return layout


def _check_nested(geometry: TokenGeometry) -> None:
    widths = geometry.tokens_per_frame
    if any(fine % coarse for coarse, fine in itertools.pairwise(widths)):
        raise PipelineError(f"layouts need levels that nest, and {widths} tokens per coarse frame do not")


def _frame_slots(widths: tuple[int, ...]) -> list[Slot]:
    places: list[tuple[int, int]] = []

    def visit(level: int, index: int) -> None:
        places.append((level, index))
        if level + 1 < len(widths):
            children = widths[level + 1] // widths[level]
            for child in range(children):
                visit(level + 1, index * children + child)

    for index in range(widths[0]):
        visit(0, index)
    return [Slot(level, index, block) for block, (level, index) in enumerate(places)]


def _level_offset_slots(widths: tuple[int, ...]) -> list[Slot]:
    return [Slot(level, index, level) for level, width in enumerate(widths) for index in range(width)]


def _coarse_only_slots(widths: tuple[int, ...]) -> list[Slot]:
    return [Slot(0, index, 0) for index in range(widths[0])]


def _parallel_slots(widths: tuple[int, ...]) -> list[Slot]:
    finest = widths[-1]
    return [Slot(k, step * width // finest, k) for step in range(finest) for k, width in enumerate(widths)]


LAYOUTS: dict[str, Callable[[tuple[int, ...]], list[Slot]]] = {
    "frame": _frame_slots,
    "level_offsets": _level_offset_slots,
    "coarse_only": _coarse_only_slots,
    "parallel": _parallel_slots,
}
