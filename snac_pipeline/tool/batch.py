"""encode, decode, reconstruct and generate: what the commands of the same names do with all that they are given.

In: a codec, what was named on the command line, options. Out: files, and the figures of the run. Files are worked on
one after the other, each in the memory of a chunk however long it is. One that fails is named in the end, with the
reason, and the others are done.
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from snac_pipeline.codec import SNAC, CodecSpec, decode_stream, encode_stream
from snac_pipeline.codec.noise import NoiseMode
from snac_pipeline.codes.encode import encode_in_memory
from snac_pipeline.corpus.audio import open_audio, resampled_length
from snac_pipeline.corpus.listing import AUDIO_EXTENSIONS
from snac_pipeline.corpus.sniffing import UnreadableAudio
from snac_pipeline.errors import PipelineError
from snac_pipeline.files import content_digest
from snac_pipeline.tool.codes_files import CODES_EXTENSIONS, About, Coded, Identity, read_codes, write_codes
from snac_pipeline.tool.inputs import Item, find_items, is_file, seekable, targets
from snac_pipeline.tool.sound import AUDIO_OUT, write_audio

OnEvent = Callable[[dict[str, Any]], None]
Stereo = Literal["mix", "channels"]

CHUNK_SECONDS = 10.0
"""Encoded or decoded at once; 5 % of the published speech model's work is then context."""

SECONDS_PER_EVENT = 1.0


@dataclass(frozen=True)
class Options:
    """How things are converted, for all commands alike."""

    to: str
    """A folder, a file, or "-"."""
    format: str | None = None
    """Extension without the dot, for a folder and for "-"; None: wav or parquet."""
    rate: int | None = None
    """Hz, one of spec.output_rates; None: the first."""
    stereo: Stereo = "mix"
    """mix: channels are averaged into one, as in the code cache; channels: each is encoded for itself."""
    noise: NoiseMode = "seeded"
    seed: int = 0
    overwrite: bool = False


def encode(model: SNAC, arguments: Sequence[str], options: Options, on_event: OnEvent) -> dict[str, Any]:
    """Audio files -> files of codes. Raises PipelineError, once all others are done, that lists what failed."""
    run = _Run(model, arguments, AUDIO_EXTENSIONS, options, CODES_EXTENSIONS, on_event)

    def work(item: Item, source: str, target: Path) -> None:
        write_codes(target, run.encoded(item, source))

    return run.over(work)


def decode(model: SNAC, arguments: Sequence[str], options: Options, on_event: OnEvent) -> dict[str, Any]:
    """Files of codes -> audio files; of a part of the code cache a folder, with each utterance by its digest."""
    run = _Run(model, arguments, CODES_EXTENSIONS, options, AUDIO_OUT, on_event)
    model.spec.output_rate(options.rate)

    def work(item: Item, source: str, target: Path) -> None:
        recordings = read_codes(source, item.name)
        if len(recordings) == 1 and not recordings[0].cached:
            run.decoded(recordings[0], target)
            return
        if run.to_one_file:
            raise PipelineError(f"it holds utterances of the code cache, `--to {options.to}` one file; give a folder")
        for coded in recordings:
            place = target.with_suffix("") / f"{coded.about.digest}{target.suffix}"
            if options.overwrite or not place.exists():
                run.decoded(coded, place)

    return run.over(work)


def reconstruct(model: SNAC, arguments: Sequence[str], options: Options, on_event: OnEvent) -> dict[str, Any]:
    """Audio files -> what the codec makes of them, as long as they are, to the sample."""
    run = _Run(model, arguments, AUDIO_EXTENSIONS, options, AUDIO_OUT, on_event)
    model.spec.output_rate(options.rate)

    run.passes = 2

    def work(item: Item, source: str, target: Path) -> None:
        run.decoded(run.encoded(item, source), target)

    return run.over(work)


