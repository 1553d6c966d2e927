"""Codes of recordings as files that say all that is needed to decode them: parquet, npz or text.

In and out: `Coded`. Each format holds the codec's config, the digest of the weights that made the codes, the length to
the sample, and where they come from.

parquet   one row for each channel, with the columns of a part of the code cache (which can be read too, an utterance a
          row) and name, channel, source_samples, source_rate
npz       codes_0 .. codes_{K-1}, uint16 (channels, n_k), and a JSON text `about` with the rest
text      lines `# key: value` (a field of `About`, JSON values), then a line for each coarse frame, levels apart:
          17 | 5 902 | 4 4 81 7.  Another channel begins with the line `# channel`. Other lines with # are remarks.
          Without the first lines it is taken for the model's own.
"""

import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from snac_pipeline.codec import SNAC, CodecSpec, weights_digest
from snac_pipeline.codec.hub import first_line
from snac_pipeline.codes.fingerprint import encoder_fingerprint
from snac_pipeline.codes.parts import FINGERPRINT_FILE, part_schema
from snac_pipeline.corpus.audio import resampled_length
from snac_pipeline.errors import PipelineError
from snac_pipeline.files import atomic_file, read_json, write_text

CODES_EXTENSIONS = (".parquet", ".npz", ".txt")
_LARGEST_TOKEN = 2**31 - 1


@dataclass(frozen=True)
class About:
    """What is known of codes besides themselves; None where who wrote them does not say."""

    name: str = "codes"
    digest: str | None = None
    """Of the recording's bytes, as in a manifest."""
    num_samples: int | None = None
    """Length at the codec's sampling_rate, before padding."""
    sample_rate: int | None = None
    """The codec's."""
    source_samples: int | None = None
    """Length at the recording's own rate."""
    source_rate: int | None = None
    fingerprint: str | None = None
    """Of the encoder, as in the code cache."""
    weights: str | None = None
    """Digest of the weights of encoder and quantizer."""
    codec: dict[str, Any] | None = None
    """The codec's config."""


@dataclass(frozen=True)
class Coded:
    """The codes of one recording: per level, (channels, n_k) integers."""

    levels: list[np.ndarray]
    about: About
    cached: bool = False
    """Whether it is an utterance of the code cache, which is known by its digest."""

    def length(self, rate: int) -> int | None:
        """Samples at `rate` that last as long as the recording; None where its length is not known."""
        about = self.about
        if about.source_samples is not None and about.source_rate is not None:
            return resampled_length(about.source_samples, about.source_rate, rate)
        if about.num_samples is not None and about.sample_rate is not None:
            return resampled_length(about.num_samples, about.sample_rate, rate)
        return None


@dataclass(frozen=True)
class Identity:
    """What codes and model have to have in common."""

    spec: CodecSpec
    weights: str
    fingerprint: str

    @classmethod
    def of(cls, model: SNAC) -> "Identity":
        weights = weights_digest(model.state_dict(), ("encoder.", "quantizer."))
        return cls(model.spec, weights, encoder_fingerprint(model))

    def check(self, coded: Coded) -> None:
        """Raises PipelineError where the model cannot decode these codes, or would to something else."""
        spec, about = self.spec, coded.about
        if len(coded.levels) != spec.levels:
            raise PipelineError(f"{len(coded.levels)} levels of codes were given; this codec has {spec.levels}")
        if about.sample_rate not in (None, spec.sampling_rate):
            raise PipelineError(
                f"these are codes at {about.sample_rate} Hz; this codec works at {spec.sampling_rate} Hz"
            )
        if about.weights not in (None, self.weights):
            raise PipelineError(
                f"these are codes of another model (its encoder and codebooks have the digest {about.weights}, this "
                f"model's {self.weights}); give the model that made them, or a decoder trained from it"
            )
        frames = spec.frames_of([level.shape[-1] for level in coded.levels])
        for k, level in enumerate(coded.levels):
            low, high = (int(level.min()), int(level.max())) if level.size else (0, 0)
            if low < 0 or high >= spec.codebook_size:
                raise PipelineError(
                    f"codes of level {k} span {low}..{high}; this codebook has 0..{spec.codebook_size - 1}"
                )
        for samples in (about.num_samples, coded.length(spec.sampling_rate)):
            if samples is not None and spec.frames_for(samples) != frames:
                raise PipelineError(
                    f"there are codes of {frames} coarse frames for {samples} samples, which have "
                    f"{spec.frames_for(samples)}; the file is cut or put together wrongly"
                )


# ---- writing -------------------------------------------------------------------------------------------------------


