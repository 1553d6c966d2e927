"""From a recipe and a starting codec to the model that is trained and its groups of parameters."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from snac_pipeline.codec import SNAC, CodecSpec
from snac_pipeline.codec.layers import DecoderBlock, Snake
from snac_pipeline.errors import PipelineError
from snac_pipeline.training.noise_branch import noise_blocks
from snac_pipeline.training.recipe import GroupName, HeadName, Recipe, Stage

DECAYED = ("original1",)
"""Ends of the names of parameters that weight decay shrinks: directions of weight-normalised convolutions only."""

FUSED = ("cuda", "cpu")
"""Kinds of device that torch has a fused AdamW for."""


def build_model(recipe: Recipe, start: SNAC | None) -> SNAC:
    """A codec with the recipe's heads: `start`'s weights where it has them, else initialised from recipe.seed.

    Raises PipelineError when the recipe needs a starting codec and there is none, and for heads that cannot be made.
    """
    spec = starting_spec(recipe, start)
    torch.manual_seed(recipe.seed)
    model = SNAC(_with_heads(recipe, spec))
    if recipe.codec is not None:
        initialise(model)
    elif start is not None:
        # A head that `start` lacks keeps its initialisation; one that only `start` has is not carried on.
        wanted = model.state_dict().keys()
        result = model.load_state_dict({k: v for k, v in start.state_dict().items() if k in wanted}, strict=False)
        assert all(key.startswith("double_rate_head.") for key in result.missing_keys), result.missing_keys
    if "double" in recipe.heads and recipe.heads["double"].init == "copy" and not spec.has_double_head:
        block, (snake, last, _) = model.decoder.trunk[-1], model.decoder.model[-3:]
        assert isinstance(block, DecoderBlock) and isinstance(snake, Snake) and isinstance(last, nn.Conv1d)
        model.double_rate_head.copy_decoder(block, snake, last)
    return model


def starting_spec(recipe: Recipe, start: SNAC | None) -> CodecSpec:
    """The geometry that the recipe's heads are added to: of a codec of its own, or of `start`."""
    if recipe.codec is not None:
        return CodecSpec.from_dict(recipe.codec, source="recipe: codec")
    if start is None:
        raise PipelineError("the recipe has no `codec` of its own and no codec to start from was given")
    return start.spec


def _with_heads(recipe: Recipe, spec: CodecSpec) -> CodecSpec:
    """`spec` with the recipe's heads. A head at twice the rate that is there already has to be of the recipe's form."""
    rates = tuple(sorted(output_rates(recipe, spec).values()))
    if "double" not in recipe.heads:
        return dataclasses.replace(spec, output_rates=rates)
    head = recipe.heads["double"]
    form: dict[str, Any] = {
        "double_head_upsampler": head.upsampler,
        "double_head_interpolated": head.init == "interpolate",
    }
    there = {name: getattr(spec, name) for name in form}
    if spec.has_double_head and there != form:
        raise PipelineError(
            f"the codec to start from has a double head with {there}, and the recipe asks for {form}; "
            "give the recipe's heads.double the `upsampler` and `init` that it was trained with"
        )
    return dataclasses.replace(spec, output_rates=rates, **form)


@torch.no_grad()
def initialise(model: SNAC) -> None:
    """Random weights that let sound through: every layer keeps its input's variance, biases are zero.

    torch's default shrinks the signal by a third in variance at each of a codec's forty layers while its biases stay,
    so that every input gives the same latents and training learns to ignore them (measured: 5 of 1,024 codes in use
    after 875 steps). The first conv lifts speech (RMS about 0.1) to unit variance, the last takes it back.
    """
    convs = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Conv1d | nn.ConvTranspose1d)]
    for name, module in convs:
        if isinstance(module, nn.ConvTranspose1d):
            fan_in = module.in_channels // module.groups * module.kernel_size[0] / module.stride[0]
        else:
            fan_in = module.in_channels // module.groups * module.kernel_size[0]
        gain = fan_in**-0.5
        if name.startswith("encoder.block.0"):
            gain *= 10.0
        elif name == f"decoder.model.{len(model.decoder.trunk) + 1}":
            gain *= 0.1
        elif name.endswith("block.3") or name.endswith("linear"):
            gain *= 0.3  # the branches of residual units and of noise begin small beside what they are added to
        if not module.weight.any():
            continue  # the end of a double head's branch, which begins as nothing
        module.weight = torch.randn_like(module.weight) * gain
        if module.bias is not None:
            module.bias.zero_()


def output_rates(recipe: Recipe, spec: CodecSpec) -> dict[HeadName, int]:
    """Hz of each of the recipe's heads."""
    return {head: spec.sampling_rate * (2 if head == "double" else 1) for head in recipe.heads}


def group_of(name: str, model: SNAC) -> GroupName:
    """The group that the parameter called `name` belongs to."""
    if name.startswith("double_rate_head."):
        return "double_head"
    if name.startswith("decoder."):
        return "trunk" if int(name.split(".")[2]) < len(model.decoder.trunk) else "native_head"
    return "encoder" if name.startswith("encoder.") else "quantizer"


def build_optimizer(recipe: Recipe, model: SNAC) -> torch.optim.AdamW:
    """AdamW with, for every group that some stage trains, a decayed and an undecayed list of parameters.

    Fused into one pass over memory for each list where torch can: its step count is then on the device too.
    """
    trained = set().union(*(stage.learning_rates for stage in recipe.stages))
    lists: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        group = group_of(name, model)
        if group in trained:
            lists.setdefault((group, name.endswith(DECAYED)), []).append(parameter)
    options, device = recipe.optimizer, next(model.parameters()).device
    return torch.optim.AdamW(
        [
            {"params": params, "name": group, "weight_decay": options.weight_decay if decayed else 0.0}
            for (group, decayed), params in sorted(lists.items(), key=lambda item: item[0])
        ],
        lr=0.0,
        betas=options.betas,
        fused=device.type in FUSED,
    )


def enter_stage(stage: Stage, model: SNAC, *, trains_noise: bool = True) -> None:
    """Let gradients flow into the stage's groups only, and into the trunk's noise branch only if it is trained."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(group_of(name, model) in stage.learning_rates)
        parameter.grad = None
    if not trains_noise:
        for block in noise_blocks(model):
            block.requires_grad_(False)


def trained_parameters(model: SNAC) -> Iterator[nn.Parameter]:
    """The parameters of the current stage."""
    return (parameter for parameter in model.parameters() if parameter.requires_grad)
