"""Verifying: on a CPU bit for bit, on a GPU but for ties and what follows from them; and everything wrong is listed."""

import made_codes as made
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from geometries import PUBLISHED, build, thin

from snac_pipeline.codec import SNAC
from snac_pipeline.codes.parts import QUARANTINE, encode_quarantine, part_files, part_metadata
from snac_pipeline.codes.precision import TOLERANCES, Tolerance
from snac_pipeline.codes.verify import Differences, check_codes, compare_sample, judge
from snac_pipeline.files import write_parquet

SPEC = thin(PUBLISHED["24khz"])
STRIDES = (4, 2, 1)
GPU = TOLERANCES["fp32"]


# ---- the rule ------------------------------------------------------------------------------------------------------


def levels(frames: int = 2, **changed: int) -> list[np.ndarray]:
    """Codes of zeros; changed: l<level>_<position> = code."""
    codes = [np.zeros(frames * 4 // stride, dtype=np.int64) for stride in STRIDES]
    for place, code in changed.items():
        level, position = place[1:].split("_")
        codes[int(level)][int(position)] = code
    return codes


def farther(**places: float) -> list[np.ndarray]:
    """Excesses of 1 (no tie), but for those given."""
    excess = [np.ones(len(level)) for level in levels()]
    for place, value in places.items():
        level, position = place[1:].split("_")
        excess[int(level)][int(position)] = value
    return excess


def test_equal_codes_have_no_differences():
    assert judge(levels(), levels(), farther(), STRIDES, GPU.tie) == Differences(tokens=14)


def test_a_tie_and_the_finer_tokens_of_its_time_are_told_apart():
    cached = levels(l0_1=3, l1_2=5, l2_4=1, l2_7=1)  # frame 1: positions 2..3 of level 1, 4..7 of level 2
    found = judge(cached, levels(), farther(l0_1=1e-6), STRIDES, GPU.tie)
    assert found == Differences(tokens=14, ties=1, following=3, wrong=0)


def test_a_finer_token_at_another_time_does_not_follow():
    cached = levels(l0_1=3, l2_3=1)
    assert judge(cached, levels(), farther(l0_1=1e-6), STRIDES, GPU.tie) == Differences(14, ties=1, wrong=1)


def test_a_coarser_token_never_follows_a_finer_one():
    cached = levels(l0_0=3, l2_0=1)
    assert judge(cached, levels(), farther(l2_0=0.0), STRIDES, GPU.tie) == Differences(14, following=1, wrong=1)


@pytest.mark.parametrize("excess, ties", [(-1e-9, 1), (0.0, 1), (1e-5, 1), (1.1e-5, 0), (np.inf, 0)])
def test_two_codes_are_a_tie_up_to_the_tolerance(excess, ties):
    found = judge(levels(l1_0=3), levels(), farther(l1_0=excess), STRIDES, GPU.tie)
    assert (found.ties, found.wrong) == (ties, 1 - ties)


def test_strides_need_not_nest():
    cached, alone = [[1], [0, 0, 0], [0, 0]], [[0], [0, 0, 0], [0, 0]]
    cached, alone = ([np.array(level) for level in codes] for codes in (cached, alone))
    cached[1][2] = 4
    assert judge(cached, alone, [np.zeros(1), np.ones(3), np.ones(2)], (6, 2, 3), 1e-5) == Differences(6, 1, 1, 0)


@pytest.mark.parametrize(
    "found, on_cpu, on_gpu",
    [
        (Differences(100_000), True, True),
        (Differences(100, ties=1, following=6), False, True),  # of so few, one is more than the share
        (Differences(100_000, ties=10, following=70), False, True),
        (Differences(100_000, ties=11), False, False),
        (Differences(100_000, wrong=1), False, False),
    ],
)
def test_on_a_cpu_none_may_differ_on_a_gpu_few_ties(found, on_cpu, on_gpu):
    assert (found.allowed(None), found.allowed(GPU)) == (on_cpu, on_gpu)


def test_the_rate_counts_what_differs_of_itself():
    assert Differences(1000, ties=2, following=10, wrong=3).rate == pytest.approx(5e-3)
    assert Tolerance(1e-5, 1e-4) == GPU


# ---- encoding again ------------------------------------------------------------------------------------------------


def rewritten(parts, digest, change, **metadata) -> None:
    """The part that holds `digest`, with `change` made to the row's codes: whole and readable, but wrong."""
    file = made.places(parts)[digest]
    schema = pq.read_schema(file)
    rows = pq.read_table(file).to_pylist()
    change(next(row for row in rows if row["digest"] == digest))
    table = pa.Table.from_pylist(rows, schema=schema).replace_schema_metadata({**part_metadata(file), **metadata})
    write_parquet(file, table)


def other_code(level: int, position: int):
    def change(row):
        row[f"codes_{level}"][position] = (row[f"codes_{level}"][position] + 1) % SPEC.codebook_size

    return change


def test_verifying_finds_one_changed_token(own, cached, codec):
    _, _, parts = own
    digests = cached[1]["digest"].to_list()
    model = SNAC.from_pretrained(codec)
    assert compare_sample(model, parts, cached[1], digests, 99)["exact"]
    rewritten(parts, digests[3], other_code(2, 1))
    found = compare_sample(model, parts, cached[1], digests, 99)
    assert (found["mismatched"], found["ties"], found["exact"]) == (1, 0, False)


def test_verifying_finds_codes_of_another_length(own, cached, codec):
    digest = cached[1]["digest"][5]
    rewritten(own[2], digest, lambda row: row["codes_1"].pop())
    assert not compare_sample(SNAC.from_pretrained(codec), own[2], cached[1], [digest], 1)["exact"]


@pytest.fixture(scope="module")
def twins(tmp_path_factory, corpus):
    """A codec of which code 60 of each level is almost code 0, and its cache: (model, utterances, home, parts)."""
    model = build(SPEC)
    with torch.no_grad():
        for quantizer in model.quantizer.quantizers:
            quantizer.codebook.weight[60] = quantizer.codebook.weight[0] * 3  # of one direction, so equally near
    home = tmp_path_factory.mktemp("twins")
    utterances = made.utterances_of(corpus, home)
    codec = model.save_pretrained(home / "codec")
    result = made.cache(codec, utterances, home)
    return SNAC.from_pretrained(codec), utterances, home / "codes" / result["fingerprint"]


@pytest.mark.parametrize("batch_seconds", [60.0, 0.5], ids=["whole", "in chunks"])
def test_a_tie_made_on_a_gpu_is_allowed_and_another_code_is_not(twins, tmp_path, batch_seconds):
    model, utterances, parts = twins
    own = tmp_path / parts.name
    own.mkdir()
    for file in part_files(parts):
        (own / file.name).write_bytes(file.read_bytes())
    rows = made.all_rows(own)
    digest = max(d for d, codes in rows.items() if {0, 60} & set(codes[2]) and len(codes[2]) > 24)
    position = next(i for i, code in enumerate(rows[digest][2]) if code in (0, 60))

    def swap(row):
        row["codes_2"][position] = 60 - row["codes_2"][position]

    rewritten(own, digest, swap)
    strict = compare_sample(model, own, utterances, [digest], 1, batch_seconds)
    assert (strict["mismatched"], strict["ties"], strict["exact"]) == (1, 1, False)
    rewritten(own, digest, lambda row: None, device="cuda:0")
    lenient = compare_sample(model, own, utterances, [digest], 1, batch_seconds)
    assert (lenient["ties"], lenient["exact"]) == (1, True) and lenient["rate"] == 1 / lenient["tokens"]
    rewritten(own, digest, lambda row: row["codes_2"].__setitem__(position, 30))
    assert not compare_sample(model, own, utterances, [digest], 1, batch_seconds)["exact"]


# ---- the parts -----------------------------------------------------------------------------------------------------


def test_the_check_finds_ranges_and_lengths_and_nothing_else(own, cached):
    _, utterances, _ = cached
    parts = own[2]
    assert check_codes(parts, utterances, SPEC) == []
    high, short, long = utterances["digest"][0], utterances["digest"][-1], utterances["digest"][4]
    rewritten(parts, high, lambda row: row["codes_1"].__setitem__(0, SPEC.codebook_size))
    rewritten(parts, short, lambda row: row["codes_0"].append(0))
    rewritten(parts, long, lambda row: row.__setitem__("num_samples", row["num_samples"] - 1))
    place = made.places(parts)
    mend = "delete it and run `snac-pipeline cache`"
    assert set(check_codes(parts, utterances, SPEC)) == {
        f"{place[short]}: level 0 has not the tokens of its duration: {short}; {mend}",
        f"{place[high]}: level 1 has a code above {SPEC.codebook_size - 1}: {high}; {mend}",
        f"{place[long]}: another length than the manifest's: {long}; {mend}",
    }


def test_the_check_lists_every_damaged_part_and_goes_on(own, cached):
    parts, utterances = own[2], cached[1]
    first, second, *_ = part_files(parts)
    data = bytearray(first.read_bytes())
    column = pq.read_metadata(first).row_group(0).column(4)
    data[column.data_page_offset + column.total_compressed_size - 1] ^= 1
    first.write_bytes(data)
    second.write_bytes(second.read_bytes()[:100])
    errors = check_codes(parts, utterances, SPEC)
    assert len(errors) == 3 and "utterances are neither cached nor in the quarantine" in errors[2]
    for file, error in zip((first, second), errors[:2], strict=True):
        assert error.startswith(f"{file} is damaged") and "delete it" in error


def test_every_utterance_is_cached_or_set_aside_and_not_both(own, cached, codec):
    parts, utterances = own[2], cached[1]
    lost = part_files(parts)[0]
    gone = [digest for digest, part in made.places(parts).items() if part == lost]
    lost.unlink()
    [error] = check_codes(parts, utterances, SPEC)
    assert error.startswith(f"{len(gone)} of {len(utterances)} utterances are neither") and min(gone) in error

    def set_aside(digests):
        columns = {"digest": digests, **{name: ["?"] * len(digests) for name in ("file", "reason", "stage")}}
        write_parquet(parts / "quarantine.parquet", pl.DataFrame(columns, schema=QUARANTINE).to_arrow())

    set_aside(gone)
    assert check_codes(parts, utterances, SPEC) == []
    both = next(iter(made.places(parts)))
    set_aside([*gone, both])
    [error] = check_codes(parts, utterances, SPEC)
    assert error.startswith("1 utterances are cached and also in the quarantine") and both in error
    made.cache(codec, utterances, own[0])  # as the error says
    assert check_codes(parts, utterances, SPEC) == []
    assert list(encode_quarantine(parts)["digest"]) == sorted(gone)


def test_a_part_of_another_codec_is_told(own, cached):
    [error, *_] = check_codes(own[2], cached[1], thin(PUBLISHED["32khz"]))
    assert "it has not the columns of this codec" in error
