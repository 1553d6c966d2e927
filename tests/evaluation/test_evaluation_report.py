"""The report as a reader meets it: in a browser, from the disk, without a network."""

import dataclasses
import json

import polars as pl
import pytest
import soundfile
from PIL import Image
from pixels import SHADES

from snac_pipeline.evaluation import (
    METRICS,
    Metric,
    ReportContext,
    choose_examples,
    code_metrics,
    codebook_use,
    compare,
    listening_examples,
    render_report,
    summarise,
    write_report,
)  # fmt: skip

PLUGIN = Metric("mos", "Predicted MOS", lambda *_: 0.0, True, "MOS", 2, package="no_such_package")
REGISTRY = (*(metric for metric in METRICS if metric.package is None), PLUGIN)
CURVE = [{"step": i, "loss": 9 / (i + 1), "val": 10 / (i + 1) if i % 5 == 0 else None} for i in range(20)]
NASTY = "phase <script>alert(1)</script> $10$ & \"co\""  # fmt: skip


@pytest.fixture(scope="module")
def evaluation(spec, contestants, utterances, tmp_path_factory):
    metrics = compare(contestants, utterances, metrics=REGISTRY)
    summary = summarise(metrics, registry=REGISTRY)
    chosen = choose_examples(metrics, "phase 10", count=2)
    context = ReportContext(
        command="dagster job execute -m snac_pipeline.definitions -j evaluate",
        versions={"data": {"manifest": "0123", "splits": "4567"}, "recipe": "phase10"},
        registry=REGISTRY,
        curves={"phase 10": CURVE},
        examples=listening_examples(contestants, utterances, chosen, "phase 10"),
        codebook=codebook_use((utterance.codes for utterance in utterances), spec),
        code_metrics=code_metrics(spec),
        hours_an_hour=12.34,
        speakers=3,
        notes=["A note of the caller."],
        paths={utterances[0].digest: "speaker/first.wav"},
    )
    folder = tmp_path_factory.mktemp("evaluation") / "abc"
    write_report(folder, metrics, summary, context)
    return folder / "report.html", metrics, summary, context


@pytest.fixture(params=["light", "dark"])
def page(request, browser, evaluation):
    """The open report; fails at the end on console errors and on requests that leave the page."""
    context = browser.new_context(color_scheme=request.param, viewport={"width": 1280, "height": 900})
    page, troubles = context.new_page(), []
    page.on("console", lambda message: troubles.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("request", lambda request: troubles.append(request.url) if request.url.startswith("http") else None)
    page.goto(evaluation[0].as_uri())
    page.scheme = request.param
    yield page
    context.close()
    assert troubles == []


def test_the_folder_holds_the_page_and_the_same_facts_as_json(evaluation):
    report, _, summary, _ = evaluation
    assert sorted(path.name for path in report.parent.iterdir()) == [
        "curves.png", "differences.png", "report.html", "sounds", "spectrograms.png", "summary.json",
    ]  # fmt: skip

    def refuse(constant):
        raise AssertionError(f"{constant} in summary.json")

    facts = json.loads((report.parent / "summary.json").read_text(), parse_constant=refuse)
    assert facts["metrics"] == summary.to_dicts() and facts["utterances"] == 8
    assert facts["not_run"] == {"mos": "not run: no_such_package is not installed"}
    assert len(facts["worst"]["phase 10"]) == 8 and len(facts["headlines"]) == 2
    assert facts["versions"]["data · splits"] == "4567"
    assert (facts["hours_an_hour"], facts["speakers"]) == (12.34, 3)
    assert (facts["headline_metric"], facts["headline_unit"]) == ("mel_distance", "dB")


def test_pictures_and_sounds_are_there_by_themselves(evaluation):
    folder = evaluation[0].parent
    facts = json.loads((folder / "summary.json").read_text())
    assert list(facts["pictures"]) == ["differences", "curves", "spectrograms"]
    for name in facts["pictures"].values():
        assert 2_000 < (folder / name).stat().st_size < 50_000, name
        with Image.open(folder / name) as picture:
            assert len(picture.convert("RGB").getcolors()) > 10, name
    assert [sound["clip"] for sound in facts["sounds"]] == 2 * [
        "reference", "base", "phase 10", "base resampled to 48 kHz", "phase 12",
    ]  # fmt: skip
    for sound in facts["sounds"]:
        info = soundfile.info(folder / sound["file"])
        assert info.samplerate == sound["sample_rate"] and info.duration > 0.4


def test_writing_again_gives_the_same_page(evaluation, tmp_path):
    report, metrics, summary, context = evaluation
    write_report(tmp_path, metrics, summary, context)
    first = (tmp_path / "report.html").read_bytes()
    assert first == report.read_bytes()
    write_report(tmp_path, metrics, summary, dataclasses.replace(context, examples=(), curves={}))
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix == ".png") == ["differences.png"]
    assert list((tmp_path / "sounds").iterdir()) == []


