"""Whether cached codes are what they should be: whole, of the right range and length, and those of encoding alone."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F

from snac_pipeline.codec import SNAC, CodecSpec
from snac_pipeline.codec.quantizer import Quantized
from snac_pipeline.codec.streaming import stretches
from snac_pipeline.codes.encode import Recording, recordings
from snac_pipeline.codes.parts import (
    cached_digests,
    encode_quarantine,
    part_files,
    part_metadata,
    part_schema,
    read_codes,
)
from snac_pipeline.codes.precision import TOLERANCES, Tolerance, quantize
from snac_pipeline.corpus.audio import InOrder, resampled_length
from snac_pipeline.errors import PipelineError
from snac_pipeline.files import read_parquet
from snac_pipeline.settings import Precision

NAMED = 20
"""Digests that one sentence about a part names at most."""


# ---- the rule ------------------------------------------------------------------------------------------------------


class Differences(NamedTuple):
    """Tokens in which cached codes differ from those of encoding alone, by why."""

    tokens: int = 0
    """Tokens compared."""
    ties: int = 0
    """The cached code and the nearest were equally near, to rounding."""
    following: int = 0
    """A coarser token of the same time differs, and with it what this level was to encode."""
    wrong: int = 0
    """Neither."""

    def plus(self, other: "Differences") -> "Differences":
        return Differences(*(a + b for a, b in zip(self, other, strict=True)))

    @property
    def mismatched(self) -> int:
        return self.ties + self.following + self.wrong

    @property
    def rate(self) -> float:
        """Share of the tokens that differ of themselves."""
        return (self.ties + self.wrong) / max(1, self.tokens)

    def allowed(self, tolerance: Tolerance | None) -> bool:
        """Whether they are few enough, and ties or what follows from ties. None: not one may differ.

        One tie is always allowed: of a few thousand tokens it is more than the share.
        """
        if tolerance is None:
            return self.mismatched == 0
        return self.wrong == 0 and (self.ties <= 1 or self.rate <= tolerance.share)


def judge(
    cached: Sequence[np.ndarray],
    alone: Sequence[np.ndarray],
    excess: Sequence[np.ndarray],
    strides: Sequence[int],
    tie: float,
) -> Differences:
    """Sort the tokens of one utterance that differ into ties, followers and wrong ones.

    Per level, coarsest first: `cached` and `alone` are codes of one span, `excess` says by how much, relatively, the
    cached code is farther than the code of encoding alone, `strides` the latents that one token covers. Levels of
    unequal length are wrong throughout.
    """
    counted = Differences()
    changed = np.zeros(len(alone[0]) * strides[0], dtype=bool)
    for a, b, farther, stride in zip(cached, alone, excess, strides, strict=True):
        if len(a) != len(b):
            counted = counted.plus(Differences(tokens=len(b), wrong=max(len(a), len(b))))
            continue
        differs, follows = a != b, changed.reshape(-1, stride).any(axis=1)
        own = differs & ~follows
        ties = int((own & (farther <= tie)).sum())
        counted = counted.plus(Differences(len(b), ties, int((differs & follows).sum()), int(own.sum()) - ties))
        changed |= np.repeat(differs, stride)
    return counted


# ---- encoding again ------------------------------------------------------------------------------------------------


def compare_sample(
    model: SNAC,
    folder: Path,
    utterances: pl.DataFrame,
    digests: Sequence[str] | pl.Series,
    count: int,
    batch_seconds: float = 60.0,
    precision: Precision = "fp32",
) -> dict[str, Any]:
    """Encode up to `count` of `digests` again, each alone, and compare with the cache token by token.

    Those longer than `batch_seconds` are encoded in chunks, as for the cache: whole, an hour would take 20 GB.
    Returns compared utterances and tokens, how many tokens differ, how many of them are ties or follow from one, the
    rate of tokens that differ of themselves, and whether that is `exact`: where the parts were made on a CPU, eagerly,
    and this is one, not one token differs; else what `TOLERANCES` allows.
    """
    rows = _sample(utterances, digests, count)
    cached = read_codes(folder, rows["digest"].to_list()) if len(rows) else pl.DataFrame()
    tolerance, found = TOLERANCES[precision], Differences()
    for i, item in enumerate(recordings(rows, model.spec)):
        levels = [cached[f"codes_{k}"][i].to_numpy() for k in range(model.spec.levels)]
        found = found.plus(_compare_alone(model, item, levels, batch_seconds, precision, tolerance.tie))
    on_cpu = next(model.parameters()).device.type == "cpu" and _made_on_cpu(folder, rows["digest"])
    return {
        "utterances": len(rows),
        "tokens": found.tokens,
        "mismatched": found.mismatched,
        "ties": found.ties,
        "following": found.following,
        "rate": found.rate,
        "exact": found.allowed(None if on_cpu else tolerance),
    }


def token_agreement(model: SNAC, folder: Path, utterances: pl.DataFrame, batch_seconds: float) -> list[float]:
    """Per level, the share of the utterances' cached tokens that encoding them alone in float32 gives too."""
    cached = read_codes(folder, utterances["digest"].to_list())
    equal = [0] * model.spec.levels
    for i, item in enumerate(recordings(utterances, model.spec)):
        for start, end, alone in _alone(model, item, model.spec.frames_for(item.num_samples), batch_seconds, "fp32"):
            for k, (level, count) in enumerate(zip(alone.codes, model.spec.tokens_per_frame, strict=True)):
                tokens = cached[f"codes_{k}"][i][start * count : end * count].to_numpy()
                equal[k] += int((tokens == level[0].cpu().numpy()).sum())
    return [same / int(cached[f"codes_{k}"].list.len().sum()) for k, same in enumerate(equal)]


