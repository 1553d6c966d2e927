"""The host waits for the device only to read figures, and the device is never left waiting for what the host has read.

Without a GPU: a step on torch's device `meta`, which has shapes and no values, so that whatever asks it for one fails.
"""

import time

import pytest
import torch
from made_training import DOUBLE, NATIVE, PHASE10, PHASE12, SCRATCH, recipe_of
from torch.utils._python_dispatch import TorchDispatchMode

from snac_pipeline.training import data
from snac_pipeline.training.averaging import Average
from snac_pipeline.training.compiling import Synthesis
from snac_pipeline.training.data import Batch, Reader, collate
from snac_pipeline.training.loop import steps_of
from snac_pipeline.training.model import build_model, build_optimizer
from snac_pipeline.training.plan import Plan, Speech
from snac_pipeline.training.ranks import ALONE
from snac_pipeline.training.readings import Readings, Taken
from snac_pipeline.training.state import Training

META = torch.device("meta")


@pytest.fixture(scope="module")
def speech(shared):
    from snac_pipeline.codes.view import CodesView

    rows, start = shared.utterances, shared.start()
    digests = rows["digest"].to_list()
    view = shared.view(recipe_of(PHASE10))
    files, frames = rows["file"].to_list(), CodesView(view).frames
    with_codes = data.SpeechSlices(files, digests, start.spec, (NATIVE, DOUBLE), view)
    with_audio = data.SpeechSlices(files, digests, start.spec, (NATIVE,), None)
    return {True: Speech(with_codes, frames, digests), False: Speech(with_audio, frames, digests)}


class NothingMoves(TorchDispatchMode):
    """Raises where a tensor changes its device: on a GPU the host would wait for that copy."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            devices = {x.device for x in (*args, result) if isinstance(x, torch.Tensor)}
            assert len(devices) == 1, f"{function} between {devices}"
        return result


LOSSES = {"l1": 1.0, "magnitude": 1.0, "log_magnitude": 0.1, "mel": 1.0}
STEPS = {
    "phase10": {**PHASE10, "losses": LOSSES},
    "phase12, averaged, bf16, seeded noise, accumulated": {
        **PHASE12, "losses": LOSSES, "ema": 0.9, "precision": "bf16", "noise": "seeded", "accumulate": 2,
    },
    "from scratch": {**SCRATCH, "codebooks": {"start_step": 2, "restart_every": 1000}},
}  # fmt: skip


@pytest.mark.parametrize("content", STEPS.values(), ids=STEPS)
def test_a_step_asks_its_device_for_no_value_and_copies_nothing(content, shared, speech):
    recipe = recipe_of(content)
    used = speech[recipe.codec is None]
    model = build_model(recipe, None if recipe.codec else shared.start()).to(META)
    training, plan = Training(recipe, model, ALONE), Plan(recipe, model, used)
    training.progress.step = 3
    read = [collate([used.dataset[item] for item in batch]).to(META) for batch in plan.batches_from(0, 0)]
    taken = steps_of(0, plan, training, iter(read), Synthesis(model, compiled=False))
    next(taken)  # the first also brings filters and state to the device
    with NothingMoves():
        for _ in range(2):
            step = next(taken)
    assert step.figures["loss"].device == step.figures["gradient_norm"].device == META
    assert ("codebook_perplexity" in step.figures) == recipe.trains_codes
    with pytest.raises((RuntimeError, NotImplementedError)):
        step.figures["loss"].item()


def test_what_has_the_host_wait_is_found():
    """The test above can fail."""
    with NothingMoves(), pytest.raises(AssertionError, match="between"):
        torch.zeros(3).to(META)


def noted(losses, epoch=0):
    readings = Readings(None, None)
    for step, loss in enumerate(losses, 1):
        figures = {"loss": torch.tensor(loss), "gradient_norm": torch.tensor(2.0), "rate": 0.5, "audio_seconds": 1.0}
        readings.note(Taken(epoch, step, [], {**figures, "codebook_perplexity": torch.tensor([1.0, step])}))
    return readings


def test_steps_are_read_in_order_as_numbers_and_once():
    readings = noted([0.5, 0.25])
    first, second = readings.read()
    assert first == {
        "loss": 0.5, "gradient_norm": 2.0, "rate": 0.5, "audio_seconds": 1.0, "codebook_perplexity": [1.0, 1.0],
        "epoch": 0, "step": 1,
    }  # fmt: skip
    assert (second["loss"], second["step"], second["codebook_perplexity"]) == (0.25, 2, [1.0, 2.0])
    assert list(readings.read()) == []


def test_how_often_steps_are_read_changes_nothing(home, tmp_path, monkeypatch):
    """History, checkpoints and weights are those of a run that reads every step."""
    content = {**PHASE12, "checkpoints": {"every_steps": 4, "keep": 9}}
    outcomes = []
    for seconds in (0.0, 1e9):
        monkeypatch.setattr("snac_pipeline.training.loop.LOG_SECONDS", seconds)
        (tmp_path / f"{seconds}").mkdir()
        other = home.copy(tmp_path / f"{seconds}")
        told = []
        result = other.train(recipe_of(content), told.append)
        run = other.plan(recipe_of(content)).folder
        steps = [torch.load(file / "state.pt")["progress"]["history"] for file in sorted(run.glob("checkpoints/*"))]
        outcomes.append((result["weights_digest"], (run / "history.jsonl").read_text(), steps))
        assert sum("loss" in event and "fraction" in event for event in told) == (15 if seconds == 0.0 else 2)
    assert outcomes[0] == outcomes[1]


def test_fused_and_plain_adamw_take_the_same_steps(shared):
    recipe = recipe_of(PHASE12)
    models = [build_model(recipe, shared.start()) for _ in range(2)]
    fused, plain = (build_optimizer(recipe, model) for model in models)
    assert all(group["fused"] for group in fused.param_groups)
    for group in plain.param_groups:
        group["fused"] = False
    for step in range(5):
        for model, optimizer in zip(models, (fused, plain), strict=True):
            drawn = torch.Generator().manual_seed(step)
            for group in optimizer.param_groups:
                group["lr"] = 1e-3
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=drawn)
            optimizer.step()
    for ours, theirs in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)


def test_the_average_of_many_tensors_is_each_tensor_s():
    parameters = {
        f"{n}": torch.nn.Parameter(torch.randn(n, generator=torch.Generator().manual_seed(n))) for n in (3, 5)
    }
    average = Average(parameters, 0.5)
    expected = {name: mean.clone() for name, mean in average.means.items()}
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter += 1.0
            expected[name].lerp_(parameter, 1 - 7 / 16)
    average.update(6)
    assert all(torch.equal(average.means[name], mean) for name, mean in expected.items()) and len(expected) == 2


# ---- data ahead ----------------------------------------------------------------------------------------------------


def test_reading_goes_on_across_the_ends_of_epochs(shared, speech):
    """While an epoch is measured the next one's first batches are read."""
    recipe = recipe_of(PHASE10)
    plan = Plan(recipe, build_model(recipe, shared.start()), speech[True])
    first = sum(len(step) for step in plan.epoch(0))
    reader = Reader(speech[True].dataset, plan.batches_from(0, 0), ALONE, 0)
    for _ in range(first):
        next(reader)
    asked = time.monotonic()
    while reader.batches.gi_frame.f_locals["ready"].empty():
        assert time.monotonic() - asked < 30
        time.sleep(0.001)
    waited = reader.waited
    batch = next(reader)
    assert reader.waited - waited < 1.0
    [expected] = plan.epoch(1)[0]
    assert batch.row_B.tolist() == [item.row for item in expected]
    assert 1 + len(list(reader)) == sum(len(step) for epoch in (1, 2) for step in plan.epoch(epoch))


