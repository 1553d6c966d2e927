"""Models of one's own among the metrics: run from their files, and told as not run where none is given."""

import json
from pathlib import Path

import numpy as np
import pydantic
import pytest
import torch

from snac_pipeline.errors import PipelineError
from snac_pipeline.evaluation import METRICS, measure, not_run, own_metrics, own_metrics_identity, try_own_metrics
from snac_pipeline.settings import EvaluationSettings, ScorerSettings

RATE = 24_000


class Scored(torch.nn.Module):
    """Stands for a predictor: the length of what it gets, and its power."""

    def forward(self, speech_1T: torch.Tensor) -> torch.Tensor:
        length = torch.tensor(float(speech_1T.shape[1]))
        return torch.stack([length, speech_1T.square().mean()])[None]


@pytest.fixture(scope="module")
def scripted(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("models") / "scored.pt"
    torch.jit.script(Scored()).save(str(file))
    return file


def own(name: str, **settings):
    options = EvaluationSettings(scorers={name: ScorerSettings(**settings)})
    return next(metric for metric in own_metrics(options) if metric.name == name)


def sine(seconds: float, amplitude: float) -> np.ndarray:
    t = np.arange(round(seconds * RATE)) / RATE
    return (amplitude * np.sin(2 * np.pi * 440 * t)).astype(np.float32)


def test_what_no_model_is_given_for_is_listed_as_not_run():
    absent = not_run(own_metrics(EvaluationSettings()))
    assert absent == {
        "utmos": "not run: no file is given (`evaluation.scorers.utmos`)",
        "dnsmos": "not run: no file is given (`evaluation.scorers.dnsmos`)",
        "word_error_rate": "not run: no recogniser is given (`evaluation.recogniser`)",
    }
    for metric in own_metrics(EvaluationSettings()):
        assert measure(metric, sine(1, 0.5), sine(1, 0.5), RATE) == (None, absent[metric.name])


def test_a_scripted_model_hears_the_estimate_at_its_own_rate(scripted):
    length, power = (own("utmos", file=scripted, sample_rate=8000, output=output) for output in (0, 1))
    assert length.label == "UTMOS" and length.why_not_run is None
    assert measure(length, sine(1, 0.5), sine(1, 0.1), RATE).value == 8000
    assert measure(power.placed("cpu"), sine(1, 0.5), sine(1, 0.1), RATE).value == pytest.approx(0.005, rel=0.02)


@pytest.mark.parametrize("seconds", [0.4, 2.0, 4.6])
def test_a_model_of_a_fixed_length_gets_windows_of_that_length(scripted, seconds):
    """Shorter speech is repeated; the power of a sine is that of each of its windows."""
    length, power = (own("dnsmos", file=scripted, seconds=2.0, output=output) for output in (0, 1))
    assert measure(length, sine(seconds, 0.5), sine(seconds, 0.1), RATE).value == 32_000
    assert measure(power, sine(seconds, 0.5), sine(seconds, 0.1), RATE).value == pytest.approx(0.005, rel=0.02)


def test_what_a_model_cannot_do_is_a_reason_for_no_value(scripted):
    """A number that it does not give, or an utterance too short for it, must not cost the other metrics theirs."""
    value, reason = measure(own("utmos", file=scripted, output=4), sine(1, 0.5), sine(1, 0.1), RATE)
    assert value is None and reason.startswith("the model fails: index 4 is out of bounds")
    one = np.zeros(1, np.float32)
    value, reason = measure(own("utmos", file=scripted, sample_rate=8000), one, one, 48_000)
    assert value is None and reason == "shorter than one sample of the model"


def test_an_onnx_model_is_run_by_onnxruntime(tmp_path):
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx", reason="onnx, which makes the model, is not installed")
    node = onnx.helper.make_node("ReduceMean", ["speech"], ["score"], keepdims=0)
    speech, score = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("speech", [1, "samples"]), ("score", []))
    )
    graph = onnx.helper.make_graph([node], "mean", [speech], [score])
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "mean.onnx")
    mean = own("mean", file=tmp_path / "mean.onnx", higher_is_better=False)
    assert mean.label == "mean" and not mean.higher_is_better
    raised = np.full(RATE, 0.25, np.float32)
    assert measure(mean, raised, raised, RATE).value == pytest.approx(0.25, abs=1e-3)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_models_that_cannot_be_are_told_before_anything_runs(scripted, tmp_path):
    (tmp_path / "model.bin").touch()
    (tmp_path / "broken.pt").write_bytes(b"no model")
    for settings, words in (
        ({"scorers": {"utmos": {"file": tmp_path / "none.pt"}}}, "evaluation.scorers.utmos.file: there is no model at"),
        ({"scorers": {"utmos": {"file": tmp_path / "model.bin"}}}, "is neither TorchScript"),
        ({"scorers": {METRICS[0].name: {"file": scripted}}}, "there is a metric of that name"),
        ({"scorers": {"perplexity_level0": {"file": scripted}}}, "there is a metric of that name"),
        ({"recogniser": tmp_path}, "evaluation.recogniser: there is no model at"),
    ):
        with pytest.raises(PipelineError, match=words):
            own_metrics(EvaluationSettings.model_validate(settings))
    (tmp_path / "asr").mkdir()
    (tmp_path / "asr" / "config.json").write_text("{}")
    for settings, words in (
        ({"scorers": {"utmos": {"file": tmp_path / "broken.pt"}}}, "scorers.utmos: .*broken.pt cannot be loaded: "),
        ({"scorers": {"utmos": {"file": scripted, "output": 4}}}, "given a second of noise: the model fails: index 4"),
        ({"recogniser": tmp_path / "asr"}, "evaluation.recogniser: .*asr cannot be loaded: "),
    ):
        metrics = own_metrics(EvaluationSettings.model_validate(settings))
        if not any(name in not_run(metrics) for name in settings.get("scorers", ["word_error_rate"])):
            with pytest.raises(PipelineError, match=words):
                try_own_metrics(metrics)
    try_own_metrics((*METRICS, *own_metrics(EvaluationSettings(scorers={"utmos": ScorerSettings(file=scripted)}))))