def _sample(utterances: pl.DataFrame, digests: Sequence[str] | pl.Series, count: int) -> pl.DataFrame:
    """The first `count` by digest, which is as good as random and hardly changes when others are added."""
    chosen = pl.DataFrame({"digest": digests}, schema={"digest": pl.String})
    return utterances.join(chosen, on="digest", how="semi").sort("digest").head(count)


def _made_on_cpu(folder: Path, digests: pl.Series) -> bool:
    parts = part_files(folder)
    used = cached_digests(folder).join(pl.DataFrame({"digest": digests}), on="digest", how="semi")["part"].unique()
    return all(part_metadata(parts[part]).get("device") == "cpu" for part in used)


def _compare_alone(
    model: SNAC, item: Recording, cached: list[np.ndarray], batch_seconds: float, precision: Precision, tie: float
) -> Differences:
    """Encode one utterance again, by chunks if it is long, and judge its cached codes."""
    spec = model.spec
    counts, found = spec.tokens_per_frame, Differences()
    frames = spec.frames_for(item.num_samples)
    if [len(level) for level in cached] != list(spec.token_counts(frames)):
        return Differences(sum(spec.token_counts(frames)), wrong=sum(spec.token_counts(frames)))
    for start, end, again in _alone(model, item, frames, batch_seconds, precision):
        part = [level[start * n : end * n] for level, n in zip(cached, counts, strict=True)]
        codes = [level[0].cpu().numpy() for level in again.codes]
        found = found.plus(judge(part, codes, _excess(model, again, part), spec.vq_strides, tie))
    return found


def _alone(
    model: SNAC, item: Recording, frames: int, batch_seconds: float, precision: Precision
) -> Iterator[tuple[int, int, Quantized]]:
    """(first coarse frame, last + 1, its codes and code-space vectors) of an utterance, chunk by chunk."""
    spec, device = model.spec, next(model.parameters()).device
    reader = InOrder()
    for first, start, end, last in stretches(frames, spec.segment_frames(batch_seconds), spec.encode_context):
        audio = reader.read(item.file, spec.sampling_rate, spec.samples(first), spec.samples(last - first))
        whole = quantize(model, torch.from_numpy(audio)[None, None].to(device), precision)
        kept = [slice((start - first) * n, (end - first) * n) for n in spec.tokens_per_frame]
        codes = [level[:, span] for level, span in zip(whole.codes, kept, strict=True)]
        vectors = [level[..., span] for level, span in zip(whole.projected, kept, strict=True)]
        yield start, end, whole._replace(codes=codes, projected=vectors)
    reader.close()


