"""What a step and a run are made of: accumulated batches, averaged weights, the best model, stages, compilation."""

import json
import logging

import pytest
import torch
from made_training import DOUBLE, NATIVE, PHASE10, PHASE12, recipe_of
from safetensors.torch import load_file

from snac_pipeline.codec import SNAC, kernels
from snac_pipeline.training.averaging import Average
from snac_pipeline.training.compiling import Synthesis, choose_kernels
from snac_pipeline.training.data import collate
from snac_pipeline.training.loop import gradients
from snac_pipeline.training.model import build_model, enter_stage
from snac_pipeline.training.plan import Plan, Speech
from snac_pipeline.training.ranks import ALONE
from snac_pipeline.training.slices import Slice
from snac_pipeline.training.state import Training


@pytest.fixture(scope="module")
def slices(shared):
    """Real speech as it is read for training, and five slices of it."""
    from snac_pipeline.codes.view import CodesView
    from snac_pipeline.training.data import SpeechSlices

    rows, start = shared.utterances, shared.start()
    digests = rows["digest"].to_list()
    view = shared.view(recipe_of(PHASE10))
    dataset = SpeechSlices(rows["file"].to_list(), digests, start.spec, (NATIVE, DOUBLE), view)
    frames = CodesView(view).frames
    return Speech(dataset, frames, digests), [Slice(row, 0, 8, 8, 0, 8, 8) for row in range(5)]


# ---- accumulation --------------------------------------------------------------------------------------------------


def step_of(shared, speech, batches):
    """Loss and gradients of one step that accumulates `batches`."""
    recipe = recipe_of(PHASE12, noise="off", losses={"l1": 1.0, "magnitude": 1.0}, accumulate=len(batches))
    model = build_model(recipe, shared.start())
    training = Training(recipe, model, ALONE)
    training.progress.epoch = 1
    enter_stage(recipe.stages[1], model)
    reader = (collate([speech.dataset[item] for item in batch]) for batch in batches)
    loss = gradients(training, batches, reader, Synthesis(model, compiled=False))
    return loss, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("sizes", [(5,), (3, 2), (2, 2, 1), (1, 4)], ids=str)
def test_accumulated_batches_are_one_batch_whatever_their_sizes(shared, slices, sizes):
    speech, items = slices
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    whole, exact = step_of(shared, speech, [items])
    loss, ours = step_of(shared, speech, [items[end - size : end] for size, end in zip(sizes, ends, strict=True)])
    torch.testing.assert_close(loss, whole, rtol=1e-6, atol=0)
    assert ours.keys() == exact.keys()
    for name, gradient in exact.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-4 * float(gradient.abs().max()), msg=name)


