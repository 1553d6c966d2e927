"""Training examples: codes from the memory-mapped view and audio from the files, cut from one start.

In: the training utterances and an epoch's plan (slices.py). Out: `Batch`es, read ahead of the training step.
"""

import functools
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from snac_pipeline.codec import CodecSpec
from snac_pipeline.codes.view import CodesView
from snac_pipeline.corpus.audio import read_audio
from snac_pipeline.engine.child import die_with_parent
from snac_pipeline.training.ranks import Ranks
from snac_pipeline.training.slices import Slice
from snac_pipeline.training.targets import Targets


@dataclass
class Batch:
    """Slices with one window and one segment length."""

    row_B: Tensor
    """Row of each item in the training table."""
    codes: list[Tensor] | None
    """Per level (B, window * tokens_per_frame[k]); None where the codec itself is trained."""
    audio_B1T: Tensor | None
    """The windows' audio at sampling_rate, where the codec itself is trained."""
    targets: dict[int, Tensor]
    """Per output rate, the segments' audio (B, 1, T)."""
    frames_B: Tensor | None
    """Coarse frames of each window that exist; None where all do."""
    offset_B: Tensor
    """First supervised coarse frame of each window."""
    valid_B: Tensor
    """Supervised coarse frames that exist."""
    start_B: Tensor
    """First coarse frame of each window in its utterance."""
    cutoffs: dict[int, Tensor] = field(default_factory=dict)
    """Hz (B,) above which the loss at an output rate looks at nothing; no entry: at everything."""

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`, which from pinned memory copies it while the host goes on."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """The same batch in memory that a GPU can read by itself; what torch's DataLoader asks for."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        return Batch(
            change(self.row_B),
            self.codes and [change(level) for level in self.codes],
            None if self.audio_B1T is None else change(self.audio_B1T),
            {rate: change(audio) for rate, audio in self.targets.items()},
            None if self.frames_B is None else change(self.frames_B),
            change(self.offset_B),
            change(self.valid_B),
            change(self.start_B),
            {rate: change(cutoff_B) for rate, cutoff_B in self.cutoffs.items()},
        )


class SpeechSlices(Dataset[dict[str, Any]]):
    """Reads one `Slice` at a time. `files`, `digests` and `targets` belong together; `view` of None: audio as input."""

    def __init__(
        self,
        files: Sequence[str],
        digests: Sequence[str],
        spec: CodecSpec,
        rates: Sequence[int],
        view: Path | None,
        targets: Targets | None = None,
    ):
        self.files, self.spec, self.rates = list(files), spec, tuple(rates)
        self.targets = targets or Targets()
        # The path travels to loader workers and is mapped there; a pickled memory map would be copied.
        self.view_path = view
        self._view: CodesView | None = None
        self.view_rows = None if view is None else CodesView(view).rows(digests)

    def __getitem__(self, item: Slice) -> dict[str, Any]:
        file = self.files[item.row]
        cutoffs = {rate: values[item.row] for rate, values in self.targets.cutoffs.items()}
        read: dict[str, Any] = {"slice": item, "targets": {}, "cutoffs": cutoffs}
        first = item.window_start + item.offset
        for rate in self.rates:
            target = self.targets.files.get(rate, self.files)[item.row]
            read["targets"][rate] = self._audio(target, rate, first, item.segment)
        if self.view_path is None or self.view_rows is None:
            read["audio"] = self._audio(file, self.spec.sampling_rate, item.window_start, item.window)
        else:
            self._view = self._view or CodesView(self.view_path)
            read["codes"] = self._view.codes(int(self.view_rows[item.row]), item.window_start, item.window)
        return read

    def _audio(self, file: str, rate: int, first: int, frames: int) -> Tensor:
        start, count = self.spec.samples(first, rate), self.spec.samples(frames, rate)
        return torch.from_numpy(read_audio(file, rate, start, count))[None]


def collate(items: list[dict[str, Any]]) -> Batch:
    """Stack what `SpeechSlices` read."""
    slices: list[Slice] = [item["slice"] for item in items]
    codes = None
    if "codes" in items[0]:
        levels = zip(*(item["codes"] for item in items), strict=True)
        codes = [torch.from_numpy(np.stack(level).astype(np.int64)) for level in levels]
    return Batch(
        row_B=torch.tensor([s.row for s in slices]),
        codes=codes,
        audio_B1T=torch.stack([item["audio"] for item in items]) if "audio" in items[0] else None,
        targets={rate: torch.stack([item["targets"][rate] for item in items]) for rate in items[0]["targets"]},
        frames_B=torch.tensor([s.present for s in slices]) if any(s.present < s.window for s in slices) else None,
        offset_B=torch.tensor([s.offset for s in slices]),
        valid_B=torch.tensor([s.valid for s in slices]),
        start_B=torch.tensor([s.window_start for s in slices]),
        cutoffs={rate: torch.tensor([item["cutoffs"][rate] for item in items]) for rate in items[0]["cutoffs"]},
    )


class Reader(Iterator[Batch]):
    """This process's shares of batches, read ahead across the ends of epochs; and how long its taker has waited."""

    def __init__(self, dataset: SpeechSlices, batches: Iterable[list[Slice]], ranks: Ranks, workers: int):
        shares = (list(share) for batch in batches if (share := ranks.share(batch)))
        self.batches = read_batches(dataset, shares, workers)
        self.waited = 0.0
        """Seconds."""

    def __next__(self) -> Batch:
        asked = time.monotonic()
        batch = next(self.batches)
        self.waited += time.monotonic() - asked
        return batch


def read_batches(dataset: SpeechSlices, plan: Iterable[list[Slice]], workers: int) -> Iterator[Batch]:
    """The plan's batches in order, read ahead by `workers` processes, or by one thread when 0.

    Into pinned memory where there is a GPU. The plan may be a generator, which is asked for as much as is read.
    """
    loader = DataLoader(
        dataset,
        batch_sampler=plan,
        collate_fn=collate,
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
        worker_init_fn=functools.partial(_begin_reading, os.getpid()),
        # Each start draws a number; from torch's own generator, a resumed epoch would have other noise.
        generator=torch.Generator(),
        pin_memory=torch.cuda.is_available(),
    )
    return iter(loader) if workers else _ahead(loader, depth=4)


def _begin_reading(loop: int, worker: int) -> None:
    """Ctrl-C reaches the workers too; they read on until the loop has written its checkpoint. They end with its process
    (torch's own look for it comes every five seconds, and the run may by then have been begun again)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(loop)


Told = tuple[Batch | None, BaseException | None]
"""A batch; or what ended the reading; or, both None, that it is done."""


def _ahead(batches: Iterable[Batch], depth: int) -> Iterator[Batch]:
    """Iterate in a thread, at most `depth` batches ahead; its exceptions are raised here."""
    ready: queue.Queue[Told] = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: Told) -> None:
        while not stopped.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for batch in batches:
                put((batch, None))
                if stopped.is_set():
                    return
            put((None, None))
        except BaseException as error:
            put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        while True:
            batch, error = ready.get()
            if error is not None:
                raise error
            if batch is None:
                return
            yield batch
    finally:
        stopped.set()