def write_codes(path: Path, coded: Coded) -> None:
    """Write the codes, atomically, in the format that the extension names. All of `about` has to be known."""
    if path.suffix.lower() == ".parquet":
        _write_parquet(path, coded)
    elif path.suffix.lower() == ".npz":
        levels: dict[str, Any] = {f"codes_{k}": level for k, level in enumerate(coded.levels)}
        with atomic_file(path) as temporary:
            np.savez_compressed(temporary, **levels, about=np.array(json.dumps(asdict(coded.about))))
    else:
        write_text(path, "".join(f"{line}\n" for line in _text_lines(coded)))


def _write_parquet(path: Path, coded: Coded) -> None:
    about, channels = coded.about, len(coded.levels[0])
    schema = part_schema(len(coded.levels))
    for name, kind in _MORE_COLUMNS.items():
        schema = schema.append(pa.field(name, kind))
    rows = [
        {
            **{name: getattr(about, name) for name in schema.names if hasattr(about, name)},
            **{f"codes_{k}": level[channel] for k, level in enumerate(coded.levels)},
            "channel": channel,
        }
        for channel in range(channels)
    ]
    facts = {"codec": json.dumps(about.codec), "fingerprint": about.fingerprint, "weights": about.weights}
    table = pa.Table.from_pylist(rows, schema=schema.with_metadata(facts))
    with atomic_file(path) as temporary, temporary.open("wb") as handle:
        pq.write_table(table, handle, compression="zstd", write_page_checksum=True)


_MORE_COLUMNS = {"name": pa.string(), "channel": pa.int32(), "source_samples": pa.int64(), "source_rate": pa.int32()}


