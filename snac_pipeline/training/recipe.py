"""Recipes: how one model is trained, as a YAML file checked field by field.

In: recipes/*.yaml, and an overlay for short runs. Out: a `Recipe`, whose `identity()` names everything that changes
the result and so the run's folder.
"""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import pydantic

from snac_pipeline.errors import PipelineError
from snac_pipeline.settings import Section, parse_model, read_yaml

GroupName = Literal["encoder", "quantizer", "trunk", "native_head", "double_head"]
"""Parts of the model with a learning rate of their own: the decoder's trunk (all but its last Snake and conv), the
published head (those two), and the head at twice the rate."""

HeadName = Literal["native", "double"]
"""Output at the codec's sampling rate, and at twice that."""

TargetKind = Literal["resampled", "native", "lowpassed", "restored"]
"""What the head at twice the rate is compared with; see `Recipe.targets`."""

NoiseName = Literal["on", "off", "seeded"]
"""Where the decoder's noise comes from while training; see training/noise_branch.py."""


def _word_of_switch(value: Any) -> Any:
    """YAML reads a bare `on` or `off` as true or false."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


class Head(Section):
    """An output that the loss looks at."""

    weight: float = pydantic.Field(1.0, ge=0)
    """Factor of this head's loss in the total."""
    n_ffts: list[Annotated[int, pydantic.Field(ge=4)]] = pydantic.Field([1024, 2048, 4096], min_length=1)
    """STFT sizes; the hop is a quarter, the window Hann."""
    init: Literal["interpolate", "copy", "random"] = "interpolate"
    """How a new `double` head begins: as exact interpolation of the native output, to which a branch is added that is
    zero at first; as a copy of the decoder's last block and published head (`dense` only); or at random."""
    upsampler: Literal["depthwise", "dense"] = "depthwise"
    """Of a new `double` head: half the channels (64 -> 32) with depthwise convs, or all (64 -> 64) with dense ones."""


class Losses(Section):
    """Weights of the loss terms of every head; terms of weight 0 are not computed."""

    l1: float = pydantic.Field(1.0, ge=0)
    """Mean absolute difference of the waveforms."""
    magnitude: float = pydantic.Field(1.0, ge=0)
    """Mean absolute difference of STFT magnitudes, averaged over the scales."""
    log_magnitude: float = pydantic.Field(0.0, ge=0)
    """The same of the logarithms; keeps the decoder's noise, which L1 trains away and magnitudes in part."""
    mel: float = pydantic.Field(0.0, ge=0)
    """Mean absolute difference of log mel-band magnitudes, averaged over the scales; keeps the level and the timbre of
    a codec that does not follow the waveform's phase, where the first two terms are smallest for output too quiet."""
    commitment: float = pydantic.Field(0.25, ge=0)
    """Pull of the encoder towards the chosen codes; only when the quantizer is trained."""
    codebook: float = pydantic.Field(1.0, ge=0)
    """Pull of the codes towards the encoder; only when the quantizer is trained."""
    compat: bool = False
    """STFTs without a window, as older scripts had them: to compare with their figures, not to train better."""


class Stage(Section):
    """Consecutive epochs with one set of trained parts and one learning-rate curve."""

    name: str
    """What it is called in messages."""
    epochs: int = pydantic.Field(ge=1)
    """How many, one after the other; over all stages as many as over the curriculum."""
    learning_rates: dict[GroupName, Annotated[float, pydantic.Field(ge=0)]] = pydantic.Field(min_length=1)
    """Peak learning rate of each trained part; parts not listed are frozen."""
    schedule: Literal["constant", "cosine", "onecycle"] = "cosine"
    """Of every group's own rate: constant; half a cosine down to `final_fraction`; or up from 1/25 over the first
    30 % and down to 1/250,000 (Smith and Topin, 2018; the defaults of torch's OneCycleLR)."""
    warmup_steps: int = pydantic.Field(0, ge=0)
    """Steps of linear warm-up in front of `constant` and `cosine`."""
    final_fraction: float = pydantic.Field(0.1, ge=0, le=1)
    """Where `cosine` ends, as a fraction of the peak."""
    head_weights: dict[HeadName, Annotated[float, pydantic.Field(ge=0)]] = pydantic.Field(default_factory=dict)
    """Weights that replace those of `heads` during this stage."""


class Lesson(Section):
    """Consecutive epochs with one segment length."""

    epochs: int = pydantic.Field(ge=1)
    """How many."""
    seconds: float = pydantic.Field(gt=0)
    """Length of the supervised segments; rounded to whole coarse frames (with attention: whole windows)."""
    batch_multiplier: float = pydantic.Field(1.0, gt=0)
    """Times batch_size, rounded down."""

    def batch_of(self, batch_size: int) -> int:
        """batch_size x batch_multiplier, rounded down as decimals are: 100 x 0.29 is 29, not 28.999..."""
        return int(batch_size * Fraction(str(self.batch_multiplier)))


Decay = Annotated[float, pydantic.Field(ge=0, lt=1)]


