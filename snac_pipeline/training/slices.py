"""Which slices of which utterances an epoch trains on: pure arithmetic on coarse frames, seeded by (seed, epoch).

A slice is a window that is decoded and a segment inside it that is supervised. The context between them makes the
segment equal to what decoding the whole utterance gives; at an utterance's edge the window ends where the utterance
does, since there the decoder's own zero padding is what full decoding sees.
"""

from typing import NamedTuple

import numpy as np


class Slice(NamedTuple):
    """One training example, in coarse frames of its utterance."""

    row: int
    """The utterance's row in the training table."""
    window_start: int
    """First decoded frame."""
    window: int
    """Decoded frames; the same for every slice of a lesson."""
    present: int
    """Decoded frames that the utterance really has; fewer than `window` only for utterances shorter than it."""
    offset: int
    """First supervised frame, counted from window_start."""
    segment: int
    """Supervised frames."""
    valid: int
    """Supervised frames that the utterance really has; fewer than `segment` only for utterances shorter than it."""


def plan_epoch(
    frames: np.ndarray, segment: int, context: int, batch_size: int, alignment: int, seed: int, epoch: int
) -> list[list[Slice]]:
    """The epoch's batches, in order.

    frames: coarse frames of every utterance, whole units of `alignment`. An utterance of n segments' length gives
    max(1, n) slices at fresh random starts, so that an epoch hears as much audio as there is. segment and context are
    whole units of `alignment` too, and so is every start.
    """
    rng = np.random.default_rng([seed, epoch])
    rows = np.repeat(np.arange(len(frames)), np.maximum(1, frames // segment))
    rng.shuffle(rows)
    length = frames[rows]
    room = np.maximum(0, length - segment) // alignment
    start = rng.integers(0, room + 1) * alignment
    window = segment + 2 * context
    window_start = np.clip(start - context, 0, np.maximum(0, length - window))
    offset = start - window_start
    present, valid = np.minimum(window, length), np.minimum(segment, length - start)
    slices = [
        Slice(int(r), int(w), window, int(p), int(o), segment, int(v))
        for r, w, p, o, v in zip(rows, window_start, present, offset, valid, strict=True)
    ]
    return [slices[i : i + batch_size] for i in range(0, len(slices), batch_size)]


def batches_per_epoch(frames: np.ndarray, segment: int, batch_size: int) -> int:
    """How many batches `plan_epoch` gives."""
    return -(-int(np.maximum(1, frames // segment).sum()) // batch_size)


def whole(frames: int, limit: int | None = None) -> Slice:
    """The slice that is a whole utterance from its start, or its first `limit` frames."""
    kept = frames if limit is None else min(frames, limit)
    return Slice(0, 0, kept, kept, 0, kept, kept)
