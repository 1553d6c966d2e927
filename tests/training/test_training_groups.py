"""The model that a recipe trains: what it starts as, which parts learn at which rate, which stay as they are."""

import pytest
import torch
from made_training import CODEC, DOUBLE, NATIVE, PHASE10, PHASE12, SCRATCH, recipe_of

from snac_pipeline.codec import CodecSpec, Noise, double_rate
from snac_pipeline.errors import PipelineError
from snac_pipeline.training.codebooks import CodebookCare
from snac_pipeline.training.data import Batch
from snac_pipeline.training.loop import training_step
from snac_pipeline.training.model import build_model, build_optimizer, enter_stage, group_of, trained_parameters

from geometries import build, random_codes  # isort: skip

DUAL = recipe_of(PHASE12)
COPYABLE = CodecSpec.from_dict({**CODEC, "encoder_rates": [2, 8, 4], "decoder_rates": [8, 4, 2]})
"""A last decoder block that upsamples by 2, as those of the published codecs do."""
ALL = ("encoder", "quantizer", "trunk", "native_head", "double_head")


@pytest.fixture(scope="module")
def base():
    return build(CodecSpec.from_dict(CODEC))


@pytest.fixture
def dual(base):
    return build_model(DUAL, base)


def grouped(model):
    groups = {group: [] for group in ALL}
    for name, _ in model.named_parameters():
        groups[group_of(name, model)].append(name)
    return groups


def test_the_groups_hold_every_parameter_once_where_it_belongs(dual):
    groups = grouped(dual)
    assert all(groups.values())
    assert sum(map(len, groups.values())) == len(dict(dual.named_parameters()))
    for group, prefix in {"encoder": "encoder.", "quantizer": "quantizer.", "double_head": "double_rate_head."}.items():
        assert all(name.startswith(prefix) for name in groups[group])
    head = {f"decoder.model.{len(dual.decoder.model) - n}" for n in (3, 2)}
    assert {name.rsplit(".", 1)[0].removesuffix(".parametrizations.weight") for name in groups["native_head"]} == head


def test_the_optimizer_holds_every_trained_parameter_once_and_decays_only_directions(base):
    every = recipe_of(
        PHASE12, stages=[{**PHASE12["stages"][0], "epochs": 3, "learning_rates": dict.fromkeys(ALL, 1e-3)}]
    )
    model = build_model(every, base)
    groups = build_optimizer(every, model).param_groups
    held = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in model.parameters())
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            assert group["name"] == group_of(name, model)
            direction = name.endswith("original1")
            assert (group["weight_decay"] > 0) == direction, name


@pytest.mark.parametrize("stage", DUAL.stages, ids=lambda stage: stage.name)
def test_only_a_stage_s_groups_have_gradients(dual, stage):
    enter_stage(stage, dual)
    trained = {id(parameter) for parameter in trained_parameters(dual)}
    for name, parameter in dual.named_parameters():
        assert (id(parameter) in trained) == parameter.requires_grad == (group_of(name, dual) in stage.learning_rates)


# ---- before the first step -----------------------------------------------------------------------------------------


def outputs(model, rates, codes):
    with torch.inference_mode():
        return model.synthesize(model.dequantize(codes), Noise("seeded", 3), rates)


def test_an_untrained_second_head_is_the_base_decoder_and_its_interpolation(base, dual):
    codes = random_codes(base.spec, 12)
    whole = outputs(base, (NATIVE,), codes)[NATIVE]
    both = outputs(dual, (NATIVE, DOUBLE), codes)
    assert torch.equal(both[NATIVE], whole)
    assert (both[DOUBLE] - double_rate(whole)).abs().max() < 1e-6


FORMS = [("interpolate", "depthwise"), ("interpolate", "dense"), ("copy", "dense"), ("random", "depthwise")]


def begun(init, upsampler, start, **changes):
    double = {**PHASE12["heads"]["double"], "init": init, "upsampler": upsampler}
    return build_model(recipe_of(PHASE12, heads={**PHASE12["heads"], "double": double}, **changes), start)


@pytest.mark.parametrize(("init", "upsampler"), FORMS)
def test_however_the_second_head_begins_the_native_output_is_the_base_decoder_s_bit_for_bit(init, upsampler):
    start, codes = build(COPYABLE), random_codes(COPYABLE, 12)
    whole = outputs(start, (NATIVE,), codes)[NATIVE]
    both = outputs(begun(init, upsampler, start), (NATIVE, DOUBLE), codes)
    assert torch.equal(both[NATIVE], whole)
    interpolated = (both[DOUBLE] - double_rate(whole)).abs().max() < 1e-5
    assert interpolated == (init == "interpolate")


