"""Run-length coding of coarse frames: a frame that comes again and again, as in digital silence, is written once.

In: ids of a layout, offset 0. Out: symbols; `first` + r - 1 says that the frame before it comes r more times,
r = 1 .. `LONGEST_RUN`, and longer runs take several. Whole frames and not single ids, because ids of neighbouring slots
never are equal in the layout `frame`.
"""

import numpy as np

from snac_pipeline.errors import PipelineError

LONGEST_RUN = 64


def collapse_runs(ids: np.ndarray, offsets: np.ndarray, slots: int, first: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids of utterances end to end, `slots` per frame, with borders `offsets` in ids; to symbols and their borders."""
    frames = ids.reshape(-1, slots)
    fresh = np.ones(len(frames), bool)
    fresh[1:] = (frames[1:] != frames[:-1]).any(1)
    borders = offsets // slots
    fresh[borders[:-1][np.diff(borders) > 0]] = True
    starts = np.flatnonzero(fresh)
    more = np.diff(starts, append=len(frames)) - 1  # repeats after the first
    marks = -(-more // LONGEST_RUN)
    ends = np.cumsum(slots + marks)
    symbols = np.full(ends[-1] if ends.size else 0, first + LONGEST_RUN - 1, np.int64)
    begins = ends - slots - marks
    symbols[begins[:, None] + np.arange(slots)] = frames[starts]
    rest = marks > 0
    symbols[ends[rest] - 1] = first + (more[rest] - 1) % LONGEST_RUN
    return symbols, np.concatenate([[0], ends])[np.searchsorted(starts, borders)]


def expand_runs(symbols: np.ndarray, slots: int, first: int) -> np.ndarray:
    """The inverse for one utterance. PipelineError: a run that follows no whole frame."""
    is_run = symbols >= first
    before = np.cumsum(~is_run)
    loose = is_run & ((before % slots != 0) | (before == 0))
    if loose.any():
        raise PipelineError(f"the run-length symbol at position {int(np.argmax(loose))} follows no whole coarse frame")
    if before.size and before[-1] % slots:
        if not is_run.any():
            return symbols
        raise PipelineError(f"{before[-1]} ids are not whole coarse frames of {slots}, and runs need them")
    repeats = np.ones(int(before[-1]) // slots if before.size else 0, np.int64)
    np.add.at(repeats, before[is_run] // slots - 1, symbols[is_run] - first + 1)
    return np.repeat(symbols[~is_run].reshape(-1, slots), repeats, axis=0).reshape(-1)
