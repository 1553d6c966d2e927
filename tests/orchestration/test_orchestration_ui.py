"""The Dagster UI on a real project, in a real browser."""

import os
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
from made_project import DAGSTER, Project

CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
GROUPS = ["corpus", "codes", "decoders", "tokens"]  # of more than one asset; these come folded
ASSETS = [
    "audio",
    "manifest",
    "quarantine",
    "splits",
    "base_codec",
    "code_cache",
    "decoder_24khz",
    "decoder_48khz",
    "decoder_dual_head",
    "evaluation",
    "token_statistics",
    "token_sequences",
    "bpe_tokenizer",
]

pytestmark = pytest.mark.slow


@pytest.fixture
def address(prepared: Project):
    """A webserver on a free port of this machine, ended by its process group."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    workspace = prepared.folder / "workspace.yaml"
    workspace.write_text("load_from:\n  - python_module: snac_pipeline.definitions\n")
    server = subprocess.Popen(
        [DAGSTER.with_name("dagster-webserver"), "-w", workspace, "-h", "127.0.0.1", "-p", str(port)],
        env={
            **os.environ,
            "DAGSTER_HOME": str(prepared.folder / ".dagster"),
            "SNAC_PIPELINE_SETTINGS": str(prepared.settings_file),
        },
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(address)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=30)


def _wait_for(address: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(f"{address}/server_info", timeout=5):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


@pytest.fixture
def page(address: str):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"no Chromium at {CHROMIUM} (set CHROMIUM to its path)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        page = browser.new_page(viewport={"width": 1600, "height": 900}, device_scale_factor=1)
        page.set_default_timeout(90_000)
        yield page
        browser.close()


def test_every_asset_is_in_the_graph_and_prepared_ones_show_their_figures(page, address, tmp_path):
    page.goto(f"{address}/asset-groups")
    page.get_by_text("Skip", exact=True).click()  # an invitation that a new Dagster home shows once
    for group in GROUPS:
        page.locator("foreignObject").get_by_text(group, exact=True).first.click()
        page.wait_for_timeout(1500)
    page.reload()  # which fits the whole graph into the window
    for asset in ASSETS:
        page.locator("foreignObject").get_by_text(asset, exact=True).first.wait_for()
    page.wait_for_timeout(3000)
    picture = Path(os.environ.get("SCREENSHOTS", tmp_path)) / "asset-graph.png"
    page.screenshot(path=picture)
    assert picture.stat().st_size > 20_000, "an empty page compresses to a few kB"

    page.goto(f"{address}/assets/splits")
    page.get_by_text("val_hours").first.wait_for()
    page.screenshot(path=picture.with_name("splits.png"))
