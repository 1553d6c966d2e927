"""Files of codes say all that is needed to decode them, in every format, and are those of the code cache."""

import dataclasses
import re
import warnings
import weakref

import made_codes as made
import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from geometries import PUBLISHED, build, thin
from made_sound import length, write

from snac_pipeline.codec import SNAC
from snac_pipeline.codes.parts import part_files
from snac_pipeline.tool.codes_files import CODES_EXTENSIONS, About, Coded, Identity, read_codes, write_codes
from snac_pipeline.tool.convert import join_codes

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import snac

FORMATS = [extension[1:] for extension in CODES_EXTENSIONS]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("stereo", ["mix", "channels"])
def test_codes_survive_every_format_and_decode_to_the_reconstruction(run, here, model, form, stereo):
    write(here / "speech" / "a.wav", 5557, 22_050, channels=2)
    assert run("encode", "speech", "--to", "codes", "--format", form, "--stereo", stereo).status == 0
    [coded] = read_codes(f"codes/a.{form}", "")
    assert coded.levels[0].shape[0] == (1 if stereo == "mix" else 2)
    assert coded.about.source_samples == 5557 and coded.about.source_rate == 22_050
    assert coded.about.num_samples == 6048 and coded.about.name == "speech/a.wav"
    Identity.of(model).check(coded)
    for rate in (24_000, 48_000):
        assert run("decode", "codes", "--to", f"out{rate}", "--rate", rate).status == 0
        assert run("reconstruct", "speech", "--to", f"again{rate}", "--rate", rate, "--stereo", stereo).status == 0
        out, again = (here / f"{folder}{rate}" / "a.wav" for folder in ("out", "again"))
        assert length(out) == length(again) == (round(5557 * rate / 22_050), rate, coded.levels[0].shape[0])
        np.testing.assert_array_equal(soundfile.read(out)[0], soundfile.read(again)[0])


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_written_is_what_is_read(tmp_path, model, form):
    levels = [np.arange(2 * n, dtype=np.uint16).reshape(2, n) % 61 for n in (3, 6, 12)]
    about = About("ein\n\\Name", "d" * 32, 6000, 24_000, 12_001, 48_000, "f" * 16, "w" * 32, model.spec.to_dict())
    write_codes(tmp_path / f"codes.{form}", Coded(levels, about))
    [read] = read_codes(tmp_path / f"codes.{form}", "")
    assert read.about == about
    for level, wanted in zip(read.levels, levels, strict=True):
        np.testing.assert_array_equal(level, wanted)


@pytest.mark.parametrize("name", ["a\u2028b\x85c\x0bd", 'a "b": c', "# channel", "\ufeffa"])
@pytest.mark.parametrize("form", FORMATS)
def test_any_name_is_kept(tmp_path, form, name, model):
    levels = [np.ones((2, n), np.uint16) for n in (1, 2, 4)]
    about = About(name, "d" * 32, 2048, 24_000, 2048, 24_000, "f" * 16, "w" * 32, model.spec.to_dict())
    write_codes(tmp_path / f"codes.{form}", Coded(levels, about))
    [read] = read_codes(tmp_path / f"codes.{form}", "")
    assert read.about == about and read.levels[0].shape == (2, 1)


def test_remarks_and_what_editors_add_change_nothing(tmp_path):
    plain = "# num_samples: 2000\n7 | 1 2 | 3 4 5 6\n# channel\n8 | 1 2 | 3 4 5 6\n"
    remarked = "# my remark: hello\r\n#\r\n  # indented\r\n## note: {}\r\n# colour: 3\r\n" + plain.replace("\n", "\r\n")
    (tmp_path / "plain.txt").write_text(plain)
    (tmp_path / "remarked.txt").write_bytes(remarked.encode("utf-8-sig"))
    [wanted], [read] = (read_codes(tmp_path / f"{name}.txt", "here") for name in ("plain", "remarked"))
    assert read.about == wanted.about == About("here", num_samples=2000)
    for level, other in zip(read.levels, wanted.levels, strict=True):
        np.testing.assert_array_equal(level, other)