def test_windows_shorter_than_a_tenth_of_a_second_are_refused(scripted):
    assert ScorerSettings(file=scripted, seconds=0.1).seconds == 0.1
    with pytest.raises(pydantic.ValidationError, match=r"greater than or equal to 0\.1"):
        ScorerSettings(file=scripted, seconds=0.05)


def test_a_model_is_known_by_its_bytes_and_its_use_and_not_by_its_place(scripted, tmp_path):
    def identity(folder, **use):
        model = tmp_path / folder / "model.pt"
        if not model.exists():
            (tmp_path / folder / "asr").mkdir(parents=True)
            (tmp_path / folder / "asr" / "config.json").write_text("{}")
            model.write_bytes(scripted.read_bytes())
        scorers = {"utmos": ScorerSettings(file=model, **use)}
        return own_metrics_identity(EvaluationSettings(scorers=scorers, recogniser=tmp_path / folder / "asr"))

    first = identity("a")
    assert identity("b") == first == identity("b", higher_is_better=False) != {}
    assert identity("b", output=1) != first and identity("b", seconds=2.0) != first
    (tmp_path / "b" / "model.pt").write_bytes(b"another")
    assert identity("b") != first
    (tmp_path / "a" / "asr" / "config.json").write_text("{ }")
    assert identity("a") != first


@pytest.mark.slow  # transformers takes its time to load
def test_words_are_counted_by_a_recogniser_from_a_folder(tmp_path):
    transformers = pytest.importorskip("transformers")
    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefgh"]
    (tmp_path / "vocab.json").write_text(json.dumps({letter: i for i, letter in enumerate(letters)}))
    config = transformers.Wav2Vec2Config(
        vocab_size=len(letters), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        conv_dim=(8, 8), conv_stride=(20, 16), conv_kernel=(20, 16), num_feat_extract_layers=2,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.Wav2Vec2ForCTC(config)
    with torch.no_grad():
        model.lm_head.weight.mul_(20)  # so that it hears something in noise
    model.save_pretrained(tmp_path)
    transformers.Wav2Vec2FeatureExtractor(sampling_rate=16_000).save_pretrained(tmp_path)
    transformers.Wav2Vec2CTCTokenizer(tmp_path / "vocab.json").save_pretrained(tmp_path)

    errors = own_metrics(EvaluationSettings(recogniser=tmp_path))[-1]
    try_own_metrics([errors])
    one, other = (0.1 * np.random.default_rng(seed).standard_normal(RATE).astype(np.float32) for seed in (0, 1))
    assert measure(errors, one, one.copy(), RATE).value == 0.0
    assert measure(errors, one, other, RATE).value > 0
