"""Tokenizers lose no id, load without this package, and merge only where they are told to."""

import itertools
import json
from typing import get_args

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tokens import SMALL, SPEECH
from tokenizers import Tokenizer

from snac_pipeline.errors import PipelineError
from snac_pipeline.tokens import LAYOUTS, Alphabet, TokenGeometry, make_layout
from snac_pipeline.tokens.bpe_tokenizer import LONGEST_TEXT, BpeTokenizer, Within, learn_merges
from snac_pipeline.tokens.merging import ENGINES
from snac_pipeline.tokens.run_length import LONGEST_RUN, collapse_runs, expand_runs


def learned(engine: str = "sentencepiece", layout: str = "frame", geometry: TokenGeometry = SMALL, **options):
    """On 60 utterances in which codes follow from each other, and frames are often repeated; with what it saw."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 3, (1500, sum(geometry.tokens_per_frame))).cumsum(1) % geometry.codebook_size
    frames = np.repeat(frames, rng.choice([1, 1, 1, 2, 9], 1500), axis=0)[:1800]
    borders = np.cumsum([0, *geometry.tokens_per_frame])
    codes = [frames[:, a:b].reshape(-1).astype(np.uint16) for a, b in itertools.pairwise(borders)]
    made = make_layout(layout, geometry, 0)
    ids, offsets = made.flatten(codes), np.arange(0, 1801, 30) * len(made.slots)
    return learn_merges(made, ids, offsets, 200, engine=engine, **options), ids, offsets


@pytest.mark.parametrize("size", [1, 28_672, 65_534, 65_535, 131_068])
def test_the_alphabet_is_distinct_private_use_characters(size):
    alphabet = Alphabet(size)
    text = alphabet.characters
    assert len(set(text)) == len(text) == size
    assert all(0xF0000 <= ord(c) <= 0x10FFFD and ord(c) & 0xFFFF < 0xFFFE for c in (text[0], text[-1]))
    assert (alphabet.symbols(text) == np.arange(size)).all()
    assert list(text) == sorted(text), "HF tokenizers sorts the alphabet: order must be that of the ids"


def test_what_stands_for_no_id_is_refused():
    with pytest.raises(PipelineError, match="id 5 is outside"):
        Alphabet(5).text(np.array([4, 5]))
    for text in ("a", chr(0xF0005), chr(0xFFFFE), chr(0x100000)):
        with pytest.raises(PipelineError, match="stands for no id"):
            Alphabet(5).symbols(text)
    with pytest.raises(PipelineError, match="does not fit"):
        Alphabet(131_069)


@pytest.fixture(scope="module", params=list(ENGINES))
def of_speech(request, tmp_path_factory):
    """Both stock files of a tokenizer over 28,672 ids of which it saw few, and the text of all ids."""
    folder = tmp_path_factory.mktemp("stock")
    bpe, _, _ = learned(request.param, geometry=SPEECH)
    assert bpe.merges > 50
    bpe.save(folder)
    mapping = json.loads((folder / "alphabet.json").read_text())["alphabet"]["ranges"][0]
    first = int(mapping["first_code_point"][2:], 16)
    return folder, bpe, "".join(chr(first + symbol) for symbol in range(mapping["last_symbol"] + 1))


def test_a_stock_tokenizer_returns_every_id(of_speech):
    folder, bpe, text = of_speech
    stock = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert stock.get_vocab_size() == 28_672 + bpe.merges
    for way in (text, text[::-1]):
        assert stock.decode(stock.encode(way).ids) == way
    assert [stock.token_to_id(text[symbol]) for symbol in (0, 4096, 28_671)] == [0, 4096, 28_671]


def test_stock_sentencepiece_returns_every_id_and_has_the_same_ones(of_speech):
    folder, bpe, text = of_speech
    stock = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    assert stock.get_piece_size() == bpe.vocabulary_size + 1
    assert (stock.unk_id(), stock.bos_id(), stock.eos_id()) == (bpe.vocabulary_size, -1, -1)
    for way in (text, text[::-1]):
        assert stock.decode(stock.encode(way)) == way
    vocabulary = [*bpe.alphabet.characters, *bpe.entries]
    assert [stock.id_to_piece(entry) for entry in range(len(vocabulary))] == vocabulary


@pytest.mark.slow
def test_transformers_loads_the_folder_as_it_is(of_speech):
    """Slow: importing transformers takes ten seconds."""
    from transformers import AutoTokenizer

    folder, bpe, text = of_speech
    stock = AutoTokenizer.from_pretrained(folder)
    assert len(stock) == bpe.vocabulary_size
    for way in (text, text[::-1], text[:4096] * 2):
        ids = stock(way)["input_ids"]
        assert ids == bpe.tokenizer.encode(way).ids
        assert stock.decode(ids) == way


SMALL_ONES = {
    (engine, run_length): learned(engine, run_length=run_length)[0]
    for engine, run_length in itertools.product(ENGINES, (False, True))
}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_encoding_and_decoding_lose_nothing(data):
    """Any ids of any utterances, with every engine, with and without run lengths; both files split alike."""
    engine, run_length = data.draw(st.sampled_from(sorted(SMALL_ONES)))
    bpe = SMALL_ONES[engine, run_length]
    code = st.integers(0, 15)
    frame = st.lists(code, min_size=7, max_size=7)
    frames = data.draw(st.lists(st.tuples(frame, st.integers(1, 200 if run_length else 3)), max_size=6))
    rows = [row for row, times in frames for _ in range(times)]
    ids = (np.array(rows, np.int64).reshape(-1, 7) + np.arange(7) * 16).reshape(-1)
    cut = data.draw(st.integers(0, len(rows))) * 7
    entries, borders = bpe.encode(ids, np.array([0, cut, cut, ids.size]))
    pieces = [bpe.decode(entries[start:stop]) for start, stop in itertools.pairwise(borders)]
    assert [list(piece) for piece in pieces] == [list(ids[:cut]), [], list(ids[cut:])]


@pytest.mark.parametrize("engine", ENGINES)
def test_sentencepiece_and_tokenizers_split_speech_alike(engine, tmp_path):
    bpe, ids, offsets = learned(engine)
    bpe.save(tmp_path)
    stock = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    entries, borders = bpe.encode(ids, offsets)
    assert entries.size < ids.size / 2
    for row, (start, stop) in enumerate(itertools.pairwise(offsets)):
        assert stock.encode(bpe.alphabet.text(ids[start:stop])) == entries[borders[row] : borders[row + 1]].tolist()


EVERY_WAY = [
    (layout, engine, within, run_length)
    for layout, engine, within, run_length in itertools.product(LAYOUTS, ENGINES, get_args(Within), (False, True))
    if (layout, within) != ("parallel", "frame")  # refused, see below
]


@pytest.mark.parametrize(("layout", "engine", "within", "run_length"), EVERY_WAY)
def test_stock_files_of_every_way_lose_nothing_and_split_alike(layout, engine, within, run_length, tmp_path):
    bpe, ids, offsets = learned(engine, layout, within=within, run_length=run_length)
    bpe.save(tmp_path)
    stock = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    other = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    entries, borders = bpe.encode(ids, offsets)
    symbols, symbol_borders = bpe.symbols(ids, offsets)
    for row, (start, stop) in enumerate(itertools.pairwise(borders)):
        text = bpe.alphabet.text(symbols[symbol_borders[row] : symbol_borders[row + 1]])
        mine = entries[start:stop].tolist()
        assert stock.encode(text).ids == other.encode(text) == mine
        assert stock.decode(mine) == other.decode(mine) == text
        assert (bpe.decode(entries[start:stop]) == ids[offsets[row] : offsets[row + 1]]).all()
    every = bpe.alphabet.characters
    assert stock.decode(stock.encode(every).ids) == other.decode(other.encode(every)) == every


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "engine", "within", "run_length"), EVERY_WAY)
def test_transformers_splits_every_way_alike(layout, engine, within, run_length, tmp_path):
    from transformers import AutoTokenizer

    bpe, ids, offsets = learned(engine, layout, within=within, run_length=run_length)
    bpe.save(tmp_path)
    stock = AutoTokenizer.from_pretrained(tmp_path)
    text = bpe.alphabet.text(bpe.symbols(ids, offsets[[0, -1]])[0])
    found = stock(text)["input_ids"]
    assert found == bpe.encode(ids, offsets[[0, -1]])[0].tolist() and stock.decode(found) == text


def test_both_engines_learn_nearly_the_same():
    of_one, of_other = (set(SMALL_ONES[engine, False].entries) for engine in ENGINES)
    assert len(of_one & of_other) > 0.9 * len(of_one)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_pair_that_was_there_once_is_not_learned(engine):
    made = make_layout("coarse_only", TokenGeometry((1,), 16, 0.1), 0)
    ids = np.array([1, 2, 3, 1, 2, 4, 9, 8])
    bpe = learn_merges(made, ids, np.array([0, 3, 6, 8]), 10, engine=engine)
    assert [list(bpe.alphabet.symbols(entry)) for entry in bpe.entries] == [[1, 2]]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("layout", ["frame", "level_offsets"])
def test_merges_within_a_frame_never_cross_one(engine, layout):
    bpe, ids, offsets = learned(engine, layout, within="frame")
    assert bpe.merges > 20
    entries, _ = bpe.encode(ids, offsets)
    _, lengths = bpe.shapes()
    starts = np.cumsum(lengths[entries]) - lengths[entries]
    assert (starts // 7 == (starts + lengths[entries] - 1) // 7).all()
    assert lengths.max() > 2


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("layout", ["frame", "level_offsets", "parallel"])
def test_merges_within_a_level_never_mix_levels(engine, layout):
    bpe, _, _ = learned(engine, layout, within="level")
    level_of = {slot.block: slot.level for slot in bpe.layout.slots}
    levels = [{level_of[symbol // 16] for symbol in bpe.alphabet.symbols(entry)} for entry in bpe.entries]
    assert all(len(one) == 1 for one in levels)
    assert bool(levels) == (layout != "parallel"), "neighbours there are always of different levels"


def test_without_limits_merges_do_cross_frames_and_levels():
    bpe, _, _ = learned()
    _, lengths = bpe.shapes()
    assert lengths.max() > 7


def test_frames_that_ids_do_not_tell_apart_are_refused():
    with pytest.raises(PipelineError, match="those of parallel do not"):
        learned(layout="parallel", within="frame")


@pytest.mark.parametrize("engine", ENGINES)
def test_utterances_of_any_length_can_be_learned_from(engine):
    """More than the 65,535 symbols at which sentencepiece gives up."""
    made = make_layout("coarse_only", TokenGeometry((1,), 16, 0.1), 0)
    ids = np.random.default_rng(0).integers(0, 16, 70_000 + LONGEST_TEXT // 2)
    bpe = learn_merges(made, ids, np.array([0, ids.size]), 5, engine=engine)
    assert bpe.merges == 5


@pytest.mark.parametrize("repeats", [1, 2, LONGEST_RUN, LONGEST_RUN + 1, LONGEST_RUN + 2, 3 * LONGEST_RUN + 1])
def test_a_run_takes_one_symbol_for_every_so_many_repeats(repeats):
    frames = np.repeat([[1, 2, 3], [4, 5, 6]], [repeats, 1], axis=0)
    symbols, borders = collapse_runs(frames.reshape(-1), np.array([0, frames.size]), 3, 100)
    assert symbols.size == 6 + -(-(repeats - 1) // LONGEST_RUN) == borders[-1]
    assert (expand_runs(symbols, 3, 100) == frames.reshape(-1)).all()


def test_runs_end_with_the_utterance():
    symbols, borders = collapse_runs(np.full(10, 7), np.array([0, 4, 4, 10]), 1, 100)
    assert symbols.tolist() == [7, 102, 7, 104]
    assert borders.tolist() == [0, 2, 2, 4]


@pytest.mark.parametrize("symbols", [[100, 1, 2], [1, 100, 2], [1, 2, 100, 3]])
def test_run_lengths_out_of_place_are_refused(symbols):
    with pytest.raises(PipelineError, match="whole coarse frame"):
        expand_runs(np.array(symbols), 2, 100)


def test_an_empty_tokenizer_is_the_alphabet():
    bpe = BpeTokenizer(make_layout("frame", SMALL, 0), False, ())
    ids = np.arange(112)
    assert (bpe.decode(bpe.encode(ids, np.array([0, 112]))[0]) == ids).all()