class Optimizer(Section):
    """AdamW."""

    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """Decay of the running means of gradients and of their squares."""
    weight_decay: float = pydantic.Field(1e-4, ge=0)
    """Of convolution directions only, never of gains, biases, Snake's alphas or codebooks."""
    grad_clip: float = pydantic.Field(1.0, gt=0)
    """Largest norm of all gradients together."""


class Validation(Section):
    """The held-out measurement before, during and after training."""

    utterances: int = pydantic.Field(64, ge=1)
    """Held-out utterances at most, the same ones every time."""
    seconds: float = pydantic.Field(4.0, gt=0)
    """Only so much from the start of each is used."""
    every_epochs: int = pydantic.Field(1, ge=1)
    """Epochs from one measurement to the next; the last is always measured."""


class Codebooks(Section):
    """How codebooks are started and kept in use, when the quantizer is trained; see training/codebooks.py."""

    start_step: int = pydantic.Field(0, ge=0)
    """Latents are not rounded before this step; then the codes start on the encoder's own vectors. 0: the codebooks
    are a trained codec's and are not started anew."""
    restart_every: int = pydantic.Field(100, ge=1)
    """Steps after which codes that nothing chose are moved."""
    restart_until: float = pydantic.Field(0.8, ge=0, le=1)
    """Fraction of training after which codes are left alone."""


class Checkpoints(Section):
    """When to save, besides after every epoch and on SIGINT and SIGTERM. Nothing here changes results, so that a
    changed cadence resumes the same run."""

    every_minutes: float = pydantic.Field(10.0, gt=0)
    """Minutes from one checkpoint to the next; each epoch ends with one too."""
    every_steps: int | None = pydantic.Field(None, ge=1)
    """Steps from one to the next; absent: minutes alone decide."""
    keep: int = pydantic.Field(2, ge=1)
    """Newest checkpoints that are kept; the best model so far is kept beside them, in best/."""


