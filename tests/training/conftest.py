"""One thread, and a home that all tests of training share; what they train goes into copies of it."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # made_training


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """Never trained in: see `home`."""
    from made_training import CODEC, make_home

    from snac_pipeline.codec import SNAC, CodecSpec

    torch.set_num_threads(1)
    torch.manual_seed(0)
    return make_home(tmp_path_factory.mktemp("home"), SNAC(CodecSpec.from_dict(CODEC)).eval())


@pytest.fixture
def home(shared, tmp_path):
    return shared.copy(tmp_path)
