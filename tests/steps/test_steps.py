"""A step finds its result by what it was made from, and makes it again when just that changes."""

import shutil
from pathlib import Path

import made_codes as made
import matplotlib.image
import numpy as np
import pytest

from snac_pipeline.codec import SNAC
from snac_pipeline.codes.parts import part_files
from snac_pipeline.errors import PipelineError
from snac_pipeline.files import write_json, write_text
from snac_pipeline.steps.codes import base_codec, cache, codes_of, compact_codes, describe_codec, verify_codes
from snac_pipeline.steps.corpus import scan_corpus, split_corpora
from snac_pipeline.steps.tokens import analyze
from snac_pipeline.steps.training import decoder_results, decoder_run


def silent(event: dict) -> None:
    pass


def with_tokens(settings, **changes):
    return settings.model_copy(update={"tokens": settings.tokens.model_copy(update=changes)})


@pytest.mark.parametrize("what", ["statistics", "sequences", "bpe"])
def test_tokens_are_analysed_once(settings, what):
    settings = with_tokens(settings, merges=[20])
    first, again = (analyze(settings, what, silent) for _ in range(2))
    assert (first.pop("reused"), again.pop("reused")) == (False, True)
    assert first == again
    folder = settings.home / "tokens" / f"{what}-{first['version']}"
    assert first["folder"] == str(folder)
    assert all((folder / name).is_file() for name in first["files"])


def test_bpe_says_what_every_number_of_merges_does(settings):
    options = with_tokens(settings, merges=[4, 12], engine="huggingface", merge_within="frame", run_length=True,
                          bpe_layouts=["frame", "level_offsets"])  # fmt: skip
    result = analyze(options, "bpe", silent)
    ways = [(row["layout"], row["run_length"], row["merges"]) for row in result["sweep"]]
    assert ways == [(layout, run_length, merges) for layout in ("frame", "level_offsets")
                    for run_length, merges in ((False, 0), (True, 0), (True, 4), (True, 12))]  # fmt: skip
    assert result["compression_ratio_level_offsets"] >= 1 and result["bits_per_second_frame"] > 0
    assert (result["engine"], result["merges_asked"], result["held_out"]) == ("huggingface", 12, "the split val")
    page = Path(result["report"]).read_text().replace("&#39;", "'")
    assert all(line in page for line in result["recommendation"].splitlines())
    assert Path(result["bpe"]).name == "bpe.png"
    assert result["seconds"] > 0 and result["encoded_ids_per_second"] > 0


def test_statistics_are_those_of_the_cached_tokens(settings):
    model, _ = base_codec(settings)
    result = analyze(settings, "statistics", silent)
    compared = verify_codes(settings, ["made"], sample=10**6)
    assert result["tokens"] == compared["compared_tokens"] == 7 * 6 * (6 + 9)  # 7 a frame; 0.5 s: 6, 0.7 s: 9 frames
    assert compared["mismatched_tokens"] == 0
    assert result["hours"] * 3600 == pytest.approx(6 * (6 + 9) * model.spec.frame_seconds)


def test_settings_of_the_encoding_do_not_touch_the_statistics(settings):
    analyze(settings, "statistics", silent)
    analyze(with_tokens(settings, merges=[20]), "bpe", silent)
    other = with_tokens(settings, merges=[21], layout="level_offsets")
    assert analyze(other, "statistics", silent)["reused"] is True
    assert analyze(other, "bpe", silent)["reused"] is False


def test_splitting_again_moves_nobody(settings):
    first, again = split_corpora(settings), split_corpora(settings)
    assert first == again
    assert again["new_groups"] == 0
    assert again["train"] + again["val"] == 12 and again["val"] > 0


def test_a_codec_is_described_by_its_own_figures(settings):
    model, folder = base_codec(settings)
    described = describe_codec(model, settings.base_codec.source)
    assert described["source"] == str(folder)
    assert described["tokens_per_second"] == pytest.approx(7 * 24_000 / 2048)
    assert described["parameters"] == sum(p.numel() for p in SNAC.from_pretrained(folder).parameters())


def test_nothing_is_trained_yet_and_a_limit_is_a_run_of_its_own(settings):
    assert set(decoder_results(settings).values()) == {None}
    limited = settings.model_copy(update={"training": settings.training.model_copy(update={"limit": 2})})
    whole, few = decoder_run(settings, "decoder_24khz"), decoder_run(limited, "decoder_24khz")
    assert whole.folder != few.folder and len(few.train_rows) == 2
    assert decoder_run(settings, "decoder_24khz").folder == whole.folder


