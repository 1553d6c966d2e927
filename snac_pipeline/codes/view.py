"""The training view: codes of many utterances as flat, memory-mapped arrays.

In: the parts of the code cache. Out: a folder with level_<k>.npy (uint16), offsets.npy (N + 1, in coarse frames) and
digests.txt. It is derived, keyed by what it holds, and may be deleted at any time.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from snac_pipeline.codec import CodecSpec
from snac_pipeline.codes.parts import locate_codes, read_located
from snac_pipeline.errors import PipelineError
from snac_pipeline.files import atomic_folder, value_digest, write_json


class CodesView:
    """Random access to codes by (row, first coarse frame, number of coarse frames)."""

    def __init__(self, folder: Path):
        self.digests = (folder / "digests.txt").read_text().split()
        try:
            self.offsets = np.load(folder / "offsets.npy", allow_pickle=False)
            levels = sorted(folder.glob("level_*.npy"))
            self.levels = [np.load(file, mmap_mode="r", allow_pickle=False) for file in levels]
        except (ValueError, EOFError) as error:
            raise PipelineError(f"{folder} is damaged ({error}); delete it: it is made again from the codes") from error
        frames = max(1, int(self.offsets[-1]))
        self.tokens_per_frame = [len(level) // frames for level in self.levels]

    @property
    def frames(self) -> np.ndarray:
        """Coarse frames of every utterance, (N,)."""
        return np.diff(self.offsets)

    def rows(self, digests: Sequence[str]) -> np.ndarray:
        """The row of each digest; raises PipelineError for one whose codes are not in the view."""
        place = {digest: row for row, digest in enumerate(self.digests)}
        missing = [digest for digest in digests if digest not in place]
        if missing:
            raise PipelineError(f"no codes of {len(missing)} utterances, the first {missing[0]}; run `cache` again")
        return np.array([place[digest] for digest in digests], dtype=np.int64)

    def codes(self, row: int, first: int, frames: int) -> list[np.ndarray]:
        """Codes of `frames` coarse frames from frame `first`; past the utterance's end its last frame repeats."""
        start, end = self.offsets[row] + first, self.offsets[row + 1]
        kept = min(frames, int(end - start))
        slices = []
        for level, count in zip(self.levels, self.tokens_per_frame, strict=True):
            tokens = level[start * count : (start + kept) * count]
            if kept < frames:
                tokens = np.concatenate([tokens, np.tile(tokens[-count:], frames - kept)])
            slices.append(tokens)
        return slices


def view_folder(home: Path, parts: Path, digests: Sequence[str]) -> Path:
    """Where `build_view` puts the view of these codes."""
    return home / "views" / value_digest([parts.name, list(digests)])[:16]


def build_view(home: Path, parts: Path, digests: Sequence[str], spec: CodecSpec) -> Path:
    """The view of `digests` (in that order) from the parts in folder `parts`; reused when it is there already.

    One level is in memory at a time: 2 bytes for each of its tokens.
    """
    folder = view_folder(home, parts, digests)
    if folder.exists():
        return folder
    located = locate_codes(parts, digests)
    frames = np.zeros(len(digests), dtype=np.int64)
    for part, rows in located:
        found = read_located(part, rows, ["codes_0"])
        frames[found["order"].to_numpy()] = found["codes_0"].list.len().to_numpy() // spec.tokens_per_frame[0]
    offsets = np.concatenate([[0], np.cumsum(frames)])
    with atomic_folder(folder) as temporary:
        np.save(temporary / "offsets.npy", offsets)
        for k, count in enumerate(spec.tokens_per_frame):
            np.save(temporary / f"level_{k}.npy", _level(located, f"codes_{k}", offsets * count))
        (temporary / "digests.txt").write_text("\n".join(digests))
        write_json(temporary / "source.json", {"parts": parts.name, "utterances": len(digests)})
    return folder


def _level(located: list[tuple[Path, pl.DataFrame]], column: str, offsets: np.ndarray) -> np.ndarray:
    """All tokens of one level, those of utterance i from offsets[i] on."""
    tokens = np.zeros(offsets[-1], dtype=np.uint16)
    for part, rows in located:
        found = read_located(part, rows, [column])
        lengths = found[column].list.len().to_numpy().astype(np.int64)
        ahead = offsets[found["order"].to_numpy()] - (np.cumsum(lengths) - lengths)  # of the place in this part
        tokens[np.arange(lengths.sum()) + np.repeat(ahead, lengths)] = found[column].explode().to_numpy()
    return tokens
