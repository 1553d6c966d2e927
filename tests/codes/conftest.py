"""One codec, one corpus and its cache, made once; tests that change files copy them."""

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import made_codes as made


@pytest.fixture(scope="package")
def codec(tmp_path_factory) -> Path:
    return made.make_codec(tmp_path_factory.mktemp("codec") / "thin24")


@pytest.fixture(scope="package")
def corpus(tmp_path_factory) -> Path:
    return made.make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="package")
def cached(tmp_path_factory, codec, corpus):
    """(home, utterances, result) of a finished cache; read only."""
    home = tmp_path_factory.mktemp("cached")
    utterances = made.utterances_of(corpus, home)
    return home, utterances, made.cache(codec, utterances, home)


@pytest.fixture
def own(cached, corpus, tmp_path) -> tuple[Path, Path, Path]:
    """(home, corpus, parts): copies that a test may change."""
    home, own_corpus = tmp_path / "home", tmp_path / "speech"
    shutil.copytree(cached[0], home)
    shutil.copytree(corpus, own_corpus)
    return home, own_corpus, home / "codes" / cached[2]["fingerprint"]
