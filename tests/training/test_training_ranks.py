"""Several processes train one model: the step is that of the whole batch, and none goes on alone."""

import contextlib
import json
import os
import signal
from pathlib import Path

import pytest
import torch
from made_training import LOST, PHASE10, SCRATCH, places_of, processes, recipe_of, start_together, steps_saved
from torch import nn

from snac_pipeline.codec import SNAC
from snac_pipeline.engine import ChildFailed
from snac_pipeline.files import read_json
from snac_pipeline.settings import load_settings
from snac_pipeline.steps.training import train
from snac_pipeline.training import ranks as ranks_module
from snac_pipeline.training.ranks import GradientSum, Ranks, joined

GENTLE = {**PHASE10["stages"][0], "learning_rates": {"trunk": 1e-5, "native_head": 1e-5}}
TOGETHER = {**PHASE10, "stages": [GENTLE], "noise": "seeded", "checkpoints": {"every_steps": 3, "keep": 9}}
"""Small steps, since AdamW's division makes much of gradients that cancel to their rounding."""


@pytest.fixture(autouse=True)
def one_name_for_this_machine(monkeypatch):
    """gloo asks for the address of the machine's name, which a container may not have."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")


def trained_together(home, content, lost_at=None):
    children = start_together(home, content, lost_at=lost_at)
    for child in children:
        child.join()
    return [child.exitcode for child in children]


def curve(home, content):
    return [entry["loss"] for entry in history(home, content) if "loss" in entry]


def history(home, content):
    return [json.loads(line) for line in (home.plan(recipe_of(content)).folder / "history.jsonl").open()]


def largest_difference(home, other, content):
    ours, theirs = (
        SNAC.from_pretrained(h.plan(recipe_of(content)).result()["model"]).state_dict() for h in (home, other)
    )
    return max(float((ours[name] - theirs[name]).abs().max() / theirs[name].abs().max()) for name in theirs)


@pytest.fixture(scope="module")
def both(shared, tmp_path_factory):
    """Homes in which TOGETHER was trained by two processes and by one."""
    two, one = (shared.copy(tmp_path_factory.mktemp(name)) for name in ("two", "one"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLOO_SOCKET_IFNAME", "lo")
        assert trained_together(two, TOGETHER) == [0, 0]
    one.train(recipe_of(TOGETHER))
    return two, one


def test_two_processes_take_the_steps_of_one(both):
    two, one = both
    assert curve(two, TOGETHER) == pytest.approx(curve(one, TOGETHER), rel=1e-5)
    assert largest_difference(two, one, TOGETHER) < 1e-5
    ours, theirs = (home.plan(recipe_of(TOGETHER)).result() for home in both)
    for figure in ("baseline", "final", "improvement"):
        assert ours[figure] == pytest.approx(theirs[figure], rel=1e-4)
    ours, theirs = ([e["noise_gain"] for e in history(home, TOGETHER) if "noise_gain" in e] for home in both)
    assert len(ours) == len(theirs) > 1
    for here, there in zip(ours, theirs, strict=True):
        assert here == pytest.approx(there, rel=1e-4)
    log = (two.plan(recipe_of(TOGETHER)).folder / "log.txt").read_text()
    assert log.count("before training") == 1, "only one of them writes"


def test_a_process_that_is_killed_ends_the_others_and_the_run_goes_on_exactly(home, both):
    two, _ = both
    run = home.plan(recipe_of(TOGETHER)).folder
    assert trained_together(home, TOGETHER, lost_at=9) == [LOST, -signal.SIGKILL]
    assert steps_saved(run)[-1] == 6
    assert trained_together(home, TOGETHER) == [0, 0]
    assert "resuming at step 6" in (run / "log.txt").read_text()
    assert curve(home, TOGETHER) == curve(two, TOGETHER)
    assert largest_difference(home, two, TOGETHER) == 0.0


@pytest.mark.slow
def test_the_codebooks_of_two_processes_are_those_of_one(shared, tmp_path):
    rates = dict.fromkeys(("encoder", "quantizer", "trunk", "native_head"), 1e-5)
    content = {**SCRATCH, "stages": [{"name": "main", "epochs": 3, "learning_rates": rates}], "noise": "off"}
    content = {**content, "accumulate": 2, "ema": 0.9, "codebooks": {"start_step": 2, "restart_every": 3}}
    two, one = shared.copy(tmp_path / "two"), shared.copy(tmp_path / "one")
    assert trained_together(two, content) == [0, 0]
    one.train(recipe_of(content))
    assert curve(two, content)[:2] == pytest.approx(curve(one, content)[:2], rel=1e-5)
    assert curve(two, content) == pytest.approx(curve(one, content), rel=1e-2)


@pytest.mark.parametrize("items, world", [(1, 2), (5, 2), (6, 3), (7, 4)])
def test_shares_are_consecutive_and_whole(items, world):
    batch = list(range(items))
    shares = [Ranks(rank, world).share(batch) for rank in range(world)]
    assert [item for share in shares for item in share] == batch
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


class Parts(nn.Module):
    """A part that only odd numbers use, one that nothing uses, and three layers, each a piece of its own."""

    def __init__(self):
        super().__init__()
        self.odd, self.unused = nn.Linear(4, 4), nn.Linear(4, 4)
        self.layers = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)))

    def forward(self, number: int) -> torch.Tensor:
        x = torch.arange(4.0)[None] + number
        return self.layers(self.odd(x) if number % 2 else x).square().sum()


def one_of_three(rank: int, place: dict[str, str], folder: Path) -> None:
    """Process 0 has item 0, process 1 the items 1 and 2, process 2 none."""
    torch.manual_seed(1)
    model = Parts()
    os.environ |= place
    ranks_module.PIECE_BYTES = 80
    with joined(["cpu"] * 3) as (ranks, _):
        added = GradientSum(model.parameters(), ranks)
        assert [len(piece) for piece in added.pieces] == [2] * 5
        under_way = []
        model.layers[0].register_full_backward_hook(lambda *_: under_way.append(len(added.sent)))
        numbers = [[0], [1, 2], []][rank]
        total = torch.zeros(())
        for number in numbers:
            loss = model(number)
            with added.last_backward() if number == numbers[-1] else contextlib.nullcontext():
                loss.backward()
            total = total + loss.detach()
        added.send_rest()
        assert ranks.gather(rank) == [0, 1, 2]  # whatever else they do together comes in its order
        total = added.finish(total)
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        torch.save({"gradients": gradients, "loss": total, "under_way": under_way}, folder / f"{rank}.pt")


def test_gradients_are_added_up_in_pieces_while_the_backward_pass_goes_on(tmp_path):
    places = enumerate(places_of(3))
    children = [processes.Process(target=one_of_three, args=(rank, place, tmp_path)) for rank, place in places]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0, 0]
    torch.manual_seed(1)
    alone = Parts()
    loss = sum(alone(number) for number in range(3))
    loss.backward()
    for rank in range(3):
        saved = torch.load(tmp_path / f"{rank}.pt")
        assert saved["loss"] == pytest.approx(float(loss.detach()), rel=1e-6)
        assert saved["gradients"]["unused.weight"] is None and alone.unused.weight.grad is None
        for name, parameter in alone.named_parameters():
            torch.testing.assert_close(saved["gradients"][name], parameter.grad)
        # Before the first layer's own gradients are there, those of the two after it are on their way.
        assert saved["under_way"] == [[2], [0, 2], []][rank]


# ---- as a user starts them -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_several_devices_are_several_processes_and_one_that_is_lost_is_told(home, both, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    recipe = home.folder / "recipe.yaml"
    settings = load_settings(home.folder / "pipeline.yaml").model_copy(update={"devices": ["cpu", "cpu"]})
    run = home.plan(recipe_of(TOGETHER)).folder

    def kill(event):
        if "fraction" in event:
            os.kill(json.loads((run / "progress.json").read_text())["pid"], signal.SIGKILL)

    recipe.write_text(json.dumps(TOGETHER))
    with pytest.raises(ChildFailed, match="one of the 2 processes of this training was lost") as error:
        train(settings, "decoder_24khz", kill)
    assert "run it again to go on from the last checkpoint" in str(error.value)
    tried = recipe.rename(home.folder / "tried.yaml")
    recipe.write_text(json.dumps({**TOGETHER, "batch_size": 2}))
    result = train(settings, "decoder_24khz", lambda event: None, tried)
    assert result["run"] == str(run) and read_json(home.work / "decoders" / "decoder_24khz.json") == {"run": run.name}
    assert result["weights_digest"] == both[0].plan(recipe_of(TOGETHER)).result()["weights_digest"]
