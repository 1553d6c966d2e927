"""Reading ahead of the device: recordings are hashed, decoded and resampled by processes of their own.

In: windows of files. Out: their audio, in order, in memory that readers and encoder share. How much is read ahead is
bounded: two windows for each reader. Imports no torch: a reader starts in half a second.

Shared memory and not arrays through a pipe: unpickling gave the encoder's process 13,000 s of audio for a second of its
CPU, a third of it at the pace of a GPU; shared, 270,000. Reading itself (hash, flac at 48 kHz, resampling) gives 2,000.
"""

import mmap
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Generator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.reduction import DupFd
from typing import Any, NamedTuple

import numpy as np

from snac_pipeline.corpus.audio import InOrder, read_audio
from snac_pipeline.corpus.naming import openable
from snac_pipeline.corpus.probe import digest_of
from snac_pipeline.corpus.sniffing import UnreadableAudio
from snac_pipeline.engine.child import die_with_parent

SLOTS = 2
"""Windows that a reader has in hand: one that is being encoded or waits for it, and one that it fills."""

_spawn = multiprocessing.get_context("spawn")


class Read(NamedTuple):
    """The same stretch of several files, in samples at the codec's rate."""

    files: list[tuple[str, str]]
    """(digest, path) of each."""
    start: int
    samples: int

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.files), self.samples


Audio = tuple[np.ndarray, list[str | None]]
"""float32 (B, T), and for each file None or the sentence that says why it cannot be used (its row is then noise)."""


def read_window(read: Read, sample_rate: int, out_BT: np.ndarray, long: InOrder) -> list[str | None]:
    """Fill `out_BT`; says for each file None, or what is wrong with it. long: who read the window before, if it was of
    the same long recording.

    A file edited after the scan would give its new codes to the old content's digest, for good: its bytes are hashed
    before its first window. Hashing costs what reading costs, and the decoder then reads from memory.
    """
    errors: list[str | None] = [None] * len(read.files)
    for row, (digest, file) in enumerate(read.files):
        try:
            if read.start == 0 and digest_of(openable(file)) != digest:
                raise UnreadableAudio(file, "changed since the scan")
            reader = long.read if read.start else read_audio
            out_BT[row] = reader(file, sample_rate, read.start, read.samples)
        except UnreadableAudio as error:
            errors[row] = str(error)
    return errors


class InlineReader:
    """Reads each window when it is asked for, in this process: right where encoding takes a hundred times as long."""

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self.long = InOrder()

    def read(self, reads: Sequence[Read]) -> Generator[Audio, None, None]:
        for read in reads:
            audio = np.empty(read.shape, np.float32)
            yield audio, read_window(read, self.sample_rate, audio, self.long)

    def close(self) -> None:
        self.long.close()


class Readers:
    """`count` processes that read windows of up to `samples` samples ahead of whoever takes them."""

    def __init__(self, count: int, samples: int, sample_rate: int) -> None:
        self.readers = [_Reader(samples, sample_rate) for _ in range(count)]

    def read(self, reads: Sequence[Read]) -> Generator[Audio, None, None]:
        """The audio of each, in order; it is valid until the next is asked for. Raises RuntimeError when one dies."""
        count = len(self.readers)
        for i, read in enumerate(reads[: SLOTS * count]):
            self.readers[i % count].ask(read, i // count % SLOTS)
        for i, read in enumerate(reads):
            reader, slot = self.readers[i % count], i // count % SLOTS
            errors = reader.answer()
            yield reader.audio(read, slot), errors
            if i + SLOTS * count < len(reads):
                reader.ask(reads[i + SLOTS * count], slot)

    def close(self) -> None:
        for reader in self.readers:
            reader.close()


class _Reader:
    def __init__(self, samples: int, sample_rate: int) -> None:
        self.memory = [SharedMemory(4 * samples) for _ in range(SLOTS)]
        self.pipe, theirs = _spawn.Pipe()
        arguments = (theirs, self.memory, sample_rate, os.getpid())
        self.process = _spawn.Process(target=_reader, args=arguments, daemon=True)
        self.process.start()
        theirs.close()
        for memory in self.memory:
            memory.passed_on()

    def ask(self, read: Read, slot: int) -> None:
        self.pipe.send((read, slot))

    def answer(self) -> list[str | None]:
        try:
            errors: list[str | None] = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            raise RuntimeError(f"a reading process died with exit status {self.process.exitcode}") from None
        return errors

    def audio(self, read: Read, slot: int) -> np.ndarray:
        return self.memory[slot].array(read.shape)

    def close(self) -> None:
        self.pipe.close()
        self.process.kill()
        self.process.join()


class SharedMemory:
    """Bytes that two processes see, without a name, so that nothing is left over whoever is killed.

    Not in /dev/shm, where containers allow 64 MB and writing more ends a process.
    """

    def __init__(self, size: int) -> None:
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("audio")
        else:
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        os.ftruncate(descriptor, size)
        self.descriptor, self.memory = descriptor, mmap.mmap(descriptor, size)

    def __getstate__(self) -> tuple[Any, int]:
        """For a process that is being started; the memory stays mapped without its descriptor."""
        return DupFd(self.descriptor), len(self.memory)

    def __setstate__(self, state: tuple[Any, int]) -> None:
        self.descriptor = state[0].detach()
        self.memory = mmap.mmap(self.descriptor, state[1])
        self.passed_on()

    def passed_on(self) -> None:
        """Nobody else will need the descriptor."""
        os.close(self.descriptor)

    def array(self, shape: tuple[int, int]) -> np.ndarray:
        """The beginning as float32."""
        return np.frombuffer(self.memory, np.float32, count=shape[0] * shape[1]).reshape(shape)


def _reader(pipe: Connection, memory: list[SharedMemory], sample_rate: int, parent: int) -> None:
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for who started us
    long = InOrder()
    while True:
        try:
            read, slot = pipe.recv()
        except EOFError:
            return
        pipe.send(read_window(read, sample_rate, memory[slot].array(read.shape), long))