def test_the_page_goes_by_the_metric_that_is_asked_for(evaluation):
    _, metrics, summary, context = evaluation
    page = render_report(metrics, summary, dataclasses.replace(context, headline_metric="si_sdr"))
    assert "By SI-SDR in dB, the worst first." in page and ("SI-SDR rises" in page or "SI-SDR falls" in page)


def test_codes_are_there_together_and_utterance_by_utterance(page):
    text = page.locator("#codes").inner_text()
    assert "bit/s by entropy" in text and "Perplexity, level 2" in text
    bitrate = page.locator("#codes tr", has_text="Bitrate").locator("td").all_inner_texts()
    assert bitrate[-2:] == ["8", "0"] and 480 < float(bitrate[1]) < 620


def test_how_fast_it_was_and_what_an_interval_means_is_said(page):
    assert "12.3 hours of recordings an hour" in page.locator("#reproduce").inner_text()
    assert "8 held-out utterances of 3 speakers" in page.locator("header").inner_text()
    assert "one in twenty excludes zero by chance" in page.locator("#results").inner_text()
    assert "`" not in page.locator("main").inner_text()


def test_what_qualifies_the_figures_is_told_above_them(page):
    notes = page.locator(".notes").inner_text()
    assert "Predicted MOS: not run: no_such_package is not installed." in notes
    assert "Targets at 24 and 48 kHz are resampled for 1 of 8 utterances: resampled reference (16000 Hz file)" in notes
    assert "A note of the caller." in notes
    assert page.locator("#results h3").all_inner_texts()[:2] == ["24 kHz", "48 kHz"]
    assert "Predicted MOS (not run" in page.locator("#results").inner_text()


def test_the_tables_fit_the_page_and_numbers_end_in_line(page):
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    right_edges = page.eval_on_selector_all(
        "#results table:first-of-type tbody tr > :nth-child(2)",
        "cells => [...new Set(cells.filter(c => c.closest('table') === cells[0].closest('table'))"
        ".map(c => Math.round(c.getBoundingClientRect().right)))]",
    )
    assert len(right_edges) == 1
    digits = page.locator("#results table").first.evaluate("t => getComputedStyle(t).fontVariantNumeric")
    assert digits == "tabular-nums"


def test_sounds_load_and_play_and_one_stops_the_other(page):
    page.wait_for_function("[...document.querySelectorAll('audio')].every(a => a.readyState >= 1)")
    durations = page.eval_on_selector_all("audio", "all => all.map(a => a.duration)")
    assert len(durations) == 2 * 5 and all(0.4 < seconds < 1.3 for seconds in durations)
    page.evaluate("async () => { const a = document.querySelectorAll('audio')[0]; a.muted = true; await a.play(); }")
    page.wait_for_function("document.querySelectorAll('audio')[0].currentTime > 0.05")
    page.evaluate("async () => { const a = document.querySelectorAll('audio')[1]; a.muted = true; await a.play(); }")
    first, second = page.eval_on_selector_all("audio", "all => [all[0].paused, all[1].currentTime]")
    assert first and second > 0.04


def test_pictures_are_not_blank(page):
    shades = page.eval_on_selector_all(
        "img",
        f"async images => Promise.all(images.map({SHADES}))",
    )
    assert len(shades) == 10 and min(shades) > 20
    assert page.locator("#spread svg path").count() > 50 and page.locator("#training svg path").count() > 5


def test_drawings_follow_the_colour_scheme(page):
    style = "element => ['color', 'backgroundColor', 'fill'].map(name => getComputedStyle(element)[name])"
    ink, paper, _ = page.locator("body").evaluate(style)
    muted, _, _ = page.locator("#training p.about").evaluate(style)
    _, _, drawn = page.locator("#training svg text").first.evaluate(style)
    assert drawn in (ink, muted)
    assert (brightness(paper) > brightness(ink)) == (page.scheme == "light")


def brightness(colour):
    """Sum of the channels of "rgb(r, g, b)"."""
    return sum(int(channel) for channel in colour.removeprefix("rgb(").removesuffix(")").split(","))


def test_a_phone_sees_the_page_without_scrolling_sideways(browser, evaluation):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(evaluation[0].as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.close()


def test_names_are_text_and_never_markup(evaluation):
    metrics = evaluation[1]
    renamed = metrics.with_columns(pl.col("model").replace("phase 10", NASTY))
    page = render_report(
        renamed, summarise(renamed, registry=REGISTRY), ReportContext("x", registry=REGISTRY, curves={NASTY: CURVE})
    )
    assert "<script>alert" not in page and "phase &lt;script&gt;" in page


def test_a_base_alone_is_a_report_too(evaluation):
    metrics = evaluation[1].filter(pl.col("model") == "base")
    page = render_report(metrics, summarise(metrics, registry=REGISTRY), ReportContext("x", registry=REGISTRY))
    assert "base, measured alone" in page and 'id="spread"' not in page