def _text_lines(coded: Coded) -> Iterator[str]:
    for key, value in asdict(coded.about).items():
        yield f"# {key}: {json.dumps(value, ensure_ascii=False)}"
    counts = [level.shape[-1] // coded.levels[0].shape[-1] for level in coded.levels]
    for channel in range(len(coded.levels[0])):
        if channel:
            yield "# channel"
        frames = [level[channel].reshape(-1, count) for level, count in zip(coded.levels, counts, strict=True)]
        for frame in zip(*frames, strict=True):
            yield " | ".join(" ".join(map(str, tokens)) for tokens in frame)


# ---- reading -------------------------------------------------------------------------------------------------------


def read_codes(path: str, name: str) -> list[Coded]:
    """All recordings in a file; the content says the format. Raises PipelineError, without the path."""
    try:
        with open(path, "rb") as handle:
            head = handle.read(4)
    except OSError as error:
        raise PipelineError(f"cannot be read: {error.strerror}") from error
    if head == b"PAR1":
        return _read_parquet(Path(path))
    if head[:2] == b"PK":
        return [_read_npz(path)]
    return [_read_text(path, name)]


def _read_parquet(path: Path) -> list[Coded]:
    try:
        with path.open("rb") as handle:  # pyarrow takes no path that is not UTF-8
            table = pq.read_table(handle, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise PipelineError(f"damaged: {first_line(error)}; make it again, or give another file") from error
    rows = pl.DataFrame(pl.from_arrow(table))
    levels = sum(name.startswith("codes_") for name in rows.columns)
    cached = "channel" not in rows.columns
    wanted = [*part_schema(max(1, levels)).names, *([] if cached else _MORE_COLUMNS)]
    missing = [name for name in wanted if name not in rows.columns]
    if missing or rows.is_empty():
        lacking = f"no column {missing[0]}" if missing else "no rows"
        raise PipelineError(f"no codes: it has {lacking}; give what `encode` or the code cache wrote")
    for k in range(levels):
        column = rows[f"codes_{k}"]
        whole = isinstance(column.dtype, pl.List) and column.dtype.inner.is_integer()
        if not whole or column.null_count() or column.explode().null_count():
            raise PipelineError(f"no codes: the column codes_{k} has something else than lists of whole numbers")
    facts = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    known = About(
        fingerprint=facts.get("fingerprint"),
        weights=facts.get("weights") or _weights_beside(path),
        codec=json.loads(facts["codec"]) if "codec" in facts else None,
    )
    coded = []
    if cached:
        rows = rows.with_columns(name="digest", channel=0, source_samples="num_samples", source_rate="sample_rate")
    for _, channels in rows.group_by("name", "digest", maintain_order=True):
        first = channels.row(0, named=True)
        tokens = [[row.to_numpy() for row in channels.sort("channel")[f"codes_{k}"]] for k in range(levels)]
        _same_lengths(tokens)
        about = _about(asdict(known) | {name: first[name] for name in first if hasattr(known, name)})
        coded.append(Coded([np.stack(level) for level in tokens], about, cached))
    return coded


def _weights_beside(part: Path) -> str | None:
    """The digest of the weights that made a part of the code cache, where its folder says it."""
    file = part.parent / FINGERPRINT_FILE
    return read_json(file)["weights"] if file.exists() else None


def _read_npz(path: str) -> Coded:
    try:
        with np.load(path, allow_pickle=False) as file:
            levels = [file[f"codes_{k}"] for k in range(sum(name.startswith("codes_") for name in file.files))]
            about = _about(json.loads(str(file["about"]))) if "about" in file.files else About()
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise PipelineError(f"damaged, or no codes: {error}; give what `encode` wrote") from error
    if not levels or any(level.dtype.kind not in "iu" for level in levels):
        raise PipelineError("no codes: an npz file of codes has whole numbers named codes_0, codes_1 and so on")
    levels = [np.atleast_2d(level) for level in levels]
    if any(level.ndim != 2 or not level.shape[0] or level.shape[0] != levels[0].shape[0] for level in levels):
        raise PipelineError("no codes: each of codes_0, codes_1 and so on has to be of the shape (channels, tokens)")
    return Coded(levels, about)


def _about(known: Any) -> About:
    """What a file says of its codes, checked: names are text, lengths and rates whole numbers above 0."""
    fields: dict[str, type[Any]] = {"name": str, "digest": str, "fingerprint": str, "weights": str, "codec": dict}
    fields |= dict.fromkeys(("num_samples", "sample_rate", "source_samples", "source_rate"), int)
    if not isinstance(known, dict):
        raise PipelineError(f"what it says about its codes is not understood: {str(known)[:60]!r} is no mapping")
    for name, value in known.items():
        kind = fields.get(name)
        if (
            kind is None
            or not (value is None or type(value) is kind)
            or (kind is int and value is not None and value < 1)
        ):
            raise PipelineError(f"what it says about its codes is not understood: {name} is {str(value)[:60]!r}")
    about = About(**known)
    if (about.source_samples is None) != (about.source_rate is None):
        raise PipelineError(
            "what it says about its codes is not understood: source_samples and source_rate go together"
        )
    return about


def _read_text(path: str, name: str) -> Coded:
    known: dict[str, Any] = {"name": name}
    channels: list[list[list[int]]] = [[]]
    try:
        # Not splitlines, which breaks at what a name may hold, such as U+2028; some editors begin with a mark.
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise PipelineError("no codes: neither parquet, npz nor text; give what `encode` wrote") from error
    for number, line in enumerate(lines, start=1):
        if line.lstrip().startswith("#"):
            key, _, value = line.lstrip("# \t").partition(":")
            if key.strip() == "channel":
                channels.append([])
            elif key.strip() in About.__dataclass_fields__:
                known[key.strip()] = _json(value, number)
        elif line.strip():
            _add_frame(channels[-1], line, number)
    _same_lengths(list(zip(*channels, strict=False)))
    if not channels[0] or len({len(levels) for levels in channels}) > 1:
        raise PipelineError(
            "no codes, or a channel without; a line for each coarse frame looks like: 17 | 5 902 | 4 4 8 7"
        )
    return Coded([np.array(level, np.int64) for level in zip(*channels, strict=True)], _about(known))


def _json(value: str, number: int) -> Any:
    try:
        return json.loads(value)
    except ValueError as error:
        raise PipelineError(
            f"line {number}: {value.strip()[:60]!r} is not a JSON value ({error}); text goes in double quotes, "
            "and null is what is not known"
        ) from error


def _add_frame(levels: list[list[int]], line: str, number: int) -> None:
    """A coarse frame, `17 | 5 902 | 4 4 81 7`, behind what the levels have."""
    try:
        groups = [[int(token) for token in group.split()] for group in line.split("|")]
        if any(abs(token) > _LARGEST_TOKEN for group in groups for token in group):
            raise ValueError("no codebook is so large")
    except ValueError as error:
        raise PipelineError(f"line {number}: {line.strip()[:60]!r} is no line of codes ({error})") from error
    if levels and len(groups) != len(levels):
        raise PipelineError(f"line {number} has {len(groups)} levels, those before it {len(levels)}")
    levels.extend([] for _ in range(len(groups) - len(levels)))
    for level, tokens in zip(levels, groups, strict=True):
        level.extend(tokens)


def _same_lengths(levels: Sequence[Sequence[Sequence[int]]]) -> None:
    """All channels of a level have to have as many tokens."""
    for k, channels in enumerate(levels):
        if len({len(tokens) for tokens in channels}) > 1:
            raise PipelineError(f"level {k} has another number of tokens in each channel; they are one recording's")