def test_codes_are_joined_without_keeping_the_chunks_they_came_in():
    """What is kept between large tensors holds memory open: 350 MB became 570 in half an hour of audio."""
    whole = [torch.arange(2 * n * 50).reshape(2, -1) % 61 for n in (1, 2, 4)]
    alive = []

    def chunks():
        for levels in zip(*(level.split(level.shape[1] // 50, dim=1) for level in whole), strict=True):
            chunk = [level.clone() for level in levels]
            alive.extend(map(weakref.ref, chunk))
            yield chunk
            del chunk
            assert sum(level() is not None for level in alive) <= 2 * 3

    for level, wanted in zip(join_codes(chunks()), whole, strict=True):
        assert level.dtype == np.uint16 and level.flags.c_contiguous
        np.testing.assert_array_equal(level, wanted.numpy())
    assert len(alive) == 150


def test_text_has_a_line_for_each_coarse_frame(run, here, model):
    write(here / "a.wav", 5000)
    assert run("encode", "a.wav", "--to", "a.txt").status == 0
    lines = (here / "a.txt").read_text().splitlines()
    assert '# name: "a.wav"' in lines and "# num_samples: 5000" in lines
    frames = [line for line in lines if not line.startswith("#")]
    assert len(frames) == 3
    assert all(re.fullmatch(r"\d+ \| \d+ \d+ \| \d+ \d+ \d+ \d+", line) for line in frames)


def test_codes_are_those_of_the_code_cache_with_its_digests_and_fingerprint(run, here, codec):
    speech = made.make_corpus(here / "speech", (0.3, 0.5, 1.1))
    utterances = made.utterances_of(speech, here / "home")
    fingerprint = made.cache(codec, utterances, here / "home")["fingerprint"]
    assert run("encode", "speech", "--to", "codes").status == 0
    cached = made.all_rows(here / "home" / "codes" / fingerprint)
    found = {}
    for file in (here / "codes").rglob("*.parquet"):
        assert pq.read_schema(file).metadata[b"fingerprint"].decode() == fingerprint
        [coded] = read_codes(file, "")
        found[coded.about.digest] = [level[0] for level in coded.levels]
    made.assert_same_codes(found, cached)


def test_codes_and_sound_are_those_of_the_published_package(run, here):
    """Where the two overlap: one head, and sound without noise, which upstream's decoder draws anew each time."""
    spec = thin(PUBLISHED["24khz"], noise=False)
    ours = build(spec)
    theirs = snac.SNAC(**spec.to_dict()).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    folder, file = ours.save_pretrained(here / "plain"), write(here / "a.wav", 9001)
    assert run("encode", "a.wav", "--to", "a.npz", model=folder).status == 0
    assert run("reconstruct", "a.wav", "--to", "b.wav", model=folder).status == 0
    with torch.inference_mode():
        audio, codes = theirs(torch.from_numpy(soundfile.read(file, dtype="float32")[0])[None, None])
    for level, wanted in zip(read_codes("a.npz", "")[0].levels, codes, strict=True):
        np.testing.assert_array_equal(level, wanted.numpy())
    np.testing.assert_allclose(soundfile.read(here / "b.wav")[0], audio[0, 0].numpy(), atol=1e-6)


def test_parts_of_the_code_cache_can_be_decoded(run, here, codec):
    speech = made.make_corpus(here / "speech", (0.3, 0.5, 1.1))
    utterances = made.utterances_of(speech, here / "home")
    folder = here / "home" / "codes" / made.cache(codec, utterances, here / "home", part_utterances=9)["fingerprint"]
    assert run("decode", folder, "--to", "out", "--rate", 48_000).status == 0
    lengths = {file.stem: length(file) for file in (here / "out").rglob("*.wav")}
    wanted = {d: (2 * round(1.5 * n), 48_000, 1) for d, n in utterances.select("digest", "num_frames").rows()}
    assert lengths == wanted
    assert "utterances of the code cache" in run("decode", part_files(folder)[0], "--to", "one.wav").error


def test_recordings_that_share_a_file_are_told_apart_by_digest_or_refused(run, here):
    for seed, name in enumerate(("a", "b")):
        write(here / f"{name}.wav", 3000 + seed, seed=seed)
        assert run("encode", f"{name}.wav", "--to", f"{name}.parquet").status == 0
    both = pl.concat([pl.read_parquet(here / f"{name}.parquet") for name in ("a", "b")])
    both.write_parquet(here / "both.parquet")
    assert run("decode", "both.parquet", "--to", "out").status == 0
    lengths = {digest: 3000 + seed for seed, digest in enumerate(both["digest"])}
    assert {file.stem: length(file)[0] for file in (here / "out" / "both").iterdir()} == lengths
    for digest in (None, "d" * 32):
        both.with_columns(digest=pl.lit(digest, pl.String)).write_parquet(here / "odd.parquet")
        said = run("decode", "odd.parquet", "--to", "out")
        assert said.status == 2 and "recordings with one digest or with none" in said.error


@pytest.mark.parametrize("form", FORMATS)
def test_codes_of_another_model_are_refused(run, here, codec, form):
    write(here / "a.wav")
    other = build(SNAC.from_pretrained(codec).spec, seed=1).save_pretrained(here / "other")
    assert run("encode", "a.wav", "--to", f"a.{form}", model=other).status == 0
    said = run("decode", f"a.{form}", "--to", "b.wav")
    assert said.status == 2 and "these are codes of another model" in said.error
    assert not (here / "b.wav").exists()


def test_a_decoder_trained_from_the_model_decodes_its_codes(run, here, codec):
    """Phases change the decoder, never what codes mean."""
    write(here / "a.wav")
    trained = SNAC.from_pretrained(codec)
    for parameter in trained.decoder.parameters():
        parameter.data *= 1.01
    trained.save_pretrained(here / "trained")
    assert run("encode", "a.wav", "--to", "a.parquet").status == 0
    assert run("decode", "a.parquet", "--to", "b.wav", model=here / "trained").status == 0


def test_codes_without_a_word_about_them_are_taken_for_the_model_s_own(run, here, model):
    (here / "a.txt").write_text("7 | 1 2 | 3 4 5 6\n\n8 | 1 2 | 3 4 5 60\n")
    np.savez(here / "b.npz", codes_0=[7, 8], codes_1=[1, 2, 1, 2], codes_2=[3, 4, 5, 6, 3, 4, 5, 60])
    for name in ("a.txt", "b.npz"):
        assert run("decode", name, "--to", f"{name}.wav").status == 0
        assert length(here / f"{name}.wav") == (4096, 24_000, 1)
    assert (here / "a.txt.wav").read_bytes() == (here / "b.npz.wav").read_bytes()


def test_generate_decodes_given_codes_and_samples_them(run, here):
    (here / "a.txt").write_text("7 | 1 2 | 3 4 5 6\n")
    assert run("generate", "--codes", "a.txt", "--to", "given.wav").status == 0
    assert length(here / "given.wav")[0] == 2048
    for name, chosen in {
        "one": ("--seed", 1),
        "again": ("--seed", 1),
        "like": ("--like", "a.txt", "--seed", 1),
    }.items():
        assert run("generate", "--seconds", 0.3, "--to", f"{name}.wav", *chosen).status == 0
        assert length(here / f"{name}.wav") == (7200, 24_000, 1)
    one, again, like = ((here / f"{name}.wav").read_bytes() for name in ("one", "again", "like"))
    assert one == again != like
    (here / "four.txt").write_text("7 | 1 2 | 3 4 5 6\n" * 4)  # the one frame there is, as often as it fits
    assert run("decode", "four.txt", "--to", "four.wav", "--seed", 1).status == 0
    np.testing.assert_array_equal(soundfile.read(here / "four.wav")[0][:7200], soundfile.read(here / "like.wav")[0])


def test_attention_windows_are_whole(run, here):
    windowed = build(thin(PUBLISHED["32khz"])).save_pretrained(here / "windowed")
    (here / "a.txt").write_text("1 | 1 2 | 1 2 3 4 | 1 2 3 4 5 6 7 8\n")
    assert (
        "whole attention windows; give a multiple of 4" in run("decode", "a.txt", "--to", "a.wav", model=windowed).error
    )
    (here / "b.txt").write_text("1 | 1 2 | 1 2 3 4 | 1 2 3 4 5 6 7 8\n" * 4)
    assert run("decode", "b.txt", "--to", "b.wav", model=windowed).status == 0


def damaged(coded: Coded, **changes) -> Coded:
    return dataclasses.replace(coded, about=dataclasses.replace(coded.about, **changes))


def test_codes_that_do_not_fit_the_length_they_claim_are_refused(run, here):
    write(here / "a.wav", 5000)
    assert run("encode", "a.wav", "--to", "a.npz").status == 0
    [coded] = read_codes("a.npz", "")
    write_codes(here / "b.npz", damaged(coded, num_samples=50_000))
    assert "3 coarse frames for 50000 samples" in run("decode", "b.npz", "--to", "b.wav").error
    write_codes(here / "c.npz", damaged(coded, sample_rate=32_000))
    assert "codes at 32000 Hz; this codec works at 24000 Hz" in run("decode", "c.npz", "--to", "c.wav").error