def test_a_decoder_by_a_recipe_that_is_none_any_more_asks_to_be_trained_again(settings, tmp_path):
    moved = settings.model_copy(update={"home": tmp_path})
    run = tmp_path / "runs" / "phase10-old"
    write_json(run / "result.json", {})
    write_json(tmp_path / "decoders" / "decoder_24khz.json", {"run": run.name})
    write_text(run / "recipe.yaml", "phase: phase10\nbatch_siz: 4\n")
    with pytest.raises(PipelineError, match=r"decoder_24khz was trained by .* train it again .*`batch_siz`"):
        decoder_run(moved, "decoder_24khz")


def with_caching(settings, **changes):
    return settings.model_copy(update={"caching": settings.caching.model_copy(update=changes)})


def test_codes_of_another_precision_are_used_by_every_later_step_and_their_agreement_is_told(settings, tmp_path):
    shutil.copytree(settings.home, tmp_path / "home")
    settings = settings.model_copy(update={"home": tmp_path / "home"})
    rounded = with_caching(settings, precision="bf16")
    folder = codes_of(rounded, base_codec(rounded)[0])
    with pytest.raises(PipelineError, match="no codes"):
        analyze(rounded, "statistics", silent)
    result = cache(rounded, ["made"], False, silent)  # as the asset does
    assert (result["precision"], result["fingerprint"], result["encoded"]) == ("bf16", folder.name, 12)
    exact, given = (made.all_rows(codes_of(s, base_codec(s)[0])) for s in (settings, rounded))
    sample = sorted(exact)[: rounded.caching.verify]
    for k in range(3):
        same = np.concatenate([exact[digest][k] == given[digest][k] for digest in sample])
        assert result[f"fp32_agreement_level_{k}"] == same.mean() > 0.5
    file = folder / "agreement.json"
    written = file.stat().st_mtime_ns
    again = cache(rounded, ["made"], True, silent)
    assert (again["encoded"], again["fp32_agreement_level_2"]) == (0, result["fp32_agreement_level_2"])
    assert file.stat().st_mtime_ns == written, "measured once"
    assert verify_codes(rounded, ["made"], 12)["exact"]
    assert "fp32_agreement_level_0" not in cache(settings, ["made"], True, silent)

    assert describe_codec(base_codec(rounded)[0], "", rounded.caching.precision)["fingerprint"] == folder.name
    ours, others = decoder_run(rounded, "decoder_24khz"), decoder_run(settings, "decoder_24khz")
    assert ours.inputs.codes_fingerprint == folder.name and ours.folder != others.folder
    first, second = (analyze(s, "statistics", silent) for s in (settings, rounded))
    assert first["version"] != second["version"]


def test_compacting_is_told_first_then_done_once(settings, tmp_path):
    shutil.copytree(settings.home / "codes", tmp_path / "codes")
    own = with_caching(settings, part_utterances=100).model_copy(update={"home": tmp_path})
    folder = codes_of(own, base_codec(own)[0])
    before, parts = made.all_rows(folder), part_files(folder)
    told = compact_codes(own, dry_run=True)
    assert (told["merged"] >= len(parts) > 1) and told["done"] is False and part_files(folder) == parts
    assert {**compact_codes(own, dry_run=False), "done": False} == told
    assert len(part_files(folder)) == 1
    made.assert_same_codes(made.all_rows(folder), before)
    assert compact_codes(own, dry_run=False)["merged"] == 0


def test_recordings_and_their_division_have_pictures(settings):
    for picture in (scan_corpus(settings, "made", None, silent)["durations"], split_corpora(settings)["sides"]):
        pixels = matplotlib.image.imread(picture)[..., :3].reshape(-1, 3)
        colours, counts = np.unique(pixels.round(1), axis=0, return_counts=True)
        assert len(colours) > 3 and counts.max() < 0.95 * len(pixels), "blank"


def test_a_corpus_whose_recordings_are_all_in_another_one_has_codes_of_nothing(settings, tmp_path):
    [made_corpus] = settings.corpora.values()
    settings = settings.model_copy(
        update={"home": tmp_path / "home", "corpora": {"made": made_corpus, "twin": made_corpus}}
    )
    for name in settings.corpora:
        scan_corpus(settings, name, None, silent)
    corpora = cache(settings, list(settings.corpora), False, silent)["corpora"]
    assert (corpora["made"]["utterances"], corpora["twin"]["utterances"]) == (12, 0)
    assert corpora["made"].keys() == corpora["twin"].keys()
