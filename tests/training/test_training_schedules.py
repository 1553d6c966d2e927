"""Learning rates over steps."""

import math

import pytest
import torch
from made_training import PHASE12, recipe_of

from snac_pipeline.training.curve import learning_rates
from snac_pipeline.training.recipe import Stage
from snac_pipeline.training.schedules import learning_rate_factor


def stage(**fields):
    return Stage(**{"name": "main", "epochs": 1, "learning_rates": {"trunk": 1.0}, **fields})


def factors(steps, **fields):
    return [learning_rate_factor(stage(**fields), step, steps) for step in range(steps)]


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 10, 100, 333])
def test_onecycle_is_torch_s_with_the_peak_of_every_group_its_own(steps):
    """The field's scripts gave OneCycleLR one max_lr, which erases the groups' rates."""
    peaks = [5e-5, 1e-5, 2e-4]
    optimizer = torch.optim.SGD([{"params": [torch.zeros(1, requires_grad=True)]} for _ in peaks], lr=0.0)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=peaks, total_steps=steps)
    for step, factor in enumerate(factors(steps, schedule="onecycle")):
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(
            [peak * factor for peak in peaks], rel=1e-9
        ), step
        optimizer.step()
        if step + 1 < steps:
            scheduler.step()


@pytest.mark.parametrize("final", [0.0, 0.1, 0.5])
def test_cosine_falls_from_the_peak_to_its_final_fraction(final):
    rates = factors(101, schedule="cosine", final_fraction=final)
    assert rates[0] == 1.0
    assert rates[50] == pytest.approx((1 + final) / 2)
    assert rates[25] == pytest.approx(final + (1 - final) * (1 + math.cos(math.pi / 4)) / 2)
    assert rates[-1] == pytest.approx(final)
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_warm_up_is_linear_and_ends_at_the_peak(schedule):
    rates = factors(50, schedule=schedule, warmup_steps=10, final_fraction=0.2)
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[10] == 1.0
    assert rates[-1] == pytest.approx(1.0 if schedule == "constant" else 0.2)


@pytest.mark.parametrize("steps", [1, 5, 10])
def test_a_stage_shorter_than_its_warm_up_only_rises(steps):
    assert factors(steps, schedule="cosine", warmup_steps=10) == pytest.approx([(i + 1) / 10 for i in range(steps)])


def test_constant_is_constant():
    assert set(factors(9, schedule="constant")) == {1.0}


def test_the_curve_shows_each_group_at_its_own_rate_while_it_is_trained():
    recipe = recipe_of(PHASE12)
    measured = {"step": 3, "epoch": 0, "val_8000": 1.0}
    history = [{"step": 2, "epoch": 0, "rate": 0.5}, measured, {"step": 4, "epoch": 1, "rate": 0.1}]
    assert learning_rates(history, recipe) == {
        "double_head": [(2, 2e-3 * 0.5), (4, 2e-3 * 0.1)], "trunk": [(4, 1e-3 * 0.1)], "native_head": [(4, 5e-4 * 0.1)],
    }  # fmt: skip
