"""Reading ahead gives what reading right here gives, in order, in bounded memory, and a reader's death is noticed."""

import os
import signal
from contextlib import closing

import made_codes as made
import numpy as np
import pytest
import soundfile
import torch
from geometries import PUBLISHED, build, thin, white

from snac_pipeline.codec import SNAC
from snac_pipeline.codes.encode import encode_array, encode_in_memory
from snac_pipeline.codes.reading import InlineReader, Read, Readers, read_window
from snac_pipeline.corpus import decoding, read_audio
from snac_pipeline.corpus.audio import InOrder
from snac_pipeline.errors import PipelineError
from snac_pipeline.files import content_digest

RATE = 24_000


@pytest.fixture(scope="module")
def reads(corpus, tmp_path_factory) -> list[Read]:
    """Windows of one to three files, the later ones from their middle, and of more files than slots."""
    utterances = made.utterances_of(corpus, tmp_path_factory.mktemp("home"))
    files = utterances.select("digest", "file").rows()
    return [Read(files[i : i + 1 + i % 3], 100 * (i % 2), 5_000 + 100 * i) for i in range(len(files))]


@pytest.fixture(scope="module")
def readers():
    with closing(Readers(2, 30_000, RATE)) as readers:
        yield readers


def test_readers_give_what_reading_here_gives_part_after_part(reads, readers):
    expected = list(InlineReader(RATE).read(reads))
    for _ in range(2):
        for (audio, errors), (known, none) in zip(readers.read(reads), expected, strict=True):
            np.testing.assert_array_equal(audio, known)
            assert errors == none == [None] * len(known)


def test_what_is_wrong_with_a_file_is_said_of_that_file(reads, readers, tmp_path):
    missing = ("0" * 32, str(tmp_path / "gone.wav"))
    changed = ("0" * 32, reads[0].files[0][1])
    [(audio, errors)] = readers.read([Read([missing, *reads[0].files, changed], 0, 5_000)])
    assert "gone.wav: cannot be read" in errors[0] and errors[1] is None and "changed since the scan" in errors[2]
    np.testing.assert_array_equal(audio[1], next(InlineReader(RATE).read([Read(reads[0].files, 0, 5_000)]))[0][0])


def test_a_reader_that_dies_is_noticed(reads):
    with closing(Readers(1, 30_000, RATE)) as readers:
        taken = readers.read(reads)
        next(taken)
        os.kill(readers.readers[0].process.pid, signal.SIGKILL)
        with pytest.raises(RuntimeError, match="a reading process died with exit status -9"):
            list(taken)


def test_codes_do_not_depend_on_who_reads(cached, codec, corpus, tmp_path):
    utterances = made.utterances_of(corpus, tmp_path)
    result = made.cache(codec, utterances, tmp_path, readers=2, batch_seconds=0.5)  # long files in chunks
    rows = made.all_rows(tmp_path / "codes" / result["fingerprint"])
    made.assert_same_codes(rows, made.all_rows(cached[0] / "codes" / result["fingerprint"]))


def test_a_file_lost_after_the_scan_is_named_by_readers_too(codec, tmp_path):
    home, corpus = tmp_path / "home", made.make_corpus(tmp_path / "speech", seconds=(0.3, 0.3, 1.3))
    utterances = made.utterances_of(corpus, home)
    (corpus / "speaker0" / "002.wav").unlink()  # one that is read in chunks
    with pytest.raises(PipelineError, match=r"1 files .*002\.wav: .*the other 2 are cached"):
        made.cache(codec, utterances, home, readers=1, batch_seconds=0.5)


class Small(SNAC):
    """A codec on a device with little memory: torch's own error for more than `room` samples."""

    room = 0

    def preprocess(self, audio_B1T):
        if audio_B1T.numel() > self.room:
            raise torch.OutOfMemoryError(f"{audio_B1T.numel()} samples do not fit")
        return super().preprocess(audio_B1T)


@pytest.mark.parametrize("published", ["24khz", "44khz"])
@pytest.mark.parametrize(("batch", "units"), [(5, 1), (3, 9), (1, 12)])
def test_what_does_not_fit_into_the_devices_memory_is_halved_with_the_same_codes(published, batch, units, monkeypatch):
    model = build(thin(PUBLISHED[published]))
    spec = model.spec
    frames = units * (spec.encode_context + spec.alignment)
    audio = np.concatenate([white(spec.samples(frames), seed=i)[0].numpy() for i in range(batch)])
    whole = encode_array(model, audio, "fp32")
    monkeypatch.setattr("snac_pipeline.codes.encode.ONE_BY_ONE", ())  # as on a GPU
    model.__class__ = Small
    model.room = audio.size * 2 // 3
    with pytest.raises(torch.OutOfMemoryError):
        encode_array(model, audio, "fp32")
    for halved, level in zip(encode_in_memory(model, audio, "fp32"), whole, strict=True):
        np.testing.assert_array_equal(halved, level)
    model.room = 1
    with pytest.raises(torch.OutOfMemoryError):
        encode_in_memory(model, audio, "fp32")


def test_a_window_that_was_read_before_is_not_hashed_again(corpus):
    """Only a file's first window is checked: the hash of an hour's recording costs its reading."""
    file = sorted(corpus.rglob("*.wav"))[-1]
    out = np.empty((1, 100), np.float32)
    assert read_window(Read([("another", str(file))], 100, 100), RATE, out, InOrder()) == [None]


def test_a_long_recording_that_has_to_be_decoded_from_its_beginning_is_so_twice_at_most(tmp_path, monkeypatch):
    """Once for its first window, which may be all of it, and once for all others."""
    file = tmp_path / "a.mp3"
    soundfile.write(file, np.random.default_rng(0).normal(size=10 * RATE) / 10, RATE)
    reads = [Read([(content_digest(file), str(file))], start, 4_800) for start in range(0, 10 * RATE, 4_800)]
    seconds, straight = [], decoding._float_blocks
    monkeypatch.setattr(decoding, "BLOCK_FRAMES", 1_000)
    monkeypatch.setattr(
        decoding, "_float_blocks", lambda *a: (seconds.append(len(b) / RATE) or b for b in straight(*a))
    )
    whole = read_audio(file, RATE)
    seconds.clear()
    windows = [audio[0] for audio, errors in InlineReader(RATE).read(reads) if errors == [None]]
    np.testing.assert_array_equal(np.concatenate(windows)[: len(whole)], whole)
    assert sum(seconds) < 11
