"""The Dagster UI as a user meets it: `dagster dev` and a browser, over a small project.

Also draws the pictures of the README, of what `make demo` left: `make pictures`, which is this file with $PICTURES.
"""

import os
import time
from pathlib import Path

import pytest
from made_project import REPOSITORY, Project, make_project
from made_server import ask, served
from pixels import SHADES

from snac_pipeline.definitions import build_defs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PATIENCE = 120_000  # ms: a run takes seconds, on a machine that is busy with other tests a minute
LOCATION = "snac_pipeline.definitions"


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    return make_project(tmp_path_factory.mktemp("ui"))


@pytest.fixture(scope="module")
def ui(project, browser) -> str:
    """Address of the project's UI; there is none without a browser."""
    with served(project.folder) as (address, _):
        yield address


@pytest.fixture
def page(browser):
    """An empty page; fails at the end on errors in the browser's console."""
    page, errors = browser.new_page(viewport={"width": 1440, "height": 1000}, device_scale_factor=1), []
    page.set_default_timeout(PATIENCE)
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    page.close()
    assert errors == []


def open_graph(page, ui: str) -> None:
    """The graph of all assets from top to bottom, every group open."""
    page.add_init_script("localStorage.setItem('asset-graph-direction', '\"vertical\"')")
    page.goto(f"{ui}/asset-groups")
    page.locator("foreignObject", has_text="evaluation").first.wait_for()
    page.keyboard.press("Alt+e")
    page.locator("foreignObject", has_text="decoder_dual_head").first.wait_for()


def nodes(page) -> list[str]:
    """The first line of every asset in the graph, its name."""
    return page.eval_on_selector_all(
        "foreignObject:not(.group)",
        "all => all.map(node => node.querySelector('div')?.innerText.split('\\n')[0]).filter(Boolean).sort()",
    )


def test_the_graph_has_a_node_for_every_asset(ui, project, page, tmp_path):
    graph = build_defs(project.settings_file).resolve_asset_graph()
    open_graph(page, ui)
    page.screenshot(path=tmp_path / "graph.png")
    assert nodes(page) == sorted(key.to_user_string() for key in graph.get_all_asset_keys())


def test_an_asset_is_materialized_by_clicks_and_its_plot_is_drawn(ui, project, page, tmp_path):
    page.goto(f"{ui}/assets/manifest")
    page.get_by_role("button", name="Materialize").first.click()
    page.get_by_role("button", name="Confirm").click()  # that the quarantine is made with it
    page.get_by_role("button", name="All", exact=True).click()
    page.get_by_role("button", name="Launch backfill").click()
    wait_for_success(ui)
    assert project.newest("manifest", "alpha").metadata["utterances"].value == 8

    page.goto(f"{ui}/assets/manifest?view=partitions&partition=alpha")
    page.get_by_text("[Show Markdown]").click()
    plot = page.locator("img[alt=durations]")
    plot.wait_for()
    page.screenshot(path=tmp_path / "plot.png")
    assert plot.evaluate(SHADES) > 20


def wait_for_success(ui: str) -> None:
    """Until there is a run, and it ended well."""
    states = set()
    for _ in range(PATIENCE // 1000):
        found = ask(ui, "{ runsOrError { ... on Runs { results { status } } } }")
        states = {run["status"] for run in found["runsOrError"]["results"]}
        if states == {"SUCCESS"} or "FAILURE" in states:
            break
        time.sleep(1)
    assert states == {"SUCCESS"}


VALIDATE = """query ($job: PipelineSelector!, $config: RunConfigData!) {
    isPipelineConfigValid(pipeline: $job, mode: "default", runConfigData: $config) {
        __typename ... on RunConfigValidationInvalid { errors { message } } } }"""
LAUNCH = """mutation ($job: JobOrPipelineSelector!, $config: RunConfigData!) {
    launchPipelineExecution(executionParams: {selector: $job, runConfigData: $config}) {
        __typename ... on PythonError { className message } } }"""


@pytest.mark.parametrize("value", [0, "many"])
def test_a_wrong_value_is_refused_and_no_run_begins(ui, value):
    count = "{ runsOrError { ... on Runs { count } } }"
    before = ask(ui, count)
    job = {
        "repositoryLocationName": LOCATION,
        "repositoryName": "__repository__",
        "pipelineName": "train_phase10",
    }
    config = {"ops": {"decoder_24khz": {"config": {"batch_size": value}}}}
    if value == "many":  # while one types
        [error] = ask(ui, VALIDATE, job=job, config=config)["isPipelineConfigValid"]["errors"]
        assert "decoder_24khz:config:batch_size" in error["message"]
    else:  # when one presses Launch
        refused = ask(ui, LAUNCH, job=job, config=config)["launchPipelineExecution"]
        assert refused["__typename"] == "PythonError"
        assert "config of decoder_24khz: `batch_size`: must be greater" in refused["message"]
    assert ask(ui, count) == before


def test_the_launchpad_opens_with_the_recipe_and_explains_it(ui, page, tmp_path):
    page.goto(f"{ui}/locations/{LOCATION}/jobs/train_phase10/playground")
    page.get_by_text("All defaults expanded").wait_for()
    page.screenshot(path=tmp_path / "launchpad.png")
    words = page.locator(".CodeMirror").first.inner_text()
    assert "batch_size:" in words and "curriculum:" in words


# the README's picture -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo(browser) -> str:
    """Address of the UI of what `make demo` left in this folder."""
    if not list(REPOSITORY.glob("work/evaluation/*/result.json")) or not (REPOSITORY / ".dagster").exists():
        pytest.skip("`make demo` has not been run in this folder")
    with served(REPOSITORY) as (address, _):
        yield address


def test_the_graph_of_the_demo_is_a_picture_for_the_readme(demo, browser, tmp_path):
    picture = Path(os.environ.get("PICTURES", tmp_path)) / "asset-graph.png"
    page = browser.new_page(viewport={"width": 2000, "height": 1500})
    page.set_default_timeout(PATIENCE)
    page.add_init_script("localStorage.setItem('large-screen-nav-open', 'false')")
    open_graph(page, demo)
    page.get_by_text("3 / 3 Passed").wait_for()  # the evaluation's checks
    page.wait_for_timeout(2000)  # the graph comes to rest
    boxes = page.eval_on_selector_all(
        "foreignObject.group", "all => all.map(one => { const b = one.getBoundingClientRect(); "
        "return [b.left, b.top, b.right, b.bottom]; })"
    )  # fmt: skip
    left, top = (min(box[i] for box in boxes) - 12 for i in (0, 1))
    right, bottom = (max(box[i] for box in boxes) + 12 for i in (2, 3))
    page.screenshot(path=picture, clip={"x": left, "y": top, "width": right - left, "height": bottom - top})
    assert len(nodes(page)) == 13
    assert 30_000 < picture.stat().st_size < 300_000
    page.close()