class Recipe(Section):
    """One training, whole."""

    phase: Literal["phase10", "phase11", "phase12", "scratch"]
    """What the run is called, and which part of an overlay applies to it."""
    codec: dict[str, Any] | None = None
    """config.json fields of a new codec with random weights (scratch); absent: start from a trained one."""
    heads: dict[HeadName, Head] = pydantic.Field(min_length=1)
    targets: TargetKind = "resampled"
    """Of the `double` head. `resampled`: every recording, whatever its own band. `native`: only recordings with content
    up to `native_bandwidth`; others are left out. `lowpassed`: every recording, output and target both low-passed at
    the recording's own cut-off before the loss. `restored`: the audio of `snac-pipeline restore`."""
    native_bandwidth: float = pydantic.Field(0.65, gt=0, le=1)
    """Share of the band, up to half of the double rate, that a recording has to fill to count as `native`."""
    detach_native: bool = False
    """Keep the double-rate loss out of the native output that the double-rate head interpolates."""
    stages: list[Stage] = pydantic.Field(min_length=1)
    curriculum: list[Lesson] = pydantic.Field(min_length=1)
    batch_size: int = pydantic.Field(ge=1)
    """Segments in a batch, over all devices together, before a lesson's multiplier."""
    accumulate: int = pydantic.Field(1, ge=1)
    """Batches of one step of the optimizer: as a batch so many times the size, in the memory of one."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """What the decoder computes in while training. Weights, the optimizer, the last conv of each head, the loss, the
    encoder and the quantizer (whose codes bf16 would change), and every measurement are fp32 in either."""
    ema: float | None = pydantic.Field(None, gt=0, lt=1)
    """Decay of an exponential moving average of the weights, e.g. 0.999, which is then what is measured and saved."""
    keep_best: bool = False
    """Whether the run's model is the one of the epoch with the least held-out loss; else that of the last step."""
    losses: Losses = Losses()
    optimizer: Optimizer = Optimizer()
    noise: Annotated[NoiseName, pydantic.BeforeValidator(_word_of_switch)] = "on"
    """The decoder's noise while training: drawn anew at every step; left out; or the same for an utterance in every
    epoch, as decoding it whole with seeded noise has it. Validation always uses seeded noise."""
    noise_branch: Literal["trained", "frozen"] = "trained"
    """Whether what scales the noise is trained with the trunk, or stays as it starts."""
    context_frames: int | None = pydantic.Field(None, ge=0)
    """Coarse frames decoded on each side but not supervised; absent: what makes slices exact for this codec."""
    validation: Validation = Validation()
    codebooks: Codebooks = Codebooks()
    seed: int = pydantic.Field(0, ge=0)
    """Of everything drawn at random: new weights, slices, their order, noise."""
    compile: bool = True
    """Use fused kernels where a C++ compiler is found; the eager way is said aloud when taken. Changes rounding."""
    loader_workers: int = pydantic.Field(0, ge=0)
    """Processes that read ahead; 0: a thread of this one."""
    checkpoints: Checkpoints = Checkpoints()

    @pydantic.field_validator("codec")
    @classmethod
    def _is_codec(cls, codec: dict[str, Any] | None) -> dict[str, Any] | None:
        if codec is not None:
            from snac_pipeline.codec import CodecSpec  # imports torch, which most recipes are read without

            CodecSpec.from_dict(codec, source="config.json")
        return codec

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        staged, taught = self.epochs, sum(lesson.epochs for lesson in self.curriculum)
        if staged != taught:
            raise ValueError(f"the stages have {staged} epochs together, the curriculum {taught}")
        groups = set().union(*(stage.learning_rates for stage in self.stages))
        if "double_head" in groups and "double" not in self.heads:
            raise ValueError("double_head has a learning rate, but heads has no `double`")
        if self.codec is None and "encoder" in groups and "quantizer" not in groups:
            raise ValueError("the encoder is trained but the quantizer is not: give both a learning rate, or neither")
        self._consistent_heads()
        for stage in self.stages:
            if unknown := set(stage.head_weights) - set(self.heads):
                raise ValueError(f"stage {stage.name!r}: head_weights names `{unknown.pop()}`, which heads does not")
            if not any(stage.head_weights.get(name, head.weight) for name, head in self.heads.items()):
                raise ValueError(f"stage {stage.name!r}: every head has weight 0, so there is nothing to learn from")
        for lesson in self.curriculum:
            if lesson.batch_of(self.batch_size) < 1:
                raise ValueError(f"batch_size {self.batch_size} x {lesson.batch_multiplier} rounds down to 0")
        return self

    def _consistent_heads(self) -> None:
        if "double" not in self.heads and self.targets != "resampled":
            raise ValueError(f"targets `{self.targets}` are those of a double head, but heads has no `double`")
        for name, head in self.heads.items():
            # By value, since a recipe that was written out names every field.
            if name != "double" and (head.init, head.upsampler) != (Head().init, Head().upsampler):
                raise ValueError(f"heads.{name}: `init` and `upsampler` are about a new `double` head only")
            if head.init == "copy" and head.upsampler != "dense":
                raise ValueError("heads.double: init `copy` needs `upsampler: dense`, which is as wide as its source")

    @property
    def epochs(self) -> int:
        """Passes over the training speech."""
        return sum(stage.epochs for stage in self.stages)

    @property
    def trains_codes(self) -> bool:
        """Whether encoder or quantizer change, so that audio and not cached codes is the input."""
        return any({"encoder", "quantizer"} & set(stage.learning_rates) for stage in self.stages)

    @property
    def trains_noise(self) -> bool:
        """Whether the noise branch gets gradients."""
        return self.noise != "off" and self.noise_branch == "trained"

    def identity(self) -> dict[str, Any]:
        """The fields that change results, for the run's hash."""
        return self.model_dump(mode="json", exclude={"checkpoints", "loader_workers"})

    def stage_at(self, epoch: int) -> tuple[Stage, int]:
        """The stage of `epoch` (from 0), and its first epoch."""
        return _spanning(self.stages, epoch)

    def head_weights(self, epoch: int) -> dict[HeadName, float]:
        """Weight of each head's loss in `epoch` (from 0)."""
        stage, _ = self.stage_at(epoch)
        return {name: stage.head_weights.get(name, head.weight) for name, head in self.heads.items()}

    def lesson_at(self, epoch: int) -> tuple[Lesson, int]:
        """The curriculum's lesson of `epoch` (from 0), and its first epoch."""
        return _spanning(self.curriculum, epoch)


Span = TypeVar("Span", Stage, Lesson)


def _spanning(spans: Sequence[Span], epoch: int) -> tuple[Span, int]:
    first = 0
    for span in spans:
        if epoch < first + span.epochs:
            return span, first
        first += span.epochs
    raise IndexError(f"epoch {epoch} of {first}")


def load_recipe(path: str | Path, overlay: str | Path | None = None) -> Recipe:
    """Read a recipe; fields of `overlay`, a file with one mapping per phase, replace the recipe's.

    Raises PipelineError naming file and key.
    """
    for file in (path, overlay):
        if file is not None and not Path(file).exists():
            raise PipelineError(
                f"the recipe file {file} does not exist; those of `training.decoders` and `training.overlay`, by "
                "default recipes/phase10.yaml and so on, count from the folder of the settings file"
            )
    content = read_yaml(Path(path))
    source = str(path)
    if overlay is not None:
        layers = read_yaml(Path(overlay))
        unknown = set(layers) - {"phase10", "phase11", "phase12", "scratch"}
        if unknown:
            raise PipelineError(f"{overlay}: unknown key `{sorted(unknown)[0]}`; an overlay has one mapping per phase")
        layer = layers.get(str(content.get("phase")))
        if layer is not None and not isinstance(layer, dict):
            raise PipelineError(f"{overlay}: `{content['phase']}` must hold a recipe's fields, not {layer!r}")
        if layer is not None:
            content, source = _laid_over(content, layer), f"{path} with {overlay}"
    return parse_model(Recipe, content, source)


def _laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Mappings are merged key by key; everything else is replaced."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _laid_over(merged[key], value) if both else value
    return merged
