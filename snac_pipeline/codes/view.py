"""The training view: codes of many utterances as flat, memory-mapped arrays.

In: the parts of the code cache. Out: a folder with level_<k>.npy (uint16), offsets.npy (N + 1, in coarse frames) and
digests.txt. It is derived, keyed by what it holds, and may be deleted at any time.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from snac_pipeline.codec import CodecSpec
from snac_pipeline.codes.parts import read_codes
from snac_pipeline.errors import PipelineError
from snac_pipeline.files import atomic_folder, value_digest, write_json


class CodesView:
    """Random access to codes by (row, first coarse frame, number of coarse frames)."""

    def __init__(self, folder: Path):
        self.digests = (folder / "digests.txt").read_text().split()
        self.offsets = np.load(folder / "offsets.npy")
        levels = sorted(folder.glob("level_*.npy"))
        self.levels = [np.load(file, mmap_mode="r") for file in levels]
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


def build_view(home: Path, parts: Path, digests: Sequence[str], spec: CodecSpec) -> Path:
    """The view of `digests` (in that order) from the parts in folder `parts`; reused when it is there already."""
    folder = home / "views" / value_digest([parts.name, list(digests)])[:16]
    if folder.exists():
        return folder
    codes = read_codes(parts, digests)
    counts = spec.tokens_per_frame
    frames = codes["codes_0"].list.len().to_numpy() // counts[0]
    with atomic_folder(folder) as temporary:
        np.save(temporary / "offsets.npy", np.concatenate([[0], np.cumsum(frames, dtype=np.int64)]))
        for k in range(spec.levels):
            np.save(temporary / f"level_{k}.npy", codes[f"codes_{k}"].explode().to_numpy().astype(np.uint16))
        (temporary / "digests.txt").write_text("\n".join(digests))
        write_json(temporary / "source.json", {"parts": parts.name, "utterances": len(digests)})
    return folder
