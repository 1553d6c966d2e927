"""Speech that BPE sees is drawn before it is read: the same however the parts lie, in memory bounded by its size."""

import tracemalloc

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from made_tokens import SMALL, random_stream, select, stream_of, write_part

from snac_pipeline.errors import PipelineError
from snac_pipeline.tokens import locate_tokens, sweep_layouts
from snac_pipeline.tokens import stream as stream_module
from snac_pipeline.tokens.sampling import draw_speech


def write_parts(folder, stream, parts: int, shuffle: int = 0):
    """The stream's utterances dealt out to parts, in any order."""
    order = np.random.default_rng(shuffle).permutation(len(stream.utterances))
    for number, rows in enumerate(np.array_split(order, parts)):
        write_part(folder, str(number), {
            stream.utterances["digest"][int(row)]: [
                level[stream.offsets[row] * width : stream.offsets[row + 1] * width]
                for level, width in zip(stream.codes, stream.geometry.tokens_per_frame, strict=True)
            ]
            for row in rows
        })  # fmt: skip


def finest_codes(stream) -> dict[str, list[int]]:
    digests = stream.utterances["digest"]
    return {digest: stream.take(np.array([row])).codes[2].tolist() for row, digest in enumerate(digests)}


def drawn(source, frames: int = 60, seed: int = 3):
    return draw_speech(source, frames, np.random.default_rng(seed))


def test_what_is_drawn_does_not_depend_on_the_parts(tmp_path):
    stream = random_stream(SMALL, 60, 10)
    expected = drawn(stream)
    assert 60 <= expected.train.frames < 60 + 20 and 60 <= expected.judged.frames < 60 + 20
    for parts in (1, 4, 13):
        write_parts(tmp_path / str(parts), stream, parts, shuffle=parts)
        mixed = stream.utterances.sample(fraction=1, shuffle=True, seed=parts)
        found = drawn(locate_tokens(tmp_path / str(parts), mixed, SMALL))
        for one, other in ((found.train, expected.train), (found.judged, expected.judged)):
            assert finest_codes(one) == finest_codes(other)
    assert not drawn(stream, seed=4).train.utterances.equals(expected.train.utterances)


def test_bpe_of_parts_is_that_of_the_same_codes_in_memory(tmp_path):
    stream = random_stream(SMALL, 60, 10)
    write_parts(tmp_path, stream, 5)
    source = locate_tokens(tmp_path, stream.utterances.sort("split", "corpus", "digest"), SMALL)
    options = {"layouts": ["frame", "coarse_only"], "merges": [5], "sample_tokens": 700, "resamples": 20}
    of_parts, in_memory = (sweep_layouts(where, **options) for where in (source, stream))
    assert of_parts.table.equals(in_memory.table)
    assert of_parts.best.tokenizer.entries == in_memory.best.tokenizer.entries


def test_more_than_there_is_is_all_of_it_and_silence_is_not_drawn():
    stream = random_stream(SMALL, 20, 5)
    everything = drawn(stream, frames=10**9)
    assert everything.train.frames + everything.judged.frames == stream.frames
    assert (everything.train.lengths > 0).all()


def test_memory_is_that_of_the_sample_whatever_the_corpus(tmp_path, monkeypatch):
    """What numpy and arrow hold at most, for the same sample of a corpus four times as large."""
    monkeypatch.setattr(stream_module, "READ_TOKENS", 20_000)
    peaks = []
    for utterances in (100, 400):
        folder = tmp_path / str(utterances)
        codes = [np.random.default_rng(0).integers(0, 16, utterances * 1000 * width) for width in (1, 2, 4)]
        stream = stream_of(SMALL, codes, [1000] * utterances, ["train", "val"] * (utterances // 2))
        write_parts(folder, stream, utterances // 20)
        digests, splits = stream.utterances["digest"], stream.utterances["split"]
        del codes, stream
        source = locate_tokens(folder, pl.DataFrame({"digest": digests, "corpus": "made", "split": splits}), SMALL)
        arrow = pa.total_allocated_bytes()
        tracemalloc.start()
        speech = drawn(source, frames=4000)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert pa.total_allocated_bytes() - arrow < 1 << 20, "nothing of the parts is kept"
        assert (speech.train.frames, speech.judged.frames) == (4000, 4000)
    assert peaks[1] < 1.1 * peaks[0] + 200_000, peaks


def test_a_corpus_that_cannot_be_divided_is_told(tmp_path):
    write_part(tmp_path, "0", {"a" * 32: [[1], [2, 3], [4, 5, 6, 7]]})
    with pytest.raises(PipelineError, match="split 'val' has no tokens"):
        drawn(locate_tokens(tmp_path, select(("a" * 32, "x", "train")), SMALL))