def test_copy_takes_the_decoder_s_last_block_and_random_does_not():
    start = build(COPYABLE)
    source = start.decoder.trunk[-1].block[1].weight
    for init, same in (("copy", True), ("random", False)):
        upsample = begun(init, "dense", start).double_rate_head.branch[1]
        assert torch.allclose(upsample.weight, source[: upsample.in_channels], atol=1e-6) == same


def test_a_scratch_codec_s_interpolating_head_begins_as_interpolation_too():
    heads = {"native": {}, "double": {}}
    stages = [
        {**SCRATCH["stages"][0], "learning_rates": {**SCRATCH["stages"][0]["learning_rates"], "double_head": 1e-3}}
    ]
    model = build_model(recipe_of(SCRATCH, heads=heads, stages=stages), None)
    both = outputs(model, (NATIVE, DOUBLE), random_codes(model.spec, 8))
    assert (both[DOUBLE] - double_rate(both[NATIVE])).abs().max() < 1e-6


def test_a_trained_head_of_another_form_than_the_recipe_s_is_refused(base):
    start = begun("interpolate", "dense", base)
    assert begun("interpolate", "dense", start).spec == start.spec
    with pytest.raises(PipelineError, match=r"has a double head with .*dense.*the recipe asks for .*depthwise"):
        begun("interpolate", "depthwise", start)


def test_a_trained_copied_head_is_carried_on_and_not_copied_again():
    start = begun("copy", "dense", build(COPYABLE))
    with torch.no_grad():
        start.double_rate_head.branch[-1].weight.fill_(0.1)
    again = begun("copy", "dense", start)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), start.parameters(), strict=True))


def test_a_model_is_a_copy_and_carries_no_head_that_its_recipe_does_not_train(base, dual):
    single = build_model(recipe_of(PHASE10), dual)
    assert single.spec.output_rates == (NATIVE,)
    assert single.state_dict().keys() == base.state_dict().keys()
    with torch.no_grad():
        next(single.decoder.parameters()).zero_()
    assert next(dual.decoder.parameters()).abs().sum() > 0


def test_a_trained_second_head_is_carried_on(base, dual):
    with torch.no_grad():
        dual.double_rate_head.branch[-1].weight.fill_(0.1)
    again = build_model(DUAL, dual)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), dual.parameters(), strict=True))


def test_a_codec_of_one_s_own_depends_on_the_seed_alone():
    first, again, other = (build_model(recipe_of(SCRATCH, seed=seed), None).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_a_recipe_without_a_codec_needs_one_to_start_from():
    with pytest.raises(PipelineError, match="start from"):
        build_model(DUAL, None)


# ---- gradients -----------------------------------------------------------------------------------------------------


def batch_of(spec, rates, frames=8):
    codes = random_codes(spec, frames, batch=2)
    targets = {rate: 0.1 * torch.randn(2, 1, spec.samples(frames, rate)) for rate in rates}
    zeros = torch.zeros(2, dtype=torch.int64)
    return Batch([0, 1], codes, None, targets, None, zeros, torch.full((2,), frames), zeros)


def native_head_gradients(dual, recipe, weights):
    """Of the published head after one step."""
    enter_stage(recipe.stages[-1], dual)
    with torch.no_grad():
        dual.double_rate_head.branch[-1].weight.fill_(0.1)
    batch = batch_of(dual.spec, (NATIVE, DOUBLE))
    training_step(recipe, dual, batch, weights, CodebookCare(dual, recipe.codebooks), 0).backward()
    size = {group: 0.0 for group in ALL}
    for name, parameter in dual.named_parameters():
        if parameter.grad is not None:
            size[group_of(name, dual)] += float(parameter.grad.abs().sum())
    return size


def test_detached_the_48_khz_loss_reaches_the_trunk_but_not_the_24_khz_output(dual):
    size = native_head_gradients(dual, DUAL, {"native": 0.0, "double": 1.0})
    assert size["native_head"] == size["encoder"] == size["quantizer"] == 0.0
    assert size["trunk"] > 0
    assert size["double_head"] > 0


def test_attached_it_reaches_the_24_khz_output_too(dual):
    size = native_head_gradients(dual, recipe_of(PHASE12, detach_native=False), {"native": 0.0, "double": 1.0})
    assert size["native_head"] > 0
