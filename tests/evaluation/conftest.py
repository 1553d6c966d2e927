"""Thin codecs of the 24 kHz geometry, and utterances with their codes."""

import dataclasses

import numpy as np
import pytest
import soundfile
import torch

from snac_pipeline.codec import SNAC, CodecSpec
from snac_pipeline.corpus.audio import read_audio
from snac_pipeline.evaluation import Contestant, Utterance

SPEC = CodecSpec(
    sampling_rate=24_000, encoder_dim=4, encoder_rates=(2, 4, 8, 8), decoder_dim=32, decoder_rates=(8, 8, 4, 2),
    attn_window_size=None, vq_strides=(4, 2, 1), codebook_size=64, codebook_dim=4,
)  # fmt: skip


@pytest.fixture(scope="session")
def spec():
    return SPEC


@pytest.fixture(scope="session")
def codecs(tmp_path_factory):
    """Folders of a base codec, a decoder that differs from it, and one with a 48 kHz head."""
    home = tmp_path_factory.mktemp("codecs")
    torch.manual_seed(0)
    base = SNAC(SPEC)
    base.save_pretrained(home / "base")
    state = base.state_dict()
    tuned = {name: value * 1.02 if name.startswith("decoder") else value for name, value in state.items()}
    base.load_state_dict(tuned)
    base.save_pretrained(home / "tuned")
    dual = SNAC(dataclasses.replace(SPEC, output_rates=(24_000, 48_000)))
    dual.load_state_dict(state, strict=False)
    dual.save_pretrained(home / "dual")
    return home


@pytest.fixture(scope="session")
def utterances(codecs, tmp_path_factory):
    """Eight sounds of 0.5 to 1.2 s; the first is a 16 kHz file, the others have 48 kHz."""
    folder = tmp_path_factory.mktemp("audio")
    base = SNAC.from_pretrained(codecs / "base")
    made = []
    for i in range(8):
        rate, seconds = (16_000 if i == 0 else 48_000), 0.5 + 0.1 * i
        t = np.arange(round(rate * seconds)) / rate
        tone = sum(np.sin(2 * np.pi * k * (100 + 20 * i) * t) / k for k in range(1, 20))
        noise = np.random.default_rng(i).standard_normal(len(t))
        path = folder / f"{i}.wav"
        soundfile.write(path, 0.1 * tone * np.sin(2 * np.pi * 3 * t) ** 2 + 0.01 * noise, rate)
        audio = torch.from_numpy(read_audio(path, SPEC.sampling_rate))[None, None]
        with torch.inference_mode():
            codes = [level[0].numpy().astype(np.uint16) for level in base.encode(audio)]
        made.append(Utterance(f"{i:032x}", path, codes))
    return made


@pytest.fixture(scope="session")
def contestants(codecs):
    return [
        Contestant("base", codecs / "base", 24_000),
        Contestant("phase 10", codecs / "tuned", 24_000),
        Contestant("phase 12", codecs / "dual", 48_000),
    ]
