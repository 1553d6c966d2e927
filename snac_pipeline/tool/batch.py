"""Many files, one after the other: where the output of each goes, how far the work is, and what failed.

In: items, a place, the work on one item. Out: the figures of all. An item that fails is named in the end, with the
reason, and the others are done.
"""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from snac_pipeline.corpus.listing import AUDIO_EXTENSIONS
from snac_pipeline.corpus.sniffing import UnreadableAudio
from snac_pipeline.errors import PipelineError
from snac_pipeline.tool.codes_files import CODES_EXTENSIONS
from snac_pipeline.tool.inputs import STANDARD, Item, is_file, targets

OnEvent = Callable[[dict[str, Any]], None]
Work = Callable[[Item, str, Path], None]
"""Work on (an item, the path to read, the path to write)."""

SECONDS_PER_EVENT = 1.0


class Batch:
    """The items of one command.

    to: a folder, a file or STANDARD. form: extension without the dot, for a folder and for STANDARD; None: the first of
    `outputs`, the extensions that can be written. passes: how often a recording goes by, twice where it is encoded and
    decoded. Raises PipelineError for a place that cannot take these items.
    """

    def __init__(
        self, items: Sequence[Item], to: str, form: str | None, outputs: Sequence[str], overwrite: bool,
        on_event: OnEvent, passes: int = 1,
    ):  # fmt: skip
        self.items, self.to, self.overwrite, self.on_event, self.passes = items, to, overwrite, on_event, passes
        self.extension = _extension(to, form, outputs)
        self.places = targets(items, to, self.extension, outputs)
        self.to_one_file = to == STANDARD or is_file(to, outputs)
        self.started = self.told = time.monotonic()
        self.done = self.already = 0
        self.audio_seconds = self.seconds_before = 0.0
        self.failed: list[str] = []

    def over(self, work: Work) -> dict[str, Any]:
        """Do the work on every item; returns the figures, none where output goes to STANDARD.

        Raises PipelineError, once all others are done, that lists what failed.
        """
        for item, place in zip(self.items, self.places, strict=True):
            self.seconds_before = self.audio_seconds
            try:
                self._one(item, place, work)
            except UnreadableAudio as error:
                self.failed.append(f"{item.name}: {error.reason}")
            except PipelineError as error:
                self.failed.append(str(error) if item.problem else f"{item.name}: {error}")
            self.done += 1
            self._tell(last=self.done == len(self.items))
        self._raise_failures()
        figures = {
            "to": self.to,
            "written": self.done - self.already,
            "already": self.already,
            "audio_seconds": self.audio_seconds,
            "real_time_factor": self.audio_seconds / (time.monotonic() - self.started),
        }
        return {} if self.to == STANDARD else figures

    def watched(self, blocks: Iterable[np.ndarray], expected: float, rate: int) -> Iterator[np.ndarray]:
        """The same blocks (n, channels), counted as audio that is done; expected: seconds, 0 where not known."""
        for block in blocks:
            self.audio_seconds += len(block) / rate / self.passes
            self._tell(expected)
            yield block

    def _one(self, item: Item, place: Path | None, work: Work) -> None:
        if item.problem:
            raise PipelineError(item.problem)
        if place is not None and place.exists() and os.path.exists(item.source) and place.samefile(item.source):
            raise PipelineError("its output would take the place of itself; give another --to")
        if place is not None and place.exists() and not self.overwrite:
            if self.to_one_file:
                raise PipelineError(f"{place} is there already; give another name, or --overwrite")
            self.already += 1
            return
        with item.readable() as source:
            if place is not None:
                work(item, source, place)
                return
            with tempfile.TemporaryDirectory(prefix="snac-pipeline-") as folder:
                whole = Path(folder) / f"out{self.extension}"
                work(item, source, whole)
                with whole.open("rb") as handle:
                    shutil.copyfileobj(handle, sys.stdout.buffer)
                sys.stdout.buffer.flush()

    def _raise_failures(self) -> None:
        if not self.failed:
            return
        if len(self.items) == 1:
            raise PipelineError(self.failed[0])
        listed = "\n  ".join(self.failed)
        others = len(self.items) - len(self.failed)
        raise PipelineError(f"{len(self.failed)} of {len(self.items)} failed; the other {others} are done:\n  {listed}")

    def _tell(self, expected: float = 0.0, last: bool = False) -> None:
        """Progress, once a second; expected: seconds of the file under way, 0 where there is none."""
        now = time.monotonic()
        if not last and now - self.told < SECONDS_PER_EVENT:
            return
        self.told = now
        words = [
            f"{self.done}/{len(self.items)} files",
            f"{self.audio_seconds:.1f} s of audio",
            f"{self.audio_seconds / max(1e-9, now - self.started):.1f}x real time",
            *([f"{len(self.failed)} failed"] if self.failed else []),
        ]
        part = min(1.0, (self.audio_seconds - self.seconds_before) / expected) if expected else 0.0
        fraction = (self.done + part) / len(self.items)
        self.on_event({"message": ", ".join(words), "done": self.done, "total": len(self.items), "fraction": fraction})


def _extension(to: str, form: str | None, outputs: Sequence[str]) -> str:
    """Of what is written: as `to` names it where that is a file, else `form`."""
    place = Path(to)
    named = "" if place.is_dir() else place.suffix.lower()
    extension = f".{form}" if form else outputs[0]
    if named in {*AUDIO_EXTENSIONS, *CODES_EXTENSIONS}:
        if form and named != extension:
            raise PipelineError(f"`--to {to}` and `--format {form}` name two formats; leave one out")
        extension = named
    if extension not in outputs:
        known = ", ".join(name[1:] for name in outputs)
        raise PipelineError(f"{extension[1:]} is not written by this command; choose one of {known}")
    return extension
