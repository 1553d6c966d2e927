"""encode, decode, reconstruct and generate: what the commands of the same names do with all that they are given.

In: a codec, what was named on the command line, options. Out: files, and the figures of the run. Files are worked on
one after the other, each in the memory of a chunk however long it is. All raise PipelineError that lists what failed
once the rest is done.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from snac_pipeline.codec import SNAC, CodecSpec, decode_stream, encode_stream
from snac_pipeline.codec.noise import NoiseMode
from snac_pipeline.codes.encode import encode_in_memory
from snac_pipeline.corpus.audio import open_audio, resampled_length
from snac_pipeline.corpus.listing import AUDIO_EXTENSIONS
from snac_pipeline.errors import PipelineError
from snac_pipeline.files import content_digest
from snac_pipeline.tool.batch import Batch, OnEvent
from snac_pipeline.tool.codes_files import CODES_EXTENSIONS, About, Coded, Identity, read_codes, write_codes
from snac_pipeline.tool.inputs import Item, find_items
from snac_pipeline.tool.sound import AUDIO_OUT, exactly, write_audio

CHUNK_SECONDS = 10.0
"""Encoded or decoded at once; 5 % of the published speech model's work is then context."""


@dataclass(frozen=True)
class Options:
    """How things are converted, for all commands alike."""

    to: str
    """A folder, a file, or "-"."""
    format: str | None = None
    """Extension without the dot, for a folder and for "-"; None: wav or parquet."""
    rate: int | None = None
    """Hz, one of spec.output_rates; None: the first."""
    stereo: Literal["mix", "channels"] = "mix"
    """mix: channels are averaged into one, as in the code cache; channels: each is encoded for itself."""
    noise: NoiseMode = "seeded"
    seed: int = 0
    overwrite: bool = False


def encode(model: SNAC, arguments: Sequence[str], options: Options, on_event: OnEvent) -> dict[str, Any]:
    """Audio files -> files of codes."""
    items = find_items(arguments, AUDIO_EXTENSIONS, options.to)
    run = _Run(model, options, items, CODES_EXTENSIONS, on_event)
    return run.batch.over(lambda item, source, target: write_codes(target, run.encoded(item, source)))


def decode(model: SNAC, arguments: Sequence[str], options: Options, on_event: OnEvent) -> dict[str, Any]:
    """Files of codes -> audio files; of a part of the code cache a folder, with each utterance by its digest."""
    items = find_items(arguments, CODES_EXTENSIONS, options.to)
    run = _Run(model, options, items, AUDIO_OUT, on_event)

    def work(item: Item, source: str, target: Path) -> None:
        recordings = read_codes(source, item.name)
        if len(recordings) == 1 and not recordings[0].cached:
            run.decoded(recordings[0], target)
            return
        if run.batch.to_one_file:
            raise PipelineError(f"it holds utterances of the code cache, `--to {options.to}` one file; give a folder")
        if len({coded.about.digest for coded in recordings} - {None}) < len(recordings):
            raise PipelineError(
                "it holds recordings with one digest or with none, which is what they would be named by"
            )
        for coded in recordings:
            place = target.with_suffix("") / f"{coded.about.digest}{target.suffix}"
            if options.overwrite or not place.exists():
                run.decoded(coded, place)

    return run.batch.over(work)


def reconstruct(model: SNAC, arguments: Sequence[str], options: Options, on_event: OnEvent) -> dict[str, Any]:
    """Audio files -> what the codec makes of them, as long as they are, to the sample."""
    items = find_items(arguments, AUDIO_EXTENSIONS, options.to)
    run = _Run(model, options, items, AUDIO_OUT, on_event, passes=2)
    return run.batch.over(lambda item, source, target: run.decoded(run.encoded(item, source), target))


def generate(
    model: SNAC, codes: str | None, like: Sequence[str], seconds: float, options: Options, on_event: OnEvent
) -> dict[str, Any]:
    """Audio of codes that are given, or sampled: uniformly, or from the coarse frames of the files `like`."""
    if codes is not None:
        return decode(model, [codes], options, on_event)
    spec = model.spec
    run = _Run(model, options, [Item("generated", "generated")], AUDIO_OUT, on_event)
    found = run.codes_of(find_items(like, CODES_EXTENSIONS, options.to)) if like else []
    samples = round(seconds * spec.sampling_rate)
    levels = sample_codes(spec, spec.frames_for(samples), options.seed, found)
    about = About("generated", num_samples=samples, source_samples=samples, source_rate=spec.sampling_rate)
    return run.batch.over(lambda item, source, target: run.decoded(Coded(levels, about), target))


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