def _excess(model: SNAC, again: Quantized, cached: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Per level, how much farther the cached code is than the one found again, relative to the farther distance.

    Distances are those that the quantizer compares, between normalised vectors, but in float64. The code found again
    is the nearest, so that a small excess says that the two nearest codes are this near to each other.
    """
    levels = []
    for quantizer, codes, vectors, tokens in zip(
        model.quantizer.levels, again.codes, again.projected, cached, strict=True
    ):
        if tokens.max() >= len(quantizer.codebook.weight):  # no code at all
            levels.append(np.full(len(tokens), np.inf))
            continue
        points = F.normalize(vectors[0].double().cpu().T)
        codebook = F.normalize(quantizer.codebook.weight.detach().double().cpu())
        near = (points - codebook[codes[0].cpu()]).square().sum(1)
        far = (points - codebook[torch.from_numpy(tokens.astype(np.int64))]).square().sum(1)
        levels.append(((far - near) / far.clamp_min(1e-30)).numpy())
    return levels


# ---- the parts -----------------------------------------------------------------------------------------------------


def check_codes(folder: Path, utterances: pl.DataFrame, spec: CodecSpec) -> list[str]:
    """A sentence for everything that is wrong with the folder's parts; empty when all is well.

    Every page of every part is read and its checksum verified, one part at a time. Every row has to have codes of its
    codebook, as many as its length asks for, and the length that the manifest says; every one of `utterances` has to be
    either cached or in the folder's quarantine.
    """
    errors, held = [], [pl.DataFrame(schema={"digest": pl.String, "num_samples": pl.Int64, "part": pl.String})]
    for part in part_files(folder):
        try:
            rows = pl.DataFrame(pl.from_arrow(read_parquet(part)))
        except PipelineError as error:
            errors.append(str(error))
            continue
        if rows.schema != _schema(spec):
            errors.append(_part_is_wrong(part, "it has not the columns of this codec"))
            continue
        held.append(rows.select("digest", "num_samples", part=pl.lit(str(part))))
        errors += [_part_is_wrong(part, what) for what in _wrong_rows(rows, spec)]
    return [*errors, *_wrong_sum(folder, utterances, pl.concat(held), spec)]


def _part_is_wrong(part: Path | str, what: str) -> str:
    return f"{part}: {what}; delete it and run `snac-pipeline cache`"


def _schema(spec: CodecSpec) -> pl.Schema:
    return pl.DataFrame(pl.from_arrow(part_schema(spec.levels).empty_table())).schema


def _wrong_rows(rows: pl.DataFrame, spec: CodecSpec) -> Iterator[str]:
    """What is wrong with the rows of one part in themselves."""
    frames = pl.Series("frames", [spec.frames_for(samples) for samples in rows["num_samples"]], dtype=pl.Int64)
    rows = rows.with_columns(frames)

    def found(wrong: pl.Expr, what: str) -> list[str]:
        digests = rows.filter(wrong)["digest"]
        return [f"{what}: {_named(digests)}"] if len(digests) else []

    yield from found(pl.col("digest").is_duplicated(), "an utterance is there twice")
    yield from found(pl.col("sample_rate") != spec.sampling_rate, f"the rate is not {spec.sampling_rate} Hz")
    for k, count in enumerate(spec.tokens_per_frame):
        level = pl.col(f"codes_{k}")
        yield from found(level.list.len() != pl.col("frames") * count, f"level {k} has not the tokens of its duration")
        yield from found(level.list.max() >= spec.codebook_size, f"level {k} has a code above {spec.codebook_size - 1}")


def _named(digests: pl.Series) -> str:
    more = f" and {len(digests) - NAMED} more" if len(digests) > NAMED else ""
    return ", ".join(digests.head(NAMED)) + more


def _wrong_sum(folder: Path, utterances: pl.DataFrame, held: pl.DataFrame, spec: CodecSpec) -> Iterator[str]:
    """Where parts and manifests disagree: other lengths, utterances neither cached nor set aside, and those that are
    both."""
    # The arithmetic of whole numbers, done on whole columns.
    expected = resampled_length(pl.col("num_frames"), pl.col("sample_rate").cast(pl.Int64), spec.sampling_rate)
    lengths = held.join(utterances.select("digest", expected=expected), on="digest", maintain_order="left")
    other = lengths.filter(pl.col("num_samples") != pl.col("expected"))
    for (part,), rows in other.group_by("part", maintain_order=True):
        yield _part_is_wrong(part, f"another length than the manifest's: {_named(rows['digest'])}")
    quarantine = encode_quarantine(folder)
    missing = utterances.join(held, on="digest", how="anti").join(quarantine, on="digest", how="anti")["digest"]
    if len(missing):
        yield (
            f"{len(missing)} of {len(utterances)} utterances are neither cached nor in the quarantine of {folder}, the "
            f"first {missing.min()!s}; run `snac-pipeline cache`"
        )
    both = quarantine.join(held, on="digest", how="semi")["digest"]
    if len(both):
        yield (
            f"{len(both)} utterances are cached and also in the quarantine of {folder}, the first {both.min()!s}; "
            "run `snac-pipeline cache`"
        )
