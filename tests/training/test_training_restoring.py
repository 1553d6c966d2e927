"""Restored audio: a scripted stand-in with a restorer's interface, what it makes of recordings, and who reads that."""

import shutil

import numpy as np
import polars as pl
import pytest
import soundfile
import torch
from made_training import DOUBLE, PHASE12, recipe_of
from test_training_targets import QUICK
from torch import nn

from snac_pipeline.corpus import read_audio
from snac_pipeline.errors import PipelineError
from snac_pipeline.settings import load_settings
from snac_pipeline.steps.restoring import find_restorer, restore
from snac_pipeline.training import restoring
from snac_pipeline.training.restoring import INPUT_RATE, OUTPUT_RATE, Restorer, log_mel, restored_file


class Extractor(nn.Module):
    """Of the shape of Sidon's: features of mel frames, by name."""

    def __init__(self):
        super().__init__()
        self.project = nn.Conv1d(160, 8, 5, padding=2)

    def forward(self, mels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"last_hidden_state": self.project(mels.transpose(1, 2)).tanh().transpose(1, 2)}


class Decoder(nn.Module):
    """Of the shape of Sidon's: 960 samples for each feature."""

    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose1d(8, 1, 960, stride=960)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.up(features)


class Loudness(nn.Module):
    """How loud each 20 ms are."""

    def forward(self, mels: torch.Tensor) -> torch.Tensor:
        return mels.mean(dim=2, keepdim=True)