class _Run:
    """One command over its items: how it encodes one recording, and how it decodes one."""

    def __init__(
        self, model: SNAC, options: Options, items: list[Item], outputs: tuple[str, ...], on_event: OnEvent,
        passes: int = 1,
    ):  # fmt: skip
        self.model, self.options, self.on_event = model, options, on_event
        self.identity = Identity.of(model)
        self.output_rate = model.spec.output_rate(options.rate)
        self.batch = Batch(items, options.to, options.format, outputs, options.overwrite, on_event, passes)
        self.told_of_mixing = False

    def encoded(self, item: Item, source: str) -> Coded:
        """The codes of an audio file: those that the code cache has for it, where its channels are mixed."""
        spec, mix = self.model.spec, self.options.stereo == "mix"
        with open_audio(source, spec.sampling_rate, mix=mix) as audio:
            if mix and audio.channels > 1:
                self._say_mixed(item, audio.channels)
            expected = (audio.header_frames or 0) / audio.source_rate
            blocks = self.batch.watched(_finite(audio.blocks), expected, spec.sampling_rate)
            chunks = encode_stream(
                self.model,
                (torch.from_numpy(block.T)[:, None] for block in blocks),
                chunk_seconds=CHUNK_SECONDS,
                encode=self._encode,
            )
            joined = join_codes(chunks)
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
        return Coded(joined, about)

    def _encode(self, audio_B1T: torch.Tensor) -> list[torch.Tensor]:
        """`model.encode` as the code cache does it: in float32, halved where the device's memory is too small."""
        return [torch.from_numpy(level) for level in encode_in_memory(self.model, audio_B1T[:, 0].numpy(), "fp32")]

    def _say_mixed(self, item: Item, channels: int) -> None:
        if not self.told_of_mixing:
            words = "channels are mixed to one, here and in files like it; `--stereo channels` keeps them apart"
            self.on_event({"message": f"{item.name}: {channels} {words}"})
        self.told_of_mixing = True

    def decoded(self, coded: Coded, target: Path) -> None:
        """Write the audio of codes, with the recording's length where it is known."""
        self.identity.check(coded)
        spec, rate = self.model.spec, self.output_rate
        levels = [torch.from_numpy(level.astype(np.int64)) for level in coded.levels]
        length = coded.length(rate)
        if length is None:
            length = spec.samples(spec.frames_of([level.shape[-1] for level in levels]), rate)
        chunks = decode_stream(
            self.model,
            [levels],
            output_rate=rate,
            noise=self.options.noise,
            seed=self.options.seed,
            chunk_seconds=CHUNK_SECONDS,
        )
        blocks = exactly((chunk[:, 0].T.cpu().numpy() for chunk in chunks), length, len(levels[0]))
        write_audio(target, self.batch.watched(blocks, length / rate, rate), rate, len(levels[0]), length)

    def codes_of(self, items: Sequence[Item]) -> list[Coded]:
        """The codes in all files; raises PipelineError for the first that cannot be used."""
        found = []
        for item in items:
            if item.problem:
                raise PipelineError(item.problem)
            try:
                with item.readable() as source:
                    found += read_codes(source, item.name)
                for coded in found:
                    self.identity.check(coded)
            except PipelineError as error:
                raise PipelineError(f"{item.name}: {error}") from error
        return found


def join_codes(chunks: Iterable[Sequence[torch.Tensor]]) -> list[np.ndarray]:
    """Per level, (channels, n_k) uint16, of chunks with one (channels, n) tensor for each level.

    Copied into one buffer for each level. Thousands of small arrays that are kept would hold open the gaps that the
    large ones between them leave, and the process would grow: by 220 MB in half an hour of audio.
    """
    buffers: list[bytearray] = []
    channels = 1
    for chunk in chunks:
        channels = len(chunk[0])
        buffers = buffers or [bytearray() for _ in chunk]
        for buffer, level in zip(buffers, chunk, strict=True):
            buffer += level.numpy().astype(np.uint16).T.tobytes()
    return [np.ascontiguousarray(np.frombuffer(buffer, np.uint16).reshape(-1, channels).T) for buffer in buffers]


def _finite(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The same blocks; raises PipelineError at samples that are no numbers, which a codec would make some sound of."""
    for block in blocks:
        if not np.isfinite(block).all():
            raise PipelineError("samples that are not finite (NaN or infinity)")
        yield block