def test_batches_from_the_middle_of_an_epoch_are_the_rest(shared, speech):
    plan = Plan(recipe_of(PHASE10, accumulate=2), build_model(recipe_of(PHASE10), shared.start()), speech[True])
    every = [batch for epoch in range(3) for step in plan.epoch(epoch) for batch in step]
    before = sum(map(len, plan.epoch(0))) + sum(map(len, plan.epoch(1)[:2]))
    assert list(plan.batches_from(1, 2)) == every[before:]


def test_every_tensor_of_a_batch_is_moved_and_pinned(shared, speech, monkeypatch):
    """Pinning needs a GPU's driver: that each tensor is asked to is what can be seen here."""
    plan = Plan(recipe_of(PHASE10), build_model(recipe_of(PHASE10), shared.start()), speech[True])
    items = [speech[True].dataset[item] for item in plan.epoch(0)[0][0]]
    batch = collate(items)
    batch.cutoffs, batch.frames_B = {NATIVE: torch.ones(len(items))}, batch.valid_B
    tensors = [batch.row_B, *batch.codes, *batch.targets.values(), batch.offset_B, batch.valid_B, batch.start_B]
    count = len(tensors) + 2
    asked = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: asked.append(tensor) or tensor)
    pinned = batch.pin_memory()
    assert isinstance(pinned, Batch) and len(asked) == count
    assert torch.utils.data._utils.pin_memory.pin_memory(batch).valid_B is batch.valid_B and len(asked) == 2 * count
    moved = batch.to(META)
    assert all(x.device == META for x in (moved.row_B, *moved.codes, *moved.targets.values(), *moved.cutoffs.values()))