class Held(nn.Module):
    """The feature's own value for its 960 samples, where it is positive."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features.relu().repeat_interleave(960, dim=2)


class Endless(nn.Module):
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.full((features.shape[0], 1, 960 * features.shape[2]), float("nan"))


def make_restorer(folder, seed=0, extractor=None, decoder=None):
    """A folder as the hub has it: two TorchScript files."""
    folder.mkdir()
    torch.manual_seed(seed)
    torch.jit.script(extractor or Extractor()).save(folder / "feature_extractor_cuda.pt")
    torch.jit.script(decoder or Decoder()).save(folder / "decoder_cuda.pt")
    return Restorer(folder / "feature_extractor_cuda.pt", folder / "decoder_cuda.pt")


@pytest.fixture
def restorer(tmp_path):
    return make_restorer(tmp_path / "restorer")


def restored(home, restorer, utterances=None, devices=("cpu",), batch_seconds=30.0):
    rows = home.utterances if utterances is None else utterances
    result = restoring.restore(restorer, rows, home.work, batch_seconds, 60.0, list(devices), lambda event: None)
    return result, restoring.restored_folder(home.work, restorer)


def test_every_recording_is_restored_once_at_its_own_length_and_level(home, restorer):
    first, folder = restored(home, restorer)
    again, _ = restored(home, restorer)
    assert (first["restored"], first["already"]) == (10, 0)
    assert (again["restored"], again["already"]) == (0, 10)
    assert first["version"] == again["version"]
    for digest, file, frames, rate in home.utterances.select("digest", "file", "num_frames", "sample_rate").rows():
        audio, out_rate = soundfile.read(restored_file(folder, digest))
        assert out_rate == OUTPUT_RATE
        assert abs(len(audio) / OUTPUT_RATE - frames / rate) < 1e-4
        heard = read_audio(file, INPUT_RATE)
        assert np.sqrt(np.mean(audio**2)) == pytest.approx(np.sqrt(np.mean(heard**2)), rel=0.01)


def test_only_what_is_missing_is_restored_again_and_leftovers_are_none(home, restorer):
    _, folder = restored(home, restorer)
    gone = restored_file(folder, home.utterances["digest"][3])
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*.flac")}
    content = gone.read_bytes()
    gone.unlink()
    result, _ = restored(home, restorer)
    after = {file: file.stat().st_mtime_ns for file in folder.rglob("*.flac")}
    assert result["restored"] == 1
    assert {file for file in after if before[file] != after[file]} == {gone}
    assert gone.read_bytes() == content
    assert not list(home.work.rglob(".tmp-*"))


def test_a_recording_is_restored_alike_in_any_batch(home, restorer, tmp_path):
    (tmp_path / "alone").mkdir()
    alone = home.copy(tmp_path / "alone")
    _, folder = restored(home, restorer, batch_seconds=60.0)
    result, other = restored(alone, restorer, batch_seconds=0.1)
    assert result["restored"] == 10
    for digest in home.utterances["digest"]:
        together, single = (soundfile.read(restored_file(place, digest))[0] for place in (folder, other))
        assert np.abs(together - single).max() < 1e-4


@pytest.mark.slow
def test_two_processes_restore_what_one_does(home, restorer, tmp_path):
    (tmp_path / "pair").mkdir()
    pair = home.copy(tmp_path / "pair")
    one, folder = restored(home, restorer)
    two, other = restored(pair, restorer, devices=("cpu", "cpu"))
    assert {**one, "folder": "", "seconds": 0} == {**two, "folder": "", "seconds": 0}
    assert {f.name for f in folder.rglob("*.flac")} == {f.name for f in other.rglob("*.flac")}


def test_other_weights_are_another_restorer(home, restorer, tmp_path):
    other = make_restorer(tmp_path / "other", seed=1)
    copied = Restorer(*(shutil.copy(file, tmp_path / file.name) for file in vars(restorer).values()))
    assert other.digest != restorer.digest == copied.digest


def plain_features(audio):
    """Of the shape of log_mel's, but not normalised: every feature is its own 320 samples."""
    return audio[: len(audio) // 320 * 320].reshape(-1, 320)[:, :160]


def test_a_long_recording_is_restored_in_pieces_with_context(home, restorer, monkeypatch):
    """Equal to whole where the restorer's reach is covered and its normalisation is the same."""
    rng = np.random.default_rng(0)
    x = 0.1 * rng.normal(size=3 * INPUT_RATE).astype(np.float32)
    models = restoring._load(restorer, "cpu")
    monkeypatch.setattr(restoring, "log_mel", plain_features)
    [whole] = restoring._restore_batch(models, [x])
    monkeypatch.setattr(restoring, "PIECE_SECONDS", 1)
    [pieces] = restoring._restore_batch(models, [x])
    assert len(pieces) == 3 * len(x)
    # The extractor sees two features on each side, and the pieces' features start at whole seconds.
    assert np.abs(pieces[2000:-2000] - whole[2000 : len(pieces) - 2000]).max() < 1e-4


@pytest.mark.parametrize("second", [0.5, 1.0, 1.73])
def test_a_sound_is_restored_where_it_was(tmp_path, second):
    """To within the 20 ms that a feature stands for."""
    models = restoring._load(make_restorer(tmp_path / "held", extractor=Loudness(), decoder=Held()), "cpu")
    x = np.zeros(3 * INPUT_RATE, np.float32)
    first, count = round(second * INPUT_RATE), INPUT_RATE // 10
    x[first : first + count] = 0.1 * np.random.default_rng(0).normal(size=count)
    [audio] = restoring._restore_batch(models, [x])
    power = audio[: 3 * len(x)] ** 2
    centre = (np.arange(len(power)) * power).sum() / power.sum() / OUTPUT_RATE
    assert centre == pytest.approx(second + 0.05, abs=0.01)


def test_a_recording_changed_since_the_scan_is_told_and_the_others_are_restored(home, restorer, tmp_path):
    rows = home.utterances
    changed = tmp_path / "changed.wav"
    soundfile.write(changed, np.zeros(8000), 16_000)
    files = [str(changed), *rows["file"][1:]]
    with pytest.raises(PipelineError, match=r"1 recordings .*changed\.wav.*changed since the scan.*the other 9 are"):
        restored(home, restorer, rows.with_columns(file=pl.Series(files)))
    result, _ = restored(home, restorer)
    assert (result["restored"], result["already"]) == (1, 9)


def test_what_is_no_restorer_is_a_clear_error(home, tmp_path):
    with pytest.raises(PipelineError, match="not finite"):
        restored(home, make_restorer(tmp_path / "endless", decoder=Endless()))
    broken = make_restorer(tmp_path / "broken")
    broken.decoder.write_bytes(b"not TorchScript")
    with pytest.raises(PipelineError, match=r"decoder_cuda\.pt cannot be loaded as TorchScript"):
        restored(home, broken)


def test_mel_features_are_normalised_over_time_and_two_frames_each():
    features = log_mel(0.1 * torch.randn(INPUT_RATE))
    assert features.shape == (49, 160)
    frames = features.reshape(-1, 80)
    assert frames.mean(0).abs().max() < 0.1
    assert (frames.std(0) - 1).abs().max() < 0.1


# ---- settings, and training on it --------------------------------------------------------------------------------


def with_restorer(home, **options):
    file = home.folder / "pipeline.yaml"
    lines = "".join(f"  {name}: {value}\n" for name, value in options.items())
    file.write_text(file.read_text() + "restorer:\n" + lines)
    return load_settings(file)


def test_the_settings_restorer_is_a_folder_beside_them(home, tmp_path):
    restorer = make_restorer(home.folder / "restorer")
    settings = with_restorer(home, source="restorer")
    assert find_restorer(settings).digest == restorer.digest
    assert restore(settings, lambda event: None)["restored"] == 10


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"source": "null"}, "no restorer is named; set restorer.source"),
        ({"source": "./nowhere"}, "neither a folder nor a hub id"),
        ({"source": "restorer", "decoder": "decoder_cpu.pt"}, r"has no file decoder_cpu\.pt"),
    ],
)
def test_a_restorer_that_cannot_be_had_is_a_clear_error(home, options, words):
    make_restorer(home.folder / "restorer")
    with pytest.raises(PipelineError, match=words):
        find_restorer(with_restorer(home, **options))


