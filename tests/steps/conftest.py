"""A project that is scanned, split and cached, in a folder of its own."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "cli"))  # made_cli, made_codes

import made_cli
import made_codes as made

from snac_pipeline.settings import Settings, load_settings
from snac_pipeline.steps.codes import cache
from snac_pipeline.steps.corpus import scan_corpus, split_corpora


def silent(event: dict) -> None:
    pass


@pytest.fixture(scope="package")
def settings(tmp_path_factory) -> Settings:
    folder = tmp_path_factory.mktemp("steps")
    project = made_cli.make_project(folder / "project", made.make_codec(folder / "codec"), None, seconds=(0.5, 0.7) * 6)
    settings = load_settings(project.settings_file)
    scan_corpus(settings, "made", None, silent)
    split_corpora(settings)
    cache(settings, ["made"], True, silent)
    return settings
