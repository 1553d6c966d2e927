"""bfloat16 where it is meant to be and nowhere else."""

import pytest
import torch
from made_training import CODEC, NATIVE, PHASE10, PHASE12, recipe_of
from torch import nn

from snac_pipeline.codec import CodecSpec
from snac_pipeline.codec.layers import LocalAttention, Snake
from snac_pipeline.training.codebooks import CodebookCare
from snac_pipeline.training.data import Batch
from snac_pipeline.training.loop import training_step
from snac_pipeline.training.model import build_model, build_optimizer, enter_stage

from geometries import build, random_codes  # isort: skip

WINDOWED = {**CODEC, "encoder_dim": 8, "decoder_dim": 64, "attn_window_size": 8}


def one_step(content, geometry, precision):
    """Loss, model, and the types that every layer of the decoder gave, by name."""
    recipe = recipe_of(content, precision=precision, noise="seeded")
    base = build(CodecSpec.from_dict(geometry))
    model = build_model(recipe, base)
    enter_stage(recipe.stages[-1], model)
    given = {}

    def keep(name):
        return lambda module, inputs, output: given.update({name: output.dtype})

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv1d | nn.ConvTranspose1d | Snake | LocalAttention) and "quantizer" not in name:
            module.register_forward_hook(keep(name))
    spec, frames = model.spec, 2 * model.spec.alignment
    torch.manual_seed(1)
    codes = random_codes(spec, frames, batch=2)
    targets = {rate: 0.1 * torch.randn(2, 1, spec.samples(frames, rate)) for rate in spec.output_rates}
    first = torch.zeros(2, dtype=torch.int64)
    batch = Batch([0, 1], codes, None, targets, None, first, torch.full((2,), frames), start_B=first)
    weights = {name: 1.0 for name in recipe.heads}
    loss = training_step(recipe, model, batch, weights, CodebookCare(model, recipe.codebooks), 0)
    loss.backward()
    return loss, model, given, recipe


@pytest.mark.parametrize("head", [{}, {"init": "random", "upsampler": "dense"}], ids=["interpolated", "dense"])
@pytest.mark.parametrize("geometry", [CODEC, WINDOWED], ids=["plain", "windows"])
def test_the_decoder_computes_in_bfloat16_and_all_that_lasts_is_float32(geometry, head):
    heads = {**PHASE12["heads"], "double": {**PHASE12["heads"]["double"], **head}}
    loss, model, given, recipe = one_step({**PHASE12, "heads": heads}, geometry, "bf16")
    lasts = {
        f"decoder.model.{len(model.decoder.model) - 2}",
        f"double_rate_head.branch.{len(model.double_rate_head.branch) - 1}",
    }
    assert {name for name, kind in given.items() if kind == torch.float32} == lasts
    assert {name for name, kind in given.items() if kind == torch.bfloat16} == given.keys() - lasts
    assert len(given) > 30
    assert loss.dtype == torch.float32
    trained = [p for p in model.parameters() if p.grad is not None]
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in trained)
    optimizer = build_optimizer(recipe, model)
    optimizer.step()
    kept = [value for state in optimizer.state.values() for value in state.values()]
    assert len(kept) >= 2 * len(trained) and {value.dtype for value in kept} == {torch.float32}


@pytest.mark.parametrize("geometry", [CODEC, WINDOWED], ids=["plain", "windows"])
def test_its_loss_and_gradients_are_close_to_those_in_float32(geometry):
    """Without the logarithm, whose gradient at bins that are almost empty is mostly rounding."""
    content = {**PHASE10, "losses": {"l1": 1.0, "magnitude": 1.0}}
    (half, rounded, *_), (whole, exact, *_) = (one_step(content, geometry, p) for p in ("bf16", "fp32"))
    assert half.item() == pytest.approx(whole.item(), rel=0.01)
    ours, theirs = (
        torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]) for model in (rounded, exact)
    )
    assert torch.nn.functional.cosine_similarity(ours, theirs, dim=0) > 0.995


def test_in_float32_everything_is_float32():
    _, _, given, _ = one_step(PHASE12, CODEC, "fp32")
    assert set(given.values()) == {torch.float32}


def test_a_run_in_bfloat16_learns_and_is_measured_in_float32(home):
    half, whole = (home.train(recipe_of(PHASE10, precision=precision)) for precision in ("bf16", "fp32"))
    assert half["baseline"] == whole["baseline"]
    assert half["final"][str(NATIVE)] == pytest.approx(whole["final"][str(NATIVE)], rel=0.05)
    assert half["weights_digest"] != whole["weights_digest"]