def generate(
    model: SNAC, codes: str | None, like: Sequence[str], seconds: float, options: Options, on_event: OnEvent
) -> dict[str, Any]:
    """Audio of codes that are given, or sampled: uniformly, or from the coarse frames of the files `like`."""
    if codes is not None:
        return decode(model, [codes], options, on_event)
    spec = model.spec
    found = _codes_of(model, find_items(like, CODES_EXTENSIONS, options.to)) if like else []
    samples = round(seconds * spec.sampling_rate)
    levels = sample_codes(spec, spec.frames_for(samples), options.seed, found)
    about = About("generated", num_samples=samples, source_samples=samples, source_rate=spec.sampling_rate)
    run = _Run(model, [], (), options, AUDIO_OUT, on_event, [Item("generated", "generated")])
    return run.over(lambda item, source, target: run.decoded(Coded(levels, about), target))


def _codes_of(model: SNAC, items: Sequence[Item]) -> list[Coded]:
    """The codes in all files; raises PipelineError for the first that is not of the model."""
    identity, found = Identity.of(model), []
    for item in items:
        if item.problem:
            raise PipelineError(item.problem)
        try:
            with seekable(item.source) as source:
                found += read_codes(source, item.name)
            for coded in found:
                identity.check(coded)
        except PipelineError as error:
            raise PipelineError(f"{item.name}: {error}") from error
    return found


def sample_codes(spec: CodecSpec, frames: int, seed: int, like: Sequence[Coded] = ()) -> list[np.ndarray]:
    """Per level, (1, n_k) random codes: uniform, or whole coarse frames drawn from the recordings `like`."""
    generator = np.random.default_rng(seed)
    if not like:
        return [generator.integers(spec.codebook_size, size=(1, n)) for n in spec.token_counts(frames)]
    pools = [
        np.concatenate([coded.levels[k].reshape(-1, count) for coded in like])
        for k, count in enumerate(spec.tokens_per_frame)
    ]
    drawn = generator.integers(len(pools[0]), size=frames)
    return [pool[drawn].reshape(1, -1) for pool in pools]