def test_training_reads_restored_targets_and_only_at_the_double_rate(home, restorer):
    recipe = recipe_of(QUICK, targets="restored")
    with pytest.raises(PipelineError, match="no restorer is named"):
        home.plan(recipe)
    folder = restoring.restored_folder(home.work, restorer)
    with pytest.raises(PipelineError, match=r"8 of 8 recordings have no restored audio.*snac-pipeline restore"):
        home.plan(recipe, restored=folder)
    restored(home, restorer)
    plain, made = home.train(recipe_of(QUICK)), home.train(recipe, restored=folder)
    assert made["targets"] == "restored"
    assert made["run"] != plain["run"]
    assert made["baseline"]["8000"] == plain["baseline"]["8000"]
    assert made["baseline"][str(DOUBLE)] != plain["baseline"][str(DOUBLE)]


def test_a_restored_target_is_the_restored_file_at_the_slice_s_place(home, restorer):
    from snac_pipeline.training.data import SpeechSlices
    from snac_pipeline.training.slices import Slice
    from snac_pipeline.training.targets import targets_of

    _, folder = restored(home, restorer)
    rows, spec = home.utterances, home.start().spec
    targets = targets_of(rows, recipe_of(PHASE12, targets="restored"), DOUBLE, folder)
    files, digests = rows["file"].to_list(), rows["digest"].to_list()
    dataset = SpeechSlices(files, digests, spec, (spec.sampling_rate, DOUBLE), None, targets)
    read = dataset[Slice(2, 3, 9, 9, 2, 4, 4)]["targets"]
    for rate, file in ((spec.sampling_rate, files[2]), (DOUBLE, restored_file(folder, digests[2]))):
        start, count = spec.samples(5, rate), spec.samples(4, rate)
        torch.testing.assert_close(
            read[rate][0].numpy(), read_audio(file, rate)[start : start + count], atol=1e-5, rtol=0
        )