def test_an_epoch_that_accumulates_has_every_slice_once_and_a_last_step_of_what_is_left(shared, slices):
    speech, _ = slices
    plain, together = (
        Plan(recipe_of(PHASE10, accumulate=n), build_model(recipe_of(PHASE10), shared.start()), speech) for n in (1, 3)
    )
    for epoch in range(3):
        batches = [batch for step in plain.epoch(epoch) for batch in step]
        steps = together.epoch(epoch)
        assert [batch for step in steps for batch in step] == batches
        assert len(steps) == together.steps_in(epoch) == -(-len(batches) // 3)
        assert all(len(step) == 3 for step in steps[:-1])
    assert together.steps == sum(together.steps_in(epoch) for epoch in range(3)) < plain.steps


# ---- averaging -----------------------------------------------------------------------------------------------------


def test_the_average_follows_its_formula():
    parameter = torch.nn.Parameter(torch.zeros(2))
    average, expected = Average({"w": parameter}, 0.5), torch.zeros(2)
    for step in range(30):
        with torch.no_grad():
            parameter.copy_(torch.tensor([step + 1.0, -step]))
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * parameter.detach()
        average.update(step)
    torch.testing.assert_close(average.means["w"], expected)
    with average.in_place():
        torch.testing.assert_close(parameter.detach(), expected)
    assert parameter.tolist() == [30.0, -29.0]
    average.settle()
    torch.testing.assert_close(parameter.detach(), expected)


def test_the_averaged_weights_are_those_that_are_measured_and_saved(home):
    recipe = recipe_of(PHASE10, ema=0.9)
    result = home.train(recipe)
    run = home.plan(recipe).folder
    saved = SNAC.from_pretrained(result["model"]).state_dict()
    newest = sorted(run.glob("checkpoints/step-*"))[-1]
    means = torch.load(newest / "state.pt", weights_only=True)["average"]
    raw = load_file(newest / "model.safetensors")
    assert means and all(torch.equal(saved[name], mean) for name, mean in means.items())
    assert not all(torch.equal(raw[name], saved[name]) for name in means)
    plain = home.train(recipe_of(PHASE10))
    assert result["final"] != plain["final"]
    assert result["improvement"][str(NATIVE)] > 0


# ---- the best model ------------------------------------------------------------------------------------------------


def test_the_best_epoch_s_model_is_kept_and_taken_when_the_recipe_says_so(home):
    """Rates so large in a last stage that it ends worse than it began."""
    worse = {"name": "too fast", "epochs": 1, "learning_rates": {"native_head": 1.0}, "schedule": "constant"}
    stages = [{**PHASE10["stages"][0], "epochs": 2}, worse]
    content = {**PHASE10, "stages": stages, "checkpoints": {"keep": 1}}
    last, best = (home.train(recipe_of(content, keep_best=keep)) for keep in (False, True))
    assert (last["model_is"], best["model_is"]) == ("final", "best")
    assert last["best"] == best["best"] and best["best"]["epoch"] == 2
    assert best["final"][str(NATIVE)] == pytest.approx(best["best"]["loss"])
    assert best["final"][str(NATIVE)] < last["final"][str(NATIVE)]
    for result, same in ((last, False), (best, True)):
        run = home.plan(recipe_of(content, keep_best=same)).folder
        kept, model = (SNAC.from_pretrained(folder).state_dict() for folder in (run / "best", result["model"]))
        assert all(torch.equal(kept[name], model[name]) for name in kept) == same
        assert len(list(run.glob("checkpoints/step-*"))) == 1


# ---- stages and their baselines ------------------------------------------------------------------------------------


def test_every_stage_is_measured_against_the_starting_point_at_its_own_length_and_weights(home):
    recipe = recipe_of(PHASE12)
    result = home.train(recipe)
    first, second = result["stages"]
    assert (first["stage"], first["epochs"], first["seconds"]) == ("warm-up", [1, 1], 0.25)
    assert (second["stage"], second["epochs"], second["seconds"]) == ("main", [2, 3], 0.5)
    assert first["weights"] == {str(NATIVE): 0.0, str(DOUBLE): 1.0}
    assert second["weights"] == {str(NATIVE): 0.3, str(DOUBLE): 1.0}
    assert first["improvement"][str(NATIVE)] == pytest.approx(0.0, abs=1e-12), (
        "the warm-up leaves the 24 kHz head alone"
    )
    for stage in result["stages"]:
        for rate in (str(NATIVE), str(DOUBLE)):
            assert stage["improvement"][rate] == pytest.approx(1 - stage["final"][rate] / stage["baseline"][rate])
        weighed = sum(weight * stage["final"][rate] for rate, weight in stage["weights"].items())
        assert stage["loss"]["final"] == pytest.approx(weighed)
        assert stage["loss"]["improvement"] > 0
    kept = json.loads((home.plan(recipe).folder / "baseline_metrics.json").read_text())
    for stage, told in zip(kept["stages"], result["stages"], strict=True):
        assert told["baseline"] == pytest.approx({r: sum(v) / len(v) for r, v in stage["losses"].items()})
    assert first["baseline"] != second["baseline"] != result["baseline"]


# ---- compiled or not -----------------------------------------------------------------------------------------------


def test_a_whole_batch_of_a_lesson_is_one_shape_and_a_smaller_one_runs_as_it_is(shared, slices):
    """With a backend that only counts: what torch hands to a compiler, and how often."""
    speech, items = slices
    recipe = recipe_of(PHASE10)
    model, graphs = build_model(recipe, shared.start()), []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    plan, synthesis = Plan(recipe, model, speech), Synthesis(model, compiled=True, backend=count)
    training = Training(recipe, model, ALONE)
    enter_stage(recipe.stages[0], model)

    def step(batch):
        read = iter([collate([speech.dataset[item] for item in batch])])
        return gradients(training, [batch], read, synthesis)

    short, long = plan.spans()
    synthesis.begin(short, 3)
    first = step(items[:3])
    once = len(graphs)
    assert once >= 1
    step(items[:3])
    step(items[:2])
    synthesis.begin(short, 3)  # the lesson's second epoch
    step(items[:3])
    assert len(graphs) == once
    synthesis.begin(long, 2)
    step(items[:2])
    assert len(graphs) == 2 * once
    torch.manual_seed(0)
    plain = Synthesis(model, compiled=False)
    assert plain.of(collate([speech.dataset[item] for item in items[:3]])) == model.synthesize
    assert torch.isfinite(first)


def test_a_recipe_without_compile_is_eager_also_after_one_with(monkeypatch):
    monkeypatch.setattr(kernels, "fused", True)
    monkeypatch.setattr(kernels, "kernels", {})
    assert not choose_kernels(recipe_of(PHASE10, compile=False), torch.device("cpu"), lambda event: None)
    assert not kernels.fused
    assert kernels.kernels["snake"] is kernels.snake


def test_where_nothing_can_be_compiled_training_is_eager_and_says_so(monkeypatch):
    def without_compiler():
        raise RuntimeError("no C++ compiler\nand so on")

    monkeypatch.setattr("snac_pipeline.training.compiling.fuse_kernels", without_compiler)
    said = []
    assert not choose_kernels(recipe_of(PHASE10, compile=True), torch.device("cpu"), said.append)
    assert said[-1] == {"message": "training without compiled kernels, about half as fast: no C++ compiler"}
    assert not kernels.fused


def test_a_cpu_is_not_told_that_it_has_no_cuda_runtime(caplog):
    torchs = logging.getLogger("torch.utils.cpp_extension")
    torchs.warning("No CUDA runtime is found, using CUDA_HOME='%s'", "/usr/local")
    torchs.warning("something else")
    assert caplog.messages == ["something else"]