@dataclass
class _Run:
    """One command: what it has to do, and what has come of it."""

    model: SNAC
    arguments: Sequence[str]
    inputs: Iterable[str]
    options: Options
    outputs: tuple[str, ...]
    """Extensions that can be written; the first of them unless the options say which."""
    on_event: OnEvent
    items: list[Item] = field(default_factory=list)
    passes: int = 1
    """How often a recording goes by: reconstructed, it is encoded and decoded."""

    def __post_init__(self) -> None:
        to, extension = self.options.to, self._extension()
        self.items = self.items or find_items(self.arguments, set(self.inputs), to)
        self.places = targets(self.items, to, extension, self.outputs)
        self.extension = extension
        self.to_one_file = to == "-" or is_file(to, self.outputs)
        self.identity = Identity.of(self.model)
        self.started = self.told = time.monotonic()
        self.done = self.already = self.mixed = 0
        self.audio_seconds = self.seconds_before = 0.0
        self.failed: list[str] = []

    def _extension(self) -> str:
        """Of what is written: as `to` names it where that is a file, else the options' format."""
        to, form = Path(self.options.to), self.options.format
        named = to.suffix.lower() if not to.is_dir() else ""
        extension = f".{form}" if form else self.outputs[0]
        if named in {*AUDIO_EXTENSIONS, *CODES_EXTENSIONS}:
            if form and named != extension:
                raise PipelineError(f"`--to {to}` and `--format {form}` name two formats; leave one out")
            extension = named
        if extension not in self.outputs:
            known = ", ".join(name[1:] for name in self.outputs)
            raise PipelineError(f"{extension[1:]} is not written by this command; choose one of {known}")
        return extension

    def over(self, work: Callable[[Item, str, Path], None]) -> dict[str, Any]:
        """Do `work` (item, path to read, path to write) for every item; returns the figures."""
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
        elapsed = time.monotonic() - self.started
        figures = {
            "to": self.options.to,
            "written": self.done - self.already,
            "already": self.already,
            "mixed": self.mixed,
            "audio_seconds": self.audio_seconds,
            "real_time_factor": self.audio_seconds / elapsed,
        }
        return {} if self.options.to == "-" else figures

    def _one(self, item: Item, place: Path | None, work: Callable[[Item, str, Path], None]) -> None:
        if item.problem:
            raise PipelineError(item.problem)
        if place is not None and place.exists() and not self.options.overwrite:
            if self.to_one_file:
                raise PipelineError(f"{place} is there already; give another name, or --overwrite")
            self.already += 1
            return
        with seekable(item.source) as source:
            if place is not None:
                work(item, source, place)
                return
            with tempfile.TemporaryDirectory(prefix="snac-pipeline-") as folder:
                whole = Path(folder) / f"out{self.extension}"  # so that its header can say how long it is
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

    # ---- one recording ---------------------------------------------------------------------------------------------

    def encoded(self, item: Item, source: str) -> Coded:
        """The codes of an audio file: those that the code cache has for it, where its channels are mixed."""
        spec = self.model.spec
        with open_audio(source, spec.sampling_rate, mix=self.options.stereo == "mix") as audio:
            if audio.channels > 1 and self.options.stereo == "mix":
                self._say_mixed(item, audio.channels)
            expected = (audio.header_frames or 0) / audio.source_rate
            blocks = (
                torch.from_numpy(block.T)[:, None]
                for block in self._watched(audio.blocks, expected, spec.sampling_rate)
            )
            chunks = [
                [level.numpy() for level in levels]
                for levels in encode_stream(self.model, blocks, chunk_seconds=CHUNK_SECONDS, encode=self._encode)
            ]
        if not audio.source_samples:
            raise PipelineError("there is no audio in it (0 samples)")
        about = About(
            name=item.name,
            digest=content_digest(source),
            num_samples=resampled_length(audio.source_samples, audio.source_rate, spec.sampling_rate),
            sample_rate=spec.sampling_rate,
            source_samples=audio.source_samples,
            source_rate=audio.source_rate,
            fingerprint=self.identity.fingerprint,
            weights=self.identity.weights,
            codec=spec.to_dict(),
        )
        return Coded([np.concatenate(level, axis=1) for level in zip(*chunks, strict=True)], about)

    def _encode(self, audio_B1T: torch.Tensor) -> list[torch.Tensor]:
        """`model.encode` as the code cache does it: in float32, halved where the device's memory is too small."""
        return [torch.from_numpy(level) for level in encode_in_memory(self.model, audio_B1T[:, 0].numpy(), "fp32")]

    def _say_mixed(self, item: Item, channels: int) -> None:
        if not self.mixed:
            self.on_event({
                "message": f"{item.name}: {channels} channels are mixed to one, as all such files here; "
                "`--stereo channels` keeps them apart"
            })  # fmt: skip
        self.mixed += 1

    def decoded(self, coded: Coded, target: Path) -> None:
        """Write the audio of codes, with the recording's length where it is known."""
        self.identity.check(coded)
        options, spec = self.options, self.model.spec
        rate = spec.output_rate(options.rate)
        levels = [torch.from_numpy(level.astype(np.int64)) for level in coded.levels]
        length = coded.length(rate)
        if length is None:
            length = spec.samples(levels[0].shape[-1] // spec.tokens_per_frame[0], rate)
        audio = decode_stream(
            self.model, [levels], output_rate=rate, noise=options.noise, seed=options.seed, chunk_seconds=CHUNK_SECONDS
        )
        blocks = (block[:, 0].T.cpu().numpy() for block in audio)
        write_audio(target, self._watched(blocks, length / rate, rate), rate, len(levels[0]), length)

    def _watched(self, blocks: Iterable[np.ndarray], expected: float, rate: int) -> Iterator[np.ndarray]:
        """The same blocks (n, channels), counted as audio that is done; expected: seconds, 0 where not known."""
        for block in blocks:
            self.audio_seconds += len(block) / rate / self.passes
            self._tell(expected)
            yield block
